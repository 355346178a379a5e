#include "support/archetypes.hpp"
#include "support/expect_error.hpp"
#include "support/reference_model.hpp"
#include "support/test_checksum.hpp"
#include <fsdpinit/fsdpinit.hpp>
#include <fsdpinit/init/gathered_reports.hpp>
#include <fsdpinit/sources/cast.hpp>
#include <fsdpinit/testing/rank_harness.hpp>

#include <boost/hana/adapt_struct.hpp>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

namespace behaviour_test {
namespace {

using namespace fsdpinit;
using namespace fsdpinit::testing_support;
using fsdpinit::testing::errors_of_ranks;
using fsdpinit::testing::run_ranks;

// -- (j) storage

TEST(Storage, ShardsOutliveTheSourceAndTheMemoryObject) {
  const reference_model model = varied_model();
  run_ranks(3, [&](std::size_t rank, threads_communicator& world) {
    std::optional<dynamic_module> module;
    std::shared_ptr<const account> books;
    {
      reference_model copy = model;
      std::optional<host_memory> memory(std::in_place);
      books = memory->shared_account();
      module = copy.module(*memory, rank == 0);
      initialize(*module, copy.source(), world, {.bucket_bytes = 300}, {.memory = *memory});
    }
    host_memory reader;
    EXPECT_EQ(model.faults_of(*module, reader, 3, rank), "");
    EXPECT_GT(books->current(), 0U);
    module.reset();
    EXPECT_EQ(books->current(), 0U);
  });
}

TEST(Storage, ASlabIsReleasedWithTheLastOfItsTensors) {
  const reference_model model({{.fqn = "layers.0.a", .type = dtype::u8, .extents = {600}},
                               {.fqn = "layers.0.b", .type = dtype::u8, .extents = {600}},
                               {.fqn = "layers.1.a", .type = dtype::u8, .extents = {600}},
                               {.fqn = "layers.1.b", .type = dtype::u8, .extents = {600}}});
  run_ranks(2, [&](std::size_t, threads_communicator& world) {
    host_memory memory;
    dynamic_module module = model.module(memory, false);
    const rank_report report = initialize(module, model.source(), world, {}, {.memory = memory});
    EXPECT_EQ(report.units, 2U);
    const std::uint64_t all = memory.accounted();
    module.get_parameter("layers.0.a").drop();
    EXPECT_EQ(memory.accounted(), all);
    module.get_parameter("layers.0.b").drop();
    EXPECT_EQ(memory.accounted(), all / 2);
  });
}

TEST(Storage, ShardsAreAlignedAndEmptyOnesAreNotOnMeta) {
  const reference_model model({{.fqn = "a", .type = dtype::u8, .extents = {3, 7}}, {.fqn = "b", .extents = {2, 5}}});
  run_ranks(4, [&](std::size_t rank, threads_communicator& world) {
    host_memory memory;
    dynamic_module module = model.module(memory, false);
    initialize(module, model.source(), world, {}, {.memory = memory});
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(module.get_parameter("a").data()) % slab_alignment, 0U);
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(module.get_parameter("b").data()) % slab_alignment, 0U);
    if (rank == 3) {
      EXPECT_FALSE(module.get_parameter("a").is_meta());
      EXPECT_EQ(module.get_parameter("a").local().shape, (shape{0, 7}));
      EXPECT_EQ(module.get_parameter("a").local().offset, 3U);
    }
  });
}

TEST(Storage, ShardsSayWhatIsReservedForThemAndInWhichSlab) {
  const reference_model model({{.fqn = "a", .type = dtype::u8, .extents = {3, 7}, .tied = {"tied"}},
                               {.fqn = "b", .type = dtype::u8, .extents = {5, 2}},
                               {.fqn = "whole", .type = dtype::u8, .extents = {9}, .how = replicate{}}});
  run_ranks(4, [&](std::size_t rank, threads_communicator& world) {
    host_memory memory;
    dynamic_module module = model.module(memory, false);
    initialize(module, model.source(), world, {}, {.memory = memory});
    const local_shard& a = module.get_parameter("a").local();
    const local_shard& b = module.get_parameter("b").local();
    const local_shard& whole = module.get_parameter("whole").local();
    EXPECT_EQ(a.reserved, 7U) << "rank " << rank;
    EXPECT_EQ(b.reserved, 4U) << "rank " << rank;
    EXPECT_EQ(whole.reserved, 9U);
    EXPECT_EQ(b.data.get(), a.slab.data());  // as the source has them
    EXPECT_EQ(a.data.get(), a.slab.data() + slab_alignment);
    EXPECT_EQ(a.slab.size(), 2 * slab_alignment + 9);
    for (const local_shard& each : {b, whole, module.get_parameter("tied").local()}) {
      EXPECT_EQ(each.slab.data(), a.slab.data());
      EXPECT_EQ(each.slab.size(), a.slab.size());
    }
  });
}

