#pragma once

#include <fsdpinit/concepts/optimizer.hpp>
#include <fsdpinit/init/extras.hpp>
#include <fsdpinit/init/initialize.hpp>
#include <fsdpinit/init/options.hpp>
#include <fsdpinit/init/policies.hpp>
#include <fsdpinit/init/pretrained.hpp>
#include <fsdpinit/memory/host_memory.hpp>
#include <fsdpinit/observe/observer.hpp>
#include <fsdpinit/observe/report.hpp>

#include <type_traits>
#include <utility>

/// \file
/// Calls as they were before 0.2, by position: `memory, observer, optimizer, missing` behind the options, and switches in front. They are
/// deprecated, and go with 0.3.

namespace fsdpinit {

/// Stands for none: missing tensors stay on meta.
struct no_initialiser {};
/// `options::memory_efficient_init`.
struct memory_efficient_init {
  bool enabled = true;
};
/// `extras::memory`.
struct cpu_offload {
  bool enabled = false;
};

namespace detail {

template <class Space>
[[nodiscard]] memory_argument memory_named(const Space& memory) noexcept {
  return memory;
}
[[nodiscard]] inline memory_argument memory_named(const default_memory& /*none*/) noexcept { return {}; }

template <class Module, class Optimizer, class Initialiser>
[[nodiscard]] extras extras_in_order(const memory_argument& memory, observer_ref observer, Module& module,
                                     Optimizer& optimizer, Initialiser& missing) noexcept {
  extras more{.memory = memory, .observer = observer};
  if constexpr (!std::is_same_v<Optimizer, no_optimizer>) {
    more.optimizer = {module, optimizer};
  }
  if constexpr (!std::is_same_v<Initialiser, no_initialiser>) {
    more.missing = missing;
  }
  return more;
}

template <class T>
concept Positional = !std::is_same_v<T, extras> && !std::is_same_v<T, pretrained_extras>;

}  // namespace detail

template <class Policy = default_policy, class Module, class Source, class Channels, detail::Positional Space,
          class Watch = null_observer, class Optimizer = no_optimizer, class Initialiser = no_initialiser>
[[deprecated("name what follows the options: {.memory = ..., ...}")]] rank_report initialize(
    Module& module, Source&& source, Channels&& ranks, const options& options, Space memory, Watch&& observer = {},
    Optimizer&& optimizer = {}, Initialiser&& missing = {}) {
  const extras more = detail::extras_in_order(detail::memory_named(memory), observer, module, optimizer, missing);
  return initialize<Policy>(module, source, ranks, options, more);
}

template <class Policy = default_policy, class Module, class Source, class Channels, class Space = default_memory,
          class Watch = null_observer, class Optimizer = no_optimizer>
[[deprecated("use options::memory_efficient_init")]] rank_report initialize(memory_efficient_init efficient,
                                                                            Module& module, Source&& source,
                                                                            Channels&& ranks, options options = {},
                                                                            Space memory = {}, Watch&& observer = {},
                                                                            Optimizer&& optimizer = {}) {
  options.memory_efficient_init = efficient.enabled;
  no_initialiser missing;
  const extras more = detail::extras_in_order(detail::memory_named(memory), observer, module, optimizer, missing);
  return initialize<Policy>(module, source, ranks, options, more);
}

template <class Policy = default_policy, class Module, class Source, class Channels, class Device,
          class Host = default_memory, class Watch = null_observer, class Optimizer = no_optimizer>
[[deprecated("use {.memory = offload ? memory_argument(host) : memory_argument(device)}")]] rank_report initialize(
    cpu_offload offload, Module& module, Source&& source, Channels&& ranks, const options& options, Device device,
    Host host = {}, Watch&& observer = {}, Optimizer&& optimizer = {}) {
  no_initialiser missing;
  const memory_argument memory = offload.enabled ? detail::memory_named(host) : detail::memory_named(device);
  const extras more = detail::extras_in_order(memory, observer, module, optimizer, missing);
  return initialize<Policy>(module, source, ranks, options, more);
}

template <transport... Transport, class Module, class Channels, detail::Positional Space, class Watch = null_observer,
          class Optimizer = no_optimizer>
[[deprecated("name what follows the options: {.memory = ..., ...}")]] rank_report prepare(
    Module& module, Channels&& ranks, const options& options, Space memory, Watch&& observer = {},
    Optimizer&& optimizer = {}) {
  no_initialiser missing;
  const extras more = detail::extras_in_order(detail::memory_named(memory), observer, module, optimizer, missing);
  return prepare<Transport...>(module, ranks, options, more);
}

template <class Module, class Source, class Channels, detail::Positional Space, class Watch = null_observer>
[[deprecated("name what follows the options: {.memory = ..., ...}")]] pretrained_report load_pretrained(
    Module& module, Source&& source, Channels&& ranks, const pretrained_load_context& context,
    const pretrained_load_options& options, Space memory, Watch&& observer = {}) {
  pretrained_extras more{.observer = observer};
  if constexpr (!std::is_same_v<Space, default_memory>) {
    more.memory = memory;
  }
  return load_pretrained(module, source, ranks, context, options, more);
}

}  // namespace fsdpinit
