#include <fsdpinit/communicators/threads.hpp>
#include <fsdpinit/fsdpinit.hpp>
#include <fsdpinit/nccl.hpp>
#include <fsdpinit/testing/laws.hpp>
#include <fsdpinit/testing/rank_harness.hpp>
#include <support/gpu_test.hpp>
#include <support/reference_model.hpp>

#include <gtest/gtest.h>

#include <cstddef>

/// \file
/// What only GPUs can show: a rank for each that there is. tests/communicators/nccl_test.cpp tests the same code with doubles.

namespace fsdpinit::testing_support {
namespace nccl_device_test {
namespace {

static_assert(NcclApi<nccl_runtime, cuda_runtime>);
static_assert(CanAccess<nccl_communicator<threads_communicator>, cuda_memory>);

class NcclDevice : public gpu_test {};

TEST_F(NcclDevice, KeepsTheLaws) {
  testing::run_ranks(gpus, [](std::size_t rank, threads_communicator& world) {
    nccl_communicator<threads_communicator> comm(world, static_cast<int>(rank));
    EXPECT_EQ(testing::check_communicator(comm), testing::violations{});
  });
}

template <class Policy>
void expect_shards(std::size_t gpus) {
  const reference_model model = varied_model();
  testing::run_ranks(gpus, [&](std::size_t rank, threads_communicator& world) {
    nccl_communicator<threads_communicator> comm(world, static_cast<int>(rank));
    cuda_memory memory(static_cast<int>(rank));
    dynamic_module module = model.module(memory, rank == 0);
    const rank_report report =
        initialize<Policy>(module, model.source(), comm, {.bucket_bytes = 4096}, memory, null_observer());
    EXPECT_EQ(model.faults_of(module, memory, gpus, rank), "");
    EXPECT_EQ(report.accounted_peak_bytes, report.predicted.peak_bytes());
  });
}

TEST_F(NcclDevice, InitialisesUnderScatter) { expect_shards<native_sharding<transport::scatter>>(gpus); }
TEST_F(NcclDevice, InitialisesUnderBroadcast) { expect_shards<native_sharding<transport::broadcast>>(gpus); }
TEST_F(NcclDevice, InitialisesUnderOwnReads) { expect_shards<native_sharding<transport::own_read>>(gpus); }

}  // namespace
}  // namespace nccl_device_test
}  // namespace fsdpinit::testing_support
