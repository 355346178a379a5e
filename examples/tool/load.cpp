#include "checkpoint_module.hpp"
#include "commands.hpp"
#include "dump.hpp"
#include "output_folder.hpp"
#include "progress.hpp"
#include "rank_threads.hpp"
#include "replacing_file.hpp"
#include <fsdpinit/control/agreement.hpp>
#include <fsdpinit/core/deadline.hpp>
#include <fsdpinit/init/initialize.hpp>
#include <fsdpinit/memory/host_memory.hpp>
#include <fsdpinit/observe/report_json.hpp>
#include <fsdpinit/observe/report_text.hpp>
#include <fsdpinit/observe/resident_memory.hpp>
#include <fsdpinit/observe/timeline.hpp>
#include <fsdpinit/sources/remote.hpp>
#include <fsdpinit/sources/safetensors.hpp>

#include <fmt/format.h>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

namespace fsdpinit::tool {
namespace {

/// What one rank has in the end. It stays until the timeline has seen it.
struct rank_result {
  dynamic_module module;
  rank_report report;
};

/// An Observer: progress to the terminal, phases to the timeline where one is kept.
class rank_watch {
 public:
  rank_watch(progress_display& shown, std::optional<memory_timeline::rank_observer> timeline)
      : shown_(shown), timeline_(timeline) {}
  void phase(const char* name) {
    if (timeline_) {
      timeline_->phase(name);
    }
  }
  void progress(std::uint64_t done, std::uint64_t total) { shown_.show(done, total); }

 private:
  tool::progress_display& shown_;
  std::optional<memory_timeline::rank_observer> timeline_;
};

class loader {
 public:
  loader(const load_request& how, memory_timeline* timeline) : how_(how), timeline_(timeline), results_(how.shards) {}

  void load() {
    const double began = monotonic_seconds();
    progress_display shown("load");
    run_rank_threads(how_.shards, [&](threads_communicator& comm) {
      const host_memory memory;
      std::optional<memory_timeline::rank_observer> samples;
      if (timeline_ != nullptr) {
        samples = timeline_->observer(comm.rank(), memory.shared_account());
      }
      rank_watch watch(shown, samples);
      watch.phase("open");
      if (how_.policy == policy_kind::every_rank_loads) {
        load_everywhere(comm, memory, watch);
      } else if (how_.transport == transport_kind::broadcast) {
        load_from_source<transport::broadcast>(comm, memory, watch);
      } else {
        load_from_source<transport::scatter>(comm, memory, watch);
      }
      watch.phase("ready");
    });
    seconds_ = monotonic_seconds() - began;
  }

  void dump(const output_folder& folder) {
    std::uint64_t total = 0;
    for (const rank_result& each : results_) {
      total += each.report.predicted.shard_bytes;
    }
    progress_display shown("dump");
    run_rank_threads(how_.shards, [&](threads_communicator& comm) {
      const std::size_t rank = comm.rank();
      dump_shards(results_[rank].module, {.rank = rank, .shards = how_.shards}, folder, shown, total);
    });
  }

  [[nodiscard]] double seconds() const noexcept { return seconds_; }
  [[nodiscard]] std::vector<rank_report> reports() const {
    std::vector<rank_report> reports;
    for (const rank_result& each : results_) {
      reports.push_back(each.report);
    }
    return reports;
  }

 private:
  static constexpr double deadline_seconds = options{}.deadline_seconds;

  /// Rank 0 alone opens the checkpoint; the others learn from it what there is.
  template <class Transport>
  void load_from_source(threads_communicator& comm, const host_memory& memory, rank_watch& watch) {
    auto source = share_descriptors(checkpoint{how_.checkpoint}, comm, 0, deadline_seconds);
    initialize_from<native_sharding<Transport>>(source, comm, memory, watch);
  }

  void load_everywhere(threads_communicator& comm, const host_memory& memory, rank_watch& watch) {
    std::optional<safetensors_source> source;
    agreed(comm, deadline_seconds, [&] { source.emplace(open_safetensors(how_.checkpoint)); });
    initialize_from<every_rank_loads>(*source, comm, memory, watch);
  }

  template <class Policy, class Source>
  void initialize_from(Source& source, threads_communicator& comm, const host_memory& memory, rank_watch& watch) {
    rank_result& result = results_[comm.rank()];
    agreed(comm, deadline_seconds, [&] { result.module = module_of(source.tensors()); });
    result.report = initialize<Policy>(result.module, source, comm, {.bucket_bytes = how_.bucket_bytes}, memory, watch);
  }

  const load_request& how_;
  memory_timeline* timeline_;
  std::vector<rank_result> results_;
  double seconds_ = 0;
};

/// Makes sure of the outputs before anything is loaded, and puts them in place together.
class load_outputs {
 public:
  load_outputs(const load_request& how, unfinished& outputs) {
    if (!how.report.empty() && !how.timeline.empty() &&
        std::filesystem::weakly_canonical(how.report) == std::filesystem::weakly_canonical(how.timeline)) {
      throw usage_error("--report and --timeline name the same file; give two");
    }
    if (!how.dump.empty()) {
      dump.emplace(outputs, how.dump);
    }
    if (!how.report.empty()) {
      report.emplace(outputs, how.report);
    }
    if (!how.timeline.empty()) {
      timeline.emplace(outputs, how.timeline);
    }
  }

  void commit() {
    if (dump) {
      dump->commit();
    }
    if (report) {
      report->commit();
    }
    if (timeline) {
      timeline->commit();
    }
  }

  std::optional<output_folder> dump;
  std::optional<replacing_file> report;
  std::optional<replacing_file> timeline;
};

}  // namespace

void run_load(const load_request& how, unfinished& outputs) {
  require_buckets_fit(how);
  load_outputs files(how, outputs);
  std::optional<memory_timeline> timeline;
  if (files.timeline) {
    timeline.emplace();
  }

  loader loading(how, timeline ? &*timeline : nullptr);
  loading.load();
  const std::uint64_t peak_rss = peak_resident_bytes();
  if (timeline) {
    timeline->stop();
  }
  const std::vector<rank_report> reports = loading.reports();

  if (files.dump) {
    loading.dump(*files.dump);
  }
  if (files.report) {
    files.report->write(json_text(report_json(reports, {.checkpoint = how.checkpoint,
                                                        .bucket_bytes = how.bucket_bytes,
                                                        .process_peak_rss_bytes = peak_rss,
                                                        .seconds = loading.seconds()})));
  }
  if (timeline) {
    std::string table;
    timeline->write_csv([&](std::string_view line) { table += line; });
    files.timeline->write(table);
  }
  files.commit();
  fmt::print("{}{:.3f} s in all; the process had {} resident at most\n", report_text(reports), loading.seconds(),
             bytes_text(peak_rss));
}

}  // namespace fsdpinit::tool
