#include "mpi/worlds.hpp"
#include "support/heap_faults.hpp"
#include "support/heap_sweep.hpp"
#include "support/reference_model.hpp"
#include "support/test_checksum.hpp"
#include <fsdpinit/communicators/mpi.hpp>
#include <fsdpinit/engine/payload_link.hpp>
#include <fsdpinit/fsdpinit.hpp>
#include <fsdpinit/testing/corruption.hpp>
#include <fsdpinit/testing/faults.hpp>

#include <gtest/gtest.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

namespace initialize_test {
namespace {

using namespace fsdpinit;
using namespace fsdpinit::testing_support;
using fsdpinit::testing::bit_flip;
using fsdpinit::testing::call_counter;
using fsdpinit::testing::corrupting_communicator;
using fsdpinit::testing::faulty_module;
using fsdpinit::testing::faulty_observer;
using fsdpinit::testing::faulty_source;

/// Initialises and compares every byte with the element-by-element reference.
void expect_exact(const reference_model& model, mpi_communicator& world, const options& how) {
  SCOPED_TRACE(concat(how.policy->name, " ", name(how.policy->transport), ", ", world.size(), " ranks, buckets of ",
                      how.bucket_bytes, ", ", how.buckets_in_flight, " in flight, source ", how.source_rank, ", ",
                      how.replicas, " replicas"));
  const mesh grid{.shards = world.size() / how.replicas, .replicas = how.replicas};
  host_memory memory;
  dynamic_module module = model.module(memory, world.rank() == how.source_rank);
  const rank_report report = initialize(module, model.source(), world, how, {.memory = memory});
  EXPECT_EQ(model.faults_of(module, memory, grid.shards, grid.shard_of(world.rank())), "");
  EXPECT_EQ(report.bytes_read, report.predicted.bytes_read);
  EXPECT_EQ(report.bytes_sent, report.predicted.bytes_sent);
  EXPECT_EQ(report.bytes_received, report.predicted.bytes_received);
  EXPECT_EQ(report.accounted_peak_bytes, report.predicted.peak_bytes());
  EXPECT_EQ(memory.accounted(), report.predicted.slab_bytes) << "staging memory was not given back";
}

void expect_exact_with_every_policy(const reference_model& model, mpi_communicator& world, options how) {
  for (const policy& each :
       {policy_of<native_sharding<transport::scatter>>, policy_of<native_sharding<transport::broadcast>>,
        policy_of<native_sharding<transport::own_read>>, policy_of<native_sharding<transport::automatic>>,
        policy_of<every_rank_loads>}) {
    how.policy = each;
    expect_exact(model, world, how);
  }
}

TEST(MpiInitialize, EveryPolicyTransportAndBucketGivesTheSameBytes) {
  const reference_model model = varied_model();
  for_each_world([&](mpi_communicator& world) {
    for (const std::uint64_t bucket_bytes : {std::uint64_t{97}, std::uint64_t{509}, 4 * mib}) {
      expect_exact_with_every_policy(model, world, {.bucket_bytes = bucket_bytes});
    }
  });
}

TEST(MpiInitialize, AnyRankMayBeTheSourceWithAnyNumberOfBucketsInFlight) {
  const reference_model model = varied_model();
  for_each_world([&](mpi_communicator& world) {
    for (const std::size_t in_flight : {1U, 3U, 40U}) {
      const options how{.bucket_bytes = 211, .buckets_in_flight = in_flight, .source_rank = world.size() - 1};
      expect_exact_with_every_policy(model, world, how);
    }
  });
}

TEST(MpiInitialize, ReplicasGetTheSameBytes) {
  const reference_model model = varied_model();
  for_each_world([&](mpi_communicator& world) {
    for (const std::size_t replicas : {2U, 3U, 4U}) {
      if (world.size() % replicas == 0) {
        const options how{.bucket_bytes = 211, .source_rank = world.size() - 1, .replicas = replicas};
        expect_exact_with_every_policy(model, world, how);
      }
    }
  });
}

TEST(MpiInitialize, EachNodeMayHaveItsSource) {
  const reference_model model = varied_model();
  for_each_world([&](mpi_communicator& world) {
    const options how{
        .bucket_bytes = 300, .source_rank = world.size() - 1, .source_ranks = source_ranks::per_node, .replicas = 1};
    expect_exact_with_every_policy(model, world, how);
  });
}

/// Counts what is asked of it, as an adopter's may.
struct watched_memory : host_memory {
  std::shared_ptr<int> waits = std::make_shared<int>(0);
  void wait(queue& order) noexcept {
    ++*waits;
    host_memory::wait(order);
  }
};
/// Its blocks are special, as pinned ones are.
struct special_memory : host_memory {
  [[nodiscard]] std::byte* allocate(std::uint64_t bytes) { return host_memory::allocate(bytes); }
};

TEST(MpiInitialize, StagesWhereNodesShareMemoryUnlessTheSpaceHandsOutItsOwn) {
  for_each_world([](mpi_communicator& world) {
    const detail::payload_link_of link(world);
    EXPECT_TRUE(link.slots(memory_ref(host_memory())).is<mpi_staging_memory>());
    EXPECT_TRUE(link.slots(memory_ref(watched_memory())).is<mpi_staging_memory>());
    EXPECT_TRUE(link.slots(memory_ref(special_memory())).is<special_memory>());
  });
}

TEST(MpiInitialize, WhatArrivesIsVerified) {
  const reference_model model = varied_model();
  for_each_world([&](mpi_communicator& world) {
    for (const verification verify : {verification::transfer, verification::reread}) {
      options how{.bucket_bytes = 211, .verify = verify, .checksum = &test_checksum};
      expect_exact_with_every_policy(model, world, how);
      how.buckets_in_flight = 30;
      expect_exact_with_every_policy(model, world, how);
      how.source_ranks = source_ranks::per_node;
      expect_exact_with_every_policy(model, world, how);
      if (world.size() % 2 == 0) {
        how.replicas = 2;
        expect_exact_with_every_policy(model, world, how);
      }
    }
  });
}

TEST(MpiInitialize, AWrongBitOnOneRankIsTheSameErrorOnAll) {
  const reference_model model({{.fqn = "w", .type = dtype::u8, .extents = {64, 8}}});
  for_each_world([&](mpi_communicator& world) {
    if (world.size() == 1) {
      return;  // nothing is sent
    }
    const std::size_t last = world.size() - 1;
    const bit_flip flip{.bit = 5};
    if (world.rank() == last) {
      flip.counter.fail_at(0);
    }
    corrupting_communicator<mpi_communicator> data(world.split(0), flip);
    host_memory memory;
    dynamic_module module = model.module(memory, world.rank() == 0);
    std::optional<error> thrown;
    try {
      initialize(module, model.source(), channels{data, world},
                 {.bucket_bytes = 211, .verify = verification::transfer, .checksum = &test_checksum},
                 {.memory = memory});
    } catch (const error& caught) {
      thrown = caught;
    }
    ASSERT_TRUE(thrown.has_value());
    EXPECT_EQ(name(thrown->code()), name(errc::corrupted)) << thrown->what();
    EXPECT_EQ(thrown->rank(), static_cast<std::int32_t>(last)) << thrown->what();
  });
}

TEST(MpiInitialize, AModulesOwnStateMayBeTheSource) {
  const reference_model model = varied_model();
  for_each_world([&](mpi_communicator& world) {
    host_memory memory;
    dynamic_module module = model.module(memory, world.rank() == 0);
    if (world.rank() == 0) {
      model.load(module, memory);
    }
    const rank_report report = initialize(module, module_state{}, world, {.bucket_bytes = 200}, {.memory = memory});
    EXPECT_EQ(model.faults_of(module, memory, world.size(), world.rank()), "");
    EXPECT_EQ(memory.accounted(), report.predicted.slab_bytes);
  });
}

TEST(MpiInitialize, BucketsBeyondTheWindowTravelAsMessages) {
  std::vector<reference_tensor> tensors;
  for (int i = 0; i < 3; ++i) {
    tensors.push_back({.fqn = concat("layers.", i, ".up"), .type = dtype::bf16, .extents = {1021, 2048}});
  }
  const reference_model model(std::move(tensors));
  mpi_communicator world(MPI_COMM_WORLD, {.staging_bytes = 1 * mib});
  expect_exact_with_every_policy(model, world, {});
}

TEST(MpiInitialize, DataAndControlMayBeTwoCommunicators) {
  const reference_model model = varied_model();
  mpi_communicator data;
  mpi_communicator control;
  host_memory memory;
  dynamic_module module = model.module(memory, data.rank() == 0);
  initialize(module, model.source(), channels{data, control}, {.bucket_bytes = 300}, {.memory = memory});
  EXPECT_EQ(model.faults_of(module, memory, data.size(), data.rank()), "");
}

TEST(MpiInitialize, TwoAtOnceOnTwoCommunicators) {
  const reference_model model = varied_model();
  const mpi_options how{.concurrent = true};
  mpi_communicator first(MPI_COMM_WORLD, how);
  mpi_communicator second(MPI_COMM_WORLD, how);
  const auto work = [&](mpi_communicator& world) {
    for (int round = 0; round < 5; ++round) {
      expect_exact(model, world, {.policy = policy_of<native_sharding<>>, .bucket_bytes = 150});
    }
  };
  std::thread other([&] { work(second); });
  work(first);
  other.join();
}

/// What may fail on one rank while its peers are alive.
enum seam : std::size_t { source_seam, module_seam, observer_seam, seams };
constexpr std::array<std::string_view, seams> seam_names{"source", "module", "observer"};

template <class Policy>
class failing_call {
 public:
  failing_call(mpi_communicator& world, const reference_model& model) : world_(world), model_(model) {}

