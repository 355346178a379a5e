#pragma once

#include <fsdpinit/core/compiler.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

/// \file
/// What tables for people are made of: aligned columns, byte counts with units, and ranks that are alike as one row.

namespace fsdpinit {

/// `512 B`, `4.00 MiB`, `1.11 GiB`: three digits or more of what counts.
[[nodiscard]] inline std::string bytes_text(std::uint64_t bytes) {
  constexpr std::array<std::string_view, 6> units{"KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  if (bytes < 1024) {
    return fmt::format("{} B", bytes);
  }
  double value = static_cast<double>(bytes) / 1024;
  std::size_t unit = 0;
  while (value >= 1023.995 && unit + 1 < units.size()) {  // so that rounding never shows "1024.00"
    value /= 1024;
    ++unit;
  }
  return fmt::format("{:.2f} {}", value, units[unit]);
}

/// `a`, or `a - b` where they differ.
[[nodiscard]] inline std::string bytes_text(std::uint64_t least, std::uint64_t most) {
  return least == most ? bytes_text(least) : fmt::format("{} - {}", bytes_text(least), bytes_text(most));
}

/// Rows of cells under a header, as lines of aligned columns: the first to the left, the others to the right.
class text_table {
 public:
  explicit text_table(std::vector<std::string> header) { rows_.push_back(std::move(header)); }
  /// \pre as many cells as the header has.
  void add(std::vector<std::string> row) { rows_.push_back(std::move(row)); }

  [[nodiscard]] std::string text() const {
    std::vector<std::size_t> widths(rows_.front().size());
    for (const std::vector<std::string>& row : rows_) {
      for (std::size_t i = 0; i < row.size(); ++i) {
        widths[i] = std::max(widths[i], row[i].size());
      }
    }
    std::string out;
    for (const std::vector<std::string>& row : rows_) {
      std::string line;
      for (std::size_t i = 0; i < row.size(); ++i) {
        line += i == 0 ? fmt::format("{:<{}}", row[i], widths[i]) : fmt::format("  {:>{}}", row[i], widths[i]);
      }
      out.append(line, 0, line.find_last_not_of(' ') + 1);
      out += '\n';
    }
    return out;
  }

 private:
  std::vector<std::vector<std::string>> rows_;
};

/// Ranks [first, last] that share a row of a table.
struct rank_range {
  std::size_t first = 0;
  std::size_t last = 0;
};

[[nodiscard]] inline std::string to_string(const rank_range& ranks) {
  return ranks.first == ranks.last ? fmt::format("{}", ranks.first) : fmt::format("{}-{}", ranks.first, ranks.last);
}

/// At most `most_rows` rows for `count` ranks: one each where they fit, else neighbours for which `alike(a, b)` holds
/// together, and if these are still too many, those in the middle as one row. \pre most_rows >= 3.
template <class Alike>
[[nodiscard]] std::vector<rank_range> rows_of_ranks(std::size_t count, Alike&& alike, std::size_t most_rows = 16) {
  std::vector<rank_range> rows;
  for (std::size_t rank = 0; rank < count; ++rank) {
    if (count > most_rows && rank > 0 && alike(rows.back().first, rank)) {
      rows.back().last = rank;
    } else {
      rows.push_back({.first = rank, .last = rank});
    }
  }
  if (rows.size() > most_rows) {
    const std::size_t head = most_rows / 2;
    const std::size_t tail = most_rows - head - 1;
    rows[head].last = rows[rows.size() - tail - 1].last;
    rows.erase(rows.begin() + static_cast<std::ptrdiff_t>(head) + 1, rows.end() - static_cast<std::ptrdiff_t>(tail));
  }
  return rows;
}

}  // namespace fsdpinit
