#include "support/archetypes.hpp"
#include "support/expect_error.hpp"
#include "support/fault_sweep.hpp"
#include "support/heap_faults.hpp"
#include "support/heap_sweep.hpp"
#include "support/one_file_source.hpp"
#include "support/reference_model.hpp"
#include "support/sanitizers.hpp"
#include <fsdpinit/fsdpinit.hpp>
#include <fsdpinit/init/pretrained.hpp>
#include <fsdpinit/observe/resident_memory.hpp>
#include <fsdpinit/testing/faults.hpp>
#include <fsdpinit/testing/rank_harness.hpp>

#include <gtest/gtest.h>

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <functional>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

namespace pretrained_test {
namespace {

using namespace fsdpinit;
using namespace fsdpinit::testing_support;
using fsdpinit::testing::call_counter;
using fsdpinit::testing::errors_of_ranks;
using fsdpinit::testing::faulty_communicator;
using fsdpinit::testing::faulty_memory;
using fsdpinit::testing::faulty_module;
using fsdpinit::testing::faulty_observer;
using fsdpinit::testing::faulty_source;
using fsdpinit::testing::run_ranks;

using outcomes = std::vector<std::optional<error>>;

/// Opens where it may; a test in which another rank opens fails.
struct guarded_opener {
  const reference_model* model;
  bool allowed = true;
  in_memory_source operator()() const {
    if (!allowed) {
      throw error(errc::io, "/no/such/file", "opened on a rank that has no such file");
    }
    return model->source();
  }
};

/// Bytes of parameters and persistent buffers, tied ones once.
std::uint64_t weight_bytes(const reference_model& model) {
  std::uint64_t sum = 0;
  for (const reference_tensor& tensor : model.tensors()) {
    sum += tensor.from_buffer() ? 0 : tensor.bytes.size();
  }
  return sum;
}
std::uint64_t stored_bytes(const reference_model& model) {
  std::uint64_t sum = 0;
  for (const reference_tensor& tensor : model.tensors()) {
    sum += tensor.bytes.size() * tensor.stored_names().size();
  }
  return sum;
}

enum class module_state { untouched, on_meta, mixed };

/// Every slot begins with storage of its own; a module that is untouched still has it.
struct marked_module {
  explicit marked_module(dynamic_module given) : module(std::move(given)) {
    module.visit_slots([&](std::string_view, auto& slot) {
      slot.adopt({.shape = slot.shape(), .offset = 0, .bytes = 1, .data = marker});
    });
  }
  /// Of parameters and persistent buffers; non-persistent ones must be as they were, whatever happens.
  [[nodiscard]] module_state state() {
    std::size_t slots = 0;
    std::size_t untouched = 0;
    std::size_t on_meta = 0;
    bool left_alone = true;
    module.visit_slots([&](std::string_view, auto& slot) {
      const bool marked = !slot.is_meta() && slot.local().data == marker;
      if (slot_traits<std::remove_cvref_t<decltype(slot)>>::role(slot) == slot_role::non_persistent_buffer) {
        left_alone = left_alone && marked;
        return;
      }
      ++slots;
      untouched += marked ? 1 : 0;
      on_meta += slot.is_meta() ? 1 : 0;
    });
    return !left_alone          ? module_state::mixed
           : untouched == slots ? module_state::untouched
           : on_meta == slots   ? module_state::on_meta
                                : module_state::mixed;
  }

