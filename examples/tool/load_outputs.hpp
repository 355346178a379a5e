#pragma once

#include "commands.hpp"
#include "output_folder.hpp"
#include "replacing_file.hpp"
#include "unfinished.hpp"
#include <fsdpinit/observe/report.hpp>
#include <fsdpinit/observe/report_json.hpp>

#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string_view>

namespace fsdpinit::tool {

/// \throws usage_error if two outputs would be the same file.
inline void require_different_outputs(const load_request& how) {
  if (!how.report.empty() && !how.timeline.empty() &&
      std::filesystem::weakly_canonical(how.report) == std::filesystem::weakly_canonical(how.timeline)) {
    throw usage_error("--report and --timeline name the same file; give two");
  }
}

/// The outputs of one load. Makes sure of them before anything is loaded, and puts them in place together.
class load_outputs {
 public:
  load_outputs(const load_request& how, unfinished& outputs) : how_(how) {
    if (!how.dump.empty()) {
      dump_.emplace(outputs, how.dump);
    }
    if (!how.report.empty()) {
      report_.emplace(outputs, how.report);
    }
    if (!how.timeline.empty()) {
      timeline_.emplace(outputs, how.timeline);
    }
  }

  /// The folder to dump to for now; nothing where none was asked for.
  [[nodiscard]] std::optional<std::filesystem::path> dump_folder() const {
    return dump_ ? std::optional(dump_->hidden()) : std::nullopt;
  }
  void write_report(std::span<const rank_report> reports, std::uint64_t process_peak_rss, double seconds) {
    if (report_) {
      report_->write(json_text(report_json(reports, {.checkpoint = how_.checkpoint,
                                                     .bucket_bytes = how_.bucket_bytes,
                                                     .process_peak_rss_bytes = process_peak_rss,
                                                     .seconds = seconds})));
    }
  }
  void write_timeline(std::string_view csv) {
    if (timeline_) {
      timeline_->write(csv);
    }
  }
  void commit() {
    if (dump_) {
      dump_->commit();
    }
    if (report_) {
      report_->commit();
    }
    if (timeline_) {
      timeline_->commit();
    }
  }

 private:
  const load_request& how_;
  std::optional<output_folder> dump_;
  std::optional<replacing_file> report_;
  std::optional<replacing_file> timeline_;
};

}  // namespace fsdpinit::tool
