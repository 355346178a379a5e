#include "support/adamw.hpp"
#include "support/fake_cuda.hpp"
#include "support/fault_sweep.hpp"
#include "support/heap_faults.hpp"
#include "support/heap_sweep.hpp"
#include "support/reference_model.hpp"
#include "support/test_checksum.hpp"
#include <fsdpinit/fsdpinit.hpp>
#include <fsdpinit/init/fingerprint.hpp>
#include <fsdpinit/memory/cuda_memory.hpp>
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
#include <type_traits>
#include <utility>
#include <vector>

namespace fault_sweep_test {
namespace {

using namespace fsdpinit;
using namespace fsdpinit::testing_support;
using fsdpinit::testing::errors_of_ranks;
using fsdpinit::testing::fake_cuda;
using fsdpinit::testing::faulty_communicator;
using fsdpinit::testing::faulty_memory;
using fsdpinit::testing::faulty_module;
using fsdpinit::testing::faulty_observer;
using fsdpinit::testing::faulty_optimizer;
using fsdpinit::testing::faulty_source;

/// The seams at which a call may fail.
enum seam : std::size_t {
  source_seam,
  memory_seam,
  cuda_seam,
  module_seam,
  observer_seam,
  optimizer_seam,
  data_seam,
  control_seam,
  seams
};
constexpr std::array<std::string_view, seams> seam_names{"source",   "memory",    "CUDA runtime", "module",
                                                         "observer", "optimizer", "data",         "control"};

/// Shards of every kind, buffers of both, a tie stored twice, and three buckets or more of each kind.
reference_model small_model() {
  return reference_model({
      {.fqn = "embed", .type = dtype::bf16, .extents = {9, 5}, .tied = {"head"}, .stored_as = {"head", "embed"}},
      {.fqn = "rope", .type = dtype::f32, .extents = {4, 3}, .role = slot_role::non_persistent_buffer},
      {.fqn = "mean", .type = dtype::f32, .extents = {15}, .role = slot_role::persistent_buffer},
      {.fqn = "layers.0.up", .type = dtype::u8, .extents = {2, 24}, .how = shard{1}},
      {.fqn = "layers.1.up", .type = dtype::u8, .extents = {2, 24}, .how = shard{1}},
  });
}

using fake_cuda_memory = basic_cuda_memory<fake_cuda>;

/// The same memory for the test's own copies, which no seam counts.
template <class Space>
Space uncounted(const Space& memory) {
  return memory;
}
template <>
fake_cuda_memory uncounted(const fake_cuda_memory& memory) {
  fake_cuda cuda = memory.cuda();
  cuda.calls = fsdpinit::testing::call_counter();
  return fake_cuda_memory(memory.device(), cuda);
}

/// One rank's objects, kept from the first attempt to the second.
template <class Space>
struct rank_objects {
  rank_objects(const reference_model& reference, bool is_source)
      : module(reference.module(copies, is_source)), source(reference.source(), counters[source_seam]) {
    if constexpr (std::is_same_v<Space, fake_cuda_memory>) {
      counters[cuda_seam] = memory.cuda().calls;
    }
    // Parameters begin with storage of their own, so that "untouched" and "on meta" can be told apart.
    module.visit_slots([&](std::string_view, auto& slot) {
      if (slot.is_meta()) {
        slot.adopt({.shape = slot.shape(), .offset = 0, .bytes = 1, .data = marker});
      }
    });
  }

  seam_counters<seams> counters;
  Space memory;
  Space copies = uncounted(memory);
  std::shared_ptr<std::byte> marker = std::make_shared<std::byte>();
  dynamic_module module;
  adamw optimizer{{adamw::group{}}, 8};
  faulty_source<in_memory_source> source;
};

enum class slots_state { untouched, on_meta, mixed };

/// Of parameters and persistent buffers.
template <class Space>
slots_state state_of(rank_objects<Space>& objects) {
  std::size_t untouched = 0;
  std::size_t on_meta = 0;
  std::size_t slots = 0;
  objects.module.visit_slots([&](std::string_view, auto& slot) {
    if (slot_traits<std::remove_cvref_t<decltype(slot)>>::role(slot) == slot_role::non_persistent_buffer) {
      return;
    }
    ++slots;
    untouched += !slot.is_meta() && slot.local().data == objects.marker ? 1 : 0;
    on_meta += slot.is_meta() ? 1 : 0;
  });
  return untouched == slots ? slots_state::untouched : on_meta == slots ? slots_state::on_meta : slots_state::mixed;
}

template <class Policy, class Space>
class sweep {
 public:
  /// `one_world`: data and control travel on one communicator, else on two.
  sweep(std::size_t ranks, bool one_world, std::size_t replicas = 1, verification verify = verification::off)
      : ranks_(ranks),
        one_world_(one_world),
        grid_{.shards = ranks / replicas, .replicas = replicas},
        verify_(verify) {}

