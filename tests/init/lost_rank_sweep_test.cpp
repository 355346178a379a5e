#include "support/fault_sweep.hpp"
#include "support/reference_model.hpp"
#include <fsdpinit/core/deadline.hpp>
#include <fsdpinit/fsdpinit.hpp>
#include <fsdpinit/testing/rank_harness.hpp>
#include <fsdpinit/testing/stalls.hpp>

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

/// \file
/// A rank stops in front of each of its calls in turn. For a moment: nobody minds. For good: the others end with peer_lost, in time.

namespace lost_rank_sweep_test {
namespace {

using namespace fsdpinit;
using namespace fsdpinit::testing_support;
using fsdpinit::testing::call_counter;
using fsdpinit::testing::errors_of_ranks;
using fsdpinit::testing::stall_point;
using fsdpinit::testing::stalling_communicator;

constexpr double deadline_of_the_lost = 0.2;
/// What survivors may take beyond their deadline. All but nothing on a quiet machine.
constexpr double grace = 5;

reference_model small_model() {
  return reference_model({
      {.fqn = "embed", .type = dtype::bf16, .extents = {9, 5}, .tied = {"head"}},
      {.fqn = "rope", .type = dtype::f32, .extents = {4, 3}, .role = slot_role::non_persistent_buffer},
      {.fqn = "layers.0.up", .type = dtype::u8, .extents = {2, 24}, .how = shard{1}},
      {.fqn = "layers.1.up", .type = dtype::u8, .extents = {2, 24}, .how = shard{1}},
  });
}

/// `native_sharding<...>` and `every_rank_loads` from a checkpoint.
template <class Policy>
struct from_checkpoint {
  template <class Comm>
  static void run(dynamic_module& module, const reference_model& model, Comm& comm, const options& how,
                  host_memory& memory) {
    initialize<Policy>(module, model.source(), comm, how, {.memory = memory});
  }
};

/// `cpu_ram_efficient_loading`, both halves.
struct load_and_prepare {
  template <class Comm>
  static void run(dynamic_module& module, const reference_model& model, Comm& comm, const options& how,
                  host_memory& memory) {
    load_pretrained(module, model.source(), comm, {.active = true, .source_rank = how.source_rank},
                    {.deadline_seconds = how.deadline_seconds}, {.memory = memory});
    prepare(module, comm, how, {.memory = memory});
  }
};

template <class Way>
class stall_sweep {
 public:
  explicit stall_sweep(std::size_t ranks) : ranks_(ranks) {}

  /// Stops every rank at every call, `each`th ones. \return how many times.
  std::uint64_t run(bool for_good, std::uint64_t each) {
    std::vector<std::pair<std::size_t, std::uint64_t>> stalls;
    std::uint64_t counted = each - (each == 1 ? 0 : test_seed() % each);
    for (std::size_t rank = 0; rank < ranks_; ++rank) {
      const std::uint64_t calls = count_calls(rank);
      for (std::uint64_t call = 0; call < calls; ++call) {
        if (counted++ % each == 0) {
          stalls.emplace_back(rank, call);
        }
      }
    }
    // Nearly all of the time is spent waiting: many at once.
    std::atomic<std::size_t> next = 0;
    std::vector<std::thread> workers;
    for (int i = 0; i < (for_good ? 24 : 4); ++i) {
      workers.emplace_back([&] {
        for (std::size_t at = next++; at < stalls.size() && !::testing::Test::HasFailure(); at = next++) {
          const auto& [rank, call] = stalls[at];
          for_good ? expect_peer_lost(rank, call) : expect_patience(rank, call);
        }
      });
    }
    for (std::thread& worker : workers) {
      worker.join();
    }
    return stalls.size();
  }

 private:
  struct outcome {
    std::vector<std::optional<error>> errors;
    double survivors_seconds = 0;
    std::size_t wrong = 0;  // modules that hold other bytes than they should
  };

  outcome attempt(std::size_t stopping, const stall_point& point, double deadline_seconds) const {
    outcome got;
    const double began = monotonic_seconds();
    std::vector<double> ended(ranks_, began);
    std::atomic<std::size_t> left = ranks_ - 1;
    std::atomic<std::size_t> wrong = 0;
    const threads_world world(ranks_);
    got.errors = errors_of_ranks(world, [&](std::size_t rank, threads_communicator& comm) {
      const stall_point none({}, 0);
      stalling_communicator<threads_communicator> mine(comm, rank == stopping ? point : none);
      host_memory memory;
      dynamic_module module = model_.module(memory, rank == ranks_ - 1);
      const auto sign_off = [&] {
        ended[rank] = rank == stopping ? began : monotonic_seconds();
        if (rank != stopping && --left == 0) {
          point.release();
        }
      };
      try {
        Way::run(module, model_, mine,
                 {.bucket_bytes = 25, .source_rank = ranks_ - 1, .deadline_seconds = deadline_seconds}, memory);
      } catch (...) {
        sign_off();
        throw;
      }
      sign_off();
      wrong += model_.faults_of(module, memory, ranks_, rank).empty() ? 0 : 1;
    });
    got.survivors_seconds = *std::max_element(ended.begin(), ended.end()) - began;
    got.wrong = wrong;
    return got;
  }

