#pragma once

#include <fsdpinit/core/error.hpp>
#include <fsdpinit/index/strided_map.hpp>

#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>

/// \file
/// The one operation on maps that all others are made of.

namespace fsdpinit::index_map {

/// A digit of positions in a number system of mixed radix: position = sum digit_k * stride_k, the largest stride first. `relaid` keeps
/// positions whose digit times `stride` lies in [begin, end), and gives it the weight `to`, counted from `begin`.
struct digit {
  std::uint64_t stride = 1;
  std::uint64_t to = 1;
  std::uint64_t begin = 0;
  std::uint64_t end = std::numeric_limits<std::uint64_t>::max();
};

namespace detail {

/// On its way to new positions: `rest` is what no digit has taken yet, a stride of 0 where one has; `to` is what they made of it.
struct moving_factor {
  std::uint64_t extent = 0;
  std::uint64_t from = 0;
  std::uint64_t rest = 0;
  std::uint64_t to = 0;
};

struct moving_map {
  std::uint64_t from = 0;
  std::uint64_t rest = 0;
  std::uint64_t to = 0;
  std::size_t rank = 0;
  std::array<moving_factor, strided_map::most_factors + 1> factors{};  // by `rest`, the largest first

  /// Only `count` of factor k, from the one of that number on. \pre count != 0
  constexpr void keep(std::size_t k, std::uint64_t first, std::uint64_t count) noexcept {
    const moving_factor& of = factors[k];
    from += first * of.from;
    rest += first * of.rest;
    to += first * of.to;
    if (count > 1) {
      factors[k].extent = count;
      return;
    }
    for (--rank; k < rank; ++k) {
      factors[k] = factors[k + 1];
    }
  }

