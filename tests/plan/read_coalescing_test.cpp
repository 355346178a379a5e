#include "support/test_seed.hpp"
#include <fsdpinit/core.hpp>
#include <fsdpinit/plan/read_coalescing.hpp>

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <random>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace read_coalescing_test {
namespace {

using namespace fsdpinit;

struct made_read {
  std::uint64_t begin;
  std::uint64_t bytes;
  std::size_t runs;
  friend bool operator==(const made_read&, const made_read&) = default;
};

std::vector<made_read> reads_for(const std::vector<wanted_run>& runs, std::uint64_t limit = 256 * kib,
                                 std::uint64_t gap_bound = read_coalescer::max_gap) {
  std::vector<made_read> out;
  const auto emit = [&](std::span<const wanted_run> joined) {
    out.push_back({joined.front().at.offset, covering_bytes(joined), joined.size()});
  };
  read_coalescer reads(limit, gap_bound);
  for (const wanted_run& run : runs) {
    reads.add(run, emit);
  }
  reads.flush(emit);
  reads.flush(emit);  // nothing is left
  return out;
}

wanted_run run(std::uint64_t offset, std::uint64_t bytes, std::size_t file = 0) {
  return {.at = {.file = file, .offset = offset}, .bytes = bytes};
}

TEST(ReadCoalescing, JoinsRunsThatTouch) {
  EXPECT_EQ(reads_for({run(100, 10), run(110, 20)}), (std::vector<made_read>{{100, 30, 2}}));
}

TEST(ReadCoalescing, ReadsGapsBelowFourKibibytesAlong) {
  EXPECT_EQ(reads_for({run(0, 8000), run(8000 + 4095, 8000)}), (std::vector<made_read>{{0, 20095, 2}}));
  EXPECT_EQ(reads_for({run(0, 8000), run(8000 + 4096, 8000)}),
            (std::vector<made_read>{{0, 8000, 1}, {12096, 8000, 1}}));
}

TEST(ReadCoalescing, ReadsNoGapsAlongWhereNoneAreWanted) {
  EXPECT_EQ(reads_for({run(0, 10), run(10, 10), run(21, 10)}, 256 * kib, 1),
            (std::vector<made_read>{{0, 20, 2}, {21, 10, 1}}));
}

TEST(ReadCoalescing, NeverReadsMoreThanTwiceWhatIsWanted) {
  EXPECT_EQ(reads_for({run(0, 10), run(30, 10)}), (std::vector<made_read>{{0, 40, 2}}));
  EXPECT_EQ(reads_for({run(0, 10), run(31, 10)}), (std::vector<made_read>{{0, 10, 1}, {31, 10, 1}}));
}

TEST(ReadCoalescing, KeepsJoinedReadsWithinTheLimitAndLongRunsWhole) {
  EXPECT_EQ(reads_for({run(0, 60), run(60, 40), run(100, 1)}, 100), (std::vector<made_read>{{0, 100, 2}, {100, 1, 1}}));
  EXPECT_EQ(reads_for({run(0, 1000), run(1000, 1)}, 100), (std::vector<made_read>{{0, 1000, 1}, {1000, 1, 1}}));
}

TEST(ReadCoalescing, NeverJoinsAcrossFilesOrBackwards) {
  EXPECT_EQ(reads_for({run(0, 10), run(10, 10, 1)}).size(), 2U);
  EXPECT_EQ(reads_for({run(10, 10), run(0, 10)}).size(), 2U);
  EXPECT_EQ(reads_for({run(0, 10), run(5, 10)}).size(), 2U) << "overlapping";
}

TEST(ReadCoalescing, HoldsNoMoreRunsThanItHasRoomFor) {
  std::vector<wanted_run> many;
  for (std::uint64_t i = 0; i < 2 * read_coalescer::most_runs + 1; ++i) {
    many.push_back(run(i, 1));
  }
  const std::vector<made_read> reads = reads_for(many);
  ASSERT_EQ(reads.size(), 3U);
  EXPECT_EQ(reads[1], (made_read{read_coalescer::most_runs, read_coalescer::most_runs, read_coalescer::most_runs}));
}

TEST(ReadCoalescing, ReadsNothingForNothing) { EXPECT_TRUE(reads_for({run(5, 0)}).empty()); }

TEST(ReadCoalescing, OfRandomRunsCoversEachOnceWithinItsBounds) {
  const std::uint64_t seed = testing_support::test_seed();
  SCOPED_TRACE(concat("FSDPINIT_TEST_SEED=", seed));
  std::mt19937_64 random(seed);
  const auto below = [&](std::uint64_t bound) { return random() % bound; };
  for (int round = 0; round < 200; ++round) {
    std::vector<wanted_run> runs;
    std::uint64_t at = 0;
    for (std::uint64_t i = 1 + below(300); i > 0; --i) {
      at += below(4) == 0 ? below(10000) : below(50);
      runs.push_back(run(at, 1 + below(below(3) == 0 ? 9000 : 40), below(40) == 0 ? 1 : 0));
      at += runs.back().bytes;
    }
    const std::uint64_t limit = 1 + below(20000);
    std::size_t next = 0;
    read_coalescer reads(limit);
    const auto emit = [&](std::span<const wanted_run> joined) {
      std::uint64_t wanted = 0;
      for (const wanted_run& each : joined) {
        ASSERT_LT(next, runs.size());
        EXPECT_EQ(each.at, runs[next].at);
        EXPECT_EQ(each.bytes, runs[next].bytes);
        EXPECT_EQ(each.at.file, joined.front().at.file);
        wanted += each.bytes;
        ++next;
      }
      EXPECT_LE(covering_bytes(joined), 2 * wanted);
      EXPECT_TRUE(joined.size() == 1 || covering_bytes(joined) <= limit);
    };
    for (const wanted_run& each : runs) {
      reads.add(each, emit);
    }
    reads.flush(emit);
    EXPECT_EQ(next, runs.size());
  }
}

}  // namespace
}  // namespace read_coalescing_test
