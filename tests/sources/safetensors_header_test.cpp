#include <fsdpinit/sources/safetensors_header.hpp>
#include <support/expect_error.hpp>
#include <support/safetensors_bytes.hpp>
#include <support/sanitizers.hpp>

#include <gtest/gtest.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <ostream>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace fsdpinit::safetensors_header_test {
namespace {

using testing_support::expect_error;
using testing_support::safetensors_bytes;
using testing_support::safetensors_entry_json;

/// Parses `json` as the header of a file with `data_bytes` bytes of data.
safetensors_header parse(std::string_view json, std::uint64_t data_bytes) {
  return parse_safetensors_header("f.safetensors", json, 8 + json.size() + data_bytes);
}

std::uint64_t length_of(std::string_view file_start, std::uint64_t file_bytes) {
  return safetensors_header_length("f.safetensors", std::as_bytes(std::span(file_start)), file_bytes);
}

std::string with(std::string_view extra) {
  return std::string(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4])") + std::string(extra) + "}}";
}

std::string nested(std::size_t levels) { return std::string(levels, '[') + std::string(levels, ']'); }

// -- the length

TEST(safetensors_length, is_little_endian) {
  EXPECT_EQ(length_of(std::string("\x01\x02\x03\0\0\0\0\0", 8), 1'000'000), 0x030201U);
}

TEST(safetensors_length, zero_is_a_length) { EXPECT_EQ(length_of(std::string(8, '\0'), 8), 0U); }

TEST(safetensors_length, a_hundred_million_is_allowed) {
  EXPECT_EQ(length_of(safetensors_bytes("", "", 100'000'000), 100'000'008), 100'000'000U);
}

TEST(safetensors_length, one_more_than_a_hundred_million_is_rejected) {
  expect_error(errc::invalid_file, "f.safetensors", "a header of 100000001 bytes, more than the 100000000 allowed",
               [] { static_cast<void>(length_of(safetensors_bytes("", "", 100'000'001), 100'000'009)); });
}

TEST(safetensors_length, the_largest_length_does_not_overflow) {
  expect_error(errc::invalid_file, "f.safetensors", "18446744073709551615",
               [] { static_cast<void>(length_of(std::string(8, '\xff'), 8)); });
}

TEST(safetensors_length, files_shorter_than_the_length_are_rejected) {
  for (const std::uint64_t bytes : {0U, 1U, 7U}) {
    SCOPED_TRACE(bytes);
    expect_error(errc::invalid_file, "f.safetensors",
                 concat("has ", bytes, " bytes, a safetensors file has at least 8"),
                 [&] { static_cast<void>(length_of("{}", bytes)); });
  }
}

TEST(safetensors_length, may_reach_the_end_of_the_file_and_no_further) {
  EXPECT_EQ(length_of(safetensors_bytes("", "", 10), 18), 10U);
  expect_error(errc::invalid_file, "f.safetensors", "should have 10 bytes, but only 9 follow",
               [] { static_cast<void>(length_of(safetensors_bytes("", "", 10), 17)); });
}

// -- what is legal

struct legal {
  std::string name;
  std::string json;
  std::uint64_t data_bytes;
  std::vector<std::string> tensors;  ///< names in the order of their data

  friend std::ostream& operator<<(std::ostream& out, const legal& row) { return out << row.name; }
};

class legal_header : public ::testing::TestWithParam<legal> {};

TEST_P(legal_header, is_accepted) {
  const safetensors_header header = parse(GetParam().json, GetParam().data_bytes);
  std::vector<std::string> names;
  for (const safetensors_entry& entry : header.tensors) {
    names.push_back(entry.descriptor.name);
  }
  EXPECT_EQ(names, GetParam().tensors);
}

const auto e = safetensors_entry_json;

