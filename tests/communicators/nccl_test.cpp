#include "support/fake_cuda.hpp"
#include "support/fake_nccl.hpp"
#include "support/gpu_doubles.hpp"
#include <fsdpinit/communicators/nccl_communicator.hpp>
#include <fsdpinit/communicators/threads.hpp>
#include <fsdpinit/engine/payload_link.hpp>
#include <fsdpinit/fsdpinit.hpp>
#include <fsdpinit/memory/block.hpp>
#include <fsdpinit/memory/cuda_memory.hpp>
#include <fsdpinit/testing/faulty_communicator.hpp>
#include <fsdpinit/testing/laws.hpp>
#include <fsdpinit/testing/rank_harness.hpp>

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

/// \file
/// The NCCL communicator over doubles of NCCL and of the CUDA runtime: ranks are threads that share one fake device.

namespace nccl_test {
namespace {

using namespace fsdpinit;
using namespace fsdpinit::testing_support;
using fsdpinit::testing::check_communicator;
using fsdpinit::testing::errors_of_ranks;
using fsdpinit::testing::fake_cuda;
using fsdpinit::testing::fake_nccl;
using fsdpinit::testing::faulty_communicator;
using fsdpinit::testing::run_ranks;
using fsdpinit::testing::violations;

using communicator = over_nccl::communicator;
using device_memory = basic_cuda_memory<fake_cuda>;

static_assert(NcclApi<fake_nccl, fake_cuda>);
static_assert(GroupCommunicator<communicator> && CollectiveCommunicator<communicator>);
static_assert(InterruptibleCommunicator<communicator> && AlertingControl<communicator>);
static_assert(InterruptibleCommunicator<faulty_communicator<communicator>> &&
              AlertingControl<faulty_communicator<communicator>>);
static_assert(fsdpinit::detail::abilities_of<communicator>.knows_nodes && FailableControl<communicator>);
static_assert(CanAccess<communicator, device_memory> && CanAccess<communicator, host_memory>);

/// Small buffers, so that most payload takes several turns.
constexpr nccl_options small{.buffer_bytes = 64 * kib, .deadline_seconds = 20};

class NcclCommunicator : public gpu_doubles_test {};

TEST_F(NcclCommunicator, KeepsTheLaws) {
  for (const std::size_t ranks : {1U, 2U, 3U, 4U}) {
    SCOPED_TRACE(ranks);
    run_ranks(ranks, [&](threads_communicator& world) {
      communicator comm(world, 0, small, node.nccl, node.cuda);
      EXPECT_EQ(check_communicator(comm), violations{});
    });
  }
}

TEST_F(NcclCommunicator, RefusesSlotsTooSmallForItsRanks) {
  const threads_world world(3);
  const auto errors = errors_of_ranks(world, [&](std::size_t, threads_communicator& host) {
    const communicator comm(host, 0, {.buffer_bytes = 700}, node.nccl, node.cuda);
  });
  for (const auto& each : errors) {
    ASSERT_TRUE(each);
    EXPECT_EQ(each->code(), errc::invalid_argument);
    EXPECT_EQ(each->subject(), "buffer_bytes");
  }
}

/// Bytes on the device or on the host.
class payload {
 public:
  payload(device_memory& memory, const std::vector<std::byte>& bytes, bool there)
      : memory_(memory), host_(bytes), device_(memory, there ? bytes.size() : 0) {
    if (there) {
      device_memory::queue order;
      memory_.copy_in(device_.data(), bytes.data(), bytes.size(), bytes.size(), 1, order);
      memory_.wait(order);
    }
  }
  [[nodiscard]] mutable_bytes bytes() {
    return device_.size() == 0 ? mutable_bytes(host_) : mutable_bytes(device_.data(), device_.size());
  }
  [[nodiscard]] std::vector<std::byte> content() {
    if (device_.size() != 0) {
      device_memory::queue order;
      memory_.copy_out(host_.data(), device_.data(), host_.size(), order);
      memory_.wait(order);
    }
    return host_;
  }

