#pragma once

#include <fsdpinit/communicators/message_communicator.hpp>
#include <fsdpinit/communicators/message_engine.hpp>
#include <fsdpinit/communicators/nccl_api.hpp>
#include <fsdpinit/communicators/nccl_ring.hpp>
#include <fsdpinit/communicators/nccl_wire.hpp>
#include <fsdpinit/concepts/communicator.hpp>
#include <fsdpinit/concepts/memory_space.hpp>
#include <fsdpinit/control/agreement.hpp>
#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/core/deadline.hpp>
#include <fsdpinit/core/error.hpp>
#include <fsdpinit/core/text.hpp>
#include <fsdpinit/memory/cuda_api.hpp>
#include <fsdpinit/memory/cuda_memory.hpp>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <utility>

/// \file
/// Ranks with a GPU each: payload moves by NCCL, agreement and news of failures on the host.

namespace fsdpinit {

/// Must be equal on every rank.
struct nccl_options {
  /// Device memory through which payload in host memory passes, of each buffer of the ring; in no account of the module's memory.
  std::uint64_t buffer_bytes = 32 * mib;
  std::size_t buffers = 2;
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
/// add in the order of ranks, as `CollectiveCommunicator` promises: numbers travel by sending and receiving too, and are added on
/// the host, in host memory, in rounds of which two are in flight. For them the first reduction takes pinned memory once, up to 8 MiB
/// and never more than a buffer.
///
/// A wait looks at the device, at NCCL and at the host channel in turns; it never blocks on the device. When a rank fails or is
/// late, the communicator is aborted on every rank, so that all buffers are the caller's again, and works again after `rearm()`
/// and `connect()`; over a host that cannot be interrupted it has ended, and says `peer_lost`.
template <class Nccl, CudaApi Cuda, AlertingControl Host>
  requires NcclApi<Nccl, Cuda>
class basic_nccl_communicator : public message_communicator<detail::nccl_wire<Nccl, Cuda, Host>> {
  using wire = detail::nccl_wire<Nccl, Cuda, Host>;
  using base = message_communicator<wire>;
  static constexpr bool interruptible = InterruptibleCommunicator<Host>;

 public:
  using device_memory = basic_cuda_memory<Cuda>;  ///< which it works on; see `can_access`

  /// Collective: connects the ranks. `host` outlives it. \param device  this rank's GPU.
  /// \throws error{invalid_argument} for buffers too small for so many ranks; error{communication}, error{device},
  /// error{out_of_memory}, error{peer_lost}: the same on every rank.
  basic_nccl_communicator(Host& host, int device, const nccl_options& options = {}, Nccl nccl = Nccl(),
                          Cuda cuda = Cuda())
      : basic_nccl_communicator(host, device, std::nullopt, options, std::move(nccl), std::move(cuda)) {}
  basic_nccl_communicator(const basic_nccl_communicator&) = delete;
  basic_nccl_communicator& operator=(const basic_nccl_communicator&) = delete;

  [[nodiscard]] std::size_t node_of(std::size_t rank) const noexcept
    requires requires(const Host& channel) { channel.node_of(0); }
  {
    return host().node_of(rank);
  }

  /// After `rearm()`: collective, ends in an agreement. Nothing to do where the ranks are connected.
  void connect()
    requires interruptible
  {
    wire_.connection().connect();
  }

  /// See `Communicator`.
  void look_with(wait_hook* hook) noexcept { wire_.connection().look_with(hook); }

  /// Ends what is under way on every rank.
  void interrupt() noexcept
    requires interruptible
  {
    host().interrupt();
    wire_.end();
  }
  /// Called once on every rank; `connect()` is next.
  void rearm() noexcept
    requires interruptible
  {
    if (!wire_.connection().borrowed() || wire_.is_pending()) {
      wire_.end();
    }
    wire_.connection().doubt();
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
  basic_nccl_communicator(Host& host, int device, std::optional<typename Nccl::comm> theirs,
                          const nccl_options& options, Nccl nccl, Cuda cuda)
      : base(&engine_), wire_(host, device, std::move(nccl), cuda, options.deadline_seconds), engine_(wire_) {
    agreed(host, options.deadline_seconds, [&] {
      if (options.buffers == 0 || options.buffer_bytes / host.size() < detail::least_nccl_piece_bytes) {
        throw error(errc::invalid_argument, "buffer_bytes",
                    concat(options.buffers, " buffers of ", options.buffer_bytes, " bytes for ", host.size(),
                           " ranks; give at least one, of ", detail::least_nccl_piece_bytes, " bytes per rank"));
      }
      wire_.make_ring(options.buffers, options.buffer_bytes);
    });
    try {
      if (theirs) {
        wire_.connection().borrow(std::move(*theirs));
      } else {
        wire_.connection().connect();
      }
    } catch (...) {
      if constexpr (interruptible) {
        host.rearm();
      }
      throw;
    }
  }
  [[nodiscard]] bool is_open() const noexcept { return wire_.connection().open(); }

 private:
  [[nodiscard]] Host& host() const noexcept { return wire_.connection().host(); }

  wire wire_;
  detail::message_engine<wire> engine_;
};

/// A `basic_nccl_communicator` over an NCCL communicator that somebody else has, a framework for instance: blocking or not, connected,
/// of the ranks of the host channel in their order. It is left as it was, and nobody else uses it meanwhile.
///
/// What a rank has started with NCCL, any version of it, can be ended in one way only, which is to abort the communicator. So a failure
/// in mid-stream, on any rank, takes it from its owner: `aborted()` tells, on each rank by the end of the next call at the latest; the
/// owner must not use or destroy it then, and every further attempt says `peer_lost`, on all ranks. What fails before bytes move, or
/// between operations that all ranks have finished, does no harm. Where the communicator blocks, NCCL itself keeps a rank that first
/// sends to or receives from another until that one comes: deadlines and interruption do not reach it there.
///
/// Groups and replicas need no split of it (ncclCommSplit): their ranks send and receive within this one.
template <class Nccl, CudaApi Cuda, AlertingControl Host>
  requires NcclApi<Nccl, Cuda>
class basic_nccl_communicator_ref : public basic_nccl_communicator<Nccl, Cuda, Host> {
 public:
  /// Collective. `host` and `theirs` outlive it. \param device  this rank's GPU, that of `theirs`.
  /// \throws error{invalid_argument} where `theirs` is not of the same ranks, and what the owner's constructor throws.
  basic_nccl_communicator_ref(Host& host, int device, typename Nccl::comm theirs, const nccl_options& options = {},
                              Nccl nccl = Nccl(), Cuda cuda = Cuda())
      : basic_nccl_communicator<Nccl, Cuda, Host>(host, device, std::move(theirs), options, std::move(nccl),
                                                  std::move(cuda)) {}

  /// Had this rank to take the communicator from its owner?
  [[nodiscard]] bool aborted() const noexcept { return !this->is_open(); }
};

}  // namespace fsdpinit
