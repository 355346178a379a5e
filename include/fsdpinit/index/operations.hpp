#pragma once

#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/core/dtype.hpp>
#include <fsdpinit/core/float_conversion.hpp>
#include <fsdpinit/core/shape.hpp>
#include <fsdpinit/index/box.hpp>
#include <fsdpinit/index/recipe.hpp>
#include <fsdpinit/index/relaid.hpp>
#include <fsdpinit/index/strided_map.hpp>

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <utility>
#include <vector>

/// \file
/// What recipes are made of recipes with. Operations are pure, cost what the pieces they make are, whatever the elements, and throw
/// `error{invalid_argument}`, without a subject, where shapes, dtypes or dimensions do not fit; a sub-byte dtype, where what is
/// contiguous on both sides is not whole bytes. Zero extents, scalars, empty slices and operations that change nothing are legal.

namespace fsdpinit::index_map {

/// One after the other along `dim`. Their other dims and dtypes are equal.
[[nodiscard]] inline recipe concat(std::span<const recipe> parts, std::size_t dim) {
  if (parts.empty()) {
    detail::refuse("concat: there is nothing to make a tensor of; give at least one");
  }
  const recipe& first = parts.front();
  detail::check_dim("concat", first.extents, dim);
  recipe out{.type = first.type, .extents = first.extents, .pieces = {}, .fills = {}};
  out.extents[dim] = 0;
  for (std::size_t i = 0; i < parts.size(); ++i) {
    const recipe& part = parts[i];
    shape expected = first.extents;
    if (part.extents.rank() == expected.rank()) {
      expected[dim] = part.extents[dim];
    }
    if (part.extents != expected || part.type != first.type) {
      detail::refuse("concat: part ", i, " is ", to_string(part.extents), " ", name(part.type), ", part 0 is ",
                     to_string(first.extents), " ", name(first.type), "; dtypes and all dims but ", dim,
                     " must be equal");
    }
    if (!checked_add(out.extents[dim], part.extents[dim], out.extents[dim])) {
      detail::refuse("concat: the parts add up to more than 64 bits can count; check their shapes");
    }
  }
  if (!checked_elements(out.extents)) {
    return detail::finished("concat", std::move(out));  // which says so
  }
  const std::uint64_t inner = detail::elements_from(first.extents, dim + 1);
  std::uint64_t before = 0;
  for (const recipe& part : parts) {
    const std::uint64_t row = part.extents[dim] * inner;
    const std::array<digit, 2> digits{digit{.stride = row, .to = out.extents[dim] * inner}, digit{}};
    detail::add_relaid(out, part, digits, before);
    before += row;
  }
  return detail::finished("concat", std::move(out));
}

/// One beside the other along a new dim. All have the same shape and dtype.
[[nodiscard]] inline recipe stack(std::span<const recipe> parts, std::size_t dim) {
  std::vector<recipe> wider(parts.begin(), parts.end());
  for (std::size_t i = 0; i < wider.size(); ++i) {
    shape& extents = wider[i].extents;
    if (extents != parts[0].extents || wider[i].type != parts[0].type || dim > extents.rank()) {
      detail::refuse("stack: part ", i, " is ", to_string(parts[i].extents), " ", name(parts[i].type), ", part 0 is ",
                     to_string(parts[0].extents), " ", name(parts[0].type),
                     "; all must have the same shape and dtype, and at least ", dim, " dims");
    }
    std::vector<std::uint64_t> dims(extents.begin(), extents.end());
    dims.insert(dims.begin() + static_cast<std::ptrdiff_t>(dim), 1);
    extents = shape(dims);
  }
  return concat(wider, dim);
}

/// [begin, end) of a dim.
[[nodiscard]] inline recipe slice(const recipe& of, std::size_t dim, std::uint64_t begin, std::uint64_t end) {
  detail::check_dim("slice", of.extents, dim);
  if (begin > end || end > of.extents[dim]) {
    detail::refuse("slice: [", begin, ", ", end, ") is no part of dim ", dim, " of ", to_string(of.extents),
                   "; begin <= end <= ", of.extents[dim], " must hold");
  }
  recipe out{.type = of.type, .extents = of.extents, .pieces = {}, .fills = {}};
  out.extents[dim] = end - begin;
  const std::uint64_t inner = detail::elements_from(of.extents, dim + 1);
  if (begin != end) {
    const std::array<digit, 2> digits{digit{.stride = of.extents[dim] * inner, .to = (end - begin) * inner},
                                      digit{.begin = begin * inner, .end = end * inner}};
    detail::add_relaid(out, of, digits, 0);
  }
  return detail::finished("slice", std::move(out));
}

/// Part `index` of `count` equal ones.
[[nodiscard]] inline recipe chunk(const recipe& of, std::size_t dim, std::uint64_t count, std::uint64_t index) {
  detail::check_dim("chunk", of.extents, dim);
  if (count == 0 || index >= count || of.extents[dim] % count != 0) {
    detail::refuse("chunk: dim ", dim, " of ", to_string(of.extents), " has no part ", index, " of ", count,
                   " equal ones; use a count that divides it, or slice");
  }
  const std::uint64_t size = of.extents[dim] / count;
  return slice(of, dim, index * size, (index + 1) * size);
}

/// A box of it, as a tensor of its own: what a rank holds of it. \pre the box lies in it
[[nodiscard]] inline recipe restricted(recipe of, const box& to) {
  if (to.begin.rank() != of.extents.rank()) {
    detail::refuse("box: ", to_string(to), " is no box of ", to_string(of.extents), "; they must have as many dims");
  }
  for (std::size_t dim = 0; dim < to.begin.rank(); ++dim) {
    if (to.begin[dim] != 0 || to.end[dim] != of.extents[dim]) {
      of = slice(of, dim, to.begin[dim], to.end[dim]);
    }
  }
  return of;
}

/// Dim d of the result is dim `dims[d]` of it; {1, 0} transposes.
[[nodiscard]] inline recipe permute(const recipe& of, std::span<const std::size_t> dims) {
  recipe out{.type = of.type, .extents = of.extents, .pieces = {}, .fills = {}};
  std::vector<digit> digits(of.extents.rank());
  std::vector<bool> seen(of.extents.rank());
  for (std::size_t d = 0; d < dims.size(); ++d) {
    if (dims.size() != seen.size() || dims[d] >= seen.size() || seen[dims[d]]) {
      detail::refuse("permute: of ", dims.size(), " dims for ", to_string(of.extents), " number ", d, " is ", dims[d],
                     "; name each of its ", seen.size(), " dims once");
    }
    seen[dims[d]] = true;
    out.extents[d] = of.extents[dims[d]];
  }
  if (dims.size() != seen.size()) {
    detail::refuse("permute: ", to_string(of.extents), " has ", seen.size(), " dims, none are given; name each once");
  }
  for (std::size_t d = 0; d < dims.size(); ++d) {
    digits[dims[d]] = {.stride = detail::elements_from(of.extents, dims[d] + 1),
                       .to = detail::elements_from(out.extents, d + 1)};
  }
  detail::add_relaid(out, of, digits, 0);
  return detail::finished("permute", std::move(out));
}

/// The same elements in the same order, in other dims. \pre as many of them
[[nodiscard]] inline recipe reshape(recipe of, shape extents) {
  if (checked_elements(extents) != checked_elements(of.extents)) {
    detail::refuse("reshape: ", to_string(of.extents), " and ", to_string(extents), " do not have as many elements");
  }
  of.extents = std::move(extents);
  return of;
}

/// Longer along `dim`, up to `to`: `element`, the bits of one, follows.
[[nodiscard]] inline recipe pad(const recipe& of, std::size_t dim, std::uint64_t to, std::uint64_t element = 0) {
  detail::check_dim("pad", of.extents, dim);
  if (to < of.extents[dim]) {
    detail::refuse("pad: dim ", dim, " of ", to_string(of.extents), " is longer than ", to, " already; slice it");
  }
  if (bits(of.type) < 64 && element >> bits(of.type) != 0) {
    detail::refuse("pad: ", element, " is no element of ", name(of.type), "; give its bits");
  }
  shape added = of.extents;
  added[dim] = to - of.extents[dim];
  if (!checked_elements(added)) {
    detail::refuse("pad: dim ", dim, " of ", to_string(of.extents), " padded to ", to,
                   " is too large; check the shape");
  }
  const std::array<recipe, 2> parts{of, detail::filled(of.type, std::move(added), element)};
  return concat(parts, dim);
}

/// Longer along `dim`, up to the next multiple.
[[nodiscard]] inline recipe pad_to_multiple(const recipe& of, std::size_t dim, std::uint64_t multiple,
                                            std::uint64_t element = 0) {
  detail::check_dim("pad", of.extents, dim);
  const std::uint64_t left = multiple == 0 ? 0 : of.extents[dim] % multiple;
  std::uint64_t to = of.extents[dim];
  if (multiple == 0 || (left != 0 && !checked_add(to, multiple - left, to))) {
    detail::refuse("pad: dim ", dim, " of ", to_string(of.extents), " has no next multiple of ", multiple,
                   "; use one of at least 1");
  }
  return pad(of, dim, to, element);
}

/// Elements of another type: F32, F16 or BF16, of these or of F64, rounded to nearest even. Rounds once: what has been rounded by a cast
/// is not cast again.
[[nodiscard]] inline recipe cast(recipe of, dtype type) {
  if (of.type == type) {
    return of;
  }
  if (!is_convertible(of.type, type)) {
    detail::refuse("cast: ", name(of.type), " is not converted to ", name(type),
                   "; F32, F16 and BF16 are, to each other, and F64 to these");
  }
  for (const piece& each : of.pieces) {
    if (each.stored != of.type && !detail::widens(each.stored, of.type)) {
      detail::refuse("cast: elements stored as ", name(each.stored), " have been rounded to ", name(of.type),
                     " already; cast them to ", name(type), " alone");
    }
  }
  for (fill& each : of.fills) {
    std::array<std::byte, 8> element = std::bit_cast<std::array<std::byte, 8>>(each.element);
    std::array<std::byte, 8> converted{};
    convert_floats(of.type, element.data(), type, converted.data(), 1);
    each.element = std::bit_cast<std::uint64_t>(converted);
  }
  of.type = type;
  return of;
}

/// What `outer` makes of the tensors that `inner` makes, made of the stored ones: number i in `outer` is `inner[i]`.
[[nodiscard]] inline recipe composed(const recipe& outer, std::span<const recipe> inner) {
  recipe out{.type = outer.type, .extents = outer.extents, .pieces = {}, .fills = outer.fills};
  for (const piece& each : outer.pieces) {
    const strided_map& map = each.map;
    const bool is_there = each.tensor < inner.size();
    const auto elements = is_there ? checked_elements(inner[each.tensor].extents) : std::nullopt;
    if (!elements || map.from + map.from_span() >= *elements || inner[each.tensor].type != each.stored) {
      detail::refuse("compose: tensor ", each.tensor, " is not made as it is used, as ", name(each.stored),
                     " of at least ", map.from + map.from_span() + 1, " elements; give recipes of the tensors used");
    }
    recipe used{.type = each.stored, .extents = shape{map.from_span() + 1}, .pieces = {}, .fills = {}};
    const digit within{.begin = map.from, .end = map.from + map.from_span() + 1};
    detail::add_relaid(used, inner[each.tensor], {&within, 1}, 0);
    // Its positions, digit by digit as the map reads them. What lies between is not used.
    const strided_map reads = inverse(map);
    std::vector<digit> digits;
    for (const factor& digit_of : reads.all()) {
      digits.push_back({.stride = digit_of.to, .to = digit_of.from, .end = digit_of.extent * digit_of.to});
    }
    if (digits.empty() || digits.back().stride != 1) {
      digits.push_back({.to = 0, .end = 1});
    }
    recipe moved{.type = each.stored, .extents = outer.extents, .pieces = {}, .fills = {}};
    detail::add_relaid(moved, used, digits, map.to);
    moved = cast(std::move(moved), outer.type);
    out.pieces.insert(out.pieces.end(), moved.pieces.begin(), moved.pieces.end());
    out.fills.insert(out.fills.end(), moved.fills.begin(), moved.fills.end());
  }
  return detail::finished("compose", std::move(out));
}

}  // namespace fsdpinit::index_map
