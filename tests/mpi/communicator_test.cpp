#include "mpi/worlds.hpp"
#include "support/expect_error.hpp"
#include <fsdpinit/communicators/mpi.hpp>
#include <fsdpinit/core/attempt.hpp>
#include <fsdpinit/engine/payload_link.hpp>
#include <fsdpinit/memory/block.hpp>
#include <fsdpinit/testing/laws.hpp>

#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <stdexcept>
#include <utility>
#include <vector>

namespace communicator_test {
namespace {

using namespace fsdpinit;
using namespace fsdpinit::testing_support;
using fsdpinit::testing::check_communicator;
using fsdpinit::testing::violations;

static_assert(GroupCommunicator<mpi_communicator> && CollectiveCommunicator<mpi_communicator>);
static_assert(InterruptibleCommunicator<mpi_communicator>);
static_assert(StagingCommunicator<mpi_communicator, host_memory>);
static_assert(detail::abilities_of<mpi_communicator>.views && detail::abilities_of<mpi_communicator>.knows_nodes);

TEST(MpiCommunicator, KeepsTheLaws) {
  for_each_world([](mpi_communicator& world) { EXPECT_EQ(check_communicator(world), violations{}); });
}

std::byte pattern(std::uint64_t seed, std::uint64_t at) { return static_cast<std::byte>((seed * 31 + at * 7) % 251); }

TEST(MpiCommunicator, ScattersAndBroadcastsFromItsStagingMemory) {
  for_each_world([](mpi_communicator& world) {
    constexpr std::uint64_t length = 70'000;
    const host_memory account;
    for (std::size_t root = 0; root < world.size(); ++root) {
      const block<mpi_staging_memory> staged(world.staging(account), world.rank() == root ? length * world.size() : 0);
      std::vector<bytes_view> windows(world.size());
      std::vector<std::byte> own(length);
      for (std::uint64_t i = 0; i < staged.size(); ++i) {
        staged.data()[i] = pattern(root, i);
      }
      if (world.rank() == root) {
        for (std::size_t r = 0; r < world.size(); ++r) {
          windows[r] = bytes_view(staged.bytes()).subspan(r * length, length);
        }
      }
      auto scatter = world.start_scatter(windows, world.rank() == root ? mutable_bytes() : mutable_bytes(own), root);
      std::vector<std::byte> whole(length * world.size());
      auto broadcast = world.start_broadcast(world.rank() == root ? staged.bytes() : mutable_bytes(whole), root);
      world.wait(scatter, deadline::after(30));
      world.wait(broadcast, deadline::after(30));
      for (std::uint64_t i = 0; world.rank() != root && i < whole.size(); ++i) {
        ASSERT_EQ(whole[i], pattern(root, i)) << "byte " << i;
        ASSERT_TRUE(i >= length || own[i] == pattern(root, world.rank() * length + i)) << "byte " << i;
      }
    }
    EXPECT_EQ(account.accounted(), 0U);
  });
}

TEST(MpiCommunicator, ABroadcastIsViewedInTheWindowOfTheRoot) {
  for_each_world([](mpi_communicator& world) {
    constexpr std::uint64_t length = 70'000;
    constexpr std::size_t rounds = 3;
    const host_memory account;
    const block<mpi_staging_memory> staged(world.staging(account), rounds * length);
    for (std::uint64_t i = 0; i < staged.size(); ++i) {
      staged.data()[i] = world.rank() == 0 ? pattern(1, i) : std::byte{255};
    }
    std::vector<mpi_communicator::token> tokens;
    for (std::size_t round = 0; round < rounds; ++round) {
      const mutable_bytes part = staged.bytes().subspan(round * length, length);
      tokens.push_back(world.rank() == 0 ? world.start_broadcast(part, 0) : world.start_viewed_broadcast(part, 0));
    }
    for (std::size_t round = 0; round < rounds; ++round) {
      if (world.rank() != 0) {
        const bytes_view lies = world.view(tokens[round], deadline::after(30));
        ASSERT_EQ(lies.size(), length);
        for (std::uint64_t i = 0; i < length; ++i) {
          ASSERT_EQ(lies[i], pattern(1, round * length + i)) << "byte " << i << " of round " << round;
        }
      }
      world.wait(tokens[round], deadline::after(30));
    }
  });
}

TEST(MpiCommunicator, ABroadcastWithinANodeIsNotCopiedForWhoViewsIt) {
  mpi_communicator world;
  const host_memory account;
  const block<mpi_staging_memory> staged(world.staging(account), 1000);
  std::fill_n(staged.data(), staged.size(), static_cast<std::byte>(world.rank() + 1));
  auto token =
      world.rank() == 0 ? world.start_broadcast(staged.bytes(), 0) : world.start_viewed_broadcast(staged.bytes(), 0);
  if (world.rank() != 0) {
    const bytes_view lies = world.view(token, deadline::after(30));
    EXPECT_EQ(lies.front(), std::byte{1});
    EXPECT_NE(lies.data(), staged.data());
    EXPECT_EQ(staged.data()[0], static_cast<std::byte>(world.rank() + 1));
  }
  world.wait(token, deadline::after(30));
}

TEST(MpiCommunicator, AViewedBroadcastEndsWithAnInterruptionBeforeAndWhileItIsViewed) {
  for_each_world([](mpi_communicator& world) {
    const host_memory account;
    const block<mpi_staging_memory> staged(world.staging(account), 100);
    for (const bool viewed_before : {true, false}) {
      const bool is_root = world.rank() == 0;
      auto token = is_root ? world.start_broadcast(staged.bytes(), 0) : world.start_viewed_broadcast(staged.bytes(), 0);
      try {
        if (!is_root && viewed_before) {
          EXPECT_EQ(world.view(token, deadline::after(30)).size(), 100U);
        }
        if (world.rank() == world.size() - 1) {
          world.interrupt();
        }
        world.wait(token, deadline::after(30));
      } catch (const error& interrupted) {
        EXPECT_EQ(name(interrupted.code()), name(errc::interrupted));
      }
      static_cast<void>(world.all_reduce_max(0));
      world.rearm();
      static_cast<void>(world.all_reduce_max(0));
    }
  });
}

TEST(MpiCommunicator, ScattersToOneReplicaAndBroadcastsFromThereFromItsStagingMemory) {
  for_each_world([](mpi_communicator& world) {
    constexpr std::uint64_t length = 7'000;
    const std::size_t shards = world.size() % 2 == 0 ? world.size() / 2 : world.size();
    const host_memory account;
    // As many as fit into a ring of lanes, so that each slot is used again.
    for (std::size_t round = 0; round < 2 * detail::mpi_window::ring; ++round) {
      const std::size_t first_replica = round % (world.size() / shards);
      const std::size_t source = first_replica * shards + round % shards;
      std::vector<std::size_t> replica;
      std::vector<std::size_t> copies;
      for (std::size_t r = 0; r < world.size(); ++r) {
        if (r / shards == world.rank() / shards) {
          replica.push_back(r);
        }
        if (r % shards == world.rank() % shards) {
          copies.push_back(r);
        }
      }
      const std::vector<std::size_t> alone{world.rank()};
      const block<mpi_staging_memory> staged(world.staging(account), world.rank() == source ? length * shards : length);
      std::vector<bytes_view> windows(world.size());
      mutable_bytes own = staged.bytes();
      if (world.rank() == source) {
        for (std::uint64_t i = 0; i < staged.size(); ++i) {
          staged.data()[i] = pattern(round, i);
        }
        for (std::size_t s = 0; s < shards; ++s) {
          windows[first_replica * shards + s] = bytes_view(staged.bytes()).subspan(s * length, length);
        }
        own = staged.bytes().subspan(source % shards * length, length);
      }
      const bool scatters = world.rank() / shards == first_replica;
      auto scatter = scatters
                         ? world.start_scatter(windows, world.rank() == source ? mutable_bytes() : own, source, replica)
                         : world.start_broadcast({}, world.rank(), alone);
      world.wait(scatter, deadline::after(30));
      auto broadcast = world.start_broadcast(own, first_replica * shards + world.rank() % shards, copies);
      world.wait(broadcast, deadline::after(30));
      for (std::uint64_t i = 0; i < length; ++i) {
        ASSERT_EQ(own[i], pattern(round, world.rank() % shards * length + i)) << "byte " << i << " of round " << round;
      }
    }
  });
}

TEST(MpiCommunicator, GathersFromItsStagingMemory) {
  for_each_world([](mpi_communicator& world) {
    constexpr std::uint64_t length = 50'001;
    const block<mpi_staging_memory> staged(world.staging(host_memory()), length);
    std::vector<std::byte> all(length * world.size());
    for (std::size_t round = 0; round < 3; ++round) {
      for (std::uint64_t i = 0; i < length; ++i) {
        staged.data()[i] = pattern(world.rank() + round, i);
      }
      world.all_gather(staged.bytes(), all, {}, deadline::after(30));
      for (std::uint64_t i = 0; i < all.size(); ++i) {
        ASSERT_EQ(all[i], pattern(i / length + round, i % length)) << "byte " << i;
      }
    }
  });
}

TEST(MpiCommunicator, GathersWhileOperationsAreInFlight) {
  for_each_world([](mpi_communicator& world) {
    constexpr std::size_t in_flight = 5;
    std::vector<std::vector<std::byte>> buffers;
    std::vector<mpi_communicator::token> tokens;
    for (std::size_t i = 0; i < in_flight; ++i) {
      buffers.emplace_back(10'000, static_cast<std::byte>(world.rank()));
    }
    for (std::size_t i = 0; i < in_flight; ++i) {
      tokens.push_back(world.start_broadcast(buffers[i], i % world.size()));
    }
    std::vector<float> contribution(world.size(), static_cast<float>(world.rank()));
    std::vector<float> own(1);
    const std::size_t sum_of_ranks = world.size() * (world.size() - 1) / 2;
    world.reduce_scatter(contribution, own, {}, deadline::after(30));
    EXPECT_EQ(own[0], static_cast<float>(sum_of_ranks));
    std::vector<std::byte> all(world.size());
    all[world.rank()] = static_cast<std::byte>(world.rank());
    world.all_gather(bytes_view(all).subspan(world.rank(), 1), all, {}, deadline::after(30));
    EXPECT_EQ(all.back(), static_cast<std::byte>(world.size() - 1));
    for (std::size_t i = 0; i < in_flight; ++i) {
      world.wait(tokens[i], deadline::after(30));
      EXPECT_EQ(buffers[i], std::vector<std::byte>(10'000, static_cast<std::byte>(i % world.size())));
    }
  });
}

TEST(MpiCommunicator, AnInterruptionEndsAReductionThatIsUnderWay) {
  for_each_world([](mpi_communicator& world) {
    if (world.size() == 1) {
      return;
    }
    // The last rank believes that there is one round, takes part in that, and fails.
    const std::uint64_t round = 2 * mib / (2 * world.size()) / sizeof(float);
    const bool fails = world.rank() == world.size() - 1;
    const std::uint64_t numbers = fails ? round : 5 * round + 1;
    const std::vector<float> contribution(numbers * world.size(), 1.0F);
    std::vector<float> own(numbers);
    const auto caught = attempt([&] { world.reduce_scatter(contribution, own, {}, deadline::after(30)); });
    if (fails) {
      EXPECT_FALSE(caught.has_value());
      EXPECT_EQ(own, std::vector<float>(numbers, static_cast<float>(world.size())));
      world.interrupt();
    } else {
      ASSERT_TRUE(caught.has_value());
      EXPECT_EQ(caught->code(), errc::interrupted) << caught->what();
    }
    static_cast<void>(world.all_reduce_max(0));
    world.rearm();
    static_cast<void>(world.all_reduce_max(0));
    std::vector<float> again(3 * world.size(), 1.0F);
    std::vector<float> sum(3);
    world.reduce_scatter(again, sum, {}, deadline::after(30));
    EXPECT_EQ(sum, std::vector<float>(3, static_cast<float>(world.size())));
  });
}

TEST(MpiCommunicator, StagingMemoryBeyondTheWindowIsOrdinaryMemory) {
  mpi_communicator world(MPI_COMM_WORLD, {.staging_bytes = 1 * mib});
  const host_memory account;
  const block<mpi_staging_memory> first(world.staging(account), 700 * kib);
  const block<mpi_staging_memory> second(world.staging(account), 700 * kib);
  EXPECT_EQ(account.accounted(), 1400 * kib);
  second.data()[700 * kib - 1] = std::byte{1};
}

/// Host memory takes the first from the heap, and maps the second.
constexpr std::uint64_t block_sizes[] = {100 * kib, 2 * mib};

TEST(MpiCommunicator, WhatWasAllocatedInItsStagingMemoryOutlivesIt) {
  for (const std::uint64_t bytes : block_sizes) {
    const host_memory account;
    auto world = std::make_unique<mpi_communicator>();
    block<mpi_staging_memory> staged(world->staging(account), bytes);
    world.reset();
    std::fill_n(staged.data(), bytes, std::byte{7});
    EXPECT_EQ(staged.data()[bytes - 1], std::byte{7});
    staged.release();
    EXPECT_EQ(account.accounted(), 0U);
  }
}

TEST(MpiCommunicator, WhatWasAllocatedInItsStagingMemoryOutlivesItWhereAnExceptionTakesIt) {
  for (const std::uint64_t bytes : block_sizes) {
    const host_memory account;
    std::optional<block<mpi_staging_memory>> staged;
    EXPECT_THROW(
        {
          const mpi_communicator world;
          staged.emplace(world.staging(account), bytes);
          throw std::runtime_error("the program's own");
        },
        std::runtime_error);
    std::fill_n(staged->data(), bytes, std::byte{7});
    EXPECT_EQ(staged->data()[bytes - 1], std::byte{7});
    staged.reset();
    EXPECT_EQ(account.accounted(), 0U);
  }
}

TEST(MpiCommunicator, StagingMemoryThatAnExceptionTakesWaitsForNobody) {
  mpi_communicator all;
  const host_memory account;
  std::optional<block<mpi_staging_memory>> staged;
  {
    const mpi_communicator world;
    staged.emplace(world.staging(account), 100 * kib);
  }
  const auto lose_it = [&] {
    EXPECT_THROW(
        {
          const block<mpi_staging_memory> going = std::move(*staged);
          throw std::runtime_error("the program's own");
        },
        std::runtime_error);
  };
  if (all.rank() == 0) {
    lose_it();
  }
  EXPECT_EQ(all.all_reduce_max(all.rank(), deadline::after(30)), all.size() - 1);
  if (all.rank() != 0) {
    lose_it();
  }
  EXPECT_EQ(account.accounted(), 0U);
}

TEST(MpiCommunicator, RefusesAnOperationWhoseSlotIsStillInUse) {
  mpi_communicator world;
  std::vector<std::byte> buffer(1);
  auto first = world.start_broadcast(buffer, 0);
  std::vector<std::byte> other(1);
  for (std::size_t i = 1; i < detail::mpi_window::ring; ++i) {
    auto next = world.start_broadcast(other, 0);
    world.wait(next, deadline::after(30));
  }
  expect_error(errc::invalid_argument, "buckets_in_flight", "at most 64",
               [&] { static_cast<void>(world.start_broadcast(other, 0)); });
  world.wait(first, deadline::after(30));
}

TEST(MpiCommunicator, MessagesArriveWhole) {
  // As those beyond 2^31 bytes do, which would need that much memory here.
  std::vector<std::byte> bytes(10);
  std::vector<int> counts;
  detail::for_each_message(
      bytes_view(bytes), [&](const std::byte*, int count) { counts.push_back(count); }, 4);
  EXPECT_EQ(counts, (std::vector<int>{4, 4, 2}));
}

TEST(MpiCommunicator, AShorterPayloadThanExpectedIsAnErrorAfterWhichItGoesOn) {
  for_each_world([](mpi_communicator& world) {
    if (world.size() == 1) {
      return;
    }
    std::vector<std::byte> buffer(world.rank() == 0 ? 5 : 8);
    auto token = world.start_broadcast(buffer, 0);
    if (world.rank() == 0) {
      try {
        world.wait(token, deadline::after(30));  // ends once the others have interrupted it, or have what was sent
      } catch (const error& interrupted) {
        EXPECT_EQ(interrupted.code(), errc::interrupted);
      }
    } else {
      const auto caught = thrown_by([&] {
        try {
          world.wait(token, deadline::after(30));
        } catch (...) {
          world.interrupt();
          throw;
        }
      });
      ASSERT_TRUE(caught.has_value());
      EXPECT_TRUE(caught->code() == errc::communication || caught->code() == errc::interrupted) << caught->what();
    }
    EXPECT_EQ(world.all_reduce_max(world.rank()), world.size() - 1);
    world.rearm();
    EXPECT_EQ(world.all_reduce_max(1), 1U);
    std::vector<std::byte> right(6, std::byte{1});
    auto again = world.start_broadcast(right, 0);
    world.wait(again, deadline::after(30));
  });
}

TEST(MpiCommunicator, SplitsIntoShardAndReplicateGroups) {
  mpi_communicator world;
  const std::size_t shards = world.size() % 2 == 0 ? world.size() / 2 : world.size();
  mpi_communicator shard_group = world.split(static_cast<int>(world.rank() / shards));
  mpi_communicator replicate_group = world.split(static_cast<int>(world.rank() % shards));
  EXPECT_EQ(shard_group.size(), shards);
  EXPECT_EQ(shard_group.rank(), world.rank() % shards);
  EXPECT_EQ(replicate_group.size(), world.size() / shards);
  EXPECT_EQ(replicate_group.rank(), world.rank() / shards);
  EXPECT_EQ(world.split_node().size(), world.size()) << "these tests run on one node";
  EXPECT_EQ(shard_group.all_reduce_max(world.rank()), world.rank() / shards * shards + shards - 1);
}

TEST(MpiCommunicator, KnowsTheNodesOfRanks) {
  const mpi_communicator one;
  const mpi_communicator without_window(MPI_COMM_WORLD, {.staging_bytes = 0});
  const mpi_communicator pairs(MPI_COMM_WORLD, {.window_group = static_cast<int>(one.rank() / 2)});
  const mpi_communicator turns(MPI_COMM_WORLD, {.staging_bytes = 0, .window_group = static_cast<int>(one.rank() % 2)});
  for (std::size_t rank = 0; rank < one.size(); ++rank) {
    EXPECT_EQ(one.node_of(rank), 0U);
    EXPECT_EQ(without_window.node_of(rank), 0U);
    EXPECT_EQ(pairs.node_of(rank), rank / 2 * 2);
    EXPECT_EQ(turns.node_of(rank), rank % 2);
  }
}

TEST(MpiCommunicator, LeavesTheErrorHandlerOfTheProgramAlone) {
  const mpi_communicator world;
  MPI_Errhandler handler = MPI_ERRHANDLER_NULL;
  MPI_Comm_get_errhandler(MPI_COMM_WORLD, &handler);
  EXPECT_EQ(handler, MPI_ERRORS_ARE_FATAL);
  MPI_Errhandler_free(&handler);
}

TEST(MpiCommunicator, AFailingMpiCallIsATypedError) {
  expect_error(errc::communication, "", "MPI_Bcast failed: ", [] {
    const detail::mpi_group own("MPI_Comm_dup", [](MPI_Comm* made) { return MPI_Comm_dup(MPI_COMM_SELF, made); });
    int value = 0;
    detail::check_mpi("MPI_Bcast", MPI_Bcast(&value, 1, MPI_INT, 7, own.get()));
  });
}

}  // namespace
}  // namespace communicator_test
