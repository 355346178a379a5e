#pragma once

#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/index/strided_map.hpp>

#include <array>
#include <cstddef>
#include <cstdint>

/// \file
/// How what a map takes from a stored tensor is read in few requests, into a bounded tile, and from there placed.

namespace fsdpinit::index_map {

namespace detail {

/// A map by its stored side: what one request reads, and what one tile holds. Factors are ordered by `from`, the smallest first.
struct tiling {
  std::array<factor, strided_map::most_factors + 1> factors{};
  std::size_t rank = 0;
  std::size_t in_block = 0;   ///< factors of which a request reads all
  std::size_t in_tile = 0;    ///< and those after them of which a tile has all
  std::uint64_t block = 1;    ///< elements of a request, with what lies between those wanted
  std::uint64_t rows = 1;     ///< requests of a tile, of whole factors
  std::uint64_t taken = 1;    ///< of the next factor, this many at a time
  bool widens_block = false;  ///< and these in one request
};

/// \param capacity elements of a tile \param gap_bound gaps of fewer elements are read along
[[nodiscard]] constexpr tiling tiling_of(const strided_map& map, std::uint64_t capacity,
                                         std::uint64_t gap_bound) noexcept {
  tiling out{.rank = map.rank};
  for (std::size_t i = 0; i < map.rank; ++i) {
    std::size_t k = i;
    for (; k != 0 && out.factors[k - 1].from > map.factors[i].from; --k) {
      out.factors[k] = out.factors[k - 1];
    }
    out.factors[k] = map.factors[i];
  }
  std::size_t k = 0;
  for (; k < out.rank; ++k) {
    const factor& each = out.factors[k];
    const std::uint64_t longer = out.block + (each.extent - 1) * each.from;
    if (each.from - out.block >= gap_bound) {
      break;
    }
    if (longer > capacity) {
      out.in_block = out.in_tile = k;
      out.taken = out.block < capacity ? (capacity - out.block) / each.from + 1 : 1;
      out.block += (out.taken - 1) * each.from;
      out.widens_block = true;
      return out;
    }
    out.block = longer;
  }
  out.in_block = k;
  std::uint64_t room = out.block < capacity ? capacity / out.block : 1;
  for (; k < out.rank && out.factors[k].extent <= room; ++k) {
    room /= out.factors[k].extent;
    out.rows *= out.factors[k].extent;
  }
  out.in_tile = k;
  out.taken = room;
  return out;
}

/// Calls `fn(from, to)` for all combinations of factors [begin, end), whose first is there.
template <class Fn>
constexpr void for_each_of(const tiling& of, std::size_t begin, std::size_t end, std::uint64_t from, std::uint64_t to,
                           Fn&& fn) {
  std::array<std::uint64_t, strided_map::most_factors + 1> at{};
  while (true) {
    fn(from, to);
    std::size_t k = begin;
    for (; k < end && ++at[k] == of.factors[k].extent; ++k) {
      from -= (of.factors[k].extent - 1) * of.factors[k].from;
      to -= (of.factors[k].extent - 1) * of.factors[k].to;
      at[k] = 0;
    }
    if (k >= end) {
      return;
    }
    from += of.factors[k].from;
    to += of.factors[k].to;
  }
}

}  // namespace detail

/// Takes a map apart into tiles: for each it calls `read(position, elements, place)` once per request, to put stored elements
/// [position, position + elements) at element `place` of the tile, and then `placed(map, elements)`, with a map from the tile's elements to
/// the destination, and how many elements there are in the tile. Nothing is allocated.
///
/// Requests are as long as what is wanted is contiguous, or nearly: gaps of fewer than `gap_bound` elements are read along.
/// \pre capacity and gap_bound are not 0
template <class Read, class Placed>
constexpr void for_each_tile(const strided_map& map, std::uint64_t capacity, std::uint64_t gap_bound, Read&& read,
                             Placed&& placed) {
  const detail::tiling of = detail::tiling_of(map, capacity, gap_bound);
  const bool has_more = of.in_tile < of.rank;
  const factor more = has_more ? of.factors[of.in_tile] : factor{.extent = 1};

  strided_map within{.rank = of.in_tile};  // from the tile, of whole factors
  std::uint64_t packed = of.block;         // one behind the other, in the tile
  for (std::size_t k = 0; k < of.in_tile; ++k) {
    within.factors[k] = of.factors[k];
    if (k >= of.in_block) {
      within.factors[k].from = packed;
      packed *= of.factors[k].extent;
    }
  }
  detail::for_each_of(of, has_more ? of.in_tile + 1 : of.rank, of.rank, map.from, map.to,
                      [&](std::uint64_t from, std::uint64_t to) {
                        for (std::uint64_t done = 0; done < more.extent; done += of.taken) {
                          const std::uint64_t count = smaller(of.taken, more.extent - done);
                          const std::uint64_t first = from + done * more.from;
                          strided_map part = within;
                          part.to = to + done * more.to;
                          if (count > 1) {
                            part.factors[part.rank++] = {count, of.widens_block ? more.from : packed, more.to};
                          }
                          std::uint64_t used = 0;
                          if (of.widens_block) {
                            used = of.block - (of.taken - count) * more.from;
                            read(first, used, std::uint64_t{0});
                          } else {
                            for (std::uint64_t i = 0; i < count; ++i) {
                              detail::for_each_of(of, of.in_block, of.in_tile, first + i * more.from, 0,
                                                  [&](std::uint64_t position, std::uint64_t) {
                                                    read(position, of.block, used);
                                                    used += of.block;
                                                  });
                            }
                          }
                          detail::canonicalize(part);
                          placed(part, used);
                        }
                      });
}

/// Would a tile take fewer requests than the map's runs? \pre map.has_runs()
[[nodiscard]] constexpr bool tiles_join_runs(const strided_map& map, std::uint64_t gap_bound) noexcept {
  return detail::tiling_of(map, ~std::uint64_t{0}, gap_bound).in_block > 1;
}

}  // namespace fsdpinit::index_map
