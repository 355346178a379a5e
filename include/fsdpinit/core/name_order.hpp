#pragma once

#include <fsdpinit/core/compiler.hpp>

#include <algorithm>
#include <cstddef>
#include <iterator>
#include <string_view>
#include <vector>

namespace fsdpinit::detail {

/// A name and the index of what has it.
struct indexed_name {
  std::string_view name{};
  std::size_t index = 0;

  friend bool operator<(const indexed_name& a, const indexed_name& b) noexcept {
    const int order = a.name.compare(b.name);
    return order != 0 ? order < 0 : a.index < b.index;
  }
};

/// Sorts by merging the runs that are in order already. n where all are, as in files of safetensors' own writer; n log runs else: the
/// names of a model come mostly in runs, as `experts.10` to `experts.99` do when they are counted.
inline void merge_runs(std::vector<indexed_name>& names) {
  using place = std::vector<indexed_name>::iterator;
  std::vector<place> ends{names.begin()};  // of the runs, behind the beginning of the first
  while (ends.back() != names.end()) {
    ends.push_back(std::is_sorted_until(ends.back(), names.end()));
  }
  while (ends.size() > 2) {  // neighbours by pairs
    std::size_t kept = 1;
    for (std::size_t i = 1; i < ends.size(); i += 2) {
      if (i + 1 < ends.size() && *ends[i] < *std::prev(ends[i])) {
        std::inplace_merge(ends[i - 1], ends[i], ends[i + 1]);
      }
      ends[kept++] = ends[std::min(i + 1, ends.size() - 1)];
    }
    ends.resize(kept);
  }
}

/// The names of `items` in their order, those that are equal by index. `name_of(item)` gives what is or refers to a string that
/// stays. At most n log n, whatever the names: a hash table can be made slow by whoever wrote the checkpoint.
template <class Range, class NameOf>
[[nodiscard]] std::vector<indexed_name> in_name_order(const Range& items, NameOf name_of) {
  std::vector<indexed_name> names;
  names.reserve(std::size(items));
  for (const auto& item : items) {
    names.push_back({.name = name_of(item), .index = names.size()});
  }
  merge_runs(names);
  return names;
}

}  // namespace fsdpinit::detail