  /// Factor k as `groups` groups of `size`; what is left over is not kept. \pre size > 1
  constexpr void group(std::size_t k, std::uint64_t groups, std::uint64_t size) {
    const moving_factor of = factors[k];
    factors[k].extent = size;
    if (groups == 1) {
      return;
    }
    if (rank == factors.size()) {
      throw error(
          errc::invalid_argument, {},
          "too many strides: the dimensions of a tensor are cut into more than 13 factors; use simpler operations");
    }
    for (std::size_t i = rank++; i > k; --i) {
      factors[i] = factors[i - 1];
    }
    factors[k] = {groups, of.from * size, of.rest * size, of.to * size};
  }
};

[[nodiscard]] constexpr moving_map moving(const strided_map& map) noexcept {
  moving_map out{.from = map.from, .rest = map.to, .rank = map.rank};
  for (std::size_t k = 0; k < map.rank; ++k) {
    out.factors[k] = {map.factors[k].extent, map.factors[k].from, map.factors[k].to, 0};
  }
  return out;
}

[[nodiscard]] constexpr strided_map settled(const moving_map& map) noexcept {
  strided_map out{.from = map.from, .to = map.to, .rank = map.rank};
  for (std::size_t k = 0; k < map.rank; ++k) {
    out.factors[k] = {map.factors[k].extent, map.factors[k].from, map.factors[k].to};
  }
  canonicalize(out);
  return out;
}

[[nodiscard]] constexpr std::uint64_t greatest_common_divisor(std::uint64_t a, std::uint64_t b) noexcept {
  while (b != 0) {
    const std::uint64_t left = a % b;
    a = b;
    b = left;
  }
  return a;
}

/// Cuts the map into parts in which every factor either counts in multiples of `radix` or never carries into them, and calls
/// `fn(part)`. Where strides and radix fit each other, as those of tensors do, these are at most a head, whole blocks and a tail.
template <class Fn>
constexpr void for_each_without_carry(moving_map map, std::uint64_t radix, Fn&& fn) {
  while (true) {
    std::size_t k = map.rank;  // the largest that counts in something else
    std::uint64_t span = 0;    // of it and those below
    for (std::size_t i = 0; i < map.rank; ++i) {
      if (map.factors[i].rest % radix != 0) {
        k = k == map.rank ? i : k;
        span += (map.factors[i].extent - 1) * map.factors[i].rest;
      }
    }
    const std::uint64_t at = map.rest % radix;
    if (k == map.rank || at + span < radix) {
      fn(map);
      return;
    }
    const moving_factor cut = map.factors[k];
    const std::uint64_t below = span - (cut.extent - 1) * cut.rest;
    // After as many it is at the same place of another block.
    const std::uint64_t period = radix / greatest_common_divisor(cut.rest, radix);
    moving_map front = map;
    std::uint64_t taken = 1;
    if (cut.extent > period && (at < cut.rest || radix % cut.rest != 0)) {
      taken = cut.extent / period * period;
      front.group(k, taken / period, period);
    } else {
      if (at + below < radix) {
        taken = (radix - 1 - at - below) / cut.rest + 1;
      }
      front.keep(k, 0, taken);
    }
    for_each_without_carry(front, radix, fn);
    if (taken == cut.extent) {
      return;
    }
    map.keep(k, taken, cut.extent - taken);
  }
}

/// Calls `fn(part)` for what has the digit in [begin, end). \pre no factor carries into it
template <class Fn>
constexpr void for_each_within(const moving_map& map, const digit& of, Fn&& fn) {
  std::size_t k = map.rank;
  std::uint64_t span = 0;
  for (std::size_t i = 0; i < map.rank; ++i) {
    if (map.factors[i].rest != 0 && map.factors[i].rest % of.stride == 0) {
      k = k == map.rank ? i : k;
      span += (map.factors[i].extent - 1) * map.factors[i].rest;
    }
  }
  const std::uint64_t at = map.rest - map.rest % of.stride;
  if (at >= of.end || at + span < of.begin) {
    return;
  }
  if (at >= of.begin && at + span < of.end) {
    fn(map);
    return;
  }
  // Of the largest factor, numbers [reach.begin, reach.end) have some part in the range, [whole.begin, whole.end) are in it: as
  // factors are nested, all but one at either end.
  const moving_factor cut = map.factors[k];
  const std::uint64_t below = span - (cut.extent - 1) * cut.rest;
  struct range {
    std::uint64_t begin;
    std::uint64_t end;
  };
  const auto first_not_below = [&](std::uint64_t offset, std::uint64_t bound) {
    const std::uint64_t first = offset >= bound ? 0 : (bound - offset - 1) / cut.rest + 1;
    return first < cut.extent ? first : cut.extent;
  };
  const range reach{first_not_below(at + below, of.begin), first_not_below(at, of.end)};
  range whole{first_not_below(at, of.begin), first_not_below(at + below, of.end)};
  if (whole.begin >= whole.end) {
    whole = {reach.end, reach.end};
  }
  for (std::uint64_t i = reach.begin; i < whole.begin; ++i) {
    moving_map part = map;
    part.keep(k, i, 1);
    for_each_within(part, of, fn);
  }
  if (whole.begin < whole.end) {
    moving_map part = map;
    part.keep(k, whole.begin, whole.end - whole.begin);
    fn(part);
  }
  for (std::uint64_t i = whole.end; i < reach.end; ++i) {
    moving_map part = map;
    part.keep(k, i, 1);
    for_each_within(part, of, fn);
  }
}

template <class Fn>
constexpr void for_each_moved(const moving_map& map, std::span<const digit> digits, Fn& fn) {
  if (digits.empty()) {
    fn(settled(map));
    return;
  }
  const digit& of = digits.front();
  for_each_without_carry(map, of.stride, [&](const moving_map& part) {
    for_each_within(part, of, [&](const moving_map& kept) {
      moving_map next = kept;
      for (std::size_t k = 0; k < next.rank; ++k) {
        moving_factor& each = next.factors[k];
        if (each.rest != 0 && each.rest % of.stride == 0) {
          each.to = each.rest / of.stride * of.to;
          each.rest = 0;
        }
      }
      next.to += (next.rest - next.rest % of.stride - of.begin) / of.stride * of.to;
      next.rest %= of.stride;
      for_each_moved(next, digits.subspan(1), fn);
    });
  });
}

}  // namespace detail

/// The map to other positions: those of `to` are read digit by digit, cut to the digits' ranges, and put together again with the new
/// weights, from `origin` on. Calls `fn(strided_map)` for each part of the result; a part is cut only where the digits cut it.
///
/// \pre the last digit's stride is 1, each `begin` is a multiple of its stride, and digits with their new weights are nested
/// \throws error{invalid_argument} for a map of more than `strided_map::most_factors` factors
template <class Fn>
constexpr void relaid(const strided_map& map, std::span<const digit> digits, std::uint64_t origin, Fn&& fn) {
  detail::moving_map start = detail::moving(map);
  start.to = origin;
  detail::for_each_moved(start, digits, fn);
}

/// What `to` has in [begin, end), at the same positions.
template <class Fn>
constexpr void clipped(const strided_map& map, std::uint64_t begin, std::uint64_t end, Fn&& fn) {
  if (map.to >= end || map.to + map.to_span() < begin) {
    return;
  }
  const digit within{.begin = begin, .end = end};
  relaid(map, {&within, 1}, begin, fn);
}

}  // namespace fsdpinit::index_map
