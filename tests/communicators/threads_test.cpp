#include "support/expect_error.hpp"
#include "support/heap_faults.hpp"
#include <fsdpinit/communicators/threads.hpp>
#include <fsdpinit/core/attempt.hpp>
#include <fsdpinit/testing/rank_harness.hpp>

#include <gtest/gtest.h>

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <thread>
#include <utility>
#include <vector>

namespace threads_test {
namespace {

using namespace fsdpinit;
using fsdpinit::testing::errors_of_ranks;
using fsdpinit::testing::run_ranks;
using fsdpinit::testing_support::expect_error;

void sleep_for(int milliseconds) { std::this_thread::sleep_for(std::chrono::milliseconds(milliseconds)); }

TEST(ThreadsWorld, HasNoOtherRanksThanItsOwn) {
  const threads_world world(2);
  EXPECT_EQ(world.rank(1).rank(), 1U);
  expect_error(errc::invalid_argument, "rank", "there is no rank 2 in a world of 2",
               [&] { static_cast<void>(world.rank(2)); });
  expect_error(errc::invalid_argument, "ranks", "at least one rank", [] { static_cast<void>(threads_world(0)); });
}

TEST(Interruption, ReachesARankThatWaitsAlready) {
  for (const std::size_t waiting : {0U, 1U}) {  // the root, or a receiver
    const auto errors = errors_of_ranks(2, [&](std::size_t rank, threads_communicator& world) {
      if (rank != waiting) {
        sleep_for(50);
        world.interrupt();
        return;
      }
      std::vector<std::byte> buffer(100);
      auto token = world.start_broadcast(buffer, 0);
      world.wait(token, deadline::after(30));
    });
    ASSERT_TRUE(errors[waiting].has_value());
    EXPECT_EQ(errors[waiting]->code(), errc::interrupted);
  }
}

TEST(Threads, OperationsOfAWorldNeedNoHeap) {
  run_ranks(3, [](std::size_t rank, threads_communicator& world) {
    std::array<std::byte, 4> own{};
    std::array<std::byte, 12> all{};
    std::array<float, 3> contribution{1, 2, 3};
    std::array<float, 1> sum{};
    std::array<threads_communicator::token, 6> tokens{};
    const std::array<bytes_view, 3> windows{own, own, own};
    const testing_support::failing_heap exhausted(rank == 1 ? 0 : 1U << 20U, testing_support::heap_fault::exhausted);
    static_cast<void>(world.all_reduce_max(rank));
    world.broadcast(own, 1);
    for (auto& token : tokens) {
      token = world.start_broadcast(own, 1);
    }
    for (auto& token : tokens) {
      world.wait(token, deadline::after(30));
    }
    tokens[0] = world.start_scatter(windows, rank == 1 ? mutable_bytes() : mutable_bytes(own), 1);
    world.wait(tokens[0], deadline::after(30));
    world.all_gather(own, all, {}, deadline::after(30));
    world.reduce_scatter(contribution, sum, {}, deadline::after(30));
    EXPECT_EQ(sum[0], 3.0F * static_cast<float>(rank + 1));
    EXPECT_FALSE(exhausted.has_failed());
  });
}

TEST(Interruption, OfAnEarlierAttemptDoesNotReachTheNextOne) {
  run_ranks(3, [](std::size_t rank, threads_communicator& world) {
    for (int round = 0; round < 50; ++round) {
      std::vector<std::byte> buffer(64, static_cast<std::byte>(rank + 1));
      if (rank == static_cast<std::size_t>(round) % 3) {
        world.interrupt();
      }
      auto first = world.start_broadcast(buffer, 0);
      auto second = world.start_broadcast(buffer, 1);
      static_cast<void>(attempt([&] { world.wait(first, deadline::after(30)); }));
      static_cast<void>(attempt([&] { world.wait(second, deadline::after(30)); }));
      static_cast<void>(world.all_reduce_max(0));
      world.rearm();
      std::vector<std::byte> again(64, static_cast<std::byte>(rank + 1));
      auto token = world.start_broadcast(again, 2);
      world.wait(token, deadline::after(30));
      EXPECT_EQ(again, std::vector<std::byte>(64, std::byte{3}));
      static_cast<void>(world.all_reduce_max(0));  // the next interruption must not reach this operation
    }
  });
}

TEST(Interruption, WaitingTwiceForOneOperationIsHarmless) {
  run_ranks(2, [](std::size_t, threads_communicator& world) {
    std::vector<std::byte> buffer(8);
    auto token = world.start_broadcast(buffer, 0);
    world.wait(token, deadline::after(30));
    world.wait(token, deadline::after(30));
  });
}

TEST(Groups, AnInterruptionFromOutsideReachesAMemberThatWaitsAlready) {
  for (const std::size_t waiting : {0U, 1U}) {  // the root, or a receiver
    const auto errors = errors_of_ranks(4, [&](std::size_t rank, threads_communicator& world) {
      if (rank == 3) {
        sleep_for(50);
        world.interrupt();
      } else if (rank == waiting) {
        const std::size_t pair[] = {0, 1};
        std::vector<std::byte> buffer(100);
        auto token = world.start_broadcast(buffer, 0, pair);
        world.wait(token, deadline::after(30));
      }
    });
    ASSERT_TRUE(errors[waiting].has_value());
    EXPECT_EQ(errors[waiting]->code(), errc::interrupted);
  }
}

TEST(Groups, ALateMemberIsPeerLostAndOtherGroupsGoOn) {
  const auto errors = errors_of_ranks(5, [&](std::size_t rank, threads_communicator& world) {
    const std::size_t low[] = {0, 2, 4};
    const std::size_t high[] = {1, 3};
    std::vector<std::byte> buffer(100, static_cast<std::byte>(rank));
    if (rank == 4) {
      return;
    }
    auto token = rank % 2 == 0 ? world.start_broadcast(buffer, 2, low) : world.start_broadcast(buffer, 3, high);
    world.wait(token, deadline::after(0.1));
    EXPECT_EQ(buffer.front(), static_cast<std::byte>(rank % 2 == 0 ? 2 : 3));
  });
  EXPECT_FALSE(errors[0].has_value());
  EXPECT_FALSE(errors[1].has_value());
  ASSERT_TRUE(errors[2].has_value());
  EXPECT_EQ(errors[2]->code(), errc::peer_lost);
  EXPECT_EQ(errors[2]->subject(), "rank 4");
  EXPECT_FALSE(errors[3].has_value());
}

TEST(Groups, ThatARankCannotBeInAreRefused) {
  run_ranks(3, [](std::size_t rank, threads_communicator& world) {
    const std::size_t next = (rank + 1) % 3;
    std::vector<std::byte> buffer(1);
    const auto refused = [&](std::vector<std::size_t> group, std::size_t root) {
      const auto thrown = attempt([&] { static_cast<void>(world.start_broadcast(buffer, root, group)); });
      return thrown && thrown->code() == errc::invalid_argument && thrown->subject() == "group";
    };
    EXPECT_TRUE(refused({next}, next)) << "without the caller";
    EXPECT_TRUE(refused({rank}, next)) << "without the root";
    EXPECT_TRUE(refused({2, 1, 0}, 0)) << "descending";
    EXPECT_TRUE(refused({0, 0, 1, 2}, 0)) << "twice";
    EXPECT_TRUE(refused({0, 1, 2, 3}, 0)) << "nobody's rank";
    // None of them took a place.
    auto token = world.start_broadcast(buffer, 0);
    world.wait(token, deadline::after(30));
  });
}

TEST(Deadline, ALateRankIsPeerLostForThoseThatWait) {
  for (const std::size_t late : {0U, 1U}) {
    const auto errors = errors_of_ranks(2, [&](std::size_t rank, threads_communicator& world) {
      if (rank == late) {
        return;
      }
      std::vector<std::byte> buffer(100);
      auto token = world.start_broadcast(buffer, 0);
      world.wait(token, deadline::after(0.05));
    });
    ASSERT_TRUE(errors[1 - late].has_value());
    EXPECT_EQ(errors[1 - late]->code(), errc::peer_lost);
    EXPECT_EQ(errors[1 - late]->subject(), late == 0 ? "rank 0" : "rank 1");
  }
}

TEST(Deadline, NamesThoseWhoAreMissingAndNotThoseWhoWait) {
  using operation = std::function<void(threads_communicator&)>;
  const auto limit = [] { return deadline::after(0.2); };
  const std::vector<operation> operations{[&](auto& world) { static_cast<void>(world.all_reduce_max(1, limit())); },
                                          [&](auto& world) {
                                            std::byte mine{};
                                            world.broadcast({&mine, 1}, 3, limit());
                                          },
                                          [&](auto& world) {
                                            std::vector<std::byte> mine(10);
                                            auto token = world.start_broadcast(mine, 3);
                                            world.wait(token, limit());
                                          },
                                          [&](auto& world) {
                                            const std::byte mine{};
                                            std::vector<std::byte> all(5);
                                            world.all_gather({&mine, 1}, all, {}, limit());
                                          }};
  for (const operation& each : operations) {
    const auto errors = errors_of_ranks(5, [&](std::size_t rank, threads_communicator& world) {
      if (rank % 3 != 1) {  // 1 and 4 do not come; 3 is the root
        each(world);
      }
    });
    ASSERT_TRUE(errors[3].has_value());
    EXPECT_EQ(errors[3]->code(), errc::peer_lost);
    EXPECT_STREQ(
        errors[3]->what(),
        "ranks 1, 4: did not answer within the deadline; find out what became of them, or raise deadline_seconds");
  }
}

TEST(Deadline, OfControlOperationsIsKept) {
  const auto reduced = errors_of_ranks(2, [&](std::size_t rank, threads_communicator& world) {
    if (rank == 0) {
      static_cast<void>(world.all_reduce_max(1, deadline::after(0.05)));
    }
  });
  EXPECT_EQ(reduced[0]->code(), errc::peer_lost);
  for (const std::size_t root : {0U, 1U}) {
    const auto sent = errors_of_ranks(2, [&](std::size_t rank, threads_communicator& world) {
      if (rank == 0) {
        std::byte value{};
        world.broadcast({&value, 1}, root, deadline::after(0.05));
      }
    });
    EXPECT_EQ(sent[0]->code(), errc::peer_lost);
  }
}

TEST(Deadline, ARootThatGaveUpTakesItsBufferBack) {
  const auto errors = errors_of_ranks(2, [&](std::size_t rank, threads_communicator& world) {
    if (rank == 0) {
      auto value = std::make_unique<std::byte>(std::byte{7});
      const auto gave_up = attempt([&] { world.broadcast({value.get(), 1}, 0, deadline::after(0.02)); });
      value.reset();  // a receiver that read it now would be caught by AddressSanitizer
      ASSERT_TRUE(gave_up.has_value());
      return;
    }
    sleep_for(150);
    std::byte value{};
    world.broadcast({&value, 1}, 0, deadline::after(0.05));
  });
  ASSERT_TRUE(errors[1].has_value());
  EXPECT_EQ(errors[1]->code(), errc::peer_lost);
}

TEST(Sizes, ThatDifferAreAnErrorOnTheRankThatNotices) {
  const auto errors = errors_of_ranks(2, [](std::size_t rank, threads_communicator& world) {
    std::vector<std::byte> buffer(10 + rank);
    auto token = world.start_broadcast(buffer, 0);
    const auto mine = attempt([&] { world.wait(token, deadline::after(30)); });
    world.interrupt();
    if (mine) {
      throw error(*mine);
    }
  });
  EXPECT_EQ(errors[0]->code(), errc::interrupted);
  EXPECT_EQ(errors[1]->code(), errc::communication);
  EXPECT_NE(errors[1]->text().find("sent 10 bytes where 11 were expected"), std::string::npos);
}

TEST(Control, AFailureReachesAllAndTheChannelWorksAgain) {
  run_ranks(4, [](std::size_t rank, threads_communicator& world) {
    for (std::size_t round = 0; round < 40; ++round) {
      const std::size_t failing = round % 4;
      const auto thrown = attempt([&] {
        if (rank == failing) {
          throw error(errc::io, "disk", "broke", {.rank = static_cast<std::int32_t>(failing)});
        }
        static_cast<void>(world.all_reduce_max(rank));
      });
      ASSERT_TRUE(thrown.has_value());
      EXPECT_EQ(world.fail(*thrown).rank(), static_cast<std::int32_t>(failing));
      world.rearm();
      // At once, while slower ranks still learn of the failure.
      EXPECT_EQ(world.all_reduce_max(rank + round), 3 + round);
      std::uint64_t value = rank;
      world.broadcast(std::as_writable_bytes(std::span(&value, 1)), failing);
      EXPECT_EQ(value, failing);
      static_cast<void>(world.all_reduce_max(0));  // the next failure must not reach this broadcast
    }
  });
}

TEST(Control, OfTwoFailuresAllGetOne) {
  for (int round = 0; round < 50; ++round) {
    const auto errors = errors_of_ranks(3, [](std::size_t rank, threads_communicator& world) {
      const auto thrown = attempt([&] {
        if (rank != 1) {
          throw error(errc::io, "", "broke", {.rank = static_cast<std::int32_t>(rank)});
        }
        static_cast<void>(world.all_reduce_max(rank));
      });
      throw error(world.fail(*thrown));
    });
    EXPECT_STREQ(errors[0]->what(), errors[1]->what());
    EXPECT_STREQ(errors[0]->what(), errors[2]->what());
  }
}

TEST(Control, AFailureInterruptsStartedOperations) {
  const auto errors = errors_of_ranks(2, [](std::size_t rank, threads_communicator& world) {
    if (rank == 0) {
      sleep_for(30);
      static_cast<void>(world.fail(error(errc::io, "", "broke")));
      return;
    }
    std::vector<std::byte> buffer(10);
    auto token = world.start_broadcast(buffer, 0);
    world.wait(token, deadline::after(30));
  });
  ASSERT_TRUE(errors[1].has_value());
  EXPECT_EQ(errors[1]->code(), errc::interrupted);
}

TEST(Traffic, ManyOperationsInFlightKeepTheirOrder) {
  run_ranks(4, [](std::size_t rank, threads_communicator& world) {
    constexpr std::size_t in_flight = 5;
    std::vector<std::vector<std::byte>> buffers(in_flight, std::vector<std::byte>(700));
    std::vector<threads_communicator::token> tokens(in_flight);
    const auto finish = [&](std::size_t round) {
      world.wait(tokens[round % in_flight], deadline::after(30));
      EXPECT_EQ(buffers[round % in_flight], std::vector<std::byte>(700, static_cast<std::byte>(round)));
    };
    for (std::size_t round = 0; round < 300; ++round) {
      if (round >= in_flight) {
        finish(round - in_flight);
      }
      std::vector<std::byte>& buffer = buffers[round % in_flight];
      const std::size_t root = round % 4;
      std::memset(buffer.data(), rank == root ? static_cast<int>(round % 256) : 0xff, buffer.size());
      tokens[round % in_flight] = world.start_broadcast(buffer, root);
    }
    for (std::size_t round = 300 - in_flight; round < 300; ++round) {
      finish(round);
    }
  });
}

TEST(World, IsOneNodeUnlessToldOtherwise) {
  const threads_world world(3);
  const std::size_t numbers[] = {5, 0, 5, 8, 0};
  const threads_world faked(5, numbers);
  std::vector<std::size_t> nodes;
  std::vector<std::size_t> faked_nodes;
  for (std::size_t rank = 0; rank < 3; ++rank) {
    nodes.push_back(world.rank(0).node_of(rank));
  }
  for (std::size_t rank = 0; rank < 5; ++rank) {
    faked_nodes.push_back(faked.rank(4).node_of(rank));
  }
  EXPECT_EQ(nodes, (std::vector<std::size_t>{0, 0, 0}));
  EXPECT_EQ(faked_nodes, (std::vector<std::size_t>{0, 1, 0, 3, 1}));
}

TEST(World, RefusesNodesOfSomeRanksOnly) {
  const std::size_t numbers[] = {0, 0};
  expect_error(errc::invalid_argument, "nodes", "2 numbers of nodes for 3 ranks",
               [&] { const threads_world world(3, numbers); });
}

TEST(World, HandlesKeepItAlive) {
  std::optional<threads_communicator> handle;
  {
    const threads_world world(1);
    EXPECT_EQ(world.size(), 1U);
    handle.emplace(world.rank(0));
  }
  EXPECT_EQ(handle->size(), 1U);
  EXPECT_EQ(handle->all_reduce_max(9), 9U);
}

}  // namespace
}  // namespace threads_test