  /// Returns the number of injections.
  std::uint64_t run() {
    make_objects();
    expect_success("clean run");
    return for_each_counted_call(objects_, [&](std::size_t rank, std::size_t at, std::uint64_t call) {
      inject(rank, static_cast<seam>(at), call);
    });
  }

  /// The same of allocations, one in `each`.
  std::uint64_t exhaust_heaps(std::uint64_t each) {
    return for_each_allocation(ranks_, each, [&](std::size_t rank, std::uint64_t call, heap_fault how) {
      return exhaust_heap(rank, call, how);
    });
  }

 private:
  /// What was on a device has been given back, and nothing done wrong on it.
  void drop_objects() {
    if constexpr (std::is_same_v<Space, fake_cuda_memory>) {
      std::vector<fake_cuda> devices;
      for (const auto& rank : objects_) {
        devices.push_back(rank->memory.cuda());
      }
      objects_.clear();
      for (const fake_cuda& device : devices) {
        EXPECT_EQ(device.left(), 0U);
        EXPECT_EQ(device.faults(), std::vector<std::string>{});
      }
    }
    objects_.clear();
  }
  void make_objects() {
    drop_objects();
    for (std::size_t rank = 0; rank < ranks_; ++rank) {
      objects_.push_back(std::make_unique<rank_objects<Space>>(model_, rank == source_rank()));
    }
    restart_counters(objects_);
    data_.emplace(ranks_);
    control_.emplace(ranks_);
  }
  [[nodiscard]] std::size_t source_rank() const { return ranks_ - 1; }

  std::vector<std::optional<error>> attempt_all() {
    return errors_of_ranks(*data_, [&](std::size_t rank, threads_communicator& data) {
      rank_objects<Space>& mine = *objects_[rank];
      threads_communicator control = one_world_ ? data : control_->rank(rank);
      faulty_communicator faulty_data(data, mine.counters[data_seam]);
      faulty_communicator faulty_control(control, mine.counters[control_seam]);
      faulty_module module(mine.module, mine.counters[module_seam]);
      // Much longer than any step takes, much shorter than the harness waits: a rank left alone shows as peer_lost.
      const options how{.bucket_bytes = 25,
                        .source_rank = source_rank(),
                        .replicas = grid_.replicas,
                        .verify = verify_,
                        .checksum = &test_checksum,
                        .deadline_seconds = 10,
                        .progress_interval_seconds = 0};
      const rank_report report = heaps_.on(rank, [&] {
        return initialize<Policy>(
            module, mine.source, channels{faulty_data, faulty_control}, how,
            {.memory = faulty_memory<Space>(mine.memory, mine.counters[memory_seam]),
             .observer = faulty_observer(mine.counters[observer_seam]),
             .optimizer = {module, faulty_optimizer(mine.optimizer, mine.counters[optimizer_seam])}});
      });
      EXPECT_EQ(report.accounted_peak_bytes, report.predicted.peak_bytes());
    });
  }

  void expect_success(std::string_view what) { expect_success(attempt_all(), what); }
  void expect_success(const std::vector<std::optional<error>>& errors, std::string_view what) {
    for (std::size_t rank = 0; rank < ranks_; ++rank) {
      rank_objects<Space>& mine = *objects_[rank];
      ASSERT_FALSE(errors[rank].has_value()) << what << ", rank " << rank << ": " << errors[rank]->what();
      EXPECT_EQ(model_.faults_of(mine.module, mine.copies, grid_.shards, grid_.shard_of(rank)), "")
          << what << ", rank " << rank;
      const parameter& embedding = mine.module.get_parameter("embed");
      EXPECT_EQ(mine.optimizer.address_of(embedding), embedding.data()) << what << ", rank " << rank;
    }
  }

  [[nodiscard]] std::string setting() const {
    return concat(Policy::name, " ", name(Policy::transport), Space::host_accessible ? ", host" : ", device", ", ",
                  ranks_, " ranks, ", grid_.replicas, " replicas", one_world_ ? ", on one world" : "", ", verify ",
                  name(verify_));
  }

