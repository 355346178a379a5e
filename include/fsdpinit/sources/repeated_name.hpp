#pragma once

#include <fsdpinit/core/name_order.hpp>

#include <algorithm>
#include <functional>
#include <string>
#include <vector>

namespace fsdpinit::detail {

/// A name that two of `items` have, the alphabetically first such name; null where all differ. `name_of` is a member
/// pointer or a function that gives a `const std::string&`. n log n.
template <class Range, class NameOf>
[[nodiscard]] const std::string* repeated_name(const Range& items, NameOf name_of) {
  const std::vector<indexed_name> names =
      in_name_order(items, [&](const auto& item) -> const std::string& { return std::invoke(name_of, item); });
  const auto twice =
      std::adjacent_find(names.begin(), names.end(), [](const auto& a, const auto& b) { return a.name == b.name; });
  return twice != names.end() ? &std::invoke(name_of, items[twice->index]) : nullptr;
}

}  // namespace fsdpinit::detail