INSTANTIATE_TEST_SUITE_P(
    rules, legal_header,
    ::testing::ValuesIn(std::vector<legal>{
        {"no_tensors", "{}", 0, {}},
        {"leading_white_space", " \t\r\n{}", 0, {}},
        {"trailing_white_space", "{} \t\r\n", 0, {}},
        {"white_space_within",
         "{ \"a\" : { \"dtype\" :\n\"U8\" , \"shape\":[ 1 ],\t\"data_offsets\":[0 ,1] } }",
         1,
         {"a"}},
        {"scalar", "{" + e("a", "F32", "[]", "[0,4]") + "}", 4, {"a"}},
        {"zero_size", "{" + e("a", "F32", "[0]", "[0,0]") + "}", 0, {"a"}},
        {"zero_size_in_the_middle",
         "{" + e("c", "U8", "[1]", "[1,2]") + "," + e("b", "F32", "[3,0]", "[1,1]") + "," +
             e("a", "U8", "[1]", "[0,1]") + "}",
         2,
         {"a", "b", "c"}},
        {"zero_size_at_the_end",
         "{" + e("b", "F32", "[0]", "[1,1]") + "," + e("a", "U8", "[1]", "[0,1]") + "}",
         1,
         {"a", "b"}},
        {"zero_sizes_at_one_place_stay_in_header_order",
         "{" + e("z", "F32", "[0]", "[0,0]") + "," + e("a", "F32", "[0]", "[0,0]") + "}",
         0,
         {"z", "a"}},
        {"header_order_unlike_offset_order",
         "{" + e("a", "U8", "[2]", "[4,6]") + "," + e("b", "F32", "[1]", "[0,4]") + "}",
         6,
         {"b", "a"}},
        {"unaligned_offsets",
         "{" + e("a", "U8", "[1]", "[0,1]") + "," + e("b", "F64", "[2]", "[1,17]") + "}",
         17,
         {"a", "b"}},
        {"fields_in_another_order", R"({"a":{"data_offsets":[0,4],"shape":[1],"dtype":"F32"}})", 4, {"a"}},
        {"unknown_extra_fields", with(R"(,"x":1,"y":"s","z":null,"t":true,"f":-2.5e-3,"n":-7)"), 4, {"a"}},
        {"unknown_extra_fields_nested", with(R"(,"x":{"dtype":"?","shape":[{"a":[]}],"data_offsets":1})"), 4, {"a"}},
        {"unknown_extra_field_twice", with(R"(,"x":1,"x":2)"), 4, {"a"}},
        {"unknown_extra_field_minus_zero", with(R"(,"x":-0)"), 4, {"a"}},
        {"unknown_extra_field_above_64_bits", with(R"(,"x":18446744073709551616)"), 4, {"a"}},
        {"nesting_of_127", with(R"(,"x":)" + nested(125)), 4, {"a"}},
        {"empty_name", "{" + e("", "U8", "[1]", "[0,1]") + "}", 1, {""}},
        {"escaped_name",
         "{" + e(R"(\u0061\u0000\ud83d\ude00\n\/)", "U8", "[1]", "[0,1]") + "}",
         1,
         {std::string("a\0\xf0\x9f\x98\x80\n/", 8)}},
        {"utf8_name",
         "{" + e("\xc3\xa9\xe2\x82\xac\xf4\x8f\xbf\xbf\xef\xbb\xbf", "U8", "[1]", "[0,1]") + "}",
         1,
         {"\xc3\xa9\xe2\x82\xac\xf4\x8f\xbf\xbf\xef\xbb\xbf"}},
        {"escaped_field_names", R"({"a":{"dt\u0079pe":"U8","sh\u0061pe":[1],"data\u005foffsets":[0,1]}})", 1, {"a"}},
        {"escaped_dtype", R"({"a":{"dtype":"\u0055\u0038","shape":[1],"data_offsets":[0,1]}})", 1, {"a"}},
        {"name_like_the_metadata", "{" + e("__metadata", "U8", "[1]", "[0,1]") + "}", 1, {"__metadata"}},
        {"empty_metadata", R"({"__metadata__":{}})", 0, {}},
        {"null_metadata", R"({"__metadata__":null})", 0, {}},
        {"null_metadata_before_a_tensor", R"({"__metadata__":null,)" + e("a", "U8", "[1]", "[0,1]") + "}", 1, {"a"}},
        {"metadata_after_the_tensors", "{" + e("a", "U8", "[1]", "[0,1]") + R"(,"__metadata__":{"k":"v"}})", 1, {"a"}},
        {"zero_dimension_before_a_huge_one", "{" + e("a", "F32", "[0,9223372036854775808,4]", "[0,0]") + "}", 0, {"a"}},
        {"the_largest_dimension", "{" + e("a", "F32", "[0,18446744073709551615]", "[0,0]") + "}", 0, {"a"}},
        {"sub_byte_whole_bytes",
         "{" + e("a", "F4", "[2]", "[0,1]") + "," + e("b", "F6_E2M3", "[2,2]", "[1,4]") + "}",
         4,
         {"a", "b"}},
        {"sub_byte_zero_size", "{" + e("a", "F6_E3M2", "[0,3]", "[0,0]") + "}", 0, {"a"}},
    }),
    [](const auto& row) { return row.param.name; });

