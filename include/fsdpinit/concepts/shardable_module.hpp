#pragma once

#include <fsdpinit/concepts/slot.hpp>
#include <fsdpinit/concepts/slot_ref.hpp>

#include <concepts>
#include <memory>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

namespace fsdpinit {

/// The extension point for module trees. Whatever has a member `visit_slots(visitor)` is a module as it stands; plain
/// structs adapted for Boost.Hana are modules too (<fsdpinit/modules/struct_module.hpp>). Specialise it for others:
///
///     template <> struct fsdpinit::module_traits<my::module> {
///       template <class Visitor> static void visit_slots(my::module&, Visitor&&);  // visitor(fqn, slot&) for each slot
///       static std::vector<std::vector<std::string>> tie_groups(const my::module&);  // optional
///       static bool is_unit(const my::module&, std::string_view path);               // optional
///     };
template <class M>
struct module_traits;

namespace detail {

/// A named type: with a lambda in its place, clang 16 takes a constraint of a specialisation to be satisfied always.
struct any_visitor {
  template <class Slot>
  void operator()(std::string_view /*fqn*/, Slot& /*slot*/) const {}
};

template <class M>
concept VisitsSlots = requires(M& module) { module.visit_slots(any_visitor{}); };

}  // namespace detail

template <detail::VisitsSlots M>
struct module_traits<M> {
  template <class Visitor>
  static void visit_slots(M& root, Visitor&& visitor) {
    root.visit_slots(visitor);
  }
};

/// A module tree: calls `visitor(fqn, slot&)` once for each slot, in an order that is the same on every rank. Slots
/// stay where they are until the initialisation is over. It may throw; nothing was changed then.
template <class M>
concept ShardableModule = requires(M& module) { module_traits<M>::visit_slots(module, detail::any_visitor{}); };

/// Names that mean one tensor, group by group, declared by the module (`tie_groups()` as a member or in its traits);
/// none by default. Never guessed from equal values.
template <class M>
[[nodiscard]] std::vector<std::vector<std::string>> tie_groups(const M& module) {
  if constexpr (requires { module_traits<M>::tie_groups(module); }) {
    return module_traits<M>::tie_groups(module);
  } else if constexpr (requires { module.tie_groups(); }) {
    return module.tie_groups();
  } else {
    return {};
  }
}

/// A module that says which of its parts are sharded and gathered together: `is_unit(path)` as a member or in its traits,
/// for module paths such as `layers.0`. It is asked once for each path, and answers alike on every rank. Others get the
/// default assignment of <fsdpinit/modules/units.hpp>.
template <class M>
concept NamesUnits = requires(const M& module, std::string_view path) {
  { module_traits<M>::is_unit(module, path) } -> std::convertible_to<bool>;
} || requires(const M& module, std::string_view path) {
  { module.is_unit(path) } -> std::convertible_to<bool>;
};

template <NamesUnits M>
[[nodiscard]] bool is_unit(const M& module, std::string_view path) {
  if constexpr (requires { module_traits<M>::is_unit(module, path); }) {
    return module_traits<M>::is_unit(module, path);
  } else {
    return module.is_unit(path);
  }
}

/// A module tree of any type: a pointer to its root, and a table of what it can be asked. For as long as the module lives; for the cold
/// path.
class module_ref {
 public:
  template <ShardableModule M>
    requires(!std::same_as<std::remove_const_t<M>, module_ref>)
  module_ref(M& module) noexcept  // NOLINT(google-explicit-constructor): a module stands for its reference
      : module_(const_cast<void*>(static_cast<const void*>(std::addressof(module)))), table_(&table_of<M>) {}

  /// Calls `fn(fqn, slot_ref)` for each slot, in the module's order. \throws what the module and `fn` throw
  template <class Fn>
  void for_each_slot(Fn&& fn) const {
    table_->visit(module_, std::addressof(fn), [](void* context, std::string_view fqn, slot_ref slot) {
      (*static_cast<std::remove_reference_t<Fn>*>(context))(fqn, slot);
    });
  }
  /// Where the module is.
  [[nodiscard]] const void* address() const noexcept { return module_; }
  [[nodiscard]] std::vector<std::vector<std::string>> tie_groups() const { return table_->tie_groups(module_); }
  /// Does it say which of its parts are units?
  [[nodiscard]] bool names_units() const noexcept { return table_->is_unit != nullptr; }
  /// \pre names_units()
  [[nodiscard]] bool is_unit(std::string_view path) const { return table_->is_unit(module_, path); }

 private:
  using visitor = void (*)(void* context, std::string_view fqn, slot_ref slot);
  struct table {
    void (*visit)(void*, void* context, visitor);
    std::vector<std::vector<std::string>> (*tie_groups)(const void*);
    bool (*is_unit)(const void*, std::string_view);  // nullptr for a module that does not say
  };

  template <class M>
  static void visit_of(void* module, void* context, visitor visit) {
    module_traits<M>::visit_slots(*static_cast<M*>(module), [=]<class Slot>(std::string_view fqn, Slot& slot) {
      if constexpr (detail::require_slot<Slot>()) {
        visit(context, fqn, slot_ref(slot));
      }
    });
  }
  template <class M>
  static constexpr auto is_unit_of() noexcept -> bool (*)(const void*, std::string_view) {
    if constexpr (NamesUnits<M>) {
      return [](const void* module, std::string_view path) {
        return fsdpinit::is_unit(*static_cast<const M*>(module), path);
      };
    } else {
      return nullptr;
    }
  }
  template <class M>
  static constexpr table table_of{
      .visit = &visit_of<M>,
      .tie_groups = [](const void* module) { return fsdpinit::tie_groups(*static_cast<const M*>(module)); },
      .is_unit = is_unit_of<M>()};

  void* module_;
  const table* table_;
};

}  // namespace fsdpinit
