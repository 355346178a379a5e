#include <fsdpinit/modules/counter_rng.hpp>

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <limits>
#include <set>
#include <string>
#include <vector>

namespace counter_rng_test {
namespace {

using namespace fsdpinit;

using words = std::array<std::uint32_t, 4>;

// -- the generator

// Random123's published answers (kat_vectors, philox4x32 10).
constexpr std::uint32_t ones = 0xffffffff;
static_assert(philox4x32({0, 0, 0, 0}, {0, 0}) == words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8});
static_assert(philox4x32({ones, ones, ones, ones}, {ones, ones}) ==
              words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd});
static_assert(philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}) ==
              words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1});

TEST(Philox, GivesThePublishedAnswersAtRunTimeToo) {
  volatile std::uint32_t zero = 0;
  EXPECT_EQ(philox4x32({zero, zero, zero, zero}, {zero, zero}),
            (words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
}

TEST(CounterRng, SeedNameAndIndexAllMatter) {
  const counter_rng one(1, "layers.0.weight");
  EXPECT_EQ(one.words(5), counter_rng(1, "layers.0.weight").words(5));
  EXPECT_NE(one.words(5), one.words(6));
  EXPECT_NE(one.words(5), one.words(5 + (std::uint64_t{1} << 32U)));
  EXPECT_NE(one.words(5), counter_rng(2, "layers.0.weight").words(5));
  EXPECT_NE(one.words(5), counter_rng(1 + (std::uint64_t{1} << 32U), "layers.0.weight").words(5));
  EXPECT_NE(one.words(5), counter_rng(1, "layers.1.weight").words(5));
}

TEST(CounterRng, NamesOfALargeModelHaveHashesOfTheirOwn) {
  std::set<std::uint64_t> hashes;
  for (int layer = 0; layer < 1000; ++layer) {
    for (const char* const name : {"q", "k", "v", "o", "up", "down", "gate", "norm.weight", "norm.bias"}) {
      hashes.insert(detail::hash_of_name("layers." + std::to_string(layer) + "." + name));
    }
  }
  EXPECT_EQ(hashes.size(), 9000U);
}

/// What was ever initialised with a seed must come out the same from later versions, other compilers and processors.
TEST(CounterRng, ValuesStayWhatTheyAre) {
  const counter_rng random(42, "head.weight");
  const auto bits_of = [](float value) { return std::bit_cast<std::uint32_t>(value); };
  EXPECT_EQ(detail::hash_of_name("head.weight"), 0xbbb49a469b2df5b6U);
  EXPECT_EQ(bits_of(random.uniform(0)), 0x3ed49b21U);
  EXPECT_EQ(bits_of(random.uniform(12345678901, -0.5, 0.5)), 0xbedb772aU);
  EXPECT_EQ(bits_of(random.normal(0)), 0xbe5b354cU);
  EXPECT_EQ(bits_of(random.normal(1)), 0x4018f028U);
  EXPECT_EQ(bits_of(random.normal(12345678901, 0, 0.02)), 0xbcf0268cU);
  std::uint32_t all = 0;
  for (std::uint64_t i = 0; i < 100'000; ++i) {
    all = all * 31 + bits_of(random.normal(i));
  }
  EXPECT_EQ(all, 0xe43aee11U);
}

// -- the functions behind the values

TEST(CounterRng, LogarithmAgreesWithTheLibrarys) {
  double worst = 0;
  for (int i = 1; i < 200'000; ++i) {
    const double x = std::ldexp(1.0 + i / 200'000.0, -(i % 54));
    const double wanted = std::log(x);
    worst = std::max(worst, std::abs(detail::log_of(x) - wanted) / std::max(std::abs(wanted), 1e-3));
  }
  EXPECT_LT(worst, 1e-12);
  EXPECT_EQ(detail::log_of(1), 0);
}

/// The distribution function, from the C library.
double probability_below(double x) { return 0.5 * std::erfc(-x / std::sqrt(2.0)); }

TEST(CounterRng, QuantileInvertsTheDistributionFunction) {
  for (int i = 1; i < 100'000; ++i) {
    const double p = i / 200'000.0;  // and far into the tail
    for (const double each : {p, std::ldexp(p, -10), std::ldexp(p, -35)}) {
      const double x = detail::normal_quantile(each);
      // An error e of x changes the probability by density(x) * e.
      const double density = std::exp(-x * x / 2) / std::sqrt(2 * std::acos(-1.0));
      ASSERT_LT(std::abs(probability_below(x) - each), density * (2e-9 * std::abs(x) + 1e-15) + 1e-16 * each) << each;
      if (each > 1e-6) {
        ASSERT_NEAR(detail::normal_quantile(1 - each), -x, 3e-9 * std::abs(x)) << each;
      }
    }
  }
  EXPECT_EQ(detail::normal_quantile(0.5), 0);
}

TEST(CounterRng, QuantileHasNoStepsWhereItsPartsMeet) {
  for (const double joint : {0.02425, 0.5, 1 - 0.02425}) {
    const double below = std::nextafter(joint, 0.0);
    const double above = std::nextafter(joint, 1.0);
    EXPECT_NEAR(detail::normal_quantile(below), detail::normal_quantile(above), 1e-8) << joint;
  }
}

TEST(CounterRng, TheOutermostFractionsAreNumbers) {
  const double smallest = 0x1p-53;
  EXPECT_NEAR(detail::normal_quantile(smallest), -8.2095, 1e-3);
  EXPECT_EQ(detail::normal_quantile(1 - smallest), -detail::normal_quantile(smallest));
}

// -- the distribution, with fixed seeds

struct moments {
  double mean = 0;
  double variance = 0;
  double third = 0;   // central, over sigma^3
  double fourth = 0;  // over sigma^4
  double least = 0;
  double most = 0;
};
template <class Fn>
moments moments_of(std::uint64_t count, Fn&& value) {
  moments out{.least = std::numeric_limits<double>::infinity(), .most = -std::numeric_limits<double>::infinity()};
  std::array<double, 5> sums{};
  for (std::uint64_t i = 0; i < count; ++i) {
    const double x = value(i);
    double power = 1;
    for (double& sum : sums) {
      sum += power;
      power *= x;
    }
    out.least = std::min(out.least, x);
    out.most = std::max(out.most, x);
  }
  const auto n = static_cast<double>(count);
  const double m = sums[1] / n;
  const double second = sums[2] / n - m * m;
  out.mean = m;
  out.variance = second;
  out.third = (sums[3] / n - 3 * m * sums[2] / n + 2 * m * m * m) / std::pow(second, 1.5);
  out.fourth = (sums[4] / n - 4 * m * sums[3] / n + 6 * m * m * sums[2] / n - 3 * m * m * m * m) / (second * second);
  return out;
}

constexpr std::uint64_t samples = 1'000'000;
const double sqrt_samples = std::sqrt(static_cast<double>(samples));

// Bounds are 4.5 standard errors.
TEST(CounterRngDistribution, NormalHasItsMoments) {
  for (const std::uint64_t seed : {0U, 1U, 12345U}) {
    const counter_rng random(seed, "layers.7.mlp.up.weight");
    const moments got = moments_of(samples, [&](std::uint64_t i) { return random.normal(i); });
    EXPECT_NEAR(got.mean, 0, 4.5 / sqrt_samples);
    EXPECT_NEAR(got.variance, 1, 4.5 * std::sqrt(2.0) / sqrt_samples);
    EXPECT_NEAR(got.third, 0, 4.5 * std::sqrt(6.0) / sqrt_samples);
    EXPECT_NEAR(got.fourth, 3, 4.5 * std::sqrt(24.0) / sqrt_samples);
    EXPECT_LT(got.most, 6.5);
    EXPECT_GT(got.least, -6.5);
    EXPECT_GT(got.most, 4.0);
    EXPECT_LT(got.least, -4.0);
  }
}

TEST(CounterRngDistribution, MeanAndDeviationAreWhatWasAskedFor) {
  const counter_rng random(3, "w");
  const moments got = moments_of(samples, [&](std::uint64_t i) { return random.normal(i, 5, 0.25); });
  EXPECT_NEAR(got.mean, 5, 0.25 * 4.5 / sqrt_samples);
  EXPECT_NEAR(std::sqrt(got.variance), 0.25, 0.25 * 4.5 / std::sqrt(2.0) / sqrt_samples);
}

TEST(CounterRngDistribution, UniformHasItsMomentsAndBounds) {
  const counter_rng random(9, "w");
  const moments got = moments_of(samples, [&](std::uint64_t i) { return random.uniform(i, -1, 3); });
  const double deviation = 4 / std::sqrt(12.0);
  EXPECT_NEAR(got.mean, 1, deviation * 4.5 / sqrt_samples);
  EXPECT_NEAR(got.variance, deviation * deviation, deviation * deviation * 4.5 * std::sqrt(0.8) / sqrt_samples);
  EXPECT_GE(got.least, -1);
  EXPECT_LE(got.most, 3);
  EXPECT_LT(got.least, -0.9999);
  EXPECT_GT(got.most, 2.9999);
}

TEST(CounterRngDistribution, FractionsFillEqualPartsEqually) {
  const counter_rng random(4, "w");
  constexpr std::size_t parts = 256;
  std::vector<double> counts(parts);
  for (std::uint64_t i = 0; i < samples; ++i) {
    counts[static_cast<std::size_t>(random.fraction(i) * parts)] += 1;
  }
  double chi_squared = 0;
  for (const double count : counts) {
    const double expected = static_cast<double>(samples) / parts;
    chi_squared += (count - expected) * (count - expected) / expected;
  }
  // 255 degrees of freedom: mean 255, deviation sqrt(510) = 22.6.
  EXPECT_LT(chi_squared, 255 + 5 * 22.6);
  EXPECT_GT(chi_squared, 255 - 5 * 22.6);
}

TEST(CounterRngDistribution, NeighboursAndTensorsAreNotCorrelated) {
  const counter_rng one(0, "layers.0.weight");
  const counter_rng other(0, "layers.1.weight");
  const counter_rng next_seed(1, "layers.0.weight");
  double neighbours = 0;
  double tensors = 0;
  double seeds = 0;
  for (std::uint64_t i = 0; i < samples; ++i) {
    const double x = one.normal(i);
    neighbours += x * one.normal(i + 1);
    tensors += x * other.normal(i);
    seeds += x * next_seed.normal(i);
  }
  EXPECT_NEAR(neighbours / samples, 0, 4.5 / sqrt_samples);
  EXPECT_NEAR(tensors / samples, 0, 4.5 / sqrt_samples);
  EXPECT_NEAR(seeds / samples, 0, 4.5 / sqrt_samples);
}

}  // namespace
}  // namespace counter_rng_test
