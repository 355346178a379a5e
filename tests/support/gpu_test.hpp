#pragma once

#include <gtest/gtest.h>

#include <cstddef>

#include <cuda_runtime_api.h>

namespace fsdpinit::testing_support {

/// A test that needs a GPU; skipped, with the reason, where there is none.
class gpu_test : public ::testing::Test {
 protected:
  void SetUp() override {
    int count = 0;
    const cudaError_t code = cudaGetDeviceCount(&count);
    if (code != cudaSuccess || count == 0) {
      GTEST_SKIP() << "no CUDA device: " << cudaGetErrorString(code);
    }
    gpus = static_cast<std::size_t>(count);
  }
  std::size_t gpus = 0;
};

}  // namespace fsdpinit::testing_support
