#pragma once

#include <fsdpinit/core/dtype.hpp>

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

/// \file
/// Conversions between f32, f16 and bf16, and from f64 to these, on bit patterns: round to nearest, ties to even, once, as IEEE
/// 754 says. Subnormals are exact (and rounded to exactly, in narrowing), what is too large becomes infinity, and a NaN stays a
/// NaN: quiet, with its sign and the top bits of its payload. The same bits on every machine, in the default rounding mode; what
/// the processor does with subnormals (flush them or not) makes no difference.

namespace fsdpinit {

/// Whether `convert_floats` makes elements of the type: f32, f16, bf16.
[[nodiscard]] constexpr bool is_convertible_float(dtype type) noexcept {
  return type == dtype::f32 || type == dtype::f16 || type == dtype::bf16;
}

/// Whether `convert_floats` makes elements of `to` out of those of `from`: f32, f16 or bf16 out of one of these or of f64.
[[nodiscard]] constexpr bool is_convertible(dtype from, dtype to) noexcept {
  return is_convertible_float(to) && (is_convertible_float(from) || from == dtype::f64);
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
template <class Bits>
[[nodiscard]] constexpr Bits chosen(bool condition, Bits yes, Bits no) noexcept {
  const Bits mask = Bits{0} - static_cast<Bits>(condition);
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

/// From f64 to a format of so many bits of exponent and of mantissa. By the sum that `f16_from_f32` makes.
template <unsigned ExponentBits, unsigned MantissaBits>
[[nodiscard]] constexpr std::uint64_t narrow_f64(std::uint64_t bits) noexcept {
  constexpr std::uint64_t sign = std::uint64_t{1} << 63U;
  constexpr std::uint64_t infinity = std::uint64_t{0x7ff} << 52U;
  constexpr std::uint64_t bias = (std::uint64_t{1} << (ExponentBits - 1U)) - 1;
  constexpr std::uint64_t smallest_normal = (1023 + 1 - bias) << 52U;
  constexpr std::uint64_t too_large = (1023 + 1 + bias) << 52U;  // which comes out as infinity
  constexpr unsigned lost = 52U - MantissaBits;
  constexpr std::uint64_t exponent_field = ((std::uint64_t{1} << ExponentBits) - 1) << MantissaBits;
  const std::uint64_t pattern = bits & ~sign;
  const auto magnitude = static_cast<std::int64_t>(pattern);
  const bool is_normal = magnitude >= static_cast<std::int64_t>(smallest_normal);
  const std::uint64_t finite = chosen(magnitude < static_cast<std::int64_t>(too_large), pattern, too_large);
  const std::uint64_t unit = chosen(is_normal, finite & infinity, smallest_normal);
  const std::uint64_t addend = unit + (std::uint64_t{lost} << 52U);
  const auto sum = std::bit_cast<std::uint64_t>(std::bit_cast<double>(finite) + std::bit_cast<double>(addend));
  const std::uint64_t rounded = (sum - addend) + ((unit - smallest_normal) >> lost);
  const std::uint64_t payload = (std::uint64_t{1} << MantissaBits) - 1;
  const std::uint64_t nan = exponent_field | (std::uint64_t{1} << (MantissaBits - 1U)) | ((pattern >> lost) & payload);
  return ((bits & sign) >> (63U - ExponentBits - MantissaBits)) |
         chosen(magnitude > static_cast<std::int64_t>(infinity), nan, rounded);
}

}  // namespace detail

[[nodiscard]] constexpr std::uint32_t f32_from_f64(std::uint64_t bits) noexcept {
  return static_cast<std::uint32_t>(detail::narrow_f64<8, 23>(bits));
}
[[nodiscard]] constexpr std::uint16_t f16_from_f64(std::uint64_t bits) noexcept {
  return static_cast<std::uint16_t>(detail::narrow_f64<5, 10>(bits));
}
[[nodiscard]] constexpr std::uint16_t bf16_from_f64(std::uint64_t bits) noexcept {
  return static_cast<std::uint16_t>(detail::narrow_f64<8, 7>(bits));
}

namespace detail {

/// A conversion that makes nothing infinite.
struct without_overflow {};

/// A conversion in which finite numbers become infinite: those of a magnitude from `first` on. Patterns without sign.
template <class From, class To>
struct with_overflow {
  std::make_signed_t<From> first;
  std::make_signed_t<From> infinity;
  std::make_signed_t<To> narrow_infinity;

  [[nodiscard]] bool operator()(From in) const noexcept {
    const auto size = magnitude(in);
    return size >= first && size < infinity;
  }
  template <class Bits>
  [[nodiscard]] static std::make_signed_t<Bits> magnitude(Bits bits) noexcept {
    return static_cast<std::make_signed_t<Bits>>(bits & (static_cast<Bits>(~Bits{0}) >> 1U));
  }
};

/// Blocks of a constant size: compilers turn the loop over one into vector code already at -O2. A block is converted
/// into an array of its own, then written, so that source and destination may overlap as `convert_floats` says. What has become
/// infinite is counted in those blocks alone that have an infinity or a NaN when they are converted.
template <class From, class To, class One, class Overflow>
[[gnu::always_inline]] inline std::uint64_t convert_blocks(const std::byte* source, std::byte* destination,
                                                           std::uint64_t count, One one,
                                                           [[maybe_unused]] Overflow overflow) noexcept {
  constexpr std::size_t block = 128 / sizeof(To);
  constexpr bool counts = !std::is_same_v<Overflow, without_overflow>;
  std::array<To, block> out;  // NOLINT(*-member-init): written before it is read
  const auto element = [&](std::size_t i) {
    From in;  // NOLINT(*-init-variables)
    std::memcpy(&in, source + i * sizeof in, sizeof in);
    return in;
  };
  const auto convert = [&](std::size_t elements) -> std::uint64_t {
    [[maybe_unused]] std::make_signed_t<To> most = 0;
    for (std::size_t i = 0; i < elements; ++i) {
      out[i] = one(element(i));
      if constexpr (counts) {
        const auto size = Overflow::magnitude(out[i]);
        most = size > most ? size : most;
      }
    }
    std::uint64_t infinite = 0;
    if constexpr (counts) {
      for (std::size_t i = 0; most >= overflow.narrow_infinity && i < elements; ++i) {
        infinite += overflow(element(i)) ? 1U : 0U;
      }
    }
    return infinite;
  };
  std::uint64_t infinite = 0;
  for (; count >= block; count -= block) {
    infinite += convert(block);
    std::memcpy(destination, out.data(), sizeof out);
    source += block * sizeof(From);
    destination += sizeof out;
  }
  infinite += convert(count);
  std::memcpy(destination, out.data(), count * sizeof(To));
  return infinite;
}

#if defined(__x86_64__)
template <class From, class To, class One, class Overflow>
[[gnu::target("avx2")]] std::uint64_t convert_blocks_avx2(const std::byte* source, std::byte* destination,
                                                          std::uint64_t count, One one, Overflow overflow) noexcept {
  return convert_blocks<From, To>(source, destination, count, one, overflow);
}
#endif

template <class From, class To, class One, class Overflow = without_overflow>
std::uint64_t convert_each(const std::byte* source, std::byte* destination, std::uint64_t count, One one,
                           Overflow overflow = {}) noexcept {
#if defined(__x86_64__)
  // Programs are built for any x86-64; most processors take twice as many elements at once. The bits are the same.
  if (__builtin_cpu_supports("avx2") != 0) {
    return convert_blocks_avx2<From, To>(source, destination, count, one, overflow);
  }
#endif
  return convert_blocks<From, To>(source, destination, count, one, overflow);
}

/// Numbers of this size and beyond are rounded to infinity: half a step above the largest finite one.
inline constexpr double f16_overflow = 65520;
inline constexpr double bf16_overflow = 0x1.ffp127;
inline constexpr double f32_overflow = 0x1.ffffffp127;

template <class To>
[[nodiscard]] constexpr with_overflow<std::uint64_t, To> f64_overflow(double first, std::make_signed_t<To> infinity) {
  return {std::bit_cast<std::int64_t>(first), std::int64_t{0x7ff} << 52U, infinity};
}
[[nodiscard]] constexpr with_overflow<std::uint32_t, std::uint16_t> f32_overflow_of(double first,
                                                                                    std::int16_t infinity) {
  return {std::bit_cast<std::int32_t>(static_cast<float>(first)), f32_infinity, infinity};  // f32 holds it
}
inline constexpr std::int16_t f16_infinity = 0x7c00;
inline constexpr std::int16_t bf16_infinity = 0x7f80;

/// Of bf16, whose steps are wide: 65536 is the first.
inline constexpr with_overflow<std::uint16_t, std::uint16_t> bf16_to_f16_overflow{0x4780, bf16_infinity, f16_infinity};

}  // namespace detail

/// Converts `count` elements, from bytes at `source` to bytes at `destination`, neither of which need be aligned.
/// Between f16 and bf16 it goes through f32; between equal types it copies.
///
/// Source and destination may overlap where elements, taken from the front, are not overwritten before they are read:
/// to a type that is no wider with `destination` not behind `source`, to a wider one where the source does not end
/// before the destination ends. So a conversion in place reads from the same address, or, widening, from the last
/// `count` * (source width) bytes of the destination.
///
/// \return how many elements were finite and have become infinite; what widens makes none.
/// \pre is_convertible(from, to), or they are equal; the two ranges exist.
inline std::uint64_t convert_floats(dtype from, const std::byte* source, dtype to, std::byte* destination,
                                    std::uint64_t count) noexcept {
  using detail::convert_each, detail::f64_overflow, detail::f32_overflow_of;
  using u16 = std::uint16_t;
  using u32 = std::uint32_t;
  using u64 = std::uint64_t;
  if (count == 0) {
    return 0;
  }
  if (from == to) {
    std::memmove(destination, source, count * (bits(from) / 8));
    return 0;
  }
  if (from == dtype::f64 && to == dtype::f32) {
    return convert_each<u64, u32>(
        source, destination, count, [](u64 one) { return f32_from_f64(one); },
        f64_overflow<u32>(detail::f32_overflow, detail::f32_infinity));
  }
  if (from == dtype::f64 && to == dtype::f16) {
    return convert_each<u64, u16>(
        source, destination, count, [](u64 one) { return f16_from_f64(one); },
        f64_overflow<u16>(detail::f16_overflow, detail::f16_infinity));
  }
  if (from == dtype::f64) {
    return convert_each<u64, u16>(
        source, destination, count, [](u64 one) { return bf16_from_f64(one); },
        f64_overflow<u16>(detail::bf16_overflow, detail::bf16_infinity));
  }
  if (from == dtype::f32 && to == dtype::f16) {
    return convert_each<u32, u16>(
        source, destination, count, [](u32 one) { return f16_from_f32(one); },
        f32_overflow_of(detail::f16_overflow, detail::f16_infinity));
  }
  if (from == dtype::f32) {
    return convert_each<u32, u16>(
        source, destination, count, [](u32 one) { return bf16_from_f32(one); },
        f32_overflow_of(detail::bf16_overflow, detail::bf16_infinity));
  }
  if (from == dtype::bf16 && to == dtype::f16) {
    return convert_each<u16, u16>(
        source, destination, count, [](u16 one) { return f16_from_f32(f32_from_bf16(one)); },
        detail::bf16_to_f16_overflow);
  }
  if (from == dtype::f16 && to == dtype::f32) {
    return convert_each<u16, u32>(source, destination, count, [](u16 one) { return f32_from_f16(one); });
  }
  if (from == dtype::f16) {
    return convert_each<u16, u16>(source, destination, count, [](u16 one) { return bf16_from_f32(f32_from_f16(one)); });
  }
  return convert_each<u16, u32>(source, destination, count, [](u16 one) { return f32_from_bf16(one); });
}

}  // namespace fsdpinit
