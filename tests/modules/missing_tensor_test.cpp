#include "support/expect_error.hpp"
#include "support/reference_model.hpp"
#include "support/test_seed.hpp"
#include <fsdpinit/modules/missing_tensor.hpp>

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <random>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace missing_tensor_test {
namespace {

using namespace fsdpinit;
using namespace fsdpinit::testing_support;

partition partition_of(const missing_tensor_info& tensor, placement how, std::size_t shards) {
  return partition::make(tensor.fqn, tensor.dtype, tensor.shape, how, shards);
}

template <class Initialise>
std::vector<std::byte> shard_of(const Initialise& initialise, const missing_tensor_info& tensor, placement how,
                                std::size_t shards, std::size_t rank) {
  const partition part = partition_of(tensor, how, shards);
  // One byte off any alignment, and one behind to see that nothing is written there.
  std::vector<std::byte> bytes(part.local_bytes(rank) + 2, std::byte{0xee});
  initialise_missing(initialise, tensor, part, rank, mutable_bytes(bytes).subspan(1, bytes.size() - 2));
  EXPECT_EQ(bytes.front(), std::byte{0xee});
  EXPECT_EQ(bytes.back(), std::byte{0xee});
  return {bytes.begin() + 1, bytes.end() - 1};
}

template <class Initialise>
std::vector<std::byte> whole(const Initialise& initialise, const missing_tensor_info& tensor) {
  return shard_of(initialise, tensor, replicate{}, 1, 0);
}

/// Every rank's shard is its slice of the tensor as one rank makes it. The slice is taken element by element.
template <class Initialise>
void expect_independent_of_the_mesh(const Initialise& initialise, const missing_tensor_info& tensor, placement how,
                                    std::size_t shards) {
  SCOPED_TRACE(concat(name(tensor.dtype), " ", to_string(tensor.shape), " ", to_string(how), " over ", shards));
  const std::vector<std::byte> expected = whole(initialise, tensor);
  for (std::size_t rank = 0; rank < shards; ++rank) {
    EXPECT_EQ(shard_of(initialise, tensor, how, shards, rank),
              naive_slice(expected, tensor.dtype, tensor.shape, how, shards, rank).bytes)
        << "rank " << rank;
  }
}

constexpr dtype float_types[] = {dtype::f32, dtype::f16, dtype::bf16};

TEST(MissingTensor, IsTheSameOnEveryMesh) {
  const normal_values normal{.seed = 7};
  for (const dtype type : float_types) {
    for (const std::size_t shards : {1U, 2U, 3U, 4U, 7U}) {
      const missing_tensor_info tensor{.fqn = "head.weight", .dtype = type, .shape = {5, 84, 3}};
      for (const placement how :
           {placement(shard{0}), placement(shard{1}), placement(shard{-2}), placement(replicate{})}) {
        expect_independent_of_the_mesh(normal, tensor, how, shards);
      }
      const missing_tensor_info last{
          .fqn = "adapter", .dtype = type, .shape = {3, 420}};  // runs of 60 elements and more
      expect_independent_of_the_mesh(uniform_values{.seed = 1}, last, shard{1}, shards);
      const missing_tensor_info bias{.fqn = "head.bias", .dtype = type, .shape = {13}};
      expect_independent_of_the_mesh(uniform_values{.seed = 1, .from = -3, .to = 2}, bias, shard{0}, shards);
      const missing_tensor_info fewer_rows_than_ranks{.fqn = "few", .dtype = type, .shape = {2, 3}};
      expect_independent_of_the_mesh(normal, fewer_rows_than_ranks, shard{0}, shards);
      expect_independent_of_the_mesh(normal, {.fqn = "nothing", .dtype = type, .shape = {0, 3}}, shard{0}, shards);
      expect_independent_of_the_mesh(normal, {.fqn = "scalar", .dtype = type, .shape = {}}, replicate{}, shards);
    }
  }
}

TEST(MissingTensor, RandomShapesAreTheSameOnEveryMesh) {
  const std::uint64_t seed = testing_support::test_seed();
  SCOPED_TRACE(concat("FSDPINIT_TEST_SEED=", seed));
  std::mt19937_64 random(seed);
  const auto below = [&](std::uint64_t bound) { return random() % bound; };
  for (int round = 0; round < 200 && !HasFailure(); ++round) {
    const std::size_t shards = 1 + below(9);
    std::vector<std::uint64_t> dims(1 + below(4));
    for (std::uint64_t& dim : dims) {
      dim = below(10) == 0 ? 0 : 1 + below(11);
    }
    const std::uint64_t dim = below(dims.size());
    if (dim != 0) {
      dims[dim] = shards * below(5);
    }
    expect_independent_of_the_mesh(normal_values{.seed = random()},
                                   {.fqn = "w", .dtype = float_types[below(3)], .shape = shape(dims)},
                                   shard{static_cast<std::int64_t>(dim)}, shards);
  }
}

TEST(MissingTensor, ElementsAreTheGeneratorsAtTheirGlobalIndex) {
  const missing_tensor_info tensor{.fqn = "w", .dtype = dtype::f32, .shape = {4, 6}};
  std::vector<std::uint64_t> asked;
  std::vector<std::byte> bytes(48);
  fill_shard(
      tensor, partition_of(tensor, shard{1}, 2), 1,
      [&](std::uint64_t index) {
        asked.push_back(index);
        return static_cast<float>(index);
      },
      bytes);
  EXPECT_EQ(asked, (std::vector<std::uint64_t>{3, 4, 5, 9, 10, 11, 15, 16, 17, 21, 22, 23}));
  for (std::size_t i = 0; i < asked.size(); ++i) {
    float value = 0;
    std::memcpy(&value, bytes.data() + 4 * i, 4);
    EXPECT_EQ(value, static_cast<float>(asked[i]));
  }
}

TEST(MissingTensor, ValuesAreRoundedToTheDtype) {
  const auto bits_of = [](dtype type, float value) {
    const std::vector<std::byte> bytes =
        whole(constant_values{.value = value}, {.fqn = "w", .dtype = type, .shape = {1}});
    std::uint16_t bits = 0;
    EXPECT_EQ(bytes.size(), sizeof bits);
    std::memcpy(&bits, bytes.data(), sizeof bits);
    return bits;
  };
  EXPECT_EQ(bits_of(dtype::bf16, 1.0F), 0x3f80);
  EXPECT_EQ(bits_of(dtype::bf16, 1.0F + 0x1p-8F), 0x3f80);  // a tie, to even
  EXPECT_EQ(bits_of(dtype::bf16, 1.0F + 0x3p-8F), 0x3f82);
  EXPECT_EQ(bits_of(dtype::f16, -2.0F), 0xc000);
  EXPECT_EQ(bits_of(dtype::f16, 1.0F + 0x1p-11F), 0x3c00);
  EXPECT_EQ(bits_of(dtype::f16, 1.0F + 0x3p-11F), 0x3c02);
  EXPECT_EQ(bits_of(dtype::f16, 65520.0F), 0x7c00);
}

TEST(MissingTensor, TensorsDifferByNameAndSeed) {
  const auto made = [](std::uint64_t seed, const char* fqn) {
    return whole(normal_values{.seed = seed}, {.fqn = fqn, .dtype = dtype::f32, .shape = {8}});
  };
  EXPECT_EQ(made(1, "a"), made(1, "a"));
  EXPECT_NE(made(1, "a"), made(1, "b"));
  EXPECT_NE(made(1, "a"), made(2, "a"));
}

TEST(MissingTensor, ValuesOfNarrowTypesAreThoseOfF32Rounded) {
  const normal_values normal{.seed = 11, .deviation = 1};
  const missing_tensor_info wide{.fqn = "w", .dtype = dtype::f32, .shape = {1000}};
  const std::vector<std::byte> exact = whole(normal, wide);
  for (const dtype type : {dtype::f16, dtype::bf16}) {
    std::vector<std::byte> rounded(exact.size());
    convert_floats(dtype::f32, exact.data(), type, rounded.data(), 1000);
    rounded.resize(2000);
    EXPECT_EQ(whole(normal, {.fqn = "w", .dtype = type, .shape = {1000}}), rounded);
  }
}

template <class Initialise>
void expect_not_initialisable(const Initialise& initialise, dtype type) {
  expect_error(errc::invalid_argument, "steps", "these initial values cannot be " + std::string(name(type)), [&] {
    const missing_tensor_info tensor{.fqn = "steps", .dtype = type, .shape = {8}};
    std::vector<std::byte> bytes(bits(type));
    initialise_missing(initialise, tensor, partition_of(tensor, replicate{}, 1), 0, bytes);
  });
}

TEST(MissingTensor, RandomValuesAreForFloatsThatRound) {
  for (const dtype type : {dtype::i64, dtype::boolean, dtype::f8_e4m3, dtype::c64}) {
    expect_not_initialisable(normal_values{}, type);
    expect_not_initialisable(uniform_values{}, type);
  }
  const std::vector<std::byte> wide = whole(normal_values{.seed = 3}, {.fqn = "w", .dtype = dtype::f64, .shape = {9}});
  std::vector<std::byte> narrowed(36);
  convert_floats(dtype::f64, wide.data(), dtype::f32, narrowed.data(), 9);
  EXPECT_EQ(narrowed, whole(normal_values{.seed = 3}, {.fqn = "w", .dtype = dtype::f32, .shape = {9}}));
}

TEST(MissingTensor, AConstantIsOfEveryDtypeThatHoldsIt) {
  const auto element = [](dtype type, double value) {
    const std::vector<std::byte> three =
        whole(constant_values{.value = value}, {.fqn = "w", .dtype = type, .shape = {3}});
    const std::size_t width = three.size() / 3;
    std::uint64_t bits = 0;
    std::memcpy(&bits, three.data(), width);
    for (std::size_t i = 1; i < 3; ++i) {
      EXPECT_TRUE(std::equal(three.begin(), three.begin() + static_cast<std::ptrdiff_t>(width),
                             three.begin() + static_cast<std::ptrdiff_t>(i * width)));
    }
    return bits;
  };
  EXPECT_EQ(element(dtype::i64, -2), 0xfffffffffffffffeU);
  EXPECT_EQ(element(dtype::i64, -0x1p63), 0x8000000000000000U);
  EXPECT_EQ(element(dtype::u64, 0x1p63), 0x8000000000000000U);
  EXPECT_EQ(element(dtype::u64, 9007199254740991), 9007199254740991U);
  EXPECT_EQ(element(dtype::i32, -1), 0xffffffffU);
  EXPECT_EQ(element(dtype::u32, 4294967295), 0xffffffffU);
  EXPECT_EQ(element(dtype::i16, -32768), 0x8000U);
  EXPECT_EQ(element(dtype::u16, 65535), 0xffffU);
  EXPECT_EQ(element(dtype::i8, 127), 0x7fU);
  EXPECT_EQ(element(dtype::u8, 255), 0xffU);
  EXPECT_EQ(element(dtype::boolean, 1), 1U);
  EXPECT_EQ(element(dtype::f64, 0.1), std::bit_cast<std::uint64_t>(0.1));
  EXPECT_EQ(element(dtype::c64, 1), 0x3f800000U) << "the imaginary part is 0";
  EXPECT_EQ(element(dtype::f8_e4m3, 448), 0x7eU);
  EXPECT_EQ(element(dtype::f8_e4m3, -0x1p-9), 0x81U);
  EXPECT_EQ(element(dtype::f8_e5m2, 57344), 0x7bU);
  EXPECT_EQ(element(dtype::f8_e5m2, 1), 0x3cU);
  EXPECT_EQ(element(dtype::f8_e4m3fnuz, 240), 0x7fU);
  EXPECT_EQ(element(dtype::f8_e5m2fnuz, 1), 0x40U);
  // Rounded to nearest even; what PyTorch 2 makes of them.
  EXPECT_EQ(element(dtype::f8_e4m3, 0.1), 0x1dU);
  EXPECT_EQ(element(dtype::f8_e4m3, 464), 0x7eU) << "a tie with what would follow the largest";
  EXPECT_EQ(element(dtype::f8_e4m3, 1.0625), 0x38U);
  EXPECT_EQ(element(dtype::f8_e4m3, -1.1875), 0xbaU);
  EXPECT_EQ(element(dtype::f8_e5m2, 61439), 0x7bU);
  EXPECT_EQ(element(dtype::f8_e4m3fnuz, -0x1p-12), 0U) << "there is no negative zero";
  EXPECT_EQ(element(dtype::f8_e8m0, 1), 127U);
  EXPECT_EQ(element(dtype::f8_e8m0, 0x1p-127), 0U);
  for (std::size_t i = 0; i < dtype_count; ++i) {
    const auto type = static_cast<dtype>(i);
    if (bits(type) >= 8 && type != dtype::f8_e8m0) {
      EXPECT_EQ(element(type, 0), 0U) << name(type);
    }
  }
}

TEST(MissingTensor, AConstantThatADtypeDoesNotHoldIsAnError) {
  expect_not_initialisable(constant_values{.value = 0.5}, dtype::i64);
  expect_not_initialisable(constant_values{.value = 0x1p63}, dtype::i64);
  expect_not_initialisable(constant_values{.value = -1}, dtype::u8);
  expect_not_initialisable(constant_values{.value = 256}, dtype::u8);
  expect_not_initialisable(constant_values{.value = 2}, dtype::boolean);
  expect_not_initialisable(constant_values{.value = std::nan("")}, dtype::i32);
  expect_not_initialisable(constant_values{.value = 480}, dtype::f8_e4m3);
  expect_not_initialisable(constant_values{}, dtype::f8_e8m0);
  expect_not_initialisable(constant_values{}, dtype::f4);
}

TEST(MissingTensor, AGeneratorsNumberThatADtypeDoesNotHoldIsAnErrorThatNamesTheTensor) {
  const auto half = [](const missing_tensor_info&) { return [](std::uint64_t index) { return 0.5 * double(index); }; };
  const missing_tensor_info tensor{.fqn = "steps", .dtype = dtype::i64, .shape = {3}};
  std::vector<std::byte> bytes(24);
  expect_error(errc::invalid_argument, "steps", "0.500000, which I64 does not hold",
               [&] { initialise_missing(half, tensor, partition_of(tensor, replicate{}, 1), 0, bytes); });
}

TEST(MissingTensor, WhatTheGeneratorThrowsIsThrown) {
  const missing_tensor_info tensor{.fqn = "w", .dtype = dtype::bf16, .shape = {8}};
  std::vector<std::byte> bytes(16);
  const auto initialise = [](const missing_tensor_info& info) {
    if (info.fqn == "w") {
      throw std::runtime_error("no recipe for w");
    }
    return [](std::uint64_t) { return 0.0F; };
  };
  static_assert(MissingInitialiser<decltype(initialise)>);
  EXPECT_THROW(initialise_missing(initialise, tensor, partition_of(tensor, replicate{}, 1), 0, bytes),
               std::runtime_error);
}

}  // namespace
}  // namespace missing_tensor_test
