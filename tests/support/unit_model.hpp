#pragma once

#include "support/reference_model.hpp"
#include <fsdpinit/fsdpinit.hpp>
#include <fsdpinit/units/sharded_units.hpp>

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

/// \file
/// What the units of a reference model should hold, whole and sharded, and what their gradients should be: element by element,
/// without the planner.

namespace fsdpinit::testing_support {

[[nodiscard]] inline bool is_sharded_parameter(const reference_tensor& tensor) {
  return tensor.role == slot_role::parameter && tensor.how.is_shard();
}

/// What is wrong where the tensors of the `unsharded` units should be whole and all others shards; empty: nothing.
template <class Units, class Space>
[[nodiscard]] std::string unit_faults_of(const reference_model& model, const Units& units,
                                         const std::vector<bool>& unsharded, dynamic_module& module, Space& memory,
                                         std::size_t shards, std::size_t index) {
  std::string out;
  for (const reference_tensor& tensor : model.tensors()) {
    if (!is_sharded_parameter(tensor)) {
      continue;
    }
    const bool whole = unsharded[units.unit_of(tensor.fqn)];
    const naive_shard wanted = model.expected(tensor, whole ? 1 : shards, whole ? 0 : index);
    for (const std::string& fqn : tensor.names()) {
      const local_shard& got = module.get_parameter(fqn).local();
      if (got.shape != wanted.shape || got.offset != wanted.offset || bytes_in(memory, got) != wanted.bytes) {
        out += concat(fqn, whole ? " is not whole" : " is not its shard", "\n");
      }
      if (got.data != module.get_parameter(tensor.fqn).local().data) {
        out += concat(fqn, " does not share the storage of ", tensor.fqn, "\n");
      }
    }
  }
  return out;
}

/// Units may be gathered whatever their dtypes where nothing is trained.
inline void freeze(dynamic_module& module) {
  module.visit_slots([]<class Slot>(std::string_view, Slot& slot) {
    if constexpr (std::is_same_v<Slot, parameter>) {
      slot.set_requires_grad(false);
    }
  });
}

/// Frozen.
template <class World, class Space>
[[nodiscard]] dynamic_module initialised(const reference_model& model, World& world, Space& memory,
                                         const options& how = {}) {
  dynamic_module module = model.module(memory, world.rank() == 0);
  freeze(module);
  initialize(module, model.source(), world, how, {.memory = memory});
  return module;
}

/// One unit after the other, then all together; slots, bytes and accounts at every step.
template <class Units, class Space>
void expect_units_come_and_go(const reference_model& model, dynamic_module& module, Units& units, Space& memory,
                              shard_position where) {
  constexpr bool stages_in_space = std::is_same_v<typename Units::gathering, Space>;
  const std::uint64_t before = memory.accounted();
  std::vector<bool> unsharded(units.size(), false);
  const auto faults = [&] {
    return unit_faults_of(model, units, unsharded, module, memory, where.shards, where.index);
  };
  auto staging = units.staging_memory();
  for (std::size_t unit = 0; unit < units.size(); ++unit) {
    SCOPED_TRACE(concat("unit '", units.name(unit), "', shard ", where.index));
    const unit_prediction predicted = units.predict_unshard(unit);
    memory.restart_peak();
    staging.restart_peak();
    units.unshard(unit);
    EXPECT_TRUE(units.is_unsharded(unit));
    EXPECT_EQ(memory.accounted_peak(), before + (stages_in_space ? predicted.peak_bytes() : predicted.kept_bytes));
    if (!Space::host_accessible) {
      EXPECT_EQ(staging.accounted_peak(), stages_in_space ? 0 : predicted.staging_bytes);
    }
    EXPECT_EQ(memory.accounted(), before + predicted.kept_bytes);
    unsharded[unit] = true;
    EXPECT_EQ(faults(), "");
    units.unshard(unit);
    EXPECT_EQ(memory.accounted(), before + predicted.kept_bytes) << "a second unsharding does nothing";
    units.reshard(unit);
    EXPECT_FALSE(units.is_unsharded(unit));
    EXPECT_EQ(memory.accounted(), before) << "whole tensors go back";
    unsharded[unit] = false;
    EXPECT_EQ(faults(), "");
    units.reshard(unit);
  }
  EXPECT_EQ(model.faults_of(module, memory, where.shards, where.index), "");

  std::uint64_t whole = 0;
  for (std::size_t unit = 0; unit < units.size(); ++unit) {
    units.unshard(unit);
    whole += units.predict_unshard(unit).kept_bytes;
  }
  unsharded.assign(units.size(), true);
  EXPECT_EQ(faults(), "");
  EXPECT_EQ(memory.accounted(), before + whole);
  for (std::size_t unit = 0; unit < units.size(); ++unit) {
    units.reshard(unit);
  }
  EXPECT_EQ(memory.accounted(), before);
  EXPECT_EQ(model.faults_of(module, memory, where.shards, where.index), "")
      << "buffers and replicated parameters were left alone";
}

/// Every kind of trained parameter, and frozen ones of another dtype between them.
[[nodiscard]] inline reference_model trained_model() {
  std::vector<reference_tensor> out{{.fqn = "embed.weight", .extents = {17, 6}, .tied = {"head.weight"}},
                                    {.fqn = "scale", .extents = {}, .how = replicate{}},
                                    {.fqn = "bias", .extents = {5}, .how = replicate{}},
                                    {.fqn = "mean", .extents = {5}, .role = slot_role::persistent_buffer}};
  for (int layer = 0; layer < 2; ++layer) {
    const std::string prefix = concat("layers.", layer, ".");
    out.push_back({.fqn = prefix + "query", .extents = {3, 84}, .how = shard{-1}});
    out.push_back({.fqn = prefix + "frozen", .type = dtype::bf16, .extents = {6, 6}});
    out.push_back({.fqn = prefix + "gate", .extents = {130}, .how = replicate{}});
    out.push_back({.fqn = prefix + "conv", .extents = {2, 84, 3}, .how = shard{1}});
    out.push_back({.fqn = prefix + "frozen_too", .type = dtype::f16, .extents = {6}, .how = replicate{}});
    out.push_back({.fqn = prefix + "up", .extents = {5, 8}});
    out.push_back({.fqn = prefix + "nothing", .extents = {0, 4}});
    out.push_back({.fqn = prefix + "norm", .extents = {6}});
  }
  return reference_model(std::move(out));
}

[[nodiscard]] inline bool is_frozen(std::string_view fqn) { return fqn.find("frozen") != std::string_view::npos; }

/// Initialised, and trained but for what is frozen.
template <class World>
[[nodiscard]] dynamic_module trained_module(const reference_model& model, World& world, const options& how = {}) {
  host_memory memory;
  dynamic_module module = model.module(memory, world.rank() == 0);
  module.visit_slots([]<class Slot>(std::string_view fqn, Slot& slot) {
    if constexpr (std::is_same_v<Slot, parameter>) {
      slot.set_requires_grad(!is_frozen(fqn));
    }
  });
  initialize(module, model.source(), world, how);
  return module;
}

/// One rank's gradient: of such different sizes that another order of summation gives other bits.
[[nodiscard]] inline std::vector<float> gradient_of(const reference_tensor& tensor, std::size_t rank) {
  std::vector<float> out(tensor.bytes.size() / sizeof(float));
  const std::vector<std::byte> noise = content_for(concat(tensor.fqn, " on ", rank), 2 * out.size());
  for (std::size_t i = 0; i < out.size(); ++i) {
    const auto exponent = std::to_integer<unsigned>(noise[2 * i]) % 24U;
    const auto mantissa = 1.0F + static_cast<float>(noise[2 * i + 1]) / 257.0F;
    out[i] = ((noise[2 * i] & std::byte{32}) == std::byte{0} ? mantissa : -mantissa) *
             static_cast<float>(std::uint32_t{1} << exponent);
  }
  return out;
}

/// Added up rank by rank: over the shards of each replica, then over the replicas.
[[nodiscard]] inline std::vector<float> naive_sum(const reference_tensor& tensor, std::size_t shards,
                                                  std::size_t replicas) {
  std::vector<float> sum;
  for (std::size_t replica = 0; replica < replicas; ++replica) {
    std::vector<float> of_replica = gradient_of(tensor, replica * shards);
    for (std::size_t r = 1; r < shards; ++r) {
      const std::vector<float> next = gradient_of(tensor, replica * shards + r);
      for (std::size_t i = 0; i < next.size(); ++i) {
        of_replica[i] += next[i];
      }
    }
    for (std::size_t i = 0; i < of_replica.size() && replica > 0; ++i) {
      of_replica[i] = sum[i] + of_replica[i];
    }
    sum = std::move(of_replica);
  }
  return sum;
}

[[nodiscard]] inline std::vector<std::byte> bytes_of(std::span<const float> values) {
  const auto bytes = std::as_bytes(values);
  return {bytes.begin(), bytes.end()};
}

class gradients_of_rank {
 public:
  gradients_of_rank(const reference_model& model, std::size_t rank) {
    for (const reference_tensor& tensor : model.tensors()) {
      if (tensor.role == slot_role::parameter && tensor.type == dtype::f32) {
        values_.emplace(tensor.fqn, gradient_of(tensor, rank));
      }
    }
  }
  std::span<const float> operator()(std::string_view fqn) {
    ++asked[std::string(fqn)];
    return values_.at(std::string(fqn));
  }
  std::map<std::string, int> asked;

