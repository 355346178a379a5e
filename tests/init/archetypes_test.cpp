#include "support/archetypes.hpp"
#include "support/reference_model.hpp"
#include <fsdpinit/fsdpinit.hpp>
#include <fsdpinit/testing/laws.hpp>
#include <fsdpinit/testing/rank_harness.hpp>

#include <gtest/gtest.h>

#include <cstddef>
#include <string>
#include <vector>

namespace archetypes_test {
namespace {

using namespace fsdpinit;
using namespace fsdpinit::testing_support;
using fsdpinit::testing::errors_of_ranks;
using fsdpinit::testing::run_ranks;

reference_model foreign_reference() {
  return reference_model(
      {{.fqn = "weight", .type = dtype::f32, .extents = {6, 5}}, {.fqn = "bias", .type = dtype::bf16, .extents = {7}}});
}

/// Data on `Data`, control on `Control`, each on a world of its own.
template <class Policy, class Data, class Control, class Watch = minimal_observer>
void expect_works_with() {
  const reference_model model = foreign_reference();
  for (const std::size_t ranks : {1U, 2U, 3U}) {
    const threads_world control_world(ranks);
    run_ranks(ranks, [&](std::size_t rank, threads_communicator& world) {
      Data data(world);
      Control control(control_world.rank(rank));
      foreign_module module;
      minimal_source source(model.source());
      Watch watch;
      initialize<Policy>(module, source, channels{data, control}, {.bucket_bytes = 13},
                         {.memory = minimal_memory(host_memory()), .observer = watch});
      host_memory memory;
      for (const auto& [slot, at] : {std::pair{&module.weight, 0U}, std::pair{&module.bias, 1U}}) {
        ASSERT_TRUE(slot->storage_.has_value());
        EXPECT_EQ(bytes_in(memory, *slot->storage_), model.expected(model.tensors()[at], ranks, rank).bytes);
      }
    });
  }
}

TEST(Archetypes, AMinimalCommunicatorIsEnough) {
  expect_works_with<native_sharding<>, minimal_communicator, minimal_communicator>();
}

TEST(Archetypes, BlockingScatterIsEnoughToScatter) {
  expect_works_with<native_sharding<>, scattering_communicator, reducing_control>();
}

TEST(Archetypes, StartedBroadcastsAreUsedWithoutScatter) {
  expect_works_with<native_sharding<>, non_blocking_communicator, minimal_communicator>();
}

TEST(Archetypes, BlockingScatterGoesWithStartedBroadcasts) {
  expect_works_with<native_sharding<>, half_blocking_communicator, minimal_communicator>();
}

TEST(Archetypes, StartedScatterIsUsedWithoutInterruption) {
  expect_works_with<native_sharding<>, group_communicator, failable_control>();
}

TEST(Archetypes, EveryRankLoadsWithAMinimalCommunicator) {
  expect_works_with<every_rank_loads, minimal_communicator, minimal_communicator>();
}

TEST(Archetypes, AnObserverHearsOfWaitsOverMinimalCommunicators) {
  expect_works_with<native_sharding<>, minimal_communicator, minimal_communicator, minimal_waiting_observer>();
}

TEST(Archetypes, AMinimalOpenerIsEnough) {
  const reference_model model = foreign_reference();
  run_ranks(2, [&](std::size_t rank, threads_communicator& world) {
    minimal_communicator both(world);
    foreign_module module;
    in_memory_source inner = model.source();
    initialize(module, minimal_opener<in_memory_source>{&inner}, both);
    host_memory memory;
    EXPECT_EQ(bytes_in(memory, *module.weight.storage_), model.expected(model.tensors()[0], 2, rank).bytes);
  });
}

/// Throws at one read; of the 100 reads that a stream of small buckets takes it is early, late, or past an agreement.
struct source_that_fails_late : in_memory_source {
  source_that_fails_late(in_memory_source inner, std::size_t failing)
      : in_memory_source(std::move(inner)), left(failing) {}
  void read(std::size_t tensor, std::uint64_t offset, mutable_bytes destination) {
    if (left-- == 0) {
      throw error(errc::io, tensors()[tensor].name, "unplugged");
    }
    in_memory_source::read(tensor, offset, destination);
  }
  std::size_t left;
};

TEST(Archetypes, WithoutInterruptionAFailureIsStillTheSameEverywhere) {
  const reference_model model({{.fqn = "weight", .type = dtype::f32, .extents = {60, 5}}});
  for (const std::size_t failing : {0U, 1U, 63U, 64U, 65U, 99U}) {
    const auto errors = errors_of_ranks(3, [&](std::size_t, threads_communicator& world) {
      minimal_communicator both(world);
      host_memory memory;
      dynamic_module module = model.module(memory, false);
      source_that_fails_late source(model.source(), failing);
      initialize(module, source, both, {.bucket_bytes = 11});
    });
    for (const auto& each : errors) {
      ASSERT_TRUE(each.has_value());
      EXPECT_STREQ(each->what(), "weight: unplugged (rank 0)");
    }
  }
}

}  // namespace
}  // namespace archetypes_test
