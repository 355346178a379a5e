#include <fsdpinit/concepts/state_dict_source.hpp>
#include <fsdpinit/sources/in_memory.hpp>
#include <support/expect_error.hpp>

#include <gtest/gtest.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace fsdpinit::in_memory_test {
namespace {

using testing_support::expect_error;

static_assert(StateDictSource<in_memory_source>);
static_assert(!SourceOpener<in_memory_source>);

using list = std::vector<in_memory_tensor>;

bytes_view bytes_of(std::string_view text) { return std::as_bytes(std::span(text)); }

TEST(in_memory_source, keeps_the_order_and_copies_any_range) {
  const in_memory_source source(list{{{"b", dtype::u8, {2, 3}}, bytes_of("abcdef")},
                                     {{"a", dtype::i16, {}}, bytes_of("gh")},
                                     {{"empty", dtype::f32, {0, 4}}, {}}});
  ASSERT_EQ(source.tensors().size(), 3U);
  EXPECT_EQ(source.tensors()[0], (tensor_descriptor{"b", dtype::u8, {2, 3}}));
  EXPECT_EQ(source.tensors()[1].name, "a");
  EXPECT_EQ(source.tensors()[2].name, "empty");

  std::array<char, 3> out{};
  source.read(0, 2, std::as_writable_bytes(std::span(out)));
  EXPECT_EQ(std::string_view(out.data(), 3), "cde");
  source.read(1, 1, std::as_writable_bytes(std::span(out).first(1)));
  EXPECT_EQ(out[0], 'h');
  source.read(2, 0, {});
  source.read(0, 6, {});
}

TEST(in_memory_source, may_be_empty) { EXPECT_TRUE(in_memory_source().tensors().empty()); }

TEST(in_memory_source, does_not_copy_what_it_was_given) {
  std::string bytes = "abcd";
  const in_memory_source source(list{{{"a", dtype::f32, {1}}, bytes_of(bytes)}});
  bytes[0] = 'x';
  std::array<char, 1> out{};
  source.read(0, 0, std::as_writable_bytes(std::span(out)));
  EXPECT_EQ(out[0], 'x');
}

TEST(in_memory_source, moving_keeps_the_addresses) {
  in_memory_source first(list{{{"a", dtype::u8, {1}}, bytes_of("x")}});
  const auto* address = first.tensors().data();
  const in_memory_source source(std::move(first));
  EXPECT_EQ(source.tensors().data(), address);
}

TEST(in_memory_source, a_wrong_size_is_rejected) {
  for (const std::string_view given : {"abc", "abcde", ""}) {
    SCOPED_TRACE(given);
    expect_error(errc::invalid_argument, "layer.weight",
                 concat("[2, 2] U8 takes 4 bytes, but ", given.size(), " were given"), [&] {
                   in_memory_source source(list{{{"layer.weight", dtype::u8, {2, 2}}, bytes_of(given)}});
                 });
  }
}

TEST(in_memory_source, a_repeated_name_is_rejected) {
  expect_error(errc::invalid_argument, "a", "given twice", [] {
    in_memory_source source(list{{{"a", dtype::u8, {1}}, bytes_of("x")},
                                 {{"b", dtype::u8, {1}}, bytes_of("x")},
                                 {{"a", dtype::u8, {1}}, bytes_of("x")}});
  });
}

TEST(in_memory_source, a_size_that_overflows_is_rejected) {
  expect_error(errc::invalid_argument, "a", "overflows 64 bits", [] {
    in_memory_source source(list{{{"a", dtype::u8, {std::uint64_t{1} << 63U, 4}}, {}}});
  });
}

TEST(in_memory_source, a_read_out_of_bounds_is_the_callers_bug) {
  const in_memory_source source(list{{{"a", dtype::u8, {4}}, bytes_of("abcd")}});
  std::array<std::byte, 4> out{};
  EXPECT_DEATH(source.read(1, 0, out), "");
  EXPECT_DEATH(source.read(0, 1, out), "");
  EXPECT_DEATH(source.read(0, 5, {}), "");
  EXPECT_DEATH(source.read(0, ~std::uint64_t{0}, std::span(out).first(2)), "");
}

}  // namespace
}  // namespace fsdpinit::in_memory_test