TEST(safetensors_header, offsets_are_counted_from_the_start_of_the_file) {
  const std::string json = "{" + e("b", "U8", "[2]", "[4,6]") + "," + e("a", "F32", "[1]", "[0,4]") + "}   ";
  const safetensors_header header = parse(json, 6);
  ASSERT_EQ(header.tensors.size(), 2U);
  EXPECT_EQ(header.tensors[0].begin, 8 + json.size());
  EXPECT_EQ(header.tensors[0].end, 12 + json.size());
  EXPECT_EQ(header.tensors[1].begin, 12 + json.size());
  EXPECT_EQ(header.tensors[1].end, 14 + json.size());
}

TEST(safetensors_header, gives_dtypes_and_shapes) {
  const safetensors_header header =
      parse("{" + e("m", "BF16", "[2,3]", "[0,12]") + "," + e("s", "I64", "[]", "[12,20]") + "}", 20);
  ASSERT_EQ(header.tensors.size(), 2U);
  EXPECT_EQ(header.tensors[0].descriptor, (tensor_descriptor{"m", dtype::bf16, {2, 3}}));
  EXPECT_EQ(header.tensors[1].descriptor, (tensor_descriptor{"s", dtype::i64, {}}));
}

TEST(safetensors_header, gives_the_metadata) {
  const safetensors_header header = parse(R"({"__metadata__":{"format":"pt","":"","\u00e9":"a\nb"}})", 0);
  EXPECT_EQ(header.metadata, (std::map<std::string, std::string>{{"format", "pt"}, {"", ""}, {"\xc3\xa9", "a\nb"}}));
}

TEST(safetensors_header, of_a_metadata_key_given_twice_the_last_counts_as_in_the_reference) {
  EXPECT_EQ(parse(R"({"__metadata__":{"a":"1","a":"2"}})", 0).metadata.at("a"), "2");
}

TEST(safetensors_header, knows_all_22_dtypes) {
  constexpr std::array<std::string_view, 22> names{
      "BOOL", "F4",  "F6_E2M3", "F6_E3M2", "U8",  "I8",  "F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ",
      "I16",  "U16", "F16",     "BF16",    "I32", "U32", "F32",     "C64",     "F64",     "I64",         "U64"};
  constexpr std::array<std::uint64_t, 22> bytes_of_8{8,  4,  6,  6,  8,  8,  8,  8,  8,  8,  8,
                                                     16, 16, 16, 16, 32, 32, 32, 64, 64, 64, 64};
  for (std::size_t i = 0; i < names.size(); ++i) {
    SCOPED_TRACE(names[i]);
    const auto header = parse("{" + e("a", names[i], "[8]", concat("[0,", bytes_of_8[i], "]")) + "}", bytes_of_8[i]);
    ASSERT_EQ(header.tensors.size(), 1U);
    EXPECT_EQ(name(header.tensors[0].descriptor.dtype), names[i]);
  }
}

// -- what is not

struct illegal {
  std::string name;
  std::string json;
  std::uint64_t data_bytes;
  std::string piece;  ///< of the error's text

