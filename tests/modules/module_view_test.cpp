#include "support/expect_error.hpp"
#include <fsdpinit/fsdpinit.hpp>
#include <fsdpinit/init/manifest.hpp>
#include <fsdpinit/init/match.hpp>
#include <fsdpinit/modules/module_view.hpp>
#include <fsdpinit/testing/rank_harness.hpp>

#include <boost/hana/adapt_struct.hpp>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace module_view_test {
namespace {

using namespace fsdpinit;
using fsdpinit::testing::errors_of_ranks;
using fsdpinit::testing_support::expect_error;

using names = std::vector<std::string>;

dynamic_module decoder() {
  dynamic_module module;
  module.add_parameter("embed.weight", dtype::f32, {4, 2});
  for (int layer = 0; layer < 2; ++layer) {
    for (const std::string_view part : {"mlp.up", "mlp.gate", "norm"}) {
      module.add_parameter(concat("layers.", layer, ".", part), dtype::f32, {4});
    }
  }
  module.add_parameter("head.weight", dtype::f32, {4, 2});
  return module;
}

constexpr std::size_t decoder_size = 8;

/// The unit of the tensor that stands behind each slot.
std::vector<std::string> units_of(const module_view& view) {
  std::vector<std::string> out;
  for (const slot_record& slot : view.slots) {
    out.push_back(view.units[view.tensors[slot.tensor].unit]);
  }
  return out;
}

/// Says itself what its units are.
struct decoder_of_halves : dynamic_module {
  decoder_of_halves() : dynamic_module(decoder()) {}
  [[nodiscard]] bool is_unit(std::string_view path) const { return path.ends_with("mlp") || path == "layers.1"; }
};
struct nested {
  dynamic_module body;
  [[nodiscard]] bool is_unit(std::string_view path) const { return path == "body.layers"; }
};

/// A framework's tensor: a handle of what several share.
struct handle_slot {
  std::shared_ptr<parameter> shared = std::make_shared<parameter>(dtype::f32, shape{4});
};
struct module_of_handles {
  handle_slot embed;
  handle_slot head;
  names tied{};
  template <class Visitor>
  void visit_slots(Visitor&& visitor) {
    visitor(std::string_view("embed"), embed);
    visitor(std::string_view("head"), head);
  }
  [[nodiscard]] std::vector<names> tie_groups() const { return {tied}; }
};

/// A foreign module that says so in its traits.
struct silent_module {
  dynamic_module inner;
};

}  // namespace
}  // namespace module_view_test

BOOST_HANA_ADAPT_STRUCT(module_view_test::nested, body);

template <>
struct fsdpinit::slot_traits<module_view_test::handle_slot> {
  using slot = module_view_test::handle_slot;
  static slot_role role(const slot& /*handle*/) { return slot_role::parameter; }
  static fsdpinit::dtype dtype(const slot& handle) { return handle.shared->dtype(); }
  static const fsdpinit::shape& shape(const slot& handle) { return handle.shared->shape(); }
  static fsdpinit::placement placement(const slot& handle) { return handle.shared->placement(); }
  static const std::byte* data(const slot& handle) { return handle.shared->data(); }
  static void drop(slot& handle) noexcept { handle.shared->drop(); }
  static void adopt(slot& handle, local_shard&& part) noexcept { handle.shared->adopt(std::move(part)); }
  static const void* identity(const slot& handle) { return handle.shared.get(); }
};

template <>
struct fsdpinit::module_traits<module_view_test::silent_module> {
  template <class Visitor>
  static void visit_slots(module_view_test::silent_module& module, Visitor&& visitor) {
    module.inner.visit_slots(visitor);
  }
  static bool is_unit(const module_view_test::silent_module& /*module*/, std::string_view path) {
    return path == "embed";
  }
};

