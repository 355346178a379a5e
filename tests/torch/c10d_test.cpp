#include "support/expect_error.hpp"
#include "support/expect_predicted.hpp"
#include "support/reference_model.hpp"
#include "torch/gloo_ranks.hpp"
#include <fsdpinit/adapters/c10d_communicator.hpp>
#include <fsdpinit/adapters/c10d_store_control.hpp>
#include <fsdpinit/fsdpinit.hpp>
#include <fsdpinit/testing/faults.hpp>
#include <fsdpinit/testing/laws.hpp>
#include <fsdpinit/testing/rank_harness.hpp>

#include <gtest/gtest.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>

namespace c10d_test {
namespace {

using namespace fsdpinit;
using namespace fsdpinit::testing_support;
using fsdpinit::testing::call_counter;
using fsdpinit::testing::check_communicator;
using fsdpinit::testing::faulty_source;
using fsdpinit::testing::violations;

using communicator = c10d_communicator<gloo_group>;
static_assert(C10dProcessGroup<gloo_group> && C10dProcessGroup<c10d::ProcessGroup>);
static_assert(GroupCommunicator<communicator> && CollectiveCommunicator<communicator> &&
              !InterruptibleCommunicator<communicator>);

TEST(C10d, KeepsTheLawsOverGloo) {
  for (const std::size_t ranks : {1U, 2U, 3U, 4U}) {
    SCOPED_TRACE(ranks);
    run_gloo_ranks(ranks, [](gloo_group& group, c10d::Store&) {
      communicator comm(group);
      EXPECT_EQ(check_communicator(comm), violations{});
    });
  }
}

TEST(C10d, AStoreKeepsTheLawsOfAControlChannel) {
  for (const std::size_t ranks : {1U, 2U, 3U}) {
    const auto store = c10::make_intrusive<c10d::HashStore>();
    fsdpinit::testing::run_ranks(ranks, [&](std::size_t rank, threads_communicator&) {
      c10d_store_control control(*store, rank, ranks);
      EXPECT_EQ(check_communicator(control), violations{});
    });
  }
}

TEST(C10d, AStoreIsLeftWithFewKeysHoweverOftenRanksAgree) {
  const auto store = c10::make_intrusive<c10d::HashStore>();
  fsdpinit::testing::run_ranks(3, [&](std::size_t rank, threads_communicator&) {
    c10d_store_control control(*store, rank, 3);
    for (std::uint64_t round = 0; round < 50; ++round) {
      std::array<std::byte, 16> bytes{};
      control.broadcast(bytes, round % 3);
      EXPECT_EQ(control.all_reduce_max(round + rank), round + 2);
    }
  });
  EXPECT_LE(store->getNumKeys(), 2 + 3);  // and how many objects each rank has made
}

TEST(C10d, ASecondControlOverOneStoreReadsNothingOfTheFirst) {
  const auto store = c10::make_intrusive<c10d::HashStore>();
  fsdpinit::testing::run_ranks(2, [&](std::size_t rank, threads_communicator&) {
    for (const std::uint64_t round : {1U, 2U, 3U}) {
      c10d_store_control control(*store, rank, 2);
      std::array<std::byte, 1> bytes{static_cast<std::byte>(rank == 1 ? round : 0)};
      control.broadcast(bytes, 1, deadline::after(30));
      EXPECT_EQ(bytes.front(), static_cast<std::byte>(round));
      EXPECT_EQ(control.all_reduce_max(10 * rank + round, deadline::after(30)), 10 + round);
    }
  });
}

/// The error of each of three ranks, of which rank `lost` comes to no agreement, and how long they took in all. Before it a rank does
/// `before(rank)`, whose error is its own.
template <class Before>
std::vector<std::optional<error>> errors_without(std::size_t lost, double deadline_seconds, double& seconds,
                                                 Before&& before) {
  const auto store = c10::make_intrusive<c10d::HashStore>();
  const double begin = monotonic_seconds();
  auto errors = fsdpinit::testing::errors_of_ranks(3, [&](std::size_t rank, threads_communicator&) {
    c10d_store_control control(*store, rank, 3);
    if (rank != lost) {
      agreed(control, deadline_seconds, [&] { before(rank); });
    }
  });
  seconds = monotonic_seconds() - begin;
  return errors;
}

TEST(C10d, SurvivorsOverAStoreNameTheLostRankWithinOneDeadline) {
  for (const std::size_t lost : {0U, 1U, 2U}) {
    SCOPED_TRACE(lost);
    double seconds = 0;
    // One of them comes when the other's deadline is nearly over: it has waited for something else.
    const auto errors = errors_without(lost, 1, seconds, [&](std::size_t rank) {
      if (rank == (lost + 1) % 3) {
        std::this_thread::sleep_for(std::chrono::milliseconds(900));
      }
    });
    const error& first = *errors[(lost + 1) % 3];
    EXPECT_EQ(name(first.code()), name(errc::peer_lost));
    EXPECT_EQ(first.subject(), concat("rank ", lost));
    EXPECT_STREQ(first.what(), errors[(lost + 2) % 3]->what());
    EXPECT_LT(seconds, 1 + 1 + 0.7) << "a deadline, the second in which others may come, and some time to run";
  }
}

TEST(C10d, SurvivorsThatHaveWaitedForADeadlineWaitForNoSecondOneAndKeepTheCause) {
  double seconds = 0;
  const auto errors = errors_without(2, 30, seconds, [](std::size_t rank) {
    throw error(errc::peer_lost, "c10d", concat("what the transport says on ", rank), {.native_code = ETIMEDOUT});
  });
  EXPECT_STREQ(errors[0]->what(), errors[1]->what());
  EXPECT_EQ(errors[0]->subject(), "rank 2");
  for (const char* const part : {"rank 0: what the transport says on 0", "rank 1: what the transport says on 1"}) {
    EXPECT_NE(std::string(errors[0]->what()).find(part), std::string::npos) << errors[0]->what();
  }
  EXPECT_LT(seconds, 5);
}

TEST(C10d, ARankThatComesTooLateIsToldSo) {
  const auto store = c10::make_intrusive<c10d::HashStore>();
  const auto errors = fsdpinit::testing::errors_of_ranks(2, [&](std::size_t rank, threads_communicator&) {
    c10d_store_control control(*store, rank, 2);
    if (rank == 1) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1500));
    }
    agreed(control, 0.1, [] {});
  });
  for (const std::size_t rank : {0U, 1U}) {
    ASSERT_TRUE(errors[rank].has_value());
    EXPECT_EQ(errors[rank]->subject(), "rank 1");
  }
  EXPECT_STREQ(errors[0]->what(), errors[1]->what());
}