  friend std::ostream& operator<<(std::ostream& out, const illegal& row) { return out << row.name; }
};

class illegal_header : public ::testing::TestWithParam<illegal> {};

TEST_P(illegal_header, is_rejected) {
  expect_error(errc::invalid_file, "f.safetensors", GetParam().piece,
               [] { static_cast<void>(parse(GetParam().json, GetParam().data_bytes)); });
}

const auto case_name = [](const auto& row) { return row.param.name; };

INSTANTIATE_TEST_SUITE_P(text, illegal_header,
                         ::testing::ValuesIn(std::vector<illegal>{
                             {"byte_order_mark", "\xef\xbb\xbf{}", 0, "byte order mark"},
                             {"byte_order_mark_after_white_space", " \xef\xbb\xbf{}", 0, "not valid JSON at byte 2"},
                             {"half_a_byte_order_mark", "\xef\xbb{}", 0, "not UTF-8 at byte 0"},
                             {"utf16", std::string("{\0}\0", 4), 0, "NUL at byte 1"},
                             {"nul_padding", std::string("{}\0\0", 4), 0, "NUL at byte 2"},
                             {"nul_before", std::string("\0{}", 3), 0, "NUL at byte 0"},
                             {"nul_in_a_name", std::string("{\"\0\":1}", 7), 0, "NUL at byte 2"},
                             {"lone_continuation_byte", "{\"\x80\":1}", 0, "not UTF-8 at byte 2"},
                             {"truncated_sequence", "{\"\xc3\":1}", 0, "not UTF-8 at byte 2"},
                             {"sequence_cut_by_the_end", "{}\xe2\x82", 0, "not UTF-8 at byte 2"},
                             {"overlong_two_bytes", "{\"\xc0\x80\":1}", 0, "not UTF-8 at byte 2"},
                             {"overlong_three_bytes", "{\"\xe0\x9f\xbf\":1}", 0, "not UTF-8 at byte 2"},
                             {"overlong_four_bytes", "{\"\xf0\x8f\xbf\xbf\":1}", 0, "not UTF-8 at byte 2"},
                             {"encoded_surrogate", "{\"\xed\xa0\x80\":1}", 0, "not UTF-8 at byte 2"},
                             {"above_the_last_code_point", "{\"\xf4\x90\x80\x80\":1}", 0, "not UTF-8 at byte 2"},
                             {"not_utf8_in_an_ignored_field", with(",\"x\":\"\xff\""), 4, "not UTF-8"},
                             {"empty", "", 0, "not valid JSON"},
                             {"only_white_space", "   ", 0, "not valid JSON"},
                             {"unfinished", "{", 0, "not valid JSON"},
                             {"trailing_characters", "{}x", 0, "not valid JSON at byte 3"},
                             {"two_objects", "{}{}", 0, "not valid JSON at byte 3"},
                             {"trailing_comma", "{" + e("a", "U8", "[1]", "[0,1]") + ",}", 1, "not valid JSON"},
                             {"comment", "{/**/}", 0, "not valid JSON"},
                             {"vertical_tab", "\v{}", 0, "not valid JSON at byte 1"},
                             {"non_breaking_space", "{}\xc2\xa0", 0, "not valid JSON at byte 3"},
                             {"unquoted_key", "{a:1}", 0, "not valid JSON"},
                             {"single_quotes", "{'a':1}", 0, "not valid JSON"},
                             {"lone_surrogate", with(R"(,"x":"\ud800")"), 4, "not valid JSON"},
                             {"control_character_in_a_string", "{\"\n\":1}", 0, "not valid JSON"},
                             {"nan", with(R"(,"x":NaN)"), 4, "not valid JSON"},
                             {"number_above_double", with(R"(,"x":1e999)"), 4, "number overflow"},
                             {"leading_zero", "{" + e("a", "U8", "[01]", "[0,1]") + "}", 1, "not valid JSON"},
                             {"plus_sign", "{" + e("a", "U8", "[+1]", "[0,1]") + "}", 1, "not valid JSON"},
                             {"hexadecimal", "{" + e("a", "U8", "[0x1]", "[0,1]") + "}", 1, "not valid JSON"},
                             {"nesting_of_128", with(R"(,"x":)" + nested(126)), 4, "nests 128 levels"},
                             {"nesting_of_100000_objects",
                              with(R"(,"x":)" +
                                   [] {
                                     std::string deep;
                                     for (int i = 0; i < 100'000; ++i) {
                                       deep += "{\"a\":";
                                     }
                                     return deep;
                                   }()),
                              4, "nests 128 levels"},
                             {"an_array", "[]", 0, "the header is an array, not a JSON object"},
                             {"a_string", R"("a")", 0, R"(the header is "a", not a JSON object)"},
                             {"a_number", "12", 0, "the header is 12, not a JSON object"},
                             {"null", "null", 0, "the header is null, not a JSON object"},
                         }),
                         case_name);

