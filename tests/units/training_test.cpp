#include "support/adamw.hpp"
#include <fsdpinit/fsdpinit.hpp>
#include <fsdpinit/init/optimizer_binding.hpp>
#include <fsdpinit/testing/rank_harness.hpp>
#include <fsdpinit/units/sharded_units.hpp>

#include <gtest/gtest.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

/// All of it together: a model is initialised, its units are gathered one by one, gradients reduced, and an optimizer that
/// was made over the whole model steps on the shards. The weights are those of the same training in one piece, bit for bit.

namespace training_test {
namespace {

using namespace fsdpinit;
using fsdpinit::testing::run_ranks;
using fsdpinit::testing_support::adamw;

struct weight {
  std::string fqn;
  shape extents;
  placement how = shard{0};
  std::string tied{};
};

std::vector<weight> weights() {
  std::vector<weight> out{{.fqn = "embed", .extents = {17, 4}, .tied = "head"},
                          {.fqn = "scale", .extents = {3}, .how = replicate{}}};
  for (int layer = 0; layer < 2; ++layer) {
    out.push_back({.fqn = concat("layers.", layer, ".up"), .extents = {3, 60}, .how = shard{1}});
    out.push_back({.fqn = concat("layers.", layer, ".down"), .extents = {7, 5}});
  }
  return out;
}

std::vector<float> initial(const weight& of) {
  std::vector<float> out(*checked_elements(of.extents));
  for (std::size_t i = 0; i < out.size(); ++i) {
    out[i] = std::sin(static_cast<float>(i * 7 + of.fqn.size()));
  }
  return out;
}

/// What rank r would compute from its own part of the batch: nothing that could be summed in another order.
std::vector<float> gradient(std::span<const float> whole, std::size_t rank, int step) {
  std::vector<float> out(whole.size());
  for (std::size_t i = 0; i < out.size(); ++i) {
    out[i] = whole[i] * whole[i] * whole[i] - std::cos(static_cast<float>(i * (rank + 1)) + static_cast<float>(step));
  }
  return out;
}

dynamic_module empty_module() {
  dynamic_module module;
  for (const weight& each : weights()) {
    module.add_parameter(each.fqn, dtype::f32, each.extents, each.how);
    if (!each.tied.empty()) {
      module.add_parameter(each.tied, dtype::f32, each.extents, each.how);
      module.tie({each.fqn, each.tied});
    }
  }
  return module;
}

adamw make_optimizer() {
  return adamw({{.names = {"head", "layers.0.up", "layers.1.up", "embed"}},
                {.names = {"layers.0.down", "layers.1.down", "scale"}, .rate = 0.003F, .decay = 0}});
}

constexpr int steps = 4;

std::span<const float> floats_of(const parameter& slot) {
  return {reinterpret_cast<const float*>(slot.data()), slot.local().bytes / sizeof(float)};
}

void add(std::vector<float>& sum, const std::vector<float>& next) {
  for (std::size_t i = 0; i < next.size(); ++i) {
    sum[i] += next[i];
  }
}

/// In one piece: the gradients of the ranks added in their order, replica by replica.
std::map<std::string, std::vector<float>> trained_whole(const mesh& ranks) {
  dynamic_module module = empty_module();
  for (const weight& each : weights()) {
    const auto owner = std::make_shared<std::vector<float>>(initial(each));
    const std::shared_ptr<std::byte> data(owner, reinterpret_cast<std::byte*>(owner->data()));
    for (const std::string& fqn : each.tied.empty() ? std::vector{each.fqn} : std::vector{each.fqn, each.tied}) {
      module.get_parameter(fqn).adopt(
          {.shape = each.extents, .offset = 0, .bytes = owner->size() * sizeof(float), .data = data});
    }
  }
  adamw optimizer = make_optimizer();
  const module_view view = view_of(module);
  rebind(bind_optimizer({module, optimizer}, view, check_optimizer(view, optimizer)));
  for (int step = 0; step < steps; ++step) {
    std::map<const parameter*, std::vector<float>> sums;
    for (const weight& each : weights()) {
      const parameter& slot = module.get_parameter(each.tied.empty() ? each.fqn : each.tied);
      std::vector<float> sum;
      for (std::size_t replica = 0; replica < ranks.replicas; ++replica) {
        std::vector<float> of_replica = gradient(floats_of(slot), ranks.rank_of(replica, 0), step);
        for (std::size_t shard = 1; shard < ranks.shards; ++shard) {
          add(of_replica, gradient(floats_of(slot), ranks.rank_of(replica, shard), step));
        }
        if (replica == 0) {
          sum = std::move(of_replica);
        } else {
          add(sum, of_replica);
        }
      }
      sums.emplace(&slot, std::move(sum));
    }
    optimizer.step([&](const parameter& slot) { return std::span<const float>(sums.at(&slot)); });
  }
  std::map<std::string, std::vector<float>> out;
  for (const weight& each : weights()) {
    const std::span<const float> values = floats_of(module.get_parameter(each.fqn));
    out.emplace(each.fqn, std::vector<float>(values.begin(), values.end()));
  }
  return out;
}

void expect_same_training(const mesh& ranks) {
  SCOPED_TRACE(concat(ranks.replicas, " replicas of ", ranks.shards));
  const std::map<std::string, std::vector<float>> wanted = trained_whole(ranks);
  std::vector<std::vector<float>> values;
  std::vector<in_memory_tensor> stored;
  for (const weight& each : weights()) {
    values.push_back(initial(each));
    stored.push_back({.descriptor = {.name = each.fqn, .dtype = dtype::f32, .shape = each.extents},
                      .bytes = std::as_bytes(std::span(values.back()))});
  }
  run_ranks(ranks.size(), [&](std::size_t rank, threads_communicator& world) {
    const options how{.replicas = ranks.replicas};
    host_memory memory;
    dynamic_module module = empty_module();
    adamw optimizer = make_optimizer();
    initialize(module, in_memory_source(stored), world, how, {.memory = memory, .optimizer = {module, optimizer}});
    sharded_units units(module, world, how, memory);
    for (int step = 0; step < steps; ++step) {
      std::map<const parameter*, std::vector<float>> shards;
      for (std::size_t unit = units.size(); unit-- > 0;) {
        std::map<std::string, std::vector<float>> full;
        {
          const unsharded_unit whole(units, unit);
          for (const weight& each : weights()) {
            if (units.unit_of(each.fqn) == unit) {
              full.emplace(each.fqn, gradient(floats_of(module.get_parameter(each.fqn)), rank, step));
            }
          }
        }
        for (const shard_gradient& each : units.reduce_scatter_gradients(
                 unit, [&](std::string_view fqn) { return std::span<const float>(full.at(std::string(fqn))); })) {
          const std::string slot = each.fqn == "embed" ? "head" : each.fqn;
          shards.emplace(&module.get_parameter(slot), std::vector<float>(each.values.begin(), each.values.end()));
        }
      }
      optimizer.step([&](const parameter& slot) { return std::span<const float>(shards.at(&slot)); });
    }
    for (std::size_t unit = 0; unit < units.size(); ++unit) {
      units.unshard(unit);
    }
    for (const weight& each : weights()) {
      const std::span<const float> got = floats_of(module.get_parameter(each.fqn));
      EXPECT_EQ(std::vector<float>(got.begin(), got.end()), wanted.at(each.fqn)) << each.fqn << ", rank " << rank;
    }
  });
}

TEST(Training, OfShardsIsThatOfTheWholeModelBitForBit) {
  for (const std::size_t shards : {1U, 2U, 3U, 4U, 5U, 6U}) {
    expect_same_training({.shards = shards});
  }
  expect_same_training({.shards = 3, .replicas = 2});
  expect_same_training({.shards = 1, .replicas = 3});
}

}  // namespace
}  // namespace training_test
