#include "support/expect_error.hpp"
#include "support/heap_faults.hpp"
#include "support/reference_model.hpp"
#include <fsdpinit/control/agreement.hpp>
#include <fsdpinit/control/wait_polls.hpp>
#include <fsdpinit/core/deadline.hpp>
#include <fsdpinit/fsdpinit.hpp>
#include <fsdpinit/testing/rank_harness.hpp>
#include <fsdpinit/testing/stalls.hpp>

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <stdexcept>
#include <stop_token>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

/// \file
/// A program ends a call from one rank: by a stop that it requests, or by what its observer's poll() throws.

namespace stop_test {
namespace {

using namespace fsdpinit;
using namespace fsdpinit::testing_support;
using fsdpinit::testing::call_counter;
using fsdpinit::testing::errors_of_ranks;
using fsdpinit::testing::run_ranks;
using fsdpinit::testing::stall_point;
using fsdpinit::testing::stalling_communicator;

constexpr double never = 3600;  // longer than a test may take

reference_model small_model() {
  return reference_model({{.fqn = "layers.0.up", .type = dtype::u8, .extents = {8, 3}},
                          {.fqn = "layers.1.up", .type = dtype::u8, .extents = {8, 3}},
                          {.fqn = "layers.2.up", .type = dtype::u8, .extents = {8, 3}}});
}

/// Control without failures that end operations everywhere, as MPI's and a store's.
struct plain_control {
  explicit plain_control(threads_communicator& over) : inner(&over) {}
  [[nodiscard]] std::size_t rank() const { return inner->rank(); }
  [[nodiscard]] std::size_t size() const { return inner->size(); }
  void broadcast(mutable_bytes buffer, std::size_t root, deadline limit = deadline::never()) const {
    inner->broadcast(buffer, root, limit);
  }
  [[nodiscard]] std::uint64_t all_reduce_max(std::uint64_t value, deadline limit) const {
    return inner->all_reduce_max(value, limit);
  }
  threads_communicator* inner;
};
static_assert(!FailableControl<plain_control>);

/// Payload that cannot be interrupted: a rank that fails takes part until the next agreement.
struct plain_data : plain_control {
  using plain_control::plain_control;
  using token = threads_communicator::token;
  [[nodiscard]] token start_broadcast(mutable_bytes buffer, std::size_t root) const {
    return inner->start_broadcast(buffer, root);
  }
  void wait(token& operation, deadline limit) const { inner->wait(operation, limit); }
};
static_assert(NonBlockingCommunicator<plain_data> && !InterruptibleCommunicator<plain_data>);

struct pressed_key : std::runtime_error {
  pressed_key() : std::runtime_error("somebody pressed a key") {}
};

/// Calls `does(calls so far, phase)` whenever it is polled.
struct polled_observer : null_observer {
  explicit polled_observer(std::function<void(int, std::string_view)> what) : does(std::move(what)) {}
  void phase(const char* name) { current = name; }
  void poll() { does(++polls, current); }