  /// The calls of a clean run at every seam of every rank; equal on all ranks.
  std::vector<std::array<std::uint64_t, seams>> clean_run() {
    EXPECT_FALSE(attempt_once().has_value());
    std::vector<std::array<std::uint64_t, seams>> calls(world_.size());
    for (std::size_t rank = 0; rank < world_.size(); ++rank) {
      for (std::size_t at = 0; at < seams; ++at) {
        calls[rank][at] = world_.all_reduce_max(world_.rank() == rank ? counters_[at].calls() : 0);
      }
    }
    return calls;
  }

  void expect_agreed(std::size_t failing, std::size_t at, std::uint64_t call, bool apart) {
    SCOPED_TRACE(concat("call ", call, " of the ", seam_names[at], " fails on rank ", failing,
                        apart ? ", data and control on two communicators" : ""));
    data_ = apart ? &second_ : &world_;
    module_ = model_.module(memory_, world_.rank() == source_rank());
    const std::uint64_t accounted = memory_.accounted();
    restart();
    if (world_.rank() == failing) {
      counters_[at].fail_at(call);
    }
    const std::optional<error> got = attempt_once();
    ASSERT_TRUE(got.has_value()) << "did not notice";
    EXPECT_EQ(got->rank(), static_cast<std::int32_t>(failing)) << got->what();
    EXPECT_EQ(got->text().find("injected"), 0U) << got->what();
    EXPECT_EQ(memory_.accounted(), accounted);
    expect_success();
  }

