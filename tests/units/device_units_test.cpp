#include "support/fake_device_memory.hpp"
#include "support/fault_sweep.hpp"
#include "support/gpu_doubles.hpp"
#include "support/reference_model.hpp"
#include "support/unit_model.hpp"
#include <fsdpinit/fsdpinit.hpp>
#include <fsdpinit/memory/cuda_memory.hpp>
#include <fsdpinit/testing/rank_harness.hpp>
#include <fsdpinit/units/sharded_units.hpp>

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <vector>

/// \file
/// Units in device memory whose communicator gathers there: their bytes never come to the host. Over doubles of NCCL and of the CUDA
/// runtime, which find whoever reads what nobody wrote.

namespace device_units_test {
namespace {

using namespace fsdpinit;
using namespace fsdpinit::testing_support;
using fsdpinit::testing::errors_of_ranks;
using fsdpinit::testing::run_ranks;

class DeviceUnits : public gpu_doubles_test {
 protected:
  template <class Way>
  void expect_gathered_on_the_device(const reference_model& model, const mesh& ranks) {
    SCOPED_TRACE(concat(ranks.replicas, " x ", ranks.shards, " ranks"));
    run_ranks(ranks.size(), [&](std::size_t rank, threads_communicator& host) {
      Way::run(host, node, [&](auto& comm) {
        const options how{.replicas = ranks.replicas, .deadline_seconds = 20};
        fake_device_memory memory(0, node.cuda);
        dynamic_module module = initialised(model, comm, memory, how);
        sharded_units units(module, comm, how, memory);
        static_assert(std::is_same_v<typename decltype(units)::gathering, fake_device_memory>);
        expect_units_come_and_go(model, module, units, memory, {.shards = ranks.shards, .index = ranks.shard_of(rank)});
      });
    });
  }
};

TEST_F(DeviceUnits, AreGatheredByNcclOnTheDevice) {
  for (const std::size_t shards : {1U, 2U, 3U, 4U}) {
    expect_gathered_on_the_device<over_nccl>(varied_model(), {.shards = shards});
  }
  expect_gathered_on_the_device<over_nccl>(varied_model(), {.shards = 2, .replicas = 2});
}

TEST_F(DeviceUnits, AreGatheredByThreadsOnTheDevice) {
  for (const std::size_t shards : {1U, 2U, 3U, 4U}) {
    expect_gathered_on_the_device<on_one_gpu>(varied_model(), {.shards = shards});
  }
  expect_gathered_on_the_device<on_one_gpu>(varied_model(), {.shards = 2, .replicas = 2});
}

/// Shards of one row and of none, and inner dims.
reference_model uneven_model() {
  return reference_model({{.fqn = "embed", .extents = {5, 3}, .tied = {"head"}},
                          {.fqn = "layers.0.up", .type = dtype::u8, .extents = {1, 7}},
                          {.fqn = "layers.0.down", .type = dtype::f16, .extents = {3, 12, 2}, .how = shard{1}},
                          {.fqn = "layers.1.up", .type = dtype::u8, .extents = {1, 7}},
                          {.fqn = "layers.1.down", .type = dtype::f16, .extents = {3, 12, 2}, .how = shard{1}}});
}

TEST_F(DeviceUnits, MayHaveShardsOfOneRowAndOfNone) {
  for (const std::size_t shards : {3U, 4U}) {
    expect_gathered_on_the_device<over_nccl>(uneven_model(), {.shards = shards});
    expect_gathered_on_the_device<on_one_gpu>(uneven_model(), {.shards = shards});
  }
}

TEST_F(DeviceUnits, AreStagedOnTheHostWhereTheCommunicatorDoesNotReachTheDevice) {
  run_ranks(2, [&](std::size_t, threads_communicator& host) {
    fake_device_memory memory(0, node.cuda);
    dynamic_module module = initialised(uneven_model(), host, memory);
    sharded_units units(module, host, {}, memory);
    static_assert(std::is_same_v<decltype(units)::gathering, decltype(units)::staging>);
    units.unshard(0);
    EXPECT_EQ(units.staging_memory().accounted_peak(), units.predict_unshard(0).staging_bytes);
  });
}

/// Call `index` of a runtime fails on rank `failing` once the units are there: the same error everywhere, the unit stays sharded, and
/// the same call made again works. \return whether there was such a call.
template <class Way>
bool expect_agreed_unit_failure(runtime which, std::size_t failing, std::uint64_t index) {
  constexpr std::size_t ranks = 3;
  const reference_model model = uneven_model();
  const gpu_doubles node;
  bool was_made = false;
  std::vector<std::size_t> failed_unit(ranks);
  const auto errors = errors_of_ranks(threads_world(ranks), [&](std::size_t rank, threads_communicator& host) {
    const gpu_doubles mine = node.of_one_rank();
    Way::run(host, mine, [&](auto& comm) {
      const options how{.deadline_seconds = 20};
      fake_device_memory memory(0, mine.cuda);
      dynamic_module module = initialised(model, comm, memory, how);
      sharded_units units(module, comm, how, memory);
      std::vector<bool> unsharded(units.size(), false);
      const auto expect_state = [&] {
        EXPECT_EQ(unit_faults_of(model, units, unsharded, module, memory, ranks, rank), "");
      };
      std::uint64_t kept = memory.accounted();
      mine.calls(which).restart();
      if (rank == failing) {
        mine.calls(which).fail_at(index);
      }
      failed_unit[rank] = units.size();
      for (std::size_t unit = 0; unit < units.size(); ++unit) {
        if (const auto thrown = attempt([&] { units.unshard(unit); })) {
          EXPECT_EQ(thrown->code(), which == runtime::nccl ? errc::communication : errc::device) << thrown->what();
          EXPECT_EQ(thrown->rank(), static_cast<std::int32_t>(failing)) << thrown->what();
          EXPECT_EQ(failed_unit[rank], units.size()) << "it fails once";
          failed_unit[rank] = unit;
          EXPECT_FALSE(units.is_unsharded(unit));
          EXPECT_EQ(memory.accounted(), kept);
          units.unshard(unit);
        }
        unsharded[unit] = true;
        kept += units.predict_unshard(unit).kept_bytes;
        EXPECT_EQ(memory.accounted(), kept);
      }
      if (rank == failing) {
        was_made = mine.calls(which).has_failed();
        mine.calls(which).restart();  // what follows is the test's own
      }
      expect_state();
      EXPECT_EQ(units.staging_memory().accounted_peak(), 0U);
    });
  });
  for (const auto& each : errors) {
    EXPECT_FALSE(each) << each->what();
  }
  EXPECT_EQ(failed_unit, std::vector(ranks, failed_unit[failing])) << "all ranks fail at the same unit";
  expect_clean(node);
  return was_made;
}

/// The same of the gradients of a unit in host memory, by NCCL.
bool expect_agreed_gradient_failure(runtime which, std::size_t failing, std::uint64_t index) {
  constexpr std::size_t ranks = 3;
  const reference_model model({{.fqn = "up", .extents = {50, 6}}, {.fqn = "gate", .extents = {5}, .how = replicate{}}});
  const gpu_doubles node;
  bool was_made = false;
  std::vector<char> failed(ranks);
  const auto errors = errors_of_ranks(threads_world(ranks), [&](std::size_t rank, threads_communicator& host) {
    const gpu_doubles mine = node.of_one_rank();
    over_nccl::run(host, mine, [&](auto& comm) {
      const options how{.deadline_seconds = 20};
      dynamic_module module = trained_module(model, comm, how);
      sharded_units units(module, comm, how);
      mine.calls(which).restart();
      if (rank == failing) {
        mine.calls(which).fail_at(index);
      }
      const auto reduce = [&] {
        gradients_of_rank full(model, rank);
        static_cast<void>(units.reduce_scatter_gradients(0, full));
      };
      if (const auto thrown = attempt(reduce)) {
        EXPECT_EQ(thrown->code(), which == runtime::nccl ? errc::communication : errc::device) << thrown->what();
        EXPECT_EQ(thrown->rank(), static_cast<std::int32_t>(failing)) << thrown->what();
        failed[rank] = 1;
      }
      if (rank == failing) {
        was_made = mine.calls(which).has_failed();
        mine.calls(which).restart();
      }
      expect_gradients(model, units, rank, ranks, 1, gradient_reduction::sum);
    });
  });
  for (const auto& each : errors) {
    EXPECT_FALSE(each) << each->what();
  }
  EXPECT_EQ(failed, std::vector<char>(ranks, failed[failing])) << "all ranks fail, or none";
  expect_clean(node);
  return was_made;
}

template <class Way>
void sweep_unit_failures(runtime which, std::uint64_t least) {
  sweep_calls(least, [&](std::size_t failing, std::uint64_t index) {
    return expect_agreed_unit_failure<Way>(which, failing, index);
  });
}

TEST_F(DeviceUnits, OfWhichAnyCallOfNcclFailsAreAnErrorEverywhereAndStaySharded) {
  sweep_unit_failures<over_nccl>(runtime::nccl, 30);
}
TEST_F(DeviceUnits, OfWhichAnyCallOfCudaFailsAreAnErrorEverywhereAndStaySharded) {
  sweep_unit_failures<over_nccl>(runtime::cuda, 100);
  sweep_unit_failures<on_one_gpu>(runtime::cuda, 60);
}

TEST_F(DeviceUnits, WhoseGradientsAnyCallOfNcclFailsToReduceAreAnErrorEverywhereAndASecondCallWorks) {
  const auto sweep = [](runtime which, std::uint64_t least) {
    sweep_calls(least, [&](std::size_t failing, std::uint64_t index) {
      return expect_agreed_gradient_failure(which, failing, index);
    });
  };
  sweep(runtime::nccl, 60);
  sweep(runtime::cuda, 150);
}

}  // namespace
}  // namespace device_units_test