  std::shared_ptr<std::byte> marker = std::make_shared<std::byte>();
  dynamic_module module;
};

bool is_on_meta(dynamic_module& module) {
  bool on_meta = true;
  module.visit_slots([&](std::string_view, auto& slot) { on_meta = on_meta && slot.is_meta(); });
  return on_meta;
}

// -- what it does

void expect_loaded(const reference_model& model, std::size_t ranks, const pretrained_load_context& context,
                   const pretrained_load_options& how = {}) {
  SCOPED_TRACE(concat(ranks, " ranks, source ", context.source_rank, context.active ? ", active" : ", inactive"));
  run_ranks(ranks, [&](std::size_t rank, threads_communicator& world) {
    const bool holds = !context.active || rank == context.source_rank;
    host_memory memory;
    dynamic_module module = model.module(memory, holds);
    const std::uint64_t before = memory.accounted();
    const pretrained_report report = load_pretrained(module, guarded_opener{.model = &model, .allowed = holds}, world,
                                                     context, how, {.memory = memory});

    const std::uint64_t expected = holds ? weight_bytes(model) : 0;
    EXPECT_EQ(memory.accounted() - before, expected) << "rank " << rank;
    EXPECT_EQ(report.rank, rank);
    EXPECT_EQ(report.holds_weights, holds);
    EXPECT_EQ(report.weight_bytes, expected);
    EXPECT_EQ(report.bytes_read, holds ? stored_bytes(model) : 0U);
    EXPECT_EQ(report.accounted_peak_bytes, report.predicted_peak_bytes);
    EXPECT_LE(report.accounted_peak_bytes, expected + 256 * kib);
    if (holds) {
      EXPECT_EQ(model.faults_of(module, memory, 1, 0), "") << "rank " << rank;
    } else {
      EXPECT_TRUE(is_on_meta(module)) << "rank " << rank;
      EXPECT_EQ(report.accounted_peak_bytes, 0U);
    }
  });
}

TEST(Pretrained, ActiveLoadsWholeTensorsOnTheSourceRankAlone) {
  const reference_model model = varied_model();
  for (const std::size_t ranks : {1U, 2U, 3U, 4U, 7U}) {
    expect_loaded(model, ranks, {.active = true, .source_rank = 0});
    expect_loaded(model, ranks, {.active = true, .source_rank = ranks - 1});
  }
}

TEST(Pretrained, InactiveLoadsEverythingOnEveryRank) {
  const reference_model model = varied_model();
  for (const std::size_t ranks : {1U, 2U, 4U}) {
    expect_loaded(model, ranks, {.active = false, .source_rank = ranks / 2});
  }
}

TEST(Pretrained, OverChannelsWhoseRanksDifferIsAnErrorOnEveryRank) {
  const reference_model model({{.fqn = "w", .type = dtype::u8, .extents = {40}}});
  const threads_world world(2);
  const auto errors = errors_of_ranks(2, [&](std::size_t rank, threads_communicator& control) {
    threads_communicator data = world.rank(1 - rank);
    host_memory memory;
    dynamic_module module = model.module(memory, false);
    load_pretrained(module, guarded_opener{.model = &model}, channels{data, control}, {}, {}, {.memory = memory});
  });
  expect_same_error(errors, errc::invalid_argument, "ranks", 0, "rank 1 of 2 on the data channel, but rank 0 of 2");
}

TEST(Pretrained, InactiveLoadsTheSameOnEveryRankOrIsAnError) {
  const reference_model model({{.fqn = "w", .type = dtype::u8, .extents = {40}}});
  const reference_model other(
      {{.fqn = "w", .type = dtype::u8, .extents = {40}, .bytes = std::vector<std::byte>(40, std::byte{1})}});
  const auto errors = errors_of_ranks(3, [&](std::size_t rank, threads_communicator& world) {
    host_memory memory;
    dynamic_module module = model.module(memory, false);
    load_pretrained(module, guarded_opener{.model = rank == 2 ? &other : &model}, world, {.active = false}, {},
                    {.memory = memory});
  });
  expect_same_error(errors, errc::disagreement, "w", 2, "this rank's checkpoint holds other data than that of rank 0");
}

TEST(Pretrained, AnyNumberOfBytesMayLieBetweenAgreements) {
  const reference_model model = varied_model();
  for (const std::uint64_t bytes : {std::uint64_t{1}, std::uint64_t{97}, weight_bytes(model), ~std::uint64_t{0}}) {
    expect_loaded(model, 3, {.active = true, .source_rank = 1}, {.bytes_between_agreements = bytes});
    expect_loaded(model, 2, {.active = false, .source_rank = 0}, {.bytes_between_agreements = bytes});
  }
}

TEST(Pretrained, TensorsLargerThanOneReadAreWhole) {
  const reference_model model(
      {{.fqn = "a", .type = dtype::u8, .extents = {9 * mib + 5}},
       {.fqn = "b", .type = dtype::u8, .extents = {5 * mib + 1}, .tied = {"c"}, .stored_as = {"c", "b"}}});
  expect_loaded(model, 2, {});
}

/// Counts its requests.
struct counted_file : one_file_source {
  using one_file_source::one_file_source;
  void read(std::size_t tensor, std::uint64_t offset, mutable_bytes destination) {
    ++requests;
    one_file_source::read(tensor, offset, destination);
  }
  void read_file(std::size_t file, std::uint64_t offset, mutable_bytes destination) {
    ++requests;
    one_file_source::read_file(file, offset, destination);
  }
  std::uint64_t requests = 0;
};

TEST(Pretrained, NeighboursInAFileAreReadAtOnceWhereTheyAreSmall) {
  const reference_model model({{.fqn = "a", .type = dtype::u8, .extents = {100}},
                               {.fqn = "b", .type = dtype::f32, .extents = {30}},
                               {.fqn = "c", .type = dtype::u8, .extents = {7}}});
  self_communicator alone;
  host_memory memory;
  dynamic_module module = model.module(memory, false);
  counted_file source(model.source());
  const pretrained_report report = load_pretrained(module, source, alone, {}, {}, {.memory = memory});
  EXPECT_EQ(source.requests, 1U);
  EXPECT_EQ(report.bytes_read, 227U);
  EXPECT_EQ(report.predicted_peak_bytes, 227 + 256 * kib);
  EXPECT_EQ(report.accounted_peak_bytes, report.predicted_peak_bytes);
  EXPECT_EQ(model.faults_of(module, memory, 1, 0), "");
}

TEST(Pretrained, ModelsWithoutATensorOrAByteAreLoaded) {
  expect_loaded(reference_model({}), 3, {});
  expect_loaded(reference_model({{.fqn = "a", .extents = {0, 3}}, {.fqn = "b", .extents = {3, 0}}}), 2, {});
}

TEST(Pretrained, ATieMayBeStoredUnderAnyOfItsNames) {
  for (const std::vector<std::string>& stored :
       {std::vector<std::string>{"embed.weight"}, {"head.weight"}, {"head.weight", "embed.weight"}}) {
    expect_loaded(varied_model(stored), 2, {});
  }
}

TEST(Pretrained, EachTensorIsReleasedByItself) {
  const reference_model model({{.fqn = "a", .type = dtype::u8, .extents = {3 * mib}},
                               {.fqn = "b", .type = dtype::u8, .extents = {100}},
                               {.fqn = "c", .type = dtype::u8, .extents = {5 * mib}, .tied = {"d"}}});
  self_communicator alone;
  host_memory memory;
  dynamic_module module = model.module(memory, true);
  load_pretrained(module, model.source(), alone, {}, {}, {.memory = memory});
  module.get_parameter("b").drop();
  EXPECT_EQ(memory.accounted(), 8 * mib);
  module.get_parameter("c").drop();
  EXPECT_EQ(memory.accounted(), 8 * mib);  // d still holds it
  module.get_parameter("d").drop();
  EXPECT_EQ(memory.accounted(), 3 * mib);
  module.get_parameter("a").drop();
  EXPECT_EQ(memory.accounted(), 0U);
}

TEST(Pretrained, ReleasedTensorsGoBackToTheOperatingSystemOneByOne) {
  if (is_sanitized) {
    GTEST_SKIP() << "sanitizers have memory of their own";
  }
  constexpr std::uint64_t size = 16 * mib;
  const reference_model model({{.fqn = "a", .type = dtype::u8, .extents = {size}},
                               {.fqn = "b", .type = dtype::u8, .extents = {size}},
                               {.fqn = "c", .type = dtype::u8, .extents = {size}}});
  self_communicator alone;
  host_memory memory;
  dynamic_module module = model.module(memory, true);
  const in_memory_source source = model.source();
  const resident_memory resident;
  const std::uint64_t before = resident.current();
  load_pretrained(module, source, alone, {}, {}, {.memory = memory});
  EXPECT_GT(resident.current(), before + 3 * size - 4 * mib);
  module.get_parameter("b").drop();  // between its neighbours
  EXPECT_LT(resident.current(), before + 2 * size + 4 * mib);
  module.get_parameter("a").drop();
  EXPECT_LT(resident.current(), before + size + 4 * mib);
  EXPECT_EQ(bytes_in(memory, module.get_parameter("c").local()), model.tensors()[2].bytes);
}

TEST(Pretrained, WeightsMayBeEditedAfterwards) {
  const reference_model model({{.fqn = "embed", .type = dtype::u8, .extents = {10, 4}}});
  self_communicator alone;
  host_memory memory;
  dynamic_module module = model.module(memory, true);
  load_pretrained(module, model.source(), alone, {}, {}, {.memory = memory});
  module.get_parameter("embed").data()[7] ^= std::byte{1};

  // A larger one in its place.
  const auto larger = std::make_shared<block<host_memory>>(memory, 48);
  std::memcpy(larger->data(), module.get_parameter("embed").data(), 40);
  parameter& slot = module.get_parameter("embed");
  slot = parameter(dtype::u8, {12, 4});
  slot.adopt({.shape = {12, 4}, .offset = 0, .bytes = 48, .data = {larger, larger->data()}});
  EXPECT_EQ(memory.accounted(), 48U);
  EXPECT_EQ(slot.data()[7], model.tensors()[0].bytes[7] ^ std::byte{1});
}

TEST(Pretrained, WhatTheModuleHeldIsReplaced) {
  const reference_model model = varied_model();
  run_ranks(2, [&](std::size_t rank, threads_communicator& world) {
    host_memory memory;
    dynamic_module module = model.module(memory, true);
    const std::uint64_t before = memory.accounted();
    load_pretrained(module, model.source(), world, {.active = false}, {}, {.memory = memory});
    EXPECT_EQ(memory.accounted() - before, weight_bytes(model));
    load_pretrained(module, model.source(), world, {.active = true}, {},
                    {.memory = memory});  // rank 1 lets go of its own
    EXPECT_EQ(memory.accounted() - before, rank == 0 ? weight_bytes(model) : 0U);
    EXPECT_EQ(module.get_parameter("embed.weight").is_meta(), rank != 0);
    EXPECT_FALSE(module.get_buffer("mask").is_meta());
  });
}

TEST(Pretrained, NonPersistentBuffersAreLeftAlone) {
  const reference_model model = varied_model();
  for (const bool active : {true, false}) {
    run_ranks(3, [&](std::size_t rank, threads_communicator& world) {
      host_memory memory;
      dynamic_module module = model.module(memory, rank == 1);
      const std::byte* const mask = module.get_buffer("mask").data();
      load_pretrained(module, model.source(), world, {.active = active}, {}, {.memory = memory});
      EXPECT_EQ(module.get_buffer("mask").data(), mask);
      EXPECT_EQ(module.get_buffer("mask").is_meta(), rank != 1);
      EXPECT_EQ(module.get_buffer("no_mask").is_meta(), rank != 1);
    });
  }
}

TEST(Pretrained, WhatIsLoadedCanBeShardedFromThere) {
  const reference_model model = varied_model();
  run_ranks(3, [&](std::size_t rank, threads_communicator& world) {
    host_memory memory;
    dynamic_module module = model.module(memory, rank == 0);
    load_pretrained(module, guarded_opener{.model = &model, .allowed = rank == 0}, world, {}, {}, {.memory = memory});
    // A module's own state, seen as a state dict: what a later step takes the weights from.
    std::vector<in_memory_tensor> state;
    for (const reference_tensor& tensor : model.tensors()) {
      if (rank == 0 && !tensor.from_buffer()) {
        const local_shard& whole = tensor.role == slot_role::parameter ? module.get_parameter(tensor.fqn).local()
                                                                       : module.get_buffer(tensor.fqn).local();
        state.push_back({.descriptor = {.name = tensor.fqn, .dtype = tensor.type, .shape = tensor.extents},
                         .bytes = {whole.data.get(), whole.bytes}});
      }
    }
    dynamic_module sharded = model.module(memory, rank == 0);
    initialize(sharded, in_memory_source(std::move(state)), world, {.bucket_bytes = 300}, {.memory = memory});
    EXPECT_EQ(model.faults_of(sharded, memory, 3, rank), "");
  });
}

// -- what it asks for

template <class Communicator>
void expect_works_with() {
  const reference_model model(
      {{.fqn = "weight", .type = dtype::f32, .extents = {6, 5}}, {.fqn = "bias", .type = dtype::bf16, .extents = {7}}});
  for (const std::size_t ranks : {1U, 3U}) {
    const threads_world control_world(ranks);
    run_ranks(ranks, [&](std::size_t rank, threads_communicator& world) {
      minimal_communicator data(world);
      Communicator control(control_world.rank(rank));
      foreign_module module;
      in_memory_source inner = model.source();
      minimal_observer watch;
      load_pretrained(module, minimal_opener<in_memory_source>{&inner}, channels{data, control}, {},
                      {.bytes_between_agreements = 9}, {.memory = minimal_memory(host_memory()), .observer = watch});
      ASSERT_EQ(module.weight.storage_.has_value(), rank == 0);
      if (rank == 0) {
        host_memory memory;
        EXPECT_EQ(bytes_in(memory, *module.weight.storage_), model.tensors()[0].bytes);
        EXPECT_EQ(bytes_in(memory, *module.bias.storage_), model.tensors()[1].bytes);
      }
    });
  }
}

TEST(PretrainedArchetypes, TheLeastThatModelsEachConceptIsEnough) {
  expect_works_with<minimal_communicator>();
  expect_works_with<reducing_control>();
  expect_works_with<failable_control>();
  expect_works_with<interruptible_communicator>();
}

// -- errors before anything is dropped

struct call {
  dynamic_module module;
  in_memory_source source;
  pretrained_load_context context{};
  pretrained_load_options how{.deadline_seconds = 20};
};

reference_model plain_model() {
  return reference_model({{.fqn = "a.weight", .type = dtype::f32, .extents = {8, 4}},
                          {.fqn = "b.weight", .type = dtype::bf16, .extents = {7, 3}},
                          {.fqn = "b.mean", .type = dtype::f32, .extents = {5}, .role = slot_role::persistent_buffer},
                          {.fqn = "mask", .extents = {2}, .role = slot_role::non_persistent_buffer}});
}

/// Loads on 4 ranks, each with `change(rank, call)` applied to what it is called with.
outcomes load_with(const std::function<void(std::size_t, call&)>& change,
                   module_state afterwards = module_state::untouched) {
  const reference_model model = plain_model();
  return errors_of_ranks(4, [&](std::size_t rank, threads_communicator& world) {
    host_memory memory;
    call mine{.module = model.module(memory, false), .source = model.source()};
    change(rank, mine);
    marked_module marked(std::move(mine.module));
    try {
      load_pretrained(marked.module, mine.source, world, mine.context, mine.how, {.memory = memory});
    } catch (...) {
      EXPECT_EQ(marked.state(), afterwards) << "rank " << rank;
      EXPECT_EQ(memory.accounted(), 0U) << "rank " << rank;
      throw;
    }
  });
}

TEST(PretrainedDisagreement, AnotherCallOnOneRankIsTheSameErrorEverywhere) {
  const auto on_rank_2 = [](const std::function<void(call&)>& change) {
    return load_with([&](std::size_t rank, call& mine) {
      if (rank == 2) {
        change(mine);
      }
    });
  };
  expect_same_error(on_rank_2([](call& mine) { mine.context.active = false; }), errc::disagreement, "", 2,
                    "'policy pretrained-load, inactive' where rank 0 has 'policy pretrained-load, active'");
  expect_same_error(on_rank_2([](call& mine) { mine.context.source_rank = 2; }), errc::disagreement, "", 2,
                    "'source_rank 2' where rank 0 has 'source_rank 0'");
  expect_same_error(on_rank_2([](call& mine) { mine.how.bytes_between_agreements = 77; }), errc::disagreement, "", 2,
                    "'bytes_between_agreements 77' where rank 0 has 'bytes_between_agreements 1073741824'");
  expect_same_error(on_rank_2([](call& mine) { mine.module.add_parameter("c", dtype::f32, {1}); }), errc::disagreement,
                    "", 2, "'parameter c F32 [1] shard{0}' where rank 0 has");
}

TEST(PretrainedDisagreement, ARankThatTakesItselfForTheSourceDoesNotOpenIt) {
  const reference_model model = plain_model();
  const outcomes errors = errors_of_ranks(3, [&](std::size_t rank, threads_communicator& world) {
    host_memory memory;
    dynamic_module module = model.module(memory, false);
    load_pretrained(module, guarded_opener{.model = &model, .allowed = rank == 0}, world,
                    {.source_rank = rank == 2 ? 2U : 0U});
  });
  expect_same_error(errors, errc::disagreement, "", 2, "'source_rank 2'");
}

TEST(PretrainedDisagreement, AnotherCheckpointIsLookedAtOnlyWhereItIsRead) {
  const reference_model other({{.fqn = "a.weight", .type = dtype::f32, .extents = {8, 5}}});
  const auto with = [&](bool active) {
    return load_with([&](std::size_t rank, call& mine) {
      mine.context.active = active;
      if (rank == 3) {
        mine.source = other.source();
      }
    });
  };
  expect_same_error(with(false), errc::disagreement, "a.weight", 3, "checkpoint differs from that of rank 0");
  for (const auto& each : with(true)) {
    EXPECT_FALSE(each.has_value());
  }
}

TEST(PretrainedPreflight, WhatDoesNotFitIsListedOnEveryRank) {
  expect_same_error(load_with([](std::size_t, call& mine) { mine.module.add_parameter("c.weight", dtype::f32, {2}); }),
                    errc::missing_tensor, "c.weight", every_rank, "the checkpoint does not have it");
  expect_same_error(load_with([](std::size_t, call& mine) {
                      mine.context.active = false;
                      mine.module.add_buffer("c.mean", dtype::f32, {2});
                    }),
                    errc::missing_tensor, "c.mean", every_rank, "the checkpoint does not have it");
  const auto instead = [](dtype type, shape extents) {
    return load_with([&](std::size_t, call& mine) {
      mine.module = dynamic_module();
      mine.module.add_parameter("a.weight", type, extents);
    });
  };
  expect_same_error(instead(dtype::f32, {8, 4}), errc::unexpected_tensor, "b.mean", every_rank,
                    "(2 such problems)\n  b.mean: unexpected");
  expect_same_error(instead(dtype::f32, {4, 8}), errc::unexpected_tensor, "b.mean", every_rank,
                    "a.weight: the checkpoint has shape [8, 4], the module [4, 8]");
  expect_same_error(instead(dtype::f16, {8, 4}), errc::unexpected_tensor, "b.mean", every_rank,
                    "a.weight: the checkpoint has F32, the module F16");
}

TEST(PretrainedPreflight, OptionsThatCannotBeMeantAreErrors) {
  const auto with = [](const std::function<void(call&)>& change) {
    return load_with([&](std::size_t, call& mine) { change(mine); });
  };
  expect_same_error(with([](call& mine) { mine.context.source_rank = 4; }), errc::invalid_argument, "source_rank", 0,
                    "4 is not a rank of a world of 4");
  expect_same_error(with([](call& mine) { mine.how.bytes_between_agreements = 0; }), errc::invalid_argument,
                    "bytes_between_agreements", 0, "at least 1");
  self_communicator alone;
  dynamic_module module;
  EXPECT_THROW(load_pretrained(module, in_memory_source(), alone, {}, {.deadline_seconds = 0}), error);
}

TEST(PretrainedPreflight, ASourceThatCannotBeOpenedIsTheSameErrorEverywhere) {
  const reference_model model = plain_model();
  const auto with = [&](bool active, std::size_t failing) {
    return errors_of_ranks(3, [&](std::size_t rank, threads_communicator& world) {
      host_memory memory;
      marked_module marked(model.module(memory, false));
      try {
        load_pretrained(marked.module, guarded_opener{.model = &model, .allowed = rank != failing}, world,
                        {.active = active, .source_rank = 1});
      } catch (...) {
        EXPECT_EQ(marked.state(), module_state::untouched);
        throw;
      }
    });
  };
  expect_same_error(with(true, 1), errc::io, "/no/such/file", 1, "opened on a rank");
  expect_same_error(with(false, 2), errc::io, "/no/such/file", 2, "opened on a rank");
  for (const auto& each : with(true, 2)) {
    EXPECT_FALSE(each.has_value());
  }
}

// -- errors after that

TEST(PretrainedTies, StoredCopiesThatDifferAreAnErrorOnEveryRank) {
  const std::vector<std::byte> values = content_for("a", 1200);
  std::vector<std::byte> changed = values;
  changed[1100] ^= std::byte{1};
  const outcomes errors = load_with(
      [&](std::size_t, call& mine) {
        mine.module = dynamic_module();
        mine.module.add_parameter("a", dtype::f32, {300});
        mine.module.add_parameter("b", dtype::f32, {300});
        mine.module.tie({"a", "b"});
        mine.source = in_memory_source({{{.name = "a", .dtype = dtype::f32, .shape = {300}}, values},
                                        {{.name = "b", .dtype = dtype::f32, .shape = {300}}, changed}});
      },
      module_state::on_meta);
  expect_same_error(errors, errc::invalid_tie, "b", 0, "tied to a, but the checkpoint stores different values");
}

/// The seams at which a call may fail.
enum seam : std::size_t { source_seam, memory_seam, module_seam, observer_seam, control_seam, seams };
constexpr std::array<std::string_view, seams> seam_names{"source", "memory", "module", "observer", "control"};

/// One rank's objects, kept from the first attempt to the second.
struct rank_objects {
  explicit rank_objects(const reference_model& reference)
      : marked(reference.module(memory, false)), source(reference.source(), counters[source_seam]) {}

