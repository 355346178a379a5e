#include "support/fake_device_memory.hpp"
#include "support/fault_sweep.hpp"
#include "support/heap_faults.hpp"
#include "support/heap_sweep.hpp"
#include "support/reference_model.hpp"
#include <fsdpinit/fsdpinit.hpp>
#include <fsdpinit/testing/faults.hpp>
#include <fsdpinit/testing/rank_harness.hpp>
#include <fsdpinit/units/sharded_units.hpp>

#include <gtest/gtest.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace fault_sweep_test {
namespace {

using namespace fsdpinit;
using namespace fsdpinit::testing_support;
using fsdpinit::testing::errors_of_ranks;
using fsdpinit::testing::faulty_communicator;
using fsdpinit::testing::faulty_memory;
using fsdpinit::testing::faulty_module;
using fsdpinit::testing::run_ranks;

enum seam : std::size_t { memory_seam, module_seam, data_seam, control_seam, seams };
constexpr std::array<std::string_view, seams> seam_names{"memory", "module", "data", "control"};

reference_model small_model() {
  return reference_model({{.fqn = "embed", .extents = {9, 5}, .tied = {"head"}},
                          {.fqn = "layers.0.up", .extents = {2, 24}, .how = shard{1}},
                          {.fqn = "layers.0.gate", .extents = {3}, .how = replicate{}},
                          {.fqn = "layers.1.up", .extents = {2, 24}, .how = shard{1}},
                          {.fqn = "layers.1.gate", .extents = {3}, .how = replicate{}}});
}

/// One rank's module, initialised without faults, and the seams at which later calls fail.
template <class Space>
struct rank_objects {
  seam_counters<seams> counters;
  Space memory;
  std::optional<dynamic_module> module;
  std::uint64_t accounted = 0;
};

template <class Space>
class sweep {
 public:
  sweep(std::size_t ranks, bool one_world) : ranks_(ranks), one_world_(one_world) {}

  std::uint64_t run() {
    make_objects();
    expect_success("clean run");
    return for_each_counted_call(objects_, [&](std::size_t rank, std::size_t at, std::uint64_t call) {
      inject(rank, static_cast<seam>(at), call);
    });
  }
  /// The same of allocations, one in `each`.
  std::uint64_t exhaust_heaps(std::uint64_t each) {
    make_objects();
    return for_each_allocation(ranks_, each, [&](std::size_t rank, std::uint64_t call, heap_fault how) {
      return exhaust_heap(rank, call, how);
    });
  }

 private:
  void make_objects() {
    objects_.clear();
    data_.emplace(ranks_);
    control_.emplace(ranks_);
    for (std::size_t rank = 0; rank < ranks_; ++rank) {
      objects_.push_back(std::make_unique<rank_objects<Space>>());
    }
    run_ranks(*data_, [&](std::size_t rank, threads_communicator& world) {
      rank_objects<Space>& mine = *objects_[rank];
      mine.module.emplace(model_.module(mine.memory, false));
      initialize(*mine.module, model_.source(), world, {}, {.memory = mine.memory});
      mine.accounted = mine.memory.accounted();
    });
  }

  /// Takes the units, makes one whole, then another, and reduces the gradients of the first.
  std::vector<std::optional<error>> attempt_all() {
    return errors_of_ranks(*data_, [&](std::size_t rank, threads_communicator& data) {
      rank_objects<Space>& mine = *objects_[rank];
      threads_communicator control = one_world_ ? data : control_->rank(rank);
      faulty_communicator faulty_data(data, mine.counters[data_seam]);
      faulty_communicator faulty_control(control, mine.counters[control_seam]);
      faulty_module module(*mine.module, mine.counters[module_seam]);
      const std::vector<float> gradient(48, static_cast<float>(rank));
      heaps_.on(rank, [&] {
        sharded_units units(module, channels{faulty_data, faulty_control}, {.deadline_seconds = 10},
                            faulty_memory<Space>(mine.memory, mine.counters[memory_seam]));
        const unsharded_unit first(units, 1);
        const unsharded_unit root(units, 0);
        const auto reduced = units.reduce_scatter_gradients(1, [&](std::string_view fqn) {
          return std::span<const float>(gradient).first(fqn == "layers.0.up" ? 48 : 3);
        });
        for (const shard_gradient& each : reduced) {
          for (const float value : each.values) {
            EXPECT_EQ(value, static_cast<float>(ranks_ * (ranks_ - 1) / 2)) << each.fqn;
          }
        }
      });
    });
  }

