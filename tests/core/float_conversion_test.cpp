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

const narrow_format f16{"f16", 5, 10, dtype::f16, f16_from_f32, f32_from_f16};
const narrow_format bf16{"bf16", 8, 7, dtype::bf16, bf16_from_f32, f32_from_bf16};

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
    const double value = std::fabs(static_cast<double>(wide));
    // The first that is not below it, and the one before.
    auto above = static_cast<std::size_t>(std::lower_bound(values_.begin(), values_.end(), value) - values_.begin());
    above = std::min(above, values_.size() - 1);
    if (value < values_[above]) {
      const double middle = (values_[above - 1] + values_[above]) / 2;
      if (value < middle || (value == middle && above % 2 == 1)) {
        --above;
      }
    }
    return static_cast<std::uint16_t>(sign | above);
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
static_assert(is_convertible_float(dtype::bf16) && !is_convertible_float(dtype::f64));

}  // namespace
}  // namespace float_conversion_test