INSTANTIATE_TEST_SUITE_P(
    metadata, illegal_header,
    ::testing::ValuesIn(std::vector<illegal>{
        {"twice", R"({"__metadata__":{},"__metadata__":{}})", 0, "__metadata__ twice"},
        {"null_and_once_more", R"({"__metadata__":null,"__metadata__":{}})", 0, "__metadata__ twice"},
        {"twice_under_an_escape", R"({"__metadata__":{},"__met\u0061data__":{}})", 0, "__metadata__ twice"},
        {"array", R"({"__metadata__":[]})", 0, "__metadata__ is an array"},
        {"string", R"({"__metadata__":"x"})", 0, R"(__metadata__ is "x")"},
        {"number_value", R"({"__metadata__":{"k":1}})", 0, R"(__metadata__ maps "k" to 1)"},
        {"null_value", R"({"__metadata__":{"k":null}})", 0, R"(__metadata__ maps "k" to null)"},
        {"object_value", R"({"__metadata__":{"k":{}}})", 0, R"(__metadata__ maps "k" to an object)"},
        {"array_value", R"({"__metadata__":{"k":[]}})", 0, R"(__metadata__ maps "k" to an array)"},
        {"a_tensor", "{" + e("__metadata__", "U8", "[1]", "[0,1]") + "}", 1,
         R"(__metadata__ maps "shape" to an array)"},
    }),
    case_name);

INSTANTIATE_TEST_SUITE_P(
    entry, illegal_header,
    ::testing::ValuesIn(std::vector<illegal>{
        {"array_form", R"({"a":["F32",[1],[0,4]]})", 4, R"(tensor "a": its entry is an array)"},
        {"string", R"({"a":"x"})", 0, R"(tensor "a": its entry is "x")"},
        {"null", R"({"a":null})", 0, R"(tensor "a": its entry is null)"},
        {"empty", R"({"a":{}})", 0, R"(tensor "a": its entry lacks dtype)"},
        {"no_dtype", R"({"a":{"shape":[1],"data_offsets":[0,4]}})", 4, R"(tensor "a": its entry lacks dtype)"},
        {"no_shape", R"({"a":{"dtype":"F32","data_offsets":[0,4]}})", 4, R"(tensor "a": its entry lacks shape)"},
        {"no_data_offsets", R"({"a":{"dtype":"F32","shape":[1]}})", 4, R"(tensor "a": its entry lacks data_offsets)"},
        {"dtype_twice", with(R"(,"dtype":"F32")"), 4, R"(tensor "a": dtype is given twice)"},
        {"shape_twice", with(R"(,"shape":[1])"), 4, R"(tensor "a": shape is given twice)"},
        {"data_offsets_twice", with(R"(,"data_offsets":[0,4])"), 4, R"(tensor "a": data_offsets is given twice)"},
        {"dtype_twice_under_an_escape", with(R"(,"d\u0074ype":"F32")"), 4, R"(tensor "a": dtype is given twice)"},
        {"name_is_printable", "{" + e(R"(a\nb)", "F33", "[1]", "[0,4]") + "}", 4, R"(tensor "a\nb": dtype)"},
        {"names_twice", "{" + e("a", "U8", "[1]", "[0,1]") + "," + e("a", "U8", "[1]", "[1,2]") + "}", 2,
         R"(tensor "a": the header holds this name twice)"},
        {"names_twice_with_one_range", "{" + e("a", "U8", "[1]", "[0,1]") + "," + e("a", "U8", "[1]", "[0,1]") + "}", 1,
         R"(tensor "a": the header holds this name twice)"},
        {"names_twice_under_an_escape",
         "{" + e("a", "U8", "[1]", "[0,1]") + "," + e(R"(\u0061)", "U8", "[1]", "[1,2]") + "}", 2,
         R"(tensor "a": the header holds this name twice)"},
        {"empty_names_twice", "{" + e("", "U8", "[0]", "[0,0]") + "," + e("", "U8", "[0]", "[0,0]") + "}", 0,
         R"(tensor "": the header holds this name twice)"},
    }),
    case_name);

