#pragma once

#include <fsdpinit/concepts/communicator.hpp>
#include <fsdpinit/concepts/shardable_module.hpp>
#include <fsdpinit/engine/payload_link.hpp>
#include <fsdpinit/init/argument_checks.hpp>
#include <fsdpinit/init/arguments.hpp>
#include <fsdpinit/init/engine.hpp>
#include <fsdpinit/init/extras.hpp>
#include <fsdpinit/init/options.hpp>
#include <fsdpinit/init/policies.hpp>
#include <fsdpinit/init/source_in_use.hpp>
#include <fsdpinit/observe/report.hpp>

#include <type_traits>

#if FSDPINIT_DEFINES
#include <fsdpinit/init/initialization.hpp>
#endif

namespace fsdpinit {

namespace detail {

/// Takes the types off what was given: all that is compiled for each combination of them.
template <class Module, class Source, class Data, class Control>
rank_report initialize_with(const typed_policy& policy, Module& module, Source& source, channels<Data, Control> ranks,
                            const options& options, const extras& more, step_tap* tap = nullptr) {
  payload_link_of<Data> data(ranks.data);
  const auto run = [&](source_in_use* opened) {
    return run_initialization({.policy = policy,
                               .module = module,
                               .source = opened,
                               .data = data,
                               .control = ranks.control,
                               .options = options,
                               .more = more,
                               .tap = tap});
  };
  if constexpr (is_module_state<Source>) {
    return run(nullptr);
  } else {
    typename source_in_use_of<Source>::type opened(source);
    return run(&opened);
  }
}

}  // namespace detail

/// Brings a sharded module up from a state dict: preflight -> plan -> allocate -> meta -> stream -> commit. Collective.
///
/// \tparam Policy  `native_sharding<T>` with one of the transports, `scatter` by default; `cpu_ram_efficient_loading<T>`, as
///                 `prepare` calls it; or `every_rank_loads`. A call that leaves it out may say it at run time, by
///                 `options::policy`.
/// \param module   This rank's module. Parameters and persistent buffers are on meta while bytes move; afterwards each
///                 slot holds this rank's part, in slabs that belong to it, and tied slots share storage.
/// \param source   A StateDictSource, or a SourceOpener, called on the ranks that read: the source rank, or all.
/// \param ranks    A Communicator, or `channels{data, control}`, whose ranks are the same in the same order.
/// \param options  Options, equal on every rank.
/// \param more     Memory, an observer, an optimizer, initial values of missing tensors, a stop, by name: see `extras`.
///
/// Cost: see `prediction`. Control traffic: O(log N) messages for each agreement, of which there are eight to ten and
/// one for each 128 MiB that ranks read by themselves, and a last reduction, and two broadcasts of metadata.
///
/// Ranks that read by themselves have to read the same checkpoint, wherever it lies. Where several ranks open the
/// source (`own_read`, `automatic`, `every_rank_loads`, a source per node, `verification::reread`), each of them reads
/// 64 samples of 32 bytes first (of less than 2 KiB of data: fewer), and these, the sizes of files and their headers
/// are compared with the source rank's; a difference is error{disagreement}, or makes `automatic` fall back. These are
/// all the reads that it costs, and no message more; where one rank opens the source there are none. A module's own
/// state is each rank's own affair, and is not compared.
///
/// \throws fsdpinit::error, the same on every rank: code, FQN, rank, remedy. Before the first byte moves the module is
/// untouched; later it is on meta on every rank, what was allocated is released, and with a file as source the same call
/// may be made again. Non-persistent buffers keep their values until the commit.
template <class Policy = default_policy, class Module, class Source, class Channels>
rank_report initialize(Module& module, Source&& source, Channels&& ranks, const options& options = {},
                       const extras& more = {}) {
  using given = std::remove_reference_t<Source>;
  constexpr bool is_sound = detail::require_policy<Policy>() && detail::require_module<Module>() &&
                            detail::require_source_for<given, Policy>() && detail::require_links<Channels>();
  if constexpr (is_sound) {
    if (false) {  // compiled, and never called: what is wrong with a slot is told from here rather than from the depths
      module_traits<Module>::visit_slots(module, detail::slot_check{});
    }
    const detail::typed_policy& policy =
        options.memory_efficient_init ? detail::typed_policy_of<Policy> : detail::typed_policy_of<detail::switched_off>;
    return detail::initialize_with(policy, module, source, detail::channels_of(ranks), options, more);
  } else {
    return {};
  }
}

/// A transport in place of a policy: not compiled.
template <transport Transport, class Module, class Source, class Channels>
rank_report initialize(Module& /*module*/, Source&& /*source*/, Channels&& /*ranks*/, const options& /*options*/ = {},
                       const extras& /*more*/ = {}) {
  static_assert(sizeof(Module) == 0, "fsdpinit: `Policy`: it is a transport; use native_sharding<transport::...>");
  return {};
}

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
template <transport Transport, class Module, class Channels>
rank_report prepare(Module& module, Channels&& ranks, const options& options = {}, const extras& more = {}) {
  return initialize<cpu_ram_efficient_loading<Transport>>(module, module_state{}, ranks, options, more);
}
template <class Module, class Channels>
rank_report prepare(Module& module, Channels&& ranks, const options& options = {}, const extras& more = {}) {
  return initialize<detail::default_loading>(module, module_state{}, ranks, options, more);
}

}  // namespace fsdpinit
