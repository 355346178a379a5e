#pragma once

#include <fsdpinit/core/text.hpp>
#include <fsdpinit/observe/report.hpp>
#include <fsdpinit/observe/text_table.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace fsdpinit {

namespace detail {

/// The phases of all reports, in the order in which they first come.
[[nodiscard]] inline std::vector<std::string_view> phase_names(std::span<const rank_report> reports) {
  std::vector<std::string_view> names;
  for (const rank_report& report : reports) {
    for (const phase_seconds& phase : report.phases) {
      if (std::find(names.begin(), names.end(), phase.name) == names.end()) {
        names.emplace_back(phase.name);
      }
    }
  }
  return names;
}

/// A phase that was entered twice counts with its sum.
[[nodiscard]] inline double seconds_in(const rank_report& report, std::string_view phase) {
  double seconds = 0;
  for (const phase_seconds& each : report.phases) {
    seconds += each.name == phase ? each.seconds : 0;
  }
  return seconds;
}

template <class Value>
[[nodiscard]] std::string bytes_over(std::span<const rank_report> reports, Value&& value) {
  std::uint64_t least = std::numeric_limits<std::uint64_t>::max();
  std::uint64_t most = 0;
  for (const rank_report& report : reports) {
    least = std::min<std::uint64_t>(least, value(report));
    most = std::max<std::uint64_t>(most, value(report));
  }
  return bytes_text(least, most);
}

/// A line for names of one kind: how many, and the first few.
[[nodiscard]] inline std::string names_line(std::string_view what, std::span<const std::string> names,
                                            std::string_view noun = "tensor") {
  constexpr std::size_t shown = 5;
  if (names.empty()) {
    return {};
  }
  std::string line = fmt::format("{}, {}: ", what, counted(names.size(), noun));
  for (std::size_t i = 0; i < names.size() && i < shown; ++i) {
    line += concat(i == 0 ? "" : ", ", printable(names[i]));
  }
  return line + (names.size() > shown ? ", ...\n" : "\n");
}

/// A line for what casts have made infinite.
[[nodiscard]] inline std::string overflow_line(const overflow_count& overflow) {
  return overflow.elements == 0 ? std::string()
                                : fmt::format("cast to infinity, {}, the first in {}: take a wider dtype for it\n",
                                              counted(overflow.elements, "finite element"), printable(overflow.first));
}

template <class Value>
[[nodiscard]] std::string slowest_over(std::span<const rank_report> reports, Value&& value) {
  double most = 0;
  for (const rank_report& report : reports) {
    most = std::max(most, value(report));
  }
  return fmt::format("{:.3f}", most);
}

/// How much of the seconds in which these ranks streamed they were in a stage, all of them together.
[[nodiscard]] inline std::string share_of_stream(std::span<const rank_report> reports, stage_clock::stage stage) {
  double busy = 0;
  double all = 0;
  for (const rank_report& report : reports) {
    busy += report.stages.*stage;
    all += seconds_in(report, "stream");
  }
  return fmt::format("{:.1f}%", all > 0 ? 100 * busy / all : 0.0);
}

}  // namespace detail