/// Memory in which somebody has left something.
struct used_memory : minimal_memory {
  used_memory() : minimal_memory(host_memory()) {}
  [[nodiscard]] std::byte* allocate(std::uint64_t bytes) {
    std::byte* const made = minimal_memory::allocate(bytes);
    std::fill_n(made, bytes, std::byte{0xA5});
    return made;
  }
};
/// The same of a device that cannot write zeros itself.
struct used_device_memory : used_memory {
  static constexpr bool host_accessible = false;
};

template <class Space>
void expect_zeros_outside_of_shards() {
  reference_model model(
      {{.fqn = "few.a", .type = dtype::u8, .extents = {3, 5000}},  // more than zeros are written at once
       {.fqn = "few.b", .type = dtype::bf16, .extents = {5, 300}},
       {.fqn = "few.c", .type = dtype::u8, .extents = {1, 2 * mib}}});  // more than is written unseen
  run_ranks(4, [&](std::size_t rank, threads_communicator& world) {
    Space memory;
    dynamic_module module = model.module(memory, false);
    initialize(module, model.source(), world, {}, {.memory = memory});
    EXPECT_EQ(model.faults_of(module, memory, 4, rank), "") << "rank " << rank;
    const mutable_bytes slab = module.get_parameter("few.a").local().slab;
    std::vector<std::byte> all(slab.begin(), slab.end());
    module.visit_slots([&](std::string_view, auto& slot) {
      std::fill_n(all.begin() + (slot.data() - slab.data()), slot.local().bytes, std::byte{0});
    });
    EXPECT_TRUE(are_zero(all)) << "rank " << rank;
  });
}

TEST(Storage, IsZeroOutsideOfShardsWhateverTheMemory) {
  expect_zeros_outside_of_shards<used_memory>();
  expect_zeros_outside_of_shards<used_device_memory>();
}

TEST(Storage, AnInitialisedModuleMayBeInitialisedAgain) {
  const reference_model model = varied_model();
  run_ranks(2, [&](std::size_t rank, threads_communicator& world) {
    host_memory memory;
    dynamic_module module = model.module(memory, rank == 0);
    initialize(module, model.source(), world, {}, {.memory = memory});
    const std::uint64_t once = memory.accounted();
    const rank_report again = initialize(module, model.source(), world, {}, {.memory = memory});
    EXPECT_EQ(model.faults_of(module, memory, 2, rank), "");
    EXPECT_EQ(memory.accounted(), once);
    EXPECT_EQ(again.accounted_peak_bytes, again.predicted.peak_bytes());
  });
}

// -- (i) two at once

TEST(TwoAtOnce, InitialisationsOnDistinctWorldsDoNotMeet) {
  const reference_model good = varied_model();
  const reference_model bad({{.fqn = "a", .extents = {4}, .tied = {"b"}, .stored_as = {"c"}}});
  std::vector<std::optional<error>> errors;
  std::thread failing([&] {
    for (int round = 0; round < 20; ++round) {
      errors = errors_of_ranks(3, [&](std::size_t, threads_communicator& world) {
        host_memory memory;
        dynamic_module module = bad.module(memory, false);
        initialize(module, bad.source(), world);
      });
    }
  });
  for (int round = 0; round < 20; ++round) {
    run_ranks(3, [&](std::size_t rank, threads_communicator& world) {
      host_memory memory;
      dynamic_module module = good.module(memory, rank == 0);
      initialize(module, good.source(), world, {.bucket_bytes = 100}, {.memory = memory});
      EXPECT_EQ(good.faults_of(module, memory, 3, rank), "");
    });
  }
  failing.join();
  for (const auto& each : errors) {
    ASSERT_TRUE(each.has_value());
    EXPECT_EQ(each->code(), errc::missing_tensor);
  }
}

