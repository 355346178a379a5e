#include "support/archetypes.hpp"
#include "support/expect_error.hpp"
#include "support/fake_device_memory.hpp"
#include "support/reference_model.hpp"
#include "support/test_seed.hpp"
#include "support/unit_model.hpp"
#include <fsdpinit/fsdpinit.hpp>
#include <fsdpinit/testing/rank_harness.hpp>
#include <fsdpinit/units/sharded_units.hpp>

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <random>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace sharded_units_test {
namespace {

using namespace fsdpinit;
using namespace fsdpinit::testing_support;
using fsdpinit::testing::errors_of_ranks;
using fsdpinit::testing::run_ranks;

template <class Space>
void expect_come_and_go(const reference_model& model, std::size_t ranks) {
  SCOPED_TRACE(concat(ranks, " ranks, ", Space::host_accessible ? "host" : "device"));
  run_ranks(ranks, [&](std::size_t rank, threads_communicator& world) {
    Space memory;
    dynamic_module module = initialised(model, world, memory);
    sharded_units units(module, world, {}, memory);
    expect_units_come_and_go(model, module, units, memory, {.shards = ranks, .index = rank});
  });
}

TEST(Unshard, MakesEveryUnitWholeAndBackOnAnyNumberOfRanks) {
  for (const std::size_t ranks : {1U, 2U, 3U, 4U, 7U}) {
    expect_come_and_go<host_memory>(varied_model(), ranks);
    expect_come_and_go<fake_device_memory>(varied_model(), ranks);
  }
}

TEST(Units, OverChannelsWhoseRanksDifferAreAnErrorOnEveryRank) {
  const reference_model model = varied_model();
  const threads_world world(2);
  const auto errors = errors_of_ranks(2, [&](std::size_t rank, threads_communicator& control) {
    host_memory memory;
    dynamic_module module = initialised(model, control, memory);
    threads_communicator data = world.rank(1 - rank);
    const sharded_units units(module, channels{data, control}, {}, memory);
  });
  expect_same_error(errors, errc::invalid_argument, "ranks", 0, "rank 1 of 2 on the data channel, but rank 0 of 2");
}

TEST(Unshard, TakesShardsOfOneRowAndOfNone) {
  const reference_model model({{.fqn = "layers.0.a", .type = dtype::u8, .extents = {1, 3}},
                               {.fqn = "layers.0.b", .type = dtype::u8, .extents = {5}},
                               {.fqn = "layers.1.a", .type = dtype::u8, .extents = {1, 3}},
                               {.fqn = "layers.1.b", .type = dtype::u8, .extents = {5}}});
  for (const std::size_t ranks : {2U, 5U, 6U}) {
    expect_come_and_go<host_memory>(model, ranks);
  }
}

TEST(Unshard, OfUnitsWithoutAByteWorks) {
  const reference_model model({{.fqn = "a.x", .extents = {0, 3}},
                               {.fqn = "a.y", .extents = {4, 0}},
                               {.fqn = "b", .extents = {3}, .how = replicate{}}});
  expect_come_and_go<host_memory>(model, 4);
  expect_come_and_go<fake_device_memory>(model, 3);
  expect_come_and_go<host_memory>(reference_model({}), 2);
}

TEST(Unshard, GivesEveryRankTheSameBytesWhateverTheCommunicator) {
  const reference_model model = varied_model();
  for (const std::size_t ranks : {2U, 3U}) {
    const threads_world control_world(ranks);
    run_ranks(ranks, [&](std::size_t rank, threads_communicator& world) {
      host_memory memory;
      dynamic_module module = initialised(model, world, memory);
      const auto expect_whole = [&](auto&& links) {
        sharded_units units(module, links, {}, minimal_memory(memory));
        for (std::size_t unit = 0; unit < units.size(); ++unit) {
          units.unshard(unit);
        }
        EXPECT_EQ(unit_faults_of(model, units, std::vector<bool>(units.size(), true), module, memory, ranks, rank), "");
      };
      minimal_communicator minimal(world);
      expect_whole(minimal);
      group_communicator started(world);
      reducing_control control(control_world.rank(rank));
      expect_whole(channels{started, control});
      EXPECT_EQ(model.faults_of(module, memory, ranks, rank), "") << "the end of the units shards what is unsharded";
    });
  }
}

TEST(Unshard, PutsTheWholeTensorsOfAUnitIntoOneAllocation) {
  const reference_model model = varied_model();
  run_ranks(2, [&](std::size_t, threads_communicator& world) {
    host_memory memory;
    dynamic_module module = initialised(model, world, memory);
    sharded_units units(module, world, {}, memory);
    const std::uint64_t before = memory.accounted();
    const std::size_t unit = units.unit_of("layers.1.up");
    units.unshard(unit);
    const local_shard kept = module.get_parameter("layers.1.up").local();
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(kept.data.get()) % slab_alignment, 0U);
    EXPECT_EQ(kept.reserved, kept.bytes);
    EXPECT_EQ(kept.slab.size(), units.predict_unshard(unit).kept_bytes);
    units.reshard(unit);
    EXPECT_EQ(memory.accounted(), before + units.predict_unshard(unit).kept_bytes) << "somebody holds one of them";
  });
}

TEST(Unshard, AGuardShardsWhatItUnsharded) {
  const reference_model model = varied_model();
  run_ranks(3, [&](std::size_t rank, threads_communicator& world) {
    host_memory memory;
    dynamic_module module = initialised(model, world, memory);
    sharded_units units(module, world, {}, memory);
    {
      const unsharded_unit outer(units, 1);
      {
        const unsharded_unit inner(units, 1);
        EXPECT_TRUE(units.is_unsharded(1));
      }
      EXPECT_TRUE(units.is_unsharded(1)) << "what was unsharded before stays so";
      EXPECT_FALSE(units.is_unsharded(0));
    }
    EXPECT_FALSE(units.is_unsharded(1));
    EXPECT_EQ(model.faults_of(module, memory, 3, rank), "");
  });
}

TEST(Unshard, SeesWhatWasWrittenIntoShards) {
  const reference_model model({{.fqn = "w", .type = dtype::u8, .extents = {7, 2}}});
  run_ranks(3, [&](std::size_t rank, threads_communicator& world) {
    host_memory memory;
    dynamic_module module = initialised(model, world, memory);
    sharded_units units(module, world, {}, memory);
    parameter& weight = module.get_parameter("w");
    for (std::size_t step = 0; step < 2; ++step) {
      for (std::uint64_t i = 0; i < weight.local().bytes; ++i) {
        weight.data()[i] = static_cast<std::byte>(100 * step + 10 * rank + i);
      }
      const unsharded_unit whole(units, 0);
      for (std::size_t i = 0; i < 14; ++i) {
        EXPECT_EQ(weight.data()[i], static_cast<std::byte>(100 * step + 10 * (i / 6) + i % 6));
      }
    }
  });
}

TEST(Unshard, GathersWithinTheShardsOfEachReplica) {
  const reference_model model = varied_model();
  for (const mesh ranks : {mesh{.shards = 3, .replicas = 2}, mesh{.shards = 1, .replicas = 3}}) {
    run_ranks(ranks.size(), [&](std::size_t rank, threads_communicator& world) {
      const options how{.replicas = ranks.replicas};
      host_memory memory;
      dynamic_module module = initialised(model, world, memory, how);
      sharded_units units(module, world, how, memory);
      for (std::size_t unit = 0; unit < units.size(); ++unit) {
        units.unshard(unit);
      }
      EXPECT_EQ(unit_faults_of(model, units, std::vector<bool>(units.size(), true), module, memory, ranks.shards,
                               ranks.shard_of(rank)),
                "");
    });
  }
}

// -- units that were asked for

/// Each attention and each mlp is a unit, and so is the layer around them.
struct finer_module : dynamic_module {
  explicit finer_module(dynamic_module inner) : dynamic_module(std::move(inner)) {}
  [[nodiscard]] bool is_unit(std::string_view path) const {
    return path.find("layers.") == 0 || path == "layers" || path == "embed";
  }
};

TEST(Unshard, FollowsTheUnitsThatTheModuleNames) {
  std::vector<reference_tensor> tensors{{.fqn = "embed.weight", .extents = {9, 2}, .tied = {"head.weight"}}};
  for (int layer = 0; layer < 2; ++layer) {
    tensors.push_back({.fqn = concat("layers.", layer, ".attention.q"), .extents = {5, 3}});
    tensors.push_back({.fqn = concat("layers.", layer, ".norm"), .extents = {6}});
    tensors.push_back({.fqn = concat("layers.", layer, ".mlp.up"), .extents = {4, 12}, .how = shard{1}});
  }
  tensors.push_back({.fqn = "layers.0.mlp.shared", .extents = {3}, .tied = {"layers.1.mlp.shared"}});
  const reference_model model(std::move(tensors));
  run_ranks(3, [&](std::size_t rank, threads_communicator& world) {
    host_memory memory;
    finer_module module(model.module(memory, false));
    const rank_report report = initialize(module, model.source(), world, {}, {.memory = memory});
    EXPECT_EQ(report.units, 8U) << "the root and `layers` own what is tied across units";
    sharded_units units(module, world, {}, memory);
    EXPECT_EQ(units.name(units.unit_of("layers.1.mlp.up")), "layers.1.mlp");
    EXPECT_EQ(units.name(units.unit_of("layers.1.mlp.shared")), "layers");
    EXPECT_EQ(units.name(units.unit_of("layers.1.norm")), "layers.1");
    EXPECT_EQ(units.name(units.unit_of("head.weight")), "");
    std::vector<bool> unsharded(units.size(), false);
    for (const std::string_view fqn : {"layers.0.mlp.up", "head.weight", "layers.1.mlp.shared", "layers.1.norm"}) {
      units.unshard(units.unit_of(fqn));
      unsharded[units.unit_of(fqn)] = true;
      EXPECT_EQ(unit_faults_of(model, units, unsharded, module, memory, 3, rank), "") << fqn;
    }
  });
}

TEST(Unshard, FollowsTheUnitsOfTheOptions) {
  const reference_model model = varied_model();
  run_ranks(3, [&](std::size_t rank, threads_communicator& world) {
    const options how{.unit_prefixes = {"layers.1", "embed", "layers"}};
    host_memory memory;
    dynamic_module module = initialised(model, world, memory, how);
    sharded_units units(module, world, how, memory);
    ASSERT_EQ(units.size(), 4U);
    EXPECT_EQ(units.unit_of("layers.0.up"), units.unit_of("layers.2.up"));
    std::vector<bool> unsharded(units.size(), false);
    unsharded[units.unit_of("layers.0.up")] = true;
    units.unshard(units.unit_of("layers.0.up"));
    EXPECT_EQ(unit_faults_of(model, units, unsharded, module, memory, 3, rank), "");
  });
}

TEST(Unshard, LeavesAloneWhatTheInitialisationLeftAlone) {
  const reference_model model({{.fqn = "a", .extents = {4}}, {.fqn = "adapter.b", .extents = {4}}});
  run_ranks(2, [&](std::size_t, threads_communicator& world) {
    const options how{.ignored_prefixes = {"adapter"}};
    host_memory memory;
    dynamic_module module = initialised(model, world, memory, how);
    sharded_units units(module, world, how, memory);
    units.unshard(0);
    EXPECT_EQ(module.get_parameter("a").local().shape, (shape{4}));
    EXPECT_TRUE(module.get_parameter("adapter.b").is_meta());
  });
}

// -- errors

/// Every rank throws the same error.
void expect_on_every_rank(const std::vector<std::optional<error>>& errors, errc code, std::string_view subject,
                          std::string_view piece) {
  for (const auto& each : errors) {
    ASSERT_TRUE(each.has_value());
    EXPECT_EQ(name(each->code()), name(code)) << each->what();
    EXPECT_EQ(each->subject(), subject) << each->what();
    EXPECT_NE(each->text().find(piece), std::string::npos) << each->what();
    EXPECT_STREQ(each->what(), errors.front()->what());
  }
}

reference_model two_layers() {
  return reference_model({{.fqn = "embed", .extents = {12, 4}},
                          {.fqn = "layers.0.up", .extents = {5, 4}},
                          {.fqn = "layers.0.norm", .extents = {4}, .how = replicate{}},
                          {.fqn = "layers.1.up", .extents = {5, 4}},
                          {.fqn = "layers.1.norm", .extents = {4}, .how = replicate{}}});
}

template <class Fn>
std::vector<std::optional<error>> errors_with_two_layers(std::size_t ranks, Fn&& fn) {
  const reference_model model = two_layers();
  return errors_of_ranks(threads_world(ranks), [&](std::size_t rank, threads_communicator& world) {
    host_memory memory;
    dynamic_module module = initialised(model, world, memory);
    fn(rank, world, module, memory);
  });
}

TEST(Units, OfASlotOnMetaAreAnError) {
  for (const std::string_view fqn : {"layers.1.up", "layers.1.norm"}) {
    const auto errors = errors_with_two_layers(3, [&](std::size_t rank, auto& world, auto& module, auto& memory) {
      if (rank == 1) {
        module.get_parameter(fqn).drop();
      }
      sharded_units units(module, world, {}, memory);
    });
    expect_on_every_rank(errors, errc::invalid_argument, fqn, "it is on meta; initialise the module");
    EXPECT_EQ(errors[0]->rank(), 1);
  }
}

TEST(Units, OfAModuleInitialisedOverOtherRanksAreAnError) {
  const reference_model model = two_layers();
  const auto errors = errors_of_ranks(threads_world(2), [&](std::size_t, threads_communicator& world) {
    host_memory memory;
    const threads_world alone(1);
    threads_communicator self = alone.rank(0);
    dynamic_module module = initialised(model, self, memory);
    sharded_units units(module, world, {}, memory);
  });
  expect_on_every_rank(errors, errc::invalid_argument, "embed",
                       "it holds [12, 4]@0 of 192 bytes where shard 0 of 2 is [6, 4]@0 of 96 bytes");
}

TEST(Units, OtherThanThoseOfTheInitialisationAreAnError) {
  const auto errors = errors_with_two_layers(2, [&](std::size_t, auto& world, auto& module, auto& memory) {
    sharded_units units(module, world, {.unit_prefixes = {"layers"}}, memory);
  });
  for (const auto& each : errors) {
    ASSERT_TRUE(each.has_value());
    EXPECT_NE(each->text().find("does not lie where the slab of unit 'layers' has it"), std::string::npos)
        << each->what();
  }
}

TEST(Units, ThatDifferFromRankToRankAreADisagreement) {
  const auto errors = errors_with_two_layers(3, [&](std::size_t rank, auto& world, auto& module, auto& memory) {
    module.get_parameter("layers.0.up").set_requires_grad(rank == 2);
    sharded_units units(module, world, {}, memory);
  });
  expect_on_every_rank(errors, errc::disagreement, "", "'parameter layers.0.up F32 [5, 4] shard{0}' where rank 0 has");
}

TEST(Units, OfATieWhoseNamesHoldDifferentStorageAreAnError) {
  const reference_model model({{.fqn = "embed", .extents = {12, 4}, .tied = {"head"}}});
  const auto errors = errors_of_ranks(2, [&](std::size_t, threads_communicator& world) {
    host_memory memory;
    dynamic_module module = initialised(model, world, memory);
    local_shard other = module.get_parameter("head").local();
    other.data = std::make_shared<std::byte>();
    module.get_parameter("head").adopt(std::move(other));
    sharded_units units(module, world, {}, memory);
  });
  expect_on_every_rank(errors, errc::invalid_argument, "head", "it is tied to embed, but holds other storage");
}

TEST(Units, OfTwoParametersInOneStorageAreAnError) {
  const auto errors = errors_with_two_layers(2, [&](std::size_t, auto& world, auto& module, auto& memory) {
    const local_shard first = module.get_parameter("layers.0.up").local();
    module.add_parameter("layers.0.zip", dtype::f32, {5, 4}).adopt(local_shard(first));
    sharded_units units(module, world, {}, memory);
  });
  expect_on_every_rank(errors, errc::invalid_argument, "layers.0.zip",
                       "another parameter has the same storage; declare them tied");
}

TEST(Units, OfReplicasThatCannotBeAreAnError) {
  const auto errors = errors_with_two_layers(3, [&](std::size_t, auto& world, auto& module, auto& memory) {
    sharded_units units(module, world, {.replicas = 2}, memory);
  });
  expect_on_every_rank(errors, errc::invalid_argument, "replicas", "2 replicas cannot be made of 3 ranks");
}

TEST(Unshard, OfDifferentUnitsAtATimeIsADisagreement) {
  const auto errors = errors_with_two_layers(3, [&](std::size_t rank, auto& world, auto& module, auto& memory) {
    sharded_units units(module, world, {}, memory);
    units.unshard(rank == 0 ? 1 : 2);
  });
  expect_on_every_rank(errors, errc::disagreement, "",
                       "this rank asked for unsharding of unit 'layers.0' where another asks for unsharding of unit "
                       "'layers.1'");
}

TEST(Unshard, OfStorageThatWasReplacedIsAnError) {
  const auto errors = errors_with_two_layers(2, [&](std::size_t rank, auto& world, auto& module, auto& memory) {
    sharded_units units(module, world, {}, memory);
    if (rank == 1) {
      local_shard other = module.get_parameter("layers.0.up").local();
      other.data = std::make_shared<std::byte>();
      module.get_parameter("layers.0.up").adopt(std::move(other));
    }
    units.unshard(1);
  });
  expect_on_every_rank(errors, errc::invalid_argument, "layers.0.up", "its storage is another than when");
}

TEST(Unshard, OfARankThatDoesNotComeEndsAtTheDeadlineAndLeavesShards) {
  const reference_model model = two_layers();
  const auto errors = errors_of_ranks(3, [&](std::size_t rank, threads_communicator& world) {
    host_memory memory;
    dynamic_module module = initialised(model, world, memory);
    sharded_units units(module, world, {.deadline_seconds = 0.3}, memory);
    const auto caught = attempt([&] {
      if (rank != 1) {
        units.unshard(1);
      }
    });
    EXPECT_FALSE(units.is_unsharded(1));
    EXPECT_EQ(model.faults_of(module, memory, 3, rank), "");
    if (caught) {
      throw error(*caught);
    }
  });
  EXPECT_FALSE(errors[1].has_value());
  for (const std::size_t rank : {0U, 2U}) {
    ASSERT_TRUE(errors[rank].has_value());
    EXPECT_EQ(errors[rank]->code(), errc::peer_lost) << errors[rank]->what();
  }
}

// -- dtypes of one unit

reference_model mixed_layer() {
  return reference_model({{.fqn = "layers.0.up", .type = dtype::bf16, .extents = {5, 4}},
                          {.fqn = "layers.0.norm.weight", .type = dtype::f32, .extents = {4}},
                          {.fqn = "layers.1.up", .type = dtype::bf16, .extents = {5, 4}},
                          {.fqn = "layers.1.norm.weight", .type = dtype::f32, .extents = {4}}});
}

template <class Module, class Change>
std::vector<std::optional<error>> errors_of_mixed(Change&& change) {
  const reference_model model = mixed_layer();
  return errors_of_ranks(threads_world(2), [&](std::size_t rank, threads_communicator& world) {
    host_memory memory;
    Module module(model.module(memory, false));
    change(module);
    initialize(module, model.source(), world, {}, {.memory = memory});
    sharded_units units(module, world, {}, memory);
    for (std::size_t unit = 0; unit < units.size(); ++unit) {
      units.unshard(unit);
    }
    EXPECT_EQ(unit_faults_of(model, units, std::vector<bool>(units.size(), true), module, memory, 2, rank), "");
  });
}

struct norms_apart : dynamic_module {
  explicit norms_apart(dynamic_module inner) : dynamic_module(std::move(inner)) {}
  [[nodiscard]] bool is_unit(std::string_view path) const { return path.ends_with("norm") || path.ends_with("0"); }
};

TEST(Unshard, OfTrainedParametersOfTwoDtypesIsAnErrorThatNamesThem) {
  expect_on_every_rank(errors_of_mixed<dynamic_module>([](dynamic_module&) {}), errc::dtype_mismatch,
                       "layers.0.norm.weight",
                       "it is F32, but layers.0.up of the same unit 'layers.0' is BF16; trained parameters of one unit "
                       "have one dtype: convert one of them, freeze it");
}

TEST(Unshard, OfTwoDtypesWorksWhereOneIsReplicated) {
  const reference_model model({{.fqn = "up", .type = dtype::bf16, .extents = {5, 4}},
                               {.fqn = "scale", .type = dtype::f32, .extents = {4}, .how = replicate{}}});
  run_ranks(2, [&](std::size_t rank, threads_communicator& world) {
    host_memory memory;
    dynamic_module module = model.module(memory, false);
    initialize(module, model.source(), world, {}, {.memory = memory});
    sharded_units units(module, world, {}, memory);
    units.unshard(0);
    EXPECT_EQ(unit_faults_of(model, units, {true}, module, memory, 2, rank), "");
  });
}

TEST(Unshard, OfTwoDtypesWorksWhereOneIsFrozenOrAUnitOfItsOwn) {
  const auto frozen = errors_of_mixed<dynamic_module>([](dynamic_module& module) {
    for (int layer = 0; layer < 2; ++layer) {
      module.get_parameter(concat("layers.", layer, ".norm.weight")).set_requires_grad(false);
    }
  });
  for (const auto& each : frozen) {
    EXPECT_FALSE(each.has_value()) << each->what();
  }
  for (const auto& each : errors_of_mixed<norms_apart>([](dynamic_module&) {})) {
    EXPECT_FALSE(each.has_value()) << each->what();
  }
}

// -- random models

TEST(Unshard, OfRandomModelsGivesTheWholeTensors) {
  const std::uint64_t seed = testing_support::test_seed();
  SCOPED_TRACE(concat("FSDPINIT_TEST_SEED=", seed));
  std::mt19937_64 random(seed);
  const auto below = [&](std::uint64_t bound) { return random() % bound; };
  for (int round = 0; round < 40; ++round) {
    const std::size_t ranks = 1 + below(6);
    std::vector<reference_tensor> tensors;
    for (std::uint64_t i = 0, count = 1 + below(12); i < count; ++i) {
      reference_tensor tensor{.fqn = concat("layers.", below(3), ".w", i)};
      do {
        tensor.type = static_cast<dtype>(below(dtype_count));
      } while (bits(tensor.type) % 8 != 0);
      std::vector<std::uint64_t> dims(1 + below(3));
      for (std::uint64_t& dim : dims) {
        dim = below(8) == 0 ? 0 : 1 + below(13);
      }
      const std::uint64_t dim = below(dims.size());
      if (dim != 0) {
        dims[dim] = ranks * below(5);
      }
      tensor.how = below(6) == 0 ? placement(replicate{}) : shard{static_cast<std::int64_t>(dim)};
      tensor.extents = shape(dims);
      if (below(4) == 0) {
        tensor.tied = {concat("layers.", below(3), ".tied", i)};
      }
      tensors.push_back(std::move(tensor));
    }
    const reference_model model(std::move(tensors));
    expect_come_and_go<host_memory>(model, ranks);
    expect_come_and_go<fake_device_memory>(model, ranks);
    if (HasFailure()) {
      return;
    }
  }
}

}  // namespace
}  // namespace sharded_units_test
