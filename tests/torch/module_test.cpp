#include "support/expect_error.hpp"
#include "support/heap_faults.hpp"
#include "torch/models.hpp"
#include <fsdpinit/fsdpinit.hpp>
#include <fsdpinit/init/initialize.hpp>
#include <fsdpinit/init/pretrained.hpp>
#include <fsdpinit/memory/block.hpp>
#include <fsdpinit/testing/faults.hpp>
#include <fsdpinit/testing/rank_harness.hpp>
#include <fsdpinit/torch.hpp>
#include <fsdpinit/units/sharded_units.hpp>

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <sstream>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include <torch/torch.h>

namespace module_test {
namespace {

using namespace fsdpinit;
using namespace fsdpinit::testing_support;
using fsdpinit::testing::call_counter;
using fsdpinit::testing::errors_of_ranks;
using fsdpinit::testing::faulty_source;
using fsdpinit::testing::run_ranks;

std::vector<std::string> names_of(torch_module& module) {
  std::vector<std::string> names;
  module.visit_slots([&](std::string_view fqn, torch_slot&) { names.emplace_back(fqn); });
  return names;
}

/// Every rank's part of a module after an initialisation from `values`, which is compared with what torch::chunk says.
void expect_shards_of(const state_dict& values, torch_module& module, std::size_t ranks, std::size_t rank) {
  module.visit_slots([&](std::string_view fqn, torch_slot& slot) {
    if (slot.role() != slot_role::parameter) {
      return;
    }
    const at::Tensor& whole = values.at(std::string(fqn));
    at::Tensor wanted = whole;
    if (whole.dim() > 0) {
      const std::vector<at::Tensor> chunks = whole.chunk(static_cast<std::int64_t>(ranks), 0);
      wanted = rank < chunks.size() ? chunks[rank] : whole.slice(0, 0, 0);
    }
    EXPECT_TRUE(torch::equal(slot.tensor(), wanted)) << fqn;
  });
}

// -- names, dtypes, ties -----------------------------------------------------------------------------------------------------

TEST(TorchModule, HasTheNamesOfItsParametersAndBuffersInTheOrderOfTheTree) {
  TwoLayers net;
  torch_module module(net);
  EXPECT_EQ(names_of(module), (std::vector<std::string>{"scale", "angles", "first.weight", "first.bias",
                                                        "second.weight", "second.bias"}));
}

TEST(TorchModule, KnowsTheDtypesOfCheckpointsAndRejectsOthersByName) {
  for (const auto& [type, expected] : known_dtypes()) {
    EXPECT_EQ(dtype_of(type), expected);
    EXPECT_EQ(scalar_type_of(expected), type);
  }
  EXPECT_EQ(dtype_of(torch::kComplexDouble), std::nullopt);
  EXPECT_EQ(scalar_type_of(dtype::f4), std::nullopt);
  OneParameter net(torch::zeros({2}, torch::kComplexDouble));
  expect_error(errc::dtype_mismatch, "weight", "no dtype for ComplexDouble", [&] { torch_module module(net); });
}

TEST(TorchModule, FindsATensorUnderTwoNames) {
  Tied net(tie::same_tensor);
  const torch_module module(net);
  EXPECT_EQ(module.tie_groups(), (std::vector<std::vector<std::string>>{{"embedding", "head.weight"}}));
}

TEST(TorchModule, FindsTwoTensorsOverOneStorage) {
  Tied net(tie::same_storage);
  const torch_module module(net);
  EXPECT_EQ(module.tie_groups(), (std::vector<std::vector<std::string>>{{"embedding", "head.weight"}}));
}

TEST(TorchModule, TakesEqualValuesForNoTie) {
  Tied net(tie::none);
  EXPECT_TRUE(torch_module(net).tie_groups().empty());
}

TEST(TorchModule, RejectsTensorsThatOverlapInPart) {
  Pair net(torch::zeros({6}), torch::Tensor());
  net->b.set_data(net->a.data().slice(0, 1, 4));
  expect_error(errc::invalid_tie, "b", "shares part of its bytes with a", [&] { torch_module module(net); });
}

TEST(TorchModule, TakesNeighboursInOneStorageForNoTie) {
  Pair net(torch::zeros({6}), torch::Tensor());
  const torch::Tensor flat = torch::zeros({6});
  net->a.set_data(flat.slice(0, 0, 3));
  net->b.set_data(flat.slice(0, 3, 6));
  EXPECT_TRUE(torch_module(net).tie_groups().empty());
}

TEST(TorchModule, HasATiedParameterOnce) {
  Tied net(tie::same_tensor);
  EXPECT_EQ(torch_module(net).parameters().size(), 1U);
  EXPECT_EQ(net->named_parameters().size(), 2U);  // what makes an optimizer update it twice
}

// -- what it refuses -----------------------------------------------------------------------------------------------------------

TEST(TorchModule, RefusesAParameterThatALiveGraphRefersTo) {
  TwoLayers net;
  torch::Tensor loss = net->forward(torch::ones({1, 3})).sum();
  expect_error(errc::invalid_argument, "scale", "a live graph used it", [&] { torch_module module(net); });
  loss.reset();
  EXPECT_NO_THROW(torch_module module(net));
}

TEST(TorchModule, RefusesANonContiguousParameter) {
  OneParameter net(torch::zeros({2, 3}).t());
  expect_error(errc::invalid_argument, "weight", "not dense and contiguous", [&] { torch_module module(net); });
}

TEST(TorchModule, RefusesASparseParameter) {
  OneParameter net(torch::eye(3).to_sparse());
  expect_error(errc::invalid_argument, "weight", "not dense and contiguous", [&] { torch_module module(net); });
}

TEST(TorchModule, RefusesToSaveWhatIsOnMetaOrSharded) {
  TwoLayers net;
  const state_dict values = values_of(*net);
  run_ranks(2, [&](std::size_t, threads_communicator& world) {
    TwoLayers mine;
    torch_module module(mine);
    module.visit_slots([](std::string_view, torch_slot& slot) { slot.drop(); });
    std::ostringstream out;
    expect_error(errc::invalid_argument, "scale", "on meta", [&] { module.save(out); });
    TwoLayers again;
    torch_module sharded(again);
    initialize(sharded, source_of(values), world);
    expect_error(errc::invalid_argument, "first.weight", "it holds", [&] { sharded.save(out); });
    EXPECT_EQ(out.str(), "");
  });
}

TEST(TorchModule, SavesAWholeModuleAsTorchDoes) {
  TwoLayers net;
  std::stringstream file;
  torch_module(net).save(file);
  TwoLayers other;
  torch::load(other, file);
  EXPECT_TRUE(torch::equal(other->scale, net->scale));
}

TEST(TorchModule, NamesWhatIsHeldElsewhere) {
  TwoLayers net;
  torch_module module(net);
  EXPECT_TRUE(module.held_elsewhere().empty());
  const torch::Tensor view = net->first->weight.detach();
  EXPECT_EQ(module.held_elsewhere(), std::vector<std::string>{"first.weight"});
}

// -- dropping and adopting ---------------------------------------------------------------------------------------------------

TEST(TorchModule, KeepsEveryHandleThroughAnInitialisation) {
  TwoLayers net;
  const state_dict values = values_of(*net);
  for (const std::size_t ranks : {1U, 3U}) {
    run_ranks(ranks, [&](std::size_t rank, threads_communicator& world) {
      TwoLayers mine;
      const torch::Tensor copy = mine->first->weight;
      torch_module module(mine);
      initialize(module, source_of(values), world, {.bucket_bytes = 64});
      EXPECT_TRUE(copy.is_same(mine->first->weight));
      EXPECT_TRUE(copy.is_same(mine->named_parameters()["first.weight"]));
      EXPECT_TRUE(copy.requires_grad() && copy.is_leaf());
      expect_shards_of(values, module, ranks, rank);
    });
  }
}

TEST(TorchModule, IsOnMetaAfterAFailureAndWorksTheSecondTime) {
  TwoLayers net;
  const state_dict values = values_of(*net);
  run_ranks(2, [&](std::size_t rank, threads_communicator& world) {
    TwoLayers mine;
    torch_module module(mine);
    host_memory memory;
    const call_counter reads;
    reads.fail_at(3);
    EXPECT_THROW(
        initialize(module, faulty_source(source_of(values), reads), world, {.bucket_bytes = 32}, {.memory = memory}),
        error);
    EXPECT_TRUE(mine->first->weight.is_meta());
    EXPECT_EQ(mine->first->weight.sizes(), (std::vector<std::int64_t>{5, 3}));
    EXPECT_EQ(memory.accounted(), 0U);
    EXPECT_FALSE(mine->angles.is_meta());  // non-persistent: kept
    initialize(module, source_of(values), world, {}, {.memory = memory});
    expect_shards_of(values, module, 2, rank);
  });
}

TEST(TorchModule, BuffersThatTheSourceLacksComeFromTheSourceRank) {
  TwoLayers net;
  const state_dict values = values_of(*net);
  run_ranks(2, [&](std::size_t rank, threads_communicator& world) {
    TwoLayers mine;
    mine->angles.fill_(static_cast<double>(rank) + 1);
    torch_module module(mine);
    initialize(module, source_of(values), world, {.source_rank = 1});
    EXPECT_TRUE(torch::equal(mine->angles, torch::full({4}, 2.0)));
  });
}

TEST(TorchModule, APredicateSaysWhichBuffersPersist) {
  TwoLayers net;
  const state_dict values = values_of(*net);
  const auto errors = errors_of_ranks(2, [&](std::size_t, threads_communicator& world) {
    TwoLayers mine;
    torch_module module(mine, {.is_persistent = [](std::string_view) { return true; }});
    initialize(module, source_of(values), world);
  });
  ASSERT_TRUE(errors[0] && errors[1]);
  EXPECT_EQ(errors[1]->code(), errc::missing_tensor);
  EXPECT_EQ(errors[1]->subject(), "angles");
}

TEST(TorchModule, ATieStaysOneInBothForms) {
  for (const tie form : {tie::same_tensor, tie::same_storage}) {
    run_ranks(2, [&](std::size_t rank, threads_communicator& world) {
      Tied net(form);
      torch_module module(net);
      const torch::Tensor values = torch::arange(12, torch::kFloat).view({4, 3});
      initialize(module, source_of({{"embedding", values}}), world);
      const torch::Tensor wanted =
          values.slice(0, static_cast<std::int64_t>(rank) * 2, static_cast<std::int64_t>(rank) * 2 + 2);
      EXPECT_TRUE(torch::equal(net->embedding, wanted));
      EXPECT_TRUE(torch::equal(net->head->weight, wanted));
      EXPECT_EQ(net->embedding.storage().unsafeGetStorageImpl(), net->head->weight.storage().unsafeGetStorageImpl());
      sharded_units units(module, world);
      units.unshard(units.unit_of("embedding"));
      EXPECT_TRUE(torch::equal(net->head->weight, values));
      EXPECT_EQ(net->embedding.data_ptr(), net->head->weight.data_ptr());
    });
  }
}

TEST(TorchSlot, AllocatesBeforehandWhatItsDropAndAdoptionsTake) {
  for (const tie form : {tie::same_tensor, tie::same_storage}) {
    Tied net(form);
    torch_module module(net);
    std::vector<std::shared_ptr<block<host_memory>>> storage;
    module.visit_slots([&](std::string_view /*fqn*/, torch_slot& slot) {
      if (storage.empty() || form == tie::same_tensor) {
        storage = {std::make_shared<block<host_memory>>(host_memory(), 48),
                   std::make_shared<block<host_memory>>(host_memory(), 24)};
      }
      // The whole, then a shard: as a unit is made whole and sharded again. Tied slots get the same storage.
      std::vector<local_shard> next{
          {.shape = slot.shape(), .offset = 0, .bytes = 48, .data = {storage[0], storage[0]->data()}},
          {.shape = {2, 3}, .offset = 2, .bytes = 24, .data = {storage[1], storage[1]->data()}}};
      slot.prepare(next);
      const failing_heap exhausted(0, heap_fault::exhausted);
      slot.drop();
      slot.drop();
      const bool is_meta = slot.is_meta();
      slot.adopt(std::move(next[0]));
      const std::byte* const whole = slot.data();
      slot.adopt(std::move(next[1]));
      EXPECT_FALSE(exhausted.has_failed());
      EXPECT_TRUE(is_meta);
      EXPECT_EQ(whole, storage[0]->data());
      EXPECT_EQ(slot.data(), storage[1]->data());
      EXPECT_EQ(slot.bytes(), 24U);
    });
  }
}

TEST(TorchSlot, LendsWhatIsReservedForItsShard) {
  const state_dict values = values_of(*TwoLayers());
  run_ranks(2, [&](std::size_t, threads_communicator& world) {
    host_memory memory;
    TwoLayers net;
    torch_module module(net);
    module.visit_slots([](std::string_view fqn, torch_slot& slot) {
      EXPECT_EQ(slot.local().reserved, slot.bytes()) << fqn << " is libtorch's own";
    });
    initialize(module, source_of(values), world, {}, {.memory = memory});
    module.visit_slots([](std::string_view fqn, torch_slot& slot) {
      const local_shard lent = slot.local();
      EXPECT_GE(lent.reserved, lent.bytes) << fqn;
      EXPECT_GE(lent.slab.size(), lent.reserved) << fqn;
      EXPECT_LE(lent.slab.data(), lent.data.get()) << fqn;
    });
  });
}

TEST(TorchModule, ShardsLiveAsLongAsTheirTensors) {
  TwoLayers net;
  const state_dict values = values_of(*net);
  run_ranks(2, [&](std::size_t, threads_communicator& world) {
    host_memory memory;
    torch::Tensor kept;
    {
      TwoLayers mine;
      torch_module module(mine);
      initialize(module, source_of(values), world, {}, {.memory = memory});
      kept = mine->first->weight;
    }
    EXPECT_NE(memory.accounted(), 0U);
    EXPECT_TRUE(torch::isfinite(kept).all().item<bool>());
    kept.reset();
    EXPECT_EQ(memory.accounted(), 0U);
  });
}

TEST(TorchModule, UnitsAreWholeForACalculationAndShardedAgainAnyNumberOfTimes) {
  TwoLayers net;
  const state_dict values = values_of(*net);
  const torch::Tensor input = torch::arange(3, torch::kFloat).view({1, 3});
  const torch::Tensor wanted = net->forward(input).detach();
  run_ranks(3, [&](std::size_t rank, threads_communicator& world) {
    TwoLayers mine;
    torch_module module(mine);
    host_memory memory;
    initialize(module, source_of(values), world, {.unit_prefixes = {"first", "second"}}, {.memory = memory});
    const std::uint64_t sharded = memory.accounted();
    sharded_units units(module, world, {.unit_prefixes = {"first", "second"}}, memory);
    for (int round = 0; round < 3; ++round) {
      for (std::size_t unit = 0; unit < units.size(); ++unit) {
        units.unshard(unit);
      }
      {
        const torch::NoGradGuard guard;
        EXPECT_TRUE(torch::equal(mine->forward(input), wanted));
      }
      for (std::size_t unit = 0; unit < units.size(); ++unit) {
        units.reshard(unit);
      }
      EXPECT_EQ(memory.accounted(), sharded);
      expect_shards_of(values, module, 3, rank);
    }
  });
}

TEST(TorchModule, WorksWithEveryPolicyFromItsOwnState) {
  TwoLayers net;
  const state_dict values = values_of(*net);
  run_ranks(2, [&](std::size_t rank, threads_communicator& world) {
    TwoLayers mine;
    torch_module module(mine);
    load_pretrained(module, source_of(values), world);
    EXPECT_EQ(mine->first->weight.is_meta(), rank != 0);
    prepare(module, world);
    expect_shards_of(values, module, 2, rank);
    TwoLayers loaded;
    torch_module baseline(loaded);
    initialize<every_rank_loads>(baseline, source_of(values), world);
    expect_shards_of(values, baseline, 2, rank);
  });
}

// -- construction ------------------------------------------------------------------------------------------------------------

TEST(SkipInit, LeavesParametersUntouchedAndBuffersReal) {
  torch::manual_seed(1);
  const TwoLayers usual;
  torch::manual_seed(1);
  const torch::Tensor first_draw = torch::rand({3});
  torch::manual_seed(1);
  TwoLayers skipped{nullptr};
  {
    const skip_init skipping;
    skipped = TwoLayers();
  }
  EXPECT_TRUE(torch::equal(torch::rand({3}), first_draw));  // nothing was drawn
  EXPECT_TRUE(torch::equal(skipped->angles, usual->angles));
  EXPECT_EQ(skipped->first->weight.sizes(), usual->first->weight.sizes());
}

TEST(SkipInit, EndsWithItsScope) {
  { const skip_init skipping; }
  const torch::nn::Linear drawn(64, 64);
  EXPECT_GT(drawn->weight.abs().max().item<float>(), 0.0F);
}

TEST(SkipInit, IsOfItsThreadAlone) {
  const skip_init skipping;
  float most = 0;
  std::thread([&] { most = torch::nn::Linear(64, 64)->weight.abs().max().item<float>(); }).join();
  EXPECT_GT(most, 0.0F);
}

TEST(SkipInit, ConstructsAnyOfTheUsualLayers) {
  const skip_init skipping;
  EXPECT_NO_THROW(torch::nn::Conv2d(3, 4, 3));
  EXPECT_NO_THROW(torch::nn::LSTM(4, 4));
  EXPECT_NO_THROW(torch::nn::BatchNorm2d(4));
  EXPECT_NO_THROW(torch::nn::Embedding(4, 4));
  EXPECT_NO_THROW(torch::nn::TransformerEncoderLayer(torch::nn::TransformerEncoderLayerOptions(4, 2)));
}

}  // namespace
}  // namespace module_test
