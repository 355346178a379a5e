#pragma once

// The same as host_ops on a GPU: a few small kernels, and cuBLAS for products.
#include <fsdpinit/core/error.hpp>
#include <fsdpinit/cuda.hpp>
#include <fsdpinit/memory/cuda_kernels.cuh>

#include <cmath>
#include <cstdint>

#include <cublas_v2.h>

namespace gpt {

namespace kernels {

inline constexpr unsigned block_threads = 256;

/// The sum of all threads' values, to each of them. \pre `block_threads` threads.
__device__ inline float sum_of_block(float value) {
  __shared__ float parts[block_threads];
  parts[threadIdx.x] = value;
  __syncthreads();
  for (unsigned half = block_threads / 2; half != 0; half /= 2) {
    if (threadIdx.x < half) {
      parts[threadIdx.x] += parts[threadIdx.x + half];
    }
    __syncthreads();
  }
  const float sum = parts[0];
  __syncthreads();
  return sum;
}

/// A thread for each element.
__device__ inline std::uint64_t element() { return std::uint64_t{blockIdx.x} * blockDim.x + threadIdx.x; }

inline __global__ void embed(float* out, const int* tokens, const float* rows, const float* positions, std::uint64_t t,
                             std::uint64_t c) {
  const std::uint64_t i = element();
  if (i < t * c) {
    out[i] = rows[static_cast<std::uint64_t>(tokens[i / c]) * c + i % c] + positions[i];
  }
}

/// A block for each row.
inline __global__ void normalise(float* out, const float* in, const float* weight, const float* bias, std::uint64_t c) {
  const float* const row = in + blockIdx.x * c;
  float sum = 0;
  for (std::uint64_t k = threadIdx.x; k < c; k += blockDim.x) {
    sum += row[k];
  }
  const float mean = sum_of_block(sum) / static_cast<float>(c);
  float squares = 0;
  for (std::uint64_t k = threadIdx.x; k < c; k += blockDim.x) {
    squares += (row[k] - mean) * (row[k] - mean);
  }
  const float scale = 1 / sqrtf(sum_of_block(squares) / static_cast<float>(c) + 1e-5F);
  for (std::uint64_t k = threadIdx.x; k < c; k += blockDim.x) {
    out[blockIdx.x * c + k] = (row[k] - mean) * scale * weight[k] + bias[k];
  }
}

inline __global__ void add_bias(float* out, const float* bias, std::uint64_t count, std::uint64_t outputs) {
  const std::uint64_t i = element();
  if (i < count) {
    out[i] += bias[i % outputs];
  }
}

/// A block for each row and head, with a share for each of `t` tokens in shared memory.
inline __global__ void attend(float* out, const float* qkv, std::uint64_t c, std::uint64_t width) {
  extern __shared__ float shares[];
  const std::uint64_t i = blockIdx.x;
  const std::uint64_t first = blockIdx.y * width;
  const float* const query = qkv + i * 3 * c + first;
  const float scale = 1 / sqrtf(static_cast<float>(width));
  for (std::uint64_t j = threadIdx.x; j <= i; j += blockDim.x) {
    const float* const key = qkv + j * 3 * c + c + first;
    float product = 0;
    for (std::uint64_t k = 0; k < width; ++k) {
      product += query[k] * key[k];
    }
    shares[j] = product * scale;
  }
  __syncthreads();
  float largest = -INFINITY;
  for (std::uint64_t j = 0; j <= i; ++j) {
    largest = fmaxf(largest, shares[j]);
  }
  __syncthreads();
  float mine = 0;
  for (std::uint64_t j = threadIdx.x; j <= i; j += blockDim.x) {
    shares[j] = expf(shares[j] - largest);
    mine += shares[j];
  }
  const float all = sum_of_block(mine);
  for (std::uint64_t k = threadIdx.x; k < width; k += blockDim.x) {
    float sum = 0;
    for (std::uint64_t j = 0; j <= i; ++j) {
      sum += shares[j] * qkv[j * 3 * c + 2 * c + first + k];
    }
    out[i * c + first + k] = sum / all;
  }
}

inline __global__ void activate(float* values, std::uint64_t count) {
  const std::uint64_t i = element();
  if (i < count) {
    const float x = values[i];
    values[i] = 0.5F * x * (1 + tanhf(0.7978845608F * (x + 0.044715F * x * x * x)));  // the square root of 2 / pi
  }
}

inline __global__ void add(float* to, const float* from, std::uint64_t count) {
  const std::uint64_t i = element();
  if (i < count) {
    to[i] += from[i];
  }
}

}  // namespace kernels

/// On a stream of its own, on a device that it makes the thread's current one: everything but `wait` returns before it is done. Widens
/// what has travelled narrow on the device.
class cuda_ops {
 public:
  using space = fsdpinit::converting_cuda_memory;
  using runtime = fsdpinit::cuda_runtime_with_kernels;

