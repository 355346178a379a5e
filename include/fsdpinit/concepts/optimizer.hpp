#pragma once

#include <fsdpinit/concepts/slot.hpp>

#include <concepts>
#include <cstddef>
#include <string>
#include <string_view>
#include <type_traits>
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

namespace detail {

template <class T>
struct optimizer_clauses {
  static constexpr bool has_parameter_groups = requires(const T& constant) {
    { constant.parameter_groups() } -> std::convertible_to<std::vector<std::vector<std::string>>>;
  };
  static constexpr bool has_has_state = requires(const T& constant) {
    { constant.has_state() } -> std::convertible_to<bool>;
  };
  static constexpr bool has_drop_references = requires(T& optimizer) { optimizer.drop_references(); };
  static constexpr bool drop_references_is_noexcept = !has_drop_references || requires(T& optimizer) {
    { optimizer.drop_references() } noexcept;
  };
  static constexpr bool is_not_const = !std::is_const_v<T> || !ShardableOptimizer<std::remove_const_t<T>>;
  static constexpr bool is_optimizer = has_parameter_groups || has_has_state || has_drop_references;
};

/// Where T is no optimizer that can be re-bound, the compiler says which clause it does not meet; T is named beside it.
/// \return is it one?
template <class T>
[[nodiscard]] consteval bool require_optimizer() {
  if constexpr (!ShardableOptimizer<T>) {
    using clauses = optimizer_clauses<T>;
    if constexpr (!clauses::is_optimizer) {
      static_assert(clauses::is_optimizer,
                    "fsdpinit: `optimizer` must be a ShardableOptimizer: T must have parameter_groups() const, "
                    "has_state() const, void drop_references() noexcept");
    } else if constexpr (!clauses::is_not_const) {
      static_assert(clauses::is_not_const,
                    "fsdpinit: `optimizer`: T is const, but its drop_references() is not; pass one that is not const");
    } else {
      static_assert(
          clauses::has_parameter_groups,
          "fsdpinit: `optimizer`: T must have std::vector<std::vector<std::string>> parameter_groups() const, "
          "the FQNs of each group");
      static_assert(clauses::has_has_state, "fsdpinit: `optimizer`: T must have bool has_state() const");
      static_assert(clauses::has_drop_references, "fsdpinit: `optimizer`: T must have void drop_references() noexcept");
      static_assert(clauses::drop_references_is_noexcept,
                    "fsdpinit: `optimizer`: T::drop_references() must be noexcept");
    }
  }
  return ShardableOptimizer<T>;
}

template <class Optimizer, class Slot>
struct rebind_clauses {
  static constexpr bool has_rebind =
      requires(Optimizer& optimizer, Slot& slot) { optimizer.rebind(std::size_t{}, std::string_view{}, slot); };
  static constexpr bool rebind_is_noexcept = !has_rebind || RebindsTo<Optimizer, Slot>;
};

/// Where an optimizer is bound to slots of a type by what may throw, the compiler says so. \return is it bound to them at all?
template <class Optimizer, class Slot>
[[nodiscard]] consteval bool require_rebind() {
  using clauses = rebind_clauses<Optimizer, Slot>;
  static_assert(
      clauses::rebind_is_noexcept,
      "fsdpinit: `optimizer`: Optimizer::rebind(group, fqn, slot) must be noexcept: it is called at the commit");
  return clauses::has_rebind && clauses::rebind_is_noexcept;
}

}  // namespace detail

/// No optimizer: nothing is dropped or bound.
struct no_optimizer {
  [[nodiscard]] std::vector<std::vector<std::string>> parameter_groups() const { return {}; }
  [[nodiscard]] bool has_state() const noexcept { return false; }
  void drop_references() noexcept {}
};

}  // namespace fsdpinit
