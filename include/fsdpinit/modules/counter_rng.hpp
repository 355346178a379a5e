#pragma once

#include <fsdpinit/core/compiler.hpp>

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <string_view>

/// \file
/// Random values without a state: element i of a tensor is a function of (seed, name, i) and of nothing else, so that it
/// does not matter which rank makes it, on what mesh, or in which order. Pure.

namespace fsdpinit {

/// Philox4x32-10: a block of 128 random bits for each counter and key.
///
/// J. Salmon, M. Moraes, R. Dror, D. Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011. Words in the order of
/// that paper; equal to Random123's published answers.
[[nodiscard]] constexpr std::array<std::uint32_t, 4> philox4x32(std::array<std::uint32_t, 4> counter,
                                                                std::array<std::uint32_t, 2> key) noexcept {
  constexpr int rounds = 10;
  for (int round = 0; round < rounds; ++round) {
    const std::uint64_t a = std::uint64_t{0xD2511F53} * counter[0];
    const std::uint64_t b = std::uint64_t{0xCD9E8D57} * counter[2];
    const auto high = [](std::uint64_t product) { return static_cast<std::uint32_t>(product >> 32U); };
    counter = {high(b) ^ counter[1] ^ key[0], static_cast<std::uint32_t>(b), high(a) ^ counter[3] ^ key[1],
               static_cast<std::uint32_t>(a)};
    key[0] += 0x9E3779B9;  // the golden ratio, and sqrt(3) - 1, as fractions of 2^32
    key[1] += 0xBB67AE85;
  }
  return counter;
}

namespace detail {

/// FNV-1a, and a finalizer that spreads names differing in their last byte alone.
[[nodiscard]] constexpr std::uint64_t hash_of_name(std::string_view name) noexcept {
  std::uint64_t hash = 0xcbf29ce484222325;
  for (const char c : name) {
    hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3;
  }
  hash = (hash ^ (hash >> 30U)) * 0xbf58476d1ce4e5b9;
  hash = (hash ^ (hash >> 27U)) * 0x94d049bb133111eb;
  return hash ^ (hash >> 31U);
}

/// Only operations that IEEE 754 rounds exactly: library functions differ in their last bits between versions and
/// processors, and so does `a * b + c` where a compiler may fuse it. Hence the builtin, which rounds once everywhere (in
/// hardware, or slowly), without what <cmath> costs.
[[nodiscard]] inline double fused(double a, double b, double c) noexcept { return __builtin_fma(a, b, c); }

template <std::size_t N>
[[nodiscard]] double polynomial(const std::array<double, N>& coefficients, double x) noexcept {
  double value = coefficients[0];
  for (std::size_t i = 1; i < N; ++i) {
    value = fused(value, x, coefficients[i]);
  }
  return value;
}

/// Natural logarithm of a positive normal number, to about 1e-14.
[[nodiscard]] inline double log_of(double x) noexcept {
  constexpr std::uint64_t sqrt_half = 0x3fe6'a09e'667f'3bcd;
  // x = 2^exponent * m, with m in [sqrt(1/2), sqrt(2)); log m = 2 artanh s with s = (m - 1) / (m + 1).
  const std::uint64_t above = std::bit_cast<std::uint64_t>(x) - sqrt_half;
  const std::int64_t exponent = static_cast<std::int64_t>(above) >> 52U;
  const double m = std::bit_cast<double>((above & 0x000f'ffff'ffff'ffff) + sqrt_half);
  const double s = (m - 1) / (m + 1);
  const double series =
      polynomial<9>({1.0 / 17, 1.0 / 15, 1.0 / 13, 1.0 / 11, 1.0 / 9, 1.0 / 7, 1.0 / 5, 1.0 / 3, 1.0}, s * s);
  constexpr double log_2 = 0.693147180559945309417;
  return fused(static_cast<double>(exponent), log_2, 2 * s * series);
}

/// The x below which a normal variable lies with probability `p`, 0 < p < 1: P. J. Acklam's rational approximations
/// (2003), relative error below 1.2e-9, a fiftieth of what a float can show.
[[nodiscard]] inline double normal_quantile(double p) noexcept {
  constexpr double tail = 0.02425;
  if (p > 0.5) {
    return -normal_quantile(1 - p);  // exact where p has 53 bits behind the point
  }
  if (p < tail) {
    const double q = __builtin_sqrt(-2 * log_of(p));
    return polynomial<6>({-7.784894002430293e-03, -3.223964580411365e-01, -2.400758277161838e+00,
                          -2.549732539343734e+00, 4.374664141464968e+00, 2.938163982698783e+00},
                         q) /
           polynomial<5>(
               {7.784695709041462e-03, 3.224671290700398e-01, 2.445134137142996e+00, 3.754408661907416e+00, 1.0}, q);
  }
  const double q = p - 0.5;
  const double r = q * q;
  return q *
         polynomial<6>({-3.969683028665376e+01, 2.209460984245205e+02, -2.759285104469687e+02, 1.383577518672690e+02,
                        -3.066479806614716e+01, 2.506628277459239e+00},
                       r) /
         polynomial<6>({-5.447609879822406e+01, 1.615858368580409e+02, -1.556989798598866e+02, 6.680131188771972e+01,
                        -1.328068155288572e+01, 1.0},
                       r);
}

}  // namespace detail

/// The random values of one tensor: `normal(i)` is element i's, whoever asks. Two numbers; copy it freely.
///
/// The same on every machine, compiler and optimisation level that keeps to IEEE 754 (-ffast-math does not): only exactly
/// rounded operations are used. Cost: one Philox block for each value; some 40 ns for a uniform one, 130 for a normal one
/// where the compiler may not assume fused multiply-add, half of that where it may, and far more on a processor without.
class counter_rng {
 public:
  constexpr counter_rng(std::uint64_t seed, std::string_view fqn) noexcept
      : seed_(seed), name_(detail::hash_of_name(fqn)) {}

  /// 128 random bits for element `index`. Key: the seed; counter: the index, then the name.
  [[nodiscard]] constexpr std::array<std::uint32_t, 4> words(std::uint64_t index) const noexcept {
    return philox4x32({low(index), high(index), low(name_), high(name_)}, {low(seed_), high(seed_)});
  }
  /// 52 of them as a number in the open interval (0, 1): the middle of one of 2^52 equal parts.
  [[nodiscard]] double fraction(std::uint64_t index) const noexcept {
    const std::array<std::uint32_t, 4> random = words(index);
    const std::uint64_t part = (std::uint64_t{random[1]} << 20U) | (random[0] >> 12U);
    return static_cast<double>(2 * part + 1) * 0x1p-53;
  }

  /// Uniform between `from` and `to`, which it reaches by rounding only.
  [[nodiscard]] float uniform(std::uint64_t index, double from = 0, double to = 1) const noexcept {
    return static_cast<float>(detail::fused(to - from, fraction(index), from));
  }
  /// Normal, as far out as 8.1 standard deviations.
  [[nodiscard]] float normal(std::uint64_t index, double mean = 0, double deviation = 1) const noexcept {
    return static_cast<float>(detail::fused(deviation, detail::normal_quantile(fraction(index)), mean));
  }

 private:
  static constexpr std::uint32_t low(std::uint64_t value) noexcept { return static_cast<std::uint32_t>(value); }
  static constexpr std::uint32_t high(std::uint64_t value) noexcept { return static_cast<std::uint32_t>(value >> 32U); }

  std::uint64_t seed_;
  std::uint64_t name_;
};

}  // namespace fsdpinit
