#include "support/adamw.hpp"
#include "support/archetypes.hpp"
#include "support/fake_device_memory.hpp"
#include "support/reference_model.hpp"
#include <fsdpinit/fsdpinit.hpp>
#include <fsdpinit/testing/rank_harness.hpp>

#include <gtest/gtest.h>

#include <cstddef>
#include <cstring>
#include <string_view>

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"

namespace positional_test {
namespace {

using namespace fsdpinit;
using namespace fsdpinit::testing_support;
using fsdpinit::testing::run_ranks;

reference_model one_missing() { return reference_model({{.fqn = "w", .type = dtype::f32, .extents = {7, 3}}}); }

struct phases_seen : null_observer {
  std::size_t count = 0;
  void phase(const char* /*name*/) noexcept { ++count; }
};

TEST(Positional, MemoryObserverOptimizerAndInitialValuesFollowTheOptions) {
  const reference_model model = one_missing();
  run_ranks(2, [&](std::size_t rank, threads_communicator& world) {
    host_memory memory;
    phases_seen watch;
    dynamic_module module = model.module(memory, false);
    const rank_report report = initialize(module, in_memory_source(), world, {.strict = false}, memory, watch,
                                          no_optimizer{}, constant_values{.value = 2});
    EXPECT_EQ(memory.accounted(), report.predicted.slab_bytes);
    float first = 0;
    std::memcpy(&first, module.get_parameter("w").data(), sizeof first);
    EXPECT_EQ(first, 2) << "rank " << rank;
    EXPECT_GT(watch.count, 0U);
  });
}

TEST(Positional, AnOptimizerIsBoundToTheShards) {
  const reference_model model = one_missing();
  run_ranks(2, [&](std::size_t, threads_communicator& world) {
    host_memory memory;
    dynamic_module module = model.module(memory, false);
    adamw optimizer({{.names = {"w"}}});
    initialize(module, model.source(), world, {}, {.memory = memory, .optimizer = {module, optimizer}});
    EXPECT_EQ(optimizer.address_of(module.get_parameter("w")), module.get_parameter("w").data());
  });
}

TEST(Positional, SwitchesStandInFront) {
  const reference_model model = one_missing();
  run_ranks(2, [&](std::size_t, threads_communicator& world) {
    fake_device_memory device;
    host_memory host;
    dynamic_module module = model.module(host, false);
    EXPECT_EQ(initialize(memory_efficient_init{false}, module, model.source(), world).policy, "every-rank-loads");
    EXPECT_EQ(initialize(memory_efficient_init{true}, module, model.source(), world).policy, "native-sharding");
    const rank_report report = initialize(cpu_offload{true}, module, model.source(), world, {}, device, host);
    EXPECT_EQ(host.accounted(), report.predicted.slab_bytes);
    EXPECT_EQ(device.accounted(), 0U);
  });
}

TEST(Positional, PretrainedWeightsAndTheirShardsTakeMemoryBehindTheOptions) {
  const reference_model model = one_missing();
  run_ranks(2, [&](std::size_t rank, threads_communicator& world) {
    host_memory memory;
    dynamic_module module = model.module(memory, false);
    load_pretrained(module, model.source(), world, {}, {}, {.memory = memory});
    EXPECT_EQ(memory.accounted(), rank == 0 ? 84U : 0U);
    const rank_report report = prepare(module, world, {}, {.memory = memory});
    EXPECT_EQ(memory.accounted(), report.predicted.slab_bytes);
  });
}

}  // namespace
}  // namespace positional_test

#pragma GCC diagnostic pop
