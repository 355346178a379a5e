#include <fsdpinit/os/output_file.hpp>
#include <fsdpinit/sources/safetensors.hpp>
#include <fsdpinit/sources/safetensors_writer.hpp>
#include <support/expect_error.hpp>
#include <support/temp_dir.hpp>

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace fsdpinit::safetensors_writer_test {
namespace {

using testing_support::expect_error;
using testing_support::temp_dir;
using descriptors = std::vector<tensor_descriptor>;

safetensors_header parse(const safetensors_layout& layout) {
  return parse_safetensors_header("f", std::string_view(layout.header).substr(8), layout.file_bytes);
}

TEST(safetensors_layout, of_no_tensors_is_an_empty_object_of_8_bytes) {
  const safetensors_layout layout = lay_out_safetensors({});
  EXPECT_EQ(layout.header, std::string("\x08\0\0\0\0\0\0\0{}      ", 16));
  EXPECT_EQ(layout.file_bytes, 16U);
  EXPECT_TRUE(parse(layout).tensors.empty());
}

TEST(safetensors_layout, is_spelled_out) {
  const safetensors_layout layout =
      lay_out_safetensors(descriptors{{"b", dtype::bf16, {2, 3}}, {"a", dtype::f32, {}}}, {{"k", "v"}, {"f", "pt"}});
  EXPECT_EQ(layout.header.substr(8),
            R"({"__metadata__":{"f":"pt","k":"v"},"b":{"dtype":"BF16","shape":[2,3],"data_offsets":[0,12]},)"
            R"("a":{"dtype":"F32","shape":[],"data_offsets":[12,16]}})"
            "      ");
  EXPECT_EQ(layout.begin, (std::vector<std::uint64_t>{layout.header.size(), layout.header.size() + 12}));
  EXPECT_EQ(layout.file_bytes, layout.header.size() + 16);
}

TEST(safetensors_layout, data_begin_at_a_multiple_of_8) {
  for (std::size_t length = 1; length <= 16; ++length) {
    SCOPED_TRACE(length);
    const safetensors_layout layout = lay_out_safetensors(descriptors{{std::string(length, 'n'), dtype::u8, {3}}});
    EXPECT_EQ(layout.header.size() % 8, 0U);
    EXPECT_EQ(layout.begin, std::vector<std::uint64_t>{layout.header.size()});
    EXPECT_EQ(parse(layout).tensors.size(), 1U);
  }
}

TEST(safetensors_layout, parses_back_to_what_it_was_made_of) {
  descriptors tensors;
  for (std::size_t i = 0; i < dtype_count; ++i) {
    tensors.push_back({concat("t", i), static_cast<dtype>(i), {i % 3, 8}});
  }
  tensors.push_back({"", dtype::f64, {}});
  tensors.push_back({std::string("\0\n\"\\\x7f/", 6), dtype::u8, {0}});
  tensors.push_back({"\xc3\xa9\xf0\x9f\x98\x80", dtype::f4, {2, 5}});
  const std::map<std::string, std::string> metadata{{"", ""}, {"a\"\n", R"({"shape":[1]})"}, {"\xe2\x82\xac", "\t"}};
  const safetensors_layout layout = lay_out_safetensors(tensors, metadata);
  const safetensors_header header = parse(layout);
  ASSERT_EQ(header.tensors.size(), tensors.size());
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    EXPECT_EQ(header.tensors[i].descriptor, tensors[i]);
    EXPECT_EQ(header.tensors[i].begin, layout.begin[i]);
    EXPECT_EQ(header.tensors[i].end - header.tensors[i].begin, byte_size(tensors[i]));
  }
  EXPECT_EQ(header.metadata, metadata);
}

TEST(safetensors_layout, written_and_read_back_gives_the_same_bytes) {
  const temp_dir dir;
  const descriptors tensors{{"b", dtype::u8, {3}}, {"empty", dtype::f32, {0, 8}}, {"a", dtype::i16, {2}}};
  const std::vector<std::string> data{"xyz", "", "abcd"};
  const safetensors_layout layout = lay_out_safetensors(tensors, {{"format", "pt"}});
  output_file file(dir / "f.safetensors");
  file.write_all(std::as_bytes(std::span(layout.header)));
  for (const std::string& bytes : data) {
    file.write_all(std::as_bytes(std::span(bytes)));
  }
  file.close();

  const safetensors_source source = open_safetensors(file.path());
  ASSERT_EQ(source.tensors().size(), 3U);
  for (std::size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(source.tensors()[i], tensors[i]);
    EXPECT_EQ(source.place_of(i).begin, layout.begin[i]);
    std::string out(data[i].size(), '?');
    source.read(i, 0, std::as_writable_bytes(std::span(out)));
    EXPECT_EQ(out, data[i]);
  }
  EXPECT_EQ(source.files()[0].bytes, layout.file_bytes);
  EXPECT_EQ(source.files()[0].metadata.at("format"), "pt");
}

TEST(safetensors_layout, a_repeated_name_is_rejected) {
  expect_error(errc::invalid_argument, "a", "given twice", [] {
    static_cast<void>(lay_out_safetensors(descriptors{{"a", dtype::u8, {1}}, {"a", dtype::u8, {1}}}));
  });
}

TEST(safetensors_layout, the_name_of_the_metadata_is_rejected) {
  expect_error(errc::invalid_argument, "__metadata__", "is no tensor name", [] {
    static_cast<void>(lay_out_safetensors(descriptors{{"__metadata__", dtype::u8, {1}}}));
  });
}

TEST(safetensors_layout, what_is_not_utf8_is_rejected) {
  expect_error(errc::invalid_argument, "\xff", "is not UTF-8", [] {
    static_cast<void>(lay_out_safetensors(descriptors{{"\xff", dtype::u8, {1}}}));
  });
  expect_error(errc::invalid_argument, "\xc3", "is not UTF-8", [] {
    static_cast<void>(lay_out_safetensors({}, {{"k", "\xc3"}}));
  });
  expect_error(errc::invalid_argument, "\x80", "is not UTF-8", [] {
    static_cast<void>(lay_out_safetensors({}, {{"\x80", "v"}}));
  });
}

TEST(safetensors_layout, half_bytes_are_rejected) {
  expect_error(errc::invalid_argument, "a", "whole number of bytes", [] {
    static_cast<void>(lay_out_safetensors(descriptors{{"a", dtype::f4, {3}}}));
  });
}

TEST(safetensors_layout, sizes_that_overflow_are_rejected) {
  constexpr std::uint64_t large = (std::uint64_t{1} << 61U) - 1;
  expect_error(errc::invalid_argument, "a", "overflows 64 bits", [] {
    static_cast<void>(lay_out_safetensors(descriptors{{"a", dtype::f32, {large}}}));
  });
  descriptors tensors;
  for (int i = 0; i < 9; ++i) {
    tensors.push_back({concat(i), dtype::u8, {large}});
  }
  expect_error(errc::invalid_argument, "8", "the file would overflow 64 bits",
               [&] { static_cast<void>(lay_out_safetensors(tensors)); });
  tensors.pop_back();
  expect_error(errc::invalid_argument, "", "would overflow 64 bits",
               [&] { static_cast<void>(lay_out_safetensors(tensors)); });
}

TEST(safetensors_layout, a_header_above_the_limit_is_rejected) {
  std::map<std::string, std::string> metadata;
  metadata["k"].resize(100'000'000, 'v');
  expect_error(errc::invalid_argument, "", "100000000 are allowed",
               [&] { static_cast<void>(lay_out_safetensors({}, metadata)); });
}

}  // namespace
}  // namespace fsdpinit::safetensors_writer_test
