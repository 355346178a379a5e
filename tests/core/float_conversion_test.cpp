#include "support/test_seed.hpp"
#include <fsdpinit/core/float_conversion.hpp>
#include <fsdpinit/core/text.hpp>

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <limits>
#include <random>
#include <span>
#include <string>
#include <vector>

/// Against a reference that goes by the definition of the formats: what a pattern means is worked out as a double, which
/// holds every value and every midpoint of theirs exactly; the nearest one is searched for.

namespace float_conversion_test {
namespace {

using namespace fsdpinit;

struct narrow_format {
  const char* called;
  int exponent_bits;
  int mantissa_bits;
  dtype type;
  std::uint16_t (*narrow)(std::uint32_t);
  std::uint32_t (*widen)(std::uint16_t);
  std::uint16_t (*narrow_f64)(std::uint64_t);

  [[nodiscard]] int bias() const { return (1 << (exponent_bits - 1)) - 1; }
  [[nodiscard]] std::uint32_t infinity() const { return ((1U << exponent_bits) - 1U) << mantissa_bits; }
  [[nodiscard]] std::uint32_t quiet() const { return 1U << (mantissa_bits - 1); }

  /// What a pattern without its sign stands for; of infinity, the number that would follow the largest finite one.
  [[nodiscard]] double value(std::uint32_t magnitude) const {
    const int exponent = static_cast<int>(magnitude >> mantissa_bits);
    const int mantissa = static_cast<int>(magnitude & ((1U << mantissa_bits) - 1U));
    const int hidden = exponent == 0 ? 0 : 1 << mantissa_bits;
    return std::ldexp(hidden + mantissa, std::max(exponent, 1) - bias() - mantissa_bits);
  }
};

const narrow_format f16{"f16", 5, 10, dtype::f16, f16_from_f32, f32_from_f16, f16_from_f64};
const narrow_format bf16{"bf16", 8, 7, dtype::bf16, bf16_from_f32, f32_from_bf16, bf16_from_f64};

/// Between f32 and a narrow format, by the definitions.
class reference {
 public:
  explicit reference(const narrow_format& format) : format_(format) {
    for (std::uint32_t magnitude = 0; magnitude <= format.infinity(); ++magnitude) {
      values_.push_back(format.value(magnitude));
    }
  }

  [[nodiscard]] std::uint16_t narrow(std::uint32_t bits) const {
    const auto wide = std::bit_cast<float>(bits);
    const std::uint32_t sign = std::signbit(wide) ? 0x8000U : 0U;
    if (std::isnan(wide)) {
      const std::uint32_t payload = (bits & 0x7fffffU) >> static_cast<unsigned>(23 - format_.mantissa_bits);
      return static_cast<std::uint16_t>(sign | format_.infinity() | format_.quiet() | payload);
    }
    return static_cast<std::uint16_t>(sign | nearest(std::fabs(static_cast<double>(wide))));
  }

  [[nodiscard]] std::uint16_t narrow_f64(std::uint64_t bits) const {
    const auto wide = std::bit_cast<double>(bits);
    const std::uint32_t sign = std::signbit(wide) ? 0x8000U : 0U;
    if (std::isnan(wide)) {
      const std::uint64_t payload = (bits & 0xfffffffffffffU) >> static_cast<unsigned>(52 - format_.mantissa_bits);
      return static_cast<std::uint16_t>(sign | format_.infinity() | format_.quiet() | payload);
    }
    return static_cast<std::uint16_t>(sign | nearest(std::fabs(wide)));
  }

  /// The pattern nearest to a number that is not negative.
  [[nodiscard]] std::uint32_t nearest(double value) const {
    // The first that is not below it, and the one before.
    auto above = static_cast<std::size_t>(std::lower_bound(values_.begin(), values_.end(), value) - values_.begin());
    above = std::min(above, values_.size() - 1);
    if (value < values_[above]) {
      const double middle = (values_[above - 1] + values_[above]) / 2;
      if (value < middle || (value == middle && above % 2 == 1)) {
        --above;
      }
    }
    return static_cast<std::uint32_t>(above);
  }

  [[nodiscard]] std::uint32_t widen(std::uint16_t bits) const {
    const std::uint32_t sign = (bits & 0x8000U) << 16U;
    const std::uint32_t magnitude = bits & 0x7fffU;
    if (magnitude > format_.infinity()) {
      const std::uint32_t payload = magnitude - format_.infinity();
      return sign | 0x7fc00000U | payload << static_cast<unsigned>(23 - format_.mantissa_bits);
    }
    if (magnitude == format_.infinity()) {
      return sign | 0x7f800000U;
    }
    const auto value = static_cast<float>(values_[magnitude]);  // exact: f32 holds all of them
    return sign | std::bit_cast<std::uint32_t>(value);
  }