  void expect_sharded() {
    for (std::size_t rank = 0; rank < ranks_; ++rank) {
      rank_objects<Space>& mine = *objects_[rank];
      EXPECT_EQ(model_.faults_of(*mine.module, mine.memory, ranks_, rank), "") << "rank " << rank;
      EXPECT_EQ(mine.memory.accounted(), mine.accounted) << "rank " << rank;
    }
  }

  void expect_success(std::string_view what) { expect_success(attempt_all(), what); }
  void expect_success(const std::vector<std::optional<error>>& errors, std::string_view what) {
    for (std::size_t rank = 0; rank < ranks_; ++rank) {
      ASSERT_FALSE(errors[rank].has_value()) << what << ", rank " << rank << ": " << errors[rank]->what();
    }
    expect_sharded();
  }

  void inject(std::size_t failing, seam at, std::uint64_t call) {
    SCOPED_TRACE(concat(Space::host_accessible ? "host" : "device", ", call ", call, " of the ", seam_names[at],
                        " fails on rank ", failing, " of ", ranks_, one_world_ ? ", on one world" : ""));
    objects_[failing]->counters[at].fail_at(call);
    const auto errors = attempt_all();
    ASSERT_TRUE(objects_[failing]->counters[at].has_failed());
    expect_injected_error(errors, failing);
    expect_sharded();
    restart_counters(objects_);
    expect_success("second attempt");
  }

  /// \return whether the allocation was asked for.
  bool exhaust_heap(std::size_t failing, std::uint64_t call, heap_fault how) {
    SCOPED_TRACE(concat("allocation ", call, " of rank ", failing, " of ", ranks_, name(how),
                        one_world_ ? ", on one world" : ""));
    heaps_.fail(failing, call, how);
    const auto errors = attempt_all();
    const bool reached = heaps_.has_failed();
    heaps_.mend();
    if (!errors[failing]) {
      expect_success(errors, "nevertheless");
    } else {
      expect_exhausted_heap(errors, failing);
      expect_sharded();
      expect_success("second attempt");
    }
    return reached;
  }

  reference_model model_ = small_model();
  std::size_t ranks_;
  bool one_world_;
  rank_heaps heaps_;
  std::vector<std::unique_ptr<rank_objects<Space>>> objects_;
  std::optional<threads_world> data_;
  std::optional<threads_world> control_;
};

TEST(UnitFaultSweep, AnyCallThatFailsOnAnyRankIsTheSameErrorEverywhereAndLeavesShards) {
  std::uint64_t injections = 0;
  injections += sweep<host_memory>(2, true).run();
  injections += sweep<host_memory>(3, false).run();
  injections += sweep<fake_device_memory>(3, true).run();
  injections += sweep<fake_device_memory>(2, false).run();
  std::printf("%llu injections\n", static_cast<unsigned long long>(injections));
  EXPECT_GT(injections, 300U / calls_per_injection);
}

TEST(UnitFaultSweep, AnExhaustedHeapOnAnyRankIsTheSameErrorEverywhereAndLeavesShards) {
  std::uint64_t injections = sweep<host_memory>(2, true).exhaust_heaps(allocations_per_injection(1));
  injections += sweep<host_memory>(3, false).exhaust_heaps(allocations_per_injection(11));
  std::printf("%llu injections\n", static_cast<unsigned long long>(injections));
  EXPECT_GE(injections, heap_is_a_seam ? 200U / calls_per_injection : 0U);
}

TEST(UnitFaultSweep, UnitsThatAreGivenNoMemoryMakeItWhereRanksAgree) {
  const reference_model model = small_model();
  const auto errors = errors_of_ranks(2, [&](std::size_t rank, threads_communicator& world) {
    host_memory memory;
    dynamic_module module = model.module(memory, false);
    initialize(module, model.source(), world, {}, {.memory = memory});
    const options how{.deadline_seconds = 10};
    const failing_heap exhausted(rank == 1 ? 0 : 1U << 20U, heap_fault::exhausted);
    const sharded_units units(module, world, how);
  });
  if (heap_is_a_seam) {
    expect_exhausted_heap(errors, 1);
  }
}

}  // namespace
}  // namespace fault_sweep_test
