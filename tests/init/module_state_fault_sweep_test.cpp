#include "support/fake_device_memory.hpp"
#include "support/fault_sweep.hpp"
#include "support/heap_faults.hpp"
#include "support/heap_sweep.hpp"
#include "support/reference_model.hpp"
#include <fsdpinit/fsdpinit.hpp>
#include <fsdpinit/testing/faults.hpp>
#include <fsdpinit/testing/rank_harness.hpp>

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

/// \file
/// Every call fails in turn while a module's own state is streamed: either all of the state is still there and a second attempt
/// works, or all of it is gone and every rank says so.

namespace module_state_fault_sweep_test {
namespace {

using namespace fsdpinit;
using namespace fsdpinit::testing_support;
using fsdpinit::testing::errors_of_ranks;
using fsdpinit::testing::faulty_communicator;
using fsdpinit::testing::faulty_memory;
using fsdpinit::testing::faulty_module;
using fsdpinit::testing::faulty_observer;

enum seam : std::size_t { memory_seam, module_seam, observer_seam, data_seam, control_seam, seams };
constexpr std::array<std::string_view, seams> seam_names{"memory", "module", "observer", "data", "control"};

reference_model small_model() {
  return reference_model({
      {.fqn = "embed", .type = dtype::bf16, .extents = {9, 5}, .tied = {"head"}},
      {.fqn = "rope", .type = dtype::f32, .extents = {4, 3}, .role = slot_role::non_persistent_buffer},
      {.fqn = "mean", .type = dtype::f32, .extents = {15}, .role = slot_role::persistent_buffer},
      {.fqn = "layers.0.up", .type = dtype::u8, .extents = {2, 24}, .how = shard{1}},
      {.fqn = "layers.1.up", .type = dtype::u8, .extents = {2, 24}, .how = shard{1}},
  });
}

template <class Space>
struct rank_objects {
  explicit rank_objects(const reference_model& model, bool is_source) : module(model.module(memory, is_source)) {
    if (is_source) {
      model.load(module, memory);
    }
  }
  seam_counters<seams> counters;
  Space memory;
  dynamic_module module;
};

/// How many parameters and persistent buffers hold something.
std::size_t filled_slots(dynamic_module& module) {
  std::size_t filled = 0;
  module.visit_slots([&](std::string_view name, auto& slot) { filled += name != "rope" && !slot.is_meta() ? 1 : 0; });
  return filled;
}
constexpr std::size_t all_slots = 5;

template <class Policy, class Space>
class sweep {
 public:
  sweep(std::size_t ranks, bool releases) : ranks_(ranks), releases_(releases) {}

  /// Returns the number of injections.
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
  /// Failures after which a part of the state was gone.
  [[nodiscard]] std::uint64_t consumed() const { return consumed_; }

 private:
  [[nodiscard]] std::size_t source_rank() const { return ranks_ - 1; }
  void make_objects() {
    objects_.clear();
    for (std::size_t rank = 0; rank < ranks_; ++rank) {
      objects_.push_back(std::make_unique<rank_objects<Space>>(model_, rank == source_rank()));
    }
    world_.emplace(ranks_);
  }

  std::vector<std::optional<error>> attempt_all() {
    return errors_of_ranks(*world_, [&](std::size_t rank, threads_communicator& world) {
      rank_objects<Space>& mine = *objects_[rank];
      threads_communicator control = world;
      faulty_communicator faulty_data(world, mine.counters[data_seam]);
      faulty_communicator faulty_control(control, mine.counters[control_seam]);
      faulty_module module(mine.module, mine.counters[module_seam]);
      const options how{.bucket_bytes = 25,
                        .source_rank = source_rank(),
                        .release_source = releases_,
                        .deadline_seconds = 10,
                        .progress_interval_seconds = 0};
      heaps_.on(rank, [&] {
        return initialize<Policy>(module, module_state{}, channels{faulty_data, faulty_control}, how,
                                  {.memory = faulty_memory<Space>(mine.memory, mine.counters[memory_seam]),
                                   .observer = faulty_observer(mine.counters[observer_seam])});
      });
    });
  }

  void expect_success(std::string_view what) { expect_success(attempt_all(), what); }
  void expect_success(const std::vector<std::optional<error>>& errors, std::string_view what) {
    for (std::size_t rank = 0; rank < ranks_; ++rank) {
      rank_objects<Space>& mine = *objects_[rank];
      ASSERT_FALSE(errors[rank].has_value()) << what << ", rank " << rank << ": " << errors[rank]->what();
      EXPECT_EQ(model_.faults_of(mine.module, mine.memory, ranks_, rank), "") << what << ", rank " << rank;
    }
  }

  [[nodiscard]] std::string setting() const {
    return concat(Policy::name, releases_ ? ", released" : ", kept", Space::host_accessible ? ", host" : ", device",
                  ", ", ranks_, " ranks");
  }

  void inject(std::size_t failing, std::size_t at, std::uint64_t call) {
    SCOPED_TRACE(concat(setting(), ": call ", call, " of the ", seam_names[at], " fails on rank ", failing));
    make_objects();
    objects_[failing]->counters[at].fail_at(call);
    const std::uint64_t accounted = objects_[source_rank()]->memory.accounted();

    const auto errors = attempt_all();
    ASSERT_TRUE(objects_[failing]->counters[at].has_failed());
    for (std::size_t rank = 0; rank < ranks_; ++rank) {
      ASSERT_TRUE(errors[rank].has_value()) << "rank " << rank << " did not notice";
      EXPECT_STREQ(errors[rank]->what(), errors[failing]->what()) << "rank " << rank;
    }
    expect_recovery(errors, failing, accounted);
  }