  std::function<void(int, std::string_view)> does;
  int polls = 0;
  std::string_view current;
};
static_assert(PollingObserver<polled_observer> && !PollingObserver<null_observer>);

TEST(Stop, BeforeTheCallLeavesEveryModuleUntouched) {
  const reference_model model = small_model();
  for (std::size_t stopped = 0; stopped < 3; ++stopped) {
    const auto errors = errors_of_ranks(3, [&](std::size_t rank, threads_communicator& world) {
      host_memory memory;
      dynamic_module module = model.module(memory, true);
      std::stop_source source;
      if (rank == stopped) {
        source.request_stop();
      }
      const auto is_whole = [&] {
        bool whole = true;
        module.visit_slots([&](std::string_view, const auto& slot) { whole = whole && !slot.is_meta(); });
        return whole;
      };
      module.visit_slots([&](std::string_view, auto& slot) {
        slot.adopt({.shape = slot.shape(), .offset = 0, .bytes = 1, .data = std::make_shared<std::byte>()});
      });
      try {
        initialize(module, model.source(), world, {}, {.memory = memory, .stop = source.get_token()});
      } catch (...) {
        EXPECT_TRUE(is_whole());
        throw;
      }
    });
    expect_same_error(errors, errc::cancelled, "", static_cast<std::int32_t>(stopped), "a stop was requested");
  }
}

/// Rank 1 hears of the first attempt's end only when rank 0, whose stop is still requested, has begun the second.
TEST(Stop, OfASecondAttemptIsNotTakenForThatOfTheFirst) {
  std::atomic<bool> again = false;
  std::vector<std::vector<std::string>> said(2);
  run_ranks(2, [&](std::size_t rank, threads_communicator& world) {
    for (const char* attempt_of : {"first", "second"}) {
      polled_observer watch([&](int, std::string_view) {
        again = again || std::string_view(attempt_of) == "second";
        throw std::runtime_error(attempt_of);
      });
      fsdpinit::detail::wait_polls polls(watch, {});
      if (rank == 1) {
        while (!again) {
          std::this_thread::sleep_for(std::chrono::milliseconds(1));
        }
        std::this_thread::sleep_for(std::chrono::milliseconds(20));  // into its wait, or the test shows nothing
      }
      const std::optional<error> thrown =
          attempt([&] { agree(control_ref(world).looking(rank == 0 ? &polls : nullptr), {}, deadline::after(20)); });
      said[rank].push_back(thrown ? std::string(thrown->text()) : std::string());
    }
  });
  for (const std::vector<std::string>& each : said) {
    ASSERT_EQ(each.size(), 2U);
    EXPECT_NE(each[0].find("first"), std::string::npos) << each[0];
    EXPECT_NE(each[1].find("second"), std::string::npos) << each[1];
  }
}

TEST(Stop, IsAskedOfAnythingThatSaysWhetherOneWasRequested) {
  struct flag {
    bool raised = false;
    [[nodiscard]] bool stop_requested() const { return raised; }
  };
  const reference_model model = small_model();
  const auto errors = errors_of_ranks(2, [&](std::size_t rank, threads_communicator& world) {
    host_memory memory;
    dynamic_module module = model.module(memory, false);
    initialize(module, model.source(), world, {}, {.memory = memory, .stop = flag{rank == 1}});
  });
  expect_same_error(errors, errc::cancelled, "", 1, "a stop was requested");
}

/// The `polls`-th poll of one rank throws, in any of its phases; then the same call is made again. \return was there such a poll?
template <class Links>
bool fails_in_poll(const reference_model& model, std::size_t ranks, std::size_t failing, int polls, const policy& by,
                   const Links& links_of) {
  bool reached = false;
  const auto errors = errors_of_ranks(ranks, [&](std::size_t rank, threads_communicator& world) {
    auto links = links_of(world);
    host_memory memory;
    dynamic_module module = model.module(memory, false);
    bool has_thrown = false;
    polled_observer watch([&](int poll, std::string_view) {
      if (rank == failing && poll == polls && !has_thrown) {
        has_thrown = true;
        throw pressed_key();
      }
    });
    const options how{.policy = by, .bucket_bytes = 16};
    const auto load = [&] { initialize(module, model.source(), links, how, {.memory = memory, .observer = watch}); };
    std::optional<error> thrown;
    try {
      load();
    } catch (const error& caught) {
      thrown = caught;
    }
    if (rank == failing) {
      reached = has_thrown;
    }
    if (thrown) {
      load();
    }
    EXPECT_EQ(model.faults_of(module, memory, ranks, rank), "");
    if (thrown) {
      EXPECT_EQ(static_cast<bool>(thrown->cause()), rank == failing) << rank;
      throw error(*thrown);
    }
  });
  if (reached) {
    expect_same_error(errors, errc::user_exception, "", static_cast<std::int32_t>(failing), "somebody pressed a key");
  } else {
    for (const auto& each : errors) {
      EXPECT_FALSE(each) << each->what();
    }
  }
  return reached;
}

template <class Links>
void sweep_polls(const Links& links_of) {
  const reference_model model = small_model();
  for (const policy& by :
       {policy_of<native_sharding<transport::scatter>>, policy_of<native_sharding<transport::broadcast>>,
        policy_of<native_sharding<transport::own_read>>, policy_of<every_rank_loads>}) {
    for (std::size_t failing = 0; failing < 2; ++failing) {
      SCOPED_TRACE(concat(by.name, " ", name(by.transport), ", rank ", failing));
      int polls = 1;
      while (polls < 100 && fails_in_poll(model, 2, failing, polls, by, links_of)) {
        ++polls;
      }
      EXPECT_GT(polls, 8);  // one for each agreement
    }
  }
}

TEST(Polls, OfWhichAnyMayThrowOnAnyRank) {
  sweep_polls([](threads_communicator& world) { return world; });
}
TEST(Polls, MayThrowWhereRanksCannotInterruptEachOther) {
  const reference_model model = small_model();
  for (std::size_t failing = 0; failing < 3; ++failing) {
    for (int polls = 1; polls < 100; ++polls) {
      SCOPED_TRACE(concat("rank ", failing, ", poll ", polls));
      bool reached = false;
      const auto errors = errors_of_ranks(3, [&](std::size_t rank, threads_communicator& world) {
        plain_data data(world);
        plain_control control(world);
        host_memory memory;
        dynamic_module module = model.module(memory, false);
        polled_observer watch([&](int poll, std::string_view) {
          if (rank == failing && poll == polls) {
            reached = true;
            throw pressed_key();
          }
        });
        const options how{.policy = policy_of<native_sharding<transport::broadcast>>, .bucket_bytes = 16};
        const auto load = [&] {
          initialize(module, model.source(), channels{data, control}, how, {.memory = memory, .observer = watch});
        };
        const std::optional<error> thrown = attempt(load);
        if (thrown) {
          load();
        }
        EXPECT_EQ(model.faults_of(module, memory, 3, rank), "");
        if (thrown) {
          throw error(*thrown);
        }
      });
      if (!reached) {
        EXPECT_GT(polls, 8);
        break;
      }
      expect_same_error(errors, errc::user_exception, "", static_cast<std::int32_t>(failing), "somebody pressed a key");
    }
  }
}

/// When `of` begins, the rank is to stand still `calls_later` calls later.
class stalling_observer : public null_observer {
 public:
  stalling_observer(const call_counter& counter, std::string_view of, std::uint64_t calls_later,
                    std::atomic<bool>& begun)
      : counter_(counter), of_(of), calls_later_(calls_later), begun_(begun) {}
  void phase(const char* name) {
    if (name == of_) {
      counter_.fail_at(calls_later_);
      begun_ = true;
    }
  }

