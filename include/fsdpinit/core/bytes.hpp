#pragma once

#include <fsdpinit/core/compiler.hpp>

#include <cstddef>
#include <cstdint>
#include <span>

/// \file
/// Byte counts and the small arithmetic on them. Every size in this library is in bytes and 64 bits wide.

namespace fsdpinit {

static_assert(sizeof(std::size_t) == 8, "fsdpinit: byte counts of models need a 64-bit platform");

using bytes_view = std::span<const std::byte>;
using mutable_bytes = std::span<std::byte>;

inline constexpr std::uint64_t kib = 1024;
inline constexpr std::uint64_t mib = 1024 * kib;
inline constexpr std::uint64_t gib = 1024 * mib;

/// ceil(value / divisor) without overflow. \pre divisor != 0.
[[nodiscard]] constexpr std::uint64_t ceil_div(std::uint64_t value, std::uint64_t divisor) noexcept {
  return value / divisor + (value % divisor != 0 ? 1 : 0);
}

/// The smallest multiple of `alignment` that is not below `value`. \pre alignment != 0 and the result fits.
[[nodiscard]] constexpr std::uint64_t align_up(std::uint64_t value, std::uint64_t alignment) noexcept {
  return ceil_div(value, alignment) * alignment;
}

/// The largest multiple of `alignment` that is not above `value`. \pre alignment != 0.
[[nodiscard]] constexpr std::uint64_t align_down(std::uint64_t value, std::uint64_t alignment) noexcept {
  return value / alignment * alignment;
}

/// The smaller of two byte counts; `<algorithm>` is more than this header should cost.
[[nodiscard]] constexpr std::uint64_t smaller(std::uint64_t a, std::uint64_t b) noexcept { return a < b ? a : b; }

/// `product = a * b`; false, with `product` unspecified, where that does not fit into 64 bits.
[[nodiscard]] constexpr bool checked_multiply(std::uint64_t a, std::uint64_t b, std::uint64_t& product) noexcept {
  return !__builtin_mul_overflow(a, b, &product);
}

/// `sum = a + b`; false, with `sum` unspecified, where that does not fit into 64 bits.
[[nodiscard]] constexpr bool checked_add(std::uint64_t a, std::uint64_t b, std::uint64_t& sum) noexcept {
  return !__builtin_add_overflow(a, b, &sum);
}

}  // namespace fsdpinit
