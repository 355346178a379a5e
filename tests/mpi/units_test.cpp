#include "mpi/worlds.hpp"
#include "support/reference_model.hpp"
#include "support/unit_model.hpp"
#include <fsdpinit/communicators/mpi.hpp>
#include <fsdpinit/fsdpinit.hpp>
#include <fsdpinit/units/sharded_units.hpp>

#include <gtest/gtest.h>

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace units_test {
namespace {

using namespace fsdpinit;
using namespace fsdpinit::testing_support;

TEST(MpiUnits, ComeAndGo) {
  const reference_model model = trained_model();
  for_each_world([&](mpi_communicator& world) {
    dynamic_module module = trained_module(model, world);
    host_memory memory;
    sharded_units units(module, world, {}, memory);
    std::vector<bool> unsharded(units.size(), false);
    for (std::size_t unit = 0; unit < units.size(); ++unit) {
      units.unshard(unit);
      unsharded[unit] = true;
      EXPECT_EQ(unit_faults_of(model, units, unsharded, module, memory, world.size(), world.rank()), "");
    }
    for (std::size_t unit = 0; unit < units.size(); ++unit) {
      units.reshard(unit);
    }
    EXPECT_EQ(model.faults_of(module, memory, world.size(), world.rank()), "");
    EXPECT_EQ(memory.accounted(), 0U);
  });
}

TEST(MpiUnits, HaveTheSameGradientsToTheBitAsOnThreads) {
  const reference_model model = trained_model();
  for_each_world([&](mpi_communicator& world) {
    dynamic_module module = trained_module(model, world);
    sharded_units units(module, world);
    expect_gradients(model, units, world.rank(), world.size(), 1, gradient_reduction::sum);
    expect_gradients(model, units, world.rank(), world.size(), 1, gradient_reduction::mean);
  });
}

TEST(MpiUnits, WorkInReplicas) {
  const reference_model model = trained_model();
  for_each_world([&](mpi_communicator& world) {
    const std::size_t replicas = world.size() % 2 == 0 ? 2 : 1;
    const std::size_t shards = world.size() / replicas;
    const options how{.replicas = replicas};
    dynamic_module module = trained_module(model, world, how);
    sharded_units units(module, world, how);
    expect_gradients(model, units, world.rank(), shards, replicas, gradient_reduction::sum);
    for (std::size_t unit = 0; unit < units.size(); ++unit) {
      units.unshard(unit);
    }
    host_memory reader;
    EXPECT_EQ(unit_faults_of(model, units, std::vector<bool>(units.size(), true), module, reader, shards,
                             world.rank() % shards),
              "");
  });
}

TEST(MpiUnits, OfDifferentKindsAtATimeAreADisagreement) {
  mpi_communicator world;
  const reference_model model = trained_model();
  dynamic_module module = trained_module(model, world);
  sharded_units units(module, world);
  if (world.size() > 1) {
    EXPECT_THROW(units.unshard(world.rank() == 0 ? 0 : 1), error);
  }
  expect_gradients(model, units, world.rank(), world.size(), 1, gradient_reduction::sum);
}

}  // namespace
}  // namespace units_test
