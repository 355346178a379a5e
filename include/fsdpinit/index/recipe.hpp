#pragma once

#include <fsdpinit/core/dtype.hpp>
#include <fsdpinit/core/error.hpp>
#include <fsdpinit/core/float_conversion.hpp>
#include <fsdpinit/core/shape.hpp>
#include <fsdpinit/core/text.hpp>
#include <fsdpinit/index/relaid.hpp>
#include <fsdpinit/index/strided_map.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

/// \file
/// How a tensor is made of stored ones.

namespace fsdpinit::index_map {

/// Elements of a stored tensor, and where they are in the made one.
struct piece {
  std::size_t tensor = 0;    ///< its number: whatever who calls has numbered so
  dtype stored = dtype::u8;  ///< its type; the elements are converted where the made tensor has another
  strided_map map;           ///< from positions in the stored tensor to those in the made one

  friend bool operator==(const piece&, const piece&) = default;
};

/// Places of the made tensor that have the same element, which comes from no stored tensor.
struct fill {
  std::uint64_t element = 0;  ///< its bits, in the lowest ones, as `element_of` makes them
  strided_map map;            ///< to positions in the made tensor; `from` and its strides are 0

  friend bool operator==(const fill&, const fill&) = default;
};

/// How one tensor is made: each of its elements is in one piece or one fill. Both are ordered by their first position in it.
struct recipe {
  dtype type = dtype::u8;
  shape extents;
  std::vector<piece> pieces;
  std::vector<fill> fills;

  friend bool operator==(const recipe&, const recipe&) = default;
};

namespace detail {

// Forty megabytes of them. Experts of all layers stacked are some ten thousand; what cuts a tensor as finely is a mistake.
inline constexpr std::size_t most_pieces = std::size_t{1} << 17U;

template <class... Parts>
[[noreturn]] void refuse(const Parts&... parts) {
  throw error(errc::invalid_argument, {}, fsdpinit::detail::joined({fsdpinit::detail::text_part(parts)...}));
}

inline void check_dim(std::string_view what, const shape& extents, std::size_t dim) {
  if (dim >= extents.rank()) {
    refuse(what, ": ", to_string(extents), " has no dim ", dim, "; dims are counted from 0");
  }
}

/// Elements of the dims from `dim` on. \pre the product of all fits, or one is 0
[[nodiscard]] inline std::uint64_t elements_from(const shape& extents, std::size_t dim) noexcept {
  std::uint64_t product = 1;
  for (; dim < extents.rank(); ++dim) {
    product *= extents[dim];
  }
  return product;
}

inline void add(recipe& to, const piece& like, const strided_map& map) {
  if (to.pieces.size() + to.fills.size() == most_pieces) {
    refuse("a tensor of shape ", to_string(to.extents), " is cut into more than ", most_pieces,
           " pieces; use extents that divide each other");
  }
  to.pieces.push_back({like.tensor, like.stored, map});
}
inline void add(recipe& to, const fill& like, const strided_map& map) { to.fills.push_back({like.element, map}); }

/// Adds to `out` what `in` makes, at other positions.
inline void add_relaid(recipe& out, const recipe& in, std::span<const digit> digits, std::uint64_t origin) {
  const auto add_all = [&](const auto& all) {
    for (const auto& each : all) {
      relaid(each.map, digits, origin, [&](const strided_map& map) { add(out, each, map); });
    }
  };
  add_all(in.pieces);
  add_all(in.fills);
}

/// The map of a fill as one from itself, which has runs.
[[nodiscard]] constexpr strided_map onto_itself(strided_map map) noexcept {
  map.from = map.to;
  for (std::size_t k = 0; k < map.rank; ++k) {
    map.factors[k].from = map.factors[k].to;
  }
  return map;
}

/// What every operation ends with.
[[nodiscard]] inline recipe finished(std::string_view what, recipe out) {
  if (const auto total = checked_bits(out.type, out.extents); !total || *total % 8 != 0) {
    refuse(what, ": ", to_string(out.extents), " ", name(out.type),
           total ? " is no whole number of bytes; cut and pad it in multiples of a byte"
                 : " is too large; check its shape");
  }
  const auto check = [&](const strided_map& map) {
    if (map.rank > strided_map::most_factors) {
      refuse(what, ": the dimensions of ", to_string(out.extents), " are cut into more than ",
             strided_map::most_factors, " factors; use simpler operations");
    }
    if (!is_whole_bytes(map, bits(out.type))) {
      refuse(what, ": elements of ", name(out.type), " that stay together in ", to_string(out.extents),
             " are no whole bytes; move them in multiples of a byte");
    }
  };
  const auto by_position = [](const auto& a, const auto& b) { return a.map.to < b.map.to; };
  const auto sort = [&](auto& all) {
    if (!std::is_sorted(all.begin(), all.end(), by_position)) {
      std::sort(all.begin(), all.end(), by_position);
    }
  };
  for (const piece& each : out.pieces) {
    check(each.map);
  }
  for (const fill& each : out.fills) {
    check(onto_itself(each.map));
  }
  sort(out.pieces);
  sort(out.fills);
  return out;
}

/// Whether elements of the one type are the other's, exactly.
[[nodiscard]] constexpr bool widens(dtype from, dtype to) noexcept {
  return is_convertible(from, to) && bits(from) < bits(to);
}

[[nodiscard]] inline recipe filled(dtype type, shape extents, std::uint64_t element) {
  recipe out{.type = type, .extents = std::move(extents), .pieces = {}, .fills = {}};
  if (const std::uint64_t elements = elements_from(out.extents, 0); elements != 0) {
    strided_map map = strided_map::identity(elements);
    map.factors[0].from = 0;
    out.fills.push_back({element, map});
  }
  return out;
}

}  // namespace detail

/// All of stored tensor number `tensor`, as it is.
[[nodiscard]] inline recipe stored_tensor(std::size_t tensor, dtype type, shape extents) {
  recipe out{.type = type, .extents = std::move(extents), .pieces = {}, .fills = {}};
  const auto elements = checked_elements(out.extents);
  if (elements && *elements != 0) {
    out.pieces.push_back({tensor, type, strided_map::identity(*elements)});
  }
  return detail::finished("stored tensor", std::move(out));
}

}  // namespace fsdpinit::index_map
