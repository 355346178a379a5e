#include "support/fake_cuda.hpp"
#include "support/fake_nccl.hpp"
#include "support/gpu_doubles.hpp"
#include "support/reference_model.hpp"
#include <fsdpinit/communicators/nccl_communicator.hpp>
#include <fsdpinit/communicators/threads.hpp>
#include <fsdpinit/fsdpinit.hpp>
#include <fsdpinit/memory/cuda_memory.hpp>
#include <fsdpinit/testing/call_counter.hpp>
#include <fsdpinit/testing/faults.hpp>
#include <fsdpinit/testing/rank_harness.hpp>

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

/// \file
/// Over an NCCL communicator of a framework's.

namespace nccl_ref_test {
namespace {

using namespace fsdpinit;
using namespace fsdpinit::testing_support;
using fsdpinit::testing::call_counter;
using fsdpinit::testing::errors_of_ranks;
using fsdpinit::testing::fake_cuda;
using fsdpinit::testing::fake_nccl;
using fsdpinit::testing::faulty_source;
using fsdpinit::testing::run_ranks;

using communicator_ref = basic_nccl_communicator_ref<fake_nccl, fake_cuda, threads_communicator>;
using device_memory = basic_cuda_memory<fake_cuda>;

static_assert(GroupCommunicator<communicator_ref> && InterruptibleCommunicator<communicator_ref>);
static_assert(CanAccess<communicator_ref, device_memory> && CanAccess<communicator_ref, host_memory>);

constexpr std::size_t ranks = 3;
constexpr nccl_options small{.buffer_bytes = 2 * kib, .deadline_seconds = 20};

/// What a framework does first of all.
fake_nccl::comm connected(threads_communicator& world, fake_nccl nccl, std::size_t rank) {
  fake_nccl::unique_id id{};
  if (world.rank() == 0) {
    EXPECT_EQ(nccl.make_id(&id), fake_nccl::success);
  }
  world.broadcast(std::as_writable_bytes(std::span(&id, 1)), 0);
  fake_nccl::comm made;
  int code = nccl.connect(&made, static_cast<int>(ranks), id, static_cast<int>(rank));
  while (code == fake_nccl::in_progress) {
    EXPECT_EQ(nccl.progress(made, &code), fake_nccl::success);
  }
  EXPECT_EQ(code, fake_nccl::success);
  return made;
}

/// One initialisation over what the framework has. A read of the source fails on rank 0 if `failing_read` is one.
struct attempts {
  const gpu_doubles& node;
  threads_communicator& world;
  communicator_ref& comm;
  reference_model model = varied_model();

