#include "support/adamw.hpp"
#include "support/expect_error.hpp"
#include "support/fake_device_memory.hpp"
#include "support/reference_model.hpp"
#include <fsdpinit/fsdpinit.hpp>
#include <fsdpinit/testing/rank_harness.hpp>

#include <gtest/gtest.h>

#include <cstddef>

namespace extras_test {
namespace {

using namespace fsdpinit;
using namespace fsdpinit::testing_support;
using fsdpinit::testing::errors_of_ranks;
using fsdpinit::testing::run_ranks;

reference_model model_of_one() { return reference_model({{.fqn = "w", .type = dtype::f32, .extents = {7, 3}}}); }

TEST(Extras, MayBeKeptForSeveralCalls) {
  const reference_model model = model_of_one();
  run_ranks(2, [&](std::size_t rank, threads_communicator& world) {
    host_memory memory;
    const extras more{.memory = memory};
    for (int i = 0; i < 2; ++i) {
      dynamic_module module = model.module(memory, false);
      initialize(module, model.source(), world, {}, more);
      EXPECT_EQ(model.faults_of(module, memory, 2, rank), "");
    }
  });
}

TEST(Extras, AnOptimizerBesideAnotherModuleIsAnError) {
  const reference_model model = model_of_one();
  const auto errors = errors_of_ranks(2, [&](std::size_t, threads_communicator& world) {
    host_memory memory;
    dynamic_module module = model.module(memory, false);
    dynamic_module other = model.module(memory, false);
    adamw optimizer({{.names = {"w"}}});
    initialize(module, model.source(), world, {}, {.memory = memory, .optimizer = {other, optimizer}});
  });
  expect_same_error(errors, errc::invalid_argument, "optimizer", 0, "beside another module");
}

TEST(Extras, InitialValuesForMemoryThatTheHostMayNotTouchAreAnError) {
  const reference_model model = model_of_one();
  const auto errors = errors_of_ranks(2, [&](std::size_t, threads_communicator& world) {
    host_memory host;
    fake_device_memory memory;
    dynamic_module module = model.module(host, false);
    initialize(module, in_memory_source(), world, {.strict = false}, {.memory = memory, .missing = normal_values{}});
  });
  expect_same_error(errors, errc::invalid_argument, "missing", 0, "the host may not touch");
}

}  // namespace
}  // namespace extras_test
