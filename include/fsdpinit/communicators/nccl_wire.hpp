#pragma once

#include <fsdpinit/communicators/message_engine.hpp>
#include <fsdpinit/communicators/nccl_api.hpp>
#include <fsdpinit/communicators/nccl_connection.hpp>
#include <fsdpinit/communicators/nccl_ring.hpp>
#include <fsdpinit/concepts/communicator.hpp>
#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/core/deadline.hpp>
#include <fsdpinit/core/error.hpp>
#include <fsdpinit/memory/block.hpp>
#include <fsdpinit/memory/cuda_api.hpp>
#include <fsdpinit/memory/cuda_memory.hpp>
#include <fsdpinit/memory/cuda_stream.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <optional>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

namespace fsdpinit::detail {

/// How payload travels over NCCL: straight where it lies on the device, piece by piece through a ring of device memory where it lies on
/// the host. Pieces are of the same size on all ranks, wherever the payload lies on each. Broadcasts and all-gathers of all ranks are
/// NCCL's own; groups, which have no communicator of their own, send and receive.
template <class Nccl, CudaApi Cuda, AlertingControl Host>
class nccl_wire {
  struct message {
    int peer = 0;
    std::byte* data = nullptr;  // only read where it is sent
    std::uint64_t size = 0;
    std::size_t place = 0;  // in the buffers of the ring
    bool there = false;     // on the device
    bool repeated = false;  // what is sent to the peer before it too
  };

 public:
  struct operation {
    explicit operation(const Cuda& cuda, int device) : done(cuda, device) {}
    basic_cuda_event<Cuda> done;
    std::vector<message> sends;
    std::vector<message> receives;
    std::size_t taken = 0;    // places in a buffer
    std::uint64_t piece = 0;  // of a message
    std::string_view what;
    bool in_use = false;
    bool dead = false;   // it was never started, as the attempt is over
    bool alone = false;  // it waits for nobody
  };

  /// Not connected yet, and without a ring. `host` outlives it.
  nccl_wire(Host& host, int device, Nccl nccl, const Cuda& cuda, double deadline_seconds)
      : cuda_(cuda),
        device_(device),
        rank_(host.rank()),
        size_(host.size()),
        connection_(host, device, std::move(nccl), cuda, deadline_seconds) {}
  nccl_wire(const nccl_wire&) = delete;
  nccl_wire& operator=(const nccl_wire&) = delete;
  ~nccl_wire() {
    if (is_pending()) {
      end();
    } else if (ring_) {
      ring_->settle();
    }
  }

  /// \throws error{device}, error{out_of_memory}
  void make_ring(std::size_t buffers, std::uint64_t bytes) { ring_.emplace(device_, cuda_, buffers, bytes); }

  [[nodiscard]] std::size_t rank() const noexcept { return rank_; }
  [[nodiscard]] std::size_t size() const noexcept { return size_; }
  [[nodiscard]] nccl_connection<Nccl, Cuda, Host>& connection() noexcept { return connection_; }
  [[nodiscard]] const nccl_connection<Nccl, Cuda, Host>& connection() const noexcept { return connection_; }

  template <class Fn>
  auto guarded(Fn&& fn) {
    return fn();
  }

  [[nodiscard]] operation& begin(const message_load& load) {
    operation& made = free_operation(operations_, cuda_, device_);
    made.sends.clear();
    made.sends.reserve(load.sends);
    made.receives.clear();
    made.receives.reserve(load.receives);
    made.taken = 0;
    made.piece = align_down(ring_->buffer_bytes() / load.places, least_nccl_piece_bytes / 2);
    made.what = load.what;
    made.alone = load.sends + load.receives == 0;
    made.dead = !connection_.open();
    made.in_use = true;
    return made;
  }
  void send(operation& which, std::size_t peer, bytes_view payload) {
    if (payload.empty()) {
      return;
    }
    const bool repeated =
        !which.sends.empty() && which.sends.back().data == payload.data() && which.sends.back().size == payload.size();
    which.sends.push_back({.peer = static_cast<int>(peer),
                           .data = const_cast<std::byte*>(payload.data()),
                           .size = payload.size(),
                           .place = repeated ? which.sends.back().place : which.taken++,
                           .there = cuda_.on_device(payload.data()),
                           .repeated = repeated});
  }
  void receive(operation& which, std::size_t peer, mutable_bytes into) {
    if (!into.empty()) {
      which.receives.push_back({.peer = static_cast<int>(peer),
                                .data = into.data(),
                                .size = into.size(),
                                .place = which.taken++,
                                .there = cuda_.on_device(into.data())});
    }
  }
  /// Returns once all is on the streams.
  void go(operation& which) {
    start(which, [&] { move(which); });
  }
  void copy(operation& which, std::byte* to, bytes_view from) {
    start(which, [&] { ring_->copy_out({to, from.size()}, from.data()); });
  }
  void wait(operation& which, deadline limit) {
    which.in_use = false;
    if (which.dead || !connection_.open()) {
      throw over();
    }
    ending([&] {
      if (which.alone && connection_.host().interrupted()) {  // it must not miss that the others have stopped
        throw over();
      }
      poll_interval interval;
      while (!which.done.has_come()) {
        connection_.watch(limit);
        interval.wait();
      }
    });
  }
  /// After a failure nothing is under way any more.
  void abandon(operation& which, deadline /*limit*/) noexcept { which.in_use = false; }

