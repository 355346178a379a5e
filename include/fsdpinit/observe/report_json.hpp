#pragma once

#include <fsdpinit/observe/report.hpp>

#include <nlohmann/json.hpp>

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>

namespace fsdpinit {

/// Goes up when a field changes its meaning or goes away. \see examples/report.schema.json
inline constexpr int report_format_version = 1;

/// What the reports themselves do not know. Nothing (null in the JSON) where 0 or empty.
struct report_context {
  std::string_view checkpoint;
  std::uint64_t bucket_bytes = 0;
  std::uint64_t process_peak_rss_bytes = 0;
  double seconds = 0;  ///< as a clock on the wall saw it, opening the checkpoint included
};

namespace detail {

template <class Value>
[[nodiscard]] nlohmann::ordered_json or_null(const Value& value) {
  return value == Value{} ? nlohmann::ordered_json(nullptr) : nlohmann::ordered_json(value);
}

[[nodiscard]] inline nlohmann::ordered_json rank_json(const rank_report& report) {
  nlohmann::ordered_json phases = nlohmann::ordered_json::object();
  for (const phase_seconds& phase : report.phases) {
    phases[phase.name] = phases.value(phase.name, 0.0) + phase.seconds;
  }
  return {{"rank", report.rank},
          {"shard_bytes", report.predicted.shard_bytes},
          {"slab_bytes", report.predicted.slab_bytes},
          {"staging_bytes", report.predicted.staging_bytes()},
          {"predicted_peak_bytes", report.predicted.peak_bytes()},
          {"accounted_peak_bytes", report.accounted_peak_bytes},
          {"bytes_read", report.bytes_read},
          {"bytes_sent", report.bytes_sent},
          {"bytes_received", report.bytes_received},
          {"seconds", report.seconds},
          {"phases", std::move(phases)},
          {"stages",
           {{"read", report.stages.read},
            {"checksum", report.stages.checksum},
            {"place", report.stages.place},
            {"wait", report.stages.wait}}},
          {"base_rss_bytes", or_null(report.base_rss_bytes)},
          {"peak_rss_bytes", or_null(report.peak_rss_bytes)}};
}

}  // namespace detail

/// The reports of the ranks of one initialisation, as the JSON that examples/report.schema.json describes.
/// `peak_rss_bytes` of ranks that are threads is null: they have no resident memory of their own, the process's stands
/// beside them. \pre in rank order, at least one.
[[nodiscard]] inline nlohmann::ordered_json report_json(std::span<const rank_report> reports,
                                                        const report_context& context) {
  const rank_report& first = reports.front();
  const overflow_count overflow = overflow_of(reports);
  nlohmann::ordered_json ranks = nlohmann::ordered_json::array();
  for (const rank_report& report : reports) {
    ranks.push_back(detail::rank_json(report));
  }
  return {{"format", "fsdpinit.report"},
          {"format_version", report_format_version},
          {"checkpoint", detail::or_null(context.checkpoint)},
          {"policy", first.policy},
          {"transport", first.transport},
          {"transport_reason", detail::or_null(first.transport_reason)},
          {"verified", name(first.verified)},
          {"shards", first.shards},
          {"replicas", first.replicas},
          {"bucket_bytes", detail::or_null(context.bucket_bytes)},
          {"tensors", first.tensors},
          {"missing", first.missing},
          {"unexpected", first.unexpected},
          {"unlisted", first.unlisted},
          {"kept_buffers", first.kept_buffers},
          {"unread_buffers", first.unread_buffers},
          {"overflow", {{"elements", overflow.elements}, {"first", detail::or_null(overflow.first)}}},
          {"advice", first.advice},
          {"units", first.units},
          {"buckets", first.buckets},
          {"seconds", detail::or_null(context.seconds)},
          {"slowest_rank", first.slowest_rank},
          {"slowest_seconds", first.slowest_seconds},
          {"process_peak_rss_bytes", detail::or_null(context.process_peak_rss_bytes)},
          {"ranks", std::move(ranks)}};
}

/// As text, indented, with a line break at the end. Bytes of a path that are no UTF-8 become U+FFFD.
[[nodiscard]] inline std::string json_text(const nlohmann::ordered_json& value) {
  return value.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
}

}  // namespace fsdpinit
