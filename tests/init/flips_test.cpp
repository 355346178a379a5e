#include "support/fake_device_memory.hpp"
#include "support/reference_model.hpp"
#include "support/test_seed.hpp"
#include <fsdpinit/core/xxh3.hpp>  // verification is by this
#include <fsdpinit/fsdpinit.hpp>
#include <fsdpinit/testing/corruption.hpp>
#include <fsdpinit/testing/rank_harness.hpp>

#include <gtest/gtest.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <map>
#include <optional>
#include <random>
#include <vector>

/// \file
/// One bit is changed on its way to one rank: verification catches it, or it was of bytes that the rank does not keep.

namespace flips_test {
namespace {

using namespace fsdpinit;
using namespace fsdpinit::testing_support;
using fsdpinit::testing::bit_flip;
using fsdpinit::testing::corrupting_communicator;
using fsdpinit::testing::corrupting_memory;
using fsdpinit::testing::errors_of_ranks;

constexpr std::uint64_t flips_wanted = 2500;

/// Shards of both kinds, whole tensors, a non-persistent buffer; some of several buckets.
reference_model small_model() {
  return reference_model({
      {.fqn = "embed", .type = dtype::bf16, .extents = {9, 5}, .tied = {"head"}},
      {.fqn = "rope", .type = dtype::f32, .extents = {4, 3}, .role = slot_role::non_persistent_buffer},
      {.fqn = "mean", .type = dtype::f32, .extents = {15}, .role = slot_role::persistent_buffer},
      {.fqn = "up", .type = dtype::u8, .extents = {2, 24}, .how = shard{1}},
      {.fqn = "down", .type = dtype::f16, .extents = {6, 7}},
  });
}

struct tally {
  std::uint64_t caught = 0;
  std::uint64_t harmless = 0;  ///< nobody keeps that bit
  std::uint64_t missed = 0;    ///< no error, and a wrong module
};

/// Where the wrong bit is put in.
enum class at : std::uint8_t { communicator, memory };

template <class Policy, class Space>
class flipping {
 public:
  flipping(at where, std::mt19937_64& random) : where_(where), random_(random) {}

  /// Changes a random bit of what a random rank of a random mesh gets there, if it gets anything.
  void flip_one(tally& counts) {
    const mesh grid{.shards = 1 + random_() % 3, .replicas = 1 + random_() % 2};
    const std::size_t victim = random_() % grid.size();
    const auto [known, is_new] = calls_.try_emplace({grid.shards, grid.replicas, victim});
    if (is_new) {
      known->second = attempt(grid, victim, std::nullopt, 0).calls;
    }
    if (known->second == 0) {
      return;
    }
    const outcome got = attempt(grid, victim, random_() % known->second, random_());
    counts.caught += got.corrupted ? 1 : 0;
    counts.harmless += !got.corrupted && !got.wrong ? 1 : 0;
    counts.missed += got.wrong ? 1 : 0;
  }

 private:
  struct outcome {
    std::uint64_t calls = 0;
    bool corrupted = false;  // error{corrupted}, the same on every rank
    bool wrong = false;      // another error, or a module that holds other bytes than it should
  };

  outcome attempt(const mesh& grid, std::size_t victim, std::optional<std::uint64_t> call, std::uint64_t bit) {
    const bit_flip flip{.bit = bit};
    if (call) {
      flip.counter.fail_at(*call);
    }
    const threads_world world(grid.size());
    std::vector<char> right(grid.size(), 0);
    const auto errors = errors_of_ranks(world, [&](std::size_t rank, threads_communicator& comm) {
      const bit_flip none;
      Space plain;
      corrupting_communicator data(comm, where_ == at::communicator && rank == victim ? flip : none);
      const corrupting_memory<Space> memory(plain, where_ == at::memory && rank == victim ? flip : none);
      dynamic_module module = model_.module(plain, rank == 0);
      initialize<Policy>(module, model_.source(), channels{data, comm},
                         {.bucket_bytes = 50, .replicas = grid.replicas, .verify = verification::transfer},
                         {.memory = memory});
      right[rank] = model_.faults_of(module, plain, grid.shards, grid.shard_of(rank)).empty() ? 1 : 0;
    });
    std::size_t corrupted = 0;
    std::size_t fine = 0;
    for (std::size_t rank = 0; rank < grid.size(); ++rank) {
      const std::optional<error>& thrown = errors[rank];
      corrupted += thrown && thrown->code() == errc::corrupted && thrown->rank() == errors[0]->rank() ? 1 : 0;
      fine += !thrown && right[rank] != 0 ? 1 : 0;
    }
    return {.calls = flip.counter.calls(),
            .corrupted = corrupted == grid.size(),
            .wrong = corrupted != grid.size() && fine != grid.size()};
  }

  reference_model model_ = small_model();
  at where_;
  std::mt19937_64& random_;
  std::map<std::array<std::size_t, 3>, std::uint64_t> calls_;  // of a clean run: by shards, replicas and victim
};

/// So many are caught, none is missed.
template <class Policy, class Space>
void expect_caught(at where, std::uint64_t wanted) {
  std::mt19937_64 random(test_seed());
  tally counts;
  flipping<Policy, Space> flips(where, random);
  for (std::uint64_t i = 0; counts.caught < wanted && counts.missed == 0 && i < 20 * wanted; ++i) {
    flips.flip_one(counts);
  }
  std::printf("%llu flips caught, %llu of bits that nobody keeps\n", static_cast<unsigned long long>(counts.caught),
              static_cast<unsigned long long>(counts.harmless));
  EXPECT_GE(counts.caught, wanted);
  EXPECT_EQ(counts.missed, 0U);
}

TEST(Flips, InAScatterAreCaught) {
  expect_caught<native_sharding<transport::scatter>, host_memory>(at::communicator, flips_wanted);
}

TEST(Flips, InABroadcastAreCaught) {
  expect_caught<native_sharding<transport::broadcast>, host_memory>(at::communicator, flips_wanted);
}

TEST(Flips, InWhatReplicasPassOnAreCaught) {
  expect_caught<native_sharding<transport::own_read>, host_memory>(at::communicator, flips_wanted / 2);
}

TEST(Flips, WhilePlacingAreCaught) {
  expect_caught<native_sharding<transport::scatter>, fake_device_memory>(at::memory, flips_wanted / 2);
  expect_caught<native_sharding<transport::broadcast>, host_memory>(at::memory, flips_wanted / 2);
  expect_caught<native_sharding<transport::own_read>, fake_device_memory>(at::memory, flips_wanted / 4);
  expect_caught<every_rank_loads, host_memory>(at::memory, flips_wanted / 4);
}

}  // namespace
}  // namespace flips_test
