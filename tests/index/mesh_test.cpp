#include "support/reference_model.hpp"
#include <fsdpinit/core.hpp>
#include <fsdpinit/plan/rank_groups.hpp>

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <vector>

namespace mesh_test {
namespace {

using namespace fsdpinit;

using ranks_t = std::vector<std::size_t>;

TEST(Mesh, RanksGoAlongShardsFirst) {
  const mesh ranks{.shards = 4, .replicas = 3};
  EXPECT_EQ(ranks.size(), 12U);
  for (std::size_t rank = 0; rank < ranks.size(); ++rank) {
    EXPECT_EQ(ranks.rank_of(ranks.replica_of(rank), ranks.shard_of(rank)), rank);
  }
  EXPECT_EQ(ranks.replica_of(7), 1U);
  EXPECT_EQ(ranks.shard_of(7), 3U);
}

TEST(RankGroups, OfOneReplicaAreAllRanks) {
  const rank_groups groups = groups_of({.shards = 3}, {.source_rank = 2}, 1);
  EXPECT_EQ(groups.source, 2U);
  EXPECT_TRUE(groups.served.empty());
  EXPECT_TRUE(groups.scatter.empty());
  EXPECT_EQ(groups.replicas, (ranks_t{1}));
}

TEST(RankGroups, ScatterIsForTheSourcesReplicaAndTheOthersWaitForTheirs) {
  const mesh ranks{.shards = 2, .replicas = 3};
  EXPECT_EQ(groups_of(ranks, {.source_rank = 3}, 2).scatter, (ranks_t{2, 3}));
  EXPECT_EQ(groups_of(ranks, {.source_rank = 3}, 4).scatter, (ranks_t{4}));
  EXPECT_EQ(groups_of(ranks, {.source_rank = 3}, 4).replicas, (ranks_t{0, 2, 4}));
  EXPECT_TRUE(groups_of(ranks, {.source_rank = 3}, 4).served.empty());
}

TEST(RankGroups, WithoutGroupsTheSourceSendsToAll) {
  const mesh ranks{.shards = 2, .replicas = 2};
  EXPECT_TRUE(groups_of(ranks, {.grouped = false}, 3).scatter.empty());
}

TEST(RankGroups, EachSourceHasThoseItServes) {
  const mesh ranks{.shards = 4};
  const source_layout source_ranks{.source_rank = 1, .source_of = {0, 1, 0, 1}};
  EXPECT_EQ(groups_of(ranks, source_ranks, 2).source, 0U);
  EXPECT_EQ(groups_of(ranks, source_ranks, 2).scatter, (ranks_t{0, 2}));
  EXPECT_EQ(groups_of(ranks, source_ranks, 1).served, (ranks_t{1, 3}));
}

// -- routes

constexpr std::uint64_t shards = 4;

TEST(Routes, WholeTensorsAreBroadcastUnlessAllAre) {
  constexpr routed_tensor whole{.chunk_bytes = 2 * mib, .whole = true};
  for (const fsdpinit::transport kind : {transport::scatter, transport::own_read, transport::automatic}) {
    EXPECT_EQ(route_of(whole, kind, shards), route::broadcast) << name(kind);
  }
  EXPECT_EQ(route_of(whole, transport::own_read, 1), route::own_read);
  EXPECT_EQ(route_of(whole, transport::automatic, 1), route::own_read);
  EXPECT_EQ(route_of(whole, transport::scatter, 1), route::broadcast);
}

TEST(Routes, CapturedTensorsAreBroadcastAlways) {
  for (const fsdpinit::transport kind :
       {transport::scatter, transport::broadcast, transport::own_read, transport::automatic, transport::none}) {
    EXPECT_EQ(route_of({.chunk_bytes = 2 * mib, .whole = true, .from_buffer = true}, kind, 1), route::broadcast);
  }
}

TEST(Routes, AutomaticReadsChunksOfAMebibyteOnTheirRanksAndScattersSmallerOnes) {
  EXPECT_EQ(route_of({.chunk_bytes = 1 * mib}, transport::automatic, shards), route::own_read);
  EXPECT_EQ(route_of({.chunk_bytes = 1 * mib - 1}, transport::automatic, shards), route::scatter);
}

TEST(Routes, AreToldInWords) {
  const plan made = make_plan({{.fqn = "a", .dtype = dtype::u8, .shape = {8 * mib}},
                               {.fqn = "b", .dtype = dtype::u8, .shape = {100}},
                               {.fqn = "c", .dtype = dtype::u8, .shape = {8}}},
                              {.ranks = {.shards = 4}, .transport = transport::automatic});
  EXPECT_EQ(
      routes_of(made),
      "1 tensor, 8388608 bytes: read by each rank (chunks of 1 MiB or more); 2 tensors, 108 bytes: scattered (smaller "
      "chunks)");
}

// -- predictions on meshes

std::vector<tensor_request> two_tensors() {
  return {{.fqn = "w", .dtype = dtype::u8, .shape = {8000}},
          {.fqn = "p", .dtype = dtype::u8, .shape = {100}, .placement = replicate{}}};
}

prediction predicted(const plan_options& how, std::size_t rank) { return predict(make_plan(two_tensors(), how), rank); }

TEST(MeshPrediction, TheSourceSendsTheModelOnceAndItsReplicaPassesItOn) {
  const plan_options how{.ranks = {.shards = 4, .replicas = 3}, .bucket_bytes = 1024};
  EXPECT_EQ(predicted(how, 0).bytes_sent, 3U * 2000 + 2 * 2000 + 11 * 100);
  EXPECT_EQ(predicted(how, 2).bytes_sent, 2U * 2000);
  EXPECT_EQ(predicted(how, 2).bytes_received, 2000U + 100);
  EXPECT_EQ(predicted(how, 7).bytes_sent, 0U);
  EXPECT_EQ(predicted(how, 7).bytes_received, 2000U + 100);
  EXPECT_EQ(predicted(how, 0).bytes_read, 8100U);
}

TEST(MeshPrediction, ReplicasShareTheReading) {
  const plan_options how{.ranks = {.shards = 4, .replicas = 2}, .transport = transport::own_read, .bucket_bytes = 1000};
  std::uint64_t read = 0;
  for (std::size_t rank = 0; rank < 8; ++rank) {
    const prediction each = predicted(how, rank);
    EXPECT_EQ(each.bytes_received, 1000U + (rank == 0 ? 0 : 100)) << "half of its part from its replica";
    read += each.bytes_read;
  }
  EXPECT_EQ(read, 8100U);
}

TEST(MeshPrediction, OwnReadsOfOneReplicaMoveNothingAndNeedNoStaging) {
  const plan_options how{.ranks = {.shards = 4}, .transport = transport::own_read, .bucket_bytes = 1024};
  const plan made = make_plan({{.fqn = "w", .dtype = dtype::u8, .shape = {8000}}}, how);
  for (std::size_t rank = 0; rank < 4; ++rank) {
    const prediction each = predict(made, rank);
    EXPECT_EQ(each.bytes_read, 2000U);
    EXPECT_EQ(each.bytes_sent + each.bytes_received, 0U);
    EXPECT_EQ(each.slot_bytes, 0U);
  }
}

TEST(MeshPrediction, WithSeveralSourcesEachReadsWhatItsRanksNeed) {
  const plan_options how{
      .ranks = {.shards = 4}, .source_ranks = {.source_rank = 0, .source_of = {0, 0, 2, 2}}, .bucket_bytes = 1024};
  EXPECT_EQ(predicted(how, 0).bytes_read, 4000U + 100);
  EXPECT_EQ(predicted(how, 2).bytes_read, 4000U + 100);
  EXPECT_EQ(predicted(how, 2).bytes_sent, 2000U + 100);
  EXPECT_EQ(predicted(how, 3).bytes_received, 2000U + 100);
}

TEST(MeshPrediction, WhatIsSentIsReceivedOnEveryMesh) {
  const testing_support::reference_model model = testing_support::varied_model();
  std::vector<tensor_request> requests;
  for (const testing_support::reference_tensor& tensor : model.tensors()) {
    requests.push_back({.fqn = tensor.fqn,
                        .dtype = tensor.type,
                        .shape = tensor.extents,
                        .placement = tensor.role == slot_role::parameter ? tensor.how : placement(replicate{}),
                        .from_buffer = tensor.from_buffer()});
  }
  for (const fsdpinit::transport transport :
       {transport::scatter, transport::broadcast, transport::own_read, transport::automatic}) {
    for (const std::size_t replicas : {1U, 2U, 3U}) {
      for (const bool grouped : {true, false}) {
        for (const bool several : {false, true}) {
          const mesh ranks{.shards = 4, .replicas = replicas};
          source_layout source_ranks{.source_rank = 1, .grouped = grouped || several};
          for (std::size_t rank = 0; several && rank < ranks.size(); ++rank) {
            source_ranks.source_of.push_back(rank % 3 == 0 ? 0 : 1);
          }
          const plan made = make_plan(
              requests, {.ranks = ranks, .source_ranks = source_ranks, .transport = transport, .bucket_bytes = 300});
          std::uint64_t sent = 0;
          std::uint64_t received = 0;
          for (std::size_t rank = 0; rank < ranks.size(); ++rank) {
            sent += predict(made, rank).bytes_sent;
            received += predict(made, rank).bytes_received;
          }
          EXPECT_EQ(sent, received) << name(transport) << " " << replicas << " " << grouped << " " << several;
        }
      }
    }
  }
}

}  // namespace
}  // namespace mesh_test