 private:
  call_counter counter_;
  std::string_view of_;
  std::uint64_t calls_later_;
  std::atomic<bool>& begun_;
};

/// Rank 0 stands still `calls_later` calls after `phase` has begun; rank 1 stops in that phase after `polls` polls of its wait, and
/// rank 0 goes on once it has.
template <class Load>
void expect_wait_ended(std::string_view phase, std::uint64_t calls_later, Load&& load) {
  const reference_model model = small_model();
  const call_counter counter;
  const stall_point point(counter, never);
  std::atomic<bool> standing = false;
  const auto errors = errors_of_ranks(2, [&](std::size_t rank, threads_communicator& world) {
    host_memory memory;
    dynamic_module module = model.module(memory, rank == 0);
    if (rank == 0) {
      stalling_communicator<threads_communicator> links(world, point);
      stalling_observer watch(counter, phase, calls_later, standing);
      load(module, model, links, memory, watch, stop_ref());
    } else {
      std::stop_source stop;
      int polls = 0;
      polled_observer watch([&](int, std::string_view) {
        if (standing && ++polls == 4) {
          stop.request_stop();
        }
      });
      const std::optional<error> thrown =
          attempt([&] { load(module, model, world, memory, watch, stop_ref(stop.get_token())); });
      point.release();
      ASSERT_TRUE(thrown);
      throw error(*thrown);
    }
  });
  expect_same_error(errors, errc::cancelled, "", 1, "a stop was requested");
}

constexpr auto load_shards = [](auto& module, const reference_model& model, auto& links, host_memory& memory,
                                auto& watch, stop_ref stop) {
  initialize(module, model.source(), links, {.bucket_bytes = 16, .deadline_seconds = never},
             {.memory = memory, .observer = watch, .stop = stop});
};
constexpr auto load_weights = [](auto& module, const reference_model& model, auto& links, host_memory& memory,
                                 auto& watch, stop_ref stop) {
  load_pretrained(module, model.source(), links, {.active = true}, {.deadline_seconds = never},
                  {.memory = memory, .observer = watch, .stop = stop});
};

TEST(Stop, EndsAWaitForAnAgreementLongBeforeItsDeadline) { expect_wait_ended("preflight", 0, load_shards); }
TEST(Stop, EndsAWaitForMetadataLongBeforeItsDeadline) { expect_wait_ended("preflight", 1, load_shards); }
TEST(Stop, EndsAWaitForABucketLongBeforeItsDeadline) { expect_wait_ended("stream", 1, load_shards); }
TEST(Stop, EndsAWaitForTheEndOfTheStreamLongBeforeItsDeadline) { expect_wait_ended("commit", 0, load_shards); }
TEST(Stop, EndsAWaitForPretrainedWeightsLongBeforeItsDeadline) { expect_wait_ended("read", 0, load_weights); }
TEST(Stop, EndsAWaitForTheLastPretrainedWeightsLongBeforeItsDeadline) { expect_wait_ended("commit", 0, load_weights); }

/// Rank 1 waits, in the last agreement before the commit; there its observer throws, and rank 0 comes only then.
template <class Load>
void expect_nothing_lost(std::string_view phase, Load&& load) {
  const reference_model model = small_model();
  const call_counter counter;
  const stall_point point(counter, never);
  std::atomic<bool> standing = false;
  const auto errors = errors_of_ranks(2, [&](std::size_t rank, threads_communicator& world) {
    host_memory memory;
    dynamic_module module = model.module(memory, rank == 0);
    if (rank == 0) {
      stalling_communicator<threads_communicator> links(world, point);
      struct stalling_control : plain_control {
        stalling_communicator<threads_communicator>& over;
        explicit stalling_control(stalling_communicator<threads_communicator>& links)
            : plain_control(links), over(links) {}
        void broadcast(mutable_bytes buffer, std::size_t root, deadline limit = deadline::never()) const {
          over.broadcast(buffer, root, limit);
        }
        [[nodiscard]] std::uint64_t all_reduce_max(std::uint64_t value, deadline limit) const {
          return over.all_reduce_max(value, limit);
        }
      } control(links);
      stalling_observer watch(counter, phase, 0, standing);
      load(module, model, channels<threads_communicator, stalling_control>{world, control}, memory, watch);
    } else {
      plain_control control(world);
      int polls = 0;
      polled_observer watch([&](int, std::string_view) {
        if (standing && ++polls == 4) {
          point.release();
          throw pressed_key();
        }
      });
      load(module, model, channels<threads_communicator, plain_control>{world, control}, memory, watch);
    }
  });
  expect_same_error(errors, errc::user_exception, "", 1, "somebody pressed a key");
}

TEST(Polls, ThatThrowInTheLastAgreementAreNotForgotten) {
  expect_nothing_lost("commit",
                      [](auto& module, const reference_model& model, auto&& links, host_memory& memory, auto& watch) {
                        initialize(module, model.source(), links, {}, {.memory = memory, .observer = watch});
                      });
}
TEST(Polls, ThatThrowInTheLastAgreementOfPretrainedWeightsAreNotForgotten) {
  expect_nothing_lost(
      "commit", [](auto& module, const reference_model& model, auto&& links, host_memory& memory, auto& watch) {
        load_pretrained(module, model.source(), links, {.active = true}, {}, {.memory = memory, .observer = watch});
      });
}

/// A wait of payload in which rank 1 finds that it shall end, where it cannot tell rank 0: it goes on when rank 0 does.
TEST(Polls, DoNotLeaveAPeerAloneThatCannotBeInterrupted) {
  const reference_model model = small_model();
  const call_counter counter;
  const stall_point point(counter, never);
  std::atomic<bool> standing = false;
  const auto errors = errors_of_ranks(2, [&](std::size_t rank, threads_communicator& world) {
    host_memory memory;
    dynamic_module module = model.module(memory, rank == 0);
    const options how{.policy = policy_of<native_sharding<transport::broadcast>>, .bucket_bytes = 16};
    plain_data data(world);
    plain_control control(world);
    polled_observer watch([&](int, std::string_view phase) {
      if (rank == 0 && phase == "stream" && !standing.exchange(true)) {
        counter.fail_at(0);
        point.pass();
      } else if (rank == 1 && standing && phase == "stream") {
        point.release();
        throw pressed_key();
      }
    });
    initialize(module, model.source(), channels{data, control}, how, {.memory = memory, .observer = watch});
  });
  expect_same_error(errors, errc::user_exception, "", 1, "somebody pressed a key");
}

TEST(Polls, AllocateNothing) {
  const reference_model model = small_model();
  const auto allocations = [&](bool polls) {
    std::uint64_t most = 0;
    run_ranks(1, [&](std::size_t, threads_communicator& world) {
      host_memory memory;
      dynamic_module module = model.module(memory, true);
      const in_memory_source source = model.source();
      polled_observer watch([](int, std::string_view) {});
      const std::stop_source stop;
      const std::stop_token token = stop.get_token();
      null_observer nobody;
      const extras with = polls ? extras{.memory = memory, .observer = watch, .stop = token}
                                : extras{.memory = memory, .observer = nobody};
      const std::uint64_t before = heap_allocations();
      initialize(module, source, world, {.bucket_bytes = 16}, with);
      most = heap_allocations() - before;
    });
    return most;
  };
  EXPECT_EQ(allocations(true), allocations(false));
}

TEST(Polls, GoOnInAWaitThatLasts) {
  const reference_model model = small_model();
  const call_counter counter;
  const stall_point point(counter, never);
  run_ranks(2, [&](std::size_t rank, threads_communicator& world) {
    host_memory memory;
    dynamic_module module = model.module(memory, rank == 0);
    if (rank == 0) {
      counter.fail_at(0);
      stalling_communicator<threads_communicator> links(world, point);
      initialize(module, model.source(), links, {}, {.memory = memory});
    } else {
      polled_observer watch([&](int poll, std::string_view) {
        if (poll == 5) {
          point.release();
        }
      });
      const double began = monotonic_seconds();
      initialize(module, model.source(), world, {}, {.memory = memory, .observer = watch});
      EXPECT_GT(monotonic_seconds() - began, 3 * deadline::look_seconds);
    }
  });
}

}  // namespace
}  // namespace stop_test
