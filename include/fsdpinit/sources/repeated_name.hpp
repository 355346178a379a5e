#pragma once

#include <fsdpinit/core/name_order.hpp>

#include <algorithm>
#include <string>
#include <type_traits>
#include <vector>

namespace fsdpinit::detail {

/// A name that two of `items` have, the alphabetically first such name; null where all differ. `name_of` is a member
/// pointer or a function that gives a `const std::string&`. n log n.
template <class Range, class NameOf>
[[nodiscard]] const std::string* repeated_name(const Range& items, NameOf name_of) {
  // As std::invoke would; `<functional>` is a tenth of what fsdpinit.hpp costs.
  const auto named = [&](const auto& item) -> const std::string& {
    if constexpr (std::is_member_object_pointer_v<NameOf>) {
      return item.*name_of;
    } else {
      return name_of(item);
    }
  };
  const std::vector<indexed_name> names = in_name_order(items, named);
  const auto twice =
      std::adjacent_find(names.begin(), names.end(), [](const auto& a, const auto& b) { return a.name == b.name; });
  return twice != names.end() ? &named(items[twice->index]) : nullptr;
}

}  // namespace fsdpinit::detail