  void inject(std::size_t failing, seam at, std::uint64_t call) {
    SCOPED_TRACE(concat(setting(), ": call ", call, " of the ", seam_names[at], " fails on rank ", failing));
    make_objects();
    objects_[failing]->counters[at].fail_at(call);
    const std::vector<std::uint64_t> accounted = accounted_by_rank();
    if (keeps_from_reading_alone(failing, at, call)) {
      expect_success("the source rank reads for all");
      ASSERT_TRUE(objects_[failing]->counters[at].has_failed());
      drop_objects();
      return;
    }
    const auto errors = attempt_all();
    ASSERT_TRUE(objects_[failing]->counters[at].has_failed());
    expect_injected_error(errors, failing);
    EXPECT_EQ(errors[failing]->native_code(), at == source_seam ? 5 : at == cuda_seam ? fake_cuda::injected : 0);
    expect_recovery(accounted);
  }

  /// \return whether the allocation was asked for.
  bool exhaust_heap(std::size_t failing, std::uint64_t call, heap_fault how) {
    SCOPED_TRACE(concat(setting(), ": allocation ", call, " of rank ", failing, name(how)));
    make_objects();
    heaps_.fail(failing, call, how);
    const std::vector<std::uint64_t> accounted = accounted_by_rank();
    const double began = monotonic_seconds();
    const auto errors = attempt_all();
    EXPECT_LT(monotonic_seconds() - began, 5) << "half of the deadline";
    const bool reached = heaps_.has_failed();
    heaps_.mend();
    if (!errors[failing]) {  // the last one; or what can do without, as a sort can
      expect_success(errors, "nevertheless");
    } else {
      expect_exhausted_heap(errors, failing);
      expect_recovery(accounted);
    }
    drop_objects();
    return reached;
  }

  [[nodiscard]] std::vector<std::uint64_t> accounted_by_rank() const {
    std::vector<std::uint64_t> out;
    for (const auto& rank : objects_) {
      out.push_back(rank->memory.accounted());
    }
    return out;
  }

  /// All modules are untouched or all are on meta, the memory is back, and a second attempt gives the right bytes.
  void expect_recovery(const std::vector<std::uint64_t>& accounted) {
    const slots_state state = state_of(*objects_[0]);
    EXPECT_NE(state, slots_state::mixed);
    for (std::size_t rank = 0; rank < ranks_; ++rank) {
      EXPECT_EQ(state_of(*objects_[rank]), state) << "rank " << rank;
      EXPECT_EQ(objects_[rank]->memory.accounted(), accounted[rank]) << "rank " << rank;
    }
    restart_counters(objects_);
    expect_success("second attempt");
    drop_objects();
  }

  /// Is it a sample that a rank cannot read which automatic would let read by itself?
  [[nodiscard]] bool keeps_from_reading_alone(std::size_t failing, seam at, std::uint64_t call) const {
    const bool is_choice = Policy::transport == transport::automatic && verify_ != verification::reread;
    const state_dict_contents contents = fsdpinit::detail::contents_of(model_.source());
    return is_choice && at == source_seam && failing != source_rank() &&
           call < fsdpinit::detail::sample_places(contents).size();
  }

