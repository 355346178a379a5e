#pragma once

#include <fsdpinit/core/dtype.hpp>
#include <fsdpinit/core/shape.hpp>
#include <fsdpinit/index/box.hpp>
#include <fsdpinit/index/operations.hpp>
#include <fsdpinit/index/recipe.hpp>
#include <fsdpinit/index/relaid.hpp>
#include <fsdpinit/index/strided_map.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <set>
#include <span>
#include <tuple>
#include <utility>
#include <vector>

/// \file
/// Whether recipes use each element of a stored tensor once; and if so, how the stored tensor is made of theirs.

namespace fsdpinit::index_map {

/// A piece that some recipe has, valid as long as that recipe.
struct use {
  std::size_t recipe = 0;  ///< its number
  dtype made = dtype::u8;  ///< its type
  const piece* what = nullptr;
};

/// All of them, by stored tensor and first position there.
[[nodiscard]] inline std::vector<use> uses_of(std::span<const recipe> recipes) {
  std::vector<use> out;
  for (std::size_t i = 0; i < recipes.size(); ++i) {
    for (const piece& each : recipes[i].pieces) {
      out.push_back({i, recipes[i].type, &each});
    }
  }
  std::sort(out.begin(), out.end(), [](const use& a, const use& b) {
    return std::tie(a.what->tensor, a.what->map.from, a.recipe) < std::tie(b.what->tensor, b.what->map.from, b.recipe);
  });
  return out;
}

/// Those of one stored tensor. \pre `all` is what `uses_of` returned
[[nodiscard]] inline std::span<const use> uses_of(std::span<const use> all, std::size_t tensor) {
  const auto first =
      std::partition_point(all.begin(), all.end(), [&](const use& u) { return u.what->tensor < tensor; });
  const auto last = std::partition_point(first, all.end(), [&](const use& u) { return u.what->tensor == tensor; });
  return {first, last};
}

/// Elements of a stored tensor that are not used once.
struct misuse {
  box where;  ///< of the stored tensor; every element of it is
  std::optional<std::pair<std::size_t, std::size_t>>
      twice;  ///< by these two of the uses; nothing: the box is left over
};

namespace detail {

/// Looks for a misuse, one dim after the other: what uses are there is the same for ranges of a dim, each of which is looked into once.
template <class Allows>
class accountant {
 public:
  accountant(const shape& extents, Allows allows) : extents_(extents), where_(whole(extents)), allows_(allows) {}

  [[nodiscard]] std::optional<misuse> of(std::span<const use> uses) {
    std::vector<part> parts;
    for (std::size_t i = 0; i < uses.size(); ++i) {
      parts.push_back({i, moving(inverse(uses[i].what->map))});
    }
    return of_dims_from(0, parts);
  }

 private:
  struct part {
    std::size_t use;
    moving_map left;  // `rest`: positions among elements of the dims that are left
  };
  struct range {
    std::uint64_t begin;
    std::uint64_t end;
    std::size_t part;
  };
  struct segment {
    std::uint64_t begin;
    std::uint64_t end;
    std::vector<std::size_t> parts;
  };

  [[nodiscard]] std::optional<misuse> found_unless_allowed(
      const std::optional<std::pair<std::size_t, std::size_t>>& twice) const {
    return allows_(twice) ? std::nullopt : std::optional(misuse{where_, twice});
  }

  std::optional<misuse> of_dims_from(std::size_t dim, const std::vector<part>& parts) {
    if (parts.empty()) {
      return found_unless_allowed(std::nullopt);
    }
    if (dim == extents_.rank()) {
      std::optional<misuse> found;
      for (std::size_t i = 0; i < parts.size() && !found; ++i) {
        for (std::size_t j = i + 1; j < parts.size() && !found; ++j) {
          found = found_unless_allowed(std::pair(parts[i].use, parts[j].use));
        }
      }
      return found;
    }
    if (parts.size() == 1 && settled_elements(parts[0].left) == elements_from(extents_, dim)) {
      return std::nullopt;
    }
    std::vector<part> lower;
    std::vector<range> ranges;
    for (const part& each : parts) {
      take_dim(each, elements_from(extents_, dim + 1), lower, ranges);
    }
    std::set<std::vector<std::size_t>> accounted;
    for (const segment& each : segments_of(std::move(ranges), extents_[dim])) {
      if (!accounted.insert(each.parts).second) {
        continue;
      }
      std::vector<part> there;
      for (const std::size_t index : each.parts) {
        there.push_back(lower[index]);
      }
      where_.begin[dim] = each.begin;
      where_.end[dim] = each.end;
      if (auto found = of_dims_from(dim + 1, there)) {
        return found;
      }
    }
    where_.begin[dim] = 0;
    where_.end[dim] = extents_[dim];
    return std::nullopt;
  }

  [[nodiscard]] static std::uint64_t settled_elements(const moving_map& map) noexcept {
    std::uint64_t product = 1;
    for (std::size_t k = 0; k < map.rank; ++k) {
      product *= map.factors[k].extent;
    }
    return product;
  }