  void run(std::uint64_t failing_read = ~std::uint64_t{0}, const char* missing = nullptr) {
    device_memory memory(0, node.cuda);
    dynamic_module module = model.module(memory, world.rank() == 0);
    if (missing != nullptr) {
      module.add_parameter(missing, dtype::f32, {3});
    }
    const call_counter reads;
    reads.fail_at(failing_read);
    initialize(module, faulty_source(model.source(), reads), comm, {.bucket_bytes = 300, .deadline_seconds = 20},
               {.memory = memory});
    EXPECT_EQ(model.faults_of(module, memory, ranks, world.rank()), "");
  }
  [[nodiscard]] errc code_of(std::uint64_t failing_read, const char* missing = nullptr) {
    const auto thrown = attempt([&] { run(failing_read, missing); });
    EXPECT_TRUE(thrown);
    return thrown ? thrown->code() : errc{};
  }
};

class NcclCommunicatorRef : public gpu_doubles_test {
 protected:
  /// `use(attempts)` on each rank, over communicators that are `left` afterwards, and are then destroyed by their owner.
  template <class Use>
  void over_theirs(std::size_t left, Use&& use) {
    run_ranks(ranks, [&](std::size_t rank, threads_communicator& world) {
      const fake_nccl::comm theirs = connected(world, node.nccl, rank);
      bool aborted = false;
      {
        communicator_ref comm(world, 0, theirs, small, node.nccl, node.cuda);
        attempts each{.node = node, .world = world, .comm = comm};
        use(each);
        aborted = comm.aborted();
      }
      static_cast<void>(world.all_reduce_max(0));
      EXPECT_EQ(node.nccl.left(), left);
      EXPECT_EQ(aborted, left == 0);
      static_cast<void>(world.all_reduce_max(0));
      if (!aborted) {
        node.nccl.destroy(theirs);
      }
    });
  }
};

TEST_F(NcclCommunicatorRef, InitialisesAndLeavesTheCommunicatorToItsOwner) {
  over_theirs(ranks, [](attempts& over) {
    over.run();
    over.run();
  });
}

TEST_F(NcclCommunicatorRef, KeepsTheCommunicatorWhereNothingWasUnderWay) {
  over_theirs(ranks, [](attempts& over) {
    EXPECT_EQ(over.code_of(~std::uint64_t{0}, "nobody.has.this"), errc::missing_tensor);
    over.run();
  });
}

TEST_F(NcclCommunicatorRef, EndsWithTheCommunicatorWhereARankFailsInMidStream) {
  over_theirs(0, [](attempts& over) {
    EXPECT_EQ(over.code_of(over.world.rank() == 0 ? 2 : ~std::uint64_t{0}), errc::io);
    EXPECT_EQ(over.code_of(~std::uint64_t{0}), errc::peer_lost) << "it cannot be made anew here";
    EXPECT_EQ(over.code_of(~std::uint64_t{0}), errc::peer_lost) << "nor later";
  });
}

/// Call `index` of NCCL fails on rank `failing`. \return whether there was such a call.
bool expect_same_end(std::size_t failing, std::uint64_t index) {
  const gpu_doubles node;
  bool was_made = false;
  std::vector<std::string> ends(ranks);
  run_ranks(ranks, [&](std::size_t rank, threads_communicator& world) {
    const gpu_doubles mine = node.of_one_rank();
    const fake_nccl::comm theirs = connected(world, node.nccl, rank);
    if (rank == failing) {
      mine.nccl.calls.fail_at(index);
    }
    bool aborted = false;
    const auto end_of = [&](auto&& fn) {
      const auto thrown = attempt(fn);
      ends[rank] += thrown ? thrown->what() : "done";
      return !thrown;
    };
    const bool was_there = end_of([&] {
      communicator_ref comm(world, 0, theirs, small, mine.nccl, mine.cuda);
      attempts over{.node = mine, .world = world, .comm = comm};
      if (!end_of([&] { over.run(); })) {
        const auto second = attempt([&] { over.run(); });
        EXPECT_EQ(second.has_value(), comm.aborted());
        EXPECT_TRUE(!second || second->code() == errc::peer_lost) << second->what();
      }
      aborted = comm.aborted();
    });
    EXPECT_TRUE(was_there || !aborted);
    if (rank == failing) {
      was_made = mine.nccl.calls.has_failed();
    }
    if (!aborted) {
      fake_nccl(node.nccl).destroy(theirs);
    }
  });
  EXPECT_EQ(ends, std::vector(ranks, ends.front()));
  expect_clean(node);
  return was_made;
}

TEST_F(NcclCommunicatorRef, AnyCallOfNcclThatFailsIsTheSameErrorEverywhereAndTheCommunicatorIsEveryonesOrNoOnes) {
  sweep_calls(60, expect_same_end);
}

TEST_F(NcclCommunicatorRef, RefusesACommunicatorOfOtherRanks) {
  const threads_world world(ranks);
  const auto errors = errors_of_ranks(world, [&](std::size_t rank, threads_communicator& host) {
    const fake_nccl::comm theirs = connected(host, node.nccl, ranks - 1 - rank);
    const auto thrown = attempt([&] { const communicator_ref comm(host, 0, theirs, small, node.nccl, node.cuda); });
    node.nccl.destroy(theirs);
    if (thrown) {
      throw error(*thrown);
    }
  });
  for (const auto& each : errors) {
    ASSERT_TRUE(each);
    EXPECT_EQ(each->code(), errc::invalid_argument);
    EXPECT_EQ(each->subject(), "comm");
    EXPECT_STREQ(each->what(), errors.front()->what());
  }
}

}  // namespace
}  // namespace nccl_ref_test
