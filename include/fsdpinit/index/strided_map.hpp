#pragma once

#include <fsdpinit/core/compiler.hpp>

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

/// \file
/// Which elements of one tensor become which of another, as a few extents with a stride on either side (the layout algebra of CuTe).
/// Tensors are row-major; a position is an element's number in its tensor.

namespace fsdpinit::index_map {

/// `extent` elements, at distances `from` in one tensor and `to` in the other.
struct factor {
  std::uint64_t extent = 0;
  std::uint64_t from = 0;
  std::uint64_t to = 0;

  friend bool operator==(const factor&, const factor&) = default;
};

/// Positions `from + sum i_k * factors[k].from` become `to + sum i_k * factors[k].to`, for all i_k below `factors[k].extent`.
///
/// Invariants: extents are at least 2. On either side factors are nested: a stride is more than the span of all smaller ones together,
/// so that positions are distinct. Factors are ordered by `to`, the largest first, and no two neighbours could be one.
struct strided_map {
  /// A map of fewer than 4096 elements never has as many.
  static constexpr std::size_t most_factors = 12;

  std::uint64_t from = 0;
  std::uint64_t to = 0;
  std::size_t rank = 0;
  std::array<factor, most_factors + 1> factors{};  ///< the first `rank`; one more for the bytes of an element

  /// The first `elements` positions to the first ones. \pre elements != 0
  [[nodiscard]] static constexpr strided_map identity(std::uint64_t elements) noexcept {
    strided_map out;
    if (elements > 1) {
      out.factors[out.rank++] = {elements, 1, 1};
    }
    return out;
  }

  [[nodiscard]] constexpr std::span<const factor> all() const noexcept { return {factors.data(), rank}; }
  [[nodiscard]] constexpr std::uint64_t elements() const noexcept {
    std::uint64_t product = 1;
    for (const factor& each : all()) {
      product *= each.extent;
    }
    return product;
  }
  /// The last position on that side, less the first.
  [[nodiscard]] constexpr std::uint64_t from_span() const noexcept {
    std::uint64_t sum = 0;
    for (const factor& each : all()) {
      sum += (each.extent - 1) * each.from;
    }
    return sum;
  }
  [[nodiscard]] constexpr std::uint64_t to_span() const noexcept {
    std::uint64_t sum = 0;
    for (const factor& each : all()) {
      sum += (each.extent - 1) * each.to;
    }
    return sum;
  }
  /// Whether neighbours on one side are neighbours on the other: the last factor is then a run.
  [[nodiscard]] constexpr bool has_runs() const noexcept {
    return rank != 0 && factors[rank - 1].from == 1 && factors[rank - 1].to == 1;
  }

  friend bool operator==(const strided_map&, const strided_map&) = default;
};

namespace detail {

/// With the factors of `map` in order, and neighbours that are one joined.
constexpr void canonicalize(strided_map& map) noexcept {
  for (std::size_t i = 1; i < map.rank; ++i) {
    for (std::size_t k = i; k != 0 && map.factors[k - 1].to < map.factors[k].to; --k) {
      const factor larger = map.factors[k];
      map.factors[k] = map.factors[k - 1];
      map.factors[k - 1] = larger;
    }
  }
  std::size_t kept = 0;
  for (std::size_t k = 0; k < map.rank; ++k) {
    const factor& each = map.factors[k];
    if (kept != 0 && map.factors[kept - 1].from == each.extent * each.from &&
        map.factors[kept - 1].to == each.extent * each.to) {
      map.factors[kept - 1] = {map.factors[kept - 1].extent * each.extent, each.from, each.to};
    } else {
      map.factors[kept++] = each;
    }
  }
  for (std::size_t k = kept; k < map.rank; ++k) {
    map.factors[k] = {};
  }
  map.rank = kept;
}

}  // namespace detail

/// The other way round.
[[nodiscard]] constexpr strided_map inverse(const strided_map& map) noexcept {
  strided_map out{.from = map.to, .to = map.from, .rank = map.rank};
  for (std::size_t k = 0; k < map.rank; ++k) {
    out.factors[k] = {map.factors[k].extent, map.factors[k].to, map.factors[k].from};
  }
  detail::canonicalize(out);
  return out;
}

/// Whether positions and runs are whole bytes where elements have as many bits.
[[nodiscard]] constexpr bool is_whole_bytes(const strided_map& map, std::uint64_t bits) noexcept {
  bool whole = map.from * bits % 8 == 0 && map.to * bits % 8 == 0;
  for (std::size_t k = 0; k < map.rank; ++k) {
    const factor& each = map.factors[k];
    const bool is_run = k + 1 == map.rank && map.has_runs();
    whole = whole && (is_run ? each.extent * bits % 8 == 0 : each.from * bits % 8 == 0 && each.to * bits % 8 == 0);
  }
  return whole && (map.has_runs() || bits % 8 == 0);
}

/// The same map of bytes. \pre is_whole_bytes(map, bits)
[[nodiscard]] constexpr strided_map in_bytes(const strided_map& map, std::uint64_t bits) noexcept {
  strided_map out{.from = map.from * bits / 8, .to = map.to * bits / 8, .rank = map.rank};
  for (std::size_t k = 0; k < map.rank; ++k) {
    const factor& each = map.factors[k];
    out.factors[k] = {each.extent, each.from * bits / 8, each.to * bits / 8};
  }
  if (map.has_runs()) {
    const std::uint64_t run = map.factors[map.rank - 1].extent * bits / 8;
    out.factors[--out.rank] = {};
    if (run > 1) {
      out.factors[out.rank++] = {run, 1, 1};
    }
  } else if (bits > 8) {
    out.factors[out.rank++] = {bits / 8, 1, 1};
  }
  return out;
}

}  // namespace fsdpinit::index_map
