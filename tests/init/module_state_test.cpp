#include "support/expect_predicted.hpp"
#include "support/fake_device_memory.hpp"
#include "support/reference_model.hpp"
#include <fsdpinit/fsdpinit.hpp>
#include <fsdpinit/testing/rank_harness.hpp>

#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace module_state_test {
namespace {

using namespace fsdpinit;
using namespace fsdpinit::testing_support;
using fsdpinit::testing::errors_of_ranks;
using fsdpinit::testing::run_ranks;

/// The source rank (or every rank) has loaded the model; all initialise from that.
template <class Policy, class Space>
void expect_shards(const reference_model& model, std::size_t ranks, const options& how) {
  SCOPED_TRACE(concat(Policy::name, ", ", ranks, " ranks, buckets of ", how.bucket_bytes));
  const mesh grid{.shards = ranks / how.replicas, .replicas = how.replicas};
  run_ranks(ranks, [&](std::size_t rank, threads_communicator& world) {
    Space memory;
    const bool is_source = rank == how.source_rank;
    dynamic_module module = model.module(memory, is_source);
    if (is_source || Policy::every_rank_reads) {
      model.load(module, memory);
    }
    const rank_report report = initialize<Policy>(module, module_state{}, world, how, {.memory = memory});
    EXPECT_EQ(model.faults_of(module, memory, grid.shards, grid.shard_of(rank)), "") << "rank " << rank;
    EXPECT_EQ(memory.accounted(), report.predicted.slab_bytes) << "rank " << rank << " still holds what it gave away";
    expect_as_predicted(report);
  });
}

template <class Space>
void expect_shards_in_every_way(bool release_source) {
  const reference_model model = varied_model();
  for (const std::size_t shards : {1U, 2U, 3U, 7U}) {
    for (const std::size_t replicas : {1U, 2U}) {
      for (const std::uint64_t bucket_bytes : {std::uint64_t{37}, 4 * mib}) {
        const options how{.bucket_bytes = bucket_bytes,
                          .source_rank = shards * replicas - 1,
                          .replicas = replicas,
                          .release_source = release_source};
        expect_shards<native_sharding<transport::scatter>, Space>(model, shards * replicas, how);
        expect_shards<native_sharding<transport::broadcast>, Space>(model, shards * replicas, how);
        expect_shards<cpu_ram_efficient_loading<>, Space>(model, shards * replicas, how);
        expect_shards<every_rank_loads, Space>(model, shards * replicas, how);
      }
    }
  }
}

TEST(ModuleState, GivesTheSameShardsAsACheckpoint) { expect_shards_in_every_way<host_memory>(true); }
TEST(ModuleState, GivesTheSameShardsFromDeviceMemory) { expect_shards_in_every_way<fake_device_memory>(true); }
TEST(ModuleState, ThatIsKeptGivesThemToo) { expect_shards_in_every_way<host_memory>(false); }

TEST(ModuleState, MayBeAnotherOnEachRankWhereEveryRankLoads) {
  const reference_model model({{.fqn = "w", .type = dtype::u8, .extents = {12}}});
  run_ranks(3, [&](std::size_t rank, threads_communicator& world) {
    host_memory memory;
    dynamic_module module = model.module(memory, false);
    model.load(module, memory);
    const auto own = static_cast<std::byte>(rank);
    std::fill_n(module.get_parameter("w").data(), 12, own);
    initialize<every_rank_loads>(module, module_state{}, world, {}, {.memory = memory});
    EXPECT_EQ(bytes_in(memory, module.get_parameter("w").local()), std::vector<std::byte>(4, own));
  });
}

/// The bytes that the source still holds when that many have been taken from it.
struct held_at {
  std::uint64_t taken;
  std::uint64_t held;
};
struct state_watch {
  const host_memory* state;
  std::vector<held_at>* seen;
  void phase(std::string_view) {}
  void progress(std::uint64_t done, std::uint64_t) { seen->push_back({done, state->accounted()}); }
};

TEST(ModuleState, IsReleasedTensorByTensorAsItsLastBytesLeave) {
  std::vector<reference_tensor> tensors;
  for (int i = 0; i < 8; ++i) {
    tensors.push_back({.fqn = concat("layers.", i, ".w"), .type = dtype::u8, .extents = {1000}});
  }
  const reference_model model(std::move(tensors));
  std::vector<held_at> seen;
  run_ranks(4, [&](std::size_t rank, threads_communicator& world) {
    host_memory state;
    host_memory memory;
    dynamic_module module = model.module(memory, false);
    if (rank == 0) {
      model.load(module, state);
    }
    std::vector<held_at> unused;
    initialize(module, module_state{}, world, {.bucket_bytes = 400, .progress_interval_seconds = 0},
               {.memory = memory, .observer = state_watch{&state, rank == 0 ? &seen : &unused}});
  });
  ASSERT_GT(seen.size(), 40U);
  for (const held_at& each : seen) {
    // Besides what has not been taken there is only the tensor that a bucket ends in.
    EXPECT_LE(each.held, 8000 - each.taken + 1000);
    EXPECT_GE(each.held, 8000 - each.taken);
  }
}

/// Fails on the source rank once some bytes have moved.
struct watch_that_fails {
  bool fails;
  void phase(std::string_view) {}
  void progress(std::uint64_t done, std::uint64_t total) const {
    if (fails && done > total / 2) {
      throw error(errc::io, "layers.1.w", "unplugged");
    }
  }
};

reference_model two_layers() {
  return reference_model(
      {{.fqn = "layers.0.w", .type = dtype::u8, .extents = {400}},
       {.fqn = "layers.1.w", .type = dtype::u8, .extents = {400}},
       {.fqn = "mask", .type = dtype::u8, .extents = {3}, .role = slot_role::non_persistent_buffer}});
}

TEST(ModuleState, ThatIsPartlyGoneMakesAFailureFinalAndSaysSoOnEveryRank) {
  const reference_model model = two_layers();
  const auto errors = errors_of_ranks(3, [&](std::size_t rank, threads_communicator& world) {
    host_memory state;
    dynamic_module module = model.module(state, rank == 1);
    if (rank == 1) {
      model.load(module, state);
    }
    host_memory memory;
    try {
      initialize(module, module_state{}, world, {.bucket_bytes = 30, .source_rank = 1, .progress_interval_seconds = 0},
                 {.memory = memory, .observer = watch_that_fails{rank == 1}});
    } catch (...) {
      EXPECT_TRUE(module.get_parameter("layers.0.w").is_meta());
      EXPECT_TRUE(module.get_parameter("layers.1.w").is_meta());
      EXPECT_EQ(module.get_buffer("mask").is_meta(), rank != 1) << "buffers keep their values until the commit";
      EXPECT_EQ(memory.accounted(), 0U);
      throw;
    }
  });
  for (const auto& each : errors) {
    ASSERT_TRUE(each.has_value());
    EXPECT_EQ(each->code(), errc::source_consumed);
    EXPECT_STREQ(
        each->what(),
        "layers.1.w: unplugged; a part of the module's own state, the source, was released before: load it again, or "
        "set release_source = false (rank 1)");
  }
}

TEST(ModuleState, ThatIsKeptAllowsASecondAttempt) {
  const reference_model model = two_layers();
  run_ranks(3, [&](std::size_t rank, threads_communicator& world) {
    host_memory memory;
    dynamic_module module = model.module(memory, rank == 0);
    if (rank == 0) {
      model.load(module, memory);
    }
    const options how{.bucket_bytes = 30, .release_source = false, .progress_interval_seconds = 0};
    EXPECT_THROW(
        initialize(module, module_state{}, world, how, {.memory = memory, .observer = watch_that_fails{rank == 0}}),
        error);
    EXPECT_EQ(module.get_parameter("layers.0.w").is_meta(), rank != 0);
    initialize(module, module_state{}, world, how, {.memory = memory});
    EXPECT_EQ(model.faults_of(module, memory, 3, rank), "") << "rank " << rank;
  });
}

TEST(ModuleState, WhoseParametersWereEditedGivesTheEditedValues) {
  const reference_model before({{.fqn = "embed", .type = dtype::f32, .extents = {5, 3}}});
  const reference_model after({{.fqn = "embed", .type = dtype::f32, .extents = {9, 3}}});
  run_ranks(2, [&](std::size_t rank, threads_communicator& world) {
    host_memory memory;
    dynamic_module module = before.module(memory, false);
    if (rank == 0) {
      before.load(module, memory);
    }
    // New words: every rank resizes its embedding, the source rank has values for it.
    module.get_parameter("embed") = parameter(dtype::f32, {9, 3});
    if (rank == 0) {
      after.load(module, memory);
    }
    initialize<cpu_ram_efficient_loading<>>(module, module_state{}, world, {}, {.memory = memory});
    EXPECT_EQ(after.faults_of(module, memory, 2, rank), "");
  });
}

TEST(ModuleState, OnMetaIsAnErrorBeforeAnythingIsDropped) {
  const reference_model model = two_layers();
  const auto errors = errors_of_ranks(2, [&](std::size_t rank, threads_communicator& world) {
    host_memory memory;
    dynamic_module module = model.module(memory, true);
    model.load(module, memory);
    if (rank == 0) {
      module.get_parameter("layers.1.w").drop();
    }
    try {
      initialize(module, module_state{}, world, {}, {.memory = memory});
    } catch (...) {
      EXPECT_FALSE(module.get_parameter("layers.0.w").is_meta()) << "rank " << rank;
      throw;
    }
  });
  for (const auto& each : errors) {
    ASSERT_TRUE(each.has_value());
    EXPECT_EQ(each->code(), errc::missing_tensor);
    EXPECT_STREQ(
        each->what(),
        "layers.1.w: the module has no values of it on the source rank; load it there first, or give a checkpoint as "
        "the source (rank 0)");
  }
}

TEST(ModuleState, OfAShardedModuleIsAnError) {
  const reference_model model = two_layers();
  const auto errors = errors_of_ranks(2, [&](std::size_t rank, threads_communicator& world) {
    host_memory memory;
    dynamic_module module = model.module(memory, rank == 0);
    initialize(module, model.source(), world, {}, {.memory = memory});
    initialize(module, module_state{}, world, {}, {.memory = memory});
  });
  for (const auto& each : errors) {
    ASSERT_TRUE(each.has_value());
    EXPECT_EQ(each->code(), errc::invalid_argument);
    EXPECT_STREQ(
        each->what(),
        "layers.0.w: the module holds 200 bytes of [400] U8, which takes 400; a module that is sharded already cannot "
        "be the source (rank 0)");
  }
}

}  // namespace
}  // namespace module_state_test