  seam_counters<seams> counters;
  host_memory memory;
  marked_module marked;
  faulty_source<in_memory_source> source;
};

class pretrained_sweep {
 public:
  pretrained_sweep(std::size_t ranks, bool active) : ranks_(ranks), active_(active) {}

  /// Fails each call that any rank makes, in turn. Returns the number of injections.
  std::uint64_t run() {
    make_objects();
    expect_success("clean run");
    return for_each_counted_call(objects_,
                                 [&](std::size_t rank, std::size_t at, std::uint64_t call) { inject(rank, at, call); });
  }
  /// The same of allocations, one in `each`.
  std::uint64_t exhaust_heaps(std::uint64_t each) {
    return for_each_allocation(ranks_, each, [&](std::size_t rank, std::uint64_t call, heap_fault how) {
      return exhaust_heap(rank, call, how);
    });
  }

 private:
  void make_objects() {
    objects_.clear();
    for (std::size_t rank = 0; rank < ranks_; ++rank) {
      objects_.push_back(std::make_unique<rank_objects>(model_));
    }
    world_.emplace(ranks_);
  }
  [[nodiscard]] bool holds(std::size_t rank) const { return !active_ || rank == ranks_ - 1; }

  outcomes attempt_all() {
    return errors_of_ranks(*world_, [&](std::size_t rank, threads_communicator& world) {
      rank_objects& mine = *objects_[rank];
      faulty_communicator control(world, mine.counters[control_seam]);
      faulty_module module(mine.marked.module, mine.counters[module_seam]);
      heaps_.on(rank, [&] {
        return load_pretrained(module, mine.source, control, {.active = active_, .source_rank = ranks_ - 1},
                               {.bytes_between_agreements = 60, .deadline_seconds = 10, .progress_interval_seconds = 0},
                               {.memory = faulty_memory<host_memory>(mine.memory, mine.counters[memory_seam]),
                                .observer = faulty_observer(mine.counters[observer_seam])});
      });
    });
  }

