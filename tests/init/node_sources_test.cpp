#include "support/archetypes.hpp"
#include "support/fake_device_memory.hpp"
#include "support/reference_model.hpp"
#include <fsdpinit/fsdpinit.hpp>
#include <fsdpinit/testing/rank_harness.hpp>

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace node_sources_test {
namespace {

using namespace fsdpinit;
using namespace fsdpinit::testing_support;
using fsdpinit::testing::errors_of_ranks;
using fsdpinit::testing::run_ranks;

/// Counts itself, so that a rank that should not open the checkpoint shows.
struct counted_opener {
  const reference_model* model;
  std::vector<int>* opened;  // per rank
  std::size_t rank;
  in_memory_source operator()() const {
    ++(*opened)[rank];
    return model->source();
  }
};

template <class Policy, class Space>
void expect_shards(const std::vector<std::size_t>& nodes, std::size_t replicas, std::size_t source_rank,
                   const std::vector<int>& readers) {
  SCOPED_TRACE(
      concat(name(Policy::transport), ", ", nodes.size(), " ranks, ", replicas, " replicas, source ", source_rank));
  const reference_model model = varied_model();
  const mesh grid{.shards = nodes.size() / replicas, .replicas = replicas};
  for (const std::uint64_t bucket_bytes : {std::uint64_t{41}, std::uint64_t{900}, 4 * mib}) {
    std::vector<int> opened(nodes.size(), 0);
    std::vector<rank_report> reports(nodes.size());
    run_ranks(threads_world(nodes.size(), nodes), [&](std::size_t rank, threads_communicator& world) {
      Space memory;
      dynamic_module module = model.module(memory, rank == source_rank);
      reports[rank] = initialize<Policy>(module, counted_opener{&model, &opened, rank}, world,
                                         {.bucket_bytes = bucket_bytes,
                                          .source_rank = source_rank,
                                          .source_ranks = source_ranks::per_node,
                                          .replicas = replicas},
                                         {.memory = memory});
      EXPECT_EQ(model.faults_of(module, memory, grid.shards, grid.shard_of(rank)), "") << "rank " << rank;
    });
    EXPECT_EQ(opened, readers);
    std::uint64_t sent = 0;
    std::uint64_t received = 0;
    for (const rank_report& each : reports) {
      EXPECT_EQ(each.bytes_read, each.predicted.bytes_read) << "rank " << each.rank;
      EXPECT_EQ(each.bytes_sent, each.predicted.bytes_sent) << "rank " << each.rank;
      EXPECT_EQ(each.bytes_received, each.predicted.bytes_received) << "rank " << each.rank;
      EXPECT_EQ(each.accounted_peak_bytes, each.predicted.peak_bytes()) << "rank " << each.rank;
      sent += each.bytes_sent;
      received += each.bytes_received;
    }
    EXPECT_EQ(sent, received);
  }
}

TEST(SourcePerNode, EachNodesFirstRankReadsForItsOwn) {
  using scatter = native_sharding<transport::scatter>;
  using broadcast = native_sharding<transport::broadcast>;
  expect_shards<scatter, host_memory>({5, 5, 8, 8}, 1, 0, {1, 0, 1, 0});
  expect_shards<scatter, fake_device_memory>({5, 5, 8, 8}, 1, 0, {1, 0, 1, 0});
  expect_shards<broadcast, host_memory>({5, 5, 8, 8}, 1, 0, {1, 0, 1, 0});
  expect_shards<broadcast, fake_device_memory>({5, 5, 8}, 1, 0, {1, 0, 1});
}

TEST(SourcePerNode, TheSourceRankReadsForItsNode) {
  expect_shards<native_sharding<>, host_memory>({0, 0, 1, 1}, 1, 3, {1, 0, 0, 1});
}

TEST(SourcePerNode, NodesMayTakeTurns) {
  expect_shards<native_sharding<>, host_memory>({0, 1, 0, 1, 2, 2, 2}, 1, 1, {1, 1, 0, 0, 1, 0, 0});
}

TEST(SourcePerNode, ANodeMayHoldAReplicaPartOfOneOrSeveral) {
  expect_shards<native_sharding<>, host_memory>({0, 0, 1, 1}, 2, 0, {1, 0, 1, 0});
  expect_shards<native_sharding<>, host_memory>({0, 1, 2, 3}, 2, 0, {1, 1, 1, 1});
  expect_shards<native_sharding<>, host_memory>({0, 0, 0, 0, 1, 1}, 3, 2, {0, 0, 1, 0, 1, 0});
  expect_shards<native_sharding<>, fake_device_memory>({0, 0, 0, 0, 1, 1}, 3, 2, {0, 0, 1, 0, 1, 0});
}

TEST(SourcePerNode, OnOneNodeIsOneSource) { expect_shards<native_sharding<>, host_memory>({7, 7, 7}, 1, 1, {0, 1, 0}); }

TEST(SourcePerNode, OwnReadsAreNotConcerned) {
  expect_shards<native_sharding<transport::own_read>, host_memory>({0, 0, 1, 1}, 2, 0, {1, 1, 1, 1});
}

TEST(SourcePerNode, NothingThatIsReadCrossesNodes) {
  const reference_model model({{.fqn = "w", .type = dtype::u8, .extents = {4000}},
                               {.fqn = "whole", .type = dtype::u8, .extents = {100}, .how = replicate{}}});
  const std::vector<std::size_t> nodes{0, 0, 1, 1};
  run_ranks(threads_world(4, nodes), [&](std::size_t rank, threads_communicator& world) {
    host_memory memory;
    dynamic_module module = model.module(memory, false);
    const rank_report report =
        initialize(module, model.source(), world, {.source_ranks = source_ranks::per_node}, {.memory = memory});
    const bool is_source = rank % 2 == 0;
    EXPECT_EQ(report.bytes_read, is_source ? 2 * 1000 + 100U : 0U) << "only what its node needs";
    EXPECT_EQ(report.bytes_sent, is_source ? 1000 + 100U : 0U);
    EXPECT_EQ(report.bytes_received, is_source ? 0U : 1000 + 100U);
  });
}

TEST(SourcePerNode, NeedsACommunicatorThatKnowsNodes) {
  const reference_model model({{.fqn = "w", .type = dtype::u8, .extents = {40}}});
  const auto errors = errors_of_ranks(2, [&](std::size_t, threads_communicator& world) {
    minimal_communicator both(world);
    host_memory memory;
    dynamic_module module = model.module(memory, false);
    initialize(module, model.source(), both, {.source_ranks = source_ranks::per_node}, {.memory = memory});
  });
  for (const auto& each : errors) {
    ASSERT_TRUE(each.has_value());
    EXPECT_EQ(each->code(), errc::invalid_argument);
    EXPECT_STREQ(each->what(),
                 "source_ranks: one source per node needs a data communicator that knows nodes (node_of) and works in "
                 "groups; use "
                 "source_ranks::one");
  }
}

}  // namespace
}  // namespace node_sources_test
