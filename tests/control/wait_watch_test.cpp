#include "support/archetypes.hpp"
#include "support/expect_error.hpp"
#include "support/process_signal.hpp"
#include "support/reference_model.hpp"
#include <fsdpinit/control/wait_watch.hpp>
#include <fsdpinit/core/deadline.hpp>
#include <fsdpinit/fsdpinit.hpp>
#include <fsdpinit/testing/rank_harness.hpp>
#include <fsdpinit/testing/stalls.hpp>

#include <gtest/gtest.h>

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include <pthread.h>

/// \file
/// An observer hears of waits that last. Nothing here depends on how long a wait really takes: a test waits until it was told.

namespace wait_watch_test {
namespace {

using namespace fsdpinit;
using namespace fsdpinit::testing_support;
using fsdpinit::detail::wait_scope;
using fsdpinit::detail::wait_watch;
using fsdpinit::detail::watched_control;
using fsdpinit::testing::call_counter;
using fsdpinit::testing::errors_of_ranks;
using fsdpinit::testing::run_ranks;
using fsdpinit::testing::stall_point;
using fsdpinit::testing::stalling_communicator;

constexpr double soon = 0.001;
constexpr double never = 3600;  // longer than a test may take

/// What was told, for whoever waits for it.
class notices : public null_observer {
 public:
  struct notice {
    std::string what;
    double seconds = 0;
  };

  void waiting(const char* what, double seconds) noexcept {
    const std::lock_guard lock(mutex_);
    told_.push_back({.what = what, .seconds = seconds});
    changed_.notify_all();
  }
  /// As soon as there are `count`, all that there are.
  [[nodiscard]] std::vector<notice> at_least(std::size_t count) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return told_.size() >= count; });
    return told_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<notice> told_;
};

TEST(WaitWatch, TellsAgainWhenAWaitHasBecomeTwiceAsLong) {
  notices told;
  wait_watch watch(told, soon);
  watch.start();
  const wait_scope waiting(&watch, "a friend");
  const std::vector<notices::notice> all = told.at_least(4);
  EXPECT_GE(all[0].seconds, soon);
  for (std::size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(all[i].what, "a friend");
    if (i != 0) {
      EXPECT_GE(all[i].seconds, 2 * all[i - 1].seconds);
    }
  }
}

TEST(WaitWatch, CountsEachWaitFromItsOwnBeginning) {
  notices told;
  wait_watch watch(told, soon);
  watch.start();
  {
    const wait_scope waiting(&watch, "the first");
    static_cast<void>(told.at_least(3));
  }
  const std::size_t before = told.at_least(0).size();
  const double began = monotonic_seconds();
  const wait_scope waiting(&watch, "the second");
  const notices::notice next = told.at_least(before + 1)[before];
  EXPECT_EQ(next.what, "the second");
  EXPECT_LE(next.seconds, monotonic_seconds() - began);
}

TEST(WaitWatch, TellsNothingBetweenWaits) {
  struct busy_rank : null_observer {
    std::atomic<bool> waits = false;
    std::atomic<int> told = 0;
    std::atomic<int> told_between = 0;
    void waiting(const char* /*what*/, double /*seconds*/) noexcept {
      std::this_thread::yield();  // more time for the rank's thread to go on, which it must not
      ++(waits ? told : told_between);
    }
  } rank;
  wait_watch watch(rank, soon);
  watch.start();
  for (int i = 1; i <= 20; ++i) {
    rank.waits = true;
    {
      const wait_scope waiting(&watch, "a friend");
      while (rank.told < i) {
        std::this_thread::yield();
      }
    }
    rank.waits = false;
    std::this_thread::yield();
  }
  EXPECT_EQ(rank.told_between, 0);
}

TEST(WaitWatch, EndsWithoutWaitingForItsNextLook) {
  notices told;
  wait_watch watch(told, never);
  watch.start();
  watch.begin("a friend");
}

TEST(WaitWatch, DoesNothingUnlessItIsStarted) {
  notices told;
  wait_watch watch(told, soon);
  const wait_scope waiting(&watch, "a friend");
}

/// Agreements ask the channel whether ranks fail together; one that is watched must not say otherwise.
TEST(WaitWatch, AChannelThatIsWatchedFailsAsTheChannelDoes) {
  run_ranks(1, [&](std::size_t, threads_communicator& together) {
    notices told;
    wait_watch watch(told, never);
    watched_control watched(together, &watch);
    EXPECT_TRUE(control_ref(watched).fails_together());
    minimal_communicator alone(together);
    watched_control watched_alone(alone, &watch);
    EXPECT_FALSE(control_ref(watched_alone).fails_together());
  });
}

TEST(WaitWatch, HandlesNoSignals) {
  notices told;
  wait_watch watch(told, never);
  watch.start();
  EXPECT_TRUE(signals_wait_for_this_thread());
}