  /// Adds what a part has of each index of a dim whose rows have `row` elements, and of which indices.
  static void take_dim(const part& of, std::uint64_t row, std::vector<part>& lower, std::vector<range>& ranges) {
    for_each_without_carry(of.left, row, [&](const moving_map& even) {
      moving_map rows{.rest = even.rest / row};
      moving_map within{.rest = even.rest % row};
      for (std::size_t k = 0; k < even.rank; ++k) {
        const moving_factor& each = even.factors[k];
        moving_map& to = each.rest % row == 0 ? rows : within;
        to.factors[to.rank++] = {each.extent, 0, each.rest % row == 0 ? each.rest / row : each.rest, 0};
      }
      lower.push_back({of.use, within});
      add_ranges(rows, 0, lower.size() - 1, ranges);
    });
  }

  static void add_ranges(const moving_map& rows, std::size_t k, std::size_t index, std::vector<range>& ranges) {
    if (k == rows.rank) {
      ranges.push_back({rows.rest, rows.rest + 1, index});
    } else if (k + 1 == rows.rank && rows.factors[k].rest == 1) {
      ranges.push_back({rows.rest, rows.rest + rows.factors[k].extent, index});
    } else {
      moving_map at = rows;
      for (std::uint64_t i = 0; i < rows.factors[k].extent; ++i, at.rest += rows.factors[k].rest) {
        add_ranges(at, k + 1, index, ranges);
      }
    }
  }

  /// The indices of a dim, cut where a range begins or ends; neighbours with the same parts are one.
  static std::vector<segment> segments_of(std::vector<range> ranges, std::uint64_t extent) {
    std::sort(ranges.begin(), ranges.end(), [](const range& a, const range& b) { return a.begin < b.begin; });
    std::vector<std::uint64_t> cuts{0, extent};
    for (const range& each : ranges) {
      cuts.push_back(each.begin);
      cuts.push_back(each.end);
    }
    std::sort(cuts.begin(), cuts.end());
    cuts.erase(std::unique(cuts.begin(), cuts.end()), cuts.end());

    std::vector<segment> out;
    std::vector<range> active;
    auto next = ranges.begin();
    for (std::size_t i = 0; i + 1 < cuts.size(); ++i) {
      std::erase_if(active, [&](const range& each) { return each.end <= cuts[i]; });
      for (; next != ranges.end() && next->begin == cuts[i]; ++next) {
        active.push_back(*next);
      }
      segment made{cuts[i], cuts[i + 1], {}};
      for (const range& each : active) {
        made.parts.push_back(each.part);
      }
      std::sort(made.parts.begin(), made.parts.end());
      if (!out.empty() && out.back().parts == made.parts) {
        out.back().end = made.end;
      } else {
        out.push_back(std::move(made));
      }
    }
    return out;
  }

  const shape& extents_;
  box where_;
  Allows allows_;
};

}  // namespace detail

/// Nothing where the uses of a stored tensor of that shape have each of its elements once; else a box of elements that they do not have,
/// or that two of them have. The cost is that of sorting the uses, for each range of indices in which they are others.
/// What `allows(twice)` returns true for, a misuse's `twice`, is none.
/// \pre the uses are of one tensor of that shape
template <class Allows>
[[nodiscard]] std::optional<misuse> misuse_of(const shape& stored, std::span<const use> uses, Allows allows) {
  if (detail::elements_from(stored, 0) == 0) {
    return std::nullopt;
  }
  return detail::accountant(stored, allows).of(uses);
}
[[nodiscard]] inline std::optional<misuse> misuse_of(const shape& stored, std::span<const use> uses) {
  return misuse_of(stored, uses, [](const auto& /*twice*/) { return false; });
}

/// How the stored tensor is made of the tensors that use it: a stored tensor of the result is a number of a recipe. Where elements were
/// converted, they are converted back.
/// \pre the uses are of one tensor, which has that type and shape
/// \throws error{invalid_argument} where an element is not used once, or would not be converted back
[[nodiscard]] inline recipe inverse(std::span<const use> uses, dtype type, shape extents) {
  if (const auto found = misuse_of(extents, uses)) {
    detail::refuse("inverse: ", to_string(found->where), " of ", to_string(extents), " is used ",
                   found->twice ? "twice" : "by nothing", "; only what is used once can be made of what uses it");
  }
  recipe out{.type = type, .extents = std::move(extents), .pieces = {}, .fills = {}};
  for (const use& each : uses) {
    if (each.made != type && !is_convertible(each.made, type)) {
      detail::refuse("inverse: ", name(each.made), " is not converted back to ", name(type), "; leave the cast out");
    }
    detail::add(out, {each.recipe, each.made, {}}, inverse(each.what->map));
  }
  return detail::finished("inverse", std::move(out));
}

}  // namespace fsdpinit::index_map