INSTANTIATE_TEST_SUITE_P(
    dtype, illegal_header,
    ::testing::ValuesIn(std::vector<illegal>{
        {"lower_case", "{" + e("a", "f32", "[1]", "[0,4]") + "}", 4, R"(tensor "a": dtype "f32" is none of the 22)"},
        {"space", "{" + e("a", "F32 ", "[1]", "[0,4]") + "}", 4, R"(dtype "F32 " is none)"},
        {"empty", "{" + e("a", "", "[1]", "[0,4]") + "}", 4, R"(dtype "" is none)"},
        {"numpy", "{" + e("a", "float32", "[1]", "[0,4]") + "}", 4, R"(dtype "float32" is none)"},
        {"prefix", "{" + e("a", "F", "[1]", "[0,4]") + "}", 4, R"(dtype "F" is none)"},
        {"number", R"({"a":{"dtype":3,"shape":[1],"data_offsets":[0,4]}})", 4, "dtype is 3; a string"},
        {"null", R"({"a":{"dtype":null,"shape":[1],"data_offsets":[0,4]}})", 4, "dtype is null; a string"},
        {"object", R"({"a":{"dtype":{"F32":null},"shape":[1],"data_offsets":[0,4]}})", 4,
         "dtype is an object; a string"},
        {"array", R"({"a":{"dtype":["F32"],"shape":[1],"data_offsets":[0,4]}})", 4, "dtype is an array; a string"},
    }),
    case_name);

struct bad_number {
  std::string name;
  std::string literal;
  std::string shown;
};

std::vector<illegal> bad_numbers() {
  const std::vector<bad_number> rows{
      {"fraction", "4.0", "4.0"},
      {"exponent", "4e0", "4e0"},
      {"capital_exponent", "4E0", "4E0"},
      {"minus_zero", "-0", "-0"},
      {"negative", "-4", "-4"},
      {"string", R"("4")", R"("4")"},
      {"two_to_the_64", "18446744073709551616", "18446744073709551616"},
      {"minus_two_to_the_63_and_one", "-9223372036854775809", "-9223372036854775809"},
      {"null", "null", "null"},
      {"true", "true", "true"},
      {"array", "[4]", "an array"},
      {"object", "{}", "an object"},
  };
  std::vector<illegal> out;
  for (const bad_number& row : rows) {
    const std::string text = "holds " + row.shown + "; unsigned 64-bit integer literals are expected";
    out.push_back({"dimension_" + row.name, "{" + e("a", "U8", "[" + row.literal + "]", "[0,4]") + "}", 4,
                   "tensor \"a\": shape " + text});
    out.push_back({"begin_" + row.name, "{" + e("a", "U8", "[4]", "[" + row.literal + ",4]") + "}", 4,
                   "tensor \"a\": data_offsets " + text});
    out.push_back({"end_" + row.name, "{" + e("a", "U8", "[4]", "[0," + row.literal + "]") + "}", 4,
                   "tensor \"a\": data_offsets " + text});
  }
  return out;
}

