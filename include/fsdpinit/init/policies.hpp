#pragma once

#include <fsdpinit/core/error.hpp>
#include <fsdpinit/core/text.hpp>
#include <fsdpinit/plan/transport.hpp>

#include <optional>
#include <string>
#include <string_view>
#include <type_traits>

/// \file
/// The strategies. As types, chosen at compile time: `initialize<native_sharding<transport::broadcast>>(...)`; as values, chosen at run
/// time: `options::policy`.

namespace fsdpinit {

/// Meta, then shard, then stream the weights from the source rank: no rank ever holds the model.
template <transport Transport = transport::scatter>
struct native_sharding {
  static constexpr std::string_view name = "native-sharding";
  static constexpr fsdpinit::transport transport = Transport;
  static constexpr bool every_rank_reads = false;
};

/// What accelerate calls CPU-RAM-efficient loading: the source rank has loaded the model into host memory (`load_pretrained`), the
/// other ranks have it on meta; each gets its shard, and the source's copy shrinks as it goes. Streams as `native_sharding` does.
template <transport Transport = transport::scatter>
struct cpu_ram_efficient_loading {
  static constexpr std::string_view name = "cpu-ram-efficient-loading";
  static constexpr fsdpinit::transport transport = Transport;
  static constexpr bool every_rank_reads = false;
};

/// The baseline: every rank reads the whole checkpoint into its own memory, then keeps its part.
struct every_rank_loads {
  static constexpr std::string_view name = "every-rank-loads";
  static constexpr fsdpinit::transport transport = fsdpinit::transport::none;
  static constexpr bool every_rank_reads = true;
};

/// The policy of a call of `initialize` that names none: `options::policy`, or `native_sharding<>` if that is empty, too.
struct default_policy : native_sharding<> {};

/// A policy as a value, for programs whose users choose it: `options::policy`. `policy_of` makes it of a type, `policy_named` of text. Has
/// the constants of a policy type; as with a type of your own, `name` has to outlive the reports that quote it.
struct policy {
  std::string_view name = native_sharding<>::name;
  fsdpinit::transport transport = native_sharding<>::transport;
  bool every_rank_reads = native_sharding<>::every_rank_reads;

  friend bool operator==(const policy&, const policy&) = default;
};

/// The value of a policy type: `policy_of<native_sharding<transport::own_read>>`.
template <class Policy>
inline constexpr policy policy_of{
    .name = Policy::name, .transport = Policy::transport, .every_rank_reads = Policy::every_rank_reads};

/// The policy of that name with the transport of that name: what reports call them (`rank_report::policy`, `rank_report::transport`).
/// Local: where the text is not the same on every rank, parse it on one, and share what it says.
///
/// \param name       "native-sharding", "cpu-ram-efficient-loading" or "every-rank-loads".
/// \param transport  "scatter", "broadcast", "own-read" or "automatic"; empty: the default of the policy. Of "every-rank-loads" it is
///                   "none" or empty.
/// \throws fsdpinit::error  invalid_argument, which lists the names that there are
[[nodiscard]] inline policy policy_named(std::string_view name, std::string_view transport = {}) {
  policy chosen;
  if (name == every_rank_loads::name) {
    chosen = policy_of<every_rank_loads>;
  } else if (name == cpu_ram_efficient_loading<>::name) {
    chosen = policy_of<cpu_ram_efficient_loading<>>;
  } else if (name != native_sharding<>::name) {
    throw error(errc::invalid_argument, "policy",
                concat("\"", printable(name), "\" is unknown; use ", native_sharding<>::name, ", ",
                       cpu_ram_efficient_loading<>::name, " or ", every_rank_loads::name));
  }
  if (transport.empty() || transport == fsdpinit::name(chosen.transport)) {
    return chosen;
  }
  if (chosen.every_rank_reads) {
    throw error(errc::invalid_argument, "transport",
                concat("\"", printable(transport), "\" is not for every-rank-loads, which has none; leave it out"));
  }
  for (const fsdpinit::transport each :
       {transport::scatter, transport::broadcast, transport::own_read, transport::automatic}) {
    if (transport == fsdpinit::name(each)) {
      chosen.transport = each;
      return chosen;
    }
  }
  throw error(errc::invalid_argument, "transport",
              concat("\"", printable(transport), "\" is unknown; use scatter, broadcast, own-read or automatic"));
}

}  // namespace fsdpinit

// Which policy a call follows: what its types say of it, and `options::policy`.
namespace fsdpinit::detail {

/// The baseline of a switch that is off, whatever `options::policy` says.
struct switched_off : every_rank_loads {};

/// The policy of a call of `prepare` that names no transport: that of `options::policy`, or `scatter` if that is empty, too.
struct default_loading : cpu_ram_efficient_loading<> {};

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
    .names_transport = !std::is_same_v<Policy, default_policy> && !std::is_same_v<Policy, default_loading>,
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
  if (used.transport > transport::none || (used.transport == transport::none && !used.every_rank_reads)) {
    throw error(errc::invalid_argument, "policy",
                concat(used.name,
                       " has no transport by which ranks could get what they do not read; use policy_of or "
                       "policy_named"));
  }
  if (from_module && !used.every_rank_reads && used.transport != transport::scatter &&
      used.transport != transport::broadcast) {
    throw error(errc::invalid_argument, "source",
                "it is module_state, which is on the source rank only: no rank can read its own part of it; use "
                "transport::scatter or transport::broadcast");
  }
}

}  // namespace fsdpinit::detail
