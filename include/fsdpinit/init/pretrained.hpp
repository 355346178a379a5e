#pragma once

#include <fsdpinit/concepts/communicator.hpp>
#include <fsdpinit/concepts/shardable_module.hpp>
#include <fsdpinit/engine/payload_link.hpp>
#include <fsdpinit/init/argument_checks.hpp>
#include <fsdpinit/init/arguments.hpp>
#include <fsdpinit/init/engine.hpp>
#include <fsdpinit/init/extras.hpp>
#include <fsdpinit/init/pretrained_context.hpp>
#include <fsdpinit/init/source_in_use.hpp>

#include <type_traits>

#if FSDPINIT_DEFINES
#include <fsdpinit/init/pretrained_load.hpp>
#endif

namespace fsdpinit {

/// The first half of CPU-RAM-efficient loading: pretrained weights, whole, into the module of the source rank alone;
/// between the halves they may be edited there (an embedding resized, an adapter merged). Collective over the control
/// channel.
///
/// Active (see `context`): afterwards the source rank's parameters and persistent buffers hold whole tensors
/// (`local_shard` of the global shape, offset 0), each in an allocation of its own, which goes back when its slots let
/// go of it (large ones to the operating system); tied names share theirs. On other ranks these slots are on meta, and
/// the source is neither opened nor read. Inactive: every rank does what the source rank does, after they have compared
/// their checkpoints as `initialize` does. Non-persistent buffers are left alone.
///
/// \param module   This rank's module, of the same names, shapes, dtypes and ties on every rank.
/// \param source   A StateDictSource, or a SourceOpener, called on the ranks that load.
/// \param ranks    A Communicator, or `channels{data, control}`, whose ranks are the same in the same order; no weights travel.
/// \param context  Who loads; equal on every rank.
/// \param options  Options, equal on every rank.
/// \param more     `.memory`: where the weights live, a memory space that host code may touch; without one a `host_memory` of this
///                 rank's own. `.observer`: an Observer; progress is reported on the source rank. A WaitingObserver also hears of long waits.
///                 `.stop`: ends the call, as in `extras`.
///
/// Cost: W bytes of `memory` on ranks that load, and at most 256 KiB more until all is read, for neighbours in a file
/// that are read at once and ties that are stored twice; nothing elsewhere. Weights that the module held before stay
/// until these are allocated. Control traffic: seven agreements and one for each `bytes_between_agreements`, or one, and
/// two broadcasts of metadata. A source that holds its tensors is told when each may go.
///
/// \throws fsdpinit::error, the same on every rank, as `initialize` does: disagreement, missing_tensor,
/// unexpected_tensor, shape_mismatch, dtype_mismatch (all of them listed), invalid_tie where copies of a tied tensor
/// differ, out_of_memory, and what the source throws. Before the first byte is read every module is untouched; later it
/// is on meta on every rank, what was allocated is released, and unless the source has let go of tensors the same call may
/// be made again.
template <class Module, class Source, class Channels>
pretrained_report load_pretrained(Module& module, Source&& source, Channels&& ranks,
                                  const pretrained_load_context& context = {},
                                  const pretrained_load_options& options = {}, const pretrained_extras& more = {}) {
  using given = std::remove_reference_t<Source>;
  constexpr bool is_sound =
      detail::require_module<Module>() && detail::require_source<given>() && detail::require_links<Channels>();
  if constexpr (is_sound) {
    if (false) {  // as in `initialize`
      module_traits<Module>::visit_slots(module, detail::slot_check{});
    }
    const auto both = detail::channels_of(ranks);
    detail::payload_link_of data(both.data);
    typename detail::source_in_use_of<given>::type opened(source);
    const detail::pretrained_arguments arguments{.module = module,
                                                 .source = opened,
                                                 .data = data,
                                                 .control = both.control,
                                                 .context = context,
                                                 .options = options,
                                                 .more = more};
    return detail::run_pretrained_load(arguments);
  } else {
    return {};
  }
}

}  // namespace fsdpinit
