#include "support/fake_cuda.hpp"
#include "support/gpu_doubles.hpp"
#include <fsdpinit/communicators/cuda_threads.hpp>
#include <fsdpinit/fsdpinit.hpp>
#include <fsdpinit/memory/block.hpp>
#include <fsdpinit/memory/cuda_memory.hpp>
#include <fsdpinit/testing/laws.hpp>
#include <fsdpinit/testing/rank_harness.hpp>

#include <gtest/gtest.h>

#include <cstddef>
#include <vector>

/// \file
/// Ranks that are threads, with memory on one GPU, over the double of the CUDA runtime.

namespace cuda_threads_test {
namespace {

using namespace fsdpinit;
using namespace fsdpinit::testing_support;
using fsdpinit::testing::check_communicator;
using fsdpinit::testing::fake_cuda;
using fsdpinit::testing::run_ranks;
using fsdpinit::testing::violations;

using communicator = on_one_gpu::communicator;
using device_memory = basic_cuda_memory<fake_cuda>;

static_assert(GroupCommunicator<communicator> && CollectiveCommunicator<communicator>);
static_assert(InterruptibleCommunicator<communicator> && FailableControl<communicator>);
static_assert(CanAccess<communicator, device_memory> && CanAccess<communicator, host_memory>);

class CudaThreads : public gpu_doubles_test {};

TEST_F(CudaThreads, KeepTheLaws) {
  for (const std::size_t ranks : {1U, 2U, 3U}) {
    run_ranks(ranks, [&](threads_communicator& world) {
      communicator comm(world, 0, node.cuda);
      EXPECT_EQ(check_communicator(comm), violations{});
    });
  }
}

TEST_F(CudaThreads, MoveBetweenHostAndDeviceMemory) {
  constexpr std::size_t bytes = 1000;
  for (const bool from_device : {false, true}) {
    for (const bool to_device : {false, true}) {
      run_ranks(2, [&](std::size_t rank, threads_communicator& world) {
        communicator comm(world, 0, node.cuda);
        device_memory memory(0, node.cuda);
        device_memory::queue order;
        std::vector<std::byte> on_host = numbers(bytes, rank);
        const block<device_memory> on_device(memory, 2 * bytes);
        memory.copy_in(on_device.data(), on_host.data(), bytes, bytes, 1, order);
        memory.wait(order);
        const bool there = rank == 0 ? from_device : to_device;
        const mutable_bytes buffer = there ? mutable_bytes(on_device.data(), bytes) : mutable_bytes(on_host);
        auto operation = comm.start_broadcast(buffer, 0);
        comm.wait(operation, deadline::after(20));
        std::vector<std::byte> got(2 * bytes);
        memory.copy_out(got.data(), on_device.data(), bytes, order);
        memory.wait(order);
        got.resize(bytes);
        EXPECT_EQ(there ? got : on_host, numbers(bytes, 0)) << "rank " << rank;

        std::vector<std::byte> all(2 * bytes);
        comm.all_gather(buffer, there ? mutable_bytes(on_device.data(), 2 * bytes) : mutable_bytes(all), {},
                        deadline::after(20));
        if (there) {
          memory.copy_out(all.data(), on_device.data(), 2 * bytes, order);
          memory.wait(order);
        }
        all.erase(all.begin(), all.begin() + static_cast<std::ptrdiff_t>(bytes));
        EXPECT_EQ(all, numbers(bytes, 0)) << "rank " << rank;
      });
    }
  }
}

TEST_F(CudaThreads, InitialiseUnderScatter) {
  expect_shards_on_the_device<on_one_gpu, native_sharding<transport::scatter>>(node);
  expect_shards_on_the_device<on_one_gpu, native_sharding<transport::scatter>>(node, 2);
}
TEST_F(CudaThreads, InitialiseUnderBroadcast) {
  expect_shards_on_the_device<on_one_gpu, native_sharding<transport::broadcast>>(node);
}
TEST_F(CudaThreads, InitialiseUnderOwnReads) {
  expect_shards_on_the_device<on_one_gpu, native_sharding<transport::own_read>>(node);
  expect_shards_on_the_device<on_one_gpu, native_sharding<transport::own_read>>(node, 2);
}

TEST_F(CudaThreads, AnyCallOfCudaThatFailsIsTheSameErrorEverywhereAndASecondAttemptWorks) {
  sweep_agreed_failures<on_one_gpu>(runtime::cuda, 150);
}

}  // namespace
}  // namespace cuda_threads_test