// -- (l) what an observer sees

struct recorder {
  std::vector<std::string> phases;
  std::vector<std::pair<std::uint64_t, std::uint64_t>> steps;
  void phase(const char* name) { phases.emplace_back(name); }
  void progress(std::uint64_t done, std::uint64_t total) { steps.emplace_back(done, total); }
};

template <class Policy>
void expect_progress(double interval, std::vector<std::string> phases) {
  const reference_model model = varied_model();
  std::uint64_t total = 0;
  for (const reference_tensor& tensor : model.tensors()) {
    total += tensor.bytes.size();
  }
  run_ranks(3, [&](std::size_t rank, threads_communicator& world) {
    host_memory memory;
    dynamic_module module = model.module(memory, rank == 1);
    recorder seen;
    const options how{.bucket_bytes = 200, .source_rank = 1, .progress_interval_seconds = interval};
    const rank_report report =
        initialize<Policy>(module, model.source(), world, how, {.memory = memory, .observer = seen});

    EXPECT_EQ(seen.phases, phases);
    ASSERT_EQ(report.phases.size(), phases.size());
    double seconds = 0;
    for (std::size_t i = 0; i < phases.size(); ++i) {
      EXPECT_EQ(report.phases[i].name, phases[i]);
      EXPECT_GE(report.phases[i].seconds, 0.0);
      seconds += report.phases[i].seconds;
    }
    EXPECT_LE(seconds, report.seconds + 1e-3);
    EXPECT_LT(report.slowest_rank, 3U);

    if (rank != 1) {
      EXPECT_TRUE(seen.steps.empty());
      return;
    }
    ASSERT_FALSE(seen.steps.empty());
    EXPECT_EQ(seen.steps.back().first, total);
    for (std::size_t i = 0; i < seen.steps.size(); ++i) {
      EXPECT_EQ(seen.steps[i].second, total);
      if (i > 0) {
        EXPECT_GT(seen.steps[i].first, seen.steps[i - 1].first) << "step " << i;
      }
    }
    if (interval > 100) {
      EXPECT_EQ(seen.steps.size(), 1U);
    }
  });
}

TEST(Progress, GrowsToTheTotalOnTheSourceRankOnly) {
  const std::vector<std::string> native{"open", "preflight", "allocate", "stream", "commit"};
  const std::vector<std::string> baseline{"open", "preflight", "allocate", "read", "shard", "stream", "commit"};
  for (const double interval : {0.0, 1000.0}) {
    expect_progress<native_sharding<transport::scatter>>(interval, native);
    expect_progress<native_sharding<transport::broadcast>>(interval, native);
    expect_progress<every_rank_loads>(interval, baseline);
  }
}

// -- report

TEST(Report, NamesWhatWasDone) {
  const reference_model model = varied_model();
  run_ranks(2, [&](std::size_t rank, threads_communicator& world) {
    host_memory memory;
    dynamic_module module = model.module(memory, rank == 0);
    const rank_report report = initialize(module, model.source(), world, {.bucket_bytes = 1000}, {.memory = memory});
    EXPECT_EQ(report.rank, rank);
    EXPECT_EQ(report.shards, 2U);
    EXPECT_EQ(report.policy, "native-sharding");
    EXPECT_EQ(report.transport, "scatter");
    EXPECT_EQ(report.tensors, model.tensors().size());
    EXPECT_EQ(report.units, 4U);
    EXPECT_GT(report.buckets, 3U);
  });
}

TEST(Report, SaysThatScatterFellBackToBroadcast) {
  const reference_model model = varied_model();
  run_ranks(2, [&](std::size_t rank, threads_communicator& world) {
    minimal_communicator broadcasts_only(world);
    host_memory memory;
    dynamic_module module = model.module(memory, rank == 0);
    const rank_report report =
        initialize(module, model.source(), broadcasts_only, {.bucket_bytes = 1000}, {.memory = memory});
    EXPECT_EQ(report.transport, "broadcast");
    EXPECT_EQ(report.bytes_received, model.traffic(transport::broadcast, {.shards = 2}, 0, rank, false).received);
    EXPECT_EQ(model.faults_of(module, memory, 2, rank), "");
  });
}