  explicit cuda_ops(int device) : device_(device), stream_(runtime(), device) {
    runtime cuda;
    fsdpinit::detail::require_cuda(cuda, cuda.set_device(device), "use the device");
    require(cublasCreate(&blas_));
    require(cublasSetStream(blas_, stream_.get()));
  }
  cuda_ops(const cuda_ops&) = delete;
  cuda_ops& operator=(const cuda_ops&) = delete;
  ~cuda_ops() {
    stream_.settle();
    cublasDestroy(blas_);
  }

  [[nodiscard]] space memory() const { return space(device_); }

  void embed(float* out, const int* tokens, const float* rows, const float* positions, std::uint64_t t,
             std::uint64_t c) {
    kernels::embed<<<blocks_for(t * c), kernels::block_threads, 0, stream_.get()>>>(out, tokens, rows, positions, t, c);
    check();
  }
  void normalise(float* out, const float* in, const float* weight, const float* bias, std::uint64_t t,
                 std::uint64_t c) {
    kernels::normalise<<<static_cast<unsigned>(t), kernels::block_threads, 0, stream_.get()>>>(out, in, weight, bias,
                                                                                               c);
    check();
  }
  void multiply(float* out, const float* in, const float* weight, const float* bias, std::uint64_t t, std::uint64_t c,
                std::uint64_t outputs) {
    // cuBLAS has columns first: out^T = weight^T^T in^T.
    const float one = 1;
    const float zero = 0;
    const auto n = [](std::uint64_t extent) { return static_cast<int>(extent); };
    require(cublasSgemm(blas_, CUBLAS_OP_T, CUBLAS_OP_N, n(outputs), n(t), n(c), &one, weight, n(c), in, n(c), &zero,
                        out, n(outputs)));
    if (bias != nullptr) {
      kernels::add_bias<<<blocks_for(t * outputs), kernels::block_threads, 0, stream_.get()>>>(out, bias, t * outputs,
                                                                                               outputs);
      check();
    }
  }
  void attend(float* out, const float* qkv, std::uint64_t t, std::uint64_t c, std::uint64_t heads) {
    const dim3 grid(static_cast<unsigned>(t), static_cast<unsigned>(heads));
    kernels::attend<<<grid, kernels::block_threads, t * sizeof(float), stream_.get()>>>(out, qkv, c, c / heads);
    check();
  }
  void activate(float* values, std::uint64_t count) {
    kernels::activate<<<blocks_for(count), kernels::block_threads, 0, stream_.get()>>>(values, count);
    check();
  }
  void add(float* to, const float* from, std::uint64_t count) {
    kernels::add<<<blocks_for(count), kernels::block_threads, 0, stream_.get()>>>(to, from, count);
    check();
  }
  void wait() { stream_.wait(); }

 private:
  static unsigned blocks_for(std::uint64_t elements) {
    return static_cast<unsigned>((elements + kernels::block_threads - 1) / kernels::block_threads);
  }
  static void check() {
    runtime cuda;
    fsdpinit::detail::require_cuda(cuda, cudaGetLastError(), "start a kernel");
  }
  static void require(cublasStatus_t code) {
    if (code != CUBLAS_STATUS_SUCCESS) {
      throw fsdpinit::error(fsdpinit::errc::device, "cuBLAS", cublasGetStatusString(code), {.native_code = code});
    }
  }

  int device_;
  fsdpinit::basic_cuda_stream<runtime> stream_;
  cublasHandle_t blas_{};
};

}  // namespace gpt