  [[nodiscard]] const std::vector<double>& values() const { return values_; }

 private:
  const narrow_format& format_;
  std::vector<double> values_;
};

class float_conversion : public ::testing::TestWithParam<const narrow_format*> {
 protected:
  [[nodiscard]] const narrow_format& format() const { return *GetParam(); }

  void expect_narrowed(const reference& wanted, std::uint32_t bits) const {
    if (format().narrow(bits) != wanted.narrow(bits)) {  // a macro for each of millions takes long
      ADD_FAILURE() << std::hex << bits << " becomes " << format().narrow(bits) << ", not " << wanted.narrow(bits);
    }
  }
};

INSTANTIATE_TEST_SUITE_P(of, float_conversion, ::testing::Values(&f16, &bf16),
                         [](const auto& row) { return std::string(row.param->called); });

TEST_P(float_conversion, widening_is_exact_for_every_pattern) {
  const reference wanted(format());
  for (std::uint32_t bits = 0; bits <= 0xffffU; ++bits) {
    const auto narrow = static_cast<std::uint16_t>(bits);
    ASSERT_EQ(format().widen(narrow), wanted.widen(narrow)) << std::hex << bits;
  }
}

TEST_P(float_conversion, narrowing_is_right_at_every_boundary) {
  const reference wanted(format());
  for (std::size_t i = 0; i + 1 < wanted.values().size(); ++i) {
    // Each value, and the midpoint to the next: where rounding changes sides, and where a tie is.
    for (const double edge : {wanted.values()[i], (wanted.values()[i] + wanted.values()[i + 1]) / 2}) {
      const auto center = std::bit_cast<std::uint32_t>(static_cast<float>(edge));
      for (const std::uint32_t sign : {0U, 0x80000000U}) {
        for (const std::uint32_t near : {center - 1, center, center + 1}) {
          if (near < 0x80000000U) {
            expect_narrowed(wanted, sign | near);
          }
        }
      }
    }
  }
}

TEST_P(float_conversion, narrowing_is_right_for_random_patterns) {
  const std::uint64_t seed = testing_support::test_seed();
  SCOPED_TRACE(concat("FSDPINIT_TEST_SEED=", seed));
  std::mt19937_64 random(seed);
  const reference wanted(format());
  const auto is_in_range = [&](std::uint32_t bits) {
    const double size = std::fabs(static_cast<double>(std::bit_cast<float>(bits)));
    return size >= wanted.values()[1] / 4 && size <= 2 * wanted.values().back();
  };
  for (int i = 0; i < 300'000; ++i) {
    const auto bits = static_cast<std::uint32_t>(random());
    expect_narrowed(wanted, bits);
    expect_narrowed(wanted, bits | 0x7f800000U);  // NaN, and now and then infinity
    expect_narrowed(wanted, bits & 0x807fffffU);  // subnormal
    // Where f32 and the format overlap; half of all ties or so, by clearing what is below them.
    if (is_in_range(bits)) {
      expect_narrowed(wanted, bits & (~0U << (random() % 24)));
    }
  }
}

TEST_P(float_conversion, narrowing_f64_rounds_once) {
  const std::uint64_t seed = testing_support::test_seed();
  SCOPED_TRACE(concat("FSDPINIT_TEST_SEED=", seed));
  std::mt19937_64 random(seed);
  const reference wanted(format());
  const auto expect_narrowed = [&](std::uint64_t bits) {
    if (format().narrow_f64(bits) != wanted.narrow_f64(bits)) {
      ADD_FAILURE() << std::hex << bits << " becomes " << format().narrow_f64(bits) << ", not "
                    << wanted.narrow_f64(bits);
    }
  };
  for (std::size_t i = 0; i + 1 < wanted.values().size(); ++i) {
    // Beside a midpoint by less than f32 can tell: rounded to f32 first, it would be a tie.
    for (const double edge : {wanted.values()[i], (wanted.values()[i] + wanted.values()[i + 1]) / 2}) {
      const auto center = std::bit_cast<std::uint64_t>(edge);
      for (const std::uint64_t sign : {std::uint64_t{0}, std::uint64_t{1} << 63U}) {
        for (const std::uint64_t near : {center - 1, center, center + 1}) {
          if (near >> 63U == 0) {
            expect_narrowed(sign | near);
          }
        }
      }
    }
  }
  for (int i = 0; i < 100'000; ++i) {
    const std::uint64_t bits = random();
    expect_narrowed(bits);
    expect_narrowed(bits | 0x7ff0000000000000U);  // NaN
    expect_narrowed(bits & 0x800fffffffffffffU);  // subnormal
    const double size = std::ldexp(wanted.values().back(), -static_cast<int>(random() % 300));
    const double value = std::ldexp(static_cast<double>(bits >> 11U), -53) * size;  // of the format's range
    expect_narrowed(std::bit_cast<std::uint64_t>(value) & (~std::uint64_t{0} << (random() % 50)));
  }
  expect_narrowed(0x7ff0000000000000U);
  expect_narrowed(0xfff0000000000000U);
  EXPECT_EQ(format().narrow_f64(0xfff0000000000001U), format().infinity() | format().quiet() | 0x8000U);
}

/// Finite numbers on both sides of the largest one, infinities and NaNs, in places that blocks do and do not cover.
TEST_P(float_conversion, what_becomes_infinite_is_counted) {
  const double first = (format().value(format().infinity() - 1) + format().value(format().infinity())) / 2;
  const auto beyond = static_cast<float>(first);
  const float within = std::nextafter(beyond, 0.0F);
  const float infinity = std::numeric_limits<float>::infinity();
  std::mt19937 random(3);
  for (const std::size_t count : {0U, 1U, 63U, 64U, 65U, 1000U}) {
    std::vector<float> wide(count, 1.0F);
    std::uint64_t expected = 0;
    for (float& value : wide) {
      const float all[] = {1.0F, beyond, -beyond, within, -within, infinity, -infinity, std::nanf("")};
      value = all[random() % std::size(all)];
      expected += std::fabs(value) == beyond ? 1U : 0U;
    }
    std::vector<double> widest(wide.begin(), wide.end());
    std::vector<std::byte> out(2 * count);
    const auto bytes_of = [](const auto& values) { return std::as_bytes(std::span(values)).data(); };
    EXPECT_EQ(convert_floats(dtype::f32, bytes_of(wide), format().type, out.data(), count), expected) << count;
    EXPECT_EQ(convert_floats(dtype::f64, bytes_of(widest), format().type, out.data(), count), expected) << count;
    std::vector<std::byte> in_place(bytes_of(wide), bytes_of(wide) + 4 * count);
    EXPECT_EQ(convert_floats(dtype::f32, in_place.data(), format().type, in_place.data(), count), expected);
    std::vector<std::byte> again(4 * count);
    EXPECT_EQ(convert_floats(format().type, out.data(), dtype::f32, again.data(), count), 0U) << "widening";
  }
}

TEST_P(float_conversion, what_is_too_large_becomes_infinity) {
  const auto infinity = static_cast<std::uint16_t>(format().infinity());
  const auto pattern = [](double value) { return std::bit_cast<std::uint32_t>(static_cast<float>(value)); };
  const double largest = format().value(format().infinity() - 1U);
  const double beyond = format().value(format().infinity());
  EXPECT_EQ(format().narrow(pattern(largest)), infinity - 1);
  const std::uint32_t middle = pattern((largest + beyond) / 2);
  EXPECT_EQ(format().narrow(middle), infinity);
  EXPECT_EQ(format().narrow(middle - 1), infinity - 1);
  EXPECT_EQ(format().narrow(pattern(std::numeric_limits<float>::max())), infinity);
  EXPECT_EQ(format().narrow(pattern(-std::numeric_limits<float>::infinity())), infinity | 0x8000);
}

TEST_P(float_conversion, a_nan_never_becomes_infinity) {
  // The payload's only bit is lost; the sign is not.
  const std::uint32_t quiet = format().infinity() | format().quiet();
  EXPECT_EQ(format().narrow(0x7f800001U), quiet);
  EXPECT_EQ(format().narrow(0xff800001U), quiet | 0x8000U);
  EXPECT_EQ(format().narrow(0x7fffffffU), 0x7fffU);
  EXPECT_EQ(format().narrow(0xffffffffU), 0xffffU);
}

/// Half of the patterns in which the formats differ, and enough for every position in a block.
std::vector<std::uint32_t> some_patterns(std::size_t count) {
  std::vector<std::uint32_t> out(count);
  std::mt19937 random(20240817);
  for (std::uint32_t& bits : out) {
    bits = static_cast<std::uint32_t>(random());
  }
  return out;
}

TEST_P(float_conversion, spans_of_any_length_and_alignment_convert_as_their_elements_do) {
  for (const std::size_t count : {0U, 1U, 2U, 31U, 32U, 33U, 64U, 100U, 1000U}) {
    for (const std::size_t shift : {0U, 1U, 3U}) {
      SCOPED_TRACE(concat(count, " elements, ", shift, " bytes off"));
      const std::vector<std::uint32_t> wide = some_patterns(count);
      std::vector<std::byte> from(shift);
      const auto bytes = std::as_bytes(std::span(wide));
      from.insert(from.end(), bytes.begin(), bytes.end());
      std::vector<std::byte> to(2 * count + shift + 1, std::byte{0xee});
      convert_floats(dtype::f32, from.data() + shift, format().type, to.data() + shift, count);
      EXPECT_EQ(to.back(), std::byte{0xee});
      std::vector<std::byte> back(4 * count + shift + 1, std::byte{0xee});
      convert_floats(format().type, to.data() + shift, dtype::f32, back.data() + shift, count);
      EXPECT_EQ(back.back(), std::byte{0xee});
      for (std::size_t i = 0; i < count; ++i) {
        std::uint16_t narrow = 0;
        std::uint32_t again = 0;
        std::memcpy(&narrow, to.data() + shift + 2 * i, sizeof narrow);
        std::memcpy(&again, back.data() + shift + 4 * i, sizeof again);
        ASSERT_EQ(narrow, format().narrow(wide[i])) << i;
        ASSERT_EQ(again, format().widen(narrow)) << i;
      }
    }
  }
}

TEST_P(float_conversion, works_in_place) {
  const std::vector<std::uint32_t> wide = some_patterns(777);
  const auto bytes = std::as_bytes(std::span(wide));
  std::vector<std::byte> narrow(2 * wide.size());
  convert_floats(dtype::f32, bytes.data(), format().type, narrow.data(), wide.size());

  std::vector<std::byte> place(bytes.begin(), bytes.end());
  convert_floats(dtype::f32, place.data(), format().type, place.data(), wide.size());
  EXPECT_TRUE(std::equal(narrow.begin(), narrow.end(), place.begin()));

  std::vector<std::byte> widened(4 * wide.size());
  convert_floats(format().type, narrow.data(), dtype::f32, widened.data(), wide.size());
  std::vector<std::byte> behind(4 * wide.size());
  std::copy(narrow.begin(), narrow.end(), behind.begin() + static_cast<std::ptrdiff_t>(narrow.size()));
  convert_floats(format().type, behind.data() + narrow.size(), dtype::f32, behind.data(), wide.size());
  EXPECT_EQ(behind, widened);
}

TEST(float_conversions, between_the_narrow_formats_go_through_f32) {
  std::vector<std::uint16_t> all(0x10000);
  for (std::size_t i = 0; i < all.size(); ++i) {
    all[i] = static_cast<std::uint16_t>(i);
  }
  std::vector<std::uint16_t> out(all.size());
  const auto convert = [&](dtype from, dtype to) {
    convert_floats(from, std::as_bytes(std::span(all)).data(), to, std::as_writable_bytes(std::span(out)).data(),
                   all.size());
  };
  const reference f16_reference(f16);
  const reference bf16_reference(bf16);
  convert(dtype::f16, dtype::bf16);
  for (std::size_t i = 0; i < all.size(); ++i) {
    ASSERT_EQ(out[i], bf16_reference.narrow(f16_reference.widen(all[i]))) << std::hex << i;
  }
  convert(dtype::bf16, dtype::f16);
  for (std::size_t i = 0; i < all.size(); ++i) {
    ASSERT_EQ(out[i], f16_reference.narrow(bf16_reference.widen(all[i]))) << std::hex << i;
  }
  convert(dtype::bf16, dtype::bf16);
  EXPECT_EQ(out, all) << "a copy, also of signalling NaNs";
}

TEST(float_conversions, of_f64_to_f32_are_the_processors) {
  const std::uint64_t seed = testing_support::test_seed();
  SCOPED_TRACE(concat("FSDPINIT_TEST_SEED=", seed));
  std::mt19937_64 random(seed);
  const auto expect_same = [](std::uint64_t bits) {
    const auto wide = std::bit_cast<double>(bits);
    if (std::isnan(wide)) {
      const auto payload = static_cast<std::uint32_t>(bits >> 29U) & 0x3fffffU;
      ASSERT_EQ(f32_from_f64(bits), static_cast<std::uint32_t>(bits >> 32U & 0x80000000U) | 0x7fc00000U | payload);
    } else {
      ASSERT_EQ(f32_from_f64(bits), std::bit_cast<std::uint32_t>(static_cast<float>(wide))) << std::hex << bits;
    }
  };
  for (int i = 0; i < 300'000; ++i) {
    const std::uint64_t bits = random();
    expect_same(bits);
    // Of the range of f32, its subnormals and what lies beyond included; many ties, by clearing what is below them.
    const std::uint64_t exponent = 1023 - 155 + random() % 290;
    expect_same((bits & 0x800fffffffffffffU & (~std::uint64_t{0} << (random() % 53))) | exponent << 52U);
  }
  std::vector<double> wide{1.0,   -0x1.ffffffp127, 0x1.fffffefffffffp127,
                           1e300, 1e-46,           std::numeric_limits<double>::infinity()};
  std::vector<float> out(wide.size());
  EXPECT_EQ(convert_floats(dtype::f64, std::as_bytes(std::span(wide)).data(), dtype::f32,
                           std::as_writable_bytes(std::span(out)).data(), wide.size()),
            2U);
  EXPECT_EQ(out, std::vector<float>(wide.begin(), wide.end()));
}

TEST(float_conversions, of_bf16_to_f16_count_what_becomes_infinite) {
  std::vector<std::uint16_t> all(0x10000);
  for (std::size_t i = 0; i < all.size(); ++i) {
    all[i] = static_cast<std::uint16_t>(i);
  }
  std::vector<std::uint16_t> out(all.size());
  const std::uint64_t counted = convert_floats(dtype::bf16, std::as_bytes(std::span(all)).data(), dtype::f16,
                                               std::as_writable_bytes(std::span(out)).data(), all.size());
  std::uint64_t expected = 0;
  for (std::size_t i = 0; i < all.size(); ++i) {
    expected += (all[i] & 0x7fffU) < 0x7f80U && (out[i] & 0x7fffU) == 0x7c00U ? 1U : 0U;
  }
  EXPECT_GT(expected, 0U);
  EXPECT_EQ(counted, expected);
}

#if defined(__FLT16_MANT_DIG__)
TEST(float_conversions, agree_with_the_compilers_f16) {
  const auto expect_same = [](std::uint32_t bits) {
    const auto wide = std::bit_cast<float>(bits);
    if (!std::isnan(wide)) {
      ASSERT_EQ(f16_from_f32(bits), std::bit_cast<std::uint16_t>(static_cast<_Float16>(wide))) << std::hex << bits;
    }
  };
  for (std::uint32_t bits = 0; bits <= 0xffffU; ++bits) {
    const auto narrow = static_cast<std::uint16_t>(bits);
    const auto wide = static_cast<float>(std::bit_cast<_Float16>(narrow));
    if (!std::isnan(wide)) {
      ASSERT_EQ(f32_from_f16(narrow), std::bit_cast<std::uint32_t>(wide)) << std::hex << bits;
    }
  }
  for (std::uint64_t bits = 0; bits <= 0xffffffffU; bits += 9973) {
    expect_same(static_cast<std::uint32_t>(bits));
  }
}
#endif

// At compile time too.
static_assert(f16_from_f32(0x3f800000U) == 0x3c00U && f32_from_f16(0x0001U) == 0x33800000U);
static_assert(f16_from_f32(0x7fc00000U) == 0x7e00U && f16_from_f32(0x33000000U) == 0U);
static_assert(bf16_from_f32(0x3f808000U) == 0x3f80U && f32_from_bf16(0x3f80U) == 0x3f800000U);
static_assert(f32_from_f64(0x3ff0000000000000U) == 0x3f800000U && f16_from_f64(0x40effe0000000000U) == 0x7c00U);
static_assert(is_convertible_float(dtype::bf16) && !is_convertible_float(dtype::f64));
static_assert(is_convertible(dtype::f64, dtype::f16) && !is_convertible(dtype::f32, dtype::f64));
static_assert(!is_convertible(dtype::f8_e4m3, dtype::f32) && !is_convertible(dtype::i32, dtype::f32));

}  // namespace
}  // namespace float_conversion_test