 private:
  device_memory& memory_;
  std::vector<std::byte> host_;
  block<device_memory> device_;
};

TEST_F(NcclCommunicator, MovesBetweenHostAndDeviceMemoryInAnyCombination) {
  constexpr std::size_t bytes = 100'000;
  for (int where = 0; where < 8; ++where) {
    SCOPED_TRACE(where);
    run_ranks(3, [&](std::size_t rank, threads_communicator& world) {
      communicator comm(world, 0, small, node.nccl, node.cuda);
      device_memory memory(0, node.cuda);
      const bool there = (where >> rank & 1) != 0;
      const std::size_t group[] = {rank == 0 ? 0U : 1U, 2U};
      const std::size_t alone[] = {rank};
      payload whole(memory, numbers(bytes, rank), there);
      auto first = comm.start_broadcast(whole.bytes(), 1);
      comm.wait(first, deadline::after(20));
      EXPECT_EQ(whole.content(), numbers(bytes, 1));
      auto second = rank == 0 ? comm.start_broadcast(whole.bytes(), rank, alone)
                              : comm.start_broadcast(whole.bytes(), 2, std::span(group));
      comm.wait(second, deadline::after(20));
      payload part(memory, numbers(bytes, 50 + rank), there);
      payload own(memory, numbers(bytes, 9), there);
      const bytes_view windows[] = {part.bytes(), part.bytes().first(bytes / 2), part.bytes().first(bytes / 3)};
      const std::size_t sizes[] = {bytes, bytes / 2, bytes / 3};
      auto third = comm.start_scatter(windows, rank == 2 ? mutable_bytes{} : own.bytes().first(sizes[rank]), 2);
      comm.wait(third, deadline::after(20));
      if (rank != 2) {
        std::vector<std::byte> got = own.content();
        got.resize(sizes[rank]);
        EXPECT_EQ(got, numbers(sizes[rank], 52));
      }
      for (const std::size_t size : {bytes, bytes / 100}) {  // in several turns of the ring, and at once
        payload all(memory, numbers(3 * size, 0), (where >> (2 - rank) & 1) != 0);
        comm.all_gather(part.bytes().first(size), all.bytes(), {}, deadline::after(20));
        const std::vector<std::byte> gathered = all.content();
        for (std::size_t other = 0; other < 3; ++other) {
          const std::vector<std::byte> wanted = numbers(size, 50 + other);
          EXPECT_TRUE(
              std::equal(wanted.begin(), wanted.end(), gathered.begin() + static_cast<std::ptrdiff_t>(other * size)))
              << "part " << other << " of " << size << " bytes on rank " << rank;
        }
      }
    });
  }
}

TEST_F(NcclCommunicator, GathersOnTheDeviceByOneCallOfNccl) {
  constexpr std::size_t bytes = 5000;
  run_ranks(3, [&](std::size_t rank, threads_communicator& world) {
    communicator comm(world, 0, small, node.nccl, node.cuda);
    device_memory memory(0, node.cuda);
    payload all(memory, numbers(3 * bytes, rank), true);
    const mutable_bytes own = all.bytes().subspan(rank * bytes, bytes);
    static_cast<void>(world.all_reduce_max(0));
    const std::uint64_t copies = node.cuda.copies();
    static_cast<void>(world.all_reduce_max(0));
    comm.all_gather(own, all.bytes(), {}, deadline::after(20));
    static_cast<void>(world.all_reduce_max(0));
    EXPECT_EQ(node.cuda.copies(), copies) << "neither through the ring nor within the device";
    static_cast<void>(world.all_reduce_max(0));
    const std::vector<std::byte> gathered = all.content();
    for (std::size_t other = 0; other < 3; ++other) {
      EXPECT_EQ(gathered[other * bytes], static_cast<std::byte>(other + other * bytes * 7));
    }
  });
}

TEST_F(NcclCommunicator, TakesPinnedMemoryForItsFirstReductionAndKeepsIt) {
  run_ranks(3, [&](std::size_t rank, threads_communicator& world) {
    communicator comm(world, 0, small, node.nccl, node.cuda);
    const auto held = [&] {
      static_cast<void>(world.all_reduce_max(0));
      const std::size_t out = node.cuda.left();
      static_cast<void>(world.all_reduce_max(0));
      return out;
    };
    const std::vector<float> contribution(300, static_cast<float>(rank));
    std::vector<float> own(100);
    std::vector<std::size_t> left{held()};
    for (int i = 0; i < 3; ++i) {
      comm.reduce_scatter(contribution, own, {}, deadline::after(20));
      EXPECT_EQ(own, std::vector<float>(100, 3.0F));
      left.push_back(held());
    }
    EXPECT_EQ(left[1], left[0] + std::size_t{2} * 3) << "a block and an event, for each rank";
    EXPECT_EQ(left[3], left[1]);
  });
}

TEST_F(NcclCommunicator, ThatLosesAPeerSaysSo) {
  const threads_world world(2);
  const auto errors = errors_of_ranks(world, [&](std::size_t, threads_communicator& host) {
    communicator comm(host, 0, small, node.nccl, node.cuda);
    std::vector<std::byte> buffer(100);
    auto operation = comm.start_broadcast(buffer, 0);
    node.nccl.break_down();
    comm.wait(operation, deadline::after(20));
    operation = comm.start_broadcast(buffer, 1);
    comm.wait(operation, deadline::after(20));
  });
  for (const auto& each : errors) {
    ASSERT_TRUE(each);
    EXPECT_TRUE(each->code() == errc::peer_lost || each->code() == errc::interrupted) << each->what();
  }
}

TEST_F(NcclCommunicator, InitialisesUnderScatter) {
  expect_shards_on_the_device<over_nccl, native_sharding<transport::scatter>>(node);
}
TEST_F(NcclCommunicator, InitialisesUnderBroadcast) {
  expect_shards_on_the_device<over_nccl, native_sharding<transport::broadcast>>(node);
}
TEST_F(NcclCommunicator, InitialisesUnderOwnReads) {
  expect_shards_on_the_device<over_nccl, native_sharding<transport::own_read>>(node);
}
TEST_F(NcclCommunicator, InitialisesWhereEveryRankLoads) {
  expect_shards_on_the_device<over_nccl, every_rank_loads>(node);
}
TEST_F(NcclCommunicator, InitialisesReplicas) {
  expect_shards_on_the_device<over_nccl, native_sharding<transport::scatter>>(node, 2);
  expect_shards_on_the_device<over_nccl, native_sharding<transport::own_read>>(node, 2);
}

TEST_F(NcclCommunicator, AnyCallOfNcclThatFailsOnAnyRankIsTheSameErrorEverywhereAndASecondAttemptWorks) {
  // Looks at what NCCL has noticed are calls too, as many as a wait takes: hence fewer than are usual, which is about 300.
  sweep_agreed_failures<over_nccl>(runtime::nccl, 150);
}
TEST_F(NcclCommunicator, AnyCallOfCudaThatFailsOnAnyRankIsTheSameErrorEverywhereAndASecondAttemptWorks) {
  sweep_agreed_failures<over_nccl>(runtime::cuda, 300);
}

}  // namespace
}  // namespace nccl_test
