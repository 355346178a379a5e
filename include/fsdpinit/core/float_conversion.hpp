#pragma once

#include <fsdpinit/core/dtype.hpp>

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>

/// \file
/// Conversions between f32, f16 and bf16, on bit patterns: round to nearest, ties to even, as IEEE 754 says. Subnormals
/// are exact (and rounded to exactly, in narrowing), what is too large becomes infinity, and a NaN stays a NaN: quiet,
/// with its sign and the top bits of its payload. The same bits on every machine, in the default rounding mode; what
/// the processor does with subnormals of f32 (flush them or not) makes no difference.

namespace fsdpinit {

/// Whether `convert_floats` knows the type: f32, f16, bf16.
[[nodiscard]] constexpr bool is_convertible_float(dtype type) noexcept {
  return type == dtype::f32 || type == dtype::f16 || type == dtype::bf16;
}

namespace detail {

inline constexpr std::uint32_t f32_sign = 0x80000000U;
inline constexpr std::uint32_t f32_quiet = 0x00400000U;
inline constexpr std::int32_t f32_infinity = 0x7f800000;

/// Without its sign a pattern is not negative, and comparing signed numbers is what vector units do best.
[[nodiscard]] constexpr std::int32_t f32_magnitude(std::uint32_t bits) noexcept {
  return static_cast<std::int32_t>(bits & ~f32_sign);
}

/// `condition ? yes : no`, without a branch: compilers make one of `?:` where an arm computes with floating point, and
/// then no vector code.
[[nodiscard]] constexpr std::uint32_t chosen(bool condition, std::uint32_t yes, std::uint32_t no) noexcept {
  const std::uint32_t mask = 0U - static_cast<std::uint32_t>(condition);
  return (yes & mask) | (no & ~mask);
}

}  // namespace detail

/// Exact.
[[nodiscard]] constexpr std::uint32_t f32_from_bf16(std::uint16_t bits) noexcept {
  const std::uint32_t wide = std::uint32_t{bits} << 16U;
  return wide | detail::chosen(detail::f32_magnitude(wide) > detail::f32_infinity, detail::f32_quiet, 0U);
}

/// Exact.
[[nodiscard]] constexpr std::uint32_t f32_from_f16(std::uint16_t bits) noexcept {
  const std::uint32_t sign = (std::uint32_t{bits} & 0x8000U) << 16U;
  const std::int32_t magnitude = bits & 0x7fff;
  // Exponents are biased by 15 here and by 127 there: 112 more. Infinity and NaN have 31 here, 255 there: twice that.
  const std::uint32_t shifted = (static_cast<std::uint32_t>(magnitude) << 13U) + (112U << 23U);
  const std::uint32_t special = detail::chosen(magnitude >= 0x7c00, 112U << 23U, 0U);
  const std::uint32_t quiet = detail::chosen(magnitude > 0x7c00, detail::f32_quiet, 0U);
  // A subnormal is a count of 2^-24.
  const auto subnormal = std::bit_cast<std::uint32_t>(static_cast<float>(magnitude) * 0x1p-24F);
  return sign | quiet | detail::chosen(magnitude < 0x0400, subnormal, shifted + special);
}

[[nodiscard]] constexpr std::uint16_t bf16_from_f32(std::uint32_t bits) noexcept {
  const std::uint32_t odd = (bits >> 16U) & 1U;
  const std::uint32_t rounded =
      (bits + 0x7fffU + odd) >> 16U;  // a carry into the exponent is right, also into infinity
  const std::uint32_t nan = (bits >> 16U) | 0x0040U;
  return static_cast<std::uint16_t>(detail::chosen(detail::f32_magnitude(bits) > detail::f32_infinity, nan, rounded));
}

[[nodiscard]] constexpr std::uint16_t f16_from_f32(std::uint32_t bits) noexcept {
  constexpr std::uint32_t exponent_field = 0x7f800000U;
  constexpr std::uint32_t smallest_normal = 113U << 23U;  // 2^-14
  constexpr std::uint32_t too_large = 143U << 23U;        // 2^16, which comes out as infinity
  const std::int32_t magnitude = detail::f32_magnitude(bits);
  const auto pattern = static_cast<std::uint32_t>(magnitude);
  const bool is_normal = magnitude >= static_cast<std::int32_t>(smallest_normal);
  const std::uint32_t finite = detail::chosen(magnitude < static_cast<std::int32_t>(too_large), pattern, too_large);
  const std::uint32_t unit = detail::chosen(is_normal, finite & exponent_field, smallest_normal);
  // 2^13 times the number's power of two: the last place of the sum is the last place of the f16, and the processor
  // rounds to it. What the sum has more than the addend counts those places, the leading one of a normal included.
  const std::uint32_t addend = unit + (13U << 23U);
  const auto sum = std::bit_cast<std::uint32_t>(std::bit_cast<float>(finite) + std::bit_cast<float>(addend));
  const std::uint32_t rounded = (sum - addend) + ((unit - smallest_normal) >> 13U);
  const std::uint32_t nan = 0x7e00U | ((pattern >> 13U) & 0x03ffU);
  return static_cast<std::uint16_t>(((bits >> 16U) & 0x8000U) |
                                    detail::chosen(magnitude > detail::f32_infinity, nan, rounded));
}

namespace detail {

/// Blocks of a constant size: compilers turn the loop over one into vector code already at -O2. A block is converted
/// into an array of its own, then written, so that source and destination may overlap as `convert_floats` says.
template <class From, class To, class One>
[[gnu::always_inline]] inline void convert_blocks(const std::byte* source, std::byte* destination, std::uint64_t count,
                                                  One one) noexcept {
  constexpr std::size_t block = 128 / sizeof(To);
  std::array<To, block> out;  // NOLINT(*-member-init): written before it is read
  const auto convert = [&](std::size_t i) {
    From in;  // NOLINT(*-init-variables)
    std::memcpy(&in, source + i * sizeof in, sizeof in);
    out[i] = one(in);
  };
  for (; count >= block; count -= block) {
    for (std::size_t i = 0; i < block; ++i) {
      convert(i);
    }
    std::memcpy(destination, out.data(), sizeof out);
    source += block * sizeof(From);
    destination += sizeof out;
  }
  for (std::size_t i = 0; i < count; ++i) {
    convert(i);
  }
  std::memcpy(destination, out.data(), count * sizeof(To));
}

#if defined(__x86_64__)
template <class From, class To, class One>
[[gnu::target("avx2")]] void convert_blocks_avx2(const std::byte* source, std::byte* destination, std::uint64_t count,
                                                 One one) noexcept {
  convert_blocks<From, To>(source, destination, count, one);
}
#endif

template <class From, class To, class One>
void convert_each(const std::byte* source, std::byte* destination, std::uint64_t count, One one) noexcept {
#if defined(__x86_64__)
  // Programs are built for any x86-64; most processors take twice as many elements at once. The bits are the same.
  if (__builtin_cpu_supports("avx2") != 0) {
    convert_blocks_avx2<From, To>(source, destination, count, one);
    return;
  }
#endif
  convert_blocks<From, To>(source, destination, count, one);
}

}  // namespace detail

/// Converts `count` elements, from bytes at `source` to bytes at `destination`, neither of which need be aligned.
/// Between f16 and bf16 it goes through f32; between equal types it copies.
///
/// Source and destination may overlap where elements, taken from the front, are not overwritten before they are read:
/// to a type that is no wider with `destination` not behind `source`, to a wider one where the source does not end
/// before the destination ends. So a conversion in place reads from the same address, or, widening, from the last
/// `count` * (source width) bytes of the destination.
///
/// \pre both are convertible floats; the two ranges exist.
inline void convert_floats(dtype from, const std::byte* source, dtype to, std::byte* destination,
                           std::uint64_t count) noexcept {
  using u16 = std::uint16_t;
  using u32 = std::uint32_t;
  if (count == 0) {
    return;
  }
  if (from == to) {
    std::memmove(destination, source, count * (bits(from) / 8));
  } else if (from == dtype::f32 && to == dtype::f16) {
    detail::convert_each<u32, u16>(source, destination, count, [](u32 one) { return f16_from_f32(one); });
  } else if (from == dtype::f32) {
    detail::convert_each<u32, u16>(source, destination, count, [](u32 one) { return bf16_from_f32(one); });
  } else if (from == dtype::f16 && to == dtype::f32) {
    detail::convert_each<u16, u32>(source, destination, count, [](u16 one) { return f32_from_f16(one); });
  } else if (from == dtype::f16) {
    detail::convert_each<u16, u16>(source, destination, count,
                                   [](u16 one) { return bf16_from_f32(f32_from_f16(one)); });
  } else if (to == dtype::f32) {
    detail::convert_each<u16, u32>(source, destination, count, [](u16 one) { return f32_from_bf16(one); });
  } else {
    detail::convert_each<u16, u16>(source, destination, count,
                                   [](u16 one) { return f16_from_f32(f32_from_bf16(one)); });
  }
}

}  // namespace fsdpinit
