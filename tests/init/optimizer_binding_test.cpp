#include "support/adamw.hpp"
#include "support/archetypes.hpp"
#include "support/expect_error.hpp"
#include <fsdpinit/fsdpinit.hpp>
#include <fsdpinit/init/optimizer_binding.hpp>

#include <gtest/gtest.h>

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace optimizer_binding_test {
namespace {

using namespace fsdpinit;
using namespace fsdpinit::testing_support;

using names = std::vector<std::string>;

dynamic_module decoder() {
  dynamic_module module;
  module.add_parameter("embed", dtype::f32, {4, 2});
  module.add_parameter("layers.0.up", dtype::f32, {4});
  module.add_parameter("layers.0.norm", dtype::f32, {4});
  module.add_parameter("layers.1.up", dtype::f32, {4});
  module.add_parameter("head", dtype::f32, {4, 2});
  module.add_buffer("mask", dtype::f32, {4});
  module.tie({"embed", "head"});
  return module;
}

/// One group, without names.
adamw of_all() { return adamw(std::vector<adamw::group>(1), 8); }

/// `group name` of each entry.
std::vector<std::string> entries_of(const adamw& optimizer) {
  dynamic_module module = decoder();
  const module_view view = view_of(module);
  std::vector<std::string> out;
  for (const optimizer_entry& entry : check_optimizer(view, optimizer)) {
    out.push_back(concat(entry.group, " ", view.slots[entry.slot].fqn));
  }
  return out;
}

TEST(CheckOptimizer, FindsTheParametersOfEachGroupByName) {
  EXPECT_EQ(entries_of(adamw({{.names = {"layers.1.up", "layers.0.up"}}, {.names = {"layers.0.norm"}}})),
            (names{"0 layers.1.up", "0 layers.0.up", "1 layers.0.norm"}));
  EXPECT_EQ(entries_of(adamw({})), names{});
}

TEST(CheckOptimizer, TakesASoleGroupWithoutNamesForAllThatIsTrained) {
  EXPECT_EQ(entries_of(of_all()), (names{"0 embed", "0 layers.0.up", "0 layers.0.norm", "0 layers.1.up"}));
  dynamic_module module = decoder();
  module.get_parameter("embed").set_requires_grad(false);
  module.get_parameter("layers.0.norm").set_requires_grad(false);
  const module_view view = view_of(module);
  names found;
  for (const optimizer_entry& entry : check_optimizer(view, of_all())) {
    found.push_back(view.slots[entry.slot].fqn);
  }
  EXPECT_EQ(found, (names{"head", "layers.0.up", "layers.1.up"})) << "one of a tie is enough to be trained";
}

TEST(CheckOptimizer, HasATiedTensorOnceWhateverItsNames) {
  EXPECT_EQ(entries_of(adamw({{.names = {"head", "layers.0.up", "embed", "head"}}})),
            (names{"0 head", "0 layers.0.up"}));
}

TEST(CheckOptimizer, RejectsATensorInTwoGroups) {
  expect_error(errc::invalid_argument, "head",
               "groups 0 and 1 of the optimizer both have it, the first as embed; leave it", [] {
                 static_cast<void>(entries_of(adamw({{.names = {"embed"}}, {.names = {"head"}}})));
               });
  expect_error(errc::invalid_argument, "embed", "groups 0 and 2 of the optimizer both have it; leave it in one", [] {
    static_cast<void>(entries_of(adamw({{.names = {"embed"}}, {.names = {"layers.0.up"}}, {.names = {"embed"}}})));
  });
}

TEST(CheckOptimizer, RejectsANameThatTheModuleDoesNotHave) {
  expect_error(errc::invalid_argument, "layers.2.up",
               "group 1 of the optimizer has it, but the module has no parameter of this name", [] {
                 static_cast<void>(entries_of(adamw({{.names = {"embed"}}, {.names = {"layers.2.up"}}})));
               });
  expect_error(errc::invalid_argument, "mask",
               "group 0 of the optimizer has it, but the module has a buffer of this name",
               [] { static_cast<void>(entries_of(adamw({{.names = {"mask"}}}))); });
}

TEST(CheckOptimizer, RejectsSeveralGroupsOfWhichOneIsNameless) {
  expect_error(errc::invalid_argument, "optimizer", "group 1 of 2 names no parameters; of several groups each has to",
               [] {
                 static_cast<void>(entries_of(adamw({{.names = {"embed"}}, {}})));
               });
}

TEST(CheckOptimizer, RejectsOneThatHasState) {
  adamw optimizer({{.names = {"embed"}}});
  optimizer.step([](const parameter&) { return std::span<const float>(); });
  expect_error(errc::invalid_argument, "optimizer", "it already has state",
               [&] { static_cast<void>(entries_of(optimizer)); });
}

TEST(CheckOptimizer, GivesTheManifestALineForEachTensor) {
  dynamic_module module = decoder();
  const module_view view = view_of(module);
  const auto lines = [&](std::vector<adamw::group> groups) {
    return manifest_of(view, check_optimizer(view, adamw(std::move(groups))));
  };
  EXPECT_EQ(lines({{.names = {"embed"}}, {.names = {"layers.0.up"}}}),
            "optimizer group 0 embed\noptimizer group 1 layers.0.up\n");
  EXPECT_EQ(manifest_of(view, check_optimizer(view, no_optimizer())), "");
}

/// Storage for one slot.
std::shared_ptr<std::byte> give(parameter& slot) {
  auto owner = std::make_shared<std::byte>();
  slot.adopt({.shape = slot.shape(), .offset = 0, .bytes = 1, .data = owner});
  return owner;
}

TEST(OptimizerBinding, DropsWhatWasBeforeAndBindsWhatIsAfter) {
  dynamic_module module = decoder();
  adamw optimizer({{.names = {"layers.0.up", "head"}}, {.names = {"layers.0.norm"}}});
  parameter& up = module.get_parameter("layers.0.up");
  const std::shared_ptr<std::byte> before = give(up);
  optimizer.rebind(0, "layers.0.up", up);  // as it was made, over the whole model

  const module_view view = view_of(module);
  const auto binding = bind_optimizer({module, optimizer}, view, check_optimizer(view, optimizer));
  EXPECT_EQ(optimizer.address_of(up), before.get()) << "nothing has changed yet";
  drop_references(binding);
  up.drop();
  EXPECT_EQ(before.use_count(), 1);

  const std::shared_ptr<std::byte> after = give(up);
  const std::shared_ptr<std::byte> head = give(module.get_parameter("head"));
  const std::shared_ptr<std::byte> norm = give(module.get_parameter("layers.0.norm"));
  rebind(binding);
  EXPECT_EQ(optimizer.held_in_groups(), (std::vector<std::size_t>{2, 1}));
  EXPECT_EQ(optimizer.address_of(up), after.get());
  EXPECT_EQ(optimizer.address_of(module.get_parameter("head")), head.get());
  EXPECT_EQ(optimizer.address_of(module.get_parameter("layers.0.norm")), norm.get());
}

struct shy_module : dynamic_module {
  int visits = 0;
  template <class Visitor>
  void visit_slots(Visitor&& visitor) {
    ++visits;
    dynamic_module::visit_slots(visitor);
  }
};

TEST(OptimizerBinding, OfNoOptimizerDoesNotEvenLookAtTheModule) {
  shy_module module;
  const module_view view = view_of(module);
  no_optimizer nobody;
  const auto binding = bind_optimizer({module, nobody}, view, check_optimizer(view, nobody));
  drop_references(binding);
  rebind(binding);
  EXPECT_EQ(module.visits, 1);
}

TEST(OptimizerBinding, NamesAParameterWhoseSlotTheOptimizerDoesNotKnow) {
  foreign_module module;
  adamw optimizer({{.names = {"bias"}}});
  const module_view view = view_of(module);
  expect_error(errc::invalid_argument, "bias", "cannot be bound to a slot of this type", [&] {
    static_cast<void>(bind_optimizer({module, optimizer}, view, check_optimizer(view, optimizer)));
  });
}

TEST(OptimizerBinding, NoticesAModuleThatVisitsOtherSlots) {
  dynamic_module module = decoder();
  dynamic_module other = decoder();
  adamw optimizer = of_all();
  const module_view view = view_of(module);
  expect_error(errc::invalid_argument, "embed", "visits other slots than before", [&] {
    static_cast<void>(bind_optimizer({other, optimizer}, view, check_optimizer(view, optimizer)));
  });
}

TEST(OptimizerBinding, AsksForNoMoreThanTheConcept) {
  foreign_module module;
  minimal_optimizer optimizer({{"bias"}, {"weight"}});
  const module_view view = view_of(module);
  const auto binding = bind_optimizer({module, optimizer}, view, check_optimizer(view, optimizer));
  drop_references(binding);
  rebind(binding);
  EXPECT_EQ(optimizer.bound[0], (std::vector<foreign_tensor*>{&module.bias}));
  EXPECT_EQ(optimizer.bound[1], (std::vector<foreign_tensor*>{&module.weight}));
}

}  // namespace
}  // namespace optimizer_binding_test