  std::uint64_t count_calls(std::size_t rank) const {
    const call_counter counter;
    const outcome clean = attempt(rank, stall_point(counter, 0), 60);
    for (const auto& each : clean.errors) {
      EXPECT_FALSE(each.has_value()) << each->what();
    }
    return counter.calls();
  }

  void expect_peer_lost(std::size_t rank, std::uint64_t call) const {
    const call_counter counter;
    counter.fail_at(call);
    const outcome got = attempt(rank, stall_point(counter, 60), deadline_of_the_lost);
    const std::string where = concat("rank ", rank, " of ", ranks_, " stopped at call ", call);
    EXPECT_LT(got.survivors_seconds, deadline_of_the_lost + grace) << where;
    for (std::size_t other = 0; other < ranks_; ++other) {
      const std::optional<error>& thrown = got.errors[other];
      if (other == rank) {
        continue;  // it comes back to a world that has given up on it
      }
      ASSERT_TRUE(thrown.has_value()) << where << ": rank " << other << " did not notice";
      EXPECT_EQ(name(thrown->code()), name(errc::peer_lost)) << where << ", rank " << other << ": " << thrown->what();
    }
  }

  void expect_patience(std::size_t rank, std::uint64_t call) const {
    const call_counter counter;
    counter.fail_at(call);
    const outcome got = attempt(rank, stall_point(counter, 0.02), 60);
    for (const auto& each : got.errors) {
      EXPECT_FALSE(each.has_value()) << "rank " << rank << " was late at call " << call << ": " << each->what();
    }
    EXPECT_EQ(got.wrong, 0U);
  }

  reference_model model_ = small_model();
  std::size_t ranks_;
};

template <class Way>
void sweep(bool for_good, std::uint64_t each) {
  std::uint64_t stalls = 0;
  for (const std::size_t ranks : {2U, 3U, 4U}) {
    stalls += stall_sweep<Way>(ranks).run(for_good, each);
  }
  std::printf("%llu times a rank %s\n", static_cast<unsigned long long>(stalls), for_good ? "was lost" : "was late");
  EXPECT_GT(stalls, 120U / each);
}

/// All calls; with sanitizers a sample.
constexpr std::uint64_t every_one = is_sanitized ? 16 : 1;

TEST(LostRank, EndsTheOthersUnderScatter) {
  sweep<from_checkpoint<native_sharding<transport::scatter>>>(true, every_one);
}
TEST(LostRank, EndsTheOthersUnderBroadcast) {
  sweep<from_checkpoint<native_sharding<transport::broadcast>>>(true, every_one);
}
TEST(LostRank, EndsTheOthersUnderOwnReads) {
  sweep<from_checkpoint<native_sharding<transport::own_read>>>(true, every_one);
}
TEST(LostRank, EndsTheOthersUnderAutomatic) {
  sweep<from_checkpoint<native_sharding<transport::automatic>>>(true, every_one);
}
TEST(LostRank, EndsTheOthersWhereEveryRankLoads) { sweep<from_checkpoint<every_rank_loads>>(true, every_one); }
TEST(LostRank, EndsTheOthersUnderCpuRamEfficientLoading) { sweep<load_and_prepare>(true, every_one); }

TEST(LateRank, IsWaitedForUnderScatter) {
  sweep<from_checkpoint<native_sharding<transport::scatter>>>(false, every_one);
}
TEST(LateRank, IsWaitedForUnderBroadcast) {
  sweep<from_checkpoint<native_sharding<transport::broadcast>>>(false, every_one);
}
TEST(LateRank, IsWaitedForUnderOwnReads) {
  sweep<from_checkpoint<native_sharding<transport::own_read>>>(false, every_one);
}
TEST(LateRank, IsWaitedForUnderAutomatic) {
  sweep<from_checkpoint<native_sharding<transport::automatic>>>(false, every_one);
}
TEST(LateRank, IsWaitedForWhereEveryRankLoads) { sweep<from_checkpoint<every_rank_loads>>(false, every_one); }
TEST(LateRank, IsWaitedForUnderCpuRamEfficientLoading) { sweep<load_and_prepare>(false, every_one); }

}  // namespace
}  // namespace lost_rank_sweep_test