INSTANTIATE_TEST_SUITE_P(numbers, illegal_header, ::testing::ValuesIn(bad_numbers()), case_name);

INSTANTIATE_TEST_SUITE_P(
    lists, illegal_header,
    ::testing::ValuesIn(std::vector<illegal>{
        {"shape_number", "{" + e("a", "U8", "4", "[0,4]") + "}", 4, "shape is 4; an array of unsigned integers"},
        {"shape_null", "{" + e("a", "U8", "null", "[0,4]") + "}", 4, "shape is null; an array"},
        {"shape_object", "{" + e("a", "U8", "{}", "[0,4]") + "}", 4, "shape is an object; an array"},
        {"offsets_string", "{" + e("a", "U8", "[4]", R"("0,4")") + "}", 4, R"(data_offsets is "0,4"; an array)"},
        {"offsets_object", "{" + e("a", "U8", "[4]", "{}") + "}", 4, "data_offsets is an object; an array"},
        {"no_offsets", "{" + e("a", "U8", "[4]", "[]") + "}", 4, "data_offsets has 0 entries"},
        {"one_offset", "{" + e("a", "U8", "[4]", "[4]") + "}", 4, "data_offsets has 1 entries"},
        {"three_offsets", "{" + e("a", "U8", "[4]", "[0,4,4]") + "}", 4, "data_offsets has more than the two entries"},
    }),
    case_name);

INSTANTIATE_TEST_SUITE_P(
    tiling, illegal_header,
    ::testing::ValuesIn(std::vector<illegal>{
        {"hole_at_the_start", "{" + e("a", "U8", "[1]", "[1,2]") + "}", 2,
         R"(tensor "a": data_offsets [1, 2] leave a hole of 1 bytes, the data begin at 0)"},
        {"hole_in_the_middle", "{" + e("b", "U8", "[1]", "[3,4]") + "," + e("a", "U8", "[1]", "[0,1]") + "}", 4,
         R"(tensor "b": data_offsets [3, 4] leave a hole of 2 bytes, tensor "a" ends at 1)"},
        {"overlap", "{" + e("a", "U8", "[4]", "[0,4]") + "," + e("b", "U8", "[4]", "[3,7]") + "}", 7,
         R"(tensor "b": data_offsets [3, 7] overlap, tensor "a" ends at 4)"},
        {"one_range_for_two", "{" + e("a", "U8", "[4]", "[0,4]") + "," + e("b", "U8", "[4]", "[0,4]") + "}", 4,
         R"(tensor "b": data_offsets [0, 4] overlap)"},
        {"zero_size_inside_another", "{" + e("a", "U8", "[4]", "[0,4]") + "," + e("b", "U8", "[0]", "[2,2]") + "}", 4,
         R"(tensor "b": data_offsets [2, 2] overlap)"},
        {"zero_size_beyond_the_end", "{" + e("a", "U8", "[4]", "[0,4]") + "," + e("b", "U8", "[0]", "[8,8]") + "}", 4,
         R"(tensor "b": data_offsets [8, 8] leave a hole)"},
        {"reversed", "{" + e("a", "U8", "[4]", "[4,0]") + "}", 4, R"(tensor "a": data_offsets [4, 0] are reversed)"},
        {"reversed_behind_another", "{" + e("a", "U8", "[4]", "[0,4]") + "," + e("b", "U8", "[2]", "[4,2]") + "}", 4,
         R"(tensor "b": data_offsets [4, 2] are reversed)"},
        {"shape_overflows", "{" + e("a", "F32", "[4294967296,4294967296]", "[0,0]") + "}", 0,
         R"(tensor "a": shape [4294967296, 4294967296] of F32 overflows 64 bits)"},
        {"shape_overflows_before_a_zero", "{" + e("a", "F32", "[9223372036854775808,4,0]", "[0,0]") + "}", 0,
         "overflows 64 bits"},
        {"bits_overflow", "{" + e("a", "F32", "[576460752303423488]", "[0,0]") + "}", 0, "overflows 64 bits"},
        {"bits_overflow_of_8_bit_types", "{" + e("a", "U8", "[2305843009213693952]", "[0,2305843009213693952]") + "}",
         0, "overflows 64 bits"},
        {"half_a_byte", "{" + e("a", "F4", "[3]", "[0,2]") + "}", 2, R"(shape [3] of F4 takes 12 bits; whole bytes)"},
        {"three_quarters_of_a_byte", "{" + e("a", "F6_E2M3", "[1]", "[0,1]") + "}", 1,
         "shape [1] of F6_E2M3 takes 6 bits; whole bytes"},
        {"span_too_small", "{" + e("a", "F32", "[2]", "[0,4]") + "}", 4,
         "shape [2] of F32 takes 8 bytes, but data_offsets [0, 4] span 4"},
        {"span_too_large", "{" + e("a", "F32", "[1]", "[0,8]") + "}", 8,
         "shape [1] of F32 takes 4 bytes, but data_offsets [0, 8] span 8"},
        {"scalar_of_no_bytes", "{" + e("a", "F32", "[]", "[0,0]") + "}", 0, "shape [] of F32 takes 4 bytes"},
        {"zero_size_of_four_bytes", "{" + e("a", "F32", "[0]", "[0,4]") + "}", 4, "shape [0] of F32 takes 0 bytes"},
        {"the_largest_offsets", "{" + e("a", "U8", "[1]", "[18446744073709551614,18446744073709551615]") + "}", 1,
         "leave a hole of 18446744073709551614 bytes"},
        {"truncated_by_one", "{" + e("a", "U8", "[4]", "[0,4]") + "}", 3,
         "take 4 bytes, but only 3 follow the header: the file is truncated by 1"},
        {"one_trailing_byte", "{" + e("a", "U8", "[4]", "[0,4]") + "}", 5, "1 bytes follow the last tensor"},
        {"data_of_no_tensor", "{}", 1, "1 bytes follow the last tensor"},
        {"only_zero_sizes_and_data", "{" + e("a", "F32", "[0]", "[0,0]") + "}", 4, "4 bytes follow the last tensor"},
    }),
    case_name);