/// While it lives threads ask for more memory than there are addresses: there will be none.
class no_more_threads {
 public:
  no_more_threads() {
    pthread_getattr_default_np(&before_);
    pthread_attr_t large;
    pthread_attr_init(&large);
    pthread_attr_setstacksize(&large, std::size_t{1} << 48U);
    EXPECT_EQ(pthread_setattr_default_np(&large), 0);
    pthread_attr_destroy(&large);
  }
  no_more_threads(const no_more_threads&) = delete;
  no_more_threads& operator=(const no_more_threads&) = delete;
  ~no_more_threads() {
    pthread_setattr_default_np(&before_);
    pthread_attr_destroy(&before_);
  }

 private:
  pthread_attr_t before_{};
};

reference_model small_model() {
  return reference_model({{.fqn = "layers.0.up", .type = dtype::u8, .extents = {8, 3}},
                          {.fqn = "layers.1.up", .type = dtype::u8, .extents = {8, 3}}});
}

/// Ends `point` once this rank hears that it waits, and keeps what it heard first, and in which phase.
struct patient_observer {
  explicit patient_observer(stall_point where) : point(std::move(where)) {}
  void phase(const char* name) { current = name; }
  void progress(std::uint64_t /*done*/, std::uint64_t /*total*/) noexcept {}
  void waiting(const char* what, double seconds) noexcept {
    if (heard == nullptr) {
      heard = what;
      in_phase = current;
      waited = seconds;
    }
    point.release();
  }
  stall_point point;
  const char* current = "";
  const char* heard = nullptr;
  const char* in_phase = "";
  double waited = 0;
};

/// Stops its own rank at a call after a phase has begun. It is no WaitingObserver.
struct stopping_observer {
  void phase(const char* name) const {
    if (std::string_view(name) == stopping_phase) {
      counter.fail_at(calls_later);
    }
  }
  void progress(std::uint64_t /*done*/, std::uint64_t /*total*/) const noexcept {}

  call_counter counter;
  std::string_view stopping_phase;
  std::uint64_t calls_later = 0;
};
static_assert(!WaitingObserver<stopping_observer> && WaitingObserver<patient_observer>);

/// What rank 1 hears, and when, while rank 0 stands still, `calls_later` calls after one of its phases has begun.
template <class Load>
void expect_told(std::string_view stopping_phase, std::uint64_t calls_later, const std::string& heard,
                 const std::string& in_phase, Load&& load) {
  const reference_model model = small_model();
  const call_counter counter;
  const stall_point point(counter, never);
  run_ranks(2, [&](std::size_t rank, threads_communicator& world) {
    host_memory memory;
    dynamic_module module = model.module(memory, rank == 0);
    if (rank == 0) {
      stalling_communicator<threads_communicator> links(world, point);
      load(module, model, links, memory,
           stopping_observer{.counter = counter, .stopping_phase = stopping_phase, .calls_later = calls_later});
    } else {
      patient_observer watch(point);
      load(module, model, world, memory, watch);
      ASSERT_NE(watch.heard, nullptr);
      EXPECT_EQ(watch.heard, heard);
      EXPECT_EQ(watch.in_phase, in_phase);
      EXPECT_GE(watch.waited, wait_watch::usual_seconds);
    }
  });
}

constexpr auto load_shards = [](auto& module, const reference_model& model, auto& links, host_memory& memory,
                                auto&& watch) {
  initialize(module, model.source(), links, {.bucket_bytes = 16}, {.memory = memory, .observer = watch});
};

TEST(LongWaits, ForAnAgreementAreTold) { expect_told("preflight", 0, "other ranks", "preflight", load_shards); }
// Its first call afterwards is the agreement that ends the phase before.
TEST(LongWaits, ForABucketAreTold) { expect_told("stream", 1, "a bucket", "stream", load_shards); }
TEST(LongWaits, ForPretrainedWeightsAreTold) {
  expect_told("read", 0, "other ranks", "read",
              [](auto& module, const reference_model& model, auto& links, host_memory& memory, auto&& watch) {
                load_pretrained(module, model.source(), links, {.active = true}, {},
                                {.memory = memory, .observer = watch});
              });
}

TEST(LongWaits, WithoutAThreadToTellThemAreAnErrorOnEveryRank) {
  const reference_model model = small_model();
  const auto errors = errors_of_ranks(2, [&](std::size_t rank, threads_communicator& world) {
    std::byte there{};
    world.broadcast({&there, 1}, 0);
    world.broadcast({&there, 1}, 1);  // now both ranks have their threads
    host_memory memory;
    dynamic_module module = model.module(memory, rank == 0);
    if (rank == 0) {
      initialize(module, model.source(), world, {}, {.memory = memory});
    } else {
      const no_more_threads here;
      initialize(module, model.source(), world, {}, {.memory = memory, .observer = notices()});
    }
  });
  expect_same_error(errors, errc::io, "watch", 1, "the system gives no thread");
}

}  // namespace
}  // namespace wait_watch_test
