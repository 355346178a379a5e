#pragma once

#include "chosen_model.hpp"
#include "commands.hpp"
#include "opener.hpp"
#include "progress.hpp"
#include <fsdpinit/control/agreement.hpp>
#include <fsdpinit/control/wait_watch.hpp>
#include <fsdpinit/core/deadline.hpp>
#include <fsdpinit/core/xxh3.hpp>  // verification is by this
#include <fsdpinit/init/initialize.hpp>
#include <fsdpinit/init/pretrained.hpp>
#include <fsdpinit/memory/block.hpp>
#include <fsdpinit/memory/host_memory.hpp>
#include <fsdpinit/modules/dynamic_module.hpp>
#include <fsdpinit/observe/report.hpp>
#include <fsdpinit/observe/resident_memory.hpp>
#include <fsdpinit/observe/timeline.hpp>
#include <fsdpinit/sources/remote.hpp>
#include <fsdpinit/sources/safetensors.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <utility>

/// \file
/// One rank's part of `load`, whatever ranks are.

namespace fsdpinit::tool {

/// What one rank has in the end. It stays until the timeline has seen it.
struct rank_result {
  dynamic_module module;
  rank_report report;
  std::string left_alone{};          ///< a line for what --dtype has not cast
  double ready_at = 0;               ///< on the monotonic clock: the end of the load
  std::uint64_t peak_rss_bytes = 0;  ///< of the process, up to then
  block<host_memory> optimizer{host_memory(), 0};
};

/// A WaitingObserver: progress and long waits to the terminal, phases to the timeline where one is kept.
class rank_watch {
 public:
  rank_watch(std::size_t rank, double deadline_seconds, progress_display& shown,
             std::optional<memory_timeline::rank_observer> timeline)
      : rank_(rank), deadline_seconds_(deadline_seconds), shown_(shown), timeline_(timeline) {}
  void phase(const char* name) {
    phase_ = name;
    if (timeline_) {
      timeline_->phase(name);
    }
  }
  void progress(std::uint64_t done, std::uint64_t total) { shown_.show(done, total); }
  void waiting(const char* what, double seconds) noexcept {
    shown_.show_wait(rank_, phase_, what, seconds, deadline_seconds_);
  }

 private:
  std::size_t rank_;
  double deadline_seconds_;
  const char* phase_ = "";
  tool::progress_display& shown_;
  std::optional<memory_timeline::rank_observer> timeline_;
};

[[nodiscard]] inline options options_of(const load_request& how) {
  return {.policy = how.chosen_policy(),
          .bucket_bytes = how.bucket_bytes,
          .reader_threads = how.reader_threads,
          .source_rank = how.source_rank,
          .replicas = how.replicas,
          .strict = how.strict,
          .verify = how.verify,
          .deadline_seconds = how.deadline_seconds};
}

/// The source rank loads the whole model into its memory; then every rank gets its part from there.
template <class Source, class Comm>
[[nodiscard]] rank_result load_and_prepare(const load_request& how, std::span<const tensor_descriptor> tensors,
                                           Source&& source, Comm& comm, const host_memory& memory, rank_watch& watch) {
  rank_result result;
  agreed(comm, how.deadline_seconds, [&] {
    result.module = module_of(how, tensors);
    result.left_alone = left_alone(how, tensors);
  });
  pretrained_report loaded =
      load_pretrained(result.module, source, comm, {.active = true, .source_rank = how.source_rank},
                      {.deadline_seconds = how.deadline_seconds}, {.memory = memory, .observer = watch});
  result.report = prepare(result.module, comm, options_of(how), {.memory = memory, .observer = watch});
  result.report.unread_buffers = std::move(loaded.unread_buffers);
  result.report.overflow = std::move(loaded.overflow);
  return result;
}

template <class Source, class Comm>
[[nodiscard]] rank_result initialize_from(const load_request& how, std::span<const tensor_descriptor> tensors,
                                          Source&& source, Comm& comm, const host_memory& memory, rank_watch& watch) {
  rank_result result;
  agreed(comm, how.deadline_seconds, [&] {
    result.module = module_of(how, tensors);
    result.left_alone = left_alone(how, tensors);
  });
  result.report = initialize(result.module, source, comm, options_of(how), {.memory = memory, .observer = watch});
  return result;
}

/// What AdamW keeps of each shard: two moments of its size, zero.
[[nodiscard]] inline block<host_memory> adamw_state(const rank_report& loaded, const host_memory& memory) {
  block<host_memory> moments(memory, 2 * loaded.predicted.shard_bytes);
  std::fill(moments.bytes().begin(), moments.bytes().end(), std::byte{0});
  return moments;
}

/// Opens the checkpoint and brings the module up, as asked for. Collective; \throws the same error on every rank.
template <class Comm>
[[nodiscard]] rank_result load_rank(const load_request& how, Comm& comm, memory_timeline* timeline,
                                    progress_display& shown) {
  const host_memory memory;
  std::optional<memory_timeline::rank_observer> samples;
  if (timeline != nullptr) {
    samples = timeline->observer(comm.rank(), memory.shared_account());
  }
  rank_watch watch(comm.rank(), how.deadline_seconds, shown, samples);
  watch.phase("open");
  // initialize() watches its own waits, and not those for ranks that open the checkpoint here.
  detail::wait_watch waits(watch);
  agreed(comm, how.deadline_seconds, [&] { waits.start(); });
  detail::watched_control control(comm, &waits);
  const auto load = [&] {
    const auto opener = opener_of(how);
    if (how.every_rank_loads() || how.transport == transport::own_read) {
      std::optional<decltype(opener())> source;
      agreed(control, how.deadline_seconds, [&] { source.emplace(opener()); });
      return initialize_from(how, source->tensors(), *source, comm, memory, watch);
    }
    // The source rank alone opens the checkpoint; the others learn from it what there is.
    auto source = share_descriptors(opener, control, how.source_rank, how.deadline_seconds);
    if (how.loads_first()) {
      return load_and_prepare(how, source.tensors(), source, comm, memory, watch);
    }
    if (how.transport == transport::automatic || how.verify == verification::reread) {  // others open it, too
      return initialize_from(how, source.tensors(), opener, comm, memory, watch);
    }
    return initialize_from(how, source.tensors(), source, comm, memory, watch);
  };
  rank_result result = load();
  result.ready_at = monotonic_seconds();
  result.peak_rss_bytes = peak_resident_bytes();
  if (how.optimizer) {
    watch.phase("optimizer");
    agreed(control, how.deadline_seconds, [&] { result.optimizer = adamw_state(result.report, memory); });
  }
  watch.phase("ready");
  return result;
}

}  // namespace fsdpinit::tool
