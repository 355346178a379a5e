#include <fsdpinit/core/dtype.hpp>
#include <fsdpinit/sources/json_rules.hpp>
#include <fsdpinit/sources/json_rules_file.hpp>
#include <fsdpinit/sources/rules.hpp>
#include <support/expect_error.hpp>
#include <support/temp_dir.hpp>

#include <gtest/gtest.h>

#include <cstdint>
#include <ostream>
#include <string>
#include <utility>
#include <variant>
#include <vector>

namespace fsdpinit::json_rules_test {
namespace {

using namespace rules;
using testing_support::expect_error;

rule_set parse(const std::string& text) { return parse_rules("m.json", text); }

std::string map(const std::string& of_rules) { return R"({"rules":[)" + of_rules + "]}"; }
std::string from(const std::string& node) { return map(R"({"make":"x","from":)" + node + "}"); }

node parsed(const std::string& text) { return *parse(from(text)).rules.at(0).from; }

template <class Operation>
Operation operation_of(const std::string& text) {
  return std::get<Operation>(parsed(text).does);
}

TEST(json_rules, make_and_drop) {
  const rule_set got = parse(map(R"({"make":"{i}.x","from":"{i}.a"},{"drop":"b"})"));
  ASSERT_EQ(got.rules.size(), 2U);
  EXPECT_EQ(got.rules[0].name, "{i}.x");
  EXPECT_EQ(std::get<named>(got.rules[0].from.value().does).name, "{i}.a");
  EXPECT_EQ(got.rules[1].name, "b");
  EXPECT_FALSE(got.rules[1].from.has_value());
  EXPECT_EQ(got.file, "m.json");
}

TEST(json_rules, may_be_none) { EXPECT_TRUE(parse(R"({"rules":[]})").rules.empty()); }

TEST(json_rules, are_neither_optional_nor_shared_unless_they_say_so) {
  const rule_set got = parse(map(
      R"({"make":"x","from":"a"},{"make":"y","from":"a","optional":true,"shared":true},{"drop":"b","optional":true},{"make":"z","from":"a","optional":false})"));
  EXPECT_FALSE(got.rules[0].may_match_nothing);
  EXPECT_FALSE(got.rules[0].shares);
  EXPECT_TRUE(got.rules[1].may_match_nothing);
  EXPECT_TRUE(got.rules[1].shares);
  EXPECT_TRUE(got.rules[2].may_match_nothing);
  EXPECT_FALSE(got.rules[3].may_match_nothing);
}

TEST(json_rules, rest_is_kept_unless_they_say_otherwise) {
  EXPECT_EQ(parse(R"({"rules":[]})").others, rest::keep);
  EXPECT_EQ(parse(R"({"rest":"keep","rules":[]})").others, rest::keep);
  EXPECT_EQ(parse(R"({"rest":"drop","rules":[]})").others, rest::drop);
  EXPECT_EQ(parse(R"({"rest":"error","rules":[]})").others, rest::error);
}

TEST(json_nodes, concat) {
  const node got = parsed(R"({"concat":["a",{"concat":["b"],"dim":0}],"dim":1})");
  EXPECT_EQ(std::get<concatenated>(got.does).dim, 1U);
  ASSERT_EQ(got.parts.size(), 2U);
  EXPECT_EQ(std::get<named>(got.parts[0].does).name, "a");
  EXPECT_EQ(std::get<named>(got.parts[1].parts.at(0).does).name, "b");
}

TEST(json_nodes, stack_along_dim_0_unless_it_says_otherwise) {
  EXPECT_EQ(operation_of<stacked>(R"({"stack":"{e}.a","over":"e"})").dim, 0U);
  const auto got = operation_of<stacked>(R"({"stack":"{e}.a","over":"e","dim":2})");
  EXPECT_EQ(got.over, "e");
  EXPECT_EQ(got.dim, 2U);
}

TEST(json_nodes, slice) {
  const auto got = operation_of<sliced>(R"({"slice":"a","dim":1,"begin":2,"end":5})");
  EXPECT_EQ(got.dim, 1U);
  EXPECT_EQ(got.begin, 2U);
  EXPECT_EQ(got.end, 5U);
}

TEST(json_nodes, chunk) {
  const auto got = operation_of<chunked>(R"({"chunk":"a","dim":1,"of":3,"index":2})");
  EXPECT_EQ(got.dim, 1U);
  EXPECT_EQ(got.of, 3U);
  EXPECT_EQ(got.index, 2U);
}

TEST(json_nodes, permute) {
  EXPECT_EQ(operation_of<permuted>(R"({"permute":"a","dims":[1,0]})").dims, (std::vector<std::uint64_t>{1, 0}));
}

TEST(json_nodes, rearrange) {
  const auto got = operation_of<rearranged>(R"({"rearrange":"a","pattern":"(h d) k -> h d k","sizes":{"h":32}})");
  EXPECT_EQ(got.pattern, "(h d) k -> h d k");
  EXPECT_EQ(got.sizes, (std::vector<std::pair<std::string, std::uint64_t>>{{"h", 32}}));
  EXPECT_TRUE(operation_of<rearranged>(R"({"rearrange":"a","pattern":"a b -> b a"})").sizes.empty());
}

TEST(json_nodes, pad_to_a_length_or_a_multiple) {
  const auto to = operation_of<padded>(R"({"pad":"a","dim":0,"to":8})");
  EXPECT_EQ(std::get<std::uint64_t>(to.to), 8U);
  EXPECT_EQ(to.value, 0);
  const auto multiple = operation_of<padded>(R"({"pad":"a","dim":0,"multiple":64,"value":-1.5e2})");
  EXPECT_EQ(std::get<multiple_of>(multiple.to), multiple_of(64));
  EXPECT_EQ(multiple.value, -150);
}

TEST(json_nodes, cast_to_a_type_in_small_letters) {
  EXPECT_EQ(operation_of<converted_to>(R"({"cast":"a","dtype":"bf16"})").dtype, dtype::bf16);
  EXPECT_EQ(operation_of<converted_to>(R"({"cast":"a","dtype":"f8_e4m3"})").dtype, dtype::f8_e4m3);
}

TEST(json_rules, are_read_from_a_file_that_errors_name) {
  const testing_support::temp_dir folder;
  const std::string path = folder.write("m.json", map(R"({"drop":"a"})"));
  EXPECT_EQ(read_rules(path).file, path);
  const std::string wrong = folder.write("wrong.json", "[]");
  expect_error(errc::invalid_file, wrong, "the map is an array", [&] { static_cast<void>(read_rules(wrong)); });
}

TEST(json_rules, a_file_that_is_not_there_is_an_error_that_names_it) {
  const testing_support::temp_dir folder;
  const std::string path = folder / "m.json";
  expect_error(errc::io, path, "", [&] { static_cast<void>(read_rules(path)); });
}

struct illegal {
  std::string name;
  std::string text;
  std::string piece;

