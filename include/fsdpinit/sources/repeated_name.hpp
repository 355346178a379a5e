#pragma once

#include <algorithm>
#include <cstddef>
#include <functional>
#include <iterator>
#include <string>
#include <vector>

namespace fsdpinit::detail {

/// A name that two of `items` have, the alphabetically first such name; null where all differ. `name_of` is a member
/// pointer or a function that gives a `const std::string&`. Sorts pointers, n log n whatever the names are: a hash
/// table can be made slow by whoever wrote the checkpoint.
template <class Range, class NameOf>
[[nodiscard]] const std::string* repeated_name(const Range& items, NameOf name_of) {
  std::vector<const std::string*> names;
  names.reserve(std::size(items));
  for (const auto& item : items) {
    const std::string& name = std::invoke(name_of, item);
    names.push_back(&name);
  }
  std::sort(names.begin(), names.end(), [](const auto* a, const auto* b) { return *a < *b; });
  const auto twice =
      std::adjacent_find(names.begin(), names.end(), [](const auto* a, const auto* b) { return *a == *b; });
  return twice != names.end() ? *twice : nullptr;
}

}  // namespace fsdpinit::detail
