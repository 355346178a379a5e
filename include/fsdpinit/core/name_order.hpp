#pragma once

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

/// The names of `items` in their order, those that are equal by index. `name_of(item)` gives what is or refers to a string that
/// stays. n where they are in order, as in files that safetensors' own writer made; n log n whatever else they are: a hash table can be
/// made slow by whoever wrote the checkpoint.
template <class Range, class NameOf>
[[nodiscard]] std::vector<indexed_name> in_name_order(const Range& items, NameOf name_of) {
  std::vector<indexed_name> names;
  names.reserve(std::size(items));
  for (const auto& item : items) {
    names.push_back({.name = name_of(item), .index = names.size()});
  }
  if (!std::is_sorted(names.begin(), names.end())) {
    std::sort(names.begin(), names.end());
  }
  return names;
}

}  // namespace fsdpinit::detail