 private:
  std::map<std::string, std::vector<float>> values_;
};

/// Every unit's gradients against the naive sum, bit for bit.
template <class Units>
void expect_gradients(const reference_model& model, Units& units, std::size_t rank, std::size_t shards,
                      std::size_t replicas, gradient_reduction how) {
  gradients_of_rank full(model, rank);
  std::map<std::string, std::vector<std::byte>> got;
  std::map<std::string, shape> shapes;
  for (std::size_t unit = 0; unit < units.size(); ++unit) {
    const auto reduced = units.reduce_scatter_gradients(unit, full, how);
    for (const shard_gradient& gradient : reduced) {
      EXPECT_EQ(units.unit_of(gradient.fqn), unit);
      EXPECT_EQ(reduced.of(gradient.fqn).data(), gradient.values.data());
      EXPECT_TRUE(got.emplace(gradient.fqn, bytes_of(gradient.values)).second);
      shapes.emplace(gradient.fqn, gradient.shape);
    }
  }
  std::size_t trained = 0;
  for (const reference_tensor& tensor : model.tensors()) {
    if (tensor.role != slot_role::parameter || is_frozen(tensor.fqn)) {
      continue;
    }
    ++trained;
    std::vector<float> sum = naive_sum(tensor, shards, replicas);
    if (how == gradient_reduction::mean) {
      for (float& each : sum) {
        each /= static_cast<float>(shards * replicas);
      }
    }
    const naive_shard wanted =
        naive_slice(bytes_of(sum), dtype::f32, tensor.extents, tensor.how, shards, rank % shards);
    ASSERT_TRUE(got.contains(tensor.fqn)) << tensor.fqn;
    EXPECT_EQ(got.at(tensor.fqn), wanted.bytes) << tensor.fqn << " on rank " << rank;
    EXPECT_EQ(shapes.at(tensor.fqn), wanted.shape) << tensor.fqn;
    EXPECT_EQ(full.asked[tensor.fqn], 1) << tensor.fqn;
  }
  EXPECT_EQ(got.size(), trained) << "frozen parameters and buffers have none";
  EXPECT_EQ(full.asked.size(), trained);
}

}  // namespace fsdpinit::testing_support
