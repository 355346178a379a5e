#include "support/expect_error.hpp"
#include "support/reference_model.hpp"
#include <fsdpinit/communicators/cuda_threads.hpp>
#include <fsdpinit/fsdpinit.hpp>
#include <fsdpinit/memory/block.hpp>
#include <fsdpinit/memory/cuda_memory.hpp>
#include <fsdpinit/testing/fake_cuda.hpp>
#include <fsdpinit/testing/laws.hpp>
#include <fsdpinit/testing/rank_harness.hpp>

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

/// \file
/// Ranks that are threads, with memory on one GPU, over the double of the CUDA runtime.

namespace cuda_threads_test {
namespace {

using namespace fsdpinit;
using namespace fsdpinit::testing_support;
using fsdpinit::testing::call_counter;
using fsdpinit::testing::check_communicator;
using fsdpinit::testing::errors_of_ranks;
using fsdpinit::testing::fake_cuda;
using fsdpinit::testing::run_ranks;
using fsdpinit::testing::violations;

using communicator = basic_cuda_threads_communicator<fake_cuda>;
using device_memory = basic_cuda_memory<fake_cuda>;

static_assert(GroupCommunicator<communicator> && AllGatherCommunicator<communicator>);
static_assert(InterruptibleCommunicator<communicator> && ReducingControl<communicator> &&
              FailableControl<communicator>);
static_assert(CanAccess<communicator, device_memory> && CanAccess<communicator, host_memory>);

void expect_clean(const fake_cuda& cuda) {
  EXPECT_EQ(cuda.left(), 0U);
  EXPECT_EQ(cuda.faults(), std::vector<std::string>{});
}

TEST(CudaThreads, KeepTheLaws) {
  const fake_cuda cuda;
  for (const std::size_t ranks : {1U, 2U, 3U}) {
    run_ranks(ranks, [&](threads_communicator& world) {
      communicator comm(world, 0, cuda);
      EXPECT_EQ(check_communicator(comm), violations{});
    });
  }
  expect_clean(cuda);
}

std::vector<std::byte> numbers(std::size_t count, std::size_t from) {
  std::vector<std::byte> out(count);
  for (std::size_t i = 0; i < count; ++i) {
    out[i] = static_cast<std::byte>(from + i * 7);
  }
  return out;
}

TEST(CudaThreads, MoveBetweenHostAndDeviceMemory) {
  const fake_cuda cuda;
  constexpr std::size_t bytes = 1000;
  for (const bool from_device : {false, true}) {
    for (const bool to_device : {false, true}) {
      run_ranks(2, [&](std::size_t rank, threads_communicator& world) {
        communicator comm(world, 0, cuda);
        device_memory memory(0, cuda);
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
        comm.all_gather(buffer, there ? mutable_bytes(on_device.data(), 2 * bytes) : mutable_bytes(all),
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
  expect_clean(cuda);
}

template <class Policy>
void expect_shards(std::size_t replicas) {
  const fake_cuda cuda;
  const reference_model model = varied_model();
  run_ranks(3 * replicas, [&](std::size_t rank, threads_communicator& world) {
    communicator comm(world, 0, cuda);
    device_memory memory(0, cuda);
    dynamic_module module = model.module(memory, rank == 0);
    const rank_report report = initialize<Policy>(module, model.source(), comm,
                                                  {.bucket_bytes = 300, .replicas = replicas, .deadline_seconds = 20},
                                                  memory, null_observer());
    EXPECT_EQ(model.faults_of(module, memory, 3, rank % 3), "");
    EXPECT_EQ(report.accounted_peak_bytes, report.predicted.peak_bytes());
  });
  expect_clean(cuda);
}

TEST(CudaThreads, InitialiseUnderScatter) {
  expect_shards<native_sharding<transport::scatter>>(1);
  expect_shards<native_sharding<transport::scatter>>(2);
}
TEST(CudaThreads, InitialiseUnderBroadcast) { expect_shards<native_sharding<transport::broadcast>>(1); }
TEST(CudaThreads, InitialiseUnderOwnReads) {
  expect_shards<native_sharding<transport::own_read>>(1);
  expect_shards<native_sharding<transport::own_read>>(2);
}

TEST(CudaThreads, AnyCallOfCudaThatFailsIsTheSameErrorEverywhereAndASecondAttemptWorks) {
  const reference_model model = varied_model();
  std::uint64_t injections = 0;
  for (bool failed = true; failed && !::testing::Test::HasFailure(); ++injections) {
    const fake_cuda cuda;
    const call_counter calls;
    calls.fail_at(injections);
    const threads_world world(3);
    const auto errors = errors_of_ranks(world, [&](std::size_t rank, threads_communicator& host) {
      fake_cuda mine = cuda;
      mine.calls = rank == 1 ? calls : call_counter();
      communicator comm(host, 0, mine);
      device_memory memory(0, mine);
      dynamic_module module = model.module(memory, rank == 0);
      const options how{.bucket_bytes = 300, .deadline_seconds = 20};
      try {
        static_cast<void>(initialize(module, model.source(), comm, how, memory, null_observer()));
      } catch (const error& first) {
        EXPECT_EQ(first.code(), errc::device) << first.what();
        EXPECT_EQ(first.rank(), 1) << first.what();
        static_cast<void>(initialize(module, model.source(), comm, how, memory, null_observer()));
      }
      if (rank == 1) {
        failed = calls.has_failed();
        calls.restart();  // what follows is the test's own
      }
      EXPECT_EQ(model.faults_of(module, memory, 3, rank), "");
    });
    for (const auto& each : errors) {
      EXPECT_FALSE(each) << each->what();
    }
    expect_clean(cuda);
  }
  EXPECT_GT(injections, 50U);
}

}  // namespace
}  // namespace cuda_threads_test
