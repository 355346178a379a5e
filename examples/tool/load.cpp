#include "commands.hpp"
#include "dump.hpp"
#include "load_outputs.hpp"
#include "load_rank.hpp"
#include "progress.hpp"
#include "rank_threads.hpp"
#include "terminal.hpp"
#include <fsdpinit/core/deadline.hpp>
#include <fsdpinit/observe/report_text.hpp>
#include <fsdpinit/observe/timeline.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <unistd.h>

namespace fsdpinit::tool {
namespace {

void dump(const load_request& how, std::vector<rank_result>& results, const std::filesystem::path& folder) {
  std::uint64_t total = 0;
  for (const rank_result& each : results) {
    total += each.report.predicted.shard_bytes;
  }
  progress_display shown("dump");
  run_rank_threads(results.size(), [&](threads_communicator& comm) {
    const std::size_t rank = comm.rank();
    dump_shards(results[rank].module, {.rank = rank, .shards = how.shards, .replicas = how.replicas}, folder, shown,
                total);
  });
}

}  // namespace

void run_load(const load_request& how, unfinished& outputs) {
  require_fitting(how, most_thread_ranks);
  require_different_outputs(how);
  load_outputs files(how, outputs);
  std::optional<memory_timeline> timeline;
  if (!how.timeline.empty()) {
    timeline.emplace();
  }

  std::vector<rank_result> results(how.ranks());
  const double began = monotonic_seconds();
  {
    progress_display shown("load");
    run_rank_threads(how.ranks(), [&](threads_communicator& comm) {
      results[comm.rank()] = load_rank(how, comm, timeline ? &*timeline : nullptr, shown);
    });
  }
  if (timeline) {
    timeline->stop();
    std::string csv;
    timeline->write_csv([&](std::string_view line) { csv += line; });
    files.write_timeline(csv);
  }
  std::vector<rank_report> reports;
  std::uint64_t peak_rss = 0;
  double seconds = 0;
  for (const rank_result& each : results) {
    reports.push_back(each.report);
    peak_rss = std::max(peak_rss, each.peak_rss_bytes);
    seconds = std::max(seconds, each.ready_at - began);
  }
  files.write_report(reports, peak_rss, seconds);
  if (const auto folder = files.dump_folder()) {
    dump(how, results, *folder);
  }
  files.commit();
  fmt::print("{}{}{:.3f} s in all; the process had {} resident at most\n",
             report_text(reports, terminal_columns(STDOUT_FILENO)), results.front().left_alone, seconds,
             bytes_text(peak_rss));
}

}  // namespace fsdpinit::tool