  /// \return whether the allocation was asked for; the same on every rank.
  bool exhaust_heap(std::size_t failing, std::uint64_t call, heap_fault how) {
    SCOPED_TRACE(concat("allocation ", call, " of rank ", failing, name(how)));
    module_ = model_.module(memory_, world_.rank() == source_rank());
    const std::uint64_t accounted = memory_.accounted();
    restart();
    heaps_.fail(failing, call, how);
    const std::optional<error> got = attempt_once();
    const bool reached = world_.all_reduce_max(heaps_.has_failed() ? 1 : 0) != 0;
    heaps_.mend();
    if (got) {
      EXPECT_EQ(name(got->code()), name(errc::out_of_memory)) << got->what();
      EXPECT_EQ(got->rank(), static_cast<std::int32_t>(failing)) << got->what();
      EXPECT_EQ(memory_.accounted(), accounted);
    }
    const std::uint64_t failed = world_.all_reduce_max(got ? 1 : 0);
    EXPECT_EQ(failed, got ? 1U : 0U) << "did not notice";
    if (failed != 0) {
      expect_success();
    } else {
      EXPECT_EQ(model_.faults_of(module_, memory_, world_.size(), world_.rank()), "");
    }
    return reached;
  }

 private:
  void expect_success() {
    restart();
    const std::optional<error> again = attempt_once();
    ASSERT_FALSE(again.has_value()) << again->what();
    EXPECT_EQ(model_.faults_of(module_, memory_, world_.size(), world_.rank()), "");
  }
  [[nodiscard]] std::size_t source_rank() const { return world_.size() - 1; }
  void restart() {
    for (const call_counter& each : counters_) {
      each.restart();
    }
  }
  std::optional<error> attempt_once() {
    return attempt([&] {
      faulty_source source(model_.source(), counters_[source_seam]);
      faulty_module module(module_, counters_[module_seam]);
      heaps_.on(world_.rank(), [&] {
        return initialize<Policy>(
            module, source, channels{*data_, world_},
            {.bucket_bytes = 40, .source_rank = source_rank(), .deadline_seconds = 20, .progress_interval_seconds = 0},
            {.memory = memory_, .observer = faulty_observer(counters_[observer_seam])});
      });
    });
  }