// -- modules of other kinds

struct block_of_layers {
  parameter up{dtype::f32, {5, 3}};
  std::optional<parameter> bias;
};
struct whole_struct {
  parameter embed{dtype::f16, {9, 2}};
  std::vector<block_of_layers> layers = std::vector<block_of_layers>(2);
  buffer mask{dtype::u8, {4}, false};
  parameter head{dtype::f16, {9, 2}};
  [[nodiscard]] std::vector<std::vector<std::string>> tie_groups() const { return {{"embed", "head"}}; }
};

}  // namespace
}  // namespace behaviour_test

BOOST_HANA_ADAPT_STRUCT(behaviour_test::block_of_layers, up, bias);
BOOST_HANA_ADAPT_STRUCT(behaviour_test::whole_struct, embed, layers, mask, head);

namespace behaviour_test {
namespace {

reference_model struct_reference() {
  return reference_model(
      {{.fqn = "embed", .type = dtype::f16, .extents = {9, 2}, .tied = {"head"}, .stored_as = {"head"}},
       {.fqn = "layers.0.up", .type = dtype::f32, .extents = {5, 3}},
       {.fqn = "layers.1.up", .type = dtype::f32, .extents = {5, 3}},
       {.fqn = "layers.1.bias", .type = dtype::f32, .extents = {5}},
       {.fqn = "mask", .type = dtype::u8, .extents = {4}, .role = slot_role::non_persistent_buffer}});
}

TEST(StructModule, IsInitialisedMemberByMember) {
  const reference_model model = struct_reference();
  run_ranks(4, [&](std::size_t rank, threads_communicator& world) {
    whole_struct module;
    module.layers[1].bias.emplace(dtype::f32, shape{5});
    if (rank == 0) {
      module.mask.set(model.tensors()[4].bytes);
    }
    host_memory memory;
    initialize(module, model.source(), world, {.bucket_bytes = 16}, {.memory = memory});
    const auto expect_equal = [&](const local_shard& got, std::size_t tensor) {
      EXPECT_EQ(bytes_in(memory, got), model.expected(model.tensors()[tensor], 4, rank).bytes) << tensor;
    };
    expect_equal(module.embed.local(), 0);
    expect_equal(module.head.local(), 0);
    EXPECT_EQ(module.head.data(), module.embed.data());
    expect_equal(module.layers[0].up.local(), 1);
    expect_equal(module.layers[1].up.local(), 2);
    expect_equal(module.layers[1].bias->local(), 3);
    expect_equal(module.mask.local(), 4);
  });
}

TEST(StructModule, AnOptionalChildOnOneRankOnlyIsADisagreement) {
  const reference_model model = struct_reference();
  const auto errors = errors_of_ranks(3, [&](std::size_t rank, threads_communicator& world) {
    whole_struct module;
    if (rank != 2) {
      module.layers[1].bias.emplace(dtype::f32, shape{5});
    }
    module.mask.set(model.tensors()[4].bytes);
    initialize(module, model.source(), world);
  });
  for (const auto& each : errors) {
    ASSERT_TRUE(each.has_value());
    EXPECT_EQ(each->code(), errc::disagreement);
    EXPECT_NE(each->text().find("where rank 0 has 'parameter layers.1.bias"), std::string::npos) << each->what();
  }
}

// -- descriptors of a remote source

TEST(RemoteSource, GivesTheDescriptorsToRanksThatCannotOpenIt) {
  const reference_model model = varied_model();
  run_ranks(3, [&](std::size_t rank, threads_communicator& world) {
    auto source = share_descriptors(
        [&] {
          if (rank != 2) {
            throw error(errc::io, "/no/such/file", "cannot be opened");
          }
          return model.source();
        },
        world, 2);
    const in_memory_source expected = model.source();
    ASSERT_EQ(source.tensors().size(), expected.tensors().size());
    dynamic_module module;
    for (std::size_t i = 0; i < source.tensors().size(); ++i) {
      const tensor_descriptor& tensor = source.tensors()[i];
      EXPECT_EQ(tensor, expected.tensors()[i]);
      module.add_parameter(tensor.name, tensor.dtype, tensor.shape, replicate{});
    }
    initialize(module, source, world, {.source_rank = 2});
    EXPECT_EQ(source.local().has_value(), rank == 2);
    host_memory memory;
    EXPECT_EQ(bytes_in(memory, module.get_parameter("counter").local()), content_for("counter", 8));
  });
}

TEST(RemoteSource, ThatCannotBeOpenedIsTheSameErrorEverywhere) {
  const auto errors = errors_of_ranks(3, [&](std::size_t, threads_communicator& world) {
    static_cast<void>(share_descriptors(
        []() -> in_memory_source { throw error(errc::io, "/no/such/file", "cannot be opened"); }, world, 1));
  });
  for (const auto& each : errors) {
    ASSERT_TRUE(each.has_value());
    EXPECT_STREQ(each->what(), "/no/such/file: cannot be opened (rank 1)");
  }
}

// -- what is left alone

TEST(Ignored, IsNeitherDroppedNorShardedNorMissedNorUnexpected) {
  const reference_model model(
      {{.fqn = "frozen.w", .type = dtype::u8, .extents = {30}},
       {.fqn = "frozen.mean", .type = dtype::u8, .extents = {3}, .role = slot_role::persistent_buffer},
       {.fqn = "frozenness", .type = dtype::u8, .extents = {30}}});
  const reference_model stored({{.fqn = "frozen.w", .type = dtype::u8, .extents = {30}},
                                {.fqn = "frozenness", .type = dtype::u8, .extents = {30}}});
  run_ranks(3, [&](std::size_t rank, threads_communicator& world) {
    host_memory memory;
    dynamic_module module = model.module(memory, false);
    model.load(module, memory);
    const std::byte* const before = module.get_parameter("frozen.w").data();
    const rank_report report =
        initialize(module, stored.source(), world, {.ignored_prefixes = {"frozen"}}, {.memory = memory});
    EXPECT_EQ(module.get_parameter("frozen.w").data(), before);
    EXPECT_EQ(module.get_parameter("frozen.w").local().bytes, 30U);
    EXPECT_EQ(module.get_buffer("frozen.mean").local().bytes, 3U);
    EXPECT_EQ(module.get_parameter("frozenness").local().bytes, 10U) << "a prefix ends where a component does";
    EXPECT_EQ(report.tensors, 1U);
    EXPECT_EQ(report.bytes_read, rank == 0 ? 30U : 0U);
  });
}

TEST(Ignored, InPartOfATieIsAnError) {
  const reference_model model({{.fqn = "a.w", .type = dtype::u8, .extents = {30}, .tied = {"b.w"}}});
  const auto errors = errors_of_ranks(2, [&](std::size_t, threads_communicator& world) {
    host_memory memory;
    dynamic_module module = model.module(memory, false);
    initialize(module, model.source(), world, {.ignored_prefixes = {"b"}}, {.memory = memory});
  });
  for (const auto& each : errors) {
    ASSERT_TRUE(each.has_value());
    EXPECT_EQ(each->code(), errc::invalid_tie);
  }
}

// -- buffers that come and go between versions of a model's code

template <class Policy>
void expect_kept(std::size_t ranks, std::size_t source_rank) {
  const std::vector<reference_tensor> weights{{.fqn = "layers.0.w", .type = dtype::u8, .extents = {30}}};
  std::vector<reference_tensor> all = weights;
  all.push_back({.fqn = "steps", .type = dtype::i64, .extents = {}, .role = slot_role::persistent_buffer});
  all.push_back({.fqn = "layers.0.mean", .type = dtype::f32, .extents = {5}, .role = slot_role::persistent_buffer});
  const reference_model model(all);
  const reference_model stored(weights);
  run_ranks(ranks, [&](std::size_t rank, threads_communicator& world) {
    SCOPED_TRACE(concat(Policy::name, " ", name(Policy::transport), ", rank ", rank, " of ", ranks));
    host_memory memory;
    dynamic_module module = model.module(memory, false);
    if (rank == source_rank) {
      model.load(module, memory);
    } else if (rank == 0) {  // another value: all ranks end with the source rank's
      module.get_buffer("steps").set(std::vector<std::byte>(8, std::byte{99}));
    }
    const options how{.source_rank = source_rank, .keep_missing_buffers = true};
    const rank_report report = initialize<Policy>(module, stored.source(), world, how, {.memory = memory});
    EXPECT_EQ(model.faults_of(module, memory, ranks, rank), "");
    EXPECT_EQ(report.kept_buffers, (std::vector<std::string>{"steps", "layers.0.mean"}));
    EXPECT_TRUE(report.missing.empty());
  });
}

TEST(Buffers, ThatTheCheckpointLacksKeepTheSourceRanksValueWhereThatIsAskedFor) {
  expect_kept<native_sharding<transport::scatter>>(3, 1);
  expect_kept<native_sharding<transport::broadcast>>(3, 2);
  expect_kept<every_rank_loads>(2, 1);
  expect_kept<native_sharding<transport::scatter>>(1, 0);
}

TEST(Buffers, ThatTheCheckpointLacksAreErrorsWhereNothingWasAskedForOrThereIsNoValue) {
  const reference_model model(
      {{.fqn = "steps", .type = dtype::i64, .extents = {}, .role = slot_role::persistent_buffer}});
  for (const bool keep : {false, true}) {
    const auto errors = errors_of_ranks(2, [&](std::size_t rank, threads_communicator& world) {
      host_memory memory;
      dynamic_module module = model.module(memory, false);
      if (!keep || rank == 1) {
        model.load(module, memory);  // of rank 1, which is not the source
      }
      initialize(module, in_memory_source(), world, {.keep_missing_buffers = keep}, {.memory = memory});
    });
    expect_same_error(errors, errc::missing_tensor, "steps", keep ? 0 : every_rank,
                      keep ? "without a value on the source rank" : "keep_missing_buffers = true");
  }
}

TEST(Buffers, ThatTheCheckpointHasAndTheModuleComputesAreNotReadAndListed) {
  const reference_model model(
      {{.fqn = "w", .type = dtype::u8, .extents = {30}},
       {.fqn = "angles", .type = dtype::f32, .extents = {3}, .role = slot_role::non_persistent_buffer}});
  const reference_model stored({{.fqn = "w", .type = dtype::u8, .extents = {30}},
                                {.fqn = "angles", .type = dtype::bf16, .extents = {4}}});  // of older code
  run_ranks(3, [&](std::size_t rank, threads_communicator& world) {
    host_memory memory;
    dynamic_module module = model.module(memory, rank == 0);
    const rank_report report = initialize(module, stored.source(), world, {}, {.memory = memory});
    EXPECT_EQ(model.faults_of(module, memory, 3, rank), "");
    EXPECT_EQ(report.unread_buffers, std::vector<std::string>{"angles"});
    EXPECT_TRUE(report.unexpected.empty());
    EXPECT_EQ(report.bytes_read, rank == 0 ? 30U : 0U);
  });
}

// -- casts

template <class Policy>
overflow_count overflow_with(const verification verify, std::size_t ranks) {
  // 70000 becomes infinite in F16, infinity is already; `b` is tied and stored twice.
  const std::vector<float> a{1, 70000, -70000, std::numeric_limits<float>::infinity(), 65504, 2};
  const std::vector<float> b{3e38F, 0, 0, 0, 0, 0, 0, -3e38F};
  const auto source = [&] {
    const auto tensor = [](const char* fqn, const std::vector<float>& values) {
      return in_memory_tensor{{fqn, dtype::f32, {values.size()}}, std::as_bytes(std::span(values))};
    };
    return in_memory_source({tensor("a", a), tensor("b", b), tensor("c", b), tensor("unwanted", b)});
  };
  std::vector<rank_report> reports(ranks);
  run_ranks(ranks, [&](std::size_t rank, threads_communicator& world) {
    dynamic_module module;
    module.add_parameter("a", dtype::f16, {a.size()});
    module.add_parameter("b", dtype::f16, {b.size()});
    module.add_parameter("c", dtype::f16, {b.size()});
    module.tie({"b", "c"});
    // Buckets that cut elements.
    const options how{.bucket_bytes = 5, .strict = false, .verify = verify, .checksum = &test_checksum};
    reports[rank] = initialize<Policy>(module, source() | cast(dtype::f16), world, how);
    const std::vector<rank_report> gathered = gather_reports(world, reports[rank]);
    EXPECT_EQ(overflow_of(gathered).elements, 4U);
    EXPECT_EQ(gathered[rank].overflow.first, reports[rank].overflow.first);
  });
  return overflow_of(reports);
}

TEST(Cast, ToInfinityIsCountedOnceAndReported) {
  const auto expect_counted = [](const overflow_count& counted) {
    EXPECT_EQ(counted.elements, 4U);
    EXPECT_EQ(counted.first, "a");
  };
  expect_counted(overflow_with<native_sharding<transport::scatter>>(verification::off, 3));
  expect_counted(overflow_with<native_sharding<transport::broadcast>>(verification::transfer, 2));
  expect_counted(overflow_with<native_sharding<transport::own_read>>(verification::reread, 3));
  expect_counted(overflow_with<every_rank_loads>(verification::off, 2));
}

// -- optimizer

/// Holds pointers to parameters, as optimizers do.
struct pointing_optimizer {
  std::vector<std::vector<std::string>> names;
  std::vector<std::vector<parameter*>> groups;
  bool stepped = false;

