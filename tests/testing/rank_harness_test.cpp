#include <fsdpinit/testing/rank_harness.hpp>

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cstddef>
#include <stdexcept>
#include <string>
#include <thread>

namespace rank_harness_test {
namespace {

using namespace fsdpinit;
using fsdpinit::testing::errors_of_ranks;
using fsdpinit::testing::exceptions_of_ranks;
using fsdpinit::testing::run_ranks;

TEST(RankHarness, CallsEachRankOnceOnAThreadOfItsOwn) {
  std::atomic<unsigned> seen = 0;
  run_ranks(5, [&](std::size_t rank, threads_communicator& world) {
    EXPECT_EQ(world.rank(), rank);
    EXPECT_EQ(world.size(), 5U);
    seen |= 1U << rank;
    static_cast<void>(world.all_reduce_max(0));  // would never end if ranks came one after the other
  });
  EXPECT_EQ(seen, 31U);
}

TEST(RankHarness, TakesAFunctionOfTheCommunicatorAlone) {
  std::atomic<unsigned> calls = 0;
  run_ranks(3, [&](threads_communicator&) { ++calls; });
  EXPECT_EQ(calls, 3U);
}

TEST(RankHarness, RethrowsTheFirstExceptionAfterAllRanksHaveEnded) {
  std::atomic<unsigned> ended = 0;
  const auto call = [&] {
    run_ranks(4, [&](std::size_t rank, threads_communicator&) {
      std::this_thread::sleep_for(std::chrono::milliseconds(rank == 1 ? 30 : 0));
      ++ended;
      if (rank != 0) {
        throw std::runtime_error("rank " + std::to_string(rank));
      }
    });
  };
  try {
    call();
    FAIL() << "nothing was thrown";
  } catch (const std::runtime_error& caught) {
    EXPECT_STREQ(caught.what(), "rank 1");
  }
  EXPECT_EQ(ended, 4U);
}

TEST(RankHarness, CollectsTheOutcomeOfEveryRank) {
  const threads_world world(3);
  const auto exceptions = exceptions_of_ranks(world, [](std::size_t rank, threads_communicator&) {
    if (rank == 1) {
      throw 42;
    }
  });
  EXPECT_FALSE(exceptions[0]);
  EXPECT_TRUE(exceptions[1]);
  EXPECT_FALSE(exceptions[2]);

  const auto errors = errors_of_ranks(3, [](std::size_t rank, threads_communicator&) {
    if (rank == 2) {
      throw error(errc::io, "file", "broke");
    }
  });
  EXPECT_FALSE(errors[0].has_value());
  ASSERT_TRUE(errors[2].has_value());
  EXPECT_STREQ(errors[2]->what(), "file: broke");
}

TEST(RankHarnessDeathTest, ARankThatHangsEndsTheProcessAndIsNamed) {
  ::testing::GTEST_FLAG(death_test_style) = "threadsafe";
  EXPECT_DEATH(run_ranks(
                   4,
                   [](std::size_t rank, threads_communicator&) {
                     if (rank % 2 == 1) {
                       std::this_thread::sleep_for(std::chrono::hours(1));
                     }
                   },
                   0.2),
               "fsdpinit: rank 1, 3 of 4 still running after 0.2 s; ending the process");
}

}  // namespace
}  // namespace rank_harness_test
