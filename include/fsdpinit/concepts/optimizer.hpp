#pragma once

#include <fsdpinit/concepts/slot.hpp>

#include <concepts>
#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace fsdpinit {

/// An optimizer that was made before the module is sharded, and so refers to parameters that are about to be replaced. It
/// lets go of them, and is bound to the shards by name afterwards.
///
/// - `parameter_groups()`: the FQNs of the parameters of each group, in its order. A sole group may be empty: all parameters
///   of the module that are trained. The same before `drop_references` and after.
/// - `has_state()`: has it moments, steps, or whatever else belongs to parameters as they are? Then it cannot be re-bound.
/// - `drop_references()`: no reference to a parameter or its storage is left; the names are. May be called again.
/// - `rebind(group, fqn, slot)`, for the slots of a module that are parameters: see RebindsTo.
template <class O>
concept ShardableOptimizer = requires(O& optimizer, const O& constant) {
  { constant.parameter_groups() } -> std::convertible_to<std::vector<std::vector<std::string>>>;
  { constant.has_state() } -> std::convertible_to<bool>;
  { optimizer.drop_references() } noexcept;
};

/// `rebind(group, fqn, slot)`: the next parameter of that group is the one in `slot`, which holds this rank's shard. Called after
/// `drop_references`, once for each tensor, group by group in the order of `parameter_groups()`; of several names of one tied
/// tensor for the first alone. noexcept, because a module is committed on every rank or on none: what it needs it has kept from
/// what it dropped (the capacity of a vector, say).
///
/// The slot rather than its storage, because a framework keeps gradients with its tensors: libtorch's optimizer is bound by
/// putting the tensor in the slot into `param_groups()[group].params()`.
template <class O, class Slot>
concept RebindsTo = ShardableOptimizer<O> && ParameterSlot<Slot> &&
                    requires(O& optimizer, std::size_t group, std::string_view fqn, Slot& slot) {
                      { optimizer.rebind(group, fqn, slot) } noexcept;
                    };

/// No optimizer: nothing is dropped or bound.
struct no_optimizer {
  [[nodiscard]] std::vector<std::vector<std::string>> parameter_groups() const { return {}; }
  [[nodiscard]] bool has_state() const noexcept { return false; }
  void drop_references() noexcept {}
};

}  // namespace fsdpinit