  /// \return whether the allocation was asked for.
  bool exhaust_heap(std::size_t failing, std::uint64_t call, heap_fault how) {
    SCOPED_TRACE(concat(setting(), ": allocation ", call, " of rank ", failing, name(how)));
    make_objects();
    heaps_.fail(failing, call, how);
    const std::uint64_t accounted = objects_[source_rank()]->memory.accounted();
    const auto errors = attempt_all();
    const bool reached = heaps_.has_failed();
    heaps_.mend();
    if (!errors[failing]) {
      expect_success(errors, "nevertheless");
      return reached;
    }
    for (std::size_t rank = 0; rank < ranks_; ++rank) {
      EXPECT_TRUE(errors[rank].has_value()) << "rank " << rank << " did not notice";
    }
    if (!::testing::Test::HasFailure()) {
      EXPECT_TRUE(errors[0]->code() == errc::out_of_memory || errors[0]->code() == errc::source_consumed)
          << errors[0]->what();
      expect_recovery(errors, failing, accounted);
    }
    return reached;
  }

  /// All of the state is there, or all is gone and every rank says so; a second attempt gives the right bytes.
  void expect_recovery(const std::vector<std::optional<error>>& errors, std::size_t failing, std::uint64_t accounted) {
    rank_objects<Space>& source = *objects_[source_rank()];
    for (std::size_t rank = 0; rank < ranks_; ++rank) {
      EXPECT_EQ(name(errors[rank]->code()), name(errors[failing]->code())) << "rank " << rank;
      EXPECT_EQ(errors[rank]->rank(), static_cast<std::int32_t>(failing)) << errors[rank]->what();
      if (rank != source_rank()) {
        EXPECT_EQ(filled_slots(objects_[rank]->module), 0U) << "rank " << rank;
        EXPECT_EQ(objects_[rank]->memory.accounted(), 0U) << "rank " << rank;
      }
    }
    if (errors[0]->code() == errc::source_consumed) {
      ++consumed_;
      EXPECT_EQ(filled_slots(source.module), 0U);
      EXPECT_EQ(source.memory.accounted(), 48U) << "the buffer that is not persistent keeps its values";
      model_.load(source.module, source.memory);
    } else {
      EXPECT_EQ(filled_slots(source.module), all_slots);
      EXPECT_EQ(source.memory.accounted(), accounted);
    }
    restart_counters(objects_);
    expect_success("second attempt");
  }

  reference_model model_ = small_model();
  std::size_t ranks_;
  bool releases_;
  std::uint64_t consumed_ = 0;
  rank_heaps heaps_;
  std::vector<std::unique_ptr<rank_objects<Space>>> objects_;
  std::optional<threads_world> world_;
};

template <class Policy>
void sweep_everything(bool releases) {
  std::uint64_t injections = 0;
  std::uint64_t consumed = 0;
  const auto add = [&](auto&& each) {
    injections += each.run();
    consumed += each.consumed();
  };
  add(sweep<Policy, host_memory>(2, releases));
  add(sweep<Policy, host_memory>(3, releases));
  add(sweep<Policy, fake_device_memory>(3, releases));
  std::printf("%llu injections, %llu of them after a part was released\n", static_cast<unsigned long long>(injections),
              static_cast<unsigned long long>(consumed));
  EXPECT_GT(injections, 300U / calls_per_injection);
  EXPECT_EQ(consumed > 20 / calls_per_injection, releases) << consumed;
}

TEST(ModuleStateFaultSweep, StateThatIsReleasedIsAllThereOrAllGoneAndEveryRankSaysSo) {
  sweep_everything<native_sharding<>>(true);
  sweep_everything<cpu_ram_efficient_loading<>>(true);
}

TEST(ModuleStateFaultSweep, StateThatIsKeptAllowsASecondAttemptWhateverFailed) {
  sweep_everything<native_sharding<>>(false);
  sweep_everything<cpu_ram_efficient_loading<>>(false);
}

TEST(ModuleStateHeapFaultSweep, AnExhaustedHeapLeavesAllOfTheStateOrNoneAndEveryRankSaysSo) {
  std::uint64_t injections = 0;
  std::uint64_t consumed = 0;
  const auto add = [&](auto&& each, std::uint64_t by_default) {
    injections += each.exhaust_heaps(allocations_per_injection(by_default));
    consumed += each.consumed();
  };
  add(sweep<native_sharding<>, host_memory>(2, true), 1);
  add(sweep<native_sharding<>, host_memory>(3, false), 11);
  add(sweep<cpu_ram_efficient_loading<>, host_memory>(3, true), 11);
  std::printf("%llu injections, %llu of them after a part was released\n", static_cast<unsigned long long>(injections),
              static_cast<unsigned long long>(consumed));
  EXPECT_GE(injections, heap_is_a_seam ? 300U / calls_per_injection : 0U);
}

}  // namespace
}  // namespace module_state_fault_sweep_test
