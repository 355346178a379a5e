#pragma once

#include "support/fake_cuda.hpp"
#include <fsdpinit/memory/cuda_memory.hpp>

namespace fsdpinit::testing_support {

/// A GPU's memory, without one; each that is made by default is that of another GPU.
using fake_device_memory = basic_cuda_memory<testing::fake_cuda>;
/// The same of one that has kernels.
using fake_converting_memory = basic_cuda_memory<testing::fake_cuda_with_kernels>;

}  // namespace fsdpinit::testing_support
