#pragma once

#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/core/dtype.hpp>
#include <fsdpinit/index/recipe.hpp>
#include <fsdpinit/index/relaid.hpp>
#include <fsdpinit/index/strided_map.hpp>

#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>

/// \file
/// Maps as runs of bytes: what is read, sent and placed. Nothing is allocated, and the cost is that of the groups of runs.

namespace fsdpinit::index_map {

/// `count` runs, in bytes of the stored and of the made tensor. Run i begins i strides after the first on either side.
struct run_group {
  std::uint64_t stored = 0;
  std::uint64_t made = 0;
  std::uint64_t stored_bytes = 0;  ///< of one run
  std::uint64_t made_bytes = 0;    ///< others than are stored where elements are converted
  std::uint64_t stored_stride = 0;
  std::uint64_t made_stride = 0;
  std::uint64_t count = 1;

  friend bool operator==(const run_group&, const run_group&) = default;
};

/// The end of a range that ends with the tensor.
inline constexpr std::uint64_t to_the_end = std::numeric_limits<std::uint64_t>::max();

namespace detail {

/// The map as groups of runs, in the order of `to`: the two last factors are a run and how often there is one, the others are counted
/// through. `from_size` and `to_size` are of an element, in bytes.
template <class Fn>
constexpr void for_each_group(const strided_map& map, std::uint64_t from_size, std::uint64_t to_size, Fn&& fn) {
  std::size_t outer = map.rank;
  const std::uint64_t run = map.has_runs() ? map.factors[--outer].extent : 1;
  const factor group = outer != 0 ? map.factors[--outer] : factor{.extent = 1};
  std::array<std::uint64_t, strided_map::most_factors + 1> at{};
  std::uint64_t from = map.from;
  std::uint64_t to = map.to;
  while (true) {
    fn(run_group{from * from_size, to * to_size, run * from_size, run * to_size, group.from * from_size,
                 group.to * to_size, group.extent});
    std::size_t k = outer;
    for (; k != 0 && ++at[k - 1] == map.factors[k - 1].extent; --k) {
      from -= (map.factors[k - 1].extent - 1) * map.factors[k - 1].from;
      to -= (map.factors[k - 1].extent - 1) * map.factors[k - 1].to;
      at[k - 1] = 0;
    }
    if (k == 0) {
      return;
    }
    from += map.factors[k - 1].from;
    to += map.factors[k - 1].to;
  }
}

/// Of what lies in bytes [begin, end) of `to`, whose elements are of type `to_type`.
template <class Fn>
constexpr void for_each_group_within(const strided_map& map, dtype from_type, dtype to_type, std::uint64_t begin,
                                     std::uint64_t end, Fn&& fn) {
  const bool converts = from_type != to_type;
  const std::uint64_t from_size = converts ? bits(from_type) / 8 : 1;
  const std::uint64_t to_size = converts ? bits(to_type) / 8 : 1;
  clipped(converts ? map : in_bytes(map, bits(to_type)), begin / to_size, ceil_div(end, to_size),
          [&](const strided_map& part) { for_each_group(part, from_size, to_size, fn); });
}

}  // namespace detail

/// Calls `fn(piece, run_group)` for what bytes [begin, end) of the made tensor are made of. Pieces come by their first byte, the groups of
/// each in the order of the made tensor; those of pieces that interleave are not merged.
/// \pre begin and end are multiples of an element where elements are converted
template <class Fn>
constexpr void for_each_run(const recipe& of, std::uint64_t begin, std::uint64_t end, Fn&& fn) {
  for (const piece& each : of.pieces) {
    detail::for_each_group_within(each.map, each.stored, of.type, begin, end,
                                  [&](const run_group& group) { fn(each, group); });
  }
}
template <class Fn>
constexpr void for_each_run(const recipe& of, Fn&& fn) {
  for_each_run(of, 0, to_the_end, fn);
}

/// Calls `fn(fill, run_group)` for what is filled of bytes [begin, end) of the made tensor; of the group only `made` counts.
template <class Fn>
constexpr void for_each_fill(const recipe& of, std::uint64_t begin, std::uint64_t end, Fn&& fn) {
  for (const fill& each : of.fills) {
    detail::for_each_group_within(detail::onto_itself(each.map), of.type, of.type, begin, end,
                                  [&](const run_group& group) { fn(each, group); });
  }
}

/// Calls `fn(run_group)` for what a piece of a tensor of type `made` uses of bytes [begin, end) of its stored tensor, in their order.
/// \pre begin and end are multiples of an element where elements are converted
template <class Fn>
constexpr void for_each_stored_run(const piece& of, dtype made, std::uint64_t begin, std::uint64_t end, Fn&& fn) {
  detail::for_each_group_within(inverse(of.map), made, of.stored, begin, end, [&](const run_group& group) {
    fn(run_group{group.made, group.stored, group.made_bytes, group.stored_bytes, group.made_stride, group.stored_stride,
                 group.count});
  });
}

}  // namespace fsdpinit::index_map
