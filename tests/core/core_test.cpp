#include "support/expect_error.hpp"
#include "support/heap_faults.hpp"
#include "support/test_seed.hpp"
#include <fsdpinit/core.hpp>
#include <fsdpinit/core/name_order.hpp>

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <new>
#include <numeric>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace core_test {
namespace {

using namespace fsdpinit;
using fsdpinit::testing_support::expect_error;

constexpr std::uint64_t max64 = ~std::uint64_t{0};

TEST(Bytes, CeilDivRoundsUpWithoutOverflow) {
  EXPECT_EQ(ceil_div(0, 3), 0U);
  EXPECT_EQ(ceil_div(6, 3), 2U);
  EXPECT_EQ(ceil_div(7, 3), 3U);
  EXPECT_EQ(ceil_div(max64, 2), (std::uint64_t{1} << 63U));
  EXPECT_EQ(ceil_div(max64, max64), 1U);
}

TEST(Bytes, AlignmentRoundsToMultiples) {
  for (std::uint64_t value = 0; value < 600; ++value) {
    EXPECT_EQ(align_up(value, 256), value == 0 ? 0 : value <= 256 ? 256 : value <= 512 ? 512 : 768);
    EXPECT_EQ(align_down(value, 256), value - value % 256);
  }
}

TEST(Bytes, CheckedMultiplySeesOverflow) {
  std::uint64_t product = 0;
  EXPECT_TRUE(checked_multiply(std::uint64_t{1} << 32U, (std::uint64_t{1} << 32U) - 1, product));
  EXPECT_EQ(product, 0xffff'ffff'0000'0000U);
  EXPECT_FALSE(checked_multiply(std::uint64_t{1} << 32U, std::uint64_t{1} << 32U, product));
  EXPECT_TRUE(checked_multiply(0, max64, product));
}

TEST(Bytes, CheckedAddSeesOverflow) {
  std::uint64_t sum = 0;
  EXPECT_TRUE(checked_add(max64 - 1, 1, sum));
  EXPECT_EQ(sum, max64);
  EXPECT_FALSE(checked_add(max64, 1, sum));
}

TEST(Dtype, HasTheNamesAndSizesOfTheSafetensorsReference) {
  constexpr std::array<std::pair<std::string_view, std::uint64_t>, 22> reference{
      {{"BOOL", 8},    {"F4", 4},      {"F6_E2M3", 6}, {"F6_E3M2", 6},     {"U8", 8},          {"I8", 8},
       {"F8_E5M2", 8}, {"F8_E4M3", 8}, {"F8_E8M0", 8}, {"F8_E4M3FNUZ", 8}, {"F8_E5M2FNUZ", 8}, {"I16", 16},
       {"U16", 16},    {"F16", 16},    {"BF16", 16},   {"I32", 32},        {"U32", 32},        {"F32", 32},
       {"C64", 64},    {"F64", 64},    {"I64", 64},    {"U64", 64}}};
  static_assert(dtype_count == reference.size());
  for (const auto& [spelling, size] : reference) {
    const auto type = parse_dtype(spelling);
    ASSERT_TRUE(type.has_value()) << spelling;
    EXPECT_EQ(name(*type), spelling);
    EXPECT_EQ(bits(*type), size) << spelling;
  }
}

TEST(Dtype, EnumeratorsAreTheirRows) {
  EXPECT_EQ(name(dtype::boolean), "BOOL");
  EXPECT_EQ(name(dtype::bf16), "BF16");
  EXPECT_EQ(name(dtype::f8_e5m2fnuz), "F8_E5M2FNUZ");
  EXPECT_EQ(name(dtype::c64), "C64");
  EXPECT_EQ(name(dtype::u64), "U64");
}

TEST(Dtype, OtherSpellingsAreNone) {
  for (const std::string_view text : {"", "bf16", "BF16 ", " BF16", "BF1", "BF166", "FLOAT", "F8"}) {
    EXPECT_FALSE(parse_dtype(text).has_value()) << text;
  }
}

TEST(Shape, IsPrintedAsAList) {
  EXPECT_EQ(to_string(shape{}), "[]");
  EXPECT_EQ(to_string(shape{8}), "[8]");
  EXPECT_EQ(to_string(shape{0, 17, 3}), "[0, 17, 3]");
}

TEST(Shape, HoldsAnyNumberOfDims) {
  std::vector<std::uint64_t> dims;
  shape before;
  for (std::uint64_t rank = 0; rank < 10; ++rank) {
    const shape extents(dims);
    EXPECT_EQ(extents.rank(), rank);
    EXPECT_EQ(extents.is_scalar(), rank == 0);
    EXPECT_EQ(std::vector<std::uint64_t>(extents.begin(), extents.end()), dims);
    shape copy = extents;
    EXPECT_EQ(copy, extents);
    EXPECT_TRUE(rank == 0 || copy != before);
    if (rank != 0) {
      copy[rank - 1] += 1;
      EXPECT_EQ(copy[rank - 1], dims.back() + 1);
      EXPECT_NE(copy, extents);
    }
    const shape moved = std::move(copy);
    EXPECT_EQ(moved.rank(), rank);
    before = extents;
    dims.push_back(rank + 7);
  }
}

TEST(Shape, IsAScalarOnceMovedFrom) {
  for (const std::size_t rank : {2U, 7U}) {
    const std::vector<std::uint64_t> dims(rank, 3);
    shape from(dims);
    const shape to = std::move(from);
    EXPECT_EQ(to, shape(dims));
    EXPECT_EQ(from, shape{});  // NOLINT(bugprone-use-after-move): that is what it says of itself
  }
}

TEST(Shape, IsAssignedWhateverItHeld) {
  const shape few{1, 2};
  const shape many{1, 2, 3, 4, 5, 6};
  for (const shape& held : {shape{}, few, many}) {
    for (const shape& given : {shape{}, few, many}) {
      shape copy = held;
      copy = given;
      EXPECT_EQ(copy, given);
      shape moved = held;
      moved = shape(given);
      EXPECT_EQ(moved, given);
      shape& itself = moved;
      moved = itself;
      EXPECT_EQ(moved, given);
    }
  }
}

TEST(Shape, ProductsGoLeftToRight) {
  constexpr std::uint64_t huge = std::uint64_t{1} << 63U;
  EXPECT_EQ(checked_elements(shape{}), 1U);
  EXPECT_EQ(checked_elements(shape{3, 4}), 12U);
  EXPECT_EQ(checked_elements(shape{0, huge, 4}), 0U);
  EXPECT_EQ(checked_elements(shape{huge, 4, 0}), std::nullopt);
  EXPECT_EQ(checked_elements(shape{huge, 2}), std::nullopt);
  EXPECT_EQ(checked_elements(shape{max64}), max64);
}

TEST(Shape, BytesAreCheckedForOverflowAndWholeness) {
  EXPECT_EQ(byte_size("a", dtype::f32, shape{}), 4U);
  EXPECT_EQ(byte_size("a", dtype::bf16, shape{3, 5}), 30U);
  EXPECT_EQ(byte_size("a", dtype::f4, shape{3, 2}), 3U);
  EXPECT_EQ(byte_size("a", dtype::f6_e2m3, shape{4}), 3U);
  EXPECT_EQ(byte_size("a", dtype::f64, shape{5, 0}), 0U);
  expect_error(errc::invalid_argument, "a", "the size of [1152921504606846976, 2] F64 overflows 64 bits", [] {
    static_cast<void>(byte_size("a", dtype::f64, shape{std::uint64_t{1} << 60U, 2}));
  });
  expect_error(errc::invalid_argument, "a", "[3] F4 is 12 bits, not a whole number of bytes",
               [] { static_cast<void>(byte_size("a", dtype::f4, shape{3})); });
}

TEST(Shape, SumsOfBytesAreCheckedForAllThatIsMadeOfThem) {
  total_bytes total;
  total.add("a", max64 - 1);
  total.add("b", 1);
  EXPECT_EQ(total.get(), max64);
  expect_error(errc::invalid_argument, "c",
               "its 1 bytes and those of the tensors before it add up to more than 64 bits can count;",
               [&] { total.add("c", 1); });
  total_bytes counted_often(std::uint64_t{1} << 32U);
  counted_often.add("a", std::uint64_t{1} << 30U, 1);
  EXPECT_EQ(counted_often.get(), std::uint64_t{1} << 31U);
  expect_error(errc::invalid_argument, "b", "", [&] { counted_often.add("b", std::uint64_t{1} << 30U, 3); });
  EXPECT_EQ(counted_often.get(), std::uint64_t{1} << 31U);
}

TEST(Error, SaysSubjectTextAndRank) {
  EXPECT_STREQ(error(errc::io, "", "broke").what(), "broke");
  EXPECT_STREQ(error(errc::io, "file", "broke").what(), "file: broke");
  EXPECT_STREQ(error(errc::io, "file", "broke", {.rank = 3}).what(), "file: broke (rank 3)");
  EXPECT_STREQ(error(errc::io, "file", "broke", {.rank = every_rank}).what(), "file: broke");
  EXPECT_STREQ(error(errc::io, "", "broke", {.rank = 0}).what(), "broke (rank 0)");
}

TEST(Error, DetailsFollowTheFirstLine) {
  EXPECT_STREQ(error(errc::io, "a", "two problems\n  a: one\n  b: two", {.rank = 1}).what(),
               "a: two problems (rank 1)\n  a: one\n  b: two");
}

TEST(Error, KeepsItsFacts) {
  const error made(errc::io, "a\nb", "broke", {.native_code = 5});
  EXPECT_EQ(made.subject(), "a\nb");
  EXPECT_EQ(made.text(), "broke");
  EXPECT_EQ(made.rank(), unknown_rank);
  EXPECT_EQ(made.native_code(), 5);
  EXPECT_STREQ(made.what(), "a\\nb: broke");
}

TEST(Error, IsReportedByTheFirstRankThatClaimsIt) {
  const error made(errc::io, "a", "broke", {.native_code = 5});
  const error reported = made.reported_by(2);
  EXPECT_EQ(reported.rank(), 2);
  EXPECT_EQ(reported.native_code(), 5);
  EXPECT_EQ(reported.reported_by(1).rank(), 2);
  EXPECT_EQ(error(errc::io, "", "", {.rank = every_rank}).reported_by(1).rank(), every_rank);
}

TEST(Error, CopiesShareTheTextsAndNeedNoMemory) {
  std::optional<error> original(std::in_place, errc::io, std::string(100, 's'), std::string(300, 't'),
                                error_facts{.rank = 3, .native_code = 5});
  const std::string what = original->what();
  const testing_support::failing_heap exhausted(0, testing_support::heap_fault::exhausted);
  const error copy = *original;  // NOLINT(performance-unnecessary-copy-initialization)
  std::optional<error> assigned = error::without_text(errc::device);
  assigned = copy;
  original.reset();
  EXPECT_EQ(copy.what(), what);
  EXPECT_EQ(assigned->subject(), std::string_view(what).substr(0, 100));
  EXPECT_EQ(assigned->text().size(), 300U);
  EXPECT_EQ(assigned->rank(), 3);
  EXPECT_EQ(assigned->native_code(), 5);
  EXPECT_FALSE(exhausted.has_failed());
}

TEST(Error, OfAnExhaustedHeapNeedsNoMemory) {
  const error made(errc::io, "file", "broke", {.native_code = 5});
  const testing_support::failing_heap exhausted(0, testing_support::heap_fault::exhausted);
  const error lost = error::without_text(errc::out_of_memory, {.rank = 2});
  EXPECT_EQ(std::string_view(lost.what()),
            "out of memory; use more ranks, smaller buckets, or a machine with more memory");
  EXPECT_EQ(lost.text(), lost.what());
  EXPECT_EQ(lost.subject(), "");
  EXPECT_EQ(lost.rank(), 2);
  EXPECT_EQ(error::without_text(errc::out_of_memory).reported_by(1).rank(), 1);
  if (testing_support::heap_is_a_seam) {
    EXPECT_THROW(error(errc::io, "file", "broke"), std::bad_alloc);
    const error reported = made.reported_by(1);
    EXPECT_EQ(reported.code(), errc::io);
    EXPECT_EQ(reported.rank(), 1);
    EXPECT_EQ(reported.native_code(), 5);
    EXPECT_NE(reported.text().find("no memory left for the text"), std::string_view::npos);
  }
}

TEST(Error, CodesHaveDistinctNames) {
  std::set<std::string_view> names;
  for (int code = 0; code <= static_cast<int>(errc::interrupted); ++code) {
    EXPECT_TRUE(names.insert(name(static_cast<errc>(code))).second) << code;
  }
  EXPECT_FALSE(names.contains("unknown"));
}

TEST(Text, ConcatTakesTextAndIntegers) {
  EXPECT_EQ(concat("a", std::string("b"), std::string_view("c"), 1, -2, max64), "abc1-218446744073709551615");
  EXPECT_EQ(concat(), "");
}

/// Whole groups of bytes are looked at at once: each byte, at each place in a group and behind it.
TEST(Printable, EscapesTheSameBytesWhereverTheyAre) {
  for (int byte = 0; byte < 256; ++byte) {
    const auto c = static_cast<char>(byte);
    const std::string alone = printable(std::string(1, c));
    EXPECT_EQ(alone.size() > 1, byte < 0x20 || byte == 0x7f || c == '\\') << byte;
    for (std::size_t at = 0; at < 20; ++at) {
      std::string name(20, 'x');
      name[at] = c;
      EXPECT_EQ(printable(name), std::string(at, 'x') + alone + std::string(19 - at, 'x')) << byte << " at " << at;
    }
  }
}

TEST(Text, ControlCharactersAreEscaped) {
  using namespace std::string_view_literals;
  EXPECT_EQ(printable("layers.0.weight"), "layers.0.weight");
  EXPECT_EQ(printable("a\nb\tc\rd\\e"), "a\\nb\\tc\\rd\\\\e");
  EXPECT_EQ(printable("\0\x1b\x7f"sv), "\\x00\\x1b\\x7f");
  EXPECT_EQ(printable("größe"), "größe");
}

TEST(Text, LongNamesLoseTheirMiddle) {
  const std::string name = std::string(150, 'a') + std::string(150, 'b');
  EXPECT_EQ(printable(name), std::string(100, 'a') + "...(300 bytes)..." + std::string(100, 'b'));
  EXPECT_EQ(printable(std::string(200, 'a')), std::string(200, 'a'));
  EXPECT_EQ(printable(name, 4), "aa...(300 bytes)...bb");
}

TEST(Text, LongNamesAreNotCutInsideACharacter) {
  std::string name;
  for (int i = 0; i < 200; ++i) {
    name += "\xe2\x82\xac";  // a euro sign, three bytes
  }
  const std::string shown = printable(name);
  EXPECT_EQ(shown, name.substr(0, 99) + "...(600 bytes)..." + name.substr(600 - 99));
}

// -- names

std::vector<std::size_t> sorted_order(const std::vector<std::string>& names) {
  std::vector<std::size_t> order;
  for (const detail::indexed_name& each :
       detail::in_name_order(names, [](const std::string& name) -> const std::string& { return name; })) {
    EXPECT_EQ(each.name, names[each.index]);
    order.push_back(each.index);
  }
  return order;
}

TEST(NameOrder, IsThatOfASortWhateverRunsTheyComeIn) {
  std::mt19937_64 random(testing_support::test_seed());
  for (std::size_t count = 0; count < 60; ++count) {
    for (const std::uint64_t alphabet : {2U, 1000U}) {  // with many equal names, and with few
      std::vector<std::string> names;
      for (std::size_t i = 0; i < count; ++i) {
        const bool counted = random() % 4 != 0;
        names.push_back(concat("experts.", counted ? i % alphabet : random() % alphabet));
      }
      std::vector<std::size_t> expected(count);
      std::iota(expected.begin(), expected.end(), 0U);
      std::stable_sort(expected.begin(), expected.end(),
                       [&](std::size_t a, std::size_t b) { return names[a] < names[b]; });
      EXPECT_EQ(sorted_order(names), expected);
    }
  }
}

TEST(Deadline, PassesAndNever) {
  EXPECT_TRUE(deadline::after(0).passed());
  EXPECT_TRUE(deadline::after(-1).passed());
  EXPECT_FALSE(deadline::after(100).passed());
  EXPECT_GT(deadline::after(100).remaining(), 90);
  EXPECT_FALSE(deadline::never().passed());
  EXPECT_TRUE(std::isinf(deadline::never().remaining()));
}

}  // namespace
}  // namespace core_test
