#include <fsdpinit/sources/hf_index.hpp>
#include <support/expect_error.hpp>

#include <gtest/gtest.h>

#include <ostream>
#include <string>
#include <utility>
#include <vector>

namespace fsdpinit::hf_index_test {
namespace {

using testing_support::expect_error;
using files = std::vector<std::pair<std::string, std::vector<std::string>>>;

files parse(const std::string& text) {
  files out;
  for (const hf_index_file& file : parse_hf_index("m.index.json", text)) {
    out.emplace_back(file.name, file.tensors);
  }
  return out;
}

std::string map(const std::string& entries) { return R"({"weight_map":{)" + entries + "}}"; }

TEST(hf_index, groups_the_tensors_by_file_in_order_of_name) {
  EXPECT_EQ(parse(map(R"("z":"m-2","b":"m-1","a":"m-2","c":"m-1")")),
            (files{{"m-1", {"b", "c"}}, {"m-2", {"a", "z"}}}));
}

TEST(hf_index, looks_at_nothing_but_the_weight_map) {
  const files expected{{"f", {"a"}}};
  EXPECT_EQ(parse(R"({"metadata":{"total_size":4},"weight_map":{"a":"f"}})"), expected);
  EXPECT_EQ(parse(R"({"weight_map":{"a":"f"},"metadata":{"total_size":-1.5e3}})"), expected);
  EXPECT_EQ(parse(R"({"metadata":null,"weight_map":{"a":"f"},"x":[{"weight_map":{"a":1}}],"metadata":"y"})"), expected);
}

TEST(hf_index, unescapes_names) { EXPECT_EQ(parse(map(R"("\u0061":"\u0066")")), (files{{"f", {"a"}}})); }

TEST(hf_index, names_with_a_single_dot_are_plain) {
  EXPECT_EQ(parse(map(R"("a":".f","b":"f.","c":"a b")")), (files{{".f", {"a"}}, {"a b", {"c"}}, {"f.", {"b"}}}));
}

struct illegal {
  std::string name;
  std::string text;
  std::string piece;

  friend std::ostream& operator<<(std::ostream& out, const illegal& row) { return out << row.name; }
};

class illegal_index : public ::testing::TestWithParam<illegal> {};

TEST_P(illegal_index, is_rejected) {
  expect_error(errc::invalid_file, "m.index.json", GetParam().piece,
               [] { static_cast<void>(parse_hf_index("m.index.json", GetParam().text)); });
}

INSTANTIATE_TEST_SUITE_P(
    rules, illegal_index,
    ::testing::ValuesIn(std::vector<illegal>{
        {"empty", "", "the index is not valid JSON"},
        {"array", "[]", "the index is an array, not a JSON object"},
        {"string", R"("a")", R"(the index is "a", not a JSON object)"},
        {"byte_order_mark", "\xef\xbb\xbf{}", "the index starts with a byte order mark"},
        {"nul", std::string("{}\0", 3), "the index holds a NUL at byte 2"},
        {"not_utf8", "{\"\xff\":1}", "the index is not UTF-8"},
        {"trailing_characters", R"({"weight_map":{}}x)", "not valid JSON"},
        {"nesting_of_128", R"({"x":)" + std::string(127, '[') + std::string(127, ']') + "}", "nests 128 levels"},
        {"no_map", R"({"metadata":{"weight_map":{}}})", "the index has no weight_map"},
        {"map_is_empty", map(""), "weight_map maps no tensor; download or save the index again"},
        {"map_twice", R"({"weight_map":{},"weight_map":{}})", "weight_map twice"},
        {"map_twice_under_an_escape", R"({"weight_map":{},"weight\u005fmap":{}})", "weight_map twice"},
        {"map_is_null", R"({"weight_map":null})", "weight_map is null"},
        {"map_is_an_array", R"({"weight_map":[]})", "weight_map is an array"},
        {"file_is_a_number", map(R"("a":1)"), R"(the file of tensor "a" is 1, not a string)"},
        {"file_is_null", map(R"("a":null)"), R"(the file of tensor "a" is null, not a string)"},
        {"file_is_an_array", map(R"("a":["f"])"), R"(the file of tensor "a" is an array, not a string)"},
        {"file_is_an_object", map(R"("a":{})"), R"(the file of tensor "a" is an object, not a string)"},
        {"tensor_twice", map(R"("a":"f","a":"g")"), R"(tensor "a" is mapped twice)"},
        {"tensor_twice_to_one_file", map(R"("a":"f","a":"f")"), R"(tensor "a" is mapped twice)"},
        {"tensor_twice_under_an_escape", map(R"("a":"f","\u0061":"f")"), R"(tensor "a" is mapped twice)"},
        {"empty_file_name", map(R"("a":"")"), R"(the file of tensor "a" "" names no file)"},
        {"dot", map(R"("a":".")"), R"("." names no file)"},
        {"dot_dot", map(R"("a":"..")"), R"(".." holds "..")"},
        {"parent", map(R"("a":"../f")"), R"("../f" holds a separator)"},
        {"absolute", map(R"("a":"/etc/passwd")"), R"("/etc/passwd" holds a separator)"},
        {"folder", map(R"("a":"d/f")"), R"("d/f" holds a separator)"},
        {"escaped_separator", map(R"("a":"d\u002ff")"), R"("d/f" holds a separator)"},
        {"backslash", map(R"("a":"d\\f")"), R"(holds a separator)"},
        {"nul_in_a_file_name", map(R"("a":"f\u0000g")"), R"("f\x00g" holds a separator)"},
        {"dots_within", map(R"("a":"a..b")"), R"("a..b" holds "..")"},
    }),
    [](const auto& row) { return row.param.name; });

}  // namespace
}  // namespace fsdpinit::hf_index_test