/// The reports of the ranks of one initialisation as three tables, with a line above and below: bytes (shard, predicted
/// and accounted peak, read, sent, received, of processes also resident), seconds per phase, and what the stream was busy with, in
/// shares of its seconds. Beyond 16 ranks those with equal bytes share a row, whose seconds are those of the slowest of them, and
/// whose shares are those of all of them together. Tables are laid out for a terminal of `width` columns. \pre in rank order, at least one.
[[nodiscard]] inline std::string report_text(std::span<const rank_report> reports,
                                             std::size_t width = std::string::npos) {
  struct column {
    const char* name;
    std::uint64_t (*value)(const rank_report&);
    bool exact = true;  // the same on every run; others do not keep ranks from sharing a row
  };
  std::vector<column> columns{{"shard", [](auto& each) { return each.predicted.shard_bytes; }},
                              {"predicted peak", [](auto& each) { return each.predicted.peak_bytes(); }},
                              {"accounted peak", [](auto& each) { return each.accounted_peak_bytes; }},
                              {"read", [](auto& each) { return each.bytes_read; }},
                              {"sent", [](auto& each) { return each.bytes_sent; }},
                              {"received", [](auto& each) { return each.bytes_received; }}};
  if (reports.front().peak_rss_bytes != 0) {
    columns.push_back({"peak RSS", [](auto& each) { return each.peak_rss_bytes; }, false});
  }
  const auto same = [&](std::size_t a, std::size_t b) {
    return std::all_of(columns.begin(), columns.end(), [&](const column& each) {
      return !each.exact || each.value(reports[a]) == each.value(reports[b]);
    });
  };
  const std::vector<std::string_view> phases = detail::phase_names(reports);
  std::vector<std::string> header{"rank"};
  for (const column& each : columns) {
    header.emplace_back(each.name);
  }
  text_table bytes(std::move(header));
  header = {"rank", "seconds"};
  header.insert(header.end(), phases.begin(), phases.end());
  text_table seconds(std::move(header));
  text_table shares({"rank, of its stream", "read", "checksum", "place", "wait"});
  for (const rank_range& row : rows_of_ranks(reports.size(), same)) {
    const auto these = reports.subspan(row.first, row.last - row.first + 1);
    std::vector<std::string> sizes{to_string(row)};
    for (const column& each : columns) {
      sizes.push_back(detail::bytes_over(these, each.value));
    }
    bytes.add(std::move(sizes));
    std::vector<std::string> cells{to_string(row),
                                   detail::slowest_over(these, [](auto& each) { return each.seconds; })};
    for (const std::string_view phase : phases) {
      cells.push_back(detail::slowest_over(these, [&](auto& each) { return detail::seconds_in(each, phase); }));
    }
    seconds.add(std::move(cells));
    shares.add({to_string(row), detail::share_of_stream(these, &stage_seconds::read),
                detail::share_of_stream(these, &stage_seconds::checksum),
                detail::share_of_stream(these, &stage_seconds::place),
                detail::share_of_stream(these, &stage_seconds::wait)});
  }
  const rank_report& first = reports.front();
  const std::size_t ranks = first.shards * first.replicas;
  const std::string replicas =
      first.replicas == 1 ? std::string()
                          : fmt::format(" ({} replicas of {})", first.replicas, counted(first.shards, "shard"));
  const std::string reason =
      first.transport_reason.empty() ? std::string() : fmt::format("{}\n", first.transport_reason);
  const std::string verified =
      first.verified == verification::off ? std::string() : fmt::format(", verified ({})", name(first.verified));
  std::string advice;
  for (const std::string& each : first.advice) {
    advice += concat("slow: ", each, "\n");
  }
  const bool has_transport = first.transport != name(transport::none);
  return fmt::format(
      "{}{}{}, {}{}: {} in {}, {}{}\n{}{}{}{}{}{}{}{}\n{}\n{}\n{}\nslowest: rank {}, {:.3f} s to the end of its "
      "stream\n",
      first.policy, has_transport ? ", " : "", has_transport ? first.transport : "", counted(ranks, "rank"), replicas,
      counted(first.tensors, "tensor"), counted(first.units, "unit"), counted(first.buckets, "bucket"), verified,
      reason, detail::names_line("missing, left on meta", first.missing),
      detail::names_line("unexpected, left in the checkpoint", first.unexpected),
      detail::names_line("left out by the checkpoint's index", first.unlisted, "item"),
      detail::names_line("not in the checkpoint, the module's own values kept", first.kept_buffers),
      detail::names_line("in the checkpoint, but computed by the module", first.unread_buffers),
      detail::overflow_line(overflow_of(reports)), advice, bytes.text(width), seconds.text(width), shares.text(width),
      first.slowest_rank, first.slowest_seconds);
}

}  // namespace fsdpinit
