#pragma once

#include <fsdpinit/concepts/slot.hpp>

#include <concepts>
#include <string>
#include <string_view>
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

}  // namespace fsdpinit
