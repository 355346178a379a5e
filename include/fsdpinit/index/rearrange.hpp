#pragma once

#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/core/shape.hpp>
#include <fsdpinit/index/operations.hpp>
#include <fsdpinit/index/recipe.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

/// \file
/// `rearrange` in the notation of einops: https://einops.rocks/api/rearrange.

namespace fsdpinit::index_map {

/// How long an axis of a pattern is.
struct axis_size {
  std::string_view axis;
  std::uint64_t size = 0;
};

namespace detail {

/// What parentheses of a pattern hold, or one name without: axes that are one dim. `1` is no axis, `...` alone any number of dims.
using axis_group = std::vector<std::string_view>;

inline constexpr std::string_view ellipsis = "...";
inline constexpr std::string_view joined_ellipsis = "(...)";  // in a group: axes that become one dim

[[nodiscard]] inline bool is_ellipsis(const axis_group& group) { return group.size() == 1 && group[0] == ellipsis; }

[[noreturn]] inline void refuse_pattern(std::string_view pattern, std::string_view why) {
  refuse("rearrange: '", pattern, "': ", why);
}

[[nodiscard]] constexpr bool is_axis_name(std::string_view name) noexcept {
  const auto is_digit = [](char c) { return c >= '0' && c <= '9'; };
  const auto may_be_in = [&](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || is_digit(c);
  };
  return !name.empty() && !is_digit(name.front()) && name.front() != '_' && name.back() != '_' &&
         std::all_of(name.begin(), name.end(), may_be_in);
}

/// One side of a pattern. `may_group_ellipsis`: `(... a)` makes one dim of several, and is no way to take one apart.
[[nodiscard]] inline std::vector<axis_group> groups_of(std::string_view pattern, std::string_view side,
                                                       bool may_group_ellipsis) {
  std::vector<axis_group> out;
  axis_group seen;
  bool is_open = false;
  while (true) {
    side.remove_prefix(std::min(side.find_first_not_of(' '), side.size()));
    if (side.empty()) {
      break;
    }
    if (side.front() == '(' || side.front() == ')') {
      if (is_open == (side.front() == '(')) {
        refuse_pattern(pattern, "parentheses do not match, or are in others; write each group as (a b)");
      }
      is_open = !is_open;
      if (is_open) {
        out.emplace_back();
      }
      side.remove_prefix(1);
      continue;
    }
    const std::string_view axis = side.substr(0, side.find_first_of(" ()"));
    side.remove_prefix(axis.size());
    if (axis != "1" && axis != ellipsis && !is_axis_name(axis)) {
      refuse_pattern(pattern, "an axis is a name of letters, digits and inner underscores, '1', or '...'");
    }
    if (axis == ellipsis && is_open && !may_group_ellipsis) {
      refuse_pattern(pattern, "'...' in parentheses is for the right side alone");
    }
    if (!is_open) {
      out.emplace_back();
    }
    if (axis == "1") {
      continue;
    }
    if (std::find(seen.begin(), seen.end(), axis) != seen.end()) {
      refuse_pattern(pattern, "an axis is named twice on one side; name it once");
    }
    seen.push_back(axis);
    out.back().push_back(axis == ellipsis && is_open ? joined_ellipsis : axis);
  }
  if (is_open) {
    refuse_pattern(pattern, "a parenthesis is not closed; write each group as (a b)");
  }
  return out;
}

/// Axes of the left side, in order, each with its size. Those that `...` stands for have its name.
struct sized_axes {
  std::vector<std::string_view> names;
  std::vector<std::uint64_t> sizes;

