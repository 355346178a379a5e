#include "support/expect_error.hpp"
#include "support/readable_checkpoint.hpp"
#include "support/reference_model.hpp"
#include <fsdpinit/cost/calibrate.hpp>
#include <fsdpinit/fsdpinit.hpp>
#include <fsdpinit/testing/rank_harness.hpp>

#include <gtest/gtest.h>

#include <array>
#include <cstddef>
#include <optional>
#include <string>
#include <vector>

namespace calibrate_test {
namespace {

using namespace fsdpinit;
using namespace fsdpinit::testing_support;
using fsdpinit::testing::errors_of_ranks;
using fsdpinit::testing::run_ranks;

std::array<double, 10> figures_of(const cluster& on) {
  return {on.storage_bandwidth_per_node,   on.host_copy_bandwidth,      on.measured->read.alone,
          on.measured->read.together,      on.measured->copy.alone,     on.measured->copy.together,
          on.measured->touch.alone,        on.measured->touch.together, on.measured->hand_over,
          on.storage_bandwidth.value_or(1)};
}

const calibration quick{.probe_bytes = 256 * kib};

TEST(Calibrate, MeasuresPositiveFiguresThatAreTheSameOnEveryRank) {
  const reference_model model = large_and_small();
  std::vector<std::array<double, 10>> found(4);
  run_ranks(4, [&](std::size_t rank, threads_communicator& world) {
    const cluster on = calibrate(readable_checkpoint{&model}, world, quick);
    EXPECT_EQ(on.nodes, 1U);
    EXPECT_EQ(on.ranks_per_node, 4U);
    found[rank] = figures_of(on);
  });
  for (const std::array<double, 10>& each : found) {
    EXPECT_EQ(each, found.front());
    for (const double figure : each) {
      EXPECT_GT(figure, 0);
      EXPECT_LT(figure, 1e15);
    }
  }
}

TEST(Calibrate, CountsNodesAndMeasuresWhatIsBetweenThem) {
  const reference_model model = large_and_small();
  const std::array<std::size_t, 4> nodes{0, 0, 2, 2};
  run_ranks(threads_world(4, nodes), [&](std::size_t, threads_communicator& world) {
    const cluster on = calibrate(readable_checkpoint{&model}, world, quick);
    EXPECT_EQ(on.nodes, 2U);
    EXPECT_EQ(on.ranks_per_node, 2U);
    EXPECT_GT(on.nic_bandwidth, 0);
    EXPECT_GT(on.nic_latency, 0);
  });
}

TEST(Calibrate, WhereOnlyTheSourceRankCanReadItReadsForAll) {
  const reference_model model = large_and_small();
  run_ranks(2, [&](std::size_t rank, threads_communicator& world) {
    const cluster on =
        calibrate(readable_checkpoint{&model, rank == 1}, world, {.source_rank = 1, .probe_bytes = 256 * kib});
    EXPECT_EQ(on.measured->read.alone, on.measured->read.together);
  });
}

TEST(Calibrate, AnotherFailureOfAnOpenerIsItsErrorOnEveryRank) {
  const reference_model model = large_and_small();
  expect_same_error(
      errors_of_ranks(
          2,
          [&](std::size_t rank, threads_communicator& world) {
            static_cast<void>(calibrate(readable_checkpoint{&model, rank == 0, errc::out_of_memory}, world, quick));
          }),
      errc::out_of_memory, "model.safetensors", 1, "no such file");
}

TEST(Calibrate, ChannelsWhoseRanksDifferAreAnErrorOnEveryRank) {
  const reference_model model = large_and_small();
  const threads_world world(2);
  expect_same_error(
      errors_of_ranks(2,
                      [&](std::size_t rank, threads_communicator& control) {
                        threads_communicator data = world.rank(1 - rank);
                        static_cast<void>(calibrate(readable_checkpoint{&model}, channels{data, control}, quick));
                      }),
      errc::invalid_argument, "ranks", 0, "rank 1 of 2 on the data channel, but rank 0 of 2");
}

TEST(Calibrate, ACheckpointThatTheSourceRankCannotOpenIsItsErrorOnEveryRank) {
  const reference_model model = large_and_small();
  const std::vector<std::optional<error>> found =
      errors_of_ranks(2, [&](std::size_t rank, threads_communicator& world) {
        static_cast<void>(calibrate(readable_checkpoint{&model, rank == 1}, world, quick));
      });
  for (const std::optional<error>& each : found) {
    ASSERT_TRUE(each);
    EXPECT_EQ(std::string(each->what()), "model.safetensors: no such file (rank 0)");
  }
}

TEST(Calibrate, AProbeOfNothingIsRefused) {
  const reference_model model = large_and_small();
  const std::vector<std::optional<error>> found = errors_of_ranks(2, [&](std::size_t, threads_communicator& world) {
    static_cast<void>(calibrate(readable_checkpoint{&model}, world, {.probe_bytes = 0}));
  });
  for (const std::optional<error>& each : found) {
    ASSERT_TRUE(each);
    EXPECT_EQ(each->code(), errc::invalid_argument);
    EXPECT_EQ(std::string(each->what()).find("probe_bytes"), 0U);
  }
}

TEST(Calibrate, ProbesThatDifferAreNamedOnEveryRank) {
  const reference_model model = large_and_small();
  const std::vector<std::optional<error>> found =
      errors_of_ranks(3, [&](std::size_t rank, threads_communicator& world) {
        static_cast<void>(calibrate(readable_checkpoint{&model}, world, {.probe_bytes = rank == 2 ? kib : 256 * kib}));
      });
  for (const std::optional<error>& each : found) {
    ASSERT_TRUE(each);
    EXPECT_EQ(each->code(), errc::disagreement);
    EXPECT_EQ(each->rank(), 2);
    EXPECT_NE(std::string(each->what()).find("'probe_bytes 1024' where rank 0 has 'probe_bytes 262144'"),
              std::string::npos);
  }
}

TEST(Calibrate, ACheckpointWithoutBytesIsMeasuredAsCopies) {
  const reference_model model({{.fqn = "empty", .type = dtype::u8, .extents = {0}}});
  run_ranks(2, [&](std::size_t, threads_communicator& world) {
    EXPECT_GT(calibrate(readable_checkpoint{&model}, world, quick).measured->read.together, 0);
  });
}

TEST(Calibrate, NeedsNoMoreThanTheMinimalCommunicator) {
  const reference_model model = large_and_small();
  self_communicator alone;
  const cluster on = calibrate(model.source(), alone, quick);
  EXPECT_EQ(on.ranks(), 1U);
}

}  // namespace
}  // namespace calibrate_test
