#include "support/expect_error.hpp"
#include "support/gpu_doubles.hpp"
#include "support/sanitizers.hpp"
#include "support/temp_dir.hpp"
#include "support/test_seed.hpp"
#include <fsdpinit/communicators/file_rendezvous.hpp>
#include <fsdpinit/communicators/nccl_communicator.hpp>
#include <fsdpinit/communicators/nccl_control.hpp>
#include <fsdpinit/testing/faults.hpp>
#include <fsdpinit/testing/laws.hpp>
#include <fsdpinit/testing/stalls.hpp>

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

/// \file
/// Ranks that have nothing but NCCL, over doubles of it and of the CUDA runtime. The threads' own channel carries the id, and nothing
/// else.

namespace nccl_control_test {
namespace {

using namespace fsdpinit;
using namespace fsdpinit::testing_support;
using fsdpinit::testing::call_counter;
using fsdpinit::testing::check_communicator;
using fsdpinit::testing::errors_of_ranks;
using fsdpinit::testing::fake_cuda;
using fsdpinit::testing::fake_nccl;
using fsdpinit::testing::faulty_source;
using fsdpinit::testing::run_ranks;
using fsdpinit::testing::stall_point;
using fsdpinit::testing::violations;

using control_channel = basic_nccl_control<fake_nccl, fake_cuda>;
using communicator = basic_nccl_communicator<fake_nccl, fake_cuda, control_channel>;
using device_memory = basic_cuda_memory<fake_cuda>;

static_assert(AlertingControl<control_channel>);
static_assert(!NonBlockingCommunicator<control_channel> && !FailableControl<control_channel>);
static_assert(GroupCommunicator<communicator> && CollectiveCommunicator<communicator>);
static_assert(AlertingControl<communicator>);
static_assert(!InterruptibleCommunicator<communicator> && !FailableControl<communicator>);
static_assert(CanAccess<communicator, device_memory> && CanAccess<communicator, host_memory>);

/// A user's own function: the id goes by another channel.
auto meet_over(threads_communicator& host) {
  return [&host](mutable_bytes id, std::size_t, deadline limit) { host.broadcast(id, 0, limit); };
}

nccl_control_options options_of(const threads_communicator& host, double deadline_seconds,
                                double patience_seconds = 20) {
  return {.rank = host.rank(),
          .size = host.size(),
          .deadline_seconds = deadline_seconds,
          .patience_seconds = patience_seconds};
}

template <class Use>
void use_nccl_alone(threads_communicator& host, const gpu_doubles& mine, double deadline_seconds,
                    double patience_seconds, Use&& use) {
  control_channel control(options_of(host, deadline_seconds, patience_seconds), meet_over(host), mine.nccl, mine.cuda);
  communicator comm(control, 0, {.buffer_bytes = 2 * kib, .deadline_seconds = deadline_seconds}, mine.nccl, mine.cuda);
  use(comm);
}

struct nccl_alone {
  template <class Use>
  static void run(threads_communicator& host, const gpu_doubles& mine, Use&& use) {
    use_nccl_alone(host, mine, 20, 20, std::forward<Use>(use));
  }
};

class NcclControl : public gpu_doubles_test {};
class NcclAlone : public gpu_doubles_test {};

TEST_F(NcclControl, KeepsTheLaws) {
  for (const std::size_t ranks : {1U, 2U, 3U, 4U}) {
    SCOPED_TRACE(ranks);
    run_ranks(ranks, [&](threads_communicator& host) {
      control_channel control(options_of(host, 20), meet_over(host), node.nccl, node.cuda);
      EXPECT_EQ(check_communicator(control), violations{});
    });
  }
}

TEST_F(NcclControl, RefusesARankThatIsNone) {
  expect_error(errc::invalid_argument, "rank", "there is no rank 2 of 2; count them from 0", [&] {
    const control_channel control(
        {.rank = 2, .size = 2}, [](mutable_bytes, std::size_t, deadline) {}, node.nccl, node.cuda);
  });
}

TEST_F(NcclControl, SaysWhatAFunctionOfTheUsersThrowsAndOnWhichRank) {
  const auto thrown = thrown_by([&] {
    const control_channel control(
        {.rank = 3, .size = 4}, [](mutable_bytes, std::size_t, deadline) { throw std::runtime_error("no store"); },
        node.nccl, node.cuda);
  });
  ASSERT_TRUE(thrown);
  EXPECT_EQ(thrown->code(), errc::user_exception);
  EXPECT_STREQ(thrown->what(), "no store (rank 3)");
}

TEST_F(NcclControl, ConnectsByAFileThatIsGoneThen) {
  const temp_dir folder;
  run_ranks(3, [&](std::size_t rank, threads_communicator& host) {
    control_channel control(options_of(host, 20), file_rendezvous(folder / "job"), node.nccl, node.cuda);
    EXPECT_EQ(control.all_reduce_max(rank, deadline::after(20)), 2U);
  });
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
}

TEST_F(NcclControl, ByTheFileOfAnEarlierJobConnectsNobodyAndNamesIt) {
  const temp_dir folder;
  const std::string path = folder / "job";
  {  // the earlier job's rank 0, killed
    file_rendezvous meet(path);
    std::uint64_t id = 4711;
    meet(std::as_writable_bytes(std::span(&id, 1)), 0, deadline::after(20));
    std::filesystem::copy(path, folder / "kept");
  }
  std::filesystem::rename(folder / "kept", path);
  const auto errors = errors_of_ranks(2, [&](threads_communicator& host) {
    const control_channel control(options_of(host, 0.1), file_rendezvous(path), node.nccl, node.cuda);
  });
  ASSERT_TRUE(errors[0] && errors[1]);
  EXPECT_EQ(errors[0]->code(), errc::io);
  EXPECT_EQ(errors[0]->subject(), path);
  EXPECT_EQ(errors[0]->rank(), 0);
  EXPECT_EQ(errors[1]->code(), errc::peer_lost);
  EXPECT_EQ(errors[1]->subject(), path);
  EXPECT_EQ(errors[1]->rank(), 1);
  EXPECT_NE(errors[1]->text().find("an id that an earlier one left leads nowhere"), std::string::npos);
}

TEST_F(NcclControl, WhereARankDoesNotComeSaysSoInTime) {
  const double began = monotonic_seconds();
  const auto errors = errors_of_ranks(3, [&](std::size_t rank, threads_communicator& host) {
    const auto meet = meet_over(host);
    if (rank == 2) {
      std::uint64_t id = 0;
      meet(std::as_writable_bytes(std::span(&id, 1)), rank, deadline::after(20));
    } else {
      const control_channel control(options_of(host, 0.2), meet, node.nccl, node.cuda);
    }
  });
  EXPECT_LT(monotonic_seconds() - began, 5.0);
  for (std::size_t rank = 0; rank < 2; ++rank) {
    ASSERT_TRUE(errors[rank]);
    EXPECT_EQ(errors[rank]->code(), errc::peer_lost);
    EXPECT_EQ(errors[rank]->rank(), static_cast<std::int32_t>(rank));
    EXPECT_NE(errors[rank]->text().find("not all of 3 ranks"), std::string::npos) << errors[rank]->what();
  }
}

TEST_F(NcclControl, WaitsALittleForARankThatWaitedForOthers) {
  run_ranks(2, [&](std::size_t rank, threads_communicator& host) {
    control_channel control(options_of(host, 20), meet_over(host), node.nccl, node.cuda);
    if (rank == 1) {
      std::this_thread::sleep_for(std::chrono::milliseconds(60));
    }
    EXPECT_EQ(control.all_reduce_max(rank, deadline::after(0.05)), 1U);
  });
}

TEST_F(NcclControl, IsOverOnceItHasLostAPeer) {
  run_ranks(2, [&](std::size_t rank, threads_communicator& host) {
    control_channel control(options_of(host, 20, 0.05), meet_over(host), node.nccl, node.cuda);
    EXPECT_FALSE(control.interrupted());
    static_cast<void>(host.all_reduce_max(0));
    std::byte byte{};
    if (rank == 0) {
      EXPECT_EQ(thrown_by([&] { control.broadcast({&byte, 1}, 1, deadline::after(0.05)); })->code(), errc::peer_lost);
      for (int again = 0; again < 2; ++again) {
        expect_error(errc::peer_lost, "NCCL", "start the job again",
                     [&] { static_cast<void>(control.all_reduce_max(1, deadline::after(20))); });
      }
      expect_error(errc::peer_lost, "NCCL", "start the job again", [&] { static_cast<void>(control.interrupted()); });
    }
    static_cast<void>(host.all_reduce_max(0));
  });
}

TEST_F(NcclControl, SaysAtOnceWhatNcclHasNoticed) {
  run_ranks(2, [&](std::size_t rank, threads_communicator& host) {
    control_channel control(options_of(host, 20), meet_over(host), node.nccl, node.cuda);
    static_cast<void>(host.all_reduce_max(0));
    if (rank == 0) {
      node.nccl.break_down();
      EXPECT_EQ(thrown_by([&] { static_cast<void>(control.interrupted()); })->code(), errc::peer_lost);
      const auto thrown = thrown_by([&] { static_cast<void>(control.all_reduce_max(1)); });  // without a deadline
      EXPECT_EQ(thrown->code(), errc::peer_lost);
      EXPECT_EQ(thrown->native_code(), fake_nccl::peer_gone);
    }
    static_cast<void>(host.all_reduce_max(0));
  });
}

TEST_F(NcclAlone, KeepsTheLaws) {
  for (const std::size_t ranks : {1U, 2U, 3U, 4U}) {
    SCOPED_TRACE(ranks);
    run_ranks(ranks, [&](threads_communicator& host) {
      use_nccl_alone(host, node, 20, 20, [](communicator& comm) { EXPECT_EQ(check_communicator(comm), violations{}); });
    });
  }
}

TEST_F(NcclAlone, InitialisesUnderScatter) {
  expect_shards_on_the_device<nccl_alone, native_sharding<transport::scatter>>(node);
  expect_shards_on_the_device<nccl_alone, native_sharding<transport::scatter>>(node, 2);
}
TEST_F(NcclAlone, InitialisesUnderBroadcast) {
  expect_shards_on_the_device<nccl_alone, native_sharding<transport::broadcast>>(node);
}
TEST_F(NcclAlone, InitialisesUnderOwnReads) {
  expect_shards_on_the_device<nccl_alone, native_sharding<transport::own_read>>(node);
}
TEST_F(NcclAlone, InitialisesWhereEveryRankLoads) { expect_shards_on_the_device<nccl_alone, every_rank_loads>(node); }

TEST_F(NcclAlone, AReadThatFailsIsTheSameErrorEverywhereAndASecondAttemptWorks) {
  const reference_model model = varied_model();
  run_ranks(3, [&](std::size_t rank, threads_communicator& host) {
    use_nccl_alone(host, node, 20, 20, [&](communicator& comm) {
      device_memory memory(0, node.cuda);
      const options how{.bucket_bytes = 300, .deadline_seconds = 20};
      const call_counter counter;
      faulty_source<in_memory_source> source(model.source(), counter);
      const auto bring_up = [&](std::size_t reads) {
        counter.fail_at(reads);
        dynamic_module module = model.module(memory, rank == 0);
        const auto thrown =
            attempt([&] { static_cast<void>(initialize(module, source, comm, how, {.memory = memory})); });
        const std::uint64_t failed = comm.all_reduce_max(counter.has_failed() ? 1 : 0);
        ASSERT_EQ(thrown.has_value(), failed == 1) << "on rank " << rank << ", read " << reads;
        if (thrown) {
          EXPECT_EQ(thrown->code(), errc::io) << thrown->what();
          EXPECT_EQ(thrown->rank(), 0) << thrown->what();
        } else {
          EXPECT_EQ(model.faults_of(module, memory, 3, rank), "");
        }
      };
      for (const std::size_t reads : {0U, 1U, 40U, 1'000'000U}) {
        bring_up(reads);
      }
    });
  });
}

/// The others wait for its payload until their deadline, and find it at the agreement.
TEST_F(NcclAlone, ATransferThatFailsIsTheSameErrorEverywhereThoughTheOthersHaveWaitedForIt) {
  constexpr double seconds = 0.5;
  const reference_model model = varied_model();
  const auto errors = errors_of_ranks(3, [&](std::size_t rank, threads_communicator& host) {
    control_channel control(options_of(host, 20), meet_over(host), node.nccl, node.cuda);
    const gpu_doubles mine = node.of_one_rank();  // of the transfers alone
    communicator comm(control, 0, {.buffer_bytes = 2 * kib, .deadline_seconds = 20}, mine.nccl, mine.cuda);
    if (rank == 1) {
      mine.nccl.calls.fail_at(20);
    }
    device_memory memory(0, node.cuda);
    dynamic_module module = model.module(memory, rank == 0);
    const options how{.bucket_bytes = 300, .deadline_seconds = seconds};
    const auto bring_up = [&] { static_cast<void>(initialize(module, model.source(), comm, how, {.memory = memory})); };
    const auto thrown = thrown_by(bring_up);
    EXPECT_TRUE(module.get_parameter("embed.weight").is_meta());
    // Some have ended their transfers and some have not: there is no second attempt.
    EXPECT_EQ(name(thrown_by(bring_up)->code()), name(errc::peer_lost));
    throw error(*thrown);
  });
  expect_same_error(errors, errc::communication, "NCCL", 1, "injected failure");
}

// -- ranks that are lost

constexpr double deadline_of_the_lost = 0.2;
/// What survivors may take beyond what they wait for: the deadline in the stream, and it and the patience at an agreement.
constexpr double grace = 5;

/// A rank stops in a phase, or where it reports progress.
struct stopping_observer {
  const stall_point& point;
  std::string_view where;
  void phase(std::string_view name) const { stop(name); }
  void progress(std::uint64_t, std::uint64_t) const { stop("progress"); }
  void stop(std::string_view here) const {
    if (here == where) {
      point.pass();
    }
  }
};

TEST_F(NcclAlone, ALostRankEndsTheOthersInTime) {
  const reference_model model = varied_model();
  for (const auto& [lost, where] : {std::pair<std::size_t, std::string_view>{2, "open"},
                                    {1, "preflight"},
                                    {0, "allocate"},
                                    {2, "stream"},
                                    {0, "progress"},
                                    {1, "commit"}}) {
    SCOPED_TRACE(concat("rank ", lost, " in ", where));
    call_counter counter;
    counter.fail_at(0);
    const stall_point point(counter, 60);
    std::atomic<int> left = 2;
    const auto errors = errors_of_ranks(3, [&](std::size_t rank, threads_communicator& host) {
      use_nccl_alone(host, node, 20, deadline_of_the_lost, [&](communicator& comm) {
        device_memory memory(0, node.cuda);
        dynamic_module module = model.module(memory, rank == 0);
        const double began = monotonic_seconds();
        const auto thrown = attempt([&] {
          const options how{
              .bucket_bytes = 300, .deadline_seconds = deadline_of_the_lost, .progress_interval_seconds = 0};
          const stopping_observer watch{point, rank == lost ? where : std::string_view()};
          static_cast<void>(initialize(module, model.source(), comm, how, {.memory = memory, .observer = watch}));
        });
        if (rank != lost) {
          EXPECT_LT(monotonic_seconds() - began, 3 * deadline_of_the_lost + grace);
          if (--left == 0) {
            point.release();
          }
        }
        if (thrown) {
          throw error(*thrown);
        }
      });
    });
    for (std::size_t rank = 0; rank < 3; ++rank) {
      ASSERT_TRUE(errors[rank]) << "rank " << rank << " did not notice";
      EXPECT_EQ(name(errors[rank]->code()), name(errc::peer_lost)) << errors[rank]->what();
    }
  }
}

// -- calls that fail

/// What has become of one initialisation in which a call failed, or none.
struct outcome {
  std::uint64_t calls = 0;  // of the rank that failed
  std::vector<std::optional<error>> errors;
  double seconds = 0;
};

outcome fail_call(runtime which, std::size_t failing, std::optional<std::uint64_t> index, double deadline_seconds) {
  const gpu_doubles node;
  const reference_model model({{.fqn = "a", .extents = {9, 5}, .tied = {"b"}},
                               {.fqn = "c", .type = dtype::u8, .extents = {2, 24}, .how = shard{1}}});
  outcome out;
  const double began = monotonic_seconds();
  out.errors = errors_of_ranks(3, [&](std::size_t rank, threads_communicator& host) {
    const gpu_doubles mine = node.of_one_rank();
    const call_counter& calls = mine.calls(which);
    device_memory memory(0, mine.cuda);
    dynamic_module module = model.module(memory, rank == 0);
    const auto is_on_meta = [&] { return module.get_parameter("a").is_meta() && module.get_parameter("c").is_meta(); };
    if (rank == failing && index) {
      calls.fail_at(*index);
    }
    try {
      use_nccl_alone(host, mine, deadline_seconds, deadline_seconds, [&](communicator& comm) {
        const options how{.bucket_bytes = 40, .deadline_seconds = deadline_seconds};
        static_cast<void>(initialize(module, model.source(), comm, how, {.memory = memory}));
      });
    } catch (...) {
      EXPECT_TRUE(is_on_meta()) << "half a model on rank " << rank;
      calls.restart();
      throw;
    }
    if (rank == failing) {
      out.calls = calls.calls();
    }
    calls.restart();  // what follows is the test's own
    EXPECT_EQ(model.faults_of(module, memory, 3, rank), "");
  });
  out.seconds = monotonic_seconds() - began;
  expect_clean(node);
  return out;
}

/// Every rank ends, in time: the one whose call failed says so, the others that or that they have lost a peer.
/// \return whether all said the same.
bool expect_end(runtime which, std::size_t failing, std::uint64_t index) {
  constexpr double short_deadline = 0.2;
  const std::string where = concat("call ", index, " of rank ", failing);
  const outcome got = fail_call(which, failing, index, short_deadline);
  EXPECT_LT(got.seconds, 6 * short_deadline + 4 * grace) << where;
  bool same = true;
  for (std::size_t rank = 0; rank < 3; ++rank) {
    const std::optional<error>& each = got.errors[rank];
    same = same && each && got.errors[0] && std::string_view(each->what()) == got.errors[0]->what();
    if (!each || each->code() == errc::peer_lost) {
      continue;  // it was lost to its peers, or all was done by then
    }
    EXPECT_EQ(name(each->code()), name(which == runtime::nccl ? errc::communication : errc::device))
        << where << ": " << each->what();
    EXPECT_EQ(each->rank(), static_cast<std::int32_t>(failing)) << where << ": " << each->what();
  }
  if (got.errors[(failing + 1) % 3] || got.errors[(failing + 2) % 3]) {
    EXPECT_TRUE(got.errors[failing].has_value()) << where << ": only its peers noticed";
  }
  return same;
}

/// Nearly all of the time is spent waiting for deadlines: many at once.
void sweep_failing_calls(runtime which) {
  constexpr std::uint64_t each = is_sanitized ? 32 : 4;
  const std::uint64_t first = test_seed() % each;
  std::vector<std::pair<std::size_t, std::uint64_t>> injections;
  for (std::size_t rank = 0; rank < 3; ++rank) {
    const outcome clean = fail_call(which, rank, std::nullopt, 20);
    for (std::uint64_t call = first; call < clean.calls; call += each) {
      injections.emplace_back(rank, call);
    }
  }
  std::atomic<std::size_t> next = 0;
  std::atomic<std::size_t> agreed = 0;
  std::vector<std::thread> workers;
  for (int i = 0; i < 16; ++i) {
    workers.emplace_back([&] {
      for (std::size_t at = next++; at < injections.size() && !::testing::Test::HasFailure(); at = next++) {
        agreed += expect_end(which, injections[at].first, injections[at].second) ? 1U : 0U;
      }
    });
  }
  for (std::thread& worker : workers) {
    worker.join();
  }
  std::printf("%zu calls failed, %zu of them the same error on all ranks\n", injections.size(), agreed.load());
  EXPECT_GT(injections.size(), 200U / each);
}

TEST(NcclAloneSweep, AnyCallOfNcclThatFailsOnAnyRankEndsAllOfThemInTime) { sweep_failing_calls(runtime::nccl); }
TEST(NcclAloneSweep, AnyCallOfCudaThatFailsOnAnyRankEndsAllOfThemInTime) { sweep_failing_calls(runtime::cuda); }

}  // namespace
}  // namespace nccl_control_test
