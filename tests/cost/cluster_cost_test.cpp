#include "support/cluster_plans.hpp"
#include <fsdpinit/core.hpp>
#include <fsdpinit/cost/cluster_cost.hpp>
#include <fsdpinit/cost/rank_classes.hpp>

#include <gtest/gtest.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <tuple>
#include <utility>
#include <vector>

namespace cluster_cost_test {
namespace {

using namespace fsdpinit;
using namespace fsdpinit::testing_support;

constexpr double ample = 1e15;

/// Two nodes of two ranks, on which nothing takes time.
cluster ample_cluster() {
  return {.nodes = 2,
          .ranks_per_node = 2,
          .storage_bandwidth_per_node = ample,
          .host_copy_bandwidth = ample,
          .nic_bandwidth = ample};
}

/// One tensor of 8,000 bytes; over 4 ranks, and scattered, in 8 buckets of windows of at most 256 bytes.
plan plan_of(plan_options options) {
  options.bucket_bytes = 256 * options.ranks.shards;
  return make_plan({{.fqn = "w", .dtype = dtype::u8, .shape = {8000}}}, options);
}

cluster_cost cost(const cluster& on, const plan& made) { return cost_on(on, made, predict_every_rank(made)); }

void expect_bound_by(cluster_resource which, double seconds, const cluster_cost& found) {
  EXPECT_EQ(name(found.bottleneck), name(which));
  EXPECT_NEAR(found.busy_with(which), seconds, 1e-6);
  EXPECT_NEAR(found.seconds, seconds, 1e-6);
}

const slab_access device{.host = false};

TEST(ClusterCost, StorageOfANodeReadsTheModelOnce) {
  cluster on = ample_cluster();
  on.storage_bandwidth_per_node = 8;
  expect_bound_by(cluster_resource::node_storage, 1000, cost(on, plan_of({.ranks = {.shards = 4}})));
}

TEST(ClusterCost, StorageInAllReadsForEveryRank) {
  cluster on = ample_cluster();
  on.storage_bandwidth = 80;
  expect_bound_by(cluster_resource::total_storage, 4 * 100,
                  cost(on, plan_of({.ranks = {.shards = 4}, .transport = transport::none})));
}

TEST(ClusterCost, ASourceMakesAReadForEachWindow) {
  cluster on = ample_cluster();
  on.storage_latency = 1;
  expect_bound_by(cluster_resource::storage_latency, 8 * 4, cost(on, plan_of({.ranks = {.shards = 4}})));
}

TEST(ClusterCost, ASourceMakesNoReadForAnEmptyWindow) {
  cluster on = ample_cluster();
  on.storage_latency = 1;
  const std::vector<tensor_request> few{{.fqn = "w", .dtype = dtype::u8, .shape = {3, 100}}};
  expect_bound_by(cluster_resource::storage_latency, 3, cost(on, make_plan(few, {.ranks = {.shards = 4}})));
}

TEST(ClusterCost, ABucketIsReadAtThePaceOfWhatIsSlowestForIt) {
  cluster on = ample_cluster();
  on.storage_latency = 1;
  on.storage_bandwidth_per_node = 100;
  // Two buckets: of 1,024 bytes in one read, and of 4 reads of 1 byte. The one waits for its bytes, the other for its reads.
  const std::vector<tensor_request> uneven{{.fqn = "a", .dtype = dtype::u8, .shape = {1, 1024}},
                                           {.fqn = "b", .dtype = dtype::u8, .shape = {4, 1}}};
  const plan made = make_plan(uneven, {.ranks = {.shards = 4}, .bucket_bytes = 4096});
  ASSERT_EQ(made.schedule.size(), 2U);
  EXPECT_NEAR(cost(on, made).seconds, 10.24 + 4, 1e-6);
}

TEST(ClusterCost, RoutesFollowOneAnother) {
  cluster on = ample_cluster();
  on.storage_bandwidth_per_node = mib;
  // The source alone reads what is scattered, both nodes what each rank reads.
  const std::vector<tensor_request> both{{.fqn = "small", .dtype = dtype::u8, .shape = {2 * mib}},
                                         {.fqn = "large", .dtype = dtype::u8, .shape = {8 * mib}}};
  const plan made = make_plan(both, {.ranks = {.shards = 4}, .transport = transport::automatic});
  EXPECT_NEAR(cost(on, made).seconds, 2 + 8.0 / 2, 1e-6);
}

TEST(ClusterCost, ASlotIsHeldUntilItsBucketHasLeft) {
  cluster on = ample_cluster();
  on.storage_bandwidth_per_node = 8;  // 1000 s
  on.nic_bandwidth = 4;               // 1000 s
  EXPECT_NEAR(cost(on, plan_of({.ranks = {.shards = 4}, .buckets_in_flight = 1})).seconds, 1000 + 1000, 1e-6);
  EXPECT_NEAR(cost(on, plan_of({.ranks = {.shards = 4}, .buckets_in_flight = 2})).seconds, 1000 + 1000 / 8.0, 1e-6);
}

TEST(ClusterCost, AsManyReplicasReadAtOnceAsBucketsAreInFlight) {
  cluster on = ample_cluster();
  on.nodes = 8;
  on.ranks_per_node = 1;
  on.storage_bandwidth_per_node = 8;
  for (const std::size_t in_flight : {1U, 2U, 4U}) {
    plan_options options{.ranks = {.replicas = 8}, .transport = transport::own_read};
    options.buckets_in_flight = in_flight;
    const double seconds = cost(on, plan_of(options)).seconds;
    EXPECT_GE(seconds, 1000.0 / static_cast<double>(in_flight));
    EXPECT_LE(seconds, 1000.0 / static_cast<double>(in_flight) + 1000.0 / 32) << "a bucket more at most";
  }
}

TEST(ClusterCost, RanksThatReadMuchFinishBucketsBeforeTheyAgree) {
  cluster on = ample_cluster();
  on.nodes = 1;
  on.ranks_per_node = 1;
  on.storage_bandwidth_per_node = 64 * mib;
  on.pcie_bandwidth = 64 * mib;
  const plan made = make_plan({{.fqn = "w", .dtype = dtype::u8, .shape = {256 * mib}}},
                              {.transport = transport::own_read, .bucket_bytes = 64 * mib, .access = device});
  EXPECT_NEAR(cost(on, made).seconds, 2 * (2 + 1), 1e-3) << "after each 128 MiB";
}

TEST(ClusterCost, ARelayHoldsItsSlotUntilTheNextBucketIsRead) {
  cluster on = ample_cluster();
  on.storage_bandwidth_per_node = 8;  // 1000 s
  on.nic_bandwidth = 8;               // 500 s for the source's part
  const plan_options options{.ranks = {.shards = 2, .replicas = 2}};
  const double seconds = cost(on, plan_of(options)).seconds;
  EXPECT_GE(seconds, 1000 + 500);
  EXPECT_LE(seconds, 1000 + 500 + 1500 / 8.0);
}

TEST(ClusterCost, HostMemoryCopiesWhatIsReadAndWhatNeighboursExchange) {
  cluster on = ample_cluster();
  on.host_copy_bandwidth = 10;
  expect_bound_by(cluster_resource::host_copy, (8000 + 2000) / 10.0, cost(on, plan_of({.ranks = {.shards = 4}})));
}

/// As `ample_cluster`, of one node with figures that were measured; nothing takes time but what `change` makes slow.
template <class Change>
cluster_cost measured_cost(const plan_options& options, Change&& change) {
  cluster on = ample_cluster();
  on.nodes = 1;
  on.ranks_per_node = 4;
  on.host_copy_bandwidth = 1e-3;  // counts for nothing any more
  const host_rate free{.alone = ample, .together = ample};
  on.measured = host_rates{.read = free, .copy = free, .touch = free};
  change(*on.measured);
  return cost(on, plan_of(options));
}

TEST(ClusterCost, AMeasuredSourceReadsByItself) {
  expect_bound_by(cluster_resource::rank_work, 1000,
                  measured_cost({.ranks = {.shards = 4}}, [](host_rates& rates) { rates.read.alone = 8; }));
}

TEST(ClusterCost, MeasuredRanksReadTogether) {
  expect_bound_by(cluster_resource::node_work, 4 * 8000 / 16.0,
                  measured_cost({.ranks = {.shards = 4}, .transport = transport::none},
                                [](host_rates& rates) { rates.read.together = 16; }));
}

TEST(ClusterCost, WhatMeasuredRanksReadIsPartOfTheirWork) {
  cluster on = ample_cluster();
  on.nodes = 1;
  on.ranks_per_node = 4;
  const host_rate free{.alone = ample, .together = ample};
  on.measured = host_rates{.read = {.alone = ample, .together = 16}, .copy = free, .touch = free};
  on.storage_bandwidth_per_node = 16;
  EXPECT_NEAR(cost(on, plan_of({.ranks = {.shards = 4}, .transport = transport::none})).seconds, 4 * 8000 / 16.0, 1e-6)
      << "and not twice as much";
}

TEST(ClusterCost, MeasuredReceiversCopyWhatTheyKeep) {
  expect_bound_by(cluster_resource::node_work, 3 * 2000 / 8.0,
                  measured_cost({.ranks = {.shards = 4}}, [](host_rates& rates) { rates.copy.together = 8; }));
}

TEST(ClusterCost, MeasuredRanksWriteToFreshMemoryWhatTheyAllocate) {
  const plan_options own{.ranks = {.shards = 4}, .transport = transport::own_read};
  std::uint64_t allocated = 0;
  for (const prediction& each : predict_every_rank(plan_of(own))) {
    allocated += each.peak_bytes();
  }
  ASSERT_GE(allocated, 8000U);
  expect_bound_by(cluster_resource::node_work, static_cast<double>(allocated) / 8,
                  measured_cost(own, [](host_rates& rates) { rates.touch.together = 8; }));
}

TEST(ClusterCost, BucketsAreHandedOverOneByOne) {
  expect_bound_by(cluster_resource::hand_over, 8 * 3,
                  measured_cost({.ranks = {.shards = 4}}, [](host_rates& rates) { rates.hand_over = 3; }));
  EXPECT_EQ(measured_cost({.ranks = {.shards = 4}, .transport = transport::own_read},
                          [](host_rates& rates) { rates.hand_over = 3; })
                .busy_with(cluster_resource::hand_over),
            0);
}

TEST(ClusterCost, PcieOfTheSourceCarriesWhatItReads) {
  cluster on = ample_cluster();
  on.pcie_bandwidth = 8;
  const cluster_cost found = cost(on, plan_of({.ranks = {.shards = 4}, .access = device}));
  EXPECT_EQ(found.bottleneck, cluster_resource::pcie);
  EXPECT_NEAR(found.busy_with(cluster_resource::pcie), 1000, 1e-6);
  EXPECT_NEAR(found.seconds, 1000 + 2 * 250.0 / 8, 1e-6)
      << "and the last of 8 buckets goes back for the others, while the source keeps its own part";
}

TEST(ClusterCost, NvlinkPassesABroadcastOn) {
  cluster on = ample_cluster();
  on.pcie_bandwidth = ample;
  on.nvlink_bandwidth = 8;
  const cluster_cost found =
      cost(on, plan_of({.ranks = {.shards = 4}, .transport = transport::broadcast, .access = device}));
  expect_bound_by(cluster_resource::nvlink, 1000, found);
  EXPECT_EQ(found.in_node_bytes, 2 * 8000U);
  EXPECT_EQ(found.nic_bytes, 8000U) << "it enters the other node once";
}

TEST(ClusterCost, TheNicOfTheSourceSendsTheOtherNodesShards) {
  cluster on = ample_cluster();
  on.nic_bandwidth = 4;
  expect_bound_by(cluster_resource::nic_out, 1000, cost(on, plan_of({.ranks = {.shards = 4}})));
}

TEST(ClusterCost, ANicIsTheBottleneckIntoANodeThatTwoOthersSendTo) {
  cluster on = ample_cluster();
  on.nodes = 3;
  on.nic_bandwidth = 1;
  const plan made = plan_of({.ranks = {.shards = 6}, .source_ranks = {.source_of = {0, 0, 2, 2, 0, 2}}});
  // Chunks of 1334 bytes, the last of 1330.
  expect_bound_by(cluster_resource::nic_in, 1334 + 1330, cost(on, made));
}

TEST(ClusterCost, LatencyOfTheNetworkCountsWhereFewBucketsAreInFlight) {
  cluster on = ample_cluster();
  on.nic_latency = 2;
  const cluster_cost found = cost(on, plan_of({.ranks = {.shards = 4}, .buckets_in_flight = 2}));
  EXPECT_EQ(found.bottleneck, cluster_resource::nic_latency);
  EXPECT_NEAR(found.busy_with(cluster_resource::nic_latency), 8 * 2.0 / 2, 1e-6);
  EXPECT_NEAR(found.seconds, 8, 1e-6);
  EXPECT_NEAR(cost(on, plan_of({.ranks = {.shards = 4}, .buckets_in_flight = 4})).seconds, 4, 1e-6);
}

TEST(ClusterCost, OtherStagesTakeOneBucketLonger) {
  cluster on = ample_cluster();
  on.storage_bandwidth_per_node = 8;  // 1000 s
  on.nic_bandwidth = 5;               // 800 s
  EXPECT_NEAR(cost(on, plan_of({.ranks = {.shards = 4}})).seconds, 1000 + 800.0 / 8, 1e-6);
}

TEST(ClusterCost, AWholeModelIsLoadedBeforeItIsSharded) {
  cluster on = ample_cluster();
  on.storage_bandwidth_per_node = 8;  // two ranks of 1000 s
  on.pcie_bandwidth = 20;             // 2000 bytes each
  const plan made = plan_of({.ranks = {.shards = 4}, .transport = transport::none, .access = device});
  const cluster_cost found = cost(on, made);
  EXPECT_NEAR(found.seconds, 2000 + 100, 1e-6);
  EXPECT_EQ(found.host_peak_bytes, 8000U);
  EXPECT_EQ(found.device_peak_bytes, 2000U);
}

TEST(ClusterCost, SourcesPerNodeAndOwnReadsMoveNoWeightsBetweenNodes) {
  const plan per_node = plan_of({.ranks = {.shards = 4}, .source_ranks = {.source_of = {0, 0, 2, 2}}});
  EXPECT_EQ(cost(ample_cluster(), per_node).nic_bytes, 0U);
  EXPECT_EQ(cost(ample_cluster(), per_node).in_node_bytes, 2 * 2000U);
  const plan own = plan_of({.ranks = {.shards = 4}, .transport = transport::own_read});
  EXPECT_EQ(cost(ample_cluster(), own).nic_bytes, 0U);
  EXPECT_EQ(cost(ample_cluster(), own).in_node_bytes, 0U);
  EXPECT_EQ(cost(ample_cluster(), own).storage_bytes, 8000U);
}

TEST(ClusterCost, ReplicasGetTheirPartsOnce) {
  // Replicas are nodes: a scatter within the first one, whose ranks pass their parts on.
  const plan made = plan_of({.ranks = {.shards = 2, .replicas = 2}});
  EXPECT_EQ(cost(ample_cluster(), made).nic_bytes, 8000U);
  EXPECT_EQ(cost(ample_cluster(), made).in_node_bytes, 4000U);
}

// -- sweeps

auto fields_of(const prediction& each) {
  return std::tuple(each.shard_bytes, each.slab_bytes, each.slot_bytes, each.slots, each.scratch_bytes,
                    each.full_copy_bytes, each.peer_sum_bytes, each.bytes_read, each.bytes_sent, each.bytes_received,
                    each.payload_bytes);
}

TEST(RankClasses, PredictWhatEachRankIsPredicted) {
  std::size_t compared = 0;
  for_each_plan([&](plan made, std::size_t) {
    for (const verification verify : {verification::off, verification::reread}) {
      made.options.verify = verify;
      const std::vector<prediction> all = predict_every_rank(made);
      ASSERT_EQ(all.size(), 12U);
      for (std::size_t rank = 0; rank < all.size(); ++rank, ++compared) {
        EXPECT_EQ(fields_of(all[rank]), fields_of(predict(made, rank))) << "rank " << rank;
      }
    }
  });
  EXPECT_EQ(compared, 5U * 3 * 4 * 2 * 2 * 12 * 2);
}

TEST(ClusterCost, BytesOfLinksAreThoseOfThePrediction) {
  for_each_plan([](const plan& made, std::size_t nodes) {
    cluster on = ample_cluster();
    on.nodes = nodes;
    on.ranks_per_node = 12 / nodes;
    const std::vector<prediction> ranks = predict_every_rank(made);
    std::uint64_t read = 0;
    std::uint64_t sent = 0;
    for (const prediction& each : ranks) {
      read += each.bytes_read;
      sent += each.bytes_sent;
    }
    const cluster_cost found = cost_on(on, made, ranks);
    EXPECT_EQ(found.storage_bytes, read);
    EXPECT_EQ(found.nic_bytes + found.in_node_bytes, sent);
    EXPECT_EQ(found.pcie_bytes, 0U);
    EXPECT_TRUE(nodes != 1 || found.nic_bytes == 0);
  });
}

TEST(ClusterCost, NothingIsSlowerWithMoreOfIt) {
  for_each_plan([](const plan& made, std::size_t nodes) {
    const cluster slow{.nodes = nodes,
                       .ranks_per_node = 12 / nodes,
                       .storage_bandwidth_per_node = 900,
                       .storage_bandwidth = 1100,
                       .storage_latency = 0.1,
                       .host_copy_bandwidth = 1000,
                       .pcie_bandwidth = 800,
                       .nvlink_bandwidth = 700,
                       .nic_bandwidth = 600,
                       .nic_latency = 0.2};
    const double before = cost(slow, made).seconds;
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
      EXPECT_LE(cost(faster[i], made).seconds, before) << i;
    }
  });
}

}  // namespace
}  // namespace cluster_cost_test