namespace module_view_test {
namespace {

static_assert(NamesUnits<decoder_of_halves> && NamesUnits<nested> && NamesUnits<silent_module>);
static_assert(!NamesUnits<dynamic_module>);

TEST(ModuleView, HasTheDefaultUnitsWhereNobodySaysOtherwise) {
  dynamic_module module = decoder();
  EXPECT_EQ(units_of(view_of(module)),
            (names{"", "layers.0", "layers.0", "layers.0", "layers.1", "layers.1", "layers.1", ""}));
}

TEST(ModuleView, HasTheUnitsThatTheModuleNames) {
  decoder_of_halves module;
  EXPECT_EQ(units_of(view_of(module)),
            (names{"", "layers.0.mlp", "layers.0.mlp", "", "layers.1.mlp", "layers.1.mlp", "layers.1", ""}));
  nested tree{decoder()};
  EXPECT_EQ(units_of(view_of(tree)),
            (names{"", "body.layers", "body.layers", "body.layers", "body.layers", "body.layers", "body.layers", ""}));
  silent_module foreign{decoder()};
  EXPECT_EQ(units_of(view_of(foreign)), (names{"embed", "", "", "", "", "", "", ""}));
}

TEST(ModuleView, HasTheUnitsOfTheOptionsWhateverTheModuleNames) {
  decoder_of_halves module;
  const names prefixes{"layers", "embed"};
  EXPECT_EQ(units_of(view_of(module, prefixes)),
            (names{"embed", "layers", "layers", "layers", "layers", "layers", "layers", ""}));
  expect_error(errc::invalid_argument, "layers.2", "no parameter or buffer lies under it",
               [&] { static_cast<void>(view_of(module, names{"layers.2"})); });
}

TEST(ModuleView, KeepsTheNamesWhateverTheUnits) {
  dynamic_module module = decoder();
  const module_view plain = view_of(module);
  const module_view cut = view_of(module, names{"layers.0.mlp", "head"});
  for (std::size_t i = 0; i < plain.slots.size(); ++i) {
    EXPECT_EQ(cut.slots[i].fqn, plain.slots[i].fqn);
  }
}

TEST(ModuleView, GivesATieAcrossUnitsToTheInnermostThatEnclosesIt) {
  dynamic_module module = decoder();
  module.tie({"layers.0.mlp.up", "layers.0.norm"});
  module.tie({"embed.weight", "head.weight"});
  module.tie({"layers.1.mlp.up", "layers.1.mlp.gate", "layers.0.mlp.gate"});
  // Within one unit; in the root; across the default's units.
  EXPECT_EQ(units_of(view_of(module)), (names{"", "layers.0", "", "layers.0", "", "", "layers.1", ""}));
  // `layers` owns nothing but the ties across the units in it.
  EXPECT_EQ(units_of(view_of(module, names{"layers", "layers.0.mlp", "layers.0", "layers.1.mlp", "layers.1", "embed"})),
            (names{"", "layers.0", "layers", "layers.0", "layers", "layers", "layers.1", ""}));
}

/// Visits slots that are others too, under further names.
struct aliasing_module : dynamic_module {
  std::vector<std::pair<std::string, std::string>> aliases{};  // further name -> name
  template <class Visitor>
  void visit_slots(Visitor&& visitor) {
    dynamic_module::visit_slots(visitor);
    for (const auto& [alias, fqn] : aliases) {
      visitor(std::string_view(alias), get_parameter(fqn));
    }
  }
};

TEST(ModuleView, RejectsASlotUnderTwoNamesThatAreNotTied) {
  aliasing_module module{decoder()};
  module.aliases = {{"lm_head", "embed.weight"}, {"first.norm", "layers.0.norm"}};
  expect_error(errc::invalid_tie, "lm_head", "the same tensor as embed.weight, but the two are not declared tied",
               [&] { static_cast<void>(view_of(module)); });
  module.tie({"embed.weight", "lm_head"});
  expect_error(errc::invalid_tie, "first.norm", "the same tensor as layers.0.norm, but the two are not declared tied",
               [&] { static_cast<void>(view_of(module)); });
  module.tie({"first.norm", "layers.0.norm"});
  EXPECT_EQ(view_of(module).tensors.size(), decoder_size);
}

TEST(ModuleView, RejectsHandlesOfOneTensorThatAreNotTied) {
  module_of_handles module;
  EXPECT_EQ(view_of(module).tensors.size(), 2U);
  module.head = module.embed;
  expect_error(errc::invalid_tie, "head", "the same tensor as embed", [&] { static_cast<void>(view_of(module)); });
  module.tied = {"embed", "head"};
  EXPECT_EQ(view_of(module).tensors.size(), 1U);
}

TEST(ModuleView, KnowsWhatIsTrained) {
  dynamic_module module = decoder();
  module.add_buffer("mask", dtype::f32, {4});
  module.get_parameter("layers.0.norm").set_requires_grad(false);
  for (const slot_record& slot : view_of(module).slots) {
    EXPECT_EQ(slot.requires_grad, slot.fqn != "layers.0.norm" && slot.fqn != "mask") << slot.fqn;
  }
}

TEST(Manifest, NamesTheUnitOfASlotInWhichRanksDiffer) {
  const auto manifest = [](const names& prefixes) {
    dynamic_module module = decoder();
    return manifest_of(view_of(module, prefixes), {}, {.policy = "policy", .transport = "transport"}, 2);
  };
  expect_error(errc::disagreement, "",
               "called with 'layers.1.mlp.up in unit layers.1' where rank 0 has 'layers.1.mlp.up in the root'", [&] {
                 require_equal_manifests(manifest({"layers.0"}), manifest({"layers.1", "layers.0"}));
               });
  require_equal_manifests(manifest({"layers.0", "embed"}), manifest({"embed", "layers.0"}));
}

TEST(Manifest, NamesAParameterThatIsFrozenOnOneRankOnly) {
  const auto errors = errors_of_ranks(3, [&](std::size_t rank, threads_communicator& world) {
    dynamic_module module = decoder();
    module.get_parameter("head.weight").set_requires_grad(rank != 1);
    initialize(module, in_memory_source(std::vector<in_memory_tensor>()), world);
  });
  for (const auto& each : errors) {
    ASSERT_TRUE(each.has_value());
    EXPECT_EQ(each->code(), errc::disagreement);
    EXPECT_EQ(each->rank(), 1);
    EXPECT_NE(each->text().find("'parameter head.weight F32 [4, 2] shard{0} frozen' where"), std::string::npos)
        << each->what();
  }
}

/// Whichever of its ways to the next slot is the right one.
TEST(Match, FindsEachSlotInAnyOrderOfTheSource) {
  constexpr std::size_t count = 60;
  dynamic_module module;
  names called;
  for (std::size_t i = 0; i < count; ++i) {
    called.push_back(concat("layers.", i * 7 % count, ".weight"));  // neither sorted nor as the numbers are
    module.add_parameter(called.back(), dtype::u8, {i + 1});
  }
  const module_view view = view_of(module);
  std::vector<std::size_t> in_order(count);
  std::iota(in_order.begin(), in_order.end(), std::size_t{0});
  std::vector<std::vector<std::size_t>> orders{in_order, {in_order.rbegin(), in_order.rend()}, view.by_name};
  orders.emplace_back(view.by_name.rbegin(), view.by_name.rend());
  std::mt19937 random(1);
  for (int i = 0; i < 20; ++i) {
    std::shuffle(in_order.begin(), in_order.end(), random);
    orders.push_back(in_order);
  }
  for (const std::vector<std::size_t>& order : orders) {
    state_dict_contents contents;
    std::vector<std::size_t> expected;
    for (const std::size_t slot : order) {
      if (slot % 5 == 0) {  // one before and one behind all others, and one between
        for (const char* const unknown : {"a", "layers.3.weights", "z"}) {
          contents.tensors.push_back({.name = unknown, .dtype = dtype::u8});
        }
      }
      if (slot % 7 != 0) {
        expected.push_back(slot);
        contents.tensors.push_back({.name = called[slot], .dtype = dtype::u8, .shape = {slot + 1}});
      }
    }
    contents.stored.resize(contents.tensors.size());
    unmatched_names rest;
    std::vector<std::size_t> found;
    for (const load_item& item : match(view, contents, &rest)) {
      found.push_back(view.slots_of(view.tensors[item.tensor]).front());
      EXPECT_EQ(contents.tensors[item.source].name, called[found.back()]);
    }
    EXPECT_EQ(found, expected);
    EXPECT_EQ(rest.missing.size(), count - expected.size());
    EXPECT_EQ(rest.unexpected.size(), 3 * ((count + 4) / 5));
  }
}

module_view view_of_two(dynamic_module& module) {
  module.add_parameter("a", dtype::u8, {1});
  module.add_parameter("b", dtype::u8, {1});
  return view_of(module);
}

state_dict_contents contents_of(const names& stored) {
  state_dict_contents contents;
  for (const std::string& name : stored) {
    contents.tensors.push_back({.name = name, .dtype = dtype::u8, .shape = {1}});
  }
  return contents;
}

TEST(Match, NothingInCommonIsAnErrorAlsoWhereNamesMayDiffer) {
  dynamic_module module;
  const module_view view = view_of_two(module);
  for (const bool initialises : {false, true}) {
    unmatched_names rest;
    expect_error(errc::missing_tensor, "a",
                 "missing, as are all 2 tensors that the module wants: the checkpoint has 3 others, such as model.a; "
                 "check that this is the model's checkpoint, and its prefix",
                 [&] {
                   static_cast<void>(match(view, contents_of({"model.a", "model.b", "c"}), &rest, initialises));
                 });
  }
  unmatched_names rest;
  EXPECT_EQ(match(view, contents_of({"b", "c"}), &rest).size(), 1U);  // one is enough
  EXPECT_EQ(rest.missing, names{"a"});
}

TEST(Match, AnEmptySourceIsAnErrorUnlessEverythingIsInitialised) {
  dynamic_module module;
  const module_view view = view_of_two(module);
  unmatched_names rest;
  expect_error(errc::missing_tensor, "a", "the checkpoint holds nothing",
               [&] { static_cast<void>(match(view, contents_of({}), &rest)); });
  unmatched_names made;
  EXPECT_TRUE(match(view, contents_of({}), &made, true).empty());
  EXPECT_EQ(made.missing, (names{"a", "b"}));
}

TEST(Match, AModuleThatWantsNothingMatchesAnything) {
  dynamic_module nothing;
  const module_view view = view_of(nothing);
  unmatched_names rest;
  EXPECT_TRUE(match(view, contents_of({"a"}), &rest).empty());
  EXPECT_EQ(rest.unexpected, names{"a"});
  EXPECT_TRUE(match(view, contents_of({})).empty());
}

TEST(Match, WhatTheIndexLeavesOutIsMissingAndItsFileIsNamed) {
  dynamic_module module;
  const module_view view = view_of_two(module);
  state_dict_contents contents = contents_of({"a"});
  contents.unlisted = {{.name = {}, .file = "other"}, {.name = "b", .file = "model-3-of-3.safetensors"}};
  expect_error(
      errc::missing_tensor, "b",
      "missing: stored in model-3-of-3.safetensors, but the index does not list it; download or save the index "
      "again",
      [&] { static_cast<void>(match(view, contents)); });
}

TEST(Match, WhatTheIndexLeavesOutIsNotMadeUpUnlessItIsFilteredOut) {
  dynamic_module module;
  module_view view = view_of_two(module);
  state_dict_contents contents = contents_of({"a"});
  contents.unlisted = {{.name = "b", .file = "model-3-of-3.safetensors"}};
  unmatched_names rest;
  expect_error(errc::missing_tensor, "b", "or leave the tensor out with filtered() to have it initialised",
               [&] { static_cast<void>(match(view, contents, &rest, true)); });
  EXPECT_EQ(match(view, contents, &rest).size(), 1U);  // it stays on meta
  EXPECT_EQ(rest.missing, names{"b"});
  contents.unlisted.clear();  // as filtered() does
  EXPECT_EQ(match(view, contents, &rest, true).size(), 1U);

  dynamic_module tied;
  tied.add_parameter("a", dtype::u8, {1});
  tied.add_parameter("other_name", dtype::u8, {1});
  tied.add_parameter("b", dtype::u8, {1});
  tied.tie({"other_name", "b"});
  contents.unlisted = {{.name = "b", .file = "f"}};
  expect_error(errc::missing_tensor, "other_name", "stored in f",
               [&] { static_cast<void>(match(view_of(tied), contents, &rest, true)); });
}

}  // namespace
}  // namespace module_view_test
