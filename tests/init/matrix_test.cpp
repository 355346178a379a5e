#include "support/expect_predicted.hpp"
#include "support/fake_device_memory.hpp"
#include "support/reference_model.hpp"
#include "support/sanitizers.hpp"
#include <fsdpinit/fsdpinit.hpp>
#include <fsdpinit/plan/program_regions.hpp>
#include <fsdpinit/testing/rank_harness.hpp>

#include <gtest/gtest.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace matrix_test {
namespace {

using namespace fsdpinit;
using namespace fsdpinit::testing_support;
using fsdpinit::testing::run_ranks;

/// Sums over the ranks of one run.
struct totals {
  std::atomic<std::uint64_t> read{0};
  std::atomic<std::uint64_t> sent{0};
  std::atomic<std::uint64_t> received{0};
};

/// Initialises on `ranks` ranks and compares everything with the naive reference.
template <class Policy, class Space>
void expect_exact(const reference_model& model, std::size_t ranks, const options& how) {
  SCOPED_TRACE(concat(Policy::name, " ", name(Policy::transport), ", ", ranks, " ranks, ", how.replicas,
                      " replicas, buckets of ", how.bucket_bytes, ", ", how.buckets_in_flight, " in flight, source ",
                      how.source_rank, Space::host_accessible ? ", host" : ", device"));
  const mesh grid{.shards = ranks / how.replicas, .replicas = how.replicas};
  constexpr bool relayed = GroupCommunicator<threads_communicator>;
  totals sums;
  run_ranks(ranks, [&](std::size_t rank, threads_communicator& world) {
    Space memory;
    const bool is_source = rank == how.source_rank;
    dynamic_module module = model.module(memory, is_source);
    const std::uint64_t before = memory.accounted();
    const rank_report report = initialize<Policy>(module, model.source(), world, how, {.memory = memory});

    EXPECT_EQ(model.faults_of(module, memory, grid.shards, grid.shard_of(rank)), "") << "rank " << rank;
    const naive_traffic wanted = model.traffic(Policy::transport, grid, how.source_rank, rank, relayed);
    if (wanted.own_reads == 0) {
      EXPECT_EQ(report.bytes_read, wanted.read) << "rank " << rank;
      EXPECT_EQ(report.bytes_sent, wanted.sent) << "rank " << rank;
      EXPECT_EQ(report.bytes_received, wanted.received) << "rank " << rank;
    } else if (!relayed || grid.replicas == 1) {
      EXPECT_GE(report.bytes_read, wanted.read + wanted.own_reads) << "rank " << rank;
      EXPECT_LE(report.bytes_read, wanted.read + 2 * wanted.own_reads) << "rank " << rank;
      EXPECT_EQ(report.bytes_sent, wanted.sent) << "rank " << rank;
      EXPECT_EQ(report.bytes_received, wanted.received) << "rank " << rank;
    }
    expect_as_predicted(report);
    sums.read += report.bytes_read;
    sums.sent += report.bytes_sent;
    sums.received += report.bytes_received;

    std::uint64_t shard_bytes = 0;
    for (const reference_tensor& tensor : model.tensors()) {
      shard_bytes += model.expected_bytes(tensor, grid.shards, grid.shard_of(rank));
    }
    EXPECT_EQ(report.predicted.shard_bytes, shard_bytes) << "rank " << rank;
    if (Policy::transport != transport::none) {
      EXPECT_LE(report.accounted_peak_bytes,
                report.predicted.slab_bytes + how.buckets_in_flight * how.bucket_bytes + scratch_bound);
    }
    // What is left is the slabs; the values that the source's own buffers had before went back.
    EXPECT_EQ(memory.accounted(), report.predicted.slab_bytes) << "rank " << rank << ", " << before << " before";
  });
  EXPECT_EQ(sums.sent, sums.received);
  if (relayed && grid.replicas > 1 &&
      (Policy::transport == transport::own_read || Policy::transport == transport::automatic)) {
    // Every byte is read once, but for gaps that are read along; each replica but the reader gets it from the reader.
    std::uint64_t once = 0;
    std::uint64_t passed_on = 0;
    for (std::size_t rank = 0; rank < ranks; ++rank) {
      const naive_traffic wanted = model.traffic(Policy::transport, grid, how.source_rank, rank, relayed);
      once += wanted.read + (grid.replica_of(rank) == 0 ? wanted.own_reads : 0);
      passed_on += wanted.received;
    }
    for (const reference_tensor& tensor : model.tensors()) {
      for (std::size_t rank = grid.shards; rank < ranks; ++rank) {
        passed_on += model.is_read_by_each(tensor, Policy::transport, grid)
                         ? model.expected_bytes(tensor, grid.shards, grid.shard_of(rank))
                         : 0;
      }
    }
    EXPECT_GE(sums.read, once);
    EXPECT_LE(sums.read, 2 * once);
    EXPECT_EQ(sums.received, passed_on);
  }
}

template <class Space>
void expect_exact_with_every_policy(const reference_model& model, std::size_t ranks, const options& how) {
  expect_exact<native_sharding<transport::scatter>, Space>(model, ranks, how);
  expect_exact<native_sharding<transport::broadcast>, Space>(model, ranks, how);
  expect_exact<native_sharding<transport::own_read>, Space>(model, ranks, how);
  expect_exact<native_sharding<transport::automatic>, Space>(model, ranks, how);
  expect_exact<every_rank_loads, Space>(model, ranks, how);
}

template <class Space>
void expect_exact_in_every_cell() {
  using counts = std::vector<std::size_t>;
  const reference_model model = varied_model();
  // Sanitizers are not there to compare bytes.
  for (const std::size_t shards : is_sanitized ? counts{1, 3, 7} : counts{1, 2, 3, 4, 7}) {
    for (const std::size_t replicas : is_sanitized ? counts{1, 2} : counts{1, 2, 3}) {
      for (const std::uint64_t bucket_bytes : is_sanitized ? counts{11, 4 * kib} : counts{11, 509, 4 * kib, 1 * mib}) {
        expect_exact_with_every_policy<Space>(
            model, shards * replicas,
            {.bucket_bytes = bucket_bytes, .source_rank = (shards * replicas) / 2, .replicas = replicas});
      }
    }
  }
}

TEST(Matrix, EveryPolicyTransportRankCountAndBucketGivesTheSameBytesInHostMemory) {
  expect_exact_in_every_cell<host_memory>();
}

TEST(Matrix, EveryPolicyTransportRankCountAndBucketGivesTheSameBytesInDeviceMemory) {
  expect_exact_in_every_cell<fake_device_memory>();
}

TEST(Matrix, AnyRankMayBeTheSource) {
  const reference_model model = varied_model();
  for (const std::size_t source : {1U, 2U, 3U}) {
    const options how{.bucket_bytes = 211, .source_rank = source};
    expect_exact_with_every_policy<host_memory>(model, 4, how);
    expect_exact_with_every_policy<fake_device_memory>(model, 4, how);
  }
}

TEST(Matrix, AnyNumberOfBucketsMayBeInFlight) {
  const reference_model model = varied_model();
  for (const std::size_t in_flight : {1U, 3U, 5U, 1000U}) {
    const options how{.bucket_bytes = 97, .buckets_in_flight = in_flight};
    expect_exact_with_every_policy<host_memory>(model, 3, how);
    expect_exact_with_every_policy<fake_device_memory>(model, 3, how);
  }
}

TEST(Matrix, ATieMayBeStoredUnderAnyOfItsNames) {
  for (const std::vector<std::string>& stored :
       {std::vector<std::string>{"embed.weight"}, {"head.weight"}, {"head.weight", "embed.weight"}}) {
    const reference_model model = varied_model(stored);
    for (const std::uint64_t bucket_bytes : {std::uint64_t{13}, 4 * mib}) {
      expect_exact_with_every_policy<host_memory>(model, 3, {.bucket_bytes = bucket_bytes});
    }
  }
}

TEST(Matrix, TiedTensorsShardedOnAnInnerDimAreComparedToo) {
  const reference_model model({{.fqn = "a",
                                .type = dtype::f32,
                                .extents = {5, 12},
                                .how = shard{1},
                                .tied = {"b", "c"},
                                .stored_as = {"c", "a", "b"}}});
  for (const std::uint64_t bucket_bytes : {std::uint64_t{10}, std::uint64_t{55}, 4 * mib}) {
    expect_exact_with_every_policy<host_memory>(model, 4, {.bucket_bytes = bucket_bytes});
  }
}

TEST(Matrix, AModelOfSeveralFullBucketsOfFourMebibytes) {
  std::vector<reference_tensor> tensors;
  for (int i = 0; i < 3; ++i) {
    tensors.push_back({.fqn = concat("layers.", i, ".up"), .type = dtype::bf16, .extents = {1021, 2048}});
    // Rows of 5,600 bytes, a multiple of no alignment, taken apart in blocks of the scratch memory.
    tensors.push_back(
        {.fqn = concat("layers.", i, ".down"), .type = dtype::f32, .extents = {301, 1400}, .how = shard{1}});
  }
  // One row is longer than the scratch memory.
  tensors.push_back({.fqn = "wide", .type = dtype::u8, .extents = {3, 300 * kib}, .how = shard{1}});
  const reference_model model(std::move(tensors));
  expect_exact_with_every_policy<host_memory>(model, 4, {});
  expect_exact<native_sharding<>, fake_device_memory>(model, 4, {});
}

TEST(Matrix, AModelWithoutTensorsIsInitialised) {
  expect_exact_with_every_policy<host_memory>(reference_model({}), 3, {});
}

TEST(Matrix, AModelWithoutAByteIsInitialised) {
  const reference_model model({{.fqn = "a", .extents = {0, 3}}, {.fqn = "b", .extents = {3, 0}, .how = replicate{}}});
  expect_exact_with_every_policy<host_memory>(model, 3, {});
  expect_exact_with_every_policy<fake_device_memory>(model, 3, {});
}

}  // namespace
}  // namespace matrix_test