TEST(safetensors_header, an_error_shows_the_ends_of_an_endless_name_and_shape) {
  const std::string name(1'000'000, 'n');
  std::string dims = "[1";
  for (int i = 0; i < 100'000; ++i) {
    dims += ",1";
  }
  const auto caught =
      testing_support::thrown_by([&] { static_cast<void>(parse("{" + e(name, "F32", dims + "]", "[0,8]") + "}", 8)); });
  ASSERT_TRUE(caught);
  EXPECT_LT(caught->text().size(), 1000U);
  EXPECT_NE(caught->text().find("takes 4 bytes"), std::string::npos) << caught->what();
}

TEST(safetensors_header, a_syntax_error_does_not_quote_half_a_character) {
  const auto caught = testing_support::thrown_by([] { static_cast<void>(parse("{\xc3\xa9}", 0)); });
  ASSERT_TRUE(caught);
  EXPECT_EQ(detail::valid_utf8_prefix(caught->text()), caught->text().size()) << caught->what();
}

TEST(safetensors_header, a_hundred_thousand_tensors_are_parsed) {
  std::string json = "{";
  constexpr std::uint64_t count = testing_support::is_sanitized ? 10'000 : 100'000;
  for (std::uint64_t i = count; i-- > 0;) {
    json += e(concat("model.layers.", i, ".self_attn.q_proj.weight"), "BF16", "[4,2]",
              concat("[", 16 * i, ",", 16 * (i + 1), "]"));
    json += i == 0 ? "}" : ",";
  }
  const safetensors_header header = parse(json, 16 * count);
  ASSERT_EQ(header.tensors.size(), count);
  EXPECT_EQ(header.tensors.front().descriptor.name, "model.layers.0.self_attn.q_proj.weight");
  EXPECT_EQ(header.tensors.back().end, 8 + json.size() + 16 * count);
}

}  // namespace
}  // namespace fsdpinit::safetensors_header_test
