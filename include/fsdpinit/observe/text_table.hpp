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

/// `1 rank`, `4 ranks`.
[[nodiscard]] inline std::string counted(std::uint64_t count, std::string_view noun) {
  return fmt::format("{} {}{}", count, noun, count == 1 ? "" : "s");
}

/// `a`, or `a - b` where they differ.
[[nodiscard]] inline std::string bytes_text(std::uint64_t least, std::uint64_t most) {
  return least == most ? bytes_text(least) : fmt::format("{} - {}", bytes_text(least), bytes_text(most));
}

namespace detail {

/// The columns of a terminal that a text in UTF-8 takes, as fmt counts them where it pads: never more than it has bytes.
[[nodiscard]] inline std::size_t columns_of(std::string_view text) {
  return 2 * text.size() - fmt::formatted_size("{:<{}}", text, text.size());
}

}  // namespace detail

/// Rows of cells under a header, as lines of aligned columns: the first to the left, the others to the right.
class text_table {
 public:
  explicit text_table(std::vector<std::string> header) { rows_.push_back(std::move(header)); }
  /// \pre as many cells as the header has.
  void add(std::vector<std::string> row) { rows_.push_back(std::move(row)); }

  /// In lines of at most so many columns of a terminal, if it can be: where they are too few, the columns that do not fit come
  /// below, beside the first one again.
  [[nodiscard]] std::string text(std::size_t columns = std::string::npos) const {
    std::vector<std::size_t> widths(rows_.front().size());
    for (const std::vector<std::string>& row : rows_) {
      for (std::size_t i = 0; i < row.size(); ++i) {
        widths[i] = std::max(widths[i], detail::columns_of(row[i]));
      }
    }
    std::string out;
    for (std::size_t begin = 1; begin == 1 || begin < widths.size();) {
      std::size_t end = begin;
      for (std::size_t width = widths[0]; end < widths.size(); ++end) {
        width += 2 + widths[end];
        if (end > begin && width > columns) {
          break;
        }
      }
      out += begin == 1 ? "" : "\n";
      for (const std::vector<std::string>& row : rows_) {
        std::string line = fmt::format("{:<{}}", row[0], widths[0]);
        for (std::size_t i = begin; i < end; ++i) {
          line += fmt::format("  {:>{}}", row[i], widths[i]);
        }
        out.append(line, 0, line.find_last_not_of(' ') + 1);
        out += '\n';
      }
      begin = std::max(end, begin + 1);
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
