#pragma once

#include <algorithm>
#include <cstddef>
#include <iterator>
#include <string_view>
#include <utility>
#include <vector>

namespace fsdpinit::detail {

/// A name and the index of what has it.
using indexed_name = std::pair<std::string_view, std::size_t>;

/// The names of `items` in their order, those that are equal by index. `name_of(item)` gives what
/// is or refers to a string that stays. n log n whatever the names are: a hash table can be made slow by whoever wrote the
/// checkpoint.
template <class Range, class NameOf>
[[nodiscard]] std::vector<indexed_name> in_name_order(const Range& items, NameOf name_of) {
  std::vector<indexed_name> names;
  names.reserve(std::size(items));
  for (const auto& item : items) {
    names.emplace_back(name_of(item), names.size());
  }
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace fsdpinit::detail
