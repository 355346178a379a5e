#include "support/adamw.hpp"
#include "support/archetypes.hpp"
#include <fsdpinit/modules/dynamic_module.hpp>
#include <fsdpinit/testing/optimizer_laws.hpp>

#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace optimizer_laws_test {
namespace {

using namespace fsdpinit;
using namespace fsdpinit::testing_support;
using fsdpinit::testing::check_optimizer_laws;
using fsdpinit::testing::violations;

dynamic_module module_of_three() {
  dynamic_module module;
  module.add_parameter("a", dtype::f32, {4, 2});
  module.add_parameter("b", dtype::f32, {3});
  module.add_parameter("c", dtype::f32, {4, 2});
  module.tie({"a", "c"});
  return module;
}

template <class Optimizer>
violations broken_by(Optimizer optimizer) {
  dynamic_module module = module_of_three();
  return check_optimizer_laws(module, optimizer,
                              [&](std::string_view fqn) { return optimizer.address_of(module.get_parameter(fqn)); });
}

bool mentions(const violations& broken, std::string_view words) {
  return std::any_of(broken.begin(), broken.end(),
                     [&](const std::string& law) { return law.find(words) != std::string::npos; });
}

TEST(OptimizerLaws, HoldForOurs) {
  EXPECT_EQ(broken_by(adamw({{.names = {"b"}}, {.names = {"c", "a"}}})), violations{});
  EXPECT_EQ(broken_by(adamw(std::vector<adamw::group>(1), 2)), violations{});
}

TEST(OptimizerLaws, HoldForTheArchetype) {
  foreign_module module;
  minimal_optimizer optimizer({{"weight"}, {"bias"}});
  EXPECT_EQ(check_optimizer_laws(module, optimizer,
                                 [&](std::string_view fqn) -> const std::byte* {
                                   for (const auto& group : optimizer.bound) {
                                     for (const foreign_tensor* slot : group) {
                                       if (slot == (fqn == "bias" ? &module.bias : &module.weight)) {
                                         return slot->storage_->data.get();
                                       }
                                     }
                                   }
                                   return nullptr;
                                 }),
            violations{});
}

TEST(OptimizerLaws, NoticeOneThatHoldsOn) {
  struct clinging : adamw {
    using adamw::adamw;
    void drop_references() noexcept {}
  };
  const violations broken = broken_by(clinging({{.names = {"b"}}}, 8));
  EXPECT_TRUE(mentions(broken, "lets go of the storage"));
  EXPECT_TRUE(mentions(broken, "leaves no reference to b"));
}

TEST(OptimizerLaws, NoticeOneThatForgetsItsNames) {
  struct forgetful : adamw {
    using adamw::adamw;
    [[nodiscard]] std::vector<std::vector<std::string>> parameter_groups() const {
      return dropped ? std::vector<std::vector<std::string>>{} : adamw::parameter_groups();
    }
    void drop_references() noexcept {
      dropped = true;
      adamw::drop_references();
    }
    bool dropped = false;
  };
  EXPECT_TRUE(mentions(broken_by(forgetful({{.names = {"b"}}})), "the names survive drop_references()"));
}

TEST(OptimizerLaws, NoticeOneThatBindsNothing) {
  struct lazy : adamw {
    using adamw::adamw;
    void rebind(std::size_t, std::string_view, parameter&) noexcept {}
  };
  EXPECT_TRUE(mentions(broken_by(lazy({{.names = {"b"}}})), "rebind() refers to the storage of its slot"));
}

TEST(OptimizerLaws, NoticeOneThatMakesStateOfBinding) {
  struct hasty : adamw {
    using adamw::adamw;
    [[nodiscard]] bool has_state() const noexcept { return held_in_groups()[0] != 0; }
  };
  EXPECT_TRUE(mentions(broken_by(hasty({{.names = {"b"}}})), "rebind() makes no state"));
}

}  // namespace
}  // namespace optimizer_laws_test
