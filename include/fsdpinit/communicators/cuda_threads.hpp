#pragma once

#include <fsdpinit/communicators/threads.hpp>
#include <fsdpinit/concepts/memory_space.hpp>
#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/core/deadline.hpp>
#include <fsdpinit/memory/cuda_api.hpp>
#include <fsdpinit/memory/cuda_memory.hpp>
#include <fsdpinit/memory/cuda_stream.hpp>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <utility>

namespace fsdpinit {

/// A rank that is a thread, with memory on a GPU: several ranks on one, which NCCL does not have, or one process that drives several.
/// A `threads_communicator` whose payload may lie on the host or on a device, at either end: receivers copy straight from where the
/// root has it. Between two GPUs the driver copies through host memory unless peer access is enabled. `reduce_scatter` is for
/// host memory.
///
/// A handle is used by one thread at a time. Waits block on the device, for one copy.
template <CudaApi Cuda>
class basic_cuda_threads_communicator : public threads_communicator {
 public:
  using device_memory = basic_cuda_memory<Cuda>;  ///< which it works on; see `can_access`

  /// \param device  this rank's GPU.
  basic_cuda_threads_communicator(threads_communicator rank, int device, Cuda cuda = Cuda()) noexcept
      : threads_communicator(std::move(rank)), cuda_(std::move(cuda)), device_(device) {}

  /// After a throw the operation's buffers are the caller's again. \throws also error{device}
  void wait(token& operation, deadline limit) {
    threads_communicator::wait(operation, limit, [this](auto... how) { copy(how...); });
  }
  void all_gather(bytes_view own, mutable_bytes all, std::span<const std::size_t> group, deadline limit) {
    threads_communicator::all_gather(own, all, group, limit, [this](auto... how) { copy(how...); });
  }

 private:
  void copy(std::byte* to, const std::byte* from, std::uint64_t bytes) {
    const bool to_device = cuda_.on_device(to);
    const bool from_device = cuda_.on_device(from);
    if (!to_device && !from_device) {
      std::memcpy(to, from, bytes);
      return;
    }
    if (!stream_) {  // not before: a failure to make it is one of an operation, and reaches all ranks
      stream_ = std::make_shared<basic_cuda_stream<Cuda>>(cuda_, device_);
    }
    const auto in = stream_->get();
    detail::require_cuda(cuda_,
                         !from_device ? cuda_.copy_to_device(to, from, bytes, in)
                         : !to_device ? cuda_.copy_to_host(to, from, bytes, in)
                                      : cuda_.copy_on_device(to, from, bytes, in),
                         "copy from another rank");
    try {
      stream_->wait();
    } catch (...) {
      stream_->settle();  // the buffers are about to go back
      throw;
    }
  }

  Cuda cuda_;
  int device_;
  std::shared_ptr<basic_cuda_stream<Cuda>> stream_;
};

}  // namespace fsdpinit
