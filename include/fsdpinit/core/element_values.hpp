#pragma once

#include <fsdpinit/core/dtype.hpp>
#include <fsdpinit/core/float_conversion.hpp>

#include <bit>
#include <cstdint>
#include <optional>

/// \file
/// Numbers as elements of any dtype. Pure.

namespace fsdpinit {

namespace detail {

/// An 8-bit format: a sign, then so many bits of exponent, the rest of mantissa.
struct f8_format {
  int exponent_bits;
  int bias;
  bool is_fnuz;       ///< no infinity, no negative zero: its pattern is the only NaN
  bool has_infinity;  ///< the largest exponent is infinity and NaNs; without it the largest pattern alone is a NaN
};

/// OCP's 8-bit formats (E5M2, E4M3), and those of Graphcore and AMD without negative zero.
[[nodiscard]] constexpr std::optional<f8_format> f8_format_of(dtype type) noexcept {
  switch (type) {
    case dtype::f8_e5m2:
      return f8_format{.exponent_bits = 5, .bias = 15, .is_fnuz = false, .has_infinity = true};
    case dtype::f8_e4m3:
      return f8_format{.exponent_bits = 4, .bias = 7, .is_fnuz = false, .has_infinity = false};
    case dtype::f8_e5m2fnuz:
      return f8_format{.exponent_bits = 5, .bias = 16, .is_fnuz = true, .has_infinity = false};
    case dtype::f8_e4m3fnuz:
      return f8_format{.exponent_bits = 4, .bias = 8, .is_fnuz = true, .has_infinity = false};
    default:
      return std::nullopt;
  }
}

[[nodiscard]] constexpr double power_of_two(int exponent) noexcept {
  return std::bit_cast<double>(static_cast<std::uint64_t>(exponent + 1023) << 52U);
}

/// What a pattern of the format stands for; nothing: no finite number.
[[nodiscard]] constexpr std::optional<double> f8_value(const f8_format& format, std::uint32_t bits) noexcept {
  const int mantissa_bits = 7 - format.exponent_bits;
  const auto exponent = static_cast<int>((bits & 0x7fU) >> static_cast<unsigned>(mantissa_bits));
  const auto mantissa = static_cast<int>(bits & ((1U << static_cast<unsigned>(mantissa_bits)) - 1U));
  const bool is_special = format.is_fnuz        ? bits == 0x80U
                          : format.has_infinity ? exponent == (1 << format.exponent_bits) - 1
                                                : (bits & 0x7fU) == 0x7fU;
  if (is_special) {
    return std::nullopt;
  }
  const int hidden = exponent == 0 ? 0 : 1 << mantissa_bits;
  const double size = (hidden + mantissa) * power_of_two((exponent == 0 ? 1 : exponent) - format.bias - mantissa_bits);
  return (bits & 0x80U) != 0 ? -size : size;
}

/// The pattern nearest to a number, of two that are as near the even one; nothing for what is nearer to what would follow the largest.
[[nodiscard]] constexpr std::optional<std::uint64_t> f8_element(const f8_format& format, double value) noexcept {
  const double size = value < 0 ? -value : value;
  std::uint32_t below = 0;  // patterns without sign are in the order of what they stand for
  while (below < 0x7fU && f8_value(format, below + 1).value_or(size + 1) <= size) {
    ++below;
  }
  const double least = f8_value(format, below).value();
  // Beyond the largest one the distance stays.
  const std::optional<double> next = f8_value(format, below + 1);
  const double gap = next ? *next - least : least - f8_value(format, below - 1).value();
  const double rest = size - least;
  const bool rounds_up = rest * 2 > gap || (rest * 2 == gap && below % 2 == 1);
  if (!(size < least + gap) || (rounds_up && !next)) {
    return std::nullopt;
  }
  const std::uint32_t nearest = below + (rounds_up ? 1U : 0U);
  return value < 0 && !(format.is_fnuz && nearest == 0) ? nearest | 0x80U : nearest;
}

[[nodiscard]] constexpr std::optional<std::uint64_t> integer_element(double value, std::uint64_t bits,
                                                                     bool is_signed) noexcept {
  const auto width = static_cast<int>(bits);
  const double least = is_signed ? -power_of_two(width - 1) : 0.0;
  const double beyond = power_of_two(is_signed ? width - 1 : width);
  if (!(value >= least && value < beyond)) {
    return std::nullopt;
  }
  const std::uint64_t element =
      value < 0 ? static_cast<std::uint64_t>(static_cast<std::int64_t>(value)) : static_cast<std::uint64_t>(value);
  const double back =
      value < 0 ? static_cast<double>(static_cast<std::int64_t>(element)) : static_cast<double>(element);
  return back == value ? std::optional(element) : std::nullopt;
}

}  // namespace detail

/// The bits of the number as an element of the type, in the lowest ones. F64, F32, F16, BF16 and F8 with a mantissa round, to nearest
/// even, the first four also to infinity; C64 takes it as the real part. The other types hold what they hold exactly: integers in range,
/// for BOOL 0 and 1, for F8_E8M0 powers of two; \return nothing for all else, what F8 cannot hold, and for types of less than a byte.
[[nodiscard]] constexpr std::optional<std::uint64_t> element_of(double value, dtype type) noexcept {
  const auto pattern = std::bit_cast<std::uint64_t>(value);
  switch (type) {
    case dtype::f64:
      return pattern;
    case dtype::f32:
    case dtype::c64:
      return f32_from_f64(pattern);
    case dtype::f16:
      return f16_from_f64(pattern);
    case dtype::bf16:
      return bf16_from_f64(pattern);
    case dtype::boolean:
      return value == 0 || value == 1 ? std::optional(static_cast<std::uint64_t>(value)) : std::nullopt;
    case dtype::u8:
    case dtype::u16:
    case dtype::u32:
    case dtype::u64:
      return detail::integer_element(value, bits(type), false);
    case dtype::i8:
    case dtype::i16:
    case dtype::i32:
    case dtype::i64:
      return detail::integer_element(value, bits(type), true);
    case dtype::f8_e8m0:  // powers of two alone, without sign
      for (int exponent = -127; exponent <= 127; ++exponent) {
        if (value == detail::power_of_two(exponent)) {
          return static_cast<std::uint64_t>(exponent + 127);
        }
      }
      return std::nullopt;
    default:
      break;
  }
  if (const std::optional<detail::f8_format> format = detail::f8_format_of(type)) {
    return detail::f8_element(*format, value);
  }
  return std::nullopt;
}

}  // namespace fsdpinit
