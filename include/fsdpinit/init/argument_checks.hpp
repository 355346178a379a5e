#pragma once

#include <fsdpinit/concepts/communicator.hpp>
#include <fsdpinit/concepts/memory_space.hpp>
#include <fsdpinit/concepts/optimizer.hpp>
#include <fsdpinit/concepts/shardable_module.hpp>
#include <fsdpinit/concepts/slot.hpp>
#include <fsdpinit/concepts/state_dict_source.hpp>
#include <fsdpinit/init/arguments.hpp>
#include <fsdpinit/init/source_in_use.hpp>
#include <fsdpinit/plan/transport.hpp>

#include <concepts>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

/// \file
/// What is asked of the types of arguments where a call takes them: assertions rather than constraints, so that the compiler names the
/// argument, the type T, and the one clause that T does not meet, before anything else. What is found wrong goes no further.

namespace fsdpinit::detail {

/// \return are they a communicator, or channels of two?
template <class Channels>
[[nodiscard]] consteval bool require_links() {
  using given = std::remove_reference_t<Channels>;
  if constexpr (is_channels<std::remove_const_t<given>>) {
    return AreLinks<given>;  // channels says itself of which type it cannot be made
  } else {
    return require_communicator<given>();
  }
}

/// A visitor that asks the slots of a module, and nothing more.
struct slot_check {
  template <class Slot>
  void operator()(std::string_view /*fqn*/, Slot& /*slot*/) const {
    static_cast<void>(require_slot<Slot>());
  }
};

template <class T>
struct module_clauses {
  static constexpr bool is_not_const = !std::is_const_v<T> || !ShardableModule<std::remove_const_t<T>>;
  /// Of a function template there is no address without its arguments.
  static constexpr bool takes_any_visitor = !requires { &T::visit_slots; };
  static constexpr bool has_tie_groups =
      requires(T& module) { module.tie_groups(); } || requires(T& module) { module_traits<T>::tie_groups(module); };
  static constexpr bool tells_ties = requires(const T& module) {
    { module.tie_groups() } -> std::convertible_to<std::vector<std::vector<std::string>>>;
  } || requires(const T& module) {
    { module_traits<T>::tie_groups(module) } -> std::convertible_to<std::vector<std::vector<std::string>>>;
  };
  static constexpr bool tie_groups_is_const_and_returns_names = tells_ties || !has_tie_groups;
  static constexpr bool has_is_unit = requires(T& given, std::string_view path) {
    given.is_unit(path);
  } || requires(T& given, std::string_view path) { module_traits<T>::is_unit(given, path); };
  static constexpr bool is_unit_is_const_and_returns_bool = NamesUnits<T> || !has_is_unit;
};

/// Where T is no module, or an optional member of it is not what it seems to be and would be passed over, the compiler says so; T is
/// named beside it. \return is all as it should be?
template <class T>
[[nodiscard]] consteval bool require_module() {
  using clauses = module_clauses<T>;
  if constexpr (ShardableModule<T>) {
    static_assert(clauses::tie_groups_is_const_and_returns_names,
                  "fsdpinit: `module`: T::tie_groups() must be const, and return the names as "
                  "std::vector<std::vector<std::string>>");
    static_assert(clauses::is_unit_is_const_and_returns_bool,
                  "fsdpinit: `module`: T::is_unit(path) must be const, and return bool");
    return clauses::tie_groups_is_const_and_returns_names && clauses::is_unit_is_const_and_returns_bool;
  } else {
    if constexpr (!clauses::is_not_const) {
      static_assert(clauses::is_not_const,
                    "fsdpinit: `module`: T is const, but its slots are to change; pass one that is not const");
    } else if constexpr (!clauses::takes_any_visitor) {
      static_assert(clauses::takes_any_visitor,
                    "fsdpinit: `module`: T::visit_slots must take a visitor of any type: template <class Visitor> void "
                    "visit_slots(Visitor&& visitor)");
    } else {
      static_assert(ShardableModule<T>,
                    "fsdpinit: `module` must be a ShardableModule: T must have visit_slots(visitor), a specialisation "
                    "of fsdpinit::module_traits, or be adapted with BOOST_HANA_ADAPT_STRUCT");
    }
    return false;
  }
}

template <class Policy>
struct policy_clauses {
  static constexpr bool is_policy = requires {
    { Policy::name } -> std::convertible_to<std::string_view>;
    { Policy::transport } -> std::convertible_to<transport>;
    { Policy::every_rank_reads } -> std::convertible_to<bool>;
  };
};

template <class T>
[[nodiscard]] consteval bool require_policy() {
  using clauses = policy_clauses<T>;
  static_assert(clauses::is_policy,
                "fsdpinit: `Policy` must be native_sharding<...>, every_rank_loads, or have their constants");
  return clauses::is_policy;
}

/// A source, or the module itself where the policy can do with that.
template <class T, class Policy>
[[nodiscard]] consteval bool require_source_for() {
  if constexpr (!std::is_same_v<std::remove_const_t<T>, module_state>) {
    return require_source<T>();
  } else if constexpr (policy_clauses<Policy>::is_policy) {
    constexpr bool is_sent = Policy::every_rank_reads || Policy::transport == transport::scatter ||
                             Policy::transport == transport::broadcast;
    static_assert(is_sent,
                  "fsdpinit: `source` is module_state, which is on the source rank only: no rank can read its own part "
                  "of it; use transport::scatter or transport::broadcast");
    return is_sent;
  } else {
    return false;
  }
}

}  // namespace fsdpinit::detail
