#pragma once

#include <fsdpinit/adapters/c10d_errors.hpp>
#include <fsdpinit/adapters/torch_first.hpp>
#include <fsdpinit/communicators/ordered_sum.hpp>
#include <fsdpinit/communicators/rank_group.hpp>
#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/core/deadline.hpp>
#include <fsdpinit/core/error.hpp>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
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

/// One rank of a process group that moves host memory (Gloo, MPI), which goes through it as bytes: Gloo knows neither bfloat16 nor
/// bool. Data and control channel in one; with a `c10d_store_control` as the other, agreement goes on where the group is broken.
/// Used by one thread at a time.
///
/// Scatters, and operations among some of the ranks, are messages, for c10d scatters parts of one size only. Operations cannot be
/// interrupted: a rank that fails goes through the motions of what is left up to the next agreement, 64 buckets at most.
///
/// A rank that does not come within the deadline (native_code() ETIMEDOUT), or whose connection is closed, is error{peer_lost}; c10d's
/// group is broken then on every rank, may go on using the buffers it was given, and has to be made anew.
template <C10dProcessGroup Group>
class c10d_communicator {
  struct operation_record {
    std::vector<c10::intrusive_ptr<c10d::Work>> works;
    bool in_use = false;
  };

 public:
  using token = operation_record*;

  /// `group` outlives it, and is not used otherwise while an operation is under way.
  explicit c10d_communicator(Group& group)
      : group_(group), everyone_(detail::all_ranks(static_cast<std::size_t>(group.getSize()))) {}
  c10d_communicator(const c10d_communicator&) = delete;
  c10d_communicator& operator=(const c10d_communicator&) = delete;

  [[nodiscard]] std::size_t rank() const noexcept { return static_cast<std::size_t>(group_.getRank()); }
  [[nodiscard]] std::size_t size() const noexcept { return everyone_.size(); }

  // -- data ------------------------------------------------------------------------------------------------------------------

  token start_broadcast(mutable_bytes buffer, std::size_t root) { return start_broadcast(bytes_tensor(buffer), root); }
  token start_broadcast(mutable_bytes buffer, std::size_t root, std::span<const std::size_t> group) {
    detail::check_group(group, rank(), root, size());
    if (group.size() == size()) {
      return start_broadcast(buffer, root);
    }
    return started([&](operation_record& made) {
      if (rank() != root) {
        receive(made, buffer, root);
        return;
      }
      for (const std::size_t peer : group) {
        send(made, buffer, peer);
      }
    });
  }
  token start_scatter(std::span<const bytes_view> windows, mutable_bytes own, std::size_t root) {
    return start_scatter(windows, own, root, everyone_);
  }
  token start_scatter(std::span<const bytes_view> windows, mutable_bytes own, std::size_t root,
                      std::span<const std::size_t> group) {
    detail::check_group(group, rank(), root, size());
    return started([&](operation_record& made) {
      if (rank() != root) {
        receive(made, own, root);
        return;
      }
      for (const std::size_t peer : group) {
        send(made, windows[peer], peer);
      }
    });
  }
  void wait(token& operation, deadline limit) {
    if (operation_record* const which = std::exchange(operation, nullptr)) {
      which->in_use = false;
      std::vector<c10::intrusive_ptr<c10d::Work>> works = std::exchange(which->works, {});
      require_whole_group();
      for (const auto& work : works) {
        await(*work, limit);
      }
      works.clear();
      which->works = std::move(works);  // its capacity
    }
  }

  /// By messages, from each rank of the group to each. After error{peer_lost} `own` and `all` may still be read and written to.
  void all_gather(bytes_view own, mutable_bytes all, deadline limit = deadline::never()) {
    all_gather(own, all, everyone_, limit);
  }
  void all_gather(bytes_view own, mutable_bytes all, std::span<const std::size_t> group,
                  deadline limit = deadline::never()) {
    detail::check_parts(own.size(), all.size(), group.size(), "bytes");
    detail::check_group(group, rank(), rank(), size());
    token operation = started([&](operation_record& made) {
      for (std::size_t i = 0; i < group.size(); ++i) {
        const mutable_bytes part{all.data() + i * own.size(), own.size()};
        if (group[i] == rank()) {
          if (!own.empty() && own.data() != part.data()) {
            std::memcpy(part.data(), own.data(), own.size());
          }
        } else {
          receive(made, part, group[i]);
          send(made, own, group[i]);
        }
      }
    });
    wait(operation, limit);
  }

  /// By messages, in rounds. Stages what it receives in at most 2 MiB (in groups of more than 512 ranks: 4 KiB for each), not in any
  /// account, which it keeps for the next time. After error{peer_lost} `contribution` may still be read.
  void reduce_scatter(std::span<const float> contribution, std::span<float> own, deadline limit = deadline::never()) {
    reduce_scatter(contribution, own, everyone_, limit);
  }
  void reduce_scatter(std::span<const float> contribution, std::span<float> own, std::span<const std::size_t> group,
                      deadline limit = deadline::never()) {
    detail::check_parts(own.size(), contribution.size(), group.size(), "numbers");
    detail::check_group(group, rank(), rank(), size());
    const std::size_t self = detail::index_in(group, rank());
    const std::uint64_t piece = std::max(most_staged_bytes / group.size(), least_piece_bytes) / sizeof(float);
    staging_.resize(std::max<std::size_t>(staging_.size(), group.size() * smaller(piece, own.size())));
    next_place();
    for (std::uint64_t begin = 0; begin < own.size(); begin += piece) {
      const std::uint64_t count = smaller(piece, own.size() - begin);
      const auto part = [&](std::size_t of) { return contribution.data() + of * own.size() + begin; };
      const auto staged = [&](std::size_t from) { return staging_.data() + from * count; };
      token operation = started_here([&](operation_record& made) {
        for (std::size_t i = 0; i < group.size(); ++i) {
          if (i != self) {
            receive(made, std::as_writable_bytes(std::span(staged(i), count)), group[i]);
            send(made, std::as_bytes(std::span(part(i), count)), group[i]);
          }
        }
      });
      wait(operation, limit);
      detail::ordered_sum({own.data() + begin, count}, group.size(),
                          [&](std::size_t k) -> const float* { return k == self ? part(self) : staged(k); });
    }
  }

