#include "support/expect_error.hpp"
#include "torch/models.hpp"
#include <fsdpinit/fsdpinit.hpp>
#include <fsdpinit/testing/faults.hpp>
#include <fsdpinit/testing/rank_harness.hpp>
#include <fsdpinit/torch.hpp>

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include <torch/torch.h>

namespace optimizer_test {
namespace {

using namespace fsdpinit;
using namespace fsdpinit::testing_support;
using fsdpinit::testing::call_counter;
using fsdpinit::testing::faulty_source;
using fsdpinit::testing::run_ranks;
using torch::optim::AdamW;
using torch::optim::SGD;

static_assert(ShardableOptimizer<torch_optimizer> && RebindsTo<torch_optimizer, torch_slot>);

/// The same gradient for each element, as on every rank.
void give_gradients(const torch_module& module) {
  for (const at::Tensor& parameter : module.parameters()) {
    parameter.mutable_grad() = torch::full_like(parameter, 0.5);
  }
}

at::Tensor part_of(const at::Tensor& whole, std::size_t ranks, std::size_t rank) {
  return whole.dim() == 0 ? whole : whole.chunk(static_cast<std::int64_t>(ranks), 0).at(rank);
}

TEST(TorchOptimizer, MadeBeforeStepsOnTheShards) {
  TwoLayers whole;
  const state_dict values = values_of(*whole);
  torch_module all(whole);
  AdamW reference(all.parameters());
  give_gradients(all);
  reference.step();
  run_ranks(2, [&](std::size_t rank, threads_communicator& world) {
    TwoLayers net;
    AdamW adamw(net->parameters());
    torch_module module(net);
    torch_optimizer optimizer(adamw, module);
    initialize(module, source_of(values), world, {}, {.optimizer = {module, optimizer}});
    give_gradients(module);
    adamw.step();
    for (const auto& item : net->named_parameters()) {
      EXPECT_TRUE(torch::equal(item.value(), part_of(all.tensor(item.key()), 2, rank))) << item.key();
    }
  });
}

TEST(TorchOptimizer, UpdatesATiedParameterOncePerStep) {
  for (const tie form : {tie::same_tensor, tie::same_storage}) {
    run_ranks(2, [&](std::size_t, threads_communicator& world) {
      Tied net(form);
      SGD sgd(net->parameters(), 0.1);
      torch_module module(net);
      torch_optimizer optimizer(sgd, module);
      const state_dict values{{"embedding", torch::zeros({4, 3})}};
      initialize(module, source_of(values), world, {}, {.optimizer = {module, optimizer}});
      EXPECT_EQ(sgd.param_groups()[0].params().size(), 1U);
      net->embedding.mutable_grad() = torch::ones_like(net->embedding);
      sgd.step();
      EXPECT_TRUE(torch::equal(net->head->weight, torch::full({2, 3}, -0.1F)));
    });
  }
}

TEST(TorchOptimizer, KeepsItsGroups) {
  run_ranks(1, [&](std::size_t, threads_communicator& world) {
    TwoLayers net;
    const state_dict values = values_of(*net);
    std::vector<torch::optim::OptimizerParamGroup> groups;
    groups.emplace_back(net->first->parameters());
    groups.emplace_back(net->second->parameters(), std::make_unique<torch::optim::SGDOptions>(2.0));
    SGD sgd(groups, 1.0);
    torch_module module(net);
    torch_optimizer optimizer(sgd, module);
    EXPECT_EQ(optimizer.parameter_groups(), (std::vector<std::vector<std::string>>{{"first.weight", "first.bias"},
                                                                                   {"second.weight", "second.bias"}}));
    initialize(module, source_of(values), world, {}, {.optimizer = {module, optimizer}});
    ASSERT_EQ(sgd.param_groups()[1].params().size(), 2U);
    EXPECT_TRUE(sgd.param_groups()[1].params()[0].is_same(net->second->weight));
  });
}

TEST(TorchOptimizer, OneThatHasSteppedIsAnErrorAndNothingChanges) {
  run_ranks(2, [&](std::size_t, threads_communicator& world) {
    TwoLayers net;
    const state_dict values = values_of(*net);
    AdamW adamw(net->parameters());
    torch_module module(net);
    give_gradients(module);
    adamw.step();
    torch_optimizer optimizer(adamw, module);
    expect_error(errc::invalid_argument, "optimizer", "already has state", [&] {
      initialize(module, source_of(values), world, {}, {.optimizer = {module, optimizer}});
    });
    EXPECT_FALSE(net->first->weight.is_meta());
    EXPECT_EQ(adamw.param_groups()[0].params().size(), 5U);
  });
}

TEST(TorchOptimizer, RejectsParametersOfAnotherModule) {
  TwoLayers net;
  const TwoLayers other;
  AdamW adamw(other->parameters());
  const torch_module module(net);
  expect_error(errc::invalid_argument, "optimizer", "not the module's",
               [&] { torch_optimizer optimizer(adamw, module); });
}

TEST(TorchOptimizer, IsBoundByASecondAttempt) {
  run_ranks(2, [&](std::size_t, threads_communicator& world) {
    TwoLayers net;
    const state_dict values = values_of(*net);
    AdamW adamw(net->parameters());
    torch_module module(net);
    torch_optimizer optimizer(adamw, module);
    const call_counter reads;
    reads.fail_at(2);
    EXPECT_THROW(
        initialize(module, faulty_source(source_of(values), reads), world, {}, {.optimizer = {module, optimizer}}),
        error);
    EXPECT_TRUE(adamw.param_groups()[0].params().empty());
    initialize(module, source_of(values), world, {}, {.optimizer = {module, optimizer}});
    EXPECT_EQ(adamw.param_groups()[0].params().size(), 5U);
  });
}

}  // namespace
}  // namespace optimizer_test