  mpi_communicator& world_;
  mpi_communicator second_ = world_.split(0);
  mpi_communicator* data_ = &world_;
  const reference_model& model_;
  host_memory memory_;
  dynamic_module module_ = model_.module(memory_, world_.rank() == source_rank());
  std::array<call_counter, seams> counters_;
  rank_heaps heaps_;
};

reference_model failing_model() {
  return reference_model({
      {.fqn = "embed", .type = dtype::bf16, .extents = {9, 5}, .tied = {"head"}, .stored_as = {"head", "embed"}},
      {.fqn = "rope", .type = dtype::f32, .extents = {4, 3}, .role = slot_role::non_persistent_buffer},
      {.fqn = "layers.0.up", .type = dtype::u8, .extents = {2, 24}, .how = shard{1}},
      {.fqn = "layers.1.norm", .type = dtype::u8, .extents = {40}, .how = replicate{}},
  });
}

/// All calls, one after the other, where ranks share memory; of the other ways that payload takes a sample, for messages cost
/// time.
template <class Policy>
void expect_agreed_failures() {
  const reference_model model = failing_model();
  std::uint64_t injections = 0;
  std::uint64_t every = 1;
  for_each_world([&](mpi_communicator& world) {
    failing_call<Policy> calls(world, model);
    const auto clean = calls.clean_run();
    std::uint64_t number = 0;
    for (std::size_t rank = 0; rank < clean.size(); ++rank) {
      for (std::size_t at = 0; at < seams; ++at) {
        for (std::uint64_t call = 0; call < clean[rank][at] && !::testing::Test::HasFatalFailure(); ++call) {
          if (number++ % every == 0) {
            calls.expect_agreed(rank, at, call, injections % 2 == 1);
            ++injections;
          }
        }
      }
    }
    every = 5;
  });
  EXPECT_GT(injections, 30U);
  ::testing::Test::RecordProperty("injections", std::to_string(injections));
}

TEST(MpiInitialize, AnyCallThatFailsOnAnyRankIsTheSameErrorEverywhereUnderScatter) {
  expect_agreed_failures<native_sharding<transport::scatter>>();
}

TEST(MpiInitialize, AnyCallThatFailsOnAnyRankIsTheSameErrorEverywhereUnderOwnReads) {
  expect_agreed_failures<native_sharding<transport::own_read>>();
}

TEST(MpiInitialize, AnyCallThatFailsOnAnyRankIsTheSameErrorEverywhereUnderBroadcast) {
  expect_agreed_failures<native_sharding<transport::broadcast>>();
}

/// What MPI itself allocates, by malloc, is not among them.
TEST(MpiInitialize, AnExhaustedHeapOnAnyRankIsTheSameErrorEverywhere) {
  if (!heap_is_a_seam) {
    GTEST_SKIP() << "the heap is no seam under this sanitizer";
  }
  const reference_model model = failing_model();
  const std::uint64_t every = allocations_per_injection(5);
  std::uint64_t injections = 0;
  for_each_world([&](mpi_communicator& world) {
    failing_call<native_sharding<>> calls(world, model);
    static_cast<void>(calls.clean_run());
    for (const heap_fault how : {heap_fault::once, heap_fault::exhausted}) {
      for (std::size_t rank = 0; rank < world.size(); ++rank) {
        for (std::uint64_t call = injections % every; calls.exhaust_heap(rank, call, how); call += every) {
          ++injections;
          if (::testing::Test::HasFatalFailure()) {
            return;
          }
        }
      }
    }
  });
  EXPECT_GT(injections, 10U / calls_per_injection);
  RecordProperty("injections", std::to_string(injections));
}

}  // namespace
}  // namespace initialize_test