  void expect_success(std::string_view what) { expect_success(attempt_all(), what); }
  void expect_success(const outcomes& errors, std::string_view what) {
    for (std::size_t rank = 0; rank < ranks_; ++rank) {
      rank_objects& mine = *objects_[rank];
      ASSERT_FALSE(errors[rank].has_value()) << what << ", rank " << rank << ": " << errors[rank]->what();
      EXPECT_EQ(mine.memory.accounted(), holds(rank) ? weight_bytes(model_) : 0U) << what << ", rank " << rank;
      if (holds(rank)) {
        EXPECT_EQ(model_.faults_of(mine.marked.module, mine.memory, 1, 0), "") << what << ", rank " << rank;
      } else {
        EXPECT_EQ(mine.marked.state(), module_state::on_meta) << what << ", rank " << rank;
        EXPECT_EQ(mine.counters[source_seam].calls(), 0U) << what << ", rank " << rank;
      }
    }
  }

  void inject(std::size_t failing, std::size_t at, std::uint64_t k) {
    SCOPED_TRACE(concat("call ", k, " of the ", seam_names[at], " fails on rank ", failing, " of ", ranks_,
                        active_ ? ", active" : ", inactive"));
    make_objects();
    objects_[failing]->counters[at].fail_at(k);
    const outcomes errors = attempt_all();
    ASSERT_TRUE(objects_[failing]->counters[at].has_failed());
    expect_injected_error(errors, failing);
    expect_recovery();
  }

