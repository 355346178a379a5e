#pragma once

#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/core/dtype.hpp>
#include <fsdpinit/core/float_conversion.hpp>
#include <fsdpinit/index/byte_region.hpp>
#include <fsdpinit/index/place.hpp>
#include <fsdpinit/index/recipe.hpp>
#include <fsdpinit/index/relaid.hpp>
#include <fsdpinit/index/runs.hpp>
#include <fsdpinit/index/strided_map.hpp>
#include <fsdpinit/index/tiles.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

/// \file
/// Makes parts of a tensor as its recipe says, out of what can be read of the stored ones.

namespace fsdpinit::index_map {

/// Runs at least as long go straight to their place; shorter ones are read together where they are neighbours.
inline constexpr std::uint64_t direct_run_bytes = 16 * kib;
/// Between such neighbours, gaps below it are read along, however little lies between them: files are read in pages of that size.
inline constexpr std::uint64_t joined_gap_bytes = 4 * kib;
/// Room for an element, as it is stored and as it is made.
inline constexpr std::uint64_t least_tile_bytes = 16;

/// Does it take its elements in runs that are too short to be read one by one?
[[nodiscard]] inline bool needs_tiles(const recipe& of) noexcept {
  return std::any_of(of.pieces.begin(), of.pieces.end(), [&](const piece& each) {
    const strided_map& map = each.map;
    const bool has_long_runs =
        map.has_runs() && (map.rank == 1 || map.factors[map.rank - 1].extent * bits(of.type) / 8 >= direct_run_bytes);
    return each.stored != of.type || !(has_long_runs || map.rank == 0);
  });
}

namespace detail {

/// The digits of positions in the made tensor, of so many bytes or elements, that put what the runs have one behind the other.
struct runs_as_digits {
  std::array<digit, 2> digits{};
  std::size_t count = 0;

  constexpr runs_as_digits(const byte_region& runs, std::uint64_t size) noexcept {
    const std::uint64_t offset = runs.offset / size;
    const std::uint64_t run = runs.run / size;
    const std::uint64_t stride = runs.stride / size;
    if (runs.count == 1) {
      digits[count++] = {.begin = offset, .end = offset + run};
      return;
    }
    const std::uint64_t row = offset / stride;
    digits[count++] = {.stride = stride, .to = run, .begin = row * stride, .end = (row + runs.count) * stride};
    digits[count++] = {.begin = offset % stride, .end = offset % stride + run};
  }

  [[nodiscard]] constexpr std::span<const digit> all() const noexcept { return {digits.data(), count}; }
  [[nodiscard]] constexpr std::uint64_t begin() const noexcept {
    return digits[0].begin + (count == 1 ? 0 : digits[1].begin);
  }
};

/// Calls `fn(map)` for what the map has of the runs, with positions in them in place of those in the made tensor.
template <class Fn>
constexpr void for_each_in_runs(const strided_map& map, const byte_region& runs, std::uint64_t size, Fn&& fn) {
  const runs_as_digits wanted(runs, size);
  const std::uint64_t end = wanted.begin() + ((runs.count - 1) * runs.stride + runs.run) / size;
  if (map.to < end && map.to + map.to_span() >= wanted.begin()) {
    relaid(map, wanted.all(), 0, fn);
  }
}

/// One part of a piece, whose positions are elements of those sizes, or bytes.
template <class Read>
std::uint64_t gather_part(const piece& of, const strided_map& map, dtype made, mutable_bytes destination,
                          mutable_bytes tile, Read& read) {
  if (of.stored == made && map.has_runs() &&
      (map.factors[map.rank - 1].extent >= direct_run_bytes || !tiles_join_runs(map, joined_gap_bytes))) {
    for_each_group(map, 1, 1, [&](const run_group& group) {
      for (std::uint64_t i = 0; i < group.count; ++i) {
        read(of.tensor, group.stored + i * group.stored_stride,
             destination.subspan(group.made + i * group.made_stride, group.made_bytes));
      }
    });
    return 0;
  }
  const bool converts = of.stored != made;
  const std::uint64_t from_size = converts ? bits(of.stored) / 8 : 1;
  const std::uint64_t to_size = converts ? bits(made) / 8 : 1;
  const std::uint64_t capacity = tile.size() / (from_size + (converts ? to_size : 0));
  const mutable_bytes converted = tile.subspan(capacity * from_size);
  std::uint64_t infinite = 0;
  // What is converted counts what becomes infinite, and so reads nothing along.
  for_each_tile(
      map, capacity, converts ? 1 : joined_gap_bytes,
      [&](std::uint64_t position, std::uint64_t elements, std::uint64_t at) {
        read(of.tensor, position * from_size, tile.subspan(at * from_size, elements * from_size));
      },
      [&](const strided_map& placed, std::uint64_t elements) {
        if (converts) {
          infinite += convert_floats(of.stored, tile.data(), made, converted.data(), elements);
        }
        place(placed, to_size, converts ? converted.data() : tile.data(), destination.data());
      });
  return infinite;
}

/// The bytes of an element, over and over, beginning with its byte `first`.
inline void repeat(std::uint64_t element, std::uint64_t element_bytes, std::uint64_t first,
                   mutable_bytes destination) noexcept {
  if (element == 0) {
    std::memset(destination.data(), 0, destination.size());
    return;
  }
  for (std::uint64_t i = 0; i < destination.size(); ++i) {
    destination[i] = static_cast<std::byte>(element >> 8 * ((first + i) % element_bytes));
  }
}

}  // namespace detail

/// Fills `destination` with what the runs have of the made tensor, one behind the other.
///
/// `read(tensor, offset, destination)` gives bytes of a stored tensor. It is called for each run that is long, and for neighbours that are
/// short together; these go through the tile. Nothing is allocated. Cost: that of reading and placing, and of looking at each piece.
/// \param runs of bytes of the made tensor; where there are several, none goes over a multiple of their stride
/// \param tile memory to work in; the more, the fewer requests
/// \return how many elements a conversion has made infinite
/// \pre the tile has at least `least_tile_bytes`; where elements are converted, none is cut
/// \throws what `read` throws
template <class Read>
std::uint64_t gather(const recipe& of, const byte_region& runs, mutable_bytes destination, mutable_bytes tile,
                     Read&& read) {
  std::uint64_t infinite = 0;
  if (runs.bytes() == 0) {
    return infinite;
  }
  for (const piece& each : of.pieces) {
    const bool converts = each.stored != of.type;
    detail::for_each_in_runs(
        converts ? each.map : in_bytes(each.map, bits(of.type)), runs, converts ? bits(of.type) / 8 : 1,
        [&](const strided_map& map) { infinite += detail::gather_part(each, map, of.type, destination, tile, read); });
  }
  for (const fill& each : of.fills) {
    const strided_map map = in_bytes(detail::onto_itself(each.map), bits(of.type));
    detail::for_each_in_runs(map, runs, 1, [&](const strided_map& part) {
      detail::for_each_group(part, 1, 1, [&](const run_group& group) {
        for (std::uint64_t i = 0; i < group.count; ++i) {
          detail::repeat(each.element, bits(of.type) / 8, group.stored + i * group.stored_stride,
                         destination.subspan(group.made + i * group.made_stride, group.made_bytes));
        }
      });
    });
  }
  return infinite;
}

}  // namespace fsdpinit::index_map
