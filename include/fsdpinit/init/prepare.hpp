#pragma once

#include <fsdpinit/init/extras.hpp>
#include <fsdpinit/init/initialize.hpp>
#include <fsdpinit/init/module_state.hpp>
#include <fsdpinit/init/options.hpp>
#include <fsdpinit/init/policies.hpp>
#include <fsdpinit/observe/report.hpp>

namespace fsdpinit {

/// The second half of CPU-RAM-efficient loading: shards the module that `load_pretrained` has filled on the source rank, with
/// whatever was edited there since, over all ranks; each tensor is released on the source rank when its last byte has left
/// (`options::release_source`). Where every rank has loaded (an inactive context), the source rank's values are the ones that
/// count. Collective.
///
/// \tparam Transport  `transport::scatter` or `transport::broadcast`. A call that leaves it out may say it at run time, by an
///                    `options::policy` of the name "cpu-ram-efficient-loading"; without, it is scatter.
///
/// Parameters, cost and errors are those of `initialize` with `module_state` as the source, and
/// error{source_consumed} where a failure came too late for a second attempt.
template <class Transport = default_transport, class Module, class Channels>
rank_report prepare(Module& module, Channels&& links, const options& how = {}, const extras& more = {}) {
  return initialize<cpu_ram_efficient_loading<Transport>>(module, module_state{}, links, how, more);
}

}  // namespace fsdpinit
