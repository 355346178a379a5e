#include "support/archetypes.hpp"
#include "support/expect_error.hpp"
#include <fsdpinit/communicators/collectives.hpp>
#include <fsdpinit/communicators/self.hpp>
#include <fsdpinit/communicators/threads.hpp>
#include <fsdpinit/testing/collective_laws.hpp>
#include <fsdpinit/testing/faults.hpp>
#include <fsdpinit/testing/law_list.hpp>
#include <fsdpinit/testing/rank_harness.hpp>

#include <gtest/gtest.h>

#include <array>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <span>
#include <thread>
#include <vector>

namespace collectives_test {
namespace {

using namespace fsdpinit;
using namespace fsdpinit::testing_support;
using fsdpinit::testing::errors_of_ranks;
using fsdpinit::testing::run_ranks;
using fsdpinit::testing::violations;
using fsdpinit::testing::detail::collective_laws;
using fsdpinit::testing::detail::law_list;

/// The laws, of a communicator without collectives: they are about what stands in for them.
template <class C>
void expect_lawful_without_refinements() {
  static_assert(!CollectiveCommunicator<C>);
  for (const std::size_t ranks : {1U, 2U, 3U, 4U}) {
    SCOPED_TRACE(ranks);
    run_ranks(ranks, [](threads_communicator& world) {
      C wrapped(world);
      law_list laws;
      collective_laws<C>(wrapped, laws, 30).run();
      EXPECT_EQ(laws.take(), violations{});
    });
  }
}

TEST(Collectives, NeedBroadcastsOnly) { expect_lawful_without_refinements<minimal_communicator>(); }
TEST(Collectives, UseAScatter) { expect_lawful_without_refinements<scattering_communicator>(); }
TEST(Collectives, UseStartedBroadcasts) { expect_lawful_without_refinements<interruptible_communicator>(); }
TEST(Collectives, UseAStartedScatter) { expect_lawful_without_refinements<group_communicator>(); }
TEST(Collectives, UseAScatterBesideStartedBroadcasts) {
  expect_lawful_without_refinements<half_blocking_communicator>();
}

TEST(Collectives, UseWhatTheCommunicatorHas) {
  run_ranks(2, [](threads_communicator& world) {
    const fsdpinit::testing::call_counter counter;
    fsdpinit::testing::faulty_communicator counted(world, counter);
    std::vector<std::byte> all(4);
    fsdpinit::all_gather(counted, bytes_view(all).subspan(2 * world.rank(), 2), all, deadline::after(30));
    const std::vector<float> contribution(4);
    std::vector<float> own(2);
    fsdpinit::reduce_scatter(counted, contribution, own, deadline::after(30));
    EXPECT_EQ(counter.calls(), 2U);
  });
}

TEST(Collectives, RefuseSizesThatDoNotFitTogether) {
  run_ranks(2, [](threads_communicator& world) {
    minimal_communicator minimal(world);
    std::vector<std::byte> bytes(7);
    std::vector<float> numbers(7);
    const auto refused = [&](auto& comm) {
      expect_error(errc::invalid_argument, "own", "3 bytes of each of 2 ranks are not 7",
                   [&] { fsdpinit::all_gather(comm, mutable_bytes(bytes).first(3), bytes, deadline::after(30)); });
      expect_error(errc::invalid_argument, "own", "3 numbers of each of 2 ranks are not 7",
                   [&] { fsdpinit::reduce_scatter(comm, numbers, std::span(numbers).first(3), deadline::after(30)); });
      const std::size_t other[] = {1 - world.rank()};
      expect_error(errc::invalid_argument, "group", "is not in the group",
                   [&] { fsdpinit::all_gather(comm, bytes, bytes, other, deadline::after(30)); });
    };
    refused(world);
    refused(minimal);
  });
}

TEST(Collectives, OfDifferentSizesInOneGroupAreAnError) {
  const auto sizes_differ = [](auto& comm, std::size_t rank) {
    std::vector<std::byte> own(4 + rank);
    std::vector<std::byte> all(2 * own.size());
    const std::size_t pair[] = {0, 1};
    fsdpinit::all_gather(comm, own, all, pair, deadline::after(30));
  };
  const auto by_broadcasts = errors_of_ranks(3, [&](std::size_t rank, threads_communicator& world) {
    interruptible_communicator broadcasts(world);
    const auto mine = attempt([&] {
      if (rank != 2) {
        sizes_differ(broadcasts, rank);
        return;
      }
      const std::size_t alone[] = {2};
      fsdpinit::all_gather(broadcasts, {}, {}, alone, deadline::after(30));
    });
    broadcasts.interrupt();
    if (mine && mine->code() != errc::interrupted) {
      throw error(*mine);
    }
  });
  const auto of_threads = errors_of_ranks(2, [&](std::size_t rank, threads_communicator& world) {
    const auto mine = attempt([&] { sizes_differ(world, rank); });
    world.interrupt();
    throw error(*mine);
  });
  EXPECT_TRUE(by_broadcasts[0].has_value() || by_broadcasts[1].has_value());
  EXPECT_FALSE(by_broadcasts[2].has_value());
  for (const std::size_t rank : {0U, 1U}) {
    if (!by_broadcasts[rank]) {
      continue;  // the other one was first
    }
    EXPECT_EQ(by_broadcasts[rank]->code(), errc::communication);
    EXPECT_EQ(by_broadcasts[rank]->text().find(rank == 0 ? "rank 1 has 2 parts of 5, this one 2 of 4" : "rank 0 has"),
              0U)
        << by_broadcasts[rank]->what();
  }
  EXPECT_TRUE(of_threads[0]->code() == errc::communication || of_threads[1]->code() == errc::communication);
}

TEST(Collectives, OfTwoKindsAtOnePlaceAreAnError) {
  const auto errors = errors_of_ranks(2, [](std::size_t rank, threads_communicator& world) {
    std::array<float, 4> numbers{};
    const auto mine = attempt([&] {
      if (rank == 0) {
        world.all_gather(std::as_bytes(std::span(numbers)).first(8), std::as_writable_bytes(std::span(numbers)), {},
                         deadline::after(30));
      } else {
        world.reduce_scatter(numbers, std::span(numbers).last(2), {}, deadline::after(30));
      }
    });
    world.interrupt();
    throw error(*mine);
  });
  EXPECT_TRUE(errors[0]->code() == errc::communication || errors[1]->code() == errc::communication);
}

TEST(Collectives, TheSignOfZeroIsThatOfTheFirstOfThem) {
  run_ranks(2, [](threads_communicator& world) {
    std::array<float, 2> contribution{-0.0F, -0.0F};
    std::array<float, 1> own{1.0F};
    world.reduce_scatter(contribution, own, {}, deadline::after(30));
    EXPECT_TRUE(std::signbit(own[0])) << "a sum that began with +0 would not keep it";
  });
  self_communicator alone;
  const std::array<float, 1> contribution{-0.0F};
  std::array<float, 1> own{1.0F};
  alone.reduce_scatter(contribution, own, {}, deadline::never());
  EXPECT_TRUE(std::signbit(own[0]));
}

TEST(Collectives, AnInterruptionReachesARankThatWaitsAlready) {
  const auto errors = errors_of_ranks(3, [](std::size_t rank, threads_communicator& world) {
    if (rank == 2) {
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
      world.interrupt();
      return;
    }
    std::vector<std::byte> all(20);
    const std::size_t pair[] = {0, 1};
    if (rank == 0) {
      world.all_gather(mutable_bytes(all).first(10), all, pair, deadline::after(30));
    }
  });
  ASSERT_TRUE(errors[0].has_value());
  EXPECT_EQ(errors[0]->code(), errc::interrupted);
}

TEST(Collectives, ARankThatGaveUpTakesItsBufferBack) {
  const auto errors = errors_of_ranks(2, [](std::size_t rank, threads_communicator& world) {
    std::vector<std::byte> all(2000);
    if (rank == 0) {
      std::vector<std::byte> own(1000);
      const auto gave_up = attempt([&] { world.all_gather(own, all, {}, deadline::after(0.02)); });
      std::vector<std::byte>().swap(own);  // a peer that read it now would be caught by AddressSanitizer
      throw error(*gave_up);
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(150));
    const std::vector<std::byte> own(1000);
    world.all_gather(own, all, {}, deadline::after(0.05));
  });
  for (const std::size_t rank : {0U, 1U}) {
    ASSERT_TRUE(errors[rank].has_value());
    EXPECT_EQ(errors[rank]->code(), errc::peer_lost);
  }
}

}  // namespace
}  // namespace collectives_test
