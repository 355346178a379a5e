#include <fsdpinit/communicators/threads.hpp>
#include <fsdpinit/fsdpinit.hpp>
#include <fsdpinit/nccl.hpp>
#include <fsdpinit/testing/laws.hpp>
#include <fsdpinit/testing/rank_harness.hpp>
#include <fsdpinit/units/sharded_units.hpp>
#include <support/gpu_test.hpp>
#include <support/reference_model.hpp>
#include <support/temp_dir.hpp>
#include <support/unit_model.hpp>

#include <gtest/gtest.h>

#include <cstddef>
#include <span>
#include <string>
#include <type_traits>

/// \file
/// What only GPUs can show: a rank for each that there is. tests/communicators/nccl_test.cpp tests the same code with doubles.

namespace fsdpinit::testing_support {
namespace nccl_device_test {
namespace {

static_assert(NcclApi<nccl_runtime, cuda_runtime>);
static_assert(CanAccess<nccl_communicator<threads_communicator>, cuda_memory>);
static_assert(AlertingControl<nccl_control> && CanAccess<nccl_communicator<nccl_control>, cuda_memory>);

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
        initialize<Policy>(module, model.source(), comm, {.bucket_bytes = 4096}, {.memory = memory});
    EXPECT_EQ(model.faults_of(module, memory, gpus, rank), "");
    EXPECT_EQ(report.accounted_peak_bytes, report.predicted.peak_bytes());
  });
}

/// Without a host channel; the threads' own gives the id to all.
TEST_F(NcclDevice, StandsOnNcclAlone) {
  const reference_model model = varied_model();
  testing::run_ranks(gpus, [&](std::size_t rank, threads_communicator& world) {
    const int device = static_cast<int>(rank);
    nccl_control control({.rank = rank, .size = gpus, .device = device},
                         [&](mutable_bytes id, std::size_t, deadline limit) { world.broadcast(id, 0, limit); });
    EXPECT_EQ(testing::check_communicator(control), testing::violations{});
    nccl_communicator<nccl_control> comm(control, device);
    EXPECT_EQ(testing::check_communicator(comm), testing::violations{});
    cuda_memory memory(device);
    dynamic_module module = model.module(memory, rank == 0);
    static_cast<void>(initialize(module, model.source(), comm, {.bucket_bytes = 4096}, {.memory = memory}));
    EXPECT_EQ(model.faults_of(module, memory, gpus, rank), "");
  });
}

TEST_F(NcclDevice, MeetsByAFile) {
  const temp_dir folder;
  const std::string path = folder / "job";
  const reference_model model = varied_model();
  testing::run_ranks(gpus, [&](std::size_t rank, threads_communicator&) {
    const std::size_t world_size = gpus;
    const int device = static_cast<int>(rank);
    cuda_memory memory(device);
    dynamic_module module = model.module(memory, rank == 0);
    const auto source = model.source();
    // [nccl]
    // rank, world_size, device: the launcher's RANK, WORLD_SIZE, LOCAL_RANK; path: a fresh one for each job, in a shared folder
    nccl_control control({.rank = rank, .size = world_size, .device = device}, file_rendezvous(path));
    nccl_communicator<nccl_control> comm(control, device);
    const rank_report report = initialize(module, source, comm, {.bucket_bytes = 64 * mib}, {.memory = memory});
    // [nccl]
    EXPECT_EQ(model.faults_of(module, memory, gpus, rank), "");
    EXPECT_EQ(report.accounted_peak_bytes, report.predicted.peak_bytes());
  });
}

TEST_F(NcclDevice, GathersUnitsOnTheDevices) {
  const reference_model model = varied_model();
  testing::run_ranks(gpus, [&](std::size_t rank, threads_communicator& world) {
    nccl_communicator<threads_communicator> comm(world, static_cast<int>(rank));
    cuda_memory memory(static_cast<int>(rank));
    dynamic_module module = initialised(model, comm, memory);
    sharded_units units(module, comm, {}, memory);
    static_assert(std::is_same_v<decltype(units)::gathering, cuda_memory>);
    expect_units_come_and_go(model, module, units, memory, {.shards = gpus, .index = rank});
  });
}

TEST_F(NcclDevice, AddsGradientsInTheOrderOfRanks) {
  const reference_model model = trained_model();
  testing::run_ranks(gpus, [&](std::size_t rank, threads_communicator& world) {
    nccl_communicator<threads_communicator> comm(world, static_cast<int>(rank));
    dynamic_module module = trained_module(model, comm);
    sharded_units units(module, comm);
    expect_gradients(model, units, rank, gpus, 1, gradient_reduction::sum);
  });
}

/// A framework's: one that blocks.
TEST_F(NcclDevice, BorrowsACommunicator) {
  const reference_model model = varied_model();
  testing::run_ranks(gpus, [&](std::size_t rank, threads_communicator& world) {
    const int device = static_cast<int>(rank);
    ncclUniqueId id{};
    if (rank == 0) {
      ASSERT_EQ(ncclGetUniqueId(&id), ncclSuccess);
    }
    world.broadcast(std::as_writable_bytes(std::span(&id, 1)), 0);
    ASSERT_EQ(cudaSetDevice(device), cudaSuccess);
    ncclComm_t theirs = nullptr;
    ASSERT_EQ(ncclCommInitRank(&theirs, static_cast<int>(gpus), id, device), ncclSuccess);
    {
      nccl_communicator_ref<threads_communicator> comm(world, device, theirs);
      cuda_memory memory(device);
      dynamic_module module = model.module(memory, rank == 0);
      static_cast<void>(initialize(module, model.source(), comm, {.bucket_bytes = 4096}, {.memory = memory}));
      EXPECT_EQ(model.faults_of(module, memory, gpus, rank), "");
      EXPECT_FALSE(comm.aborted());
    }
    EXPECT_EQ(ncclCommDestroy(theirs), ncclSuccess);
  });
}

TEST_F(NcclDevice, InitialisesUnderScatter) { expect_shards<native_sharding<transport::scatter>>(gpus); }
TEST_F(NcclDevice, InitialisesUnderBroadcast) { expect_shards<native_sharding<transport::broadcast>>(gpus); }
TEST_F(NcclDevice, InitialisesUnderOwnReads) { expect_shards<native_sharding<transport::own_read>>(gpus); }

}  // namespace
}  // namespace nccl_device_test
}  // namespace fsdpinit::testing_support
