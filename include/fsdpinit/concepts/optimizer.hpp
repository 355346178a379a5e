#pragma once

#include <fsdpinit/concepts/shardable_module.hpp>
#include <fsdpinit/concepts/slot.hpp>

#include <concepts>
#include <cstddef>
#include <memory>
#include <optional>
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

/// An optimizer of any type: a pointer to it, and a table of what it can be asked. For as long as the optimizer lives.
class optimizer_ref {
 public:
  template <ShardableOptimizer Optimizer>
    requires(!std::is_const_v<Optimizer> && !std::same_as<Optimizer, optimizer_ref>)
  optimizer_ref(Optimizer& optimizer) noexcept  // NOLINT(google-explicit-constructor): stands for its reference
      : optimizer_(std::addressof(optimizer)), table_(&table_of<Optimizer>) {}

  [[nodiscard]] std::vector<std::vector<std::string>> parameter_groups() const {
    return table_->parameter_groups(optimizer_);
  }
  [[nodiscard]] bool has_state() const { return table_->has_state(optimizer_); }
  void drop_references() const noexcept { table_->drop_references(optimizer_); }
  /// Where the optimizer is, for whoever knows its type.
  [[nodiscard]] void* address() const noexcept { return optimizer_; }

 private:
  struct table {
    std::vector<std::vector<std::string>> (*parameter_groups)(const void*);
    bool (*has_state)(const void*);
    void (*drop_references)(void*) noexcept;
  };
  template <class O>
  static constexpr table table_of{
      .parameter_groups = [](const void* optimizer) -> std::vector<std::vector<std::string>> {
        return static_cast<const O*>(optimizer)->parameter_groups();
      },
      .has_state = [](const void* optimizer) -> bool { return static_cast<const O*>(optimizer)->has_state(); },
      .drop_references = [](void* optimizer) noexcept { static_cast<O*>(optimizer)->drop_references(); }};

  void* optimizer_;
  const table* table_;
};

/// Binds an optimizer's parameter to a slot, both of types that are known where it is made; nullptr where the optimizer has no `rebind` for
/// the slot's type.
using rebinder = void (*)(void* optimizer, std::size_t group, std::string_view fqn, void* slot) noexcept;

namespace detail {

using rebinder_visitor = void (*)(void* context, std::string_view fqn, const void* slot, rebinder rebind);

/// Visits slots, of which it tells how an optimizer is bound to them.
template <class Optimizer>
struct rebinder_visit {
  void* context;
  rebinder_visitor visit;

  template <class Slot>
  void operator()(std::string_view fqn, Slot& slot) const {
    if constexpr (require_rebind<Optimizer, Slot>()) {
      visit(context, fqn, std::addressof(slot),
            [](void* optimizer, std::size_t group, std::string_view name, void* bound) noexcept {
              static_cast<Optimizer*>(optimizer)->rebind(group, name, *static_cast<Slot*>(bound));
            });
    } else {
      visit(context, fqn, std::addressof(slot), nullptr);
    }
  }
};

}  // namespace detail

/// An optimizer beside the module that it was made for, both of any type: refers to them. By default none.
class optimizer_of_module {
 public:
  optimizer_of_module() = default;
  /// An optimizer with which the compiler finds nothing wrong, or it says which clause is not met.
  template <ShardableModule Module, class Optimizer>
  optimizer_of_module(Module& module, Optimizer&& optimizer) noexcept : module_(std::addressof(module)) {
    using given = std::remove_reference_t<Optimizer>;
    if constexpr (detail::require_optimizer<given>()) {
      optimizer_.emplace(optimizer);
      visit_ = [](void* of, void* context, detail::rebinder_visitor visit) {
        module_traits<Module>::visit_slots(*static_cast<Module*>(of), detail::rebinder_visit<given>{context, visit});
      };
    }
  }

  /// Nothing where there is none, as of the other members.
  [[nodiscard]] const std::optional<optimizer_ref>& optimizer() const noexcept { return optimizer_; }
  /// Where the module is.
  [[nodiscard]] const void* module() const noexcept { return module_; }

  /// Calls `fn(fqn, address of the slot, its rebinder)` for each slot, in the module's order. \throws what the module and `fn` throw
  template <class Fn>
  void for_each_slot(Fn&& fn) const {
    visit_(module_, std::addressof(fn), [](void* context, std::string_view fqn, const void* slot, rebinder rebind) {
      (*static_cast<std::remove_reference_t<Fn>*>(context))(fqn, slot, rebind);
    });
  }

 private:
  std::optional<optimizer_ref> optimizer_;
  void* module_ = nullptr;
  void (*visit_)(void* module, void* context, detail::rebinder_visitor visit) = nullptr;
};

}  // namespace fsdpinit
