#pragma once

#include <fsdpinit/communicators/nccl_api.hpp>
#include <fsdpinit/communicators/nccl_connection.hpp>
#include <fsdpinit/communicators/nccl_ring.hpp>
#include <fsdpinit/communicators/rank_group.hpp>
#include <fsdpinit/concepts/communicator.hpp>
#include <fsdpinit/concepts/memory_space.hpp>
#include <fsdpinit/control/agreement.hpp>
#include <fsdpinit/control/attempt.hpp>
#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/core/deadline.hpp>
#include <fsdpinit/core/error.hpp>
#include <fsdpinit/core/text.hpp>
#include <fsdpinit/memory/cuda_memory.hpp>
#include <fsdpinit/memory/cuda_stream.hpp>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

/// \file
/// Ranks with a GPU each: payload moves by NCCL, agreement and news of failures on the host.

namespace fsdpinit {

/// Must be equal on every rank.
struct nccl_options {
  /// Device memory through which payload in host memory passes, of each slot of the ring; in no account of the module's memory.
  std::uint64_t slot_bytes = 32 * mib;
  std::size_t slots = 2;
  /// How long ranks wait for each other to connect, and to begin an operation.
  double deadline_seconds = 600;
};

/// One rank of an NCCL communicator, over a host channel (MPI, threads) that connects the ranks, carries agreement, and tells of
/// failures: data and control channel in one. Used by one thread at a time; one rank per GPU, as NCCL has it.
///
/// Payload may lie on the device, from where it moves straight, or in host memory, pinned at best, from where it passes through a
/// ring of device buffers. What moves, moves in pieces of the same size on all ranks, wherever it lies on each.
///
/// A wait looks at the device, at NCCL and at the host channel in turns; it never blocks on the device. When a rank fails or is
/// late, the communicator is aborted on every rank, so that the buffers are the caller's again, and works again after `rearm()`
/// and `connect()`. It sums nothing: NCCL does not add in the order of ranks, as `ReduceScatterCommunicator` promises.
template <class Nccl, CudaApi Cuda, AlertingCommunicator Host>
  requires NcclApi<Nccl, Cuda>
class basic_nccl_communicator {
  struct operation_record {
    explicit operation_record(const Cuda& cuda, int device) : done(cuda, device) {}
    basic_cuda_event<Cuda> done;
    bool in_use = false;
    bool dead = false;   // it was never started, as the attempt is over
    bool alone = false;  // of a group of this rank only
  };

 public:
  using token = operation_record*;

  /// Collective: connects the ranks. `host` outlives it. \param device  this rank's GPU.
  /// \throws error{invalid_argument} for slots too small for so many ranks; error{communication}, error{device},
  /// error{out_of_memory}, error{peer_lost}: the same on every rank.
  basic_nccl_communicator(Host& host, int device, const nccl_options& how = {}, Nccl nccl = Nccl(), Cuda cuda = Cuda())
      : cuda_(cuda),
        device_(device),
        everyone_(detail::all_ranks(host.size())),
        connection_(host, device, std::move(nccl), cuda, how.deadline_seconds) {
    agreed(host, how.deadline_seconds, [&] {
      if (how.slots == 0 || how.slot_bytes / host.size() < least_piece_bytes) {
        throw error(errc::invalid_argument, "slot_bytes",
                    concat(how.slots, " slots of ", how.slot_bytes, " bytes for ", host.size(),
                           " ranks; give at least one, of ", least_piece_bytes, " bytes per rank"));
      }
      ring_.emplace(device, cuda, how.slots, how.slot_bytes);
    });
    try {
      connection_.connect();
    } catch (...) {
      host.rearm();
      throw;
    }
  }
  basic_nccl_communicator(const basic_nccl_communicator&) = delete;
  basic_nccl_communicator& operator=(const basic_nccl_communicator&) = delete;
  ~basic_nccl_communicator() {
    bool pending = false;
    for (const auto& each : operations_) {
      pending = pending || (each->in_use && !each->dead);
    }
    if (pending) {
      end();
    } else {
      ring_->settle();
    }
  }

