#pragma once

#include <fsdpinit/core/error.hpp>
#include <fsdpinit/core/text.hpp>
#include <fsdpinit/init/policies.hpp>
#include <fsdpinit/plan/transport.hpp>

#include <optional>
#include <string>
#include <type_traits>

/// \file
/// Which policy a call follows: what its types say of it, and `options::policy`.

namespace fsdpinit::detail {

/// The baseline of a switch that is off, whatever `options::policy` says.
struct switched_off : every_rank_loads {};

template <class Policy>
inline constexpr bool names_transport = true;
template <template <class> class Policy>
inline constexpr bool names_transport<Policy<default_transport>> = false;

/// What the types of a call say of its policy.
struct typed_policy {
  policy value;
  bool names_policy = true;     ///< `options::policy` must be of the same name
  bool names_transport = true;  ///< and the same transport
  bool overrides = false;       ///< `options::policy` does not count
};
template <class Policy>
inline constexpr typed_policy typed_policy_of{
    .value = policy_of<Policy>,
    .names_policy = !std::is_same_v<Policy, default_policy>,
    .names_transport = !std::is_same_v<Policy, default_policy> && names_transport<Policy>,
    .overrides = std::is_same_v<Policy, switched_off>};

/// The one that a call follows, if it is a valid one: see `require_valid`.
[[nodiscard]] inline policy policy_in_use(const typed_policy& typed, const std::optional<policy>& chosen) noexcept {
  return chosen && !typed.overrides ? *chosen : typed.value;
}

/// \param from_module  whether the module's own state is the source
/// \throws error{invalid_argument} where type and value contradict each other, and for a value that no type may be
inline void require_valid(const typed_policy& typed, const std::optional<policy>& chosen, bool from_module) {
  const policy used = policy_in_use(typed, chosen);
  if ((typed.names_policy &&
       (used.name != typed.value.name || used.every_rank_reads != typed.value.every_rank_reads)) ||
      (typed.names_transport && used.transport != typed.value.transport)) {
    const auto text = [](const policy& each, bool has_transport) {
      return has_transport ? concat(each.name, ", ", name(each.transport)) : std::string(each.name);
    };
    throw error(errc::invalid_argument, "policy",
                concat("options::policy is ", text(used, !used.every_rank_reads), ", but the call is for ",
                       text(typed.value, typed.names_transport && !typed.value.every_rank_reads),
                       "; make them equal, or leave one of the two out"));
  }
  if (used.transport > transport_kind::none || (used.transport == transport_kind::none && !used.every_rank_reads)) {
    throw error(errc::invalid_argument, "policy",
                concat(used.name,
                       " has no transport by which ranks could get what they do not read; use policy_of or "
                       "policy_named"));
  }
  if (from_module && !used.every_rank_reads && used.transport != transport_kind::scatter &&
      used.transport != transport_kind::broadcast) {
    throw error(errc::invalid_argument, "source",
                "it is module_state, which is on the source rank only: no rank can read its own part of it; use "
                "transport::scatter or transport::broadcast");
  }
}

}  // namespace fsdpinit::detail
