// Tensors as frameworks hold them, made of those that are published.

#include "index/naive_tensor.hpp"
#include <fsdpinit/core/float_conversion.hpp>
#include <fsdpinit/core/text.hpp>
#include <fsdpinit/index/accounting.hpp>
#include <fsdpinit/index/operations.hpp>
#include <fsdpinit/index/rearrange.hpp>
#include <fsdpinit/index/runs.hpp>
#include <support/expect_error.hpp>

#include <gtest/gtest.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace index_recipe_test {
namespace {

using namespace fsdpinit;
using namespace fsdpinit::index_map;
namespace naive = fsdpinit::index_testing;

constexpr std::array<std::size_t, 2> transposed{1, 0};

/// `t0+0 8x4/16 -> 0/4`: 4 runs of 8 bytes, 16 apart in the stored tensor, 4 in the made one. Of one run, without the rest.
std::string text_of(const piece& of, const run_group& group) {
  const std::string runs = group.count == 1 ? "" : fsdpinit::concat("x", group.count, "/", group.stored_stride);
  const std::string to = group.count == 1 ? "" : fsdpinit::concat("/", group.made_stride);
  return fsdpinit::concat("t", of.tensor, "+", group.stored, " ", group.stored_bytes, runs, " -> ", group.made, to);
}

std::vector<std::string> runs_of(const recipe& of, std::uint64_t begin = 0, std::uint64_t end = to_the_end) {
  std::vector<std::string> out;
  for_each_run(of, begin, end, [&](const piece& each, const run_group& group) { out.push_back(text_of(each, group)); });
  return out;
}

using texts = std::vector<std::string>;

/// The operation throws an error that says so.
template <class Operation>
void expect_refused(Operation operation, std::string_view text) {
  testing_support::expect_error(errc::invalid_argument, "", text, [&] { (void)operation(); });
}

// -- what identities and their like cost

TEST(Runs, OfAWholeTensorAreOne) {
  const recipe of = stored_tensor(0, dtype::bf16, {6, 4, 2});
  EXPECT_EQ(runs_of(of), texts{"t0+0 96 -> 0"});
  EXPECT_EQ(runs_of(of, 3, 50), texts{"t0+3 47 -> 3"});
}

TEST(Runs, OfAConcatAlongDim0AreOneForEachPart) {
  const std::array parts{stored_tensor(0, dtype::bf16, {2, 4}), stored_tensor(1, dtype::bf16, {1, 4}),
                         stored_tensor(2, dtype::bf16, {3, 4})};
  EXPECT_EQ(runs_of(index_map::concat(parts, 0)), (texts{"t0+0 16 -> 0", "t1+0 8 -> 16", "t2+0 24 -> 24"}));
}

TEST(Runs, OfAChunkOfColumnsAreOneGroup) {
  const recipe of = index_map::chunk(stored_tensor(0, dtype::f32, {5, 8}), 1, 4, 1);
  EXPECT_EQ(runs_of(of), texts{"t0+8 8x5/32 -> 0/8"});
  EXPECT_EQ(runs_of(of, 4, 20), (texts{"t0+12 4 -> 4", "t0+40 8 -> 8", "t0+72 4 -> 16"}));
}

TEST(Runs, OfASliceOfRowsAreOne) {
  EXPECT_EQ(runs_of(slice(stored_tensor(0, dtype::u8, {8, 3, 2}), 0, 2, 7)), texts{"t0+12 30 -> 0"});
}

TEST(Runs, OfATransposeAreAColumnEach) {
  EXPECT_EQ(runs_of(permute(stored_tensor(0, dtype::bf16, {3, 2}), transposed)),
            (texts{"t0+0 2x3/4 -> 0/2", "t0+2 2x3/4 -> 6/2"}));
}

TEST(Runs, InStoredOrderFollowTheStoredTensor) {
  const recipe of = permute(stored_tensor(0, dtype::bf16, {3, 2}), transposed);
  texts out;
  for_each_stored_run(of.pieces[0], of.type, 0, to_the_end,
                      [&](const run_group& group) { out.push_back(text_of(of.pieces[0], group)); });
  EXPECT_EQ(out, (texts{"t0+0 2x2/2 -> 0/6", "t0+4 2x2/2 -> 2/6", "t0+8 2x2/2 -> 4/6"}));
}

TEST(Runs, OfConvertedElementsHaveTwoSizes) {
  const recipe of = cast(slice(stored_tensor(0, dtype::f32, {4, 4}), 1, 2, 4), dtype::bf16);
  run_group found;
  for_each_run(of, [&](const piece&, const run_group& group) { found = group; });
  EXPECT_EQ(found, (run_group{.stored = 8,
                              .made = 0,
                              .stored_bytes = 8,
                              .made_bytes = 4,
                              .stored_stride = 16,
                              .made_stride = 4,
                              .count = 4}));
}

TEST(Runs, OfScalarsAndEmptyTensorsAreOneAndNone) {
  EXPECT_EQ(runs_of(stored_tensor(0, dtype::f32, {})), texts{"t0+0 4 -> 0"});
  EXPECT_EQ(runs_of(stored_tensor(0, dtype::f32, {0, 3})), texts{});
  EXPECT_EQ(runs_of(slice(stored_tensor(0, dtype::f32, {5, 3}), 0, 2, 2)), texts{});
}

// -- tensors of models

TEST(Recipes, FuseQKV) {
  // Two query heads to a key head, of 4 elements each.
  const std::array parts{stored_tensor(0, dtype::bf16, {16, 8}), stored_tensor(1, dtype::bf16, {8, 8}),
                         stored_tensor(2, dtype::bf16, {8, 8})};
  const recipe fused = index_map::concat(parts, 0);
  EXPECT_EQ(fused.extents, (shape{32, 8}));
  EXPECT_EQ(runs_of(fused), (texts{"t0+0 256 -> 0", "t1+0 128 -> 256", "t2+0 128 -> 384"}));
  // A shard across the seam of q and k.
  EXPECT_EQ(runs_of(restricted(fused, {{12, 0}, {18, 8}})), (texts{"t0+192 64 -> 0", "t1+0 32 -> 64"}));
  // Megatron's order: the heads of each key head together.
  const std::array<axis_size, 2> sizes{axis_size{"g", 2}, axis_size{"d", 4}};
  const std::array grouped{rearrange(parts[0], "(g n d) k -> g (n d) k", sizes),
                           rearrange(parts[1], "(g d) k -> g d k", sizes),
                           rearrange(parts[2], "(g d) k -> g d k", sizes)};
  EXPECT_EQ(runs_of(rearrange(index_map::concat(grouped, 1), "g r k -> (g r) k")),
            (texts{"t0+0 128x2/128 -> 0/256", "t1+0 64x2/64 -> 128/256", "t2+0 64x2/64 -> 192/256"}));
}

TEST(Recipes, StackExperts) {
  // gate_up_proj [E, 2I, H] of E = 3, I = 2, H = 4.
  std::vector<recipe> gates;
  std::vector<recipe> ups;
  for (std::size_t expert = 0; expert < 3; ++expert) {
    gates.push_back(stored_tensor(2 * expert, dtype::bf16, {2, 4}));
    ups.push_back(stored_tensor(2 * expert + 1, dtype::bf16, {2, 4}));
  }
  const std::array halves{stack(gates, 0), stack(ups, 0)};
  const recipe gate_up = index_map::concat(halves, 1);
  EXPECT_EQ(gate_up.extents, (shape{3, 4, 4}));
  EXPECT_EQ(runs_of(gate_up), (texts{"t0+0 16 -> 0", "t1+0 16 -> 16", "t2+0 16 -> 32", "t3+0 16 -> 48", "t4+0 16 -> 64",
                                     "t5+0 16 -> 80"}));
  // Of the expert's rank, its second half of columns.
  EXPECT_EQ(runs_of(restricted(gate_up, {{2, 0, 2}, {3, 4, 4}})), (texts{"t4+4 4x2/8 -> 0/4", "t5+4 4x2/8 -> 8/4"}));
}

TEST(Recipes, TransposeConv1D) {
  const recipe stored = stored_tensor(0, dtype::f32, {4, 6});
  const recipe made = permute(stored, transposed);
  EXPECT_EQ(made.extents, (shape{6, 4}));
  EXPECT_EQ(permute(made, transposed), stored);
  EXPECT_EQ(made.pieces[0].map.rank, 2U);
}

TEST(Recipes, PermuteRotaryHeadsFromInterleavedToHalfSplit) {
  // out[j * n / 2 + k] = in[2k + j], per head.
  constexpr std::uint64_t n = 6;
  const recipe stored = stored_tensor(0, dtype::f32, {2 * n, 3});
  const std::array<axis_size, 2> sizes{axis_size{"h", 2}, axis_size{"two", 2}};
  const recipe made = rearrange(stored, "(h d two) k -> (h two d) k", sizes);
  std::string faults;
  const naive::naive_tensor elements = naive::made_by(made, faults);
  EXPECT_EQ(faults, "");
  for (std::uint64_t head = 0; head < 2; ++head) {
    for (std::uint64_t j = 0; j < 2; ++j) {
      for (std::uint64_t k = 0; k < n / 2; ++k) {
        const naive::element_id in{0, (head * n + 2 * k + j) * 3 + 1};
        EXPECT_EQ((elements[{head * n + j * n / 2 + k, 1}]), in);
      }
    }
  }
  EXPECT_EQ(rearrange(made, "(h two d) k -> (h d two) k", sizes), stored);
}

TEST(Recipes, PadAVocabulary) {
  const recipe made = pad_to_multiple(stored_tensor(0, dtype::bf16, {5, 2}), 0, 4, 0x3f80);
  EXPECT_EQ(made.extents, (shape{8, 2}));
  EXPECT_EQ(runs_of(made), texts{"t0+0 20 -> 0"});
  texts fills;
  for_each_fill(made, 0, 26, [&](const fill& each, const run_group& group) {
    fills.push_back(fsdpinit::concat(each.element, " at ", group.made, " ", group.made_bytes));
  });
  EXPECT_EQ(fills, texts{"16256 at 20 6"});
  EXPECT_EQ(pad_to_multiple(made, 0, 4), made);
}

TEST(Recipes, CutOutWhatWasFused) {
  const recipe fused = stored_tensor(0, dtype::bf16, {6, 4});
  const std::array parts{slice(fused, 0, 0, 3), slice(fused, 0, 3, 5), slice(fused, 0, 5, 6)};
  EXPECT_FALSE(misuse_of(fused.extents, uses_of(parts)).has_value());
  const std::array<recipe, 3> stored{stored_tensor(7, dtype::bf16, {3, 4}), stored_tensor(8, dtype::bf16, {2, 4}),
                                     stored_tensor(9, dtype::bf16, {1, 4})};
  EXPECT_EQ(composed(inverse(uses_of(parts), fused.type, fused.extents), stored), index_map::concat(stored, 0));
}

TEST(Recipes, TakeSlicesThatStridesDoNotFit) {
  const recipe of = slice(rearrange(stored_tensor(0, dtype::u8, {7, 9}), "a b -> (a b)"), 0, 4, 61);
  EXPECT_EQ(runs_of(of), texts{"t0+4 57 -> 0"});
  const recipe cut = permute(reshape(of, {19, 3}), transposed);
  std::string faults;
  const naive::naive_tensor elements = naive::made_by(cut, faults);
  EXPECT_EQ(faults, "");
  EXPECT_EQ((elements[{2, 18}]), (naive::element_id{0, 60}));
}

// -- conversions

TEST(Casts, ConvertWhatIsFilledToo) {
  const recipe made = cast(pad(stored_tensor(0, dtype::f32, {2}), 0, 3, 0x3f808001), dtype::bf16);
  EXPECT_EQ(made.fills.at(0).element, bf16_from_f32(0x3f808001));
  EXPECT_EQ(made.pieces.at(0).stored, dtype::f32);
}

TEST(Casts, OfTheSameTypeChangeNothing) {
  const recipe of = stored_tensor(0, dtype::i64, {2});
  EXPECT_EQ(cast(of, dtype::i64), of);
}

TEST(Casts, RoundOnce) {
  const recipe rounded = cast(stored_tensor(0, dtype::f32, {2}), dtype::bf16);
  expect_refused([&] { return cast(rounded, dtype::f16); },
                 "cast: elements stored as F32 have been rounded to BF16 already; cast them to F16 alone");
  const recipe widened = cast(stored_tensor(0, dtype::f16, {2}), dtype::f32);
  EXPECT_EQ(cast(widened, dtype::bf16).pieces, cast(stored_tensor(0, dtype::f16, {2}), dtype::bf16).pieces);
}

// -- types of less than a byte

TEST(SubByteElements, MoveInWholeBytes) {
  const recipe of = stored_tensor(0, dtype::f4, {4, 6});
  EXPECT_EQ(runs_of(slice(of, 1, 2, 4)), texts{"t0+1 1x4/3 -> 0/1"});
  expect_refused(
      [&] { return slice(of, 1, 1, 3); },
      "slice: elements of F4 that stay together in [4, 2] are no whole bytes; move them in multiples of a byte");
  expect_refused(
      [&] { return permute(of, transposed); },
      "permute: elements of F4 that stay together in [6, 4] are no whole bytes; move them in multiples of a byte");
  expect_refused([&] { return slice(stored_tensor(0, dtype::f6_e2m3, {4}), 0, 0, 2); },
                 "slice: [2] F6_E2M3 is no whole number of bytes; cut and pad it in multiples of a byte");
}

// -- what does not fit

TEST(Operations, SayWhatDoesNotFit) {
  const recipe of = stored_tensor(0, dtype::f32, {4, 6});
  const std::array other_type{of, stored_tensor(1, dtype::bf16, {4, 6})};
  const std::array other_shape{of, stored_tensor(1, dtype::f32, {4, 5})};
  expect_refused([&] { return index_map::concat(other_type, 0); },
                 "concat: part 1 is [4, 6] BF16, part 0 is [4, 6] F32; dtypes and all dims but 0 must be equal");
  expect_refused([&] { return index_map::concat(other_shape, 0); },
                 "concat: part 1 is [4, 5] F32, part 0 is [4, 6] F32; dtypes and all dims but 0 must be equal");
  expect_refused([&] { return index_map::concat(std::span<const recipe>(), 0); },
                 "concat: there is nothing to make a tensor of; give at least one");
  expect_refused(
      [&] { return stack(other_shape, 0); },
      "stack: part 1 is [4, 5] F32, part 0 is [4, 6] F32; all must have the same shape and dtype, and at least 0 dims");
  expect_refused([&] { return slice(of, 1, 2, 7); },
                 "slice: [2, 7) is no part of dim 1 of [4, 6]; begin <= end <= 6 must hold");
  expect_refused([&] { return slice(of, 2, 0, 0); }, "slice: [4, 6] has no dim 2; dims are counted from 0");
  expect_refused([&] { return index_map::chunk(of, 1, 4, 0); },
                 "chunk: dim 1 of [4, 6] has no part 0 of 4 equal ones; use a count that divides it, or slice");
  expect_refused(
      [&] {
        return permute(of, std::array<std::size_t, 2>{1, 1});
      },
      "permute: of 2 dims for [4, 6] number 1 is 1; name each of its 2 dims once");
  expect_refused([&] { return pad(of, 0, 3); }, "pad: dim 0 of [4, 6] is longer than 3 already; slice it");
  expect_refused([&] { return pad(cast(of, dtype::bf16), 0, 5, 0x10000); },
                 "pad: 65536 is no element of BF16; give its bits");
  expect_refused([&] { return pad_to_multiple(of, 0, 0); },
                 "pad: dim 0 of [4, 6] has no next multiple of 0; use one of at least 1");
  expect_refused([&] { return cast(of, dtype::i32); },
                 "cast: F32 is not converted to I32; F32, F16 and BF16 are, to each other, and F64 to these");
  expect_refused(
      [&] {
        return restricted(of, {{0}, {1}});
      },
      "box: [0:1] is no box of [4, 6]; they must have as many dims");
  expect_refused([&] { return stored_tensor(0, dtype::f32, {std::uint64_t{1} << 62U}); },
                 "stored tensor: [4611686018427387904] F32 is too large; check its shape");
}

TEST(Operations, RefuseWhatIsCutTooFinely) {
  // Rows of 2^21 and 2^21 + 1 elements have no common multiple that is smaller.
  const std::uint64_t row = std::uint64_t{1} << 21U;
  const recipe of = permute(stored_tensor(0, dtype::u8, {row, row + 1}), transposed);
  expect_refused(
      [&] {
        return permute(reshape(of, {row, row + 1}), transposed);
      },
      "a tensor of shape [2097153, 2097152] is cut into more than 131072 pieces; use extents that divide each other");
}

TEST(Patterns, SayWhatDoesNotFit) {
  const recipe of = stored_tensor(0, dtype::f32, {4, 6});
  const auto expect_refused_as = [&](std::string_view pattern, std::string_view text, axis_size size = {"a", 4}) {
    expect_refused([&] { return rearrange(of, pattern, {&size, 1}); }, text);
  };
  expect_refused_as("a b", "rearrange: 'a b': there is no '->'; write what is on its left, what is to be on its right");
  expect_refused_as("(a b -> a b", "rearrange: '(a b -> a b': a parenthesis is not closed; write each group as (a b)");
  expect_refused_as(
      "a 6 -> a 6",
      "rearrange: 'a 6 -> a 6': an axis is a name of letters, digits and inner underscores, '1', or '...'");
  expect_refused_as("a b c -> a b c",
                    "rearrange: 'a b c -> a b c' is for tensors of 3 dims, not for [4, 6]; name each dim");
  expect_refused_as("a (b c) -> a b c",
                    "rearrange: 'a (b c) -> a b c': sizes of b and c are missing; give one of them");
  expect_refused_as("(a c) b -> a b",
                    "rearrange: '(a c) b -> a b': a dim of 4 is no product of axes of 3 and a whole number; give sizes "
                    "that divide it",
                    {"a", 3});
  expect_refused_as("a b -> b a",
                    "rearrange: 'a b -> b a': a dim of 4 is no product of axes of 3; give sizes that make it up",
                    {"a", 3});
  expect_refused_as("a b -> b a", "rearrange: 'a b -> b a' has no axis c, whose size is given; name it or leave it out",
                    {"c", 3});
  expect_refused_as("a b -> b", "rearrange: 'a b -> b': an axis is on the left side alone; each is on both");
  expect_refused_as("a b -> a b c", "rearrange: 'a b -> a b c': c is on the right side alone; each axis is on both");
}

// -- at compile time

constexpr std::uint64_t factors_after_transposing_twice() {
  const std::array<digit, 2> to_columns{digit{.stride = 6, .to = 1}, digit{.stride = 1, .to = 4}};
  const std::array<digit, 2> to_rows{digit{.stride = 4, .to = 1}, digit{.stride = 1, .to = 6}};
  std::uint64_t factors = 0;
  relaid(strided_map::identity(24), to_columns, 0, [&](const strided_map& once) {
    relaid(once, to_rows, 0, [&](const strided_map& twice) { factors += twice.rank; });
  });
  return factors;
}
static_assert(factors_after_transposing_twice() == 1);

}  // namespace
}  // namespace index_recipe_test
