#pragma once

#include <fsdpinit/memory/cuda_api.hpp>
#include <fsdpinit/memory/cuda_memory.hpp>
#include <fsdpinit/memory/cuda_stream.hpp>

#include <cstdint>

#include <cuda_runtime_api.h>

namespace fsdpinit {

/// The CUDA runtime: a CudaApi. It leaves nothing for the caller's next cudaGetLastError: what fails is returned.
struct cuda_runtime {
  using stream = cudaStream_t;
  using event = cudaEvent_t;
  static constexpr int success = cudaSuccess;
  static constexpr int not_ready = cudaErrorNotReady;
  static constexpr int out_of_memory = cudaErrorMemoryAllocation;

  int device(int* out) noexcept { return taken(cudaGetDevice(out)); }
  int set_device(int device) noexcept { return taken(cudaSetDevice(device)); }

  int allocate(void** out, std::uint64_t bytes) noexcept { return taken(cudaMalloc(out, bytes)); }
  void deallocate(void* address) noexcept { taken(cudaFree(address)); }
  /// Portable: pinned for all devices of the process.
  int allocate_pinned(void** out, std::uint64_t bytes) noexcept {
    return taken(cudaHostAlloc(out, bytes, cudaHostAllocPortable));
  }
  void deallocate_pinned(void* address) noexcept { taken(cudaFreeHost(address)); }

  int create_stream(stream* out) noexcept { return taken(cudaStreamCreateWithFlags(out, cudaStreamNonBlocking)); }
  void destroy_stream(stream in) noexcept { taken(cudaStreamDestroy(in)); }
  int query_stream(stream in) noexcept { return taken(cudaStreamQuery(in)); }

  int create_event(event* out) noexcept { return taken(cudaEventCreateWithFlags(out, cudaEventDisableTiming)); }
  void destroy_event(event when) noexcept { taken(cudaEventDestroy(when)); }
  int record(event when, stream in) noexcept { return taken(cudaEventRecord(when, in)); }
  int query_event(event when) noexcept { return taken(cudaEventQuery(when)); }
  int wait_event(stream in, event when) noexcept { return taken(cudaStreamWaitEvent(in, when, 0)); }

  int copy_to_device(void* to, const void* from, std::uint64_t bytes, stream in) noexcept {
    return taken(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, in));
  }
  int copy_rows_to_device(void* to, const void* from, std::uint64_t stride, std::uint64_t row, std::uint64_t rows,
                          stream in) noexcept {
    return taken(cudaMemcpy2DAsync(to, row, from, stride, row, rows, cudaMemcpyHostToDevice, in));
  }
  int copy_to_host(void* to, const void* from, std::uint64_t bytes, stream in) noexcept {
    return taken(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, in));
  }
  int copy_on_device(void* to, const void* from, std::uint64_t bytes, stream in) noexcept {
    return taken(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, in));
  }
  int copy_rows_on_device(void* to, std::uint64_t to_stride, const void* from, std::uint64_t from_stride,
                          std::uint64_t row, std::uint64_t rows, stream in) noexcept {
    return taken(cudaMemcpy2DAsync(to, to_stride, from, from_stride, row, rows, cudaMemcpyDeviceToDevice, in));
  }
  int zero(void* to, std::uint64_t bytes, stream in) noexcept { return taken(cudaMemsetAsync(to, 0, bytes, in)); }

  bool on_device(const void* address) noexcept {
    cudaPointerAttributes what{};
    return address != nullptr && taken(cudaPointerGetAttributes(&what, address)) == success &&
           (what.type == cudaMemoryTypeDevice || what.type == cudaMemoryTypeManaged);
  }

  const char* text_of(int code) noexcept { return cudaGetErrorString(static_cast<cudaError_t>(code)); }

 private:
  static int taken(cudaError_t code) noexcept {
    if (code != cudaSuccess) {
      static_cast<void>(cudaGetLastError());
    }
    return code;
  }
};

using cuda_stream_view = basic_cuda_stream_view<cuda_runtime>;
using cuda_stream = basic_cuda_stream<cuda_runtime>;
using cuda_event = basic_cuda_event<cuda_runtime>;
using cuda_memory = basic_cuda_memory<cuda_runtime>;
using pinned_memory = basic_pinned_memory<cuda_runtime>;

}  // namespace fsdpinit
