#pragma once

#include <fsdpinit/core/shape.hpp>
#include <fsdpinit/core/text.hpp>

#include <cstddef>
#include <cstdint>
#include <string>

namespace fsdpinit::index_map {

/// A half-open range in each dimension of a tensor: [begin[d], end[d]). Without dimensions it is the one element of a scalar.
struct box {
  shape begin;
  shape end;

  friend bool operator==(const box&, const box&) = default;
};

/// All of a tensor of that shape.
[[nodiscard]] inline box whole(const shape& extents) {
  box out{.begin = extents, .end = extents};
  for (std::size_t dim = 0; dim < extents.rank(); ++dim) {
    out.begin[dim] = 0;
  }
  return out;
}

/// What both have; empty where that is nothing. \pre they have as many dimensions
[[nodiscard]] inline box intersection(box a, const box& b) noexcept {
  for (std::size_t dim = 0; dim < a.begin.rank(); ++dim) {
    a.begin[dim] = a.begin[dim] < b.begin[dim] ? b.begin[dim] : a.begin[dim];
    a.end[dim] = smaller(a.end[dim], b.end[dim]);
    a.end[dim] = a.end[dim] < a.begin[dim] ? a.begin[dim] : a.end[dim];
  }
  return a;
}

/// A box's extents as the shape of a tensor of its own. \pre no end is below its begin
[[nodiscard]] inline shape extents_of(const box& of) {
  shape out = of.end;
  for (std::size_t dim = 0; dim < out.rank(); ++dim) {
    out[dim] -= of.begin[dim];
  }
  return out;
}

/// \pre no end is below its begin, and the product fits into 64 bits
[[nodiscard]] inline std::uint64_t elements(const box& of) noexcept {
  std::uint64_t product = 1;
  for (std::size_t dim = 0; dim < of.begin.rank(); ++dim) {
    product *= of.end[dim] - of.begin[dim];
  }
  return product;
}

[[nodiscard]] inline bool is_empty(const box& of) noexcept { return elements(of) == 0; }

/// As Python's slices are written: `[0:8, 12:16]`.
[[nodiscard]] inline std::string to_string(const box& of) {
  std::string out = "[";
  for (std::size_t dim = 0; dim < of.begin.rank(); ++dim) {
    append_to(out, dim == 0 ? "" : ", ", of.begin[dim], ":", of.end[dim]);
  }
  return out + "]";
}

}  // namespace fsdpinit::index_map
