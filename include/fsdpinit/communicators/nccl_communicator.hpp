#pragma once

#include <fsdpinit/communicators/nccl_api.hpp>
#include <fsdpinit/communicators/nccl_collectives.hpp>
#include <fsdpinit/communicators/nccl_connection.hpp>
#include <fsdpinit/communicators/nccl_ring.hpp>
#include <fsdpinit/communicators/nccl_transfers.hpp>
#include <fsdpinit/communicators/rank_group.hpp>
#include <fsdpinit/concepts/communicator.hpp>
#include <fsdpinit/concepts/memory_space.hpp>
#include <fsdpinit/control/agreement.hpp>
#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/core/deadline.hpp>
#include <fsdpinit/core/error.hpp>
#include <fsdpinit/core/text.hpp>
#include <fsdpinit/memory/cuda_memory.hpp>
#include <fsdpinit/memory/cuda_stream.hpp>

#include <cstddef>
#include <cstdint>
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
/// failures: data and control channel in one. Used by one thread at a time; one rank per GPU, as NCCL has it. A job that has no host
/// channel has an `nccl_control` in its place.
///
/// Payload may lie on the device, from where it moves straight, or in host memory, pinned at best, from where it passes through a
/// ring of device buffers. What moves, moves in pieces of the same size on all ranks, wherever it lies on each.
///
/// A scatter is sends that move together: its parts differ in size and lie apart, which ncclScatter does not take. What all ranks
/// gather moves by NCCL's all-gather; groups, which have no communicator of their own, send and receive. NCCL does not
/// add in the order of ranks, as `ReduceScatterCommunicator` promises: numbers travel by sending and receiving too, and are added on
/// the host, in host memory. For them the first reduction takes pinned memory once, up to 8 MiB and never more than a slot.
///
/// A wait looks at the device, at NCCL and at the host channel in turns; it never blocks on the device. When a rank fails or is
/// late, the communicator is aborted on every rank, so that the buffers are the caller's again, and works again after `rearm()`
/// and `connect()`; over a host that cannot be interrupted it has ended, and says `peer_lost`.
template <class Nccl, CudaApi Cuda, AlertingControl Host>
  requires NcclApi<Nccl, Cuda>
