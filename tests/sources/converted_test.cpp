#include "support/archetypes.hpp"
#include "support/expect_error.hpp"
#include "support/one_file_source.hpp"
#include "support/owned_tensors.hpp"
#include "support/reference_model.hpp"
#include <fsdpinit/core/float_conversion.hpp>
#include <fsdpinit/fsdpinit.hpp>
#include <fsdpinit/sources/adaptors.hpp>
#include <fsdpinit/sources/converted.hpp>
#include <fsdpinit/testing/laws.hpp>

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

namespace fsdpinit::converted_test {
namespace {

using rules::make;
using rules::rule_set;
using testing_support::contents;
using testing_support::contents_of;
using testing_support::expect_error;
using testing_support::minimal_casting_source;
using testing_support::minimal_source;
using testing_support::one_file_source;
using testing_support::text_source;
using testing_support::texts;

/// The characters of a text as a matrix of that many rows, transposed.
rules::node transposed(std::string name, std::uint64_t rows) {
  return rules::rearrange("(row column) -> (column row)", std::move(name), {{"row", rows}});
}

/// One tensor of elements that own their bytes.
struct one_tensor {
  one_tensor(dtype type, shape extents)
      : bytes(testing_support::content_for("w", *checked_elements(extents) * bits(type) / 8)),
        descriptor{.name = "w", .dtype = type, .shape = std::move(extents)} {}
  [[nodiscard]] in_memory_source source() const { return in_memory_source({{descriptor, bytes}}); }