void expect_exact(std::size_t ranks, const policy& chosen, options how) {
  SCOPED_TRACE(concat(chosen.name, " ", name(chosen.transport), ", ", ranks, " ranks, ", how.replicas, " replicas"));
  how.policy = chosen;
  const reference_model model = varied_model();
  run_gloo_ranks(ranks, [&](gloo_group& group, c10d::Store& store) {
    communicator data(group);
    c10d_store_control control(store, data.rank(), data.size());
    host_memory memory;
    dynamic_module module = model.module(memory, data.rank() == how.source_rank);
    const mesh grid{.shards = ranks / how.replicas, .replicas = how.replicas};
    const rank_report report = initialize(module, model.source(), channels{data, control}, how, {.memory = memory});
    EXPECT_EQ(model.faults_of(module, memory, grid.shards, grid.shard_of(data.rank())), "");
    expect_as_predicted(report);
  });
}

TEST(C10d, EveryTransportGivesTheReferencesShards) {
  const options how{.bucket_bytes = 300, .buckets_in_flight = 3};
  for (const std::size_t ranks : {1U, 2U, 4U}) {
    expect_exact(ranks, policy_of<native_sharding<transport::scatter>>, how);
    expect_exact(ranks, policy_of<native_sharding<transport::broadcast>>, how);
    expect_exact(ranks, policy_of<native_sharding<transport::own_read>>, how);
    expect_exact(ranks, policy_of<native_sharding<transport::automatic>>, how);
    expect_exact(ranks, policy_of<every_rank_loads>, how);
  }
}

TEST(C10d, ReplicasPassPartsOn) {
  const options how{.bucket_bytes = 300, .source_rank = 1, .replicas = 2};
  expect_exact(4, policy_of<native_sharding<transport::scatter>>, how);
  expect_exact(4, policy_of<native_sharding<transport::own_read>>, how);
}