  [[nodiscard]] operation* broadcast(mutable_bytes buffer, std::size_t root, std::span<const std::size_t> group) {
    if (group.size() != size_) {
      return nullptr;
    }
    operation& made = begin({.sends = size_ - 1});
    start(made, [&] { broadcast_to_all(buffer, root); });
    return &made;
  }
  [[nodiscard]] operation* all_gather(bytes_view own, mutable_bytes all, std::span<const std::size_t> group) {
    if (group.size() != size_) {
      return nullptr;
    }
    operation& made = begin({.sends = size_ - 1});
    start(made, [&] { gather_from_all(own, all); });
    return &made;
  }

  // Of reductions: from pinned memory, which the first one takes, and of which each of two rounds in flight has a half.
  [[nodiscard]] std::uint64_t round_bytes(std::size_t ranks) const noexcept {
    return align_down(terms_bytes(ranks) / (2 * ranks), least_nccl_piece_bytes / 2);
  }
  [[nodiscard]] float* staging(std::uint64_t /*numbers*/) {
    if (!terms_) {
      ending([&] { terms_.emplace(basic_pinned_memory<Cuda>(ring_->memory().staging()), terms_bytes(size_)); });
    }
    return reinterpret_cast<float*>(terms_->data());
  }

  [[nodiscard]] bool is_pending() const noexcept {
    return std::any_of(operations_.begin(), operations_.end(),
                       [](const operation& each) { return each.in_use && !each.dead; });
  }
  /// What is under way ends, done or not.
  void end() noexcept {
    connection_.close();
    ring_->settle();
  }

 private:
  static constexpr std::uint64_t usual_terms_bytes = 8 * mib;

  [[nodiscard]] std::uint64_t terms_bytes(std::size_t ranks) const noexcept {
    const std::uint64_t least = ranks * least_nccl_piece_bytes;
    return smaller(ring_->buffer_bytes(), least < usual_terms_bytes ? usual_terms_bytes : least);
  }

  static error over() {
    if constexpr (InterruptibleCommunicator<Host>) {
      return {errc::interrupted, "", "interrupted by the failure of another rank"};
    } else {
      return {errc::peer_lost, "NCCL", "the communicator has ended with an earlier failure; start the job again"};
    }
  }
  template <class Fn>
  void ending(Fn&& fn) {
    try {
      fn();
    } catch (...) {
      end();
      throw;
    }
  }
  /// Where `fn` throws the operation is gone; an interruption is one that `wait` throws.
  template <class Fn>
  void start(operation& which, Fn&& fn) {
    if (which.dead) {
      return;
    }
    which.in_use = false;
    try {
      ending([&] {
        fn();
        which.done.record(ring_->out());
      });
    } catch (const error& failure) {
      if (failure.code() != errc::interrupted) {
        throw;
      }
      which.dead = true;
    }
    which.in_use = true;
  }