  [[nodiscard]] std::size_t rank() const noexcept { return host().rank(); }
  [[nodiscard]] std::size_t size() const noexcept { return everyone_.size(); }
  [[nodiscard]] std::size_t node_of(std::size_t rank) const noexcept
    requires NodeAwareCommunicator<Host>
  {
    return host().node_of(rank);
  }

  /// After `rearm()`: collective, ends in an agreement. Nothing to do where the ranks are connected.
  void connect() { connection_.connect(); }

  // -- data ------------------------------------------------------------------------------------------------------------------

  token start_broadcast(mutable_bytes buffer, std::size_t root) { return start_broadcast(buffer, root, everyone_); }
  token start_broadcast(mutable_bytes buffer, std::size_t root, std::span<const std::size_t> group) {
    detail::check_group(group, rank(), root, size());
    return started(group, [&] { broadcast_pieces(buffer, root, group); });
  }
  token start_scatter(std::span<const bytes_view> windows, mutable_bytes own, std::size_t root) {
    return start_scatter(windows, own, root, everyone_);
  }
  token start_scatter(std::span<const bytes_view> windows, mutable_bytes own, std::size_t root,
                      std::span<const std::size_t> group) {
    detail::check_group(group, rank(), root, size());
    return started(group, [&] {
      if (rank() == root) {
        send_windows(windows, group);
      } else {
        receive(own, root, piece_of(size()));
      }
    });
  }
  /// After a throw the operation's buffers are the caller's again.
  void wait(token& operation, deadline limit) {
    if (operation_record* const which = std::exchange(operation, nullptr)) {
      which->in_use = false;
      if (which->dead || !connection_.open()) {
        throw over();
      }
      if (which->alone &&
          host().interrupted()) {  // it has nothing to wait for, and must not miss that the others have stopped
        end();
        throw over();
      }
      guarded([&] {
        detail::poll_interval interval;
        while (!which->done.has_come()) {
          connection_.watch(limit);
          interval.wait();
        }
      });
    }
  }

  /// Parts travel from each rank to each: what NVLink and NVSwitch are made for.
  void all_gather(bytes_view own, mutable_bytes all, deadline limit = deadline::never()) {
    all_gather(own, all, everyone_, limit);
  }
  void all_gather(bytes_view own, mutable_bytes all, std::span<const std::size_t> group,
                  deadline limit = deadline::never()) {
    detail::check_parts(own.size(), all.size(), group.size(), "bytes");
    detail::check_group(group, rank(), rank(), size());
    token operation = started(group, [&] { exchange_parts(own, all, group); });
    wait(operation, limit);
  }

  /// Ends what is under way on every rank.
  void interrupt() noexcept {
    host().interrupt();
    end();
  }
  /// Called once on every rank; `connect()` is next.
  void rearm() noexcept {
    end();
    host().rearm();
  }
  [[nodiscard]] bool interrupted() { return host().interrupted(); }

  // -- control: the host channel's ---------------------------------------------------------------------------------------------

  void broadcast(mutable_bytes buffer, std::size_t root, deadline limit = deadline::never()) {
    detail::broadcast(host(), buffer, root, limit);
  }
  [[nodiscard]] std::uint64_t all_reduce_max(std::uint64_t value, deadline limit = deadline::never()) {
    return detail::reduce_max(host(), value, limit);
  }
  [[nodiscard]] error fail(const error& cause)
    requires FailableControl<Host>
  {
    return host().fail(cause);
  }

 private:
  static constexpr std::uint64_t least_piece_bytes = 256;

  [[nodiscard]] Host& host() const noexcept { return connection_.host(); }
  static error over() { return {errc::interrupted, "", "interrupted by the failure of another rank"}; }

  void end() noexcept {
    connection_.close();
    ring_->settle();
  }
  /// After a failure nothing is under way any more.
  template <class Fn>
  void guarded(Fn&& fn) {
    try {
      fn();
    } catch (...) {
      end();
      throw;
    }
  }