TEST(C10d, AFailureOfOneRankIsEveryRanksAndASecondAttemptWorks) {
  const reference_model model = varied_model();
  const auto errors = errors_of_gloo_ranks(3, [&](gloo_group& group, c10d::Store&) {
    communicator comm(group);
    host_memory memory;
    dynamic_module module = model.module(memory, comm.rank() == 0);
    const call_counter reads;
    reads.fail_at(5);
    const auto failed = attempt([&] {
      initialize(module, faulty_source(model.source(), reads), comm, {.bucket_bytes = 300}, {.memory = memory});
    });
    EXPECT_FALSE(comm.poisoned());
    initialize(module, model.source(), comm, {.bucket_bytes = 300}, {.memory = memory});
    EXPECT_EQ(model.faults_of(module, memory, 3, comm.rank()), "");
    throw failed.value();
  });
  expect_same_error(errors, errc::io, errors[0]->subject(), 0, "injected into read");
}

TEST(C10d, APeerThatNeverComesIsLostWithinTheDeadline) {
  const reference_model model = varied_model();
  const double begin = monotonic_seconds();
  const auto errors = errors_of_gloo_ranks(3, [&](gloo_group& group, c10d::Store&) {
    communicator comm(group);
    host_memory memory;
    dynamic_module module = model.module(memory, comm.rank() == 0);
    if (comm.rank() != 2) {
      initialize(module, model.source(), comm, {.deadline_seconds = 0.2}, {.memory = memory});
    }
  });
  for (const std::size_t rank : {0U, 1U}) {
    ASSERT_TRUE(errors[rank].has_value());
    EXPECT_EQ(name(errors[rank]->code()), name(errc::peer_lost)) << errors[rank]->what();
    EXPECT_EQ(std::string(errors[rank]->what()).find('\n'), std::string::npos);
  }
  EXPECT_LT(monotonic_seconds() - begin, 5.2);
}

TEST(C10d, AgreementOverAStoreGoesOnWhereTheGroupIsBroken) {
  const auto errors = errors_of_gloo_ranks(2, [&](gloo_group& group, c10d::Store& store) {
    communicator data(group);
    c10d_store_control control(store, data.rank(), data.size());
    agreed(control, 10, [&] {
      std::array<std::byte, 8> bytes{};
      if (data.rank() == 0) {
        data.broadcast(bytes, 1, deadline::after(0.2));  // rank 1 does not come
      }
    });
  });
  expect_same_error(errors, errc::peer_lost, "c10d", 0, "did not come to an end");
}

TEST(C10d, ARankThatGoesIsNamedByAllWithTheCauseThatTheTransportGave) {
  const double begin = monotonic_seconds();
  const auto errors = errors_of_gloo_ranks(3, [&](gloo_group& group, c10d::Store& store) {
    communicator data(group);
    c10d_store_control control(store, data.rank(), data.size());
    static_cast<void>(control.all_reduce_max(0));
    if (data.rank() == 2) {
      return;
    }
    agreed(control, 1, [&] {
      std::array<std::byte, 64> bytes{};
      data.broadcast(bytes, 2, deadline::after(1));
    });
  });
  EXPECT_EQ(errors[0]->subject(), "rank 2") << errors[0]->what();
  EXPECT_STREQ(errors[0]->what(), errors[1]->what());
  EXPECT_NE(std::string(errors[0]->what()).find("\n  rank 0: an operation did not come to an end: "), std::string::npos)
      << errors[0]->what();
  EXPECT_LT(monotonic_seconds() - begin, 1 + 1 + 1.5);
}

TEST(C10d, ABrokenGroupSaysSoAtOnce) {
  run_gloo_ranks(2, [&](gloo_group& group, c10d::Store&) {
    communicator comm(group);
    std::array<std::byte, 8> bytes{};
    if (comm.rank() == 0) {
      EXPECT_THROW(comm.broadcast(bytes, 1, deadline::after(0.1)), error);
      EXPECT_TRUE(comm.poisoned());
      expect_error(errc::peer_lost, "c10d", "broken", [&] { comm.broadcast(bytes, 0); });
    }
  });
}

}  // namespace
}  // namespace c10d_test
