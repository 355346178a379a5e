#include "commands.hpp"

#ifdef FSDPINIT_TOOL_HAS_MPI

#include "dump.hpp"
#include "load_outputs.hpp"
#include "load_rank.hpp"
#include "progress.hpp"
#include "terminal.hpp"
#include <fsdpinit/communicators/mpi.hpp>
#include <fsdpinit/control/agreement.hpp>
#include <fsdpinit/core/deadline.hpp>
#include <fsdpinit/init/gathered_reports.hpp>
#include <fsdpinit/observe/report_text.hpp>
#include <fsdpinit/observe/resident_memory.hpp>
#include <fsdpinit/observe/text_table.hpp>
#include <fsdpinit/observe/timeline.hpp>

#include <fmt/format.h>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <mpi.h>
#include <unistd.h>

namespace fsdpinit::tool {
namespace {

/// MPI from here to the end of the command.
class mpi_session {
 public:
  mpi_session() {
    int provided = MPI_THREAD_SINGLE;
    // This thread alone calls MPI; others look after signals and the timeline.
    if (MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &provided) != MPI_SUCCESS) {
      throw error(errc::communication, "MPI_Init", "failed; was the program started by mpirun or srun?");
    }
  }
  mpi_session(const mpi_session&) = delete;
  mpi_session& operator=(const mpi_session&) = delete;
  ~mpi_session() { MPI_Finalize(); }
};

class mpi_loader {
 public:
  mpi_loader(const load_request& how, unfinished& outputs, mpi_communicator& world)
      : how_(how), outputs_(outputs), world_(world) {}

  void run() {
    std::optional<load_outputs> files;  // of rank 0
    bytes path;
    agreed([&] {
      if (is_first()) {
        files.emplace(how_, outputs_);
        append(path, files->dump_folder().value_or("").string());
      }
    });
    path = share(std::move(path), 0);
    std::string folder;
    std::optional<memory_timeline> timeline;
    const std::uint64_t base_rss = resident_memory().current();
    agreed([&] {
      folder.assign(reinterpret_cast<const char*>(path.data()), path.size());
      if (!how_.timeline.empty()) {
        timeline.emplace();
      }
    });

    progress_display shown("load", is_first());
    const double began = monotonic_seconds();  // all ranks have just agreed
    rank_result result = load_rank(how_, world_, timeline ? &*timeline : nullptr, shown);
    const std::uint64_t microseconds =
        all_reduce_max(world_, static_cast<std::uint64_t>((result.ready_at - began) * 1e6), limit());
    result.report.base_rss_bytes = base_rss;
    result.report.peak_rss_bytes = result.peak_rss_bytes;

    const std::vector<rank_report> reports = gather_reports(world_, result.report, how_.deadline_seconds);
    const std::vector<bytes> samples = timeline ? gather_timeline(*timeline) : std::vector<bytes>();
    if (!folder.empty()) {
      agreed([&] {
        progress_display dumping("dump", is_first());
        dump_shards(result.module, {.rank = world_.rank(), .shards = how_.shards, .replicas = how_.replicas}, folder,
                    dumping, result.report.predicted.shard_bytes);
      });
    }
    const double seconds = static_cast<double>(microseconds) * 1e-6;
    agreed([&] {
      if (is_first()) {
        files->write_timeline(text_of(samples));
        files->write_report(reports, 0, seconds);
        files->commit();
        fmt::print("{}{}{:.3f} s in all\n", report_text(reports, terminal_columns(STDOUT_FILENO)), result.left_alone,
                   seconds);
      }
    });
  }

 private:
  template <class Fn>
  void agreed(Fn&& fn) {
    fsdpinit::agreed(world_, how_.deadline_seconds, std::forward<Fn>(fn));
  }
  [[nodiscard]] bool is_first() const { return world_.rank() == 0; }
  [[nodiscard]] deadline limit() const { return deadline::after(how_.deadline_seconds); }

  using bytes = std::vector<std::byte>;
  static void append(bytes& to, std::string_view text) {
    const auto from = std::as_bytes(std::span(text));
    to.insert(to.end(), from.begin(), from.end());
  }
  /// What `root` has, on every rank. Elsewhere `own` means nothing.
  [[nodiscard]] bytes share(bytes own, std::size_t root) {
    return broadcast_bytes(world_, root == world_.rank() ? std::move(own) : bytes(), root, limit());
  }

  /// The samples of every rank, as CSV, at rank 0; on others, their own. Only agreed steps allocate for them.
  [[nodiscard]] std::vector<bytes> gather_timeline(memory_timeline& timeline) {
    std::vector<bytes> tables;
    agreed([&] {
      timeline.stop();
      tables.resize(world_.size());
      bool is_header = true;  // once is enough
      timeline.write_csv([&](std::string_view line) {
        if (!std::exchange(is_header, false) || is_first()) {
          append(tables[world_.rank()], line);
        }
      });
    });
    for (std::size_t rank = 0; rank < world_.size(); ++rank) {
      bytes theirs = share(std::move(tables[rank]), rank);
      if (is_first()) {
        tables[rank] = std::move(theirs);
      }
    }
    return tables;
  }
  [[nodiscard]] static std::string text_of(const std::vector<bytes>& tables) {
    std::string all;
    for (const bytes& each : tables) {
      all.append(reinterpret_cast<const char*>(each.data()), each.size());
    }
    return all;
  }

  const load_request& how_;
  unfinished& outputs_;
  mpi_communicator& world_;
};

}  // namespace

void run_load_mpi(const load_request& how, unfinished& outputs) {
  require_fitting(how, most_planned_ranks);
  require_different_outputs(how);
  const mpi_session session;
  mpi_communicator world(MPI_COMM_WORLD, {.when_peer_lost = peer_lost_action::throw_error});
  if (world.size() != how.ranks()) {
    throw usage_error(
        fmt::format("--shards is {}{}, but the launcher has started {}; make them equal, or give "
                    "--launcher threads",
                    how.shards, how.replicas == 1 ? "" : fmt::format(" and --replicas {}", how.replicas),
                    counted(world.size(), "rank")));
  }
  try {
    mpi_loader(how, outputs, world).run();
  } catch (const error& failure) {
    if (world.poisoned()) {  // MPI_Finalize would wait for the lost one
      world.abort_job(failure);
    }
    throw;
  }
}

}  // namespace fsdpinit::tool

#else

namespace fsdpinit::tool {

void run_load_mpi(const load_request& /*how*/, unfinished& /*outputs*/) {
  throw usage_error("this tool was built without MPI; build it where MPI is installed, or give --launcher threads");
}

}  // namespace fsdpinit::tool

#endif