  template <class Start>
  token started(std::span<const std::size_t> group, Start&& start) {
    operation_record& made = free_operation();
    made.alone = group.size() == 1;
    made.dead = !connection_.open();
    if (!made.dead) {
      try {
        guarded([&] {
          start();
          made.done.record(ring_->out());
        });
      } catch (const error& failure) {
        if (failure.code() != errc::interrupted) {
          throw;
        }
        made.dead = true;  // `wait` says so
      }
    }
    made.in_use = true;
    return &made;
  }
  operation_record& free_operation() {
    for (const auto& each : operations_) {
      if (!each->in_use) {
        return *each;
      }
    }
    return *operations_.emplace_back(std::make_unique<operation_record>(cuda_, device_));
  }

  /// How much of a payload moves at a time where a slot is shared by so many ranks.
  [[nodiscard]] std::uint64_t piece_of(std::size_t ranks) const noexcept {
    return align_down(ring_->slot_bytes() / ranks, least_piece_bytes);
  }
  void copy_in(void* to, bytes_view from) {
    detail::require_cuda(cuda_, cuda_.copy_to_device(to, from.data(), from.size(), ring_->in()), "copy to the device");
  }
  void copy_out(mutable_bytes to, const void* from) {
    detail::require_cuda(cuda_, cuda_.copy_to_host(to.data(), from, to.size(), ring_->out()), "copy from the device");
  }
  [[nodiscard]] static bytes_view piece(bytes_view whole, std::uint64_t at, std::uint64_t bytes) noexcept {
    return at >= whole.size() ? bytes_view{} : whole.subspan(at, smaller(bytes, whole.size() - at));
  }

  void broadcast_pieces(mutable_bytes buffer, std::size_t root, std::span<const std::size_t> group) {
    const std::uint64_t bytes = piece_of(1);
    if (group.size() != size()) {  // a group has no communicator of its own
      if (rank() != root) {
        receive(buffer, root, bytes);
      } else if (group.size() > 1) {
        send_whole(buffer, group);
      }
      return;
    }
    const bool there = cuda_.on_device(buffer.data());
    for (std::uint64_t at = 0; at < buffer.size(); at += bytes) {
      const mutable_bytes part = buffer.subspan(at, smaller(bytes, buffer.size() - at));
      const bool is_root = rank() == root;
      ring_->turn(
          [&](std::byte* slot) {
            if (!there && is_root) {
              copy_in(slot, part);
            }
          },
          [&](std::byte* slot) {
            std::byte* const memory = there ? part.data() : slot;
            connection_.issue("broadcast", [&](Nccl& nccl, typename Nccl::comm comm) {
              return nccl.broadcast(memory, memory, part.size(), static_cast<int>(root), comm, ring_->exchange());
            });
          },
          [&](std::byte* slot) {
            if (!there && !is_root) {
              copy_out(part, slot);
            }
          });
    }
  }

  void receive(mutable_bytes own, std::size_t root, std::uint64_t bytes) {
    const bool there = cuda_.on_device(own.data());
    for (std::uint64_t at = 0; at < own.size(); at += bytes) {
      const mutable_bytes part = own.subspan(at, smaller(bytes, own.size() - at));
      ring_->turn([](std::byte*) {},
                  [&](std::byte* slot) {
                    connection_.issue("receive", [&](Nccl& nccl, typename Nccl::comm comm) {
                      return nccl.receive(there ? part.data() : slot, part.size(), static_cast<int>(root), comm,
                                          ring_->exchange());
                    });
                  },
                  [&](std::byte* slot) {
                    if (!there) {
                      copy_out(part, slot);
                    }
                  });
    }
  }

  /// The same to every other rank of the group.
  void send_whole(bytes_view payload, std::span<const std::size_t> group) {
    const std::uint64_t bytes = piece_of(1);
    const bool there = cuda_.on_device(payload.data());
    for (std::uint64_t at = 0; at < payload.size(); at += bytes) {
      const bytes_view part = piece(payload, at, bytes);
      ring_->turn(
          [&](std::byte* slot) {
            if (!there) {
              copy_in(slot, part);
            }
          },
          [&](std::byte* slot) {
            send_to(group, [&](std::size_t) { return bytes_view(there ? part.data() : slot, part.size()); });
          },
          [](std::byte*) {});
    }
  }