  /// \return whether the allocation was asked for.
  bool exhaust_heap(std::size_t failing, std::uint64_t call, heap_fault how) {
    SCOPED_TRACE(concat("allocation ", call, " of rank ", failing, name(how), ", ", ranks_,
                        active_ ? " ranks, active" : " ranks, inactive"));
    make_objects();
    heaps_.fail(failing, call, how);
    const outcomes errors = attempt_all();
    const bool reached = heaps_.has_failed();
    heaps_.mend();
    if (!errors[failing]) {
      expect_success(errors, "nevertheless");
    } else {
      expect_exhausted_heap(errors, failing);
      expect_recovery();
    }
    return reached;
  }

  /// All modules are untouched or all are on meta, the memory is back, and a second attempt gives the right bytes.
  void expect_recovery() {
    const module_state state = objects_[0]->marked.state();
    EXPECT_NE(state, module_state::mixed);
    for (std::size_t rank = 0; rank < ranks_; ++rank) {
      EXPECT_EQ(objects_[rank]->marked.state(), state) << "rank " << rank;
      EXPECT_EQ(objects_[rank]->memory.accounted(), 0U) << "rank " << rank;
    }
    restart_counters(objects_);
    expect_success("second attempt");
  }

  reference_model model_ = reference_model({
      {.fqn = "embed", .type = dtype::bf16, .extents = {9, 5}, .tied = {"head"}, .stored_as = {"head", "embed"}},
      {.fqn = "mean", .type = dtype::f32, .extents = {15}, .role = slot_role::persistent_buffer},
      {.fqn = "layers.0.up", .type = dtype::u8, .extents = {2, 24}, .how = shard{1}},
      {.fqn = "layers.1.up", .type = dtype::u8, .extents = {2, 24}, .how = shard{1}},
  });
  std::size_t ranks_;
  bool active_;
  rank_heaps heaps_;
  std::vector<std::unique_ptr<rank_objects>> objects_;
  std::optional<threads_world> world_;
};

TEST(PretrainedFaultSweep, AnyCallThatFailsOnAnyRankIsTheSameErrorEverywhereAndARetryWorks) {
  std::uint64_t injections = 0;
  for (const bool active : {true, false}) {
    for (const std::size_t ranks : {1U, 2U, 3U}) {
      injections += pretrained_sweep(ranks, active).run();
    }
  }
  std::printf("%llu injections\n", static_cast<unsigned long long>(injections));
  EXPECT_GT(injections, 300U / calls_per_injection);
}

TEST(PretrainedFaultSweep, AnExhaustedHeapOnAnyRankIsTheSameErrorEverywhereAndARetryWorks) {
  std::uint64_t injections = pretrained_sweep(2, true).exhaust_heaps(allocations_per_injection(1));
  injections += pretrained_sweep(3, false).exhaust_heaps(allocations_per_injection(11));
  std::printf("%llu injections\n", static_cast<unsigned long long>(injections));
  EXPECT_GE(injections, heap_is_a_seam ? 150U / calls_per_injection : 0U);
}

TEST(PretrainedFaultSweep, ACallThatNamesNoMemoryMakesItWhereRanksAgree) {
  const reference_model model({{.fqn = "weight", .extents = {6, 5}}});
  const auto errors = errors_of_ranks(2, [&](std::size_t rank, threads_communicator& world) {
    host_memory memory;
    dynamic_module module = model.module(memory, false);
    in_memory_source source = model.source();
    const failing_heap exhausted(rank == 1 ? 0 : 1U << 20U, heap_fault::exhausted);
    load_pretrained(module, source, world, {}, {.deadline_seconds = 10});
  });
  if (heap_is_a_seam) {
    expect_exhausted_heap(errors, 1);
  }
}

/// Takes its time for each read.
struct slow_source : in_memory_source {
  slow_source(in_memory_source inner, double seconds_per_read)
      : in_memory_source(std::move(inner)), seconds(seconds_per_read) {}
  void read(std::size_t tensor, std::uint64_t offset, mutable_bytes destination) {
    std::this_thread::sleep_for(std::chrono::duration<double>(seconds));
    in_memory_source::read(tensor, offset, destination);
  }
  double seconds;
};

TEST(PretrainedDeadline, IsForOnePartOfTheReadingNotForAllOfIt) {
  std::vector<reference_tensor> tensors;
  for (int i = 0; i < 12; ++i) {
    tensors.push_back({.fqn = concat("t.", i), .type = dtype::u8, .extents = {100}});
  }
  const reference_model model(std::move(tensors));
  const auto with = [&](std::uint64_t bytes_between_agreements) {
    return errors_of_ranks(2, [&](std::size_t, threads_communicator& world) {
      host_memory memory;
      dynamic_module module = model.module(memory, false);
      load_pretrained(module, slow_source(model.source(), 0.1), world, {},
                      {.bytes_between_agreements = bytes_between_agreements, .deadline_seconds = 0.9});
    });
  };
  for (const auto& each : with(100)) {
    EXPECT_FALSE(each.has_value()) << each->what();
  }
  for (const auto& each : with(1200)) {
    ASSERT_TRUE(each.has_value());
    EXPECT_EQ(each->code(), errc::peer_lost) << each->what();
  }
}

// -- what an observer sees

struct recorder {
  std::vector<std::string> phases;
  std::vector<std::pair<std::uint64_t, std::uint64_t>> steps;
  void phase(const char* name) { phases.emplace_back(name); }
  void progress(std::uint64_t done, std::uint64_t total) { steps.emplace_back(done, total); }
};

TEST(PretrainedProgress, GrowsToTheTotalOnTheSourceRankOnly) {
  const reference_model model = varied_model();
  for (const bool active : {true, false}) {
    run_ranks(3, [&](std::size_t rank, threads_communicator& world) {
      host_memory memory;
      dynamic_module module = model.module(memory, false);
      recorder seen;
      const pretrained_report report =
          load_pretrained(module, model.source(), world, {.active = active, .source_rank = 1},
                          {.progress_interval_seconds = 0}, {.memory = memory, .observer = seen});
      std::vector<std::string> phases{"preflight", "open", "allocate", "read", "commit"};
      if (active && rank != 1) {
        phases.erase(phases.begin() + 1);
      }
      EXPECT_EQ(seen.phases, phases);
      ASSERT_EQ(report.phases.size(), phases.size());
      double seconds = 0;
      for (std::size_t i = 0; i < phases.size(); ++i) {
        EXPECT_EQ(report.phases[i].name, phases[i]);
        seconds += report.phases[i].seconds;
      }
      EXPECT_LE(seconds, report.seconds + 1e-3);
      if (rank != 1) {
        EXPECT_TRUE(seen.steps.empty());
        return;
      }
      ASSERT_FALSE(seen.steps.empty());
      EXPECT_EQ(seen.steps.back(), std::pair(weight_bytes(model), weight_bytes(model)));
      for (std::size_t i = 1; i < seen.steps.size(); ++i) {
        EXPECT_GT(seen.steps[i].first, seen.steps[i - 1].first);
      }
    });
  }
}

}  // namespace
}  // namespace pretrained_test
