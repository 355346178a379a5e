#include "support/expect_error.hpp"
#include "support/test_seed.hpp"
#include <fsdpinit/core/text.hpp>
#include <fsdpinit/modules/units.hpp>

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <map>
#include <random>
#include <set>
#include <string>
#include <string_view>
#include <vector>

namespace units_test {
namespace {

using namespace fsdpinit;
using fsdpinit::testing_support::expect_error;

using views = std::vector<std::string_view>;

/// `unit | name name ...` for each unit, in order.
std::vector<std::string> listed(const views& fqns, const unit_assignment& units) {
  EXPECT_EQ(units.unit_of.size(), fqns.size());
  std::vector<std::string> out;
  for (std::size_t unit = 0; unit < units.names.size(); ++unit) {
    out.push_back(units.names[unit] + " |");
    for (std::size_t i = 0; i < fqns.size(); ++i) {
      out.back() += units.unit_of[i] == unit ? concat(" ", fqns[i]) : "";
    }
  }
  return out;
}
std::vector<std::string> under(const views& fqns, const std::vector<std::string>& prefixes) {
  return listed(fqns, units_under(fqns, prefixes));
}
using lines = std::vector<std::string>;

TEST(UnitPrefixes, OwnTheirSubtreeWithoutTheUnitsInIt) {
  EXPECT_EQ(under({"embed.weight", "layers.0.q", "layers.0.experts.0.up", "layers.0.experts.1.up", "norm"},
                  {"layers.0", "layers.0.experts.0", "embed"}),
            (lines{" | norm", "embed | embed.weight", "layers.0 | layers.0.q layers.0.experts.1.up",
                   "layers.0.experts.0 | layers.0.experts.0.up"}));
}

TEST(UnitPrefixes, EndAtTheBoundaryOfAComponent) {
  EXPECT_EQ(under({"layers.1.q", "layers.10.q", "layers.1"}, {"layers.1"}),
            (lines{" | layers.10.q", "layers.1 | layers.1.q layers.1"}));
}

TEST(UnitPrefixes, AreOrderedAsTheNamesAreNotAsTheListIs) {
  EXPECT_EQ(under({"b.x", "a.x", "b.y"}, {"a", "b"}), (lines{" |", "b | b.x b.y", "a | a.x"}));
}

TEST(UnitPrefixes, ThatOwnNothingThemselvesComeLast) {
  EXPECT_EQ(under({"layers.0.q", "layers.1.q"}, {"layers", "layers.1", "layers.0"}),
            (lines{" |", "layers.0 | layers.0.q", "layers.1 | layers.1.q", "layers |"}));
}

TEST(UnitPrefixes, MayNameOneParameter) {
  EXPECT_EQ(under({"embed", "head"}, {"head"}), (lines{" | embed", "head | head"}));
}

TEST(UnitPrefixes, OfTheRootAloneMakeOneUnit) {
  EXPECT_EQ(under({"layers.0.q", "layers.1.q"}, {""}), (lines{" | layers.0.q layers.1.q"}));
}

TEST(UnitPrefixes, ThatNothingLiesUnderAreErrors) {
  for (const std::string wrong : {"layer", "layers.0.", "layers.0.q.w", ".", "q"}) {
    expect_error(errc::invalid_argument, wrong, "no parameter or buffer lies under it", [&] {
      static_cast<void>(under({"layers.0.q"}, {"layers", wrong}));
    });
  }
}

TEST(UnitPredicate, IsAskedOnceForEachModulePath) {
  const views fqns{"a.b.w", "a.b.v", "a.w", "w", "x..y", ".z"};
  std::vector<std::string> asked;
  const unit_assignment units = units_where(fqns, [&](std::string_view path) {
    asked.emplace_back(path);
    return path == "a.b";
  });
  EXPECT_EQ(asked, (lines{"a.b", "a", "x.", "x"}));
  EXPECT_EQ(listed(fqns, units), (lines{" | a.w w x..y .z", "a.b | a.b.w a.b.v"}));
}

TEST(UnitPredicate, MayBeTrueOfEverything) {
  const views fqns{"a.b.w", "a.w", "w"};
  EXPECT_EQ(listed(fqns, units_where(fqns, [](std::string_view) { return true; })),
            (lines{" | w", "a.b | a.b.w", "a | a.w"}));
}

TEST(CommonUnit, IsTheInnermostThatEnclosesBoth) {
  const std::vector<std::string> names{"", "a.b.c", "a.b.d", "a.b", "a", "ab"};
  EXPECT_EQ(common_unit(names, 1, 1), 1U);
  EXPECT_EQ(common_unit(names, 1, 2), 3U);
  EXPECT_EQ(common_unit(names, 2, 3), 3U);
  EXPECT_EQ(common_unit(names, 1, 4), 4U);
  EXPECT_EQ(common_unit(names, 1, 5), 0U);
  EXPECT_EQ(common_unit(names, 0, 2), 0U);
}

/// What the rule says, name by name and prefix by prefix.
std::string naive_unit_of(const std::string& fqn, const std::set<std::string>& prefixes) {
  std::string best;
  for (const std::string& prefix : prefixes) {
    const bool within = fqn == prefix || fqn.rfind(prefix + ".", 0) == 0;
    if (within && prefix.size() > best.size()) {
      best = prefix;
    }
  }
  return best;
}

TEST(UnitPrefixes, OfRandomTreesAreWhatTheRuleSays) {
  const std::uint64_t seed = testing_support::test_seed();
  SCOPED_TRACE(concat("FSDPINIT_TEST_SEED=", seed));
  std::mt19937_64 random(seed);
  for (int round = 0; round < 300; ++round) {
    std::set<std::string> names;
    for (std::size_t i = 0; i < 1 + random() % 12; ++i) {
      std::string name;
      for (std::size_t depth = 0; depth < 1 + random() % 4; ++depth) {
        name += concat(depth == 0 ? "" : ".", std::string(1 + random() % 2, static_cast<char>('a' + random() % 2)));
      }
      names.insert(name);
    }
    std::set<std::string> prefixes;
    std::set<std::string> modules;
    for (const std::string& name : names) {
      for (std::size_t at = 0; at <= name.size(); ++at) {
        if ((at == name.size() || name[at] == '.') && random() % 2 == 0) {
          prefixes.insert(name.substr(0, at));
          if (at != name.size()) {
            modules.insert(name.substr(0, at));
          }
        }
      }
    }
    const views fqns(names.begin(), names.end());
    const auto expect_rule = [&](const unit_assignment& units, const std::set<std::string>& all) {
      std::set<std::size_t> seen{0};
      for (std::size_t i = 0; i < fqns.size(); ++i) {
        EXPECT_EQ(units.names[units.unit_of[i]], naive_unit_of(std::string(fqns[i]), all)) << fqns[i];
        if (seen.insert(units.unit_of[i]).second) {
          EXPECT_EQ(units.unit_of[i], seen.size() - 1) << "units are numbered as names first fall to them";
        }
      }
      std::set<std::string> wanted = all;
      wanted.insert("");
      EXPECT_EQ(std::set<std::string>(units.names.begin(), units.names.end()), wanted);
      EXPECT_EQ(units.names.size(), wanted.size());
    };
    if (!prefixes.empty()) {
      expect_rule(units_under(fqns, std::vector<std::string>(prefixes.begin(), prefixes.end())), prefixes);
    }
    // A path of one name may be the name of another slot: the predicate is asked of paths alone.
    const unit_assignment units =
        units_where(fqns, [&](std::string_view path) { return modules.contains(std::string(path)); });
    for (std::size_t i = 0; i < fqns.size(); ++i) {
      std::set<std::string> others = modules;
      others.erase(std::string(fqns[i]));
      EXPECT_EQ(units.names[units.unit_of[i]], naive_unit_of(std::string(fqns[i]), others)) << fqns[i];
    }
    if (HasFailure()) {
      return;
    }
  }
}

}  // namespace
}  // namespace units_test