  /// Where those of that name begin; names.size() if there are none.
  [[nodiscard]] std::size_t find(std::string_view name) const {
    return static_cast<std::size_t>(std::find(names.begin(), names.end(), name) - names.begin());
  }
};

/// Adds the axes of a group that is a dim of that extent. At most one size is found by division.
inline void add_axes(sized_axes& to, std::string_view pattern, const axis_group& group, std::uint64_t extent,
                     std::span<const axis_size> sizes) {
  std::uint64_t known = 1;
  std::optional<std::size_t> unknown;
  for (const std::string_view axis : group) {
    const auto given =
        std::find_if(sizes.begin(), sizes.end(), [&](const axis_size& each) { return each.axis == axis; });
    to.names.push_back(axis);
    to.sizes.push_back(given == sizes.end() ? 1 : given->size);
    if (given != sizes.end()) {
      if (!checked_multiply(known, given->size, known)) {
        refuse_pattern(pattern, "sizes are too large; check them");
      }
    } else if (unknown) {
      refuse("rearrange: '", pattern, "': sizes of ", to.names[*unknown], " and ", axis,
             " are missing; give one of them");
    } else {
      unknown = to.names.size() - 1;
    }
  }
  if (unknown ? known == 0 || extent % known != 0 : known != extent) {
    refuse("rearrange: '", pattern, "': a dim of ", extent, " is no product of axes of ", known,
           unknown ? " and a whole number; give sizes that divide it" : "; give sizes that make it up");
  }
  if (unknown) {
    to.sizes[*unknown] = extent / known;
  }
}

}  // namespace detail

/// Takes dims apart, orders what they consist of and joins it: `"(h two d) k -> (h d two) k"`. As einops has it: a name is an axis, a
/// group in parentheses one dim of several, `1` a dim of one, `...` all dims that are not named. Each axis is on both sides. `sizes` says
/// how long axes are, as far as that does not follow.
[[nodiscard]] inline recipe rearrange(const recipe& of, std::string_view pattern,
                                      std::span<const axis_size> sizes = {}) {
  const std::size_t arrow = pattern.find("->");
  if (arrow == std::string_view::npos) {
    detail::refuse_pattern(pattern, "there is no '->'; write what is on its left, what is to be on its right");
  }
  const auto left = detail::groups_of(pattern, pattern.substr(0, arrow), false);
  const auto right = detail::groups_of(pattern, pattern.substr(arrow + 2), true);

  // Dims become axes,
  const bool has_ellipsis = std::any_of(left.begin(), left.end(), detail::is_ellipsis);
  const std::size_t named = left.size() - (has_ellipsis ? 1 : 0);
  if (has_ellipsis ? of.extents.rank() < named : of.extents.rank() != named) {
    detail::refuse("rearrange: '", pattern, "' is for tensors of ", named, has_ellipsis ? " or more" : "",
                   " dims, not for ", to_string(of.extents), "; name each dim");
  }
  detail::sized_axes axes;
  std::size_t dim = 0;
  for (const detail::axis_group& group : left) {
    if (detail::is_ellipsis(group)) {
      for (std::size_t more = of.extents.rank() - named; more != 0; --more) {
        axes.names.push_back(detail::ellipsis);
        axes.sizes.push_back(of.extents[dim++]);
      }
    } else {
      detail::add_axes(axes, pattern, group, of.extents[dim++], sizes);
    }
  }
  for (const axis_size& each : sizes) {
    if (!detail::is_axis_name(each.axis) || axes.find(each.axis) == axes.names.size()) {
      detail::refuse("rearrange: '", pattern, "' has no axis ", each.axis,
                     ", whose size is given; name it or leave it out");
    }
  }

  // which are put in order, and become dims again.
  std::vector<std::size_t> order;
  std::vector<std::uint64_t> dims;
  for (const detail::axis_group& group : right) {
    std::uint64_t extent = 1;
    for (const std::string_view axis : group) {
      const bool is_name = axis != detail::ellipsis && axis != detail::joined_ellipsis;
      const std::string_view name = is_name ? axis : detail::ellipsis;
      std::size_t at = axes.find(name);
      if (is_name ? at == axes.names.size() : !has_ellipsis) {
        detail::refuse("rearrange: '", pattern, "': ", name, " is on the right side alone; each axis is on both");
      }
      for (; at != axes.names.size() && axes.names[at] == name; ++at) {
        order.push_back(at);
        extent *= axes.sizes[at];
        if (axis == detail::ellipsis) {
          dims.push_back(axes.sizes[at]);
        }
      }
    }
    if (!detail::is_ellipsis(group)) {
      dims.push_back(extent);
    }
  }
  if (order.size() != axes.names.size()) {
    detail::refuse_pattern(pattern, "an axis is on the left side alone; each is on both");
  }
  return reshape(permute(reshape(of, shape(axes.sizes)), order), shape(dims));
}

}  // namespace fsdpinit::index_map
