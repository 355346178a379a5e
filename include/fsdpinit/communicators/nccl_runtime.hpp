#pragma once

#include <fsdpinit/communicators/nccl_api.hpp>
#include <fsdpinit/communicators/nccl_communicator.hpp>
#include <fsdpinit/communicators/nccl_control.hpp>
#include <fsdpinit/memory/cuda_runtime.hpp>

#include <cstdint>

#include <nccl.h>

namespace fsdpinit {

/// NCCL: an NcclApi over the CUDA runtime.
struct nccl_runtime {
  using comm = ncclComm_t;
  using unique_id = ncclUniqueId;
  using stream = cuda_runtime::stream;
  static constexpr int success = ncclSuccess;
  static constexpr int in_progress = ncclInProgress;
  static constexpr int peer_gone = ncclRemoteError;

  int make_id(unique_id* out) noexcept { return ncclGetUniqueId(out); }
  int connect(comm* made, int ranks, unique_id id, int rank) noexcept {
    ncclConfig_t how = NCCL_CONFIG_INITIALIZER;
    how.blocking = 0;
    return ncclCommInitRankConfig(made, ranks, id, rank, &how);
  }
  int place_of(comm which, int* rank, int* ranks) noexcept {
    const int code = ncclCommUserRank(which, rank);
    return code == ncclSuccess ? ncclCommCount(which, ranks) : code;
  }
  int progress(comm which, int* code) noexcept {
    ncclResult_t state = ncclSuccess;
    const int asked = ncclCommGetAsyncError(which, &state);
    *code = state;
    return asked;
  }
  int group_start() noexcept { return ncclGroupStart(); }
  int group_end() noexcept { return ncclGroupEnd(); }
  int broadcast(const void* from, void* to, std::uint64_t bytes, int root, comm which, stream in) noexcept {
    return ncclBroadcast(from, to, bytes, ncclInt8, root, which, in);
  }
  int send(const void* from, std::uint64_t bytes, int rank, comm which, stream in) noexcept {
    return ncclSend(from, bytes, ncclInt8, rank, which, in);
  }
  int receive(void* to, std::uint64_t bytes, int rank, comm which, stream in) noexcept {
    return ncclRecv(to, bytes, ncclInt8, rank, which, in);
  }
  int all_gather(const void* from, void* to, std::uint64_t bytes, comm which, stream in) noexcept {
    return ncclAllGather(from, to, bytes, ncclInt8, which, in);
  }
  int all_reduce_max(const void* from, void* to, std::uint64_t count, comm which, stream in) noexcept {
    return ncclAllReduce(from, to, count, ncclUint64, ncclMax, which, in);
  }
  int finalize(comm which) noexcept { return ncclCommFinalize(which); }
  void destroy(comm which) noexcept { static_cast<void>(ncclCommDestroy(which)); }
  void abort(comm which) noexcept { static_cast<void>(ncclCommAbort(which)); }
  const char* text_of(int code) noexcept { return ncclGetErrorString(static_cast<ncclResult_t>(code)); }
};

/// `Host` connects the ranks: `mpi_communicator`, `threads_communicator` for one process that drives several GPUs, or `nccl_control`.
template <AlertingControl Host>
using nccl_communicator = basic_nccl_communicator<nccl_runtime, cuda_runtime, Host>;

template <AlertingControl Host>
using nccl_communicator_ref = basic_nccl_communicator_ref<nccl_runtime, cuda_runtime, Host>;

using nccl_control = basic_nccl_control<nccl_runtime, cuda_runtime>;

}  // namespace fsdpinit