  /// A peer was lost; c10d may still read and write the buffers of operations that were in flight.
  [[nodiscard]] bool poisoned() const noexcept { return broken_; }

  // -- control ---------------------------------------------------------------------------------------------------------------

  void broadcast(mutable_bytes buffer, std::size_t root, deadline limit = deadline::never()) {
    // Through memory of its own: c10d keeps a buffer for which a deadline has passed.
    for (std::uint64_t at = 0; at < buffer.size(); at += control_bytes) {
      const mutable_bytes piece = buffer.subspan(at, smaller(control_bytes, buffer.size() - at));
      const at::Tensor own = control_.narrow(0, 0, static_cast<std::int64_t>(piece.size()));
      if (rank() == root) {
        std::memcpy(own.data_ptr(), piece.data(), piece.size());
      }
      token operation = start_broadcast(own, root);
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
    token operation = started([&](operation_record& made) {
      c10d::AllreduceOptions how;
      how.reduceOp = c10d::ReduceOp::MAX;
      std::vector<at::Tensor> tensors{number};
      made.works.push_back(group_.allreduce(tensors, how));
    });
    wait(operation, limit);
    return static_cast<std::uint64_t>(*number.data_ptr<std::int64_t>()) ^ sign_bit;
  }

 private:
  static constexpr std::uint64_t control_bytes = 64 * kib;
  static constexpr std::uint64_t most_staged_bytes = 2 * mib;
  static constexpr std::uint64_t least_piece_bytes = 4 * kib;

  /// Of all ranks. The operation holds on to the tensor.
  token start_broadcast(const at::Tensor& bytes, std::size_t root) {
    return started([&](operation_record& made) {
      if (bytes.numel() != 0 && size() > 1) {
        c10d::BroadcastOptions how;
        how.rootRank = static_cast<std::int64_t>(root);
        std::vector<at::Tensor> tensors{bytes};
        made.works.push_back(group_.broadcast(tensors, how));
      }
    });
  }
  [[nodiscard]] static at::Tensor bytes_tensor(bytes_view bytes) {
    // libtorch has no tensors of constant memory; what is sent is only read.
    return at::from_blob(const_cast<std::byte*>(bytes.data()), {static_cast<std::int64_t>(bytes.size())}, at::kByte);
  }
  void send(operation_record& made, bytes_view bytes, std::size_t peer) {
    if (!bytes.empty() && peer != rank()) {
      std::vector<at::Tensor> tensors{bytes_tensor(bytes)};
      made.works.push_back(group_.send(tensors, static_cast<int>(peer), place_));
    }
  }
  void receive(operation_record& made, mutable_bytes bytes, std::size_t peer) {
    if (!bytes.empty()) {
      std::vector<at::Tensor> tensors{bytes_tensor(bytes)};
      made.works.push_back(group_.recv(tensors, static_cast<int>(peer), place_));
    }
  }

  /// Messages of an operation carry its place in the order of operations, which is equal on all ranks.
  void next_place() noexcept { place_ = (place_ + 1) & 0x7fffffff; }
  template <class Start>
  token started(Start&& start) {
    next_place();
    return started_here(start);
  }
  /// Another one at the same place: between two ranks messages of one place come in the order in which they were sent.
  template <class Start>
  token started_here(Start&& start) {
    require_whole_group();
    operation_record& made = free_operation();
    made.in_use = true;
    breaking([&] {
      detail::translating_c10d(errc::communication, errc::peer_lost, "cannot start an operation",
                               "is this a group of living ranks that moves host memory, such as Gloo's?",
                               [&] { start(made); });
    });
    return &made;
  }
  operation_record& free_operation() {
    for (const auto& each : operations_) {
      if (!each->in_use) {
        return *each;
      }
    }
    return *operations_.emplace_back(std::make_unique<operation_record>());
  }
  void await(c10d::Work& work, deadline limit) {
    breaking([&] {
      try {
        detail::translating_c10d(
            errc::peer_lost, errc::peer_lost, "an operation did not come to an end",
            "look at what the other ranks do, or raise deadline_seconds; this group cannot be used any more",
            [&] { work.wait(detail::milliseconds_left(limit)); });
      } catch (const error& caught) {
        if (!limit.passed()) {
          throw;
        }
        throw error(caught.code(), caught.subject(), caught.text(), {.native_code = ETIMEDOUT});
      }
    });
  }
  /// After a failure the ranks are out of step, and c10d has closed connections.
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
  std::vector<std::size_t> everyone_;
  std::vector<std::unique_ptr<operation_record>> operations_;  // as many as were ever in flight: a handful
  at::Tensor control_ = at::empty({static_cast<std::int64_t>(control_bytes)}, at::kByte);
  std::vector<float> staging_;  // of reductions: kept, the next one needs it too
  int place_ = 0;
  bool broken_ = false;
};

}  // namespace fsdpinit