class basic_nccl_communicator {
  static constexpr bool interruptible = InterruptibleCommunicator<Host>;

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
      : basic_nccl_communicator(host, device, std::nullopt, how, std::move(nccl), std::move(cuda)) {}
  basic_nccl_communicator(const basic_nccl_communicator&) = delete;
  basic_nccl_communicator& operator=(const basic_nccl_communicator&) = delete;
  ~basic_nccl_communicator() {
    if (is_pending()) {
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
  void connect()
    requires interruptible
  {
    connection_.connect();
  }

  // -- data ------------------------------------------------------------------------------------------------------------------

  token start_broadcast(mutable_bytes buffer, std::size_t root) { return start_broadcast(buffer, root, everyone_); }
  token start_broadcast(mutable_bytes buffer, std::size_t root, std::span<const std::size_t> group) {
    detail::check_group(group, rank(), root, size());
    return started(group, [&] { transfers_->broadcast(buffer, root, group); });
  }
  token start_scatter(std::span<const bytes_view> windows, mutable_bytes own, std::size_t root) {
    return start_scatter(windows, own, root, everyone_);
  }
  token start_scatter(std::span<const bytes_view> windows, mutable_bytes own, std::size_t root,
                      std::span<const std::size_t> group) {
    detail::check_group(group, rank(), root, size());
    return started(group, [&] {
      if (rank() == root) {
        transfers_->send_windows(windows, group);
      } else {
        transfers_->receive_window(own, root);
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
      guarded([&] {
        if (which->alone &&
            host().interrupted()) {  // it waits for nobody, and must not miss that the others have stopped
          throw over();
        }
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
    token operation = started(group, [&] { collectives_->all_gather(own, all, group); });
    wait(operation, limit);
  }

  /// In rounds, two of them in flight: while one is on its way the terms of the one before are added.
  void reduce_scatter(std::span<const float> contribution, std::span<float> own, deadline limit = deadline::never()) {
    reduce_scatter(contribution, own, everyone_, limit);
  }
  void reduce_scatter(std::span<const float> contribution, std::span<float> own, std::span<const std::size_t> group,
                      deadline limit = deadline::never()) {
    detail::check_parts(own.size(), contribution.size(), group.size(), "numbers");
    detail::check_group(group, rank(), rank(), size());
    const detail::nccl_reduction work = collectives_->reduction(contribution, own, group);
    token earlier = nullptr;
    token now = nullptr;
    const auto finish = [&](std::uint64_t round) {
      wait(earlier, limit);
      collectives_->add_terms(work, round);
    };
    try {
      for (std::uint64_t round = 0; round < work.rounds(); ++round) {
        now = started(group, [&] { collectives_->exchange_terms(work, round); });
        if (round != 0) {
          finish(round - 1);
        }
        earlier = std::exchange(now, nullptr);
      }
      finish(work.rounds() - 1);
    } catch (...) {  // nothing is under way any more
      for (operation_record* const each : {earlier, now}) {
        if (each != nullptr) {
          each->in_use = false;
        }
      }
      throw;
    }
  }

  /// Ends what is under way on every rank.
  void interrupt() noexcept
    requires interruptible
  {
    host().interrupt();
    end();
  }
  /// Called once on every rank; `connect()` is next.
  void rearm() noexcept
    requires interruptible
  {
    if (!connection_.borrowed() || is_pending()) {
      end();
    }
    connection_.doubt();
    host().rearm();
  }
  [[nodiscard]] bool interrupted() { return host().interrupted(); }

  // -- control: the host channel's ---------------------------------------------------------------------------------------------

  void broadcast(mutable_bytes buffer, std::size_t root, deadline limit = deadline::never()) {
    control_ref(host()).broadcast(buffer, root, limit);
  }
  [[nodiscard]] std::uint64_t all_reduce_max(std::uint64_t value, deadline limit = deadline::never()) {
    return control_ref(host()).all_reduce_max(value, limit);
  }
  [[nodiscard]] error fail(const error& cause)
    requires FailableControl<Host>
  {
    return host().fail(cause);
  }

 protected:
  /// Over `theirs`, if there is one.
  basic_nccl_communicator(Host& host, int device, std::optional<typename Nccl::comm> theirs, const nccl_options& how,
                          Nccl nccl, Cuda cuda)
      : cuda_(cuda),
        device_(device),
        everyone_(detail::all_ranks(host.size())),
        connection_(host, device, std::move(nccl), cuda, how.deadline_seconds) {
    agreed(host, how.deadline_seconds, [&] {
      if (how.slots == 0 || how.slot_bytes / host.size() < detail::least_nccl_piece_bytes) {
        throw error(errc::invalid_argument, "slot_bytes",
                    concat(how.slots, " slots of ", how.slot_bytes, " bytes for ", host.size(),
                           " ranks; give at least one, of ", detail::least_nccl_piece_bytes, " bytes per rank"));
      }
      ring_.emplace(device, cuda, how.slots, how.slot_bytes);
      transfers_.emplace(connection_, *ring_, cuda);
      collectives_.emplace(connection_, *ring_, cuda);
    });
    try {
      if (theirs) {
        connection_.borrow(std::move(*theirs));
      } else {
        connection_.connect();
      }
    } catch (...) {
      if constexpr (interruptible) {
        host.rearm();
      }
      throw;
    }
  }
  [[nodiscard]] bool is_open() const noexcept { return connection_.open(); }

 private:
  [[nodiscard]] Host& host() const noexcept { return connection_.host(); }
  static error over() {
    if constexpr (interruptible) {
      return {errc::interrupted, "", "interrupted by the failure of another rank"};
    } else {
      return {errc::peer_lost, "NCCL", "the communicator has ended with an earlier failure; start the job again"};
    }
  }

  [[nodiscard]] bool is_pending() const noexcept {
    for (const auto& each : operations_) {
      if (each->in_use && !each->dead) {
        return true;
      }
    }
    return false;
  }
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

  Cuda cuda_;
  int device_;
  std::vector<std::size_t> everyone_;
  std::optional<detail::nccl_ring<Cuda>> ring_;
  std::optional<detail::nccl_transfers<Nccl, Cuda, Host>> transfers_;
  std::optional<detail::nccl_collectives<Nccl, Cuda, Host>> collectives_;
  std::vector<std::unique_ptr<operation_record>> operations_;  // as many as were ever in flight: a handful
  detail::nccl_connection<Nccl, Cuda, Host> connection_;
};

template <class Nccl, class Cuda, class Host>
inline constexpr bool can_access<basic_nccl_communicator<Nccl, Cuda, Host>, basic_cuda_memory<Cuda>> = true;

}  // namespace fsdpinit
