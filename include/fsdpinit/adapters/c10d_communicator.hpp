#pragma once

#include <fsdpinit/adapters/c10d_errors.hpp>
#include <fsdpinit/adapters/torch_first.hpp>
#include <fsdpinit/communicators/message_communicator.hpp>
#include <fsdpinit/communicators/message_engine.hpp>
#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/core/deadline.hpp>
#include <fsdpinit/core/error.hpp>

#include <cerrno>
#include <chrono>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <deque>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include <ATen/Functions.h>

#include <torch/csrc/distributed/c10d/Types.hpp>
#include <torch/csrc/distributed/c10d/Work.hpp>

namespace fsdpinit {

/// A process group of c10d, by what it does: in libtorch 1.13 its groups derive from ProcessGroup, in 2.x from Backend, and both
/// classes have these.
template <class G>
concept C10dProcessGroup = requires(G& group, const G& constant, std::vector<at::Tensor>& tensors, int peer,
                                    const c10d::BroadcastOptions& broadcast, const c10d::AllreduceOptions& reduce) {
  { constant.getRank() } -> std::convertible_to<int>;
  { constant.getSize() } -> std::convertible_to<int>;
  { group.broadcast(tensors, broadcast) } -> std::convertible_to<c10::intrusive_ptr<c10d::Work>>;
  { group.allreduce(tensors, reduce) } -> std::convertible_to<c10::intrusive_ptr<c10d::Work>>;
  { group.send(tensors, peer, peer) } -> std::convertible_to<c10::intrusive_ptr<c10d::Work>>;
  { group.recv(tensors, peer, peer) } -> std::convertible_to<c10::intrusive_ptr<c10d::Work>>;
};

namespace detail {

/// How payload travels through a process group: as tensors of bytes, broadcasts of all ranks by its own broadcast.
template <C10dProcessGroup Group>
class c10d_wire {
 public:
  struct operation {
    std::vector<c10::intrusive_ptr<c10d::Work>> works;
    bool in_use = false;
  };

  explicit c10d_wire(Group& group) noexcept : group_(group) {}

  [[nodiscard]] std::size_t rank() const noexcept { return static_cast<std::size_t>(group_.getRank()); }
  [[nodiscard]] std::size_t size() const noexcept { return static_cast<std::size_t>(group_.getSize()); }
  /// A peer was lost: the ranks are out of step, and c10d has closed connections.
  [[nodiscard]] bool broken() const noexcept { return broken_; }

  template <class Fn>
  auto guarded(Fn&& fn) {
    return fn();
  }

  /// Messages of an operation carry its place in the order of operations, which is equal on all ranks. Between two ranks those of one
  /// place come in the order in which they were sent.
  [[nodiscard]] operation& begin(const message_load& load) {
    if (load.round <= 1) {
      place_ = (place_ + 1) & 0x7fffffff;
    }
    require_whole_group();
    operation& made = free_operation(operations_);
    made.in_use = true;
    return made;
  }
  void send(operation& which, std::size_t peer, bytes_view bytes) {
    if (!bytes.empty()) {
      add(which, bytes_tensor(bytes),
          [&](std::vector<at::Tensor>& tensors) { return group_.send(tensors, static_cast<int>(peer), place_); });
    }
  }
  void receive(operation& which, std::size_t peer, mutable_bytes bytes) {
    if (!bytes.empty()) {
      add(which, bytes_tensor(bytes),
          [&](std::vector<at::Tensor>& tensors) { return group_.recv(tensors, static_cast<int>(peer), place_); });
    }
  }
  void go(operation& /*which*/) noexcept {}
  void copy(operation& /*which*/, std::byte* to, bytes_view from) noexcept {
    std::memcpy(to, from.data(), from.size());
  }
  void wait(operation& which, deadline limit) {
    std::vector<c10::intrusive_ptr<c10d::Work>> works = std::exchange(which.works, {});
    which.in_use = false;
    require_whole_group();
    for (const auto& work : works) {
      await(*work, limit);
    }
    works.clear();
    which.works = std::move(works);  // its capacity
  }
  void abandon(operation& which, deadline /*limit*/) noexcept {
    which.works.clear();
    which.in_use = false;
  }

  [[nodiscard]] operation* broadcast(mutable_bytes buffer, std::size_t root, std::span<const std::size_t> group) {
    return group.size() == size() ? broadcast(bytes_tensor(buffer), root) : nullptr;
  }
  /// Of all ranks. The operation holds on to the tensor.
  [[nodiscard]] operation* broadcast(const at::Tensor& bytes, std::size_t root) {
    operation& made = begin({});
    if (bytes.numel() != 0 && size() > 1) {
      c10d::BroadcastOptions how;
      how.rootRank = static_cast<std::int64_t>(root);
      add(made, bytes, [&](std::vector<at::Tensor>& tensors) { return group_.broadcast(tensors, how); });
    }
    return &made;
  }
  [[nodiscard]] operation* all_reduce_max(const at::Tensor& numbers) {
    operation& made = begin({});
    c10d::AllreduceOptions how;
    how.reduceOp = c10d::ReduceOp::MAX;
    add(made, numbers, [&](std::vector<at::Tensor>& tensors) { return group_.allreduce(tensors, how); });
    return &made;
  }

