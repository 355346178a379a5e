#pragma once

#include <fsdpinit/init/default_memory.hpp>
#include <fsdpinit/init/initialize.hpp>
#include <fsdpinit/init/options.hpp>
#include <fsdpinit/init/policies.hpp>
#include <fsdpinit/init/policy_in_use.hpp>
#include <fsdpinit/observe/observer.hpp>
#include <fsdpinit/observe/report.hpp>

#include <utility>

/// \file
/// What users of a program choose by a switch when it runs. Which policy: `options::policy`.

namespace fsdpinit {

/// The run-time switch that training frameworks call by this name.
struct memory_efficient_init {
  bool enabled = true;
};

/// `initialize<Policy>` where the switch is on, and the baseline, `every_rank_loads`, where it is off, whatever `options::policy` says:
/// for programs that offer the choice to their users. The same shards either way.
template <class Policy = default_policy, class Module, class Source, class Channels, class Space = default_memory,
          class Watch = null_observer, class Optimizer = no_optimizer>
rank_report initialize(memory_efficient_init efficient, Module& module, Source&& source, Channels&& links,
                       const options& how = {}, Space memory = {}, Watch&& watch = {}, Optimizer&& optimizer = {}) {
  const auto with = [&]<class Chosen>(Chosen /*policy*/) {
    return initialize<Chosen>(module, std::forward<Source>(source), std::forward<Channels>(links), how,
                              std::move(memory), std::forward<Watch>(watch), std::forward<Optimizer>(optimizer));
  };
  return efficient.enabled ? with(Policy{}) : with(detail::switched_off{});
}

/// Where shards live: in host memory where the switch is on (for models that compute on a device and bring each unit there when its
/// turn comes, as with FSDP2's CPUOffloadPolicy), else on the device.
struct cpu_offload {
  bool enabled = false;
};

/// `initialize<Policy>` into `host` where the switch is on, and into `device` where it is off. The same bytes either way. Both are
/// compiled.
template <class Policy = default_policy, class Module, class Source, class Channels, class Device,
          class Host = default_memory, class Watch = null_observer, class Optimizer = no_optimizer>
rank_report initialize(cpu_offload offload, Module& module, Source&& source, Channels&& links, const options& how,
                       Device device, Host host = {}, Watch&& watch = {}, Optimizer&& optimizer = {}) {
  const auto into = [&](auto& memory) {
    return initialize<Policy>(module, std::forward<Source>(source), std::forward<Channels>(links), how,
                              std::move(memory), std::forward<Watch>(watch), std::forward<Optimizer>(optimizer));
  };
  return offload.enabled ? into(host) : into(device);
}

}  // namespace fsdpinit
