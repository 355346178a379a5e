#include <fsdpinit/cuda.hpp>
#include <fsdpinit/fsdpinit.hpp>
#include <fsdpinit/memory/block.hpp>
#include <fsdpinit/memory/cuda_kernels.cuh>
#include <fsdpinit/sources/adaptors.hpp>
#include <fsdpinit/testing/laws.hpp>
#include <support/gpu_test.hpp>

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

/// \file
/// The device converts as the host does. Compiled by the CUDA compiler, and with it every header that a framework's .cu would include.

namespace fsdpinit::testing_support {
namespace kernels_test {
namespace {

static_assert(ConvertingCudaApi<cuda_runtime_with_kernels> && !ConvertingCudaApi<cuda_runtime>);
static_assert(WideningMemory<converting_cuda_memory> && !WideningMemory<cuda_memory>);

constexpr std::uint64_t patterns = 0x10000;

std::vector<std::byte> every_pattern() {
  std::vector<std::byte> out(patterns * 2);
  for (std::uint64_t i = 0; i < patterns; ++i) {
    const auto pattern = static_cast<std::uint16_t>(i);
    std::memcpy(out.data() + i * 2, &pattern, 2);
  }
  return out;
}

class Kernels : public gpu_test {
 protected:
  static void expect_as_on_the_host(dtype from) {
    const std::vector<std::byte> narrow = every_pattern();
    std::vector<std::byte> expected(patterns * 4);
    std::vector<std::byte> wide(patterns * 4);
    convert_floats(from, narrow.data(), dtype::f32, expected.data(), patterns);

    converting_cuda_memory memory;
    const block<converting_cuda_memory> held(memory, wide.size());
    converting_cuda_memory::queue order;
    std::byte* const arrived = held.data() + (wide.size() - narrow.size());
    memory.copy_in(arrived, narrow.data(), narrow.size(), narrow.size(), 1, order);
    memory.widen(from, arrived, dtype::f32, held.data(), patterns, order);
    memory.copy_out(wide.data(), held.data(), wide.size(), order);
    memory.wait(order);
    EXPECT_EQ(wide, expected);
  }
};

TEST_F(Kernels, MemoryKeepsTheLaws) {
  EXPECT_EQ(testing::check_memory(converting_cuda_memory()), testing::violations{});
}
TEST_F(Kernels, WidenEveryF16InPlaceAsTheHostDoes) { expect_as_on_the_host(dtype::f16); }
TEST_F(Kernels, WidenEveryBf16InPlaceAsTheHostDoes) { expect_as_on_the_host(dtype::bf16); }

TEST_F(Kernels, WidenWhatAnInitialisationLoads) {
  const std::vector<std::byte> narrow = every_pattern();
  std::vector<std::byte> expected(patterns * 4);
  convert_floats(dtype::bf16, narrow.data(), dtype::f32, expected.data(), patterns);
  const in_memory_source source(
      {{.descriptor = {.name = "weight", .dtype = dtype::bf16, .shape = {256, 256}}, .bytes = narrow}});
  dynamic_module layer;
  layer.add_parameter("weight", dtype::f32, {256, 256});
  converting_cuda_memory memory;
  const rank_report report = initialize(layer, source | cast(dtype::f32), self_communicator(), {}, {.memory = memory});
  EXPECT_EQ(report.predicted.scratch_bytes, 0U);
  std::vector<std::byte> wide(patterns * 4);
  layer.visit_slots([&](std::string_view, auto& slot) {
    converting_cuda_memory::queue order;
    memory.copy_out(wide.data(), slot.local().data.get(), wide.size(), order);
    memory.wait(order);
  });
  EXPECT_EQ(wide, expected);
}

}  // namespace
}  // namespace kernels_test
}  // namespace fsdpinit::testing_support
