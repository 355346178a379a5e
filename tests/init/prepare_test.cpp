#include "support/fake_device_memory.hpp"
#include "support/reference_model.hpp"
#include <fsdpinit/fsdpinit.hpp>
#include <fsdpinit/testing/rank_harness.hpp>

#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <string>
#include <vector>

namespace prepare_test {
namespace {

using namespace fsdpinit;
using namespace fsdpinit::testing_support;
using fsdpinit::testing::run_ranks;

TEST(Prepare, ShardsWhatLoadPretrainedHasLoaded) {
  const reference_model model = varied_model();
  for (const bool active : {true, false}) {
    run_ranks(3, [&](std::size_t rank, threads_communicator& world) {
      host_memory memory;
      dynamic_module module = model.module(memory, rank == 1);
      load_pretrained(module, model.source(), world, {.active = active, .source_rank = 1}, {}, {.memory = memory});
      const rank_report report = prepare(module, world, {.bucket_bytes = 100, .source_rank = 1}, {.memory = memory});
      EXPECT_EQ(model.faults_of(module, memory, 3, rank), "") << "rank " << rank;
      EXPECT_EQ(report.policy, "cpu-ram-efficient-loading");
      EXPECT_EQ(memory.accounted(), report.predicted.slab_bytes) << "rank " << rank;
    });
  }
}

TEST(Prepare, TakesEditsOfTheSourceRankAndOfNoOther) {
  const reference_model model({{.fqn = "w", .type = dtype::u8, .extents = {40}}});
  run_ranks(2, [&](std::size_t rank, threads_communicator& world) {
    host_memory memory;
    dynamic_module module = model.module(memory, false);
    load_pretrained(module, model.source(), world, {.active = false}, {}, {.memory = memory});
    // Every rank edits its own copy; as with any replicated state, the source rank's counts.
    std::memset(module.get_parameter("w").data(), rank == 0 ? 7 : 9, 40);
    prepare(module, world, {}, {.memory = memory});
    const local_shard& mine = module.get_parameter("w").local();
    EXPECT_EQ(std::count(mine.data.get(), mine.data.get() + mine.bytes, std::byte{7}), 20);
  });
}

TEST(Prepare, TakesAMergedAdapter) {
  // w += up * down, as LoRA's merge does; on the rank that has values.
  const reference_model model({{.fqn = "w", .type = dtype::f32, .extents = {4, 3}}});
  std::vector<float> wanted(12);
  for (std::size_t i = 0; i < 12; ++i) {
    wanted[i] = static_cast<float>(i) + static_cast<float>(i / 3 + 1) * static_cast<float>(i % 3 + 1);
  }
  run_ranks(2, [&](std::size_t rank, threads_communicator& world) {
    host_memory memory;
    dynamic_module module = model.module(memory, false);
    load_pretrained(module, model.source(), world, {.active = true}, {}, {.memory = memory});
    if (rank == 0) {
      float values[12];
      for (std::size_t i = 0; i < 12; ++i) {
        values[i] = static_cast<float>(i);
      }
      for (std::size_t row = 0; row < 4; ++row) {
        for (std::size_t column = 0; column < 3; ++column) {
          values[row * 3 + column] += static_cast<float>(row + 1) * static_cast<float>(column + 1);
        }
      }
      std::memcpy(module.get_parameter("w").data(), values, sizeof values);
    }
    prepare<transport::broadcast>(module, world, {}, {.memory = memory});
    const local_shard& mine = module.get_parameter("w").local();
    ASSERT_EQ(mine.bytes, 24U);
    EXPECT_EQ(std::memcmp(mine.data.get(), wanted.data() + rank * 6, 24), 0);
  });
}

TEST(MemoryEfficientInit, SwitchesBetweenTheBaselineAndThePolicyWithTheSameShards) {
  const reference_model model = varied_model();
  for (const bool enabled : {true, false}) {
    run_ranks(3, [&](std::size_t rank, threads_communicator& world) {
      host_memory memory;
      dynamic_module module = model.module(memory, rank == 0);
      const rank_report report =
          initialize(module, model.source(), world, {.memory_efficient_init = enabled}, {.memory = memory});
      EXPECT_EQ(model.faults_of(module, memory, 3, rank), "");
      EXPECT_EQ(report.policy, enabled ? "native-sharding" : "every-rank-loads");
    });
  }
}

TEST(Initialize, KeepsShardsInHostMemoryOrPutsThemOnTheDeviceAsTheProgramDecides) {
  const reference_model model({{.fqn = "w", .type = dtype::f32, .extents = {7, 3}}});
  for (const bool enabled : {true, false}) {
    run_ranks(3, [&](std::size_t rank, threads_communicator& world) {
      fake_device_memory device;
      host_memory host;
      dynamic_module module = model.module(host, false);
      const rank_report report = initialize(module, model.source(), world, {},
                                            {.memory = enabled ? memory_argument(host) : memory_argument(device)});
      EXPECT_EQ(host.accounted(), enabled ? report.predicted.slab_bytes : 0U);
      EXPECT_EQ(device.accounted(), enabled ? 0U : report.predicted.slab_bytes);
      EXPECT_EQ(enabled ? model.faults_of(module, host, 3, rank) : model.faults_of(module, device, 3, rank), "");
    });
  }
}

}  // namespace
}  // namespace prepare_test
