#include "index/naive_tensor.hpp"
#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/core/dtype.hpp>
#include <fsdpinit/index/operations.hpp>
#include <fsdpinit/index/place.hpp>
#include <fsdpinit/index/rearrange.hpp>

#include <gtest/gtest.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

namespace index_place_test {
namespace {

using namespace fsdpinit;
using namespace fsdpinit::index_map;

constexpr std::array<std::size_t, 2> transposed{1, 0};

std::vector<std::byte> numbered(std::uint64_t count) {
  std::vector<std::byte> out(count);
  for (std::uint64_t i = 0; i < count; ++i) {
    out[i] = static_cast<std::byte>(i * 2654435761U >> 13U);
  }
  return out;
}

/// That the pieces' bytes come where each of their elements belongs, with elements of that size.
void expect_placed(const recipe& of, std::uint64_t stored_elements, std::uint64_t size) {
  const std::vector<std::byte> source = numbered(stored_elements * size);
  std::vector<std::byte> expected(index_map::detail::elements_from(of.extents, 0) * size);
  std::vector<std::byte> placed(expected.size());
  for (const piece& each : of.pieces) {
    index_testing::for_each_element(each.map, [&](std::uint64_t from, std::uint64_t to) {
      std::memcpy(expected.data() + to * size, source.data() + from * size, size);
    });
    place(each.map, size, source.data(), placed.data());
  }
  EXPECT_TRUE(placed == expected) << to_string(of.extents) << " of " << size << " bytes";
}

TEST(Placing, TransposesTilesAndWhatIsLeftBesideThem) {
  for (const std::uint64_t size : {1U, 2U, 4U, 8U, 16U, 3U}) {
    for (const shape& extents : {shape{64, 64}, shape{130, 67}, shape{5, 200}, shape{600, 1}, shape{33, 17}}) {
      const recipe of = permute(stored_tensor(0, dtype::u8, extents), transposed);
      expect_placed(of, extents[0] * extents[1], size);
    }
  }
}

TEST(Placing, KeepsRunsAndOuterDims) {
  const recipe stored = stored_tensor(0, dtype::u8, {3, 20, 18, 4});
  for (const std::uint64_t size : {1U, 2U, 4U, 8U}) {
    expect_placed(stored, 4320, size);
    expect_placed(slice(stored, 2, 3, 9), 4320, size);
    expect_placed(rearrange(stored, "a b c d -> b a c d"), 4320, size);
    expect_placed(rearrange(stored, "a b c d -> a c b d"), 4320, size);
    expect_placed(rearrange(stored, "a b c d -> d c b a"), 4320, size);
    expect_placed(slice(rearrange(stored, "a b c d -> (d c) (b a)"), 0, 7, 60), 4320, size);
  }
}

TEST(Placing, PutsOneElementAndPackedOnesToo) {
  expect_placed(stored_tensor(0, dtype::f32, {}), 1, 4);
  const recipe packed = slice(stored_tensor(0, dtype::f4, {4, 6}), 1, 2, 4);
  const std::vector<std::byte> source = numbered(12);
  std::vector<std::byte> placed(4);
  place(in_bytes(packed.pieces.at(0).map, bits(dtype::f4)), 1, source.data(), placed.data());
  EXPECT_EQ(placed, (std::vector<std::byte>{source[1], source[4], source[7], source[10]}));
}

}  // namespace
}  // namespace index_place_test