  /// Its messages, in turns of the ring.
  void move(operation& which) {
    std::uint64_t longest = 0;
    for (const auto* const messages : {&which.sends, &which.receives}) {
      for (const message& each : *messages) {
        longest = longest < each.size ? each.size : longest;
      }
    }
    const std::uint64_t pitch = smaller(which.piece, longest);
    for (std::uint64_t at = 0; at < longest; at += pitch) {
      const auto bytes = [&](const message& each) { return at < each.size ? smaller(pitch, each.size - at) : 0; };
      const auto memory = [&](const message& each, std::byte* staging) {
        return each.there ? each.data + at : staging + each.place * pitch;
      };
      ring_->turn(
          [&](std::byte* staging) {
            for (const message& each : which.sends) {
              if (bytes(each) != 0 && !each.there && !each.repeated) {
                ring_->copy_in(memory(each, staging), {each.data + at, bytes(each)});
              }
            }
          },
          [&](std::byte* staging) {
            const std::string_view what = which.receives.empty() ? "send"
                                          : which.sends.empty()  ? "receive"
                                                                 : which.what;
            connection_.issue(what, [&](Nccl& nccl, typename Nccl::comm comm) {
              int code = Nccl::success;
              for (const message& each : which.sends) {
                if (bytes(each) != 0 && connection_.is_accepted(code)) {
                  code = nccl.send(memory(each, staging), bytes(each), each.peer, comm, ring_->exchange());
                }
              }
              for (const message& each : which.receives) {
                if (bytes(each) != 0 && connection_.is_accepted(code)) {
                  code = nccl.receive(memory(each, staging), bytes(each), each.peer, comm, ring_->exchange());
                }
              }
              return code;
            });
          },
          [&](std::byte* staging) {
            for (const message& each : which.receives) {
              if (bytes(each) != 0 && !each.there) {
                ring_->copy_out({each.data + at, bytes(each)}, memory(each, staging));
              }
            }
          });
    }
  }

  void broadcast_to_all(mutable_bytes buffer, std::size_t root) {
    const std::uint64_t bytes = ring_->piece_for(1);
    const bool there = cuda_.on_device(buffer.data());
    for (std::uint64_t at = 0; at < buffer.size(); at += bytes) {
      const mutable_bytes part = buffer.subspan(at, smaller(bytes, buffer.size() - at));
      const bool is_root = rank_ == root;
      ring_->turn(
          [&](std::byte* staging) {
            if (!there && is_root) {
              ring_->copy_in(staging, part);
            }
          },
          [&](std::byte* staging) {
            std::byte* const memory = there ? part.data() : staging;
            connection_.issue("broadcast", [&](Nccl& nccl, typename Nccl::comm comm) {
              return nccl.broadcast(memory, memory, part.size(), static_cast<int>(root), comm, ring_->exchange());
            });
          },
          [&](std::byte* staging) {
            if (!there && !is_root) {
              ring_->copy_out(part, staging);
            }
          });
    }
  }

  /// By NCCL's own all-gather: at once and in place where the parts fit into a buffer of the ring and `all` lies on the device, which
  /// another rank's may not; larger ones piece by piece through the ring, as the pieces of all ranks come out side by side.
  void gather_from_all(bytes_view own, mutable_bytes all) {
    const std::uint64_t bytes = ring_->piece_for(size_);
    const bool own_there = cuda_.on_device(own.data());
    const bool all_there = cuda_.on_device(all.data());
    const bool in_place = all_there && own.size() <= bytes;
    for (std::uint64_t at = 0; at < own.size(); at += bytes) {
      const bytes_view part = own.subspan(at, smaller(bytes, own.size() - at));
      const auto place = [&](std::size_t rank) { return all.data() + rank * own.size() + at; };
      ring_->turn(
          [&](std::byte* staging) {
            if (!own_there) {
              ring_->copy_in(staging + rank_ * part.size(), part);
            }
          },
          [&](std::byte* staging) {
            const std::byte* const from = own_there ? part.data() : staging + rank_ * part.size();
            connection_.issue("gather", [&](Nccl& nccl, typename Nccl::comm comm) {
              return nccl.all_gather(from, in_place ? all.data() : staging, part.size(), comm, ring_->exchange());
            });
          },
          [&](std::byte* staging) {
            for (std::size_t rank = 0; rank < size_ && !in_place; ++rank) {
              const bool was_here = rank == rank_ && !own_there && !all_there;
              ring_->copy_out({place(rank), part.size()}, was_here ? part.data() : staging + rank * part.size());
            }
          });
    }
  }

  Cuda cuda_;
  int device_;
  std::size_t rank_;
  std::size_t size_;
  std::optional<nccl_ring<Cuda>> ring_;
  std::optional<block<basic_pinned_memory<Cuda>>> terms_;  // from the first reduction on
  std::deque<operation> operations_;
  nccl_connection<Nccl, Cuda, Host> connection_;
};

}  // namespace fsdpinit::detail
