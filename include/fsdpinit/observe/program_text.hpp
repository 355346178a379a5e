#pragma once

#include <fsdpinit/observe/text_table.hpp>
#include <fsdpinit/plan/program_summary.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace fsdpinit {

namespace detail {

/// `0`, `0-3`.
[[nodiscard]] inline std::string range_text(std::size_t first, std::size_t last) {
  return to_string(rank_range{.first = first, .last = last});
}

/// `rank 1`, `ranks 1-3, 6`. \pre ascending, not empty.
[[nodiscard]] inline std::string ranks_text(std::span<const std::size_t> ranks) {
  std::string out = ranks.size() == 1 ? "rank " : "ranks ";
  for (std::size_t i = 0; i < ranks.size();) {
    std::size_t end = i + 1;
    while (end < ranks.size() && ranks[end] == ranks[end - 1] + 1) {
      ++end;
    }
    out += fmt::format("{}{}", i == 0 ? "" : ", ", range_text(ranks[i], ranks[end - 1]));
    i = end;
  }
  return out;
}

/// Not the steps between which a checksum is made.
[[nodiscard]] inline bool is_told(const step_summary& each) noexcept {
  return each.kind != step_kind::clear_sums && each.kind != step_kind::start_sum && each.kind != step_kind::store_sum;
}

/// A line of a round. `tensor(i)` is what the planned tensor i is called.
template <class Name>
[[nodiscard]] std::string step_text(const step_summary& each, Name&& tensor) {
  const auto region = [&](region_kind kind) {
    const bool indexed = kind == region_kind::slab || kind == region_kind::slot || kind == region_kind::checksums;
    return !indexed ? std::string(name(kind))
                    : fmt::format("{}{} {}", name(kind), each.first_region == each.last_region ? "" : "s",
                                  range_text(each.first_region, each.last_region));
  };
  const std::string bytes = bytes_text(each.bytes);
  const std::string tensors = !each.has_tensor() ? std::string()
                              : each.first_tensor == each.last_tensor
                                  ? std::string(tensor(each.first_tensor))
                                  : fmt::format("{} to {}", tensor(each.first_tensor), tensor(each.last_tensor));
  std::string line = fmt::format("{:<10}", each.copies && each.kind == step_kind::read ? "read copy" : name(each.kind));
  switch (each.kind) {
    case step_kind::read:
      line += fmt::format("{} of {} -> {}, {}", bytes, tensors, region(each.to), counted(each.steps, "request"));
      break;
    case step_kind::generate:
    case step_kind::read_buffer:
      line += fmt::format("{} of {} -> {}", bytes, tensors, region(each.to));
      break;
    case step_kind::release:
      line += tensors;
      break;
    case step_kind::copy:
    case step_kind::place:
    case step_kind::fetch:
    case step_kind::widen:
      line += fmt::format("{} of {}: {} -> {}", bytes, tensors, name(each.from), region(each.to));
      break;
    case step_kind::compare:
      line += fmt::format("{} of {}: {} with {}", bytes, tensors, name(each.from), region(each.to));
      break;
    case step_kind::hash:
      line += fmt::format("{} of {}", bytes, region(each.from));
      break;
    case step_kind::scatter:
    case step_kind::broadcast:
      if (each.to != region_kind::none) {
        line += fmt::format("{} from rank {} -> {}{}", bytes, each.rank, region(each.to),
                            each.viewable ? ", where it may be viewed instead" : "");
      } else if (each.ranks.empty()) {
        line += "to nobody";
      } else {
        line += fmt::format("{} of {} to {}", bytes, region(each.from), ranks_text(each.ranks));
      }
      break;
    case step_kind::check_sum:
      line += fmt::format("{} of rank {}", each.steps, each.rank);
      break;
    case step_kind::compare_sums:
      line += fmt::format("of rank {}", each.rank);
      break;
    default:
      break;
  }
  line.erase(line.find_last_not_of(' ') + 1);
  return line;
}

[[nodiscard]] inline std::string traffic_text(const round_summary& each) {
  std::string out;
  const auto add = [&](std::uint64_t bytes, std::string_view what) {
    if (bytes != 0) {
      out += fmt::format("{}{} {}", out.empty() ? "; " : ", ", bytes_text(bytes), what);
    }
  };
  add(each.read, "read");
  add(each.sent, "sent");
  add(each.received, "received");
  if (each.agreements != 0) {
    out += fmt::format("{}{}", out.empty() ? "; " : ", ", counted(each.agreements, "agreement"));
  }
  return out;
}

/// `round 4`, `rounds 4 (15 times) and 7 (2 times)`. \pre not empty.
[[nodiscard]] inline std::string repeated_text(std::span<const repeated_round> rounds) {
  if (rounds.size() == 1) {
    return fmt::format("round {}", rounds.front().round);
  }
  std::string out = "rounds ";
  for (std::size_t i = 0; i < rounds.size(); ++i) {
    const repeated_round& each = rounds[i];
    out += fmt::format("{}{} ({})",
                       i == 0                   ? ""
                       : i + 1 == rounds.size() ? " and "
                                                : ", ",
                       each.round, counted(each.times, "time"));
  }
  return out;
}

[[nodiscard]] inline std::string heading_of(const round_summary& each) {
  const std::string rounds =
      fmt::format("round{} {}", each.first == each.last ? "" : "s", range_text(each.first, each.last));
  return each.as.empty() ? fmt::format("{}: {}", rounds, name(each.kind))
                         : fmt::format("{}: as {}{}", rounds, repeated_text(each.as), traffic_text(each));
}

/// Regions of one kind and size are one.
[[nodiscard]] inline std::string regions_text(std::span<const program_region> regions) {
  std::vector<std::pair<program_region, std::size_t>> counted;
  for (const program_region& region : regions) {
    const auto alike = std::find_if(counted.begin(), counted.end(), [&](const auto& each) {
      return each.first.kind == region.kind && each.first.bytes == region.bytes;
    });
    if (alike == counted.end()) {
      counted.emplace_back(region, 1);
    } else {
      ++alike->second;
    }
  }
  std::string out;
  for (const auto& [region, count] : counted) {
    out += fmt::format("{}{}{} of {}", out.empty() ? "" : ", ", count == 1 ? "" : fmt::format("{} x ", count),
                       name(region.kind), bytes_text(region.bytes));
  }
  return out;
}

}  // namespace detail

/// For people: what one rank does, in lines. `tensor(i)` is what the planned tensor i is called.
template <class Name>
[[nodiscard]] std::string to_text(const program_summary& of, Name&& tensor) {
  std::string out = fmt::format("rank {}: {}\nmemory: {}\n", of.rank, counted(of.rounds, "round"),
                                of.regions.empty() ? "none" : detail::regions_text(of.regions));
  for (const round_summary& each : of.summaries) {
    out += fmt::format("\n{}\n", detail::heading_of(each));
    std::string_view last;
    for (const step_summary& step : each.steps) {
      if (detail::is_told(step)) {
        const std::string_view phase = each.kind == round_kind::bucket ? name(step.phase) : std::string_view();
        out += fmt::format("  {:<9}{}\n", phase == last ? "" : phase, detail::step_text(step, tensor));
        last = phase;
      }
    }
    if (each.as.empty() && each.agreements != 0) {
      out += fmt::format("  {:<9}agree\n", "");
    }
  }
  return out;
}

}  // namespace fsdpinit