  friend std::ostream& operator<<(std::ostream& out, const illegal& row) { return out << row.name; }
};

class illegal_rules : public ::testing::TestWithParam<illegal> {};

TEST_P(illegal_rules, are_rejected) {
  expect_error(errc::invalid_file, "m.json", GetParam().piece, [] { static_cast<void>(parse(GetParam().text)); });
}

INSTANTIATE_TEST_SUITE_P(
    map, illegal_rules,
    ::testing::ValuesIn(std::vector<illegal>{
        {"empty", "", "the map is not valid JSON"},
        {"array", "[]", "the map is an array; an object is expected"},
        {"no_rules", "{}", "the map has no \"rules\"; it is required"},
        {"rules_are_an_object", R"({"rules":{}})", "\"rules\" of the map is an object; an array is expected"},
        {"unknown_key", R"({"rules":[],"rests":"keep"})",
         "the map has an unknown key \"rests\"; it may have rules, rest"},
        {"rules_twice", R"({"rules":[],"rules":[]})", "the map has \"rules\" twice"},
        {"rest_is_unknown", R"({"rules":[],"rest":"kept"})",
         "\"rest\" of the map is \"kept\"; keep, drop or error is expected"},
        {"rest_is_a_number", R"({"rules":[],"rest":1})", "\"rest\" of the map is 1; a string is expected"},
        {"nests_128_levels", from(std::string(127, '[') + std::string(127, ']')), "nests 128 levels"},
    }),
    [](const auto& row) { return row.param.name; });

INSTANTIATE_TEST_SUITE_P(
    rule, illegal_rules,
    ::testing::ValuesIn(std::vector<illegal>{
        {"string", map(R"("x")"), "rule 1: the rule is \"x\"; an object is expected"},
        {"empty", map("{}"), "rule 1: the rule has no \"make\""},
        {"no_from", map(R"({"make":"x"})"), R"(rule 1 (make "x"): the rule has no "from")"},
        {"make_and_drop", map(R"({"make":"x","from":"a","drop":"b"})"), "the rule has an unknown key \"make\""},
        {"unknown_key", map(R"({"drop":"a"},{"make":"x","from":"a","option":true})"),
         R"(rule 2 (make "x"): the rule has an unknown key "option"; it may have make, from, optional, shared)"},
        {"drop_shares", map(R"({"drop":"a","shared":true})"),
         R"(rule 1 (drop "a"): the rule has an unknown key "shared")"},
        {"optional_is_a_number", map(R"({"drop":"a","optional":1})"),
         "\"optional\" of the rule is 1; true or false is expected"},
        {"optional_is_a_string", map(R"({"drop":"a","optional":"true"})"), "is \"true\"; true or false is expected"},
        {"make_is_a_number", map(R"({"make":1,"from":"a"})"),
         "rule 1: \"make\" of the rule is 1; a string is expected"},
        {"name_is_no_pattern", map(R"({"make":"x","from":"a{i}"})"),
         R"(rule 1 (make "x"): "a{i}": "a{i}" is no variable)"},
        {"control_characters", map(R"({"make":"x\n","from":1})"), R"(rule 1 (make "x\n"))"},
        {"from_twice", map(R"({"make":"x","from":"a","from":"b"})"), "the rule has \"from\" twice"},
    }),
    [](const auto& row) { return row.param.name; });

INSTANTIATE_TEST_SUITE_P(
    node, illegal_rules,
    ::testing::ValuesIn(std::vector<illegal>{
        {"number", from("1"), "a node is 1; the name of a tensor, or an object with concat"},
        {"empty", from("{}"), "a node has none of concat, stack"},
        {"unknown", from(R"({"flip":"a"})"),
         "a node has none of concat, stack, slice, chunk, permute, rearrange, pad or cast, but \"flip\""},
        {"two", from(R"({"slice":"a","concat":["a"],"dim":0})"), "concat has an unknown key \"slice\""},
        {"concat_of_a_name", from(R"({"concat":"a","dim":0})"), "\"concat\" of concat is \"a\"; an array is expected"},
        {"concat_of_nothing", from(R"({"concat":[],"dim":0})"), "concat has no parts"},
        {"concat_without_dim", from(R"({"concat":["a"]})"), "concat has no \"dim\"; it is required"},
        {"dim_is_negative", from(R"({"concat":["a"],"dim":-1})"),
         "\"dim\" of concat is -1; an integer from 0 on is expected"},
        {"dim_is_minus_zero", from(R"({"concat":["a"],"dim":-0})"), "\"dim\" of concat is -0"},
        {"dim_is_a_fraction", from(R"({"concat":["a"],"dim":1.0})"), "\"dim\" of concat is 1.0"},
        {"dim_is_a_string", from(R"({"concat":["a"],"dim":"0"})"), "\"dim\" of concat is \"0\""},
        {"dim_has_more_than_64_bits", from(R"({"concat":["a"],"dim":18446744073709551616})"),
         "is 18446744073709551616"},
        {"stack_without_over", from(R"({"stack":"{e}"})"), "stack has no \"over\""},
        {"stack_over_nothing", from(R"({"stack":"a","over":"e"})"), "is in none of the names that are stacked"},
        {"slice_without_end", from(R"({"slice":"a","dim":0,"begin":0})"), "slice has no \"end\""},
        {"slice_that_ends_before_it_begins", from(R"({"slice":"a","dim":0,"begin":2,"end":1})"),
         "ends before it begins"},
        {"chunk_that_does_not_exist", from(R"({"chunk":"a","dim":0,"of":2,"index":2})"), "chunk 2 of 2 does not exist"},
        {"permute_without_dims", from(R"({"permute":"a"})"), "permute has no \"dims\""},
        {"permute_twice_the_same", from(R"({"permute":"a","dims":[0,0]})"), "name 0 twice"},
        {"rearrange_without_pattern", from(R"({"rearrange":"a"})"), "rearrange has no \"pattern\""},
        {"sizes_are_an_array", from(R"({"rearrange":"a","pattern":"a->a","sizes":[]})"),
         "\"sizes\" of rearrange is an array"},
        {"size_is_negative", from(R"({"rearrange":"a","pattern":"a->a","sizes":{"a":-2}})"),
         "\"sizes\" of rearrange is -2"},
        {"size_twice", from(R"({"rearrange":"a","pattern":"a->a","sizes":{"a":1,"a":1}})"), "has \"a\" twice"},
        {"pad_to_nothing", from(R"({"pad":"a","dim":0})"), "pad has both \"to\" and \"multiple\", or neither"},
        {"pad_to_two", from(R"({"pad":"a","dim":0,"to":1,"multiple":2})"),
         "pad has both \"to\" and \"multiple\", or neither"},
        {"pad_to_a_multiple_of_0", from(R"({"pad":"a","dim":0,"multiple":0})"), "a multiple of 0"},
        {"pad_value_is_a_string", from(R"({"pad":"a","dim":0,"to":1,"value":"1"})"),
         "\"value\" of pad is \"1\"; a number"},
        {"pad_value_is_true", from(R"({"pad":"a","dim":0,"to":1,"value":true})"), "\"value\" of pad is true; a number"},
        {"pad_value_is_an_array", from(R"({"pad":"a","dim":0,"to":1,"value":[]})"),
         "\"value\" of pad is an array; a number"},
        {"pad_value_is_too_large", from(R"({"pad":"a","dim":0,"to":1,"value":1e999})"), ""},
        {"cast_to_capitals", from(R"({"cast":"a","dtype":"BF16"})"), "\"BF16\" is no dtype; write bf16"},
        {"cast_to_nothing", from(R"({"cast":"a"})"), "cast has no \"dtype\""},
    }),
    [](const auto& row) { return row.param.name; });

}  // namespace
}  // namespace fsdpinit::json_rules_test
