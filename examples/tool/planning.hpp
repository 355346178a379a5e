#pragma once

#include "commands.hpp"
#include <fsdpinit/core/tensor_descriptor.hpp>
#include <fsdpinit/cost/cluster_cost.hpp>
#include <fsdpinit/plan/plan.hpp>
#include <fsdpinit/sources/source_ref.hpp>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace fsdpinit::tool {

/// What a load would find.
struct planned_contents {
  state_dict_contents all;
  std::optional<source_ref> source{};  ///< empty for a published model that nobody has downloaded
};

/// What was asked for, as the planner's options.
[[nodiscard]] plan_options options_of(const sharding_request& how);
/// The plan that `load` will follow: the same module, matched in the same way.
[[nodiscard]] plan plan_of(const sharding_request& how, const planned_contents& contents, const plan_options& options);
/// The same, and what its tensors are called.
struct named_plan {
  plan made;
  std::vector<std::string> names;  ///< by planned tensor
};
[[nodiscard]] named_plan named_plan_of(const sharding_request& how, const planned_contents& contents,
                                       const plan_options& options);
/// As it is kept once, without shards.
[[nodiscard]] std::uint64_t model_bytes(const plan& made);

/// Prints what each way to initialise costs on the cluster that `how` names, and which one to take.
void print_cluster_plan(const plan_request& how, const cluster& on, const planned_contents& contents);

/// Prints what the rank that `how` names does, round by round.
void print_program(const plan_request& how, const named_plan& of);

}  // namespace fsdpinit::tool
