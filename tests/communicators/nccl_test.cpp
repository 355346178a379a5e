#include "support/expect_error.hpp"
#include "support/reference_model.hpp"
#include <fsdpinit/communicators/nccl_communicator.hpp>
#include <fsdpinit/communicators/threads.hpp>
#include <fsdpinit/fsdpinit.hpp>
#include <fsdpinit/memory/block.hpp>
#include <fsdpinit/memory/cuda_memory.hpp>
#include <fsdpinit/testing/fake_cuda.hpp>
#include <fsdpinit/testing/fake_nccl.hpp>
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
using fsdpinit::testing::call_counter;
using fsdpinit::testing::check_communicator;
using fsdpinit::testing::errors_of_ranks;
using fsdpinit::testing::fake_cuda;
using fsdpinit::testing::fake_nccl;
using fsdpinit::testing::faulty_communicator;
using fsdpinit::testing::run_ranks;
using fsdpinit::testing::violations;

using communicator = basic_nccl_communicator<fake_nccl, fake_cuda, threads_communicator>;
using device_memory = basic_cuda_memory<fake_cuda>;

static_assert(NcclApi<fake_nccl, fake_cuda>);
static_assert(GroupCommunicator<communicator> && AllGatherCommunicator<communicator>);
static_assert(!ReduceScatterCommunicator<communicator>);
static_assert(AlertingCommunicator<communicator> && ConnectingCommunicator<communicator>);
static_assert(AlertingCommunicator<faulty_communicator<communicator>> &&
              ConnectingCommunicator<faulty_communicator<communicator>>);
static_assert(NodeAwareCommunicator<communicator> && ReducingControl<communicator> && FailableControl<communicator>);
static_assert(CanAccess<communicator, device_memory> && CanAccess<communicator, host_memory>);

/// Nothing has been done wrong, and nothing is left.
void expect_clean(const fake_nccl& nccl, const fake_cuda& cuda) {
  EXPECT_EQ(cuda.left(), 0U);
  EXPECT_EQ(nccl.left(), 0U);
  for (const std::string& fault : cuda.faults()) {
    ADD_FAILURE() << fault;
  }
}

/// A node with one double of everything, clean when the test ends.
class NcclCommunicator : public ::testing::Test {
 protected:
  void TearDown() override { expect_clean(nccl, cuda); }
  /// Small slots, so that most payload takes several turns.
  static constexpr nccl_options small{.slot_bytes = 64 * kib, .deadline_seconds = 20};

  fake_cuda cuda;
  fake_nccl nccl{cuda};
};

TEST_F(NcclCommunicator, KeepsTheLaws) {
  for (const std::size_t ranks : {1U, 2U, 3U, 4U}) {
    SCOPED_TRACE(ranks);
    run_ranks(ranks, [&](threads_communicator& world) {
      communicator comm(world, 0, small, nccl, cuda);
      EXPECT_EQ(check_communicator(comm), violations{});
    });
  }
}

TEST_F(NcclCommunicator, RefusesSlotsTooSmallForItsRanks) {
  const threads_world world(3);
  const auto errors = errors_of_ranks(world, [&](std::size_t, threads_communicator& host) {
    const communicator comm(host, 0, {.slot_bytes = 700}, nccl, cuda);
  });
  for (const auto& each : errors) {
    ASSERT_TRUE(each);
    EXPECT_EQ(each->code(), errc::invalid_argument);
    EXPECT_EQ(each->subject(), "slot_bytes");
  }
}

std::vector<std::byte> numbers(std::size_t count, std::size_t from) {
  std::vector<std::byte> out(count);
  for (std::size_t i = 0; i < count; ++i) {
    out[i] = static_cast<std::byte>(from + i * 7);
  }
  return out;
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
      communicator comm(world, 0, small, nccl, cuda);
      device_memory memory(0, cuda);
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
      payload all(memory, numbers(3 * bytes, 0), (where >> (2 - rank) & 1) != 0);
      comm.all_gather(part.bytes(), all.bytes(), deadline::after(20));
      const std::vector<std::byte> gathered = all.content();
      for (std::size_t other = 0; other < 3; ++other) {
        const std::vector<std::byte> wanted = numbers(bytes, 50 + other);
        EXPECT_TRUE(
            std::equal(wanted.begin(), wanted.end(), gathered.begin() + static_cast<std::ptrdiff_t>(other * bytes)))
            << "part " << other << " on rank " << rank;
      }
    });
  }
}

TEST_F(NcclCommunicator, ThatLosesAPeerSaysSo) {
  const threads_world world(2);
  const auto errors = errors_of_ranks(world, [&](std::size_t, threads_communicator& host) {
    communicator comm(host, 0, small, nccl, cuda);
    std::vector<std::byte> buffer(100);
    auto operation = comm.start_broadcast(buffer, 0);
    nccl.break_down();
    comm.wait(operation, deadline::after(20));
    operation = comm.start_broadcast(buffer, 1);
    comm.wait(operation, deadline::after(20));
  });
  for (const auto& each : errors) {
    ASSERT_TRUE(each);
    EXPECT_TRUE(each->code() == errc::peer_lost || each->code() == errc::interrupted) << each->what();
  }
}

