#include "support/archetypes.hpp"
#include "support/expect_error.hpp"
#include "support/fake_device_memory.hpp"
#include "support/reference_model.hpp"
#include "support/unit_model.hpp"
#include <fsdpinit/fsdpinit.hpp>
#include <fsdpinit/testing/rank_harness.hpp>
#include <fsdpinit/units/sharded_units.hpp>

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace gradients_test {
namespace {

using namespace fsdpinit;
using namespace fsdpinit::testing_support;
using fsdpinit::testing::errors_of_ranks;
using fsdpinit::testing::run_ranks;

TEST(Gradients, AreSummedInTheOrderOfRanksOnAnyNumberOfThem) {
  const reference_model model = trained_model();
  for (const std::size_t ranks : {1U, 2U, 3U, 4U, 6U, 7U}) {
    for (const gradient_reduction how : {gradient_reduction::sum, gradient_reduction::mean}) {
      SCOPED_TRACE(concat(ranks, " ranks"));
      run_ranks(ranks, [&](std::size_t rank, threads_communicator& world) {
        dynamic_module module = trained_module(model, world);
        sharded_units units(module, world);
        expect_gradients(model, units, rank, ranks, 1, how);
      });
    }
  }
}

TEST(Gradients, AreSummedOverReplicasAfterShards) {
  const reference_model model = trained_model();
  for (const mesh ranks :
       {mesh{.shards = 1, .replicas = 2}, mesh{.shards = 3, .replicas = 2}, mesh{.shards = 2, .replicas = 3}}) {
    SCOPED_TRACE(concat(ranks.replicas, " replicas of ", ranks.shards));
    run_ranks(ranks.size(), [&](std::size_t rank, threads_communicator& world) {
      const options how{.replicas = ranks.replicas};
      dynamic_module module = trained_module(model, world, how);
      sharded_units units(module, world, how);
      expect_gradients(model, units, rank, ranks.shards, ranks.replicas, gradient_reduction::sum);
      expect_gradients(model, units, rank, ranks.shards, ranks.replicas, gradient_reduction::mean);
      minimal_communicator minimal(world);
      sharded_units over_minimal(module, minimal, how);
      expect_gradients(model, over_minimal, rank, ranks.shards, ranks.replicas, gradient_reduction::sum);
    });
  }
}

TEST(Gradients, AreTheSameBitsWhateverTheCommunicator) {
  const reference_model model = trained_model();
  run_ranks(3, [&](std::size_t rank, threads_communicator& world) {
    dynamic_module module = trained_module(model, world);
    minimal_communicator minimal(world);
    sharded_units over_minimal(module, minimal);
    expect_gradients(model, over_minimal, rank, 3, 1, gradient_reduction::sum);
    scattering_communicator scattering(world);
    sharded_units over_scattering(module, scattering);
    expect_gradients(model, over_scattering, rank, 3, 1, gradient_reduction::sum);
    group_communicator started(world);
    sharded_units over_started(module, started);
    expect_gradients(model, over_started, rank, 3, 1, gradient_reduction::sum);
  });
}

TEST(Gradients, TakeTheMemoryThatIsPredicted) {
  const reference_model model = trained_model();
  run_ranks(3, [&](std::size_t rank, threads_communicator& world) {
    dynamic_module module = trained_module(model, world);
    host_memory memory;
    sharded_units units(module, world, {}, memory);
    gradients_of_rank full(model, rank);
    for (std::size_t unit = 0; unit < units.size(); ++unit) {
      memory.restart_peak();
      {
        const auto reduced = units.reduce_scatter_gradients(unit, full);
        EXPECT_EQ(memory.accounted_peak(), units.predict_gradients(unit).peak_bytes());
        EXPECT_EQ(memory.accounted(), units.predict_gradients(unit).kept_bytes);
        EXPECT_GT(memory.accounted(), 0U);
      }
      EXPECT_EQ(memory.accounted(), 0U);
    }
  });
}

TEST(Gradients, OfAModuleInDeviceMemoryAreInHostMemory) {
  const reference_model model = trained_model();
  run_ranks(2, [&](std::size_t rank, threads_communicator& world) {
    fake_device_memory memory;
    dynamic_module module = model.module(memory, rank == 0);
    initialize(module, model.source(), world, {}, {.memory = memory});
    for (const reference_tensor& tensor : model.tensors()) {
      if (is_frozen(tensor.fqn)) {
        module.get_parameter(tensor.fqn).set_requires_grad(false);
      }
    }
    sharded_units units(module, world, {}, memory);
    expect_gradients(model, units, rank, 2, 1, gradient_reduction::sum);
  });
}

// -- errors

template <class Fn>
std::vector<std::optional<error>> errors_with(Fn&& fn) {
  const reference_model model = trained_model();
  return errors_of_ranks(3, [&](std::size_t rank, threads_communicator& world) {
    dynamic_module module = trained_module(model, world);
    sharded_units units(module, world);
    gradients_of_rank full(model, rank);
    const auto caught = attempt([&] { fn(rank, units, full); });
    expect_gradients(model, units, rank, 3, 1, gradient_reduction::sum);  // and then it works
    if (caught) {
      throw error(*caught);
    }
  });
}

void expect_all(const std::vector<std::optional<error>>& errors, std::string_view what) {
  for (const auto& each : errors) {
    ASSERT_TRUE(each.has_value());
    EXPECT_EQ(each->what(), what);
  }
}

TEST(Gradients, OfAnotherSizeOnOneRankAreAnErrorOnAll) {
  expect_all(
      errors_with([](std::size_t rank, auto& units, auto& full) {
        const auto cut = [&](std::string_view fqn) {
          const std::span<const float> whole = full(fqn);
          return rank == 1 && fqn == "layers.0.up" ? whole.first(39) : whole;
        };
        static_cast<void>(units.reduce_scatter_gradients(units.unit_of("layers.0.up"), cut));
      }),
      "layers.0.up: its gradient has 39 elements, but it is [5, 8]; give the gradient of the whole tensor (rank 1)");
}

TEST(Gradients, ThatAreNotThereOnOneRankAreAnErrorOnAll) {
  expect_all(errors_with([](std::size_t rank, auto& units, auto& full) {
               const auto none = [&](std::string_view fqn) {
                 if (rank == 2) {
                   throw std::runtime_error("no backward pass yet");
                 }
                 return full(fqn);
               };
               static_cast<void>(units.reduce_scatter_gradients(0, none));
             }),
             "no backward pass yet (rank 2)");
}

TEST(Gradients, SummedHereAndAveragedThereAreADisagreement) {
  expect_all(
      errors_with([](std::size_t rank, auto& units, auto& full) {
        static_cast<void>(
            units.reduce_scatter_gradients(1, full, rank == 0 ? gradient_reduction::sum : gradient_reduction::mean));
      }),
      "this rank asked for the sum of gradients of unit 'layers.0' where another asks for the mean of gradients of "
      "unit 'layers.0'; call every rank with the same unit and operation, in the same order (rank 0)");
}

TEST(Gradients, OfTrainedParametersOfTwoDtypesAreAnErrorThatNamesThem) {
  const reference_model model({{.fqn = "a", .extents = {4}}, {.fqn = "b", .type = dtype::bf16, .extents = {4}}});
  for (const auto& each : errors_of_ranks(2, [&](std::size_t, threads_communicator& world) {
         dynamic_module module = trained_module(model, world);
         sharded_units units(module, world);
         static_cast<void>(
             units.reduce_scatter_gradients(0, [](std::string_view) { return std::span<const float>(); }));
       })) {
    ASSERT_TRUE(each.has_value());
    EXPECT_EQ(each->code(), errc::dtype_mismatch);
    EXPECT_EQ(each->subject(), "b");
  }
}

TEST(Gradients, AreNamedByTheFirstNameOfATie) {
  const reference_model model = trained_model();
  run_ranks(2, [&](std::size_t rank, threads_communicator& world) {
    dynamic_module module = trained_module(model, world);
    sharded_units units(module, world);
    gradients_of_rank full(model, rank);
    const auto reduced = units.reduce_scatter_gradients(0, full);
    EXPECT_EQ(reduced.size(), 3U);
    expect_error(errc::invalid_argument, "head.weight", "no gradient of this name",
                 [&] { static_cast<void>(reduced.of("head.weight")); });
  });
}

}  // namespace
}  // namespace gradients_test
