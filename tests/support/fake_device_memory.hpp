#pragma once

#include <fsdpinit/memory/cuda_memory.hpp>
#include <fsdpinit/testing/fake_cuda.hpp>

namespace fsdpinit::testing_support {

/// A GPU's memory, without one; each that is made by default is that of another GPU.
using fake_device_memory = basic_cuda_memory<testing::fake_cuda>;

}  // namespace fsdpinit::testing_support
