#include "support/expect_error.hpp"
#include <fsdpinit/modules/dynamic_module.hpp>
#include <fsdpinit/modules/parameter.hpp>
#include <fsdpinit/modules/struct_module.hpp>
#include <fsdpinit/testing/laws.hpp>

#include <boost/hana/adapt_struct.hpp>
#include <boost/hana/define_struct.hpp>
#include <gtest/gtest.h>

#include <array>
#include <cstddef>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

namespace shapes {

using fsdpinit::buffer;
using fsdpinit::dtype;
using fsdpinit::parameter;

struct linear {
  parameter weight{dtype::f32, {2, 2}};
  std::optional<parameter> bias;
  std::string activation = "relu";
};

struct attention {
  linear query;
  linear key;
  buffer mask{dtype::boolean, {2}, false};
};

struct decoder {
  parameter embed{dtype::bf16, {4, 2}};
  std::vector<attention> layers;
  std::array<linear, 2> heads;
  std::unique_ptr<linear> adapter;
  std::vector<parameter> scales;
  std::array<std::vector<parameter>, 1> nested;
  std::vector<float> rates;
  double learning_rate = 0.1;
  void* handle = nullptr;
  [[nodiscard]] std::vector<std::vector<std::string>> tie_groups() const { return {{"embed", "heads.0.weight"}}; }
};

template <class Inner, int Width>
struct sequential {
  BOOST_HANA_DEFINE_STRUCT(sequential, (Inner, first), (std::vector<Inner>, rest), (int, width));
};

struct empty {};

struct wrapper {
  fsdpinit::dynamic_module body;
  parameter head{dtype::f32, {2}};
};

/// A module of another framework, that its traits know.
struct foreign {
  parameter weight{dtype::f32, {2}};
};

struct configuration {
  int layers = 2;
  std::string kind = "dense";
};
struct activation {
  float operator()(float x) const { return x < 0 ? 0 : x; }
};
struct implementation;

/// What members of a module are, besides tensors.
struct settings {
  configuration config;
  activation act;
  std::string name;
  std::string_view tag;
  const std::vector<int> strides{1, 2};
  int dims[2][2] = {};
  std::array<std::string, 2> labels;
  std::optional<float> dropout;
  std::function<float(float)> schedule;
  std::map<std::string, std::vector<double>> tables;
  std::set<int> skipped;
  std::tuple<int, std::pair<float, std::string>> ranges;
  std::unique_ptr<float[]> cache;
  std::shared_ptr<const std::string> doc;
  foreign* parent = nullptr;
  std::shared_ptr<implementation> hidden;
  void (*hook)(int) = nullptr;
};
struct composed {
  settings how;
  foreign stem;
  std::shared_ptr<linear> shared;
  linear pair[2];
};

}  // namespace shapes

template <>
struct fsdpinit::module_traits<shapes::foreign> {
  template <class Visitor>
  static void visit_slots(shapes::foreign& module, Visitor&& visitor) {
    visitor("w", module.weight);
  }
};
template <>
inline constexpr bool fsdpinit::holds_no_slots<shapes::configuration> = true;
template <>
inline constexpr bool fsdpinit::holds_no_slots<shapes::implementation> = true;

BOOST_HANA_ADAPT_STRUCT(shapes::linear, weight, bias, activation);
BOOST_HANA_ADAPT_STRUCT(shapes::wrapper, body, head);
BOOST_HANA_ADAPT_STRUCT(shapes::attention, query, key, mask);
BOOST_HANA_ADAPT_STRUCT(shapes::decoder, embed, layers, heads, adapter, scales, nested, rates, learning_rate, handle);
BOOST_HANA_ADAPT_STRUCT(shapes::empty);
BOOST_HANA_ADAPT_STRUCT(shapes::settings, config, act, name, tag, strides, dims, labels, dropout, schedule, tables,
                        skipped, ranges, cache, doc, parent, hidden, hook);
