#include <support/json_events.hpp>

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace fsdpinit::json_plain_test {
namespace {

using testing_support::difference_of_plain;

bool is_plain(const std::string& text) {
  testing_support::json_recorder recorder;
  detail::json_events events("file", "the text", recorder);
  return detail::read_plain_json(text, events);
}

const std::vector<std::string> plain{
    "{}",
    "[]",
    " { } ",
    "\t[\r\n]",
    "0",
    "7",
    "\"\"",
    "\"a\xc3\xa9\x7f/\"",
    "9999999999999999999",
    "[1,2 , 3]",
    R"({"a":1})",
    R"({"a":{"b":[[],{},[0]],"c":""},"a":"again"})",
    R"({ "a" : [ "b" , 10 ] , "c" : { } })",
    R"({"w":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},"__metadata__":{"format":"pt"}})"};

const std::vector<std::string> others{"",
                                      " ",
                                      "{",
                                      "[",
                                      "}",
                                      "]",
                                      "{]",
                                      "[}",
                                      "[1",
                                      "[1,",
                                      "[1,]",
                                      "[,1]",
                                      "{,}",
                                      R"({"a")",
                                      R"({"a":)",
                                      R"({"a":1)",
                                      R"({"a":1,)",
                                      R"({"a":1,})",
                                      R"({"a",1})",
                                      R"({"a"})",
                                      R"({1:1})",
                                      R"(["a":1])",
                                      R"({"a":1]})",
                                      "{}{}",
                                      "[][]",
                                      "[1 2]",
                                      "1 2",
                                      "{}x",
                                      "x",
                                      "-1",
                                      "-0",
                                      "+1",
                                      "01",
                                      "00",
                                      "1.5",
                                      "1e3",
                                      "1E+3",
                                      "0x1",
                                      "10000000000000000000",
                                      "18446744073709551615",
                                      "18446744073709551616",
                                      "123456789012345678901234567890",
                                      "null",
                                      "true",
                                      "[false]",
                                      "nul",
                                      "NaN",
                                      R"("\n")",
                                      R"("\u0041")",
                                      R"("\ud800")",
                                      R"("\"")",
                                      R"({"a\\":1})",
                                      "\"\n\"",
                                      "\"",
                                      "\"a",
                                      "'a'",
                                      "/**/{}",
                                      "\v{}",
                                      "{}\xc2\xa0",
                                      "[1}",
                                      "[[1]"};

TEST(plain_json, is_read_as_nlohmann_reads_it) {
  for (const std::string& text : plain) {
    EXPECT_TRUE(is_plain(text)) << text;
    EXPECT_EQ(difference_of_plain(text), "") << text;
  }
}

TEST(plain_json, ends_where_anything_else_begins) {
  for (const std::string& text : others) {
    EXPECT_FALSE(is_plain(text)) << text;
    EXPECT_EQ(difference_of_plain(text), "") << text;
  }
}

/// Every beginning of a document, and every document with one byte changed.
TEST(plain_json, never_says_what_nlohmann_does_not) {
  const std::string changes = "{}[]:,\"\\ 09-.ex\n";
  for (const std::string& text : plain) {
    for (std::size_t i = 0; i < text.size(); ++i) {
      if (const std::string begun = text.substr(0, i); detail::valid_utf8_prefix(begun) == i) {
        EXPECT_EQ(difference_of_plain(begun), "") << begun;
      }
      for (const char c : changes) {
        std::string changed = text;
        changed[i] = c;
        if (detail::valid_utf8_prefix(changed) == changed.size()) {
          EXPECT_EQ(difference_of_plain(changed), "") << changed;
        }
      }
    }
  }
}

TEST(plain_json, nests_as_deep_as_any) {
  for (const std::size_t depth : {126U, 127U, 128U, 129U, 1000U}) {
    const std::string arrays = std::string(depth, '[') + std::string(depth, ']');
    EXPECT_EQ(difference_of_plain(arrays), "") << depth;
    std::string objects = "1";
    for (std::size_t i = 0; i < depth; ++i) {
      objects = R"({"a":)" + objects + "}";
    }
    EXPECT_EQ(difference_of_plain(objects), "") << depth;
  }
}

}  // namespace
}  // namespace fsdpinit::json_plain_test