  /// To every other rank of the group what is its own.
  void send_windows(std::span<const bytes_view> windows, std::span<const std::size_t> group) {
    const std::uint64_t bytes = piece_of(size());
    std::uint64_t longest = 0;
    for (const std::size_t other : group) {
      longest = other != rank() && windows[other].size() > longest ? windows[other].size() : longest;
    }
    for (std::uint64_t at = 0; at < longest; at += bytes) {
      ring_->turn(
          [&](std::byte* slot) {
            for (const std::size_t other : group) {
              const bytes_view part = piece(windows[other], at, bytes);
              if (other != rank() && !part.empty() && !cuda_.on_device(part.data())) {
                copy_in(slot + other * bytes, part);
              }
            }
          },
          [&](std::byte* slot) {
            send_to(group, [&](std::size_t other) {
              const bytes_view part = piece(windows[other], at, bytes);
              const bool there = part.empty() || cuda_.on_device(part.data());
              return bytes_view(there ? part.data() : slot + other * bytes, part.size());
            });
          },
          [](std::byte*) {});
    }
  }

  /// `payload(rank)`, on the device, to every other rank of the group, unless it is empty.
  template <class Payload>
  void send_to(std::span<const std::size_t> group, Payload&& payload) {
    connection_.issue("send", [&](Nccl& nccl, typename Nccl::comm comm) {
      int code = Nccl::success;
      for (const std::size_t other : group) {
        const bytes_view part = other == rank() ? bytes_view{} : payload(other);
        if (!part.empty() && connection_.is_accepted(code)) {
          code = nccl.send(part.data(), part.size(), static_cast<int>(other), comm, ring_->exchange());
        }
      }
      return code;
    });
  }

  /// From each rank of the group to each: its part to its place in `all`.
  void exchange_parts(bytes_view own, mutable_bytes all, std::span<const std::size_t> group) {
    const std::uint64_t bytes = piece_of(size());
    const std::size_t mine = detail::index_in(group, rank());
    const bool own_there = cuda_.on_device(own.data());
    const bool all_there = cuda_.on_device(all.data());
    for (std::uint64_t at = 0; at < own.size(); at += bytes) {
      const bytes_view part = piece(own, at, bytes);
      const auto place = [&](std::size_t index) { return all.data() + index * own.size() + at; };
      ring_->turn(
          [&](std::byte* slot) {
            if (!own_there) {
              copy_in(slot + mine * bytes, part);
            }
          },
          [&](std::byte* slot) {
            const std::byte* const out = own_there ? part.data() : slot + mine * bytes;
            if (all_there && out != place(mine)) {
              detail::require_cuda(cuda_, cuda_.copy_on_device(place(mine), out, part.size(), ring_->exchange()),
                                   "copy on the device");
            }
            connection_.issue("gather", [&](Nccl& nccl, typename Nccl::comm comm) {
              int code = Nccl::success;
              for (std::size_t i = 0; i < group.size(); ++i) {
                if (i == mine || !connection_.is_accepted(code)) {
                  continue;
                }
                const int other = static_cast<int>(group[i]);
                code = nccl.send(out, part.size(), other, comm, ring_->exchange());
                if (connection_.is_accepted(code)) {
                  code = nccl.receive(all_there ? place(i) : slot + i * bytes, part.size(), other, comm,
                                      ring_->exchange());
                }
              }
              return code;
            });
          },
          [&](std::byte* slot) {
            for (std::size_t i = 0; i < group.size() && !all_there; ++i) {
              if (i != mine) {
                copy_out({place(i), part.size()}, slot + i * bytes);
              } else if (own_there) {
                copy_out({place(i), part.size()}, part.data());
              } else if (part.data() != place(i)) {
                std::memcpy(place(i), part.data(), part.size());
              }
            }
          });
    }
  }

  Cuda cuda_;
  int device_;
  std::vector<std::size_t> everyone_;
  std::optional<detail::nccl_ring<Cuda>> ring_;
  std::vector<std::unique_ptr<operation_record>> operations_;  // as many as were ever in flight: a handful
  detail::nccl_connection<Nccl, Cuda, Host> connection_;
};

template <class Nccl, class Cuda, class Host>
inline constexpr bool can_access<basic_nccl_communicator<Nccl, Cuda, Host>, basic_cuda_memory<Cuda>> = true;

}  // namespace fsdpinit
