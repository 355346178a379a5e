#pragma once

#include <fsdpinit/concepts/communicator.hpp>
#include <fsdpinit/concepts/memory_space.hpp>
#include <fsdpinit/concepts/optimizer.hpp>
#include <fsdpinit/concepts/shardable_module.hpp>
#include <fsdpinit/concepts/state_dict_source.hpp>
#include <fsdpinit/init/arguments.hpp>
#include <fsdpinit/init/default_memory.hpp>
#include <fsdpinit/init/engine.hpp>
#include <fsdpinit/init/memory_in_use.hpp>
#include <fsdpinit/init/missing_tensor.hpp>
#include <fsdpinit/init/module_state.hpp>
#include <fsdpinit/init/optimizer_binding.hpp>
#include <fsdpinit/init/options.hpp>
#include <fsdpinit/init/payload_link.hpp>
#include <fsdpinit/init/policies.hpp>
#include <fsdpinit/init/policy_in_use.hpp>
#include <fsdpinit/init/source_in_use.hpp>
#include <fsdpinit/observe/observer.hpp>
#include <fsdpinit/observe/report.hpp>
#include <fsdpinit/plan/transport.hpp>

#include <concepts>
#include <optional>
#include <string_view>
#include <type_traits>

#if !defined(FSDPINIT_COMPILED)
#include <fsdpinit/init/initialization.hpp>
#endif

namespace fsdpinit {

namespace detail {

/// Takes the types off what was given: all that is compiled for each combination of them. `memory` is nullptr where a space is to be
/// made.
template <MemorySpace Space, class Module, class Source, class Data, class Control, class Watch, class Optimizer,
          class Initialiser>
rank_report initialize_with(const typed_policy& policy, Module& module, Source& source, channels<Data, Control> links,
                            const options& how, const Space* memory, Watch& watch, Optimizer& optimizer,
                            Initialiser& missing) {
  std::optional<initialiser_ref> initialiser;
  if constexpr (MissingInitialiser<Initialiser>) {
    static_assert(Space::host_accessible,
                  "fsdpinit: `missing` writes into the shards: `memory` must be host_accessible");
    initialiser.emplace(missing);
  }
  payload_link_of<Data> data(links.data);
  const auto run = [&](source_in_use* opened) {
    return run_initialization({.policy = policy,
                               .module = module,
                               .source = opened,
                               .data = data,
                               .control = links.control,
                               .how = how,
                               .memory = memory_in_use(memory, links.data),
                               .watch = watch,
                               .optimizer = optimizer_of_module(module, optimizer),
                               .missing = initialiser});
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
/// \param links    A Communicator, or `channels{data, control}`, whose ranks are the same in the same order.
/// \param how      Options, equal on every rank.
/// \param memory   Where shards live; without one in a `host_memory` of this rank's own. Its account shows the predicted peak, to the byte; one initialisation at a time.
/// \param watch    An Observer; one that is a WaitingObserver also hears of long waits.
/// \param optimizer  A ShardableOptimizer that was made for the module before: it lets go of the parameters before they are
///                 dropped, and is bound to the shards, by name, at the commit.
/// \param missing  With `strict = false`: what to put into tensors that the source does not have, on each rank into its part
///                 (`normal_values`, `constant_values`, a MissingInitialiser of one's own). Without, they stay on meta.
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
template <class Policy = default_policy, class Module, class Source, class Channels, class Space = default_memory,
          class Watch = null_observer, class Optimizer = no_optimizer, class Initialiser = no_initialiser>
rank_report initialize(Module& module, Source&& source, Channels&& links, const options& how = {}, Space memory = {},
                       Watch&& watch = {}, Optimizer&& optimizer = {}, Initialiser&& missing = {}) {
  using given = std::remove_reference_t<Source>;
  using space = detail::space_of<Space>;
  using observer = std::remove_reference_t<Watch>;
  using optimizer_type = std::remove_reference_t<Optimizer>;
  using initialiser = std::remove_cvref_t<Initialiser>;
  constexpr bool is_initialiser = MissingInitialiser<initialiser> || std::is_same_v<initialiser, no_initialiser>;
  constexpr bool is_policy = requires {
    { Policy::name } -> std::convertible_to<std::string_view>;
    { Policy::transport } -> std::convertible_to<transport_kind>;
    { Policy::every_rank_reads } -> std::convertible_to<bool>;
  };
  constexpr bool is_source = StateDictSource<given> || SourceOpener<given> || detail::is_module_state<given>;
  // Assertions rather than constraints: they name the argument and what it lacks.
  static_assert(is_policy,
                "fsdpinit: `Policy` must be native_sharding<...>, every_rank_loads, or have their constants");
  static_assert(ShardableModule<Module>,
                "fsdpinit: `module` must model ShardableModule: a member visit_slots(visitor), a specialisation of "
                "fsdpinit::module_traits, or a struct adapted with BOOST_HANA_ADAPT_STRUCT");
  static_assert(
      is_source,
      "fsdpinit: `source` must model StateDictSource: tensors() const, void read(tensor, offset, destination); "
      "or SourceOpener: a call that returns one; or be module_state");
  if constexpr (is_policy && detail::is_module_state<given>) {
    static_assert(
        Policy::every_rank_reads || Policy::transport == transport_kind::scatter ||
            Policy::transport == transport_kind::broadcast,
        "fsdpinit: `source` is module_state, which is on the source rank only: no rank can read its own part of it; "
        "use transport::scatter or transport::broadcast");
  }
  static_assert(
      detail::AreLinks<Channels>,
      "fsdpinit: `links` must model Communicator: rank() const, size() const, void broadcast(bytes, root); or "
      "be channels{data, control}");
  static_assert(MemorySpace<space>,
                "fsdpinit: `memory` must model MemorySpace: queue, host_accessible, allocate, deallocate, copy_in, "
                "copy_out, wait, accounted, accounted_peak, restart_peak");
  static_assert(Observer<observer>,
                "fsdpinit: `watch` must model Observer: void phase(name), void progress(done, total)");
  static_assert(WaitingObserver<observer> || !detail::HasWaiting<observer>,
                "fsdpinit: `watch` has a member waiting(what, seconds): it must be noexcept and return void");
  static_assert(
      ShardableOptimizer<optimizer_type>,
      "fsdpinit: `optimizer` must model ShardableOptimizer: parameter_groups() const, has_state() const, void "
      "drop_references() noexcept");
  static_assert(is_initialiser,
                "fsdpinit: `missing` must model MissingInitialiser: a call with missing_tensor_info that returns the "
                "generator of that tensor's elements");
  if constexpr (ShardableOptimizer<optimizer_type> && is_initialiser && is_policy && ShardableModule<Module> &&
                is_source && detail::AreLinks<Channels> && MemorySpace<space> && Observer<observer>) {
    return detail::initialize_with<space>(detail::typed_policy_of<Policy>, module, source, detail::channels_of(links),
                                          how, detail::given_space(memory), watch, optimizer, missing);
  }
}

}  // namespace fsdpinit
