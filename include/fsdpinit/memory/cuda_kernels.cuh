#pragma once

#include <fsdpinit/core/dtype.hpp>
#include <fsdpinit/core/float_conversion.hpp>
#include <fsdpinit/memory/cuda_memory.hpp>
#include <fsdpinit/memory/cuda_runtime.hpp>

#include <cstdint>

/// \file
/// For CUDA compilers alone, with `--expt-relaxed-constexpr`, which `fsdpinit::cuda` passes on: the device converts with the very
/// functions that the host converts with.

namespace fsdpinit {

namespace detail {

struct widen_bf16 {
  __device__ std::uint32_t operator()(std::uint16_t one) const noexcept { return f32_from_bf16(one); }
};
struct widen_f16 {
  __device__ std::uint32_t operator()(std::uint16_t one) const noexcept { return f32_from_f16(one); }
};

/// The threads of the grid take turns, so that neighbours read and write neighbouring elements.
template <class One>
__global__ void widen_elements(const std::uint16_t* source, std::uint32_t* destination, std::uint64_t count) {
  const std::uint64_t threads = std::uint64_t{gridDim.x} * blockDim.x;
  for (std::uint64_t i = std::uint64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < count; i += threads) {
    destination[i] = One{}(source[i]);
  }
}

}  // namespace detail

/// The CUDA runtime with a kernel: a ConvertingCudaApi, so that `converting_cuda_memory` widens what has travelled narrow on the
/// device. Without it (`cuda_memory`, for any compiler) those bytes go to the host and back.
struct cuda_runtime_with_kernels : cuda_runtime {
  /// From f16 or bf16 to f32, which is all that widens; on the current device.
  int convert(dtype from, const void* source, dtype /*to*/, void* destination, std::uint64_t count,
              stream in) noexcept {
    if (from == dtype::bf16) {
      return started<detail::widen_bf16>(source, destination, count, in);
    }
    return started<detail::widen_f16>(source, destination, count, in);
  }

 private:
  static constexpr std::uint64_t block_threads = 256;
  static constexpr std::uint64_t most_blocks = 4096;  // enough to keep every multiprocessor busy

  template <class One>
  static int started(const void* source, void* destination, std::uint64_t count, stream in) noexcept {
    const std::uint64_t blocks = (count + block_threads - 1) / block_threads;
    detail::widen_elements<One>
        <<<static_cast<unsigned>(blocks < most_blocks ? blocks : most_blocks), block_threads, 0, in>>>(
            static_cast<const std::uint16_t*>(source), static_cast<std::uint32_t*>(destination), count);
    return cudaGetLastError();
  }
};

using converting_cuda_memory = basic_cuda_memory<cuda_runtime_with_kernels>;

}  // namespace fsdpinit