BOOST_HANA_ADAPT_STRUCT(shapes::composed, how, stem, shared, pair);

namespace struct_module_test {
namespace {

using namespace fsdpinit;
using fsdpinit::testing::check_module;
using fsdpinit::testing::violations;
using fsdpinit::testing_support::expect_error;

template <class M>
std::vector<std::string> names_of(M& module) {
  static_assert(ShardableModule<M>);
  std::vector<std::string> out;
  module_traits<M>::visit_slots(module, [&](std::string_view fqn, auto&) { out.emplace_back(fqn); });
  return out;
}

using names = std::vector<std::string>;

TEST(StructModule, MembersAreJoinedByDots) {
  shapes::attention module;
  EXPECT_EQ(names_of(module), (names{"query.weight", "key.weight", "mask"}));
}

TEST(StructModule, VectorsAndArraysGiveIndices) {
  shapes::decoder module;
  module.layers.resize(2);
  module.scales.resize(1);
  module.nested[0].resize(2);
  EXPECT_EQ(names_of(module), (names{"embed", "layers.0.query.weight", "layers.0.key.weight", "layers.0.mask",
                                     "layers.1.query.weight", "layers.1.key.weight", "layers.1.mask", "heads.0.weight",
                                     "heads.1.weight", "scales.0", "nested.0.0", "nested.0.1"}));
}

TEST(StructModule, OptionalAndUniquePtrAreSkippedWhenEmpty) {
  shapes::decoder module;
  EXPECT_EQ(names_of(module), (names{"embed", "heads.0.weight", "heads.1.weight"}));
  module.adapter = std::make_unique<shapes::linear>();
  module.adapter->bias.emplace();
  EXPECT_EQ(names_of(module), (names{"embed", "heads.0.weight", "heads.1.weight", "adapter.weight", "adapter.bias"}));
}

TEST(StructModule, AMemberThatVisitsItsOwnSlotsIsWalkedUnderItsName) {
  shapes::wrapper module;
  module.body.add_parameter("layers.0.weight", dtype::f32, {2});
  EXPECT_EQ(names_of(module), (names{"body.layers.0.weight", "head"}));
}

TEST(StructModule, MembersThatHoldNoSlotsAreLeftAlone) {
  shapes::settings module;
  shapes::foreign parent;
  module.parent = &parent;
  EXPECT_EQ(names_of(module), names{});
}

TEST(StructModule, ModulesKnownByTheirTraitsSharedOnesAndArraysOfThemAreWalked) {
  shapes::composed module;
  EXPECT_EQ(names_of(module), (names{"stem.w", "pair.0.weight", "pair.1.weight"}));
  module.shared = std::make_shared<shapes::linear>();
  EXPECT_EQ(names_of(module), (names{"stem.w", "shared.weight", "pair.0.weight", "pair.1.weight"}));
}

// What may hold a slot, or is of an unknown class, is not passed over: members of these types do not compile where they are no modules
// (tests/compile_fail/member_that_is_not_adapted.cpp).
struct unknown {
  parameter weight;
};
template <class Scalar>
struct unknown_template {
  parameter weight;
};
static_assert(!holds_no_slots<unknown> && !holds_no_slots<unknown_template<float>>);
static_assert(!holds_no_slots<parameter> && !holds_no_slots<shapes::linear> && !holds_no_slots<dynamic_module>);
static_assert(!holds_no_slots<std::vector<std::optional<unknown>>> && !holds_no_slots<unknown[2]>);
static_assert(!holds_no_slots<std::shared_ptr<unknown>> && !holds_no_slots<std::unique_ptr<unknown[]>>);
static_assert(!holds_no_slots<std::map<std::string, unknown>> && !holds_no_slots<std::tuple<int, unknown>>);
static_assert(!detail::is_walked<unknown> && !detail::is_walked<unknown_template<float>>);
static_assert(!detail::is_walked<std::map<std::string, parameter>> && !detail::is_walked<std::unique_ptr<parameter[]>>);

TEST(StructModule, TemplatesAreDefinedStructs) {
  shapes::sequential<shapes::linear, 3> module;
  module.rest.resize(1);
  EXPECT_EQ(names_of(module), (names{"first.weight", "rest.0.weight"}));
  shapes::sequential<shapes::sequential<shapes::linear, 3>, 4> outer;
  outer.rest.resize(1);
  EXPECT_EQ(names_of(outer), (names{"first.first.weight", "rest.0.first.weight"}));
}

TEST(StructModule, SlotsAreTheMembersThemselves) {
  shapes::attention module;
  bool seen = false;
  module_traits<shapes::attention>::visit_slots(module, [&](std::string_view fqn, auto& slot) {
    if (fqn == "key.weight") {
      seen = true;
      EXPECT_EQ(static_cast<void*>(&slot), static_cast<void*>(&module.key.weight));
    }
  });
  EXPECT_TRUE(seen);
}

TEST(StructModule, WithoutSlotsVisitsNothing) {
  shapes::empty module;
  EXPECT_EQ(names_of(module), names{});
}

TEST(StructModule, TiesAreDeclaredByAMemberFunction) {
  const shapes::decoder module;
  EXPECT_EQ(tie_groups(module), (std::vector<names>{{"embed", "heads.0.weight"}}));
  EXPECT_TRUE(tie_groups(shapes::attention{}).empty());
}

TEST(StructModule, KeepsTheLaws) {
  shapes::decoder module;
  module.layers.resize(3);
  EXPECT_EQ(check_module(module), violations{});
}

TEST(DynamicModule, ShowsSlotsInTheOrderTheyWereAdded) {
  dynamic_module module;
  parameter& weight = module.add_parameter("b.weight", dtype::f32, {2});
  module.add_buffer("a.mask", dtype::boolean, {3}, false);
  for (int i = 0; i < 100; ++i) {
    module.add_parameter(std::to_string(i), dtype::f32, {1});
  }
  EXPECT_EQ(&module.get_parameter("b.weight"), &weight) << "slots stay where they are";
  const names seen = names_of(module);
  ASSERT_EQ(seen.size(), 102U);
  EXPECT_EQ(seen[0], "b.weight");
  EXPECT_EQ(seen[1], "a.mask");
  EXPECT_FALSE(module.get_buffer("a.mask").persistent());
  EXPECT_EQ(check_module(module), violations{});
}

TEST(DynamicModule, ANameIsTakenOnceAndFoundByKind) {
  dynamic_module module;
  module.add_parameter("weight", dtype::f32, {2});
  expect_error(errc::invalid_argument, "weight", "has this name already",
               [&] { module.add_buffer("weight", dtype::f32, {2}); });
  expect_error(errc::invalid_argument, "weight", "no buffer of this name",
               [&] { static_cast<void>(module.get_buffer("weight")); });
  expect_error(errc::invalid_argument, "bias", "no parameter of this name",
               [&] { static_cast<void>(module.get_parameter("bias")); });
}

TEST(Buffer, TakesValuesOfItsSizeOnly) {
  buffer mask(dtype::u16, {3});
  EXPECT_TRUE(mask.is_meta());
  const std::vector<std::byte> values(6, std::byte{7});
  mask.set(values);
  EXPECT_FALSE(mask.is_meta());
  EXPECT_NE(mask.data(), values.data());
  EXPECT_EQ(mask.data()[5], std::byte{7});
  expect_error(errc::shape_mismatch, "buffer", "[3] U16 needs 6 bytes, got 5",
               [&] { mask.set(bytes_view(values).first(5)); });
  mask.drop();
  EXPECT_TRUE(mask.is_meta());
  EXPECT_EQ(mask.data(), nullptr);
}

}  // namespace
}  // namespace struct_module_test