  std::vector<std::byte> bytes;
  tensor_descriptor descriptor;
};

std::vector<std::byte> whole(auto& source, std::size_t tensor) {
  std::vector<std::byte> out(byte_size(source.tensors()[tensor]));
  source.read(tensor, 0, out);
  return out;
}

/// Counts requests, and bytes read.
struct counting_source : text_source {
  using text_source::text_source;
  void read(std::size_t tensor, std::uint64_t offset, mutable_bytes to) {
    ++requests;
    bytes += to.size();
    text_source::read(tensor, offset, to);
  }
  std::uint64_t requests = 0;
  std::uint64_t bytes = 0;
};

TEST(Converted, ShowsWhatRulesMakeAndKeepInTheOrderInWhichItIsStored) {
  auto source = texts({{"a.k", "kk"}, {"other", "o"}, {"a.q", "qqqq"}, {"a.v", "vv"}, {"gone", "g"}}) |
                converted(rule_set{make("a.qkv", rules::concat(0, {"a.q", "a.k", "a.v"})), rules::drop("gone")});
  EXPECT_EQ(contents_of(source), (contents{{"a.qkv", "qqqqkkvv"}, {"other", "o"}}));
}

TEST(Converted, StacksInTheOrderOfNumbers) {
  auto source = texts({{"e.1.w", "bb"}, {"e.0.w", "aa"}, {"e.2.w", "cc"}}) |
                converted(rule_set{make("e.w", rules::stack("n", "e.{n}.w"))});
  EXPECT_EQ(contents_of(source), (contents{{"e.w", "aabbcc"}}));
  EXPECT_EQ(source.tensors()[0].shape, (shape{3, 2}));
}

TEST(Converted, TransposesAndPads) {
  auto source = texts({{"w", "abcdef"}, {"v", "xyz"}}) |
                converted(rule_set{make("t", transposed("w", 2)), make("p", rules::pad(0, 5, "v", '.'))});
  EXPECT_EQ(contents_of(source), (contents{{"t", "adbecf"}, {"p", "xyz.."}}));
}

TEST(Converted, KeepsTheLaws) {
  auto of_texts = texts({{"w", std::string(900, 'w')}, {"v", "xyzuvw"}, {"k", "kept"}}) |
                  converted(rule_set{make("t", transposed("w", 30)), make("p", rules::pad(0, 50, "v", '.'))});
  EXPECT_EQ(testing::check_source(of_texts), testing::violations{});
  const one_tensor matrix(dtype::f32, {60, 40});
  auto of_floats = one_file_source(matrix.source()) |
                   converted(rule_set{make("t", rules::permute({1, 0}, rules::cast(dtype::bf16, "w")))});
  EXPECT_EQ(testing::check_source(of_floats), testing::violations{});
  auto of_rows = one_file_source(matrix.source()) | converted(rule_set{make("top", rules::slice(0, 0, 20, "w")),
                                                                       make("rest", rules::slice(0, 20, 60, "w"))});
  EXPECT_EQ(testing::check_source(of_rows), testing::violations{});
  auto of_casts = matrix.source() | cast(dtype::bf16) | converted(rule_set{make("t", rules::permute({1, 0}, "w"))}) |
                  renamed("t", "u");
  EXPECT_EQ(testing::check_source(of_casts), testing::violations{});
  auto cast_after = matrix.source() | converted(rule_set{make("t", rules::permute({1, 0}, "w"))}) | cast(dtype::f16);
  EXPECT_EQ(testing::check_source(cast_after), testing::violations{});
}

TEST(Converted, TakesTheLeastThatIsASource) {
  const testing_support::reference_model model = testing_support::varied_model();
  const in_memory_source plain = model.source();
  const std::string first = plain.tensors()[0].name;
  auto source = minimal_source(model.source()) | converted(rule_set{make("made", first)});
  EXPECT_EQ(source.tensors()[0].name, "made");
  in_memory_source again = model.source();
  EXPECT_EQ(whole(source, 0), whole(again, 0));
}

TEST(Converted, OpensWhatAnOpenerOpens) {
  auto opener = [] {
    return texts({{"a", "A"}, {"b", "B"}});
  } | converted(rule_set{make("ab", rules::concat(0, {"a", "b"}))});
  auto source = opener();
  EXPECT_EQ(contents_of(source), (contents{{"ab", "AB"}}));
}

TEST(Converted, ReadsWhatLiesInOneTensorFromWhereItIs) {
  const one_tensor matrix(dtype::bf16, {6, 5});
  auto source = one_file_source(matrix.source()) |
                converted(rule_set{make("flat", rules::rearrange("a b -> (a b)", rules::slice(0, 0, 2, "w"))),
                                   make("rest", rules::slice(0, 2, 6, "w"))});
  EXPECT_EQ(source.position_of(0), (file_position{.file = 0, .offset = 10}));
  EXPECT_EQ(source.position_of(1), (file_position{.file = 0, .offset = 10 + 2 * 5 * 2}));
  EXPECT_EQ(source.tile_bytes(0), 0U);
  EXPECT_EQ(source.stored_name(1), "w");
}

TEST(Converted, HasNoPlaceInFilesForWhatIsPutTogether) {
  const one_tensor matrix(dtype::bf16, {6, 5});
  auto source = one_file_source(matrix.source()) | converted(rule_set{make("t", rules::permute({1, 0}, "w"))});
  EXPECT_EQ(source.position_of(0), std::nullopt);
  EXPECT_EQ(source.tile_bytes(0), decltype(source)::best_tile_bytes);
}

TEST(Converted, ReadsLongRunsInPlaceAndEachByteOnce) {
  const std::string row(32 * kib, 'x');
  counting_source below(contents{{"a", row}, {"b", row}, {"c", row}});
  auto source = below | converted(rule_set{make("abc", rules::concat(0, {"a", "b", "c"}))});
  static_cast<void>(whole(source, 0));
  EXPECT_EQ(below.requests, 3U);
  EXPECT_EQ(below.bytes, 3 * row.size());
  EXPECT_EQ(source.tile_bytes(0), 0U);
}

TEST(Converted, ReadsATransposedTensorATileAtATime) {
  counting_source below(contents{{"w", std::string(64 * kib, 'x')}});
  auto source = below | converted(rule_set{make("t", transposed("w", 256))});
  std::vector<std::byte> out(64 * kib);
  std::vector<std::byte> tile(16 * kib);
  source.read_runs(0, {.offset = 0, .run = out.size(), .stride = 0, .count = 1}, out, tile);
  EXPECT_EQ(below.requests, 4U);
  EXPECT_EQ(below.bytes, out.size());
}

TEST(Converted, ReadsThePartsOfRowsTogether) {
  const std::string stored(64 * kib, 'x');  // 256 rows; made: 256 columns, of which a rank has half of each
  counting_source below(contents{{"w", stored}});
  auto source = below | converted(rule_set{make("t", transposed("w", 256))});
  std::vector<std::byte> out(32 * kib);
  std::vector<std::byte> tile(64 * kib);
  source.read_runs(0, {.offset = 0, .run = 128, .stride = 256, .count = 256}, out, tile);
  EXPECT_EQ(below.requests, 1U);
  EXPECT_EQ(below.bytes, out.size());
}

TEST(Converted, NamesAllThatATensorIsMadeOf) {
  auto source = texts({{"q", "q"}, {"k", "k"}}) | converted(rule_set{make("qk", rules::concat(0, {"q", "k"}))});
  EXPECT_EQ(source.stored_name(0), R"("q", "k")");
}

TEST(Converted, AnErrorOfReadingNamesWhatIsMadeAndWhatIsStored) {
  struct broken : text_source {
    using text_source::text_source;
    void read(std::size_t tensor, std::uint64_t, mutable_bytes) {
      throw error(errc::io, tensors()[tensor].name, "is gone", {.rank = 3, .native_code = 7});
    }
  };
  auto source =
      broken(contents{{"q", "q"}, {"k", "k"}}) | converted(rule_set{make("qk", rules::concat(0, {"q", "k"}))});
  expect_error(errc::io, "qk", "(in the checkpoint: q) is gone", [&] { static_cast<void>(whole(source, 0)); });
}

TEST(Converted, AnElementThatNoRuleUsesIsAnErrorBeforeAnythingIsRead) {
  counting_source below(contents{{"w", "abcdef"}});
  expect_error(errc::invalid_argument, "", "[4:6] of \"w\" U8 [6] is used by nothing",
               [&] { static_cast<void>(below | converted(rule_set{make("half", rules::slice(0, 0, 4, "w"))})); });
  EXPECT_EQ(below.requests, 0U);
}

TEST(Converted, CountsWhatARuleCastsToInfinity) {
  const std::vector<float> values{1.0F, 1e30F, -1e30F, 3.0F};
  std::vector<std::byte> bytes(16);
  std::memcpy(bytes.data(), values.data(), bytes.size());
  in_memory_source plain({{{.name = "w", .dtype = dtype::f32, .shape = {4}}, bytes}});
  auto source = plain | converted(rule_set{make("h", rules::cast(dtype::f16, "w"))});
  std::vector<std::byte> half(8);
  for (std::size_t at = 0; at < 8; ++at) {  // byte by byte: each element counts once
    source.read(0, at, mutable_bytes(half).subspan(at, 1));
  }
  EXPECT_EQ(source.overflows(0), 2U);
  EXPECT_EQ(source.stored_dtype(0), dtype::f16);
}

TEST(Converted, CountsWhatCastsBelowItMakeInfiniteOnce) {
  const std::vector<float> values{1e30F, 2.0F, 1e30F, 3.0F};
  std::vector<std::byte> bytes(16);
  std::memcpy(bytes.data(), values.data(), bytes.size());
  in_memory_source plain({{{.name = "w", .dtype = dtype::f32, .shape = {4}}, bytes}});
  auto source = plain | cast(dtype::f16) |
                converted(rule_set{make("a", rules::slice(0, 0, 2, "w")), make("b", rules::slice(0, 2, 4, "w"))});
  static_cast<void>(whole(source, 0));
  static_cast<void>(whole(source, 1));
  EXPECT_EQ(source.overflows(0) + source.overflows(1), 2U);
}

TEST(Converted, ShowsCastsOfTheSourceWhereATensorLiesInOne) {
  const one_tensor matrix(dtype::f32, {4, 4});
  auto source = matrix.source() | cast(dtype::bf16) |
                converted(rule_set{make("top", rules::slice(0, 0, 1, "w")), make("rest", rules::slice(0, 1, 4, "w"))});
  EXPECT_EQ(source.stored_dtype(1), dtype::f32);
  std::vector<std::byte> stored(48);
  source.read_stored(1, 0, stored);
  EXPECT_EQ(std::memcmp(stored.data(), matrix.bytes.data() + 16, stored.size()), 0);
}

}  // namespace
}  // namespace fsdpinit::converted_test