 private:
  [[nodiscard]] static at::Tensor bytes_tensor(bytes_view bytes) {
    // libtorch has no tensors of constant memory; what is sent is only read.
    return at::from_blob(const_cast<std::byte*>(bytes.data()), {static_cast<std::int64_t>(bytes.size())}, at::kByte);
  }
  template <class Start>
  void add(operation& which, const at::Tensor& bytes, Start&& start) {
    breaking([&] {
      translating_c10d(errc::communication, errc::peer_lost, "cannot start an operation",
                       "is this a group of living ranks that moves host memory, such as Gloo's?", [&] {
                         std::vector<at::Tensor> tensors{bytes};
                         which.works.push_back(start(tensors));
                       });
    });
  }
  void await(c10d::Work& work, deadline limit) {
    breaking([&] {
      try {
        translating_c10d(
            errc::peer_lost, errc::peer_lost, "an operation did not come to an end",
            "look at what the other ranks do, or raise deadline_seconds; this group cannot be used any more",
            [&] { work.wait(milliseconds_left(limit)); });
      } catch (const error& caught) {
        if (!limit.passed()) {
          throw;
        }
        throw error(caught.code(), caught.subject(), caught.text(), {.native_code = ETIMEDOUT});
      }
    });
  }
  template <class Fn>
  void breaking(Fn&& fn) {
    try {
      fn();
    } catch (...) {
      broken_ = true;
      throw;
    }
  }
  void require_whole_group() const {
    if (broken_) {
      throw error(errc::peer_lost, "c10d", "the process group is broken since a peer was lost; make a new one");
    }
  }

  Group& group_;
  std::deque<operation> operations_;
  int place_ = 0;
  bool broken_ = false;
};

}  // namespace detail

/// One rank of a process group that moves host memory (Gloo, MPI), which goes through it as bytes: Gloo knows neither bfloat16 nor
/// bool. Data and control channel in one; with a `c10d_store_control` as the other, agreement goes on where the group is broken.
/// Used by one thread at a time.
///
/// Scatters, and operations among some of the ranks, are messages, for c10d scatters parts of one size only; so are collectives.
/// Reductions go in rounds; what arrives is staged in at most 2 MiB (in groups of more than 256 ranks: 8 KiB for each), not in any
/// account, which is kept for the next time. Operations cannot be interrupted: a rank that fails goes through the motions of what is
/// left up to the next agreement, 64 buckets at most.
///
/// A rank that does not come within the deadline (native_code() ETIMEDOUT), or whose connection is closed, is error{peer_lost}; c10d's
/// group is broken then on every rank, may go on using the buffers it was given, and has to be made anew.
template <C10dProcessGroup Group>
class c10d_communicator : public message_communicator<detail::c10d_wire<Group>> {
  using base = message_communicator<detail::c10d_wire<Group>>;

 public:
  using base::rank;
  using base::wait;
  using typename base::token;

  /// `group` outlives it, and is not used otherwise while an operation is under way.
  explicit c10d_communicator(Group& group) : base(&engine_), wire_(group), engine_(wire_) {}
  c10d_communicator(const c10d_communicator&) = delete;
  c10d_communicator& operator=(const c10d_communicator&) = delete;

  /// A peer was lost; c10d may still read and write the buffers of operations that were in flight.
  [[nodiscard]] bool poisoned() const noexcept { return wire_.broken(); }

  // -- control ---------------------------------------------------------------------------------------------------------------

  void broadcast(mutable_bytes buffer, std::size_t root, deadline limit = deadline::never()) {
    // Through memory of its own: c10d keeps a buffer for which a deadline has passed.
    for (std::uint64_t at = 0; at < buffer.size(); at += control_bytes) {
      const mutable_bytes piece = buffer.subspan(at, smaller(control_bytes, buffer.size() - at));
      const at::Tensor own = control_.narrow(0, 0, static_cast<std::int64_t>(piece.size()));
      if (rank() == root) {
        std::memcpy(own.data_ptr(), piece.data(), piece.size());
      }
      token operation = wire_.broadcast(own, root);
      wait(operation, limit);
      if (rank() != root) {
        std::memcpy(piece.data(), own.data_ptr(), piece.size());
      }
    }
  }
  [[nodiscard]] std::uint64_t all_reduce_max(std::uint64_t value, deadline limit = deadline::never()) {
    constexpr std::uint64_t sign_bit = std::uint64_t{1} << 63U;  // c10d reduces signed numbers: in the same order
    at::Tensor number = at::empty({1}, at::kLong);
    *number.data_ptr<std::int64_t>() = static_cast<std::int64_t>(value ^ sign_bit);
    token operation = wire_.all_reduce_max(number);
    wait(operation, limit);
    return static_cast<std::uint64_t>(*number.data_ptr<std::int64_t>()) ^ sign_bit;
  }

 private:
  static constexpr std::uint64_t control_bytes = 64 * kib;

  detail::c10d_wire<Group> wire_;
  detail::message_engine<detail::c10d_wire<Group>> engine_;
  at::Tensor control_ = at::empty({static_cast<std::int64_t>(control_bytes)}, at::kByte);
};

}  // namespace fsdpinit
