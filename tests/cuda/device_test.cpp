#include <fsdpinit/cuda.hpp>
#include <fsdpinit/fsdpinit.hpp>
#include <fsdpinit/testing/laws.hpp>
#include <fsdpinit/testing/rank_harness.hpp>
#include <fsdpinit/units/sharded_units.hpp>
#include <support/expect_error.hpp>
#include <support/gpu_test.hpp>
#include <support/reference_model.hpp>
#include <support/unit_model.hpp>

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>

/// \file
/// What only a GPU can show. Without one these tests are skipped; the same code is tested with testing::fake_cuda everywhere.

namespace fsdpinit::testing_support {
namespace device_test {
namespace {

static_assert(CudaApi<cuda_runtime>);
static_assert(LocallyCopyingMemory<cuda_memory> && MemorySpace<pinned_memory>);

class CudaDevice : public gpu_test {};

TEST_F(CudaDevice, MemoryKeepsTheLaws) { EXPECT_EQ(testing::check_memory(cuda_memory()), testing::violations{}); }
TEST_F(CudaDevice, PinnedMemoryKeepsTheLaws) {
  EXPECT_EQ(testing::check_memory(cuda_memory().staging()), testing::violations{});
}

TEST_F(CudaDevice, OutOfMemoryIsATypedErrorAndNotTheNextOne) {
  cuda_memory memory;
  const auto caught = thrown_by([&] { static_cast<void>(memory.allocate(std::uint64_t{1} << 50)); });
  ASSERT_TRUE(caught);
  EXPECT_EQ(caught->code(), errc::out_of_memory) << caught->what();
  EXPECT_EQ(cudaGetLastError(), cudaSuccess);
  EXPECT_EQ(memory.accounted(), 0U);
}

template <class Policy>
void expect_shards() {
  const reference_model model = varied_model();
  testing::run_ranks(3, [&](std::size_t rank, threads_communicator& world) {
    cuda_memory memory;
    dynamic_module module = model.module(memory, rank == 0);
    const rank_report report =
        initialize<Policy>(module, model.source(), world, {.bucket_bytes = 100}, {.memory = memory});
    EXPECT_EQ(model.faults_of(module, memory, 3, rank), "");
    EXPECT_EQ(report.accounted_peak_bytes, report.predicted.peak_bytes());
  });
}

TEST_F(CudaDevice, HoldsTheShardsOfThreeRanksUnderScatter) { expect_shards<native_sharding<transport::scatter>>(); }
TEST_F(CudaDevice, HoldsTheShardsOfThreeRanksUnderBroadcast) { expect_shards<native_sharding<transport::broadcast>>(); }
TEST_F(CudaDevice, HoldsTheShardsOfThreeRanksUnderOwnReads) { expect_shards<native_sharding<transport::own_read>>(); }
TEST_F(CudaDevice, HoldsTheShardsOfThreeRanksWhereEveryRankLoads) { expect_shards<every_rank_loads>(); }

TEST_F(CudaDevice, GathersTheUnitsOfThreeRanksWithinItself) {
  const reference_model model = varied_model();
  testing::run_ranks(3, [&](std::size_t rank, threads_communicator& world) {
    cuda_threads_communicator comm(world, 0);
    cuda_memory memory(0);
    dynamic_module module = initialised(model, comm, memory);
    sharded_units units(module, comm, {}, memory);
    expect_units_come_and_go(model, module, units, memory, {.shards = 3, .index = rank});
  });
}

}  // namespace
}  // namespace device_test
}  // namespace fsdpinit::testing_support
