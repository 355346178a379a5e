#pragma once

#include <fsdpinit/communicators/nccl_api.hpp>
#include <fsdpinit/communicators/nccl_communicator.hpp>
#include <fsdpinit/concepts/communicator.hpp>
#include <fsdpinit/concepts/memory_space.hpp>
#include <fsdpinit/memory/cuda_api.hpp>
#include <fsdpinit/memory/cuda_memory.hpp>

#include <utility>

namespace fsdpinit {

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
  basic_nccl_communicator_ref(Host& host, int device, typename Nccl::comm theirs, const nccl_options& how = {},
                              Nccl nccl = Nccl(), Cuda cuda = Cuda())
      : basic_nccl_communicator<Nccl, Cuda, Host>(host, device, std::move(theirs), how, std::move(nccl),
                                                  std::move(cuda)) {}

  /// Had this rank to take the communicator from its owner?
  [[nodiscard]] bool aborted() const noexcept { return !this->is_open(); }
};

}  // namespace fsdpinit