  [[nodiscard]] std::vector<std::vector<std::string>> parameter_groups() const { return names; }
  [[nodiscard]] bool has_state() const noexcept { return stepped; }
  void drop_references() noexcept {
    for (auto& group : groups) {
      group.clear();
    }
  }
  void rebind(std::size_t group, std::string_view /*fqn*/, parameter& slot) noexcept { groups[group].push_back(&slot); }
};

TEST(Optimizer, IsBoundToTheShardsByNameOnceForEachTensor) {
  const reference_model model({{.fqn = "a.w", .type = dtype::u8, .extents = {30}, .tied = {"b.w"}},
                               {.fqn = "c.w", .type = dtype::u8, .extents = {9}}});
  run_ranks(3, [&](std::size_t, threads_communicator& world) {
    host_memory memory;
    dynamic_module module = model.module(memory, false);
    pointing_optimizer optimizer{.names = {{"c.w"}, {"a.w", "b.w"}}, .groups = {{nullptr}, {nullptr, nullptr}}};
    initialize(module, model.source(), world, {}, {.memory = memory, .optimizer = {module, optimizer}});
    EXPECT_EQ(optimizer.groups[0], std::vector<parameter*>{&module.get_parameter("c.w")});
    EXPECT_EQ(optimizer.groups[1], std::vector<parameter*>{&module.get_parameter("a.w")});
  });
}

TEST(Optimizer, ThatHasStateIsAnErrorBeforeAnythingChanges) {
  const reference_model model({{.fqn = "w", .type = dtype::u8, .extents = {30}}});
  const auto errors = errors_of_ranks(2, [&](std::size_t rank, threads_communicator& world) {
    host_memory memory;
    dynamic_module module = model.module(memory, false);
    model.load(module, memory);
    pointing_optimizer optimizer{.names = {{"w"}}, .groups = {{&module.get_parameter("w")}}, .stepped = rank == 1};
    try {
      initialize(module, model.source(), world, {}, {.memory = memory, .optimizer = {module, optimizer}});
    } catch (...) {
      EXPECT_FALSE(module.get_parameter("w").is_meta());
      EXPECT_EQ(optimizer.groups[0].size(), 1U);
      throw;
    }
  });
  for (const auto& each : errors) {
    ASSERT_TRUE(each.has_value());
    EXPECT_EQ(each->subject(), "optimizer");
    EXPECT_EQ(each->rank(), 1);
  }
}

TEST(Optimizer, OfOtherGroupsOnOneRankIsADisagreement) {
  const reference_model model(
      {{.fqn = "v", .type = dtype::u8, .extents = {30}}, {.fqn = "w", .type = dtype::u8, .extents = {30}}});
  const auto errors = errors_of_ranks(2, [&](std::size_t rank, threads_communicator& world) {
    host_memory memory;
    dynamic_module module = model.module(memory, false);
    pointing_optimizer optimizer{.names = {{rank == 0 ? "v" : "w"}}, .groups = {{}}};
    initialize(module, model.source(), world, {}, {.memory = memory, .optimizer = {module, optimizer}});
  });
  for (const auto& each : errors) {
    ASSERT_TRUE(each.has_value());
    EXPECT_EQ(each->code(), errc::disagreement);
  }
}

}  // namespace
}  // namespace behaviour_test
