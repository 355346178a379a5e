#include <fsdpinit/core/error.hpp>
#include <fsdpinit/core/tensor_descriptor.hpp>
#include <fsdpinit/sources/resolution.hpp>
#include <fsdpinit/sources/rules.hpp>
#include <support/expect_error.hpp>
#include <support/test_seed.hpp>

#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <map>
#include <random>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace fsdpinit::rules_test {
namespace {

using namespace rules;
using rules::chunk;
using testing_support::expect_error;
using names = std::vector<std::string>;
using made_of = std::vector<std::pair<std::string, names>>;

std::vector<tensor_descriptor> stored(const names& all) {
  std::vector<tensor_descriptor> out;
  for (const std::string& each : all) {
    out.push_back({.name = each});
  }
  return out;
}

struct result {
  made_of made;
  names kept;
  names dropped;
};

result resolved(const rule_set& set, const names& all) {
  const resolution found = resolve(set, stored(all));
  const auto named = [&](const std::vector<std::size_t>& indices) {
    names out;
    for (const std::size_t index : indices) {
      out.push_back(all[index]);
    }
    return out;
  };
  result out{.made = {}, .kept = named(found.kept), .dropped = named(found.dropped)};
  for (const made_tensor& each : found.made) {
    out.made.emplace_back(each.name, named(each.stored));
  }
  return out;
}

made_of made(const rule_set& set, const names& all) { return resolved(set, all).made; }

void expect_refused(const rule_set& set, const names& all, std::string_view piece) {
  expect_error(errc::invalid_argument, set.file, piece, [&] { static_cast<void>(resolve(set, stored(all))); });
}

const node qkv = concat(0, {"{p...}.q.weight", "{p...}.k.weight", "{p...}.v.weight"});
const node experts = stack("e", "{p...}.experts.{e}.up");

// -- names

TEST(name_patterns, a_name_without_variables_is_that_tensor) {
  EXPECT_EQ(made({make("x", "a.b")}, {"a", "a.b", "a.b.c"}), (made_of{{"x", {"a.b"}}}));
}

TEST(name_patterns, a_variable_is_one_part) {
  EXPECT_EQ(made({make("x.{i}", "a.{i}.w")}, {"a.0.w", "a.b.w", "a.w", "a.0.1.w"}),
            (made_of{{"x.0", {"a.0.w"}}, {"x.b", {"a.b.w"}}}));
}

TEST(name_patterns, a_variable_with_dots_is_one_part_or_more) {
  EXPECT_EQ(made({make("{p...}.x", "{p...}.w")}, {"w", "a.w", "a.b.w", "a.bw"}),
            (made_of{{"a.x", {"a.w"}}, {"a.b.x", {"a.b.w"}}}));
}

TEST(name_patterns, a_variable_has_the_same_value_everywhere) {
  EXPECT_EQ(made({make("{i}.x", concat(0, {"{i}.a.{i}", "{i}.b"}))}, {"0.a.0", "0.b", "0.a.1"}),
            (made_of{{"0.x", {"0.a.0", "0.b"}}}));
}

TEST(name_patterns, a_variable_with_dots_takes_every_value_that_fits) {
  EXPECT_EQ(made({shared(make("{q...}.of.{p...}", "{p...}.{q...}"))}, {"a.b.c"}),
            (made_of{{"b.c.of.a", {"a.b.c"}}, {"c.of.a.b", {"a.b.c"}}}));
}

TEST(name_patterns, names_may_have_different_variables) {
  EXPECT_EQ(
      made({shared(make("{p...}.{i}.x", concat(0, {"{p...}.a", "b.{i}", "c"})))}, {"m.a", "n.a", "b.0", "b.1", "c"}),
      (made_of{{"m.0.x", {"m.a", "b.0", "c"}},
               {"m.1.x", {"m.a", "b.1", "c"}},
               {"n.0.x", {"n.a", "b.0", "c"}},
               {"n.1.x", {"n.a", "b.1", "c"}}}));
}

TEST(name_patterns, a_brace_that_is_no_variable_is_an_error) {
  for (const char* const name :
       {"a{i}", "{i}a", "{", "}", "{}", "{...}", "{p..}", "a.{p...}b", "{a b}", "{i", "x.{p..."}) {
    expect_refused({make("x", name)}, {"a"}, "is no variable");
  }
}

TEST(name_patterns, an_empty_name_is_an_error) { expect_refused({make("", "a")}, {"a"}, "a name is empty"); }

TEST(name_patterns, a_variable_that_is_one_part_and_several_is_an_error) {
  expect_refused({make("{p}.x", "{p...}.a")}, {"m.a"}, "rule 1 (make \"{p}.x\"): {p} and {p...} are in one rule");
}

TEST(name_patterns, a_made_name_with_a_variable_of_its_own_is_an_error) {
  expect_refused({make("{i}.x", "a")}, {"a"}, "{i} of the name that is made is in none of the names");
}

TEST(name_patterns, too_many_ways_to_match_are_an_error) {
  std::string pattern;
  std::string name;
  for (int i = 0; i < 30; ++i) {
    pattern += "{v" + std::to_string(i) + "...}.";
    name += "a.a.";
  }
  expect_refused({make("x", pattern + "{z}.{z}")}, {name + "b.c"}, "match the checkpoint's in too many ways");
}

names parts_of(const std::string& name) {
  names parts{""};
  for (const char c : name) {
    if (c == '.') {
      parts.emplace_back();
    } else {
      parts.back() += c;
    }
  }
  return parts;
}

/// All ways in which parts from `at` on are those of a pattern from `i` on: every number of parts for every variable is tried.
void match_naively(const names& pattern, std::size_t i, const names& name, std::size_t at,
                   std::map<std::string, std::string> values, std::set<std::map<std::string, std::string>>& out) {
  if (i == pattern.size()) {
    if (at == name.size()) {
      out.insert(values);
    }
    return;
  }
  std::string taken;
  for (std::size_t end = at; end < name.size() && (end == at || pattern[i].starts_with("{m")); ++end) {
    taken += (end == at ? "" : ".") + name[end];
    auto with = values;
    if ((pattern[i].starts_with("{") ? with.emplace(pattern[i], taken).first->second : pattern[i]) == taken) {
      match_naively(pattern, i + 1, name, end + 1, with, out);
    }
  }
}

TEST(name_patterns, match_what_trying_everything_matches) {
  std::mt19937_64 random(testing_support::test_seed());
  const auto below = [&](std::size_t n) { return static_cast<std::size_t>(random() % n); };
  const names pieces{"a", "b", "{i}", "{j}", "{m}", "{n}"};  // {m} and {n} are written {m...} and {n...}
  for (int round = 0; round < 2000; ++round) {
    names pattern(1 + below(5));
    std::string text;
    for (std::string& part : pattern) {
      part = pieces[below(pieces.size())];
      part = part == "{n}" ? "{mn}" : part;
      text += (text.empty() ? "" : ".") + (part.starts_with("{m") ? part.substr(0, part.size() - 1) + "...}" : part);
    }
    std::set<std::string> all;
    for (std::size_t n = below(30); n != 0; --n) {
      std::string name = below(2) == 0 ? "a" : "b";
      for (std::size_t more = below(6); more != 0; --more) {
        name += below(2) == 0 ? ".a" : ".b";
      }
      all.insert(name);
    }
    const std::vector<tensor_descriptor> tensors = stored({all.begin(), all.end()});
    std::set<std::pair<std::string, std::map<std::string, std::string>>> wanted;
    std::set<std::pair<std::string, std::map<std::string, std::string>>> got;
    for (const std::string& name : all) {
      std::set<std::map<std::string, std::string>> ways;
      match_naively(pattern, 0, parts_of(name), 0, {}, ways);
      for (const auto& way : ways) {
        wanted.emplace(name, way);
      }
    }
    std::vector<detail::pattern_variable> variables;
    const detail::name_pattern compiled(text, variables);
    const detail::stored_names table(tensors);
    detail::pattern_values values(variables.size());
    std::uint64_t steps = 1U << 20U;
    std::size_t matches = 0;
    detail::for_each_match(compiled, table, values, variables, steps, [&](std::size_t tensor) {
      std::map<std::string, std::string> way;
      for (std::size_t i = 0; i < values.size(); ++i) {
        way.emplace("{" + variables[i].name + "}", values[i]);
      }
      got.emplace(tensors[tensor].name, way);
      ++matches;
    });
    ASSERT_EQ(got, wanted) << text;
    ASSERT_EQ(matches, got.size()) << text << ": a way was found twice";
  }
}

TEST(name_patterns, tens_of_thousands_of_names_may_be_in_one_rule) {
  names all;
  std::vector<node> parts;
  for (int i = 0; i < 50000; ++i) {
    all.push_back("w" + std::to_string(i));
    parts.emplace_back(all.back());
  }
  EXPECT_EQ(made({make("x", rules::concat(0, parts))}, all), (made_of{{"x", all}}));
}

TEST(name_patterns, too_many_variables_are_an_error) {
  std::vector<node> parts;
  for (int i = 0; i < 300; ++i) {
    parts.emplace_back("{v" + std::to_string(i) + "}");
  }
  expect_refused({make("x", rules::concat(0, parts))}, {"a"}, "more than 256 variables in one rule");
}

// -- stacks

TEST(stacks, go_over_the_numbers_in_their_order) {
  names all;
  names sorted;
  for (const int e : {10, 2, 0, 1, 9, 8, 7, 3, 4, 5, 6}) {
    all.push_back("m.experts." + std::to_string(e) + ".up");
  }
  for (int e = 0; e <= 10; ++e) {
    sorted.push_back("m.experts." + std::to_string(e) + ".up");
  }
  EXPECT_EQ(made({make("{p...}.up", experts)}, all), (made_of{{"m.up", sorted}}));
}

TEST(stacks, leave_what_is_no_plain_number_alone) {
  const result got = resolved({make("{p...}.up", experts)}, {"m.experts.0.up", "m.experts.00.up", "m.experts.all.up"});
  EXPECT_EQ(got.made, (made_of{{"m.up", {"m.experts.0.up"}}}));
  EXPECT_EQ(got.kept, (names{"m.experts.00.up", "m.experts.all.up"}));
}

TEST(stacks, may_be_part_of_one_another) {
  const resolution got = resolve({make("x", stack("a", stack("b", "{a}.{b}.w")))}, stored({"1.0.w", "0.1.w", "0.0.w"}));
  ASSERT_EQ(got.made.size(), 1U);
  EXPECT_EQ(got.made[0].stored, (std::vector<std::size_t>{2, 1, 0}));
  EXPECT_EQ(got.made[0].counts, (std::vector<std::size_t>{2, 2, 1}));
}

TEST(stacks, of_several_tensors_take_them_number_by_number) {
  EXPECT_EQ(made({make("x", stack("e", concat(0, {"{e}.g", "{e}.u"})))}, {"0.g", "1.g", "0.u", "1.u"}),
            (made_of{{"x", {"0.g", "0.u", "1.g", "1.u"}}}));
}

TEST(stacks, a_gap_is_an_error) {
  expect_refused(
      {make("{p...}.up", experts)}, {"m.experts.0.up", "m.experts.2.up", "m.experts.3.up"},
      "rule 1 (make \"{p...}.up\"): there is \"m.experts.2.up\", but no \"m.experts.1.up\"; what is stacked over "
      "{e} has the numbers from 0 on, without a gap");
  expect_refused({make("{p...}.up", experts)}, {"m.experts.1.up"}, "but no \"m.experts.0.up\"");
}

TEST(stacks, a_number_that_one_of_two_stacks_lacks_is_an_error) {
  const rule_set set{make("x", concat(1, {stack("e", "{e}.gate"), stack("e", "{e}.up")}))};
  const std::string wanted = "for \"x\" there is \"0.gate\", \"1.gate\", \"0.up\", but no \"1.up\"";
  expect_refused(set, {"0.gate", "1.gate", "0.up"}, wanted);
  expect_refused(set, {"0.gate", "0.up", "1.up"}, "but no \"1.gate\"");
}

TEST(stacks, a_number_that_is_too_large_to_be_counted_to_is_a_gap) {
  expect_refused({make("x", stack("e", "{e}.w"))}, {"0.w", "99999999999999999999.w"}, "but no \"1.w\"");
}

TEST(stacks, over_a_variable_that_is_used_elsewhere_are_an_error) {
  expect_refused({make("{e}.x", stack("e", "{e}.w"))}, {"0.w"}, "{e} is stacked over and in the name that is made");
  expect_refused({make("x", concat(0, {stack("e", "{e}.w"), "{e}.b"}))}, {"0.w"},
                 "stacked over in one place and not in another");
  expect_refused({make("x", concat(0, {"{e}.b", stack("e", "{e}.w")}))}, {"0.w"},
                 "stacked over in one place and not in another");
  expect_refused({make("x", stack("e", stack("e", "{e}.w")))}, {"0.w"}, "is part of another one");
}

TEST(stacks, over_what_is_no_variable_of_one_part_are_an_error) {
  expect_refused({make("x", stack("e", "{e...}.w"))}, {"0.w"}, "write {e}");
  expect_refused({make("x", stack("{e}", "{e}.w"))}, {"0.w"}, "without braces");
  expect_refused({make("x", stack("e", "w"))}, {"w"}, "{e} is stacked over, but is in none of the names");
  expect_refused({make("x", stack("e", "{f}.w"))}, {"0.w"}, "{e} is stacked over, but is in none of the names");
}

// -- rules

TEST(rules_in_order, the_first_that_makes_a_name_wins) {
  EXPECT_EQ(made({make("a.x", "a.u"), make("{p...}.x", "{p...}.w"), drop("a.w")}, {"a.w", "a.u", "b.w"}),
            (made_of{{"a.x", {"a.u"}}, {"b.x", {"b.w"}}}));
}

TEST(rules_in_order, what_only_a_losing_rule_names_is_an_error) {
  expect_refused(
      {make("a.x", "a.u"), make("{p...}.x", "{p...}.w")}, {"a.w", "a.u", "b.w"},
      "rule 2 (make \"{p...}.x\"): \"a.w\" is used by no rule: an earlier one makes what this one would make");
  rule_set dropping{make("a.x", "a.u"), make("{p...}.x", "{p...}.w")};
  dropping.others = rest::drop;
  expect_refused(dropping, {"a.w", "a.u"}, "\"a.w\" is used by no rule");
}

TEST(rules_in_order, a_losing_rule_needs_not_be_whole) {
  EXPECT_EQ(made({make("a.qkv", "a.q.weight"), make("{p...}.qkv", qkv), drop("a.k.weight")},
                 {"a.q.weight", "a.k.weight", "b.q.weight", "b.k.weight", "b.v.weight"}),
            (made_of{{"a.qkv", {"a.q.weight"}}, {"b.qkv", {"b.q.weight", "b.k.weight", "b.v.weight"}}}));
}

TEST(rules_in_order, a_rule_that_loses_everywhere_matches) {
  EXPECT_EQ(made({make("x", "a"), make("x", concat(0, {"a", "b"})), make("y", "b")}, {"a", "b"}),
            (made_of{{"x", {"a"}}, {"y", {"b"}}}));
}

TEST(rules_in_order, names_are_of_stored_tensors_so_that_two_may_change_places) {
  EXPECT_EQ(made({make("a", "b"), make("b", "a")}, {"a", "b"}), (made_of{{"a", {"b"}}, {"b", {"a"}}}));
}

TEST(rules_in_order, what_a_rule_makes_is_not_there_for_the_next) {
  expect_refused({make("b", "a"), make("c", "b")}, {"a"}, "rule 2 (make \"c\"): matches nothing");
}

TEST(rules_in_order, a_name_that_one_rule_makes_twice_is_an_error) {
  expect_refused({make("x", "{i}.w")}, {"a.w", "b.w"},
                 "rule 1 (make \"x\"): makes \"x\" twice, of \"a.w\" and of \"b.w\"");
}

TEST(rules_in_order, a_made_name_that_is_kept_too_is_an_error) {
  expect_refused({make("b", "a")}, {"a", "b"}, "rule 1 (make \"b\"): makes \"b\", which is stored, too");
  EXPECT_EQ(made({make("b", "a"), drop("b")}, {"a", "b"}), (made_of{{"b", {"a"}}}));
}

TEST(rules_in_order, a_rule_that_matches_nothing_is_an_error) {
  expect_refused({make("{p...}.qkv", qkv)}, {"a"},
                 "rule 1 (make \"{p...}.qkv\"): matches nothing: no stored tensor is called \"{p...}.q.weight\"");
  expect_refused({make("b", "a"), drop("c.{i}")}, {"a"}, "rule 2 (drop \"c.{i}\"): matches nothing");
}

TEST(rules_in_order, an_optional_rule_may_match_nothing) {
  const result got = resolved({optional(make("{p...}.qkv", qkv)), optional(drop("c"))}, {"a"});
  EXPECT_TRUE(got.made.empty());
  EXPECT_EQ(got.kept, names{"a"});
}

TEST(rules_in_order, of_which_only_a_part_matches_are_an_error_optional_or_not) {
  const names all{"a.q.weight", "a.k.weight", "a.v.weight", "b.q.weight", "b.v.weight"};
  const std::string wanted =
      "rule 1 (make \"{p...}.qkv\"): for \"b.qkv\" there is \"b.q.weight\", \"b.v.weight\", but no \"b.k.weight\"";
  expect_refused({make("{p...}.qkv", qkv)}, all, wanted);
  expect_refused({optional(make("{p...}.qkv", qkv))}, all, wanted);
  expect_refused({optional(make("{p...}.qkv", qkv))}, {"v.weight", "b.v.weight"},
                 "but no \"b.q.weight\", \"b.k.weight\"");
}

TEST(rules_in_order, drop_takes_what_no_rule_uses_wherever_it_stands) {
  const result got = resolved({drop("{p...}.w"), make("{p...}.x", concat(0, {"{p...}.w", "{p...}.b"})), drop("c.b")},
                              {"a.w", "a.b", "c.b", "c.w", "d"});
  EXPECT_EQ(got.made, (made_of{{"a.x", {"a.w", "a.b"}}, {"c.x", {"c.w", "c.b"}}}));
  EXPECT_TRUE(got.dropped.empty());
  EXPECT_EQ(got.kept, names{"d"});
  EXPECT_EQ(resolved({drop("{p...}.w")}, {"a.w", "b"}).dropped, names{"a.w"});
}

TEST(rules_in_order, drop_allows_that_a_part_of_a_tensor_is_left) {
  EXPECT_EQ(resolve({make("x", slice(0, 0, 1, "a")), drop("a")}, stored({"a", "b"})).may_leave,
            (std::vector<bool>{true, false}));
}

TEST(rest_of_the_tensors, is_kept_dropped_or_an_error) {
  const names all{"a", "b", "c"};
  EXPECT_EQ(resolved(rule_set({make("x", "a")}), all).kept, (names{"b", "c"}));
  EXPECT_EQ(resolved(rule_set({make("x", "a")}, rest::drop), all).dropped, (names{"b", "c"}));
  expect_refused(rule_set({make("x", "a")}, rest::error, "m.json"), all,
                 "no rule names \"b\", \"c\", and the rest is an error");
  EXPECT_EQ(resolved(rule_set({make("x", "a"), drop("b"), drop("c")}, rest::error), all).dropped, (names{"b", "c"}));
}

TEST(rest_of_the_tensors, is_everything_without_rules) {
  EXPECT_EQ(resolved(rule_set({}), {"a", "b"}).kept, (names{"a", "b"}));
}

// -- nodes

TEST(nodes, whose_numbers_no_shape_fits_are_an_error) {
  expect_refused({make("x", concat(0, {}))}, {"a"}, "concat has no parts");
  expect_refused({make("x", slice(0, 2, 1, "a"))}, {"a"}, "a slice of 2 to 1 ends before it begins");
  expect_refused({make("x", chunk(0, 2, 2, "a"))}, {"a"}, "chunk 2 of 2 does not exist");
  expect_refused({make("x", chunk(0, 0, 0, "a"))}, {"a"}, "chunk 0 of 0 does not exist");
  expect_refused({make("x", permute({0, 0}, "a"))}, {"a"}, "name 0 twice");
  expect_refused({make("x", permute({0, 2}, "a"))}, {"a"}, "name 2, which is too large");
  expect_refused({make("x", pad(0, multiple_of(0), "a"))}, {"a"}, "a multiple of 0");
}

TEST(nodes, errors_name_the_file_and_the_rule) {
  const rule_set set({make("b", "a"), make("x", concat(0, {}))}, rest::keep, "maps/m.json");
  expect_error(errc::invalid_argument, "maps/m.json", "rule 2 (make \"x\"): concat has no parts",
               [&] { static_cast<void>(resolve(set, stored({"a"}))); });
}

}  // namespace
}  // namespace fsdpinit::rules_test