  reference_model model_ = small_model();
  std::size_t ranks_;
  bool one_world_;
  mesh grid_;
  verification verify_;
  rank_heaps heaps_;
  std::vector<std::unique_ptr<rank_objects<Space>>> objects_;
  std::optional<threads_world> data_;
  std::optional<threads_world> control_;
};

template <class Policy>
void sweep_everything() {
  std::uint64_t injections = 0;
  injections += sweep<Policy, host_memory>(2, true).run();
  injections += sweep<Policy, host_memory>(3, false).run();
  injections += sweep<Policy, host_memory>(4, true).run();
  injections += sweep<Policy, fake_cuda_memory>(3, true).run();
  injections += sweep<Policy, fake_cuda_memory>(2, false).run();
  injections += sweep<Policy, host_memory>(3, true, 1, verification::reread).run();
  injections += sweep<Policy, fake_cuda_memory>(2, true, 1, verification::transfer).run();
  if (Policy::transport != transport::none) {
    injections += sweep<Policy, host_memory>(4, true, 2).run();
    injections += sweep<Policy, fake_cuda_memory>(2, true, 2).run();
  }
  std::printf("%llu injections\n", static_cast<unsigned long long>(injections));
  EXPECT_GT(injections, 500U / calls_per_injection);
}

TEST(FaultSweep, AnyCallThatFailsOnAnyRankIsTheSameErrorEverywhereUnderScatter) {
  sweep_everything<native_sharding<transport::scatter>>();
}

TEST(FaultSweep, AnyCallThatFailsOnAnyRankIsTheSameErrorEverywhereUnderBroadcast) {
  sweep_everything<native_sharding<transport::broadcast>>();
}

TEST(FaultSweep, AnyCallThatFailsOnAnyRankIsTheSameErrorEverywhereUnderOwnReads) {
  sweep_everything<native_sharding<transport::own_read>>();
}

TEST(FaultSweep, AnyCallThatFailsOnAnyRankIsTheSameErrorEverywhereUnderAutomatic) {
  sweep_everything<native_sharding<transport::automatic>>();
}

TEST(FaultSweep, AnyCallThatFailsOnAnyRankIsTheSameErrorEverywhereWhereEveryRankLoads) {
  sweep_everything<every_rank_loads>();
}

/// Every allocation of two ranks; of larger worlds, replicas and verification a sample.
template <class Policy>
void exhaust_every_heap() {
  std::uint64_t injections = 0;
  injections += sweep<Policy, host_memory>(2, true).exhaust_heaps(allocations_per_injection(1));
  injections += sweep<Policy, host_memory>(3, false).exhaust_heaps(allocations_per_injection(11));
  injections +=
      sweep<Policy, host_memory>(3, true, 1, verification::reread).exhaust_heaps(allocations_per_injection(11));
  if (Policy::transport != transport::none) {
    injections += sweep<Policy, host_memory>(4, true, 2).exhaust_heaps(allocations_per_injection(11));
  }
  std::printf("%llu injections\n", static_cast<unsigned long long>(injections));
  EXPECT_GE(injections, heap_is_a_seam ? 400U / calls_per_injection : 0U);
}

TEST(HeapFaultSweep, AnExhaustedHeapOnAnyRankIsTheSameErrorEverywhereUnderScatter) {
  exhaust_every_heap<native_sharding<transport::scatter>>();
}

TEST(HeapFaultSweep, AnExhaustedHeapOnAnyRankIsTheSameErrorEverywhereUnderBroadcast) {
  exhaust_every_heap<native_sharding<transport::broadcast>>();
}

TEST(HeapFaultSweep, AnExhaustedHeapOnAnyRankIsTheSameErrorEverywhereUnderOwnReads) {
  exhaust_every_heap<native_sharding<transport::own_read>>();
}

TEST(HeapFaultSweep, AnExhaustedHeapOnAnyRankIsTheSameErrorEverywhereUnderAutomatic) {
  exhaust_every_heap<native_sharding<transport::automatic>>();
}

TEST(HeapFaultSweep, AnExhaustedHeapOnAnyRankIsTheSameErrorEverywhereWhereEveryRankLoads) {
  exhaust_every_heap<every_rank_loads>();
}

/// The call as most programs make it: what it makes by itself, the memory space first of all, is made where ranks can agree.
TEST(HeapFaultSweep, ACallThatNamesNoMemoryMakesItWhereRanksAgree) {
  const reference_model model = small_model();
  rank_heaps heaps;
  const auto attempt_all = [&] {
    return errors_of_ranks(2, [&](std::size_t rank, threads_communicator& world) {
      host_memory memory;
      dynamic_module module = model.module(memory, rank == 1);
      in_memory_source source = model.source();
      const options how{.source_rank = 1, .deadline_seconds = 10};
      heaps.on(rank, [&] { return initialize(module, source, world, how); });
      EXPECT_EQ(model.faults_of(module, memory, 2, rank), "");
    });
  };
  const std::uint64_t injections = for_each_allocation(2, 1, [&](std::size_t rank, std::uint64_t call, heap_fault how) {
    SCOPED_TRACE(concat("allocation ", call, " of rank ", rank, name(how)));
    heaps.fail(rank, call, how);
    const auto errors = attempt_all();
    if (errors[rank]) {
      expect_exhausted_heap(errors, rank);
    }
    return heaps.has_failed();
  });
  std::printf("%llu injections\n", static_cast<unsigned long long>(injections));
  EXPECT_GE(injections, heap_is_a_seam ? 200U : 0U);
}

}  // namespace
}  // namespace fault_sweep_test
