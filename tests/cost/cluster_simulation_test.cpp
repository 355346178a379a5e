#include "support/cluster_plans.hpp"
#include <fsdpinit/core.hpp>
#include <fsdpinit/cost/cluster_cost.hpp>
#include <fsdpinit/cost/cluster_simulation.hpp>
#include <fsdpinit/cost/rank_classes.hpp>

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

namespace cluster_simulation_test {
namespace {

using namespace fsdpinit;
using namespace fsdpinit::testing_support;

constexpr double ample = 1e15;
constexpr double close = 1e-6;

/// Two nodes of two ranks, on which nothing takes time.
cluster ample_cluster() {
  return {.nodes = 2,
          .ranks_per_node = 2,
          .storage_bandwidth_per_node = ample,
          .host_copy_bandwidth = ample,
          .nic_bandwidth = ample};
}

/// One tensor of 8,000 bytes, in buckets of `window` bytes for each shard.
plan plan_of(plan_options options, std::uint64_t window = 256) {
  options.bucket_bytes = window * options.ranks.shards;
  return make_plan({{.fqn = "w", .dtype = dtype::u8, .shape = {8000}}}, options);
}

simulated_cost simulated(const cluster& on, const plan& made) {
  return simulate_on(on, made, predict_every_rank(made));
}
double seconds(const cluster& on, const plan& made) { return simulated(on, made).seconds; }

const slab_access device{.host = false};

/// Reads take 1000 s, and as long to send half of it to the other node.
cluster reading_and_sending() {
  cluster on = ample_cluster();
  on.storage_bandwidth_per_node = 8;
  on.nic_bandwidth = 4;
  return on;
}

// -- by hand

TEST(ClusterSimulation, OneBucketIsReadAndThenSent) {
  const plan made = plan_of({.ranks = {.shards = 4}}, 2048);
  ASSERT_EQ(made.schedule.size(), 1U);
  const simulated_cost found = simulated(reading_and_sending(), made);
  EXPECT_NEAR(found.seconds, 2000, close);
  EXPECT_NEAR(found.source_waited, 1000, close) << "until all have received it";
}

TEST(ClusterSimulation, TheSecondBucketIsReadWhileTheFirstIsSent) {
  const plan made = plan_of({.ranks = {.shards = 4}}, 1024);
  ASSERT_EQ(made.schedule.size(), 2U);
  // Windows of 1024 bytes, and of 976: 512 s and 488 s to read, and to send.
  const simulated_cost found = simulated(reading_and_sending(), made);
  EXPECT_NEAR(found.seconds, 512 + 512 + 488, close);
  EXPECT_NEAR(found.source_waited, 512, close);
}

TEST(ClusterSimulation, OneBucketInFlightTakesAsLongAsAllStagesTogether) {
  const plan made = plan_of({.ranks = {.shards = 4}, .buckets_in_flight = 1}, 1024);
  const simulated_cost found = simulated(reading_and_sending(), made);
  EXPECT_NEAR(found.seconds, 1000 + 1000, close);
  EXPECT_NEAR(found.source_waited, 1000, close);
}

TEST(ClusterSimulation, ASlowLinkHoldsUpTheThirdBucket) {
  cluster on = ample_cluster();
  on.storage_bandwidth_per_node = 8;
  on.nic_bandwidth = 1;
  // Windows of 768, 768 and 464 bytes: 384, 384 and 232 s to read, 1536, 1536 and 928 s to send. The third is not read before the
  // first has been sent, and is ready long before the second has.
  const simulated_cost found = simulated(on, plan_of({.ranks = {.shards = 4}}, 768));
  EXPECT_NEAR(found.seconds, 384 + 4000, close);
  EXPECT_NEAR(found.source_waited, 384 + 4000 - 1000, close);
}

TEST(ClusterSimulation, ABroadcastTakesAHopForEachNodeAndNoneWithinOne) {
  cluster on = ample_cluster();
  on.nodes = 4;
  on.nic_latency = 2;
  const plan one = plan_of({.ranks = {.shards = 8}, .transport = transport::broadcast, .bucket_bytes = 8192}, 1024);
  ASSERT_EQ(one.schedule.size(), 1U);
  EXPECT_NEAR(seconds(on, one), 3 * 2, close);
  const plan scattered = plan_of({.ranks = {.shards = 8}}, 1024);
  EXPECT_NEAR(seconds(on, scattered), 2, close);
}

TEST(ClusterSimulation, BucketsFollowOneAnotherRoundARing) {
  cluster on = ample_cluster();
  on.nodes = 4;
  on.nic_bandwidth = 8;
  on.nic_latency = 3;
  // Each of 4 buckets of 250 s leaves when the one before has left: hops are in a pipeline.
  const plan made = plan_of({.ranks = {.shards = 8}, .transport = transport::broadcast}, 250);
  ASSERT_EQ(made.schedule.size(), 4U);
  EXPECT_NEAR(seconds(on, made), 1000 + 3 * 3, close);
}

TEST(ClusterSimulation, NodesCopyABroadcastAtTheSameTime) {
  cluster on = ample_cluster();
  on.ranks_per_node = 4;
  on.host_copy_bandwidth = 8;
  // 8,000 bytes are copied out of the page cache, and to three neighbours; in the other node they come in piece by piece.
  const plan made = plan_of({.ranks = {.shards = 8}, .transport = transport::broadcast}, 1000);
  ASSERT_EQ(made.schedule.size(), 1U);
  EXPECT_NEAR(seconds(on, made), 1000 + 3 * 1000 + 4 * 125, close) << "each of a node's ranks keeps 1,000 bytes";
}

TEST(ClusterSimulation, LatencyHoldsUpWhatHasFewBucketsInFlight) {
  cluster on = ample_cluster();
  on.nic_latency = 2;
  const plan_options options{.ranks = {.shards = 4}};
  plan_options more = options;
  more.buckets_in_flight = 4;
  EXPECT_NEAR(seconds(on, plan_of(options)), 8 * 2.0 / 2, close);
  EXPECT_NEAR(seconds(on, plan_of(more)), 8 * 2.0 / 4, close);
}

TEST(ClusterSimulation, ASourceMakesAReadForEachWindowThatIsNotEmpty) {
  cluster on = ample_cluster();
  on.storage_latency = 1;
  EXPECT_NEAR(seconds(on, plan_of({.ranks = {.shards = 4}})), 8 * 4, close);
  const plan few = make_plan({{.fqn = "w", .dtype = dtype::u8, .shape = {3, 100}}}, {.ranks = {.shards = 4}});
  EXPECT_NEAR(seconds(on, few), 3, close);
}

TEST(ClusterSimulation, ReplicasPassTheirPartsOn) {
  cluster on = ample_cluster();
  on.nic_bandwidth = 4;
  on.nic_latency = 1;
  // Replicas are nodes; both shards of 4,000 bytes cross, in two buckets.
  const plan made = plan_of({.ranks = {.shards = 2, .replicas = 2}}, 2048);
  ASSERT_EQ(made.schedule.size(), 2U);
  EXPECT_NEAR(seconds(on, made), 2000 + 1, close);
  EXPECT_EQ(simulated(on, made).nic_bytes, 8000U);
}

TEST(ClusterSimulation, TheSourceReadsTheNextBucketBeforeItPassesItsPartOn) {
  cluster on = ample_cluster();
  on.storage_bandwidth_per_node = 8;
  on.nic_bandwidth = 8;
  // Windows of 2048 bytes, and of 1952, read until 512 s and 1000 s. Of the first, rank 1 passes on its part until 768 s, the
  // source from 1000 s to 1256 s; parts of the second follow.
  EXPECT_NEAR(seconds(on, plan_of({.ranks = {.shards = 2, .replicas = 2}}, 2048)), 1256 + 2 * 244, close);
}

TEST(ClusterSimulation, ABroadcastsSlotIsFreeOnceTheNextRankHasIt) {
  cluster on = ample_cluster();
  on.ranks_per_node = 1;
  on.storage_bandwidth_per_node = 8;
  on.nic_bandwidth = 8;
  const plan_options options{.ranks = {.shards = 2}, .transport = transport::broadcast, .buckets_in_flight = 1};
  EXPECT_NEAR(seconds(on, plan_of(options, 1000)), 1000 + 1000, close);
}

TEST(ClusterSimulation, NothingArrivesWhereTheSlotIsNotFree) {
  cluster on = ample_cluster();
  on.nodes = 1;
  on.pcie_bandwidth = 10;
  on.nvlink_bandwidth = ample;
  // Four buckets of 2000 bytes; the first two are of the source's shard, which is ready with them at 800 s. The third is on its
  // device at 1000 s, in the other's host memory at 1200 s, and in its slab at 1400 s. Not before comes the fourth.
  const plan_options options{
      .ranks = {.shards = 2}, .transport = transport::broadcast, .buckets_in_flight = 1, .access = device};
  EXPECT_NEAR(seconds(on, plan_of(options, 1000)), 1400 + 200 + 200, close);
}

TEST(ClusterSimulation, RanksThatReadMuchFinishBucketsBeforeTheyAgree) {
  cluster on = ample_cluster();
  on.nodes = 1;
  on.ranks_per_node = 1;
  on.storage_bandwidth_per_node = 64 * mib;
  on.pcie_bandwidth = 64 * mib;
  const plan made = make_plan({{.fqn = "w", .dtype = dtype::u8, .shape = {256 * mib}}},
                              {.transport = transport::own_read, .bucket_bytes = 64 * mib, .access = device});
  EXPECT_NEAR(seconds(on, made), 2 * (2 + 1), 1e-3) << "after each 128 MiB";
}

TEST(ClusterSimulation, RanksOfANodeReadTheirPartsTogether) {
  cluster on = ample_cluster();
  on.storage_bandwidth_per_node = 8;
  const plan own = plan_of({.ranks = {.shards = 4}, .transport = transport::own_read});
  EXPECT_NEAR(seconds(on, own), 4000 / 8.0, close);
  on.storage_bandwidth = 10;
  EXPECT_NEAR(seconds(on, own), 8000 / 10.0, close) << "what nodes have together is slower";
}

TEST(ClusterSimulation, SourcesPerNodeShareTheStorageInAll) {
  cluster on = ample_cluster();
  on.storage_bandwidth = 16;
  EXPECT_NEAR(seconds(on, plan_of({.ranks = {.shards = 4}, .source_ranks = {.source_of = {0, 0, 2, 2}}})), 8000 / 16.0,
              close);
}

TEST(ClusterSimulation, AWholeModelIsLoadedBeforeItIsSharded) {
  cluster on = ample_cluster();
  on.storage_bandwidth_per_node = 8;  // two ranks of 1000 s
  on.pcie_bandwidth = 20;             // 2000 bytes each
  EXPECT_NEAR(seconds(on, plan_of({.ranks = {.shards = 4}, .transport = transport::none, .access = device})),
              2000 + 100, close);
}

TEST(ClusterSimulation, ABucketGoesToTheDeviceWhileTheNextIsRead) {
  cluster on = ample_cluster();
  on.nodes = 1;
  on.ranks_per_node = 1;
  on.storage_bandwidth_per_node = 8;
  on.pcie_bandwidth = 8;
  const plan_options options{.transport = transport::own_read, .access = device};
  plan_options one_by_one = options;
  one_by_one.buckets_in_flight = 1;
  EXPECT_NEAR(seconds(on, plan_of(options, 2000)), 1000 + 250, close);
  EXPECT_NEAR(seconds(on, plan_of(one_by_one, 2000)), 2000, close);
}

TEST(ClusterSimulation, TheOnlySlowResourceIsTheResult) {
  const plan scattered = plan_of({.ranks = {.shards = 4}});
  const plan sent = plan_of({.ranks = {.shards = 4}, .transport = transport::broadcast, .access = device});
  cluster storage = ample_cluster();
  storage.storage_bandwidth_per_node = 8;
  EXPECT_NEAR(seconds(storage, scattered), 1000, close);
  cluster copies = ample_cluster();
  copies.host_copy_bandwidth = 10;
  EXPECT_NEAR(simulated(copies, scattered).busy_with(cluster_resource::host_copy), (8000 + 2000) / 10.0, close);
  cluster nvlink = ample_cluster();
  nvlink.pcie_bandwidth = ample;
  nvlink.nvlink_bandwidth = 8;
  EXPECT_NEAR(seconds(nvlink, sent), 1000, close);
  cluster nic = ample_cluster();
  nic.nic_bandwidth = 4;
  EXPECT_NEAR(seconds(nic, scattered), 1000, close);
}

// -- sweeps

cluster slow_cluster(std::size_t nodes) {
  return {.nodes = nodes,
          .ranks_per_node = 12 / nodes,
          .storage_bandwidth_per_node = 900,
          .storage_bandwidth = 1100,
          .storage_latency = 0.1,
          .host_copy_bandwidth = 1000,
          .pcie_bandwidth = 800,
          .nvlink_bandwidth = 700,
          .nic_bandwidth = 600,
          .nic_latency = 0.2};
}

TEST(ClusterSimulation, HasTheBytesAndTheWorkOfTheModel) {
  for_each_plan([](const plan& made, std::size_t nodes) {
    for (const bool on_devices : {false, true}) {
      cluster on = slow_cluster(nodes);
      if (!on_devices) {
        on.pcie_bandwidth.reset();
        on.nvlink_bandwidth.reset();
      }
      const std::vector<prediction> ranks = predict_every_rank(made);
      const cluster_cost expected = cost_on(on, made, ranks);
      const simulated_cost found = simulate_on(on, made, ranks);
      EXPECT_EQ(found.storage_bytes, expected.storage_bytes);
      EXPECT_EQ(found.nic_bytes, expected.nic_bytes);
      EXPECT_EQ(found.in_node_bytes, expected.in_node_bytes);
      EXPECT_EQ(found.pcie_bytes, expected.pcie_bytes);
      for (std::size_t i = 0; i < cluster_resources; ++i) {
        const auto which = static_cast<cluster_resource>(i);
        if (which != cluster_resource::nic_latency) {
          EXPECT_NEAR(found.busy[i], expected.busy[i], 1e-6) << name(which);
        }
        EXPECT_GE(found.seconds, found.busy[i] * (1 - 1e-12)) << name(which);
      }
      EXPECT_LE(found.source_waited, found.seconds);
    }
  });
}

TEST(ClusterSimulation, StagesNoMoreThanThePlanReserves) {
  std::size_t staged = 0;
  for_each_plan([&](const plan& made, std::size_t nodes) {
    const std::vector<prediction> ranks = predict_every_rank(made);
    std::uint64_t reserved = 0;
    std::uint64_t slot = 0;
    for (const prediction& each : ranks) {
      reserved = std::max(reserved, each.slot_bytes * each.slots);
      slot = std::max(slot, each.slot_bytes);
    }
    const std::uint64_t found = simulate_on(slow_cluster(nodes), made, ranks).staging_peak_bytes;
    EXPECT_LE(found, reserved);
    EXPECT_GE(found, slot) << "the fullest slot";
    staged += found != 0 ? 1U : 0U;
  });
  EXPECT_GT(staged, 100U);
}

TEST(ClusterSimulation, NothingIsSlowerWithMoreOfIt) {
  for_each_plan([](const plan& made, std::size_t nodes) {
    const std::vector<prediction> ranks = predict_every_rank(made);
    const cluster slow = slow_cluster(nodes);
    const double before = simulate_on(slow, made, ranks).seconds;
    EXPECT_GT(before, 0);
    std::array<cluster, 8> faster{slow, slow, slow, slow, slow, slow, slow, slow};
    faster[0].storage_bandwidth_per_node *= 3;
    faster[1].storage_bandwidth = 3300;
    faster[2].storage_latency /= 3;
    faster[3].host_copy_bandwidth *= 3;
    faster[4].pcie_bandwidth = 2400;
    faster[5].nvlink_bandwidth = 2100;
    faster[6].nic_bandwidth *= 3;
    faster[7].nic_latency /= 3;
    for (std::size_t i = 0; i < faster.size(); ++i) {
      EXPECT_LE(simulate_on(faster[i], made, ranks).seconds, before * (1 + 1e-12)) << i;
    }
  });
}

TEST(ClusterSimulation, MoreBucketsInFlightAreNeverMuchSlower) {
  for (const std::size_t replicas : {1U, 2U}) {
    plan_options options{.ranks = {.shards = 4 / replicas, .replicas = replicas}, .buckets_in_flight = 1};
    double before = seconds(reading_and_sending(), plan_of(options));
    for (options.buckets_in_flight = 2; options.buckets_in_flight < 6; ++options.buckets_in_flight) {
      const double now = seconds(reading_and_sending(), plan_of(options));
      EXPECT_LE(now, before * 1.05) << options.buckets_in_flight
                                    << ": a relay starts once the next bucket has been read";
      before = now;
    }
  }
}

TEST(ClusterSimulation, AsManyReplicasReadAtOnceAsBucketsAreInFlight) {
  cluster on = ample_cluster();
  on.nodes = 8;
  on.ranks_per_node = 1;
  on.storage_bandwidth_per_node = 8;
  for (const std::size_t in_flight : {1U, 2U, 4U}) {
    plan_options options{.ranks = {.replicas = 8}, .transport = transport::own_read};
    options.buckets_in_flight = in_flight;
    const plan made = plan_of(options, 500);
    ASSERT_EQ(made.schedule.size(), 16U);
    EXPECT_NEAR(seconds(on, made), 1000.0 / static_cast<double>(in_flight), close);
  }
}

/// A model of 32 layers of `rows` x 1024 bf16, and a norm each.
std::vector<tensor_request> layers(std::size_t rows) {
  std::vector<tensor_request> out;
  for (std::size_t i = 0; i < 32; ++i) {
    out.push_back({.fqn = "w", .dtype = dtype::bf16, .shape = {rows, 1024}, .placement = shard{0}, .unit = i});
    out.push_back({.fqn = "n", .dtype = dtype::bf16, .shape = {1024}, .placement = shard{0}, .unit = i});
  }
  return out;
}

cluster usual_cluster(std::size_t nodes) {
  return {.nodes = nodes,
          .ranks_per_node = 8,
          .storage_bandwidth_per_node = 5e9,
          .storage_bandwidth = 1.5e10,
          .host_copy_bandwidth = 1e11,
          .pcie_bandwidth = 5e10,
          .nvlink_bandwidth = 4e11,
          .nic_bandwidth = 4e10,
          .nic_latency = 1e-5};
}

TEST(ClusterSimulation, AgreesWithTheModelWherePipelinesAreLong) {
  for (const fsdpinit::transport transport :
       {transport::scatter, transport::broadcast, transport::own_read, transport::none}) {
    for (const std::size_t nodes : {1U, 4U, 16U}) {
      for (const std::size_t replicas : {std::size_t{1}, nodes}) {
        SCOPED_TRACE(concat(name(transport), " on ", nodes, " nodes, ", replicas, " replicas"));
        const plan made = make_plan(layers(8192), {.ranks = {.shards = 8 * nodes / replicas, .replicas = replicas},
                                                   .transport = transport,
                                                   .access = device});
        const std::vector<prediction> ranks = predict_every_rank(made);
        const cluster on = usual_cluster(nodes);
        const double expected = cost_on(on, made, ranks).seconds;
        const double found = simulate_on(on, made, ranks).seconds;
        EXPECT_GE(found, expected * 0.9);
        EXPECT_LE(found, expected * 1.1);
      }
    }
  }
}

TEST(ClusterSimulation, OfManyThousandRanksAgreesWithTheModel) {
  const std::size_t nodes = 2048;
  for (const fsdpinit::transport transport : {transport::scatter, transport::broadcast}) {
    const plan made =
        make_plan(layers(16384),
                  {.ranks = {.shards = 8 * nodes}, .transport = transport, .bucket_bytes = 64 * mib, .access = device});
    const std::vector<prediction> ranks = predict_every_rank(made);
    const cluster on = usual_cluster(nodes);
    const simulated_cost found = simulate_on(on, made, ranks);
    const cluster_cost expected = cost_on(on, made, ranks);
    EXPECT_GE(found.seconds, expected.seconds * 0.85) << name(transport);
    EXPECT_LE(found.seconds, expected.seconds * 1.15) << name(transport);
    EXPECT_EQ(found.storage_bytes, expected.storage_bytes) << name(transport);
  }
}

}  // namespace
}  // namespace cluster_simulation_test
