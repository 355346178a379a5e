#include <fsdpinit/index/accounting.hpp>
#include <fsdpinit/index/box.hpp>
#include <fsdpinit/index/operations.hpp>
#include <fsdpinit/index/rearrange.hpp>
#include <support/expect_error.hpp>

#include <gtest/gtest.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace index_accounting_test {
namespace {

using namespace fsdpinit;
using namespace fsdpinit::index_map;

TEST(Boxes, Intersect) {
  const box a{{0, 4}, {6, 9}};
  EXPECT_EQ(intersection(a, {{2, 0}, {8, 6}}), (box{{2, 4}, {6, 6}}));
  EXPECT_TRUE(is_empty(intersection(a, {{2, 0}, {8, 3}})));
  EXPECT_EQ(elements(a), 30U);
  EXPECT_EQ(extents_of(a), (shape{6, 5}));
  EXPECT_EQ(to_string(a), "[0:6, 4:9]");
  EXPECT_FALSE(is_empty(whole({})));
}

/// `left over [0:8, 12:16]`, `0 and 1 have [..]`, or nothing.
std::string account_of(const shape& stored, const std::vector<recipe>& recipes) {
  const std::vector<use> uses = uses_of(recipes);
  const auto found = misuse_of(stored, uses_of(uses, 0));
  if (!found) {
    return "";
  }
  return found->twice ? fsdpinit::concat(uses[found->twice->first].recipe, " and ", uses[found->twice->second].recipe,
                                         " have ", to_string(found->where))
                      : fsdpinit::concat("left over ", to_string(found->where));
}

TEST(Accounts, NameTheComplementOfASlice) {
  const recipe of = stored_tensor(0, dtype::f32, {8, 16});
  EXPECT_EQ(account_of({8, 16}, {slice(of, 1, 0, 12)}), "left over [0:8, 12:16]");
  EXPECT_EQ(account_of({8, 16}, {slice(of, 0, 3, 8)}), "left over [0:3, 0:16]");
  EXPECT_EQ(account_of({8, 16}, {slice(of, 1, 0, 12), slice(of, 1, 12, 16)}), "");
}

TEST(Accounts, NameWhatTwoHave) {
  const recipe of = stored_tensor(0, dtype::f32, {8, 16});
  EXPECT_EQ(account_of({8, 16}, {slice(of, 0, 0, 5), slice(of, 0, 4, 8)}), "0 and 1 have [4:5, 0:16]");
  EXPECT_EQ(account_of({8, 16}, {of, slice(slice(of, 0, 2, 4), 1, 8, 9)}), "0 and 1 have [2:4, 8:9]");
}

TEST(Accounts, NameATensorThatNothingUses) {
  EXPECT_EQ(account_of({8, 16}, {}), "left over [0:8, 0:16]");
  EXPECT_EQ(account_of({}, {}), "left over []");
  EXPECT_EQ(account_of({0, 16}, {}), "");
}

TEST(Accounts, KnowElementsOfAScalar) {
  const recipe of = stored_tensor(0, dtype::f32, {});
  EXPECT_EQ(account_of({}, {of}), "");
  EXPECT_EQ(account_of({}, {of, of}), "0 and 1 have []");
}

TEST(Accounts, FollowRowsThatAlternate) {
  const recipe halves = rearrange(stored_tensor(0, dtype::f32, {4096, 64}), "(d two) k -> two d k",
                                  std::array<axis_size, 1>{axis_size{"two", 2}});
  EXPECT_EQ(account_of({4096, 64}, {slice(halves, 0, 0, 1), slice(halves, 0, 1, 2)}), "");
  EXPECT_EQ(account_of({4096, 64}, {slice(halves, 0, 0, 1), slice(slice(halves, 0, 1, 2), 2, 0, 63)}),
            "left over [1:2, 63:64]");
}

/// The operation throws an error that says so.
template <class Operation>
void expect_refused(Operation operation, std::string_view text) {
  testing_support::expect_error(errc::invalid_argument, "", text, [&] { (void)operation(); });
}

TEST(Inverses, AreOfWhatIsUsedOnce) {
  const std::vector<recipe> rows{slice(stored_tensor(0, dtype::f32, {4, 2}), 0, 0, 3)};
  expect_refused(
      [&] {
        return inverse(uses_of(rows), dtype::f32, {4, 2});
      },
      "inverse: [3:4, 0:2] of [4, 2] is used by nothing; only what is used once can be made of what uses it");
  const std::vector<recipe> narrow{cast(stored_tensor(0, dtype::f64, {4}), dtype::f32)};
  expect_refused([&] { return inverse(uses_of(narrow), dtype::f64, {4}); },
                 "inverse: F32 is not converted back to F64; leave the cast out");
}

}  // namespace
}  // namespace index_accounting_test