template <class Policy>
void expect_shards(const fake_nccl& nccl, const fake_cuda& cuda, std::size_t replicas = 1) {
  const reference_model model = varied_model();
  const std::size_t ranks = 3 * replicas;
  run_ranks(ranks, [&](std::size_t rank, threads_communicator& world) {
    communicator comm(world, 0, {.slot_bytes = 2 * kib, .deadline_seconds = 20}, nccl, cuda);
    device_memory memory(0, cuda);
    dynamic_module module = model.module(memory, rank == 0);
    const rank_report report = initialize<Policy>(module, model.source(), comm,
                                                  {.bucket_bytes = 300, .replicas = replicas, .deadline_seconds = 20},
                                                  memory, null_observer());
    EXPECT_EQ(model.faults_of(module, memory, 3, rank % 3), "");
    EXPECT_EQ(report.accounted_peak_bytes, report.predicted.peak_bytes());
  });
}

TEST_F(NcclCommunicator, InitialisesUnderScatter) { expect_shards<native_sharding<transport::scatter>>(nccl, cuda); }
TEST_F(NcclCommunicator, InitialisesUnderBroadcast) {
  expect_shards<native_sharding<transport::broadcast>>(nccl, cuda);
}
TEST_F(NcclCommunicator, InitialisesUnderOwnReads) { expect_shards<native_sharding<transport::own_read>>(nccl, cuda); }
TEST_F(NcclCommunicator, InitialisesWhereEveryRankLoads) { expect_shards<every_rank_loads>(nccl, cuda); }
TEST_F(NcclCommunicator, InitialisesReplicas) {
  expect_shards<native_sharding<transport::scatter>>(nccl, cuda, 2);
  expect_shards<native_sharding<transport::own_read>>(nccl, cuda, 2);
}

/// A rank's own handles of the doubles: the calls of its own count.
struct handles {
  handles(const fake_nccl& all_nccl, const fake_cuda& all_cuda) : nccl(all_nccl), cuda(all_cuda) {
    nccl.calls = call_counter();
    cuda.calls = call_counter();
  }
  fake_nccl nccl;
  fake_cuda cuda;
};

enum class runtime { nccl, cuda };

/// Call `index` of a runtime on rank `failing` fails; then a second attempt on the same objects. \return whether it was made at all.
bool expect_agreed_failure(runtime which, std::size_t failing, std::uint64_t index) {
  const fake_cuda cuda;
  const fake_nccl nccl(cuda);
  const errc expected = which == runtime::nccl ? errc::communication : errc::device;
  constexpr std::size_t ranks = 3;
  const reference_model model = varied_model();
  const threads_world world(ranks);
  bool was_made = false;
  std::vector<char> failed(ranks);
  const auto errors = errors_of_ranks(world, [&](std::size_t rank, threads_communicator& host) {
    const handles mine(nccl, cuda);
    const call_counter& calls = which == runtime::nccl ? mine.nccl.calls : mine.cuda.calls;
    device_memory memory(0, mine.cuda);
    dynamic_module module = model.module(memory, rank == 0);
    if (rank == failing) {
      calls.fail_at(index);
    }
    const auto attempt_it = [&] {
      communicator comm(host, 0, {.slot_bytes = 2 * kib, .deadline_seconds = 20}, mine.nccl, mine.cuda);
      const options how{.bucket_bytes = 300, .deadline_seconds = 20};
      try {
        static_cast<void>(initialize(module, model.source(), comm, how, memory, null_observer()));
      } catch (const error& first) {
        EXPECT_EQ(first.code(), expected) << first.what();
        EXPECT_EQ(first.rank(), static_cast<std::int32_t>(failing)) << first.what();
        failed[rank] = 1;
        static_cast<void>(initialize(module, model.source(), comm, how, memory, null_observer()));
      }
    };
    const auto thrown = attempt(attempt_it);
    if (thrown) {  // it never came to be
      EXPECT_EQ(thrown->code(), expected) << thrown->what();
      failed[rank] = 1;
      attempt_it();
    }
    if (rank == failing) {
      was_made = calls.has_failed();
      calls.restart();
    }
    EXPECT_EQ(model.faults_of(module, memory, ranks, rank), "");
  });
  for (const auto& each : errors) {
    EXPECT_FALSE(each) << each->what();
  }
  for (const char each : failed) {
    EXPECT_EQ(each, failed[failing]) << "not all ranks failed, or not all went on";
  }
  expect_clean(nccl, cuda);
  return was_made;
}

void sweep(runtime which) {
  std::uint64_t injections = 0;
  for (std::size_t failing = 0; failing < 3; ++failing) {
    for (std::uint64_t index = 0;; ++index) {
      SCOPED_TRACE(concat("call ", index, " of rank ", failing));
      if (!expect_agreed_failure(which, failing, index) || ::testing::Test::HasFailure()) {
        break;
      }
      ++injections;
    }
  }
  std::printf("%llu injections\n", static_cast<unsigned long long>(injections));
}

TEST_F(NcclCommunicator, AnyCallOfNcclThatFailsOnAnyRankIsTheSameErrorEverywhereAndASecondAttemptWorks) {
  sweep(runtime::nccl);
}
TEST_F(NcclCommunicator, AnyCallOfCudaThatFailsOnAnyRankIsTheSameErrorEverywhereAndASecondAttemptWorks) {
  sweep(runtime::cuda);
}

}  // namespace
}  // namespace nccl_test
