#include "mpi/worlds.hpp"
#include "support/reference_model.hpp"
#include <fsdpinit/communicators/mpi.hpp>
#include <fsdpinit/fsdpinit.hpp>

#include <gtest/gtest.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
#include <utility>

namespace stop_test {
namespace {

using namespace fsdpinit;
using namespace fsdpinit::testing_support;

struct polled_observer : null_observer {
  explicit polled_observer(std::function<void(std::string_view)> what) : does(std::move(what)) {}
  void phase(const char* name) { current = name; }
  void poll() { does(current); }

  std::function<void(std::string_view)> does;
  std::string_view current;
};

reference_model small_model() {
  return reference_model({{.fqn = "layers.0.up", .type = dtype::u8, .extents = {16, 3}},
                          {.fqn = "layers.1.up", .type = dtype::u8, .extents = {16, 3}}});
}

/// Loads with an observer that does `poll(phase)`, and once more with one that does nothing if that fails.
template <class Poll>
std::optional<error> load_twice(const reference_model& model, mpi_communicator& world, const policy& by, Poll&& poll) {
  host_memory memory;
  dynamic_module module = model.module(memory, false);
  const options how{.policy = by, .bucket_bytes = 16};
  std::optional<error> thrown;
  try {
    initialize(module, model.source(), world, how, {.memory = memory, .observer = polled_observer(poll)});
  } catch (const error& caught) {
    thrown = caught;
    initialize(module, model.source(), world, how, {.memory = memory});
  }
  EXPECT_EQ(model.faults_of(module, memory, world.size(), world.rank()), "");
  return thrown;
}

void expect_key_of(const std::optional<error>& thrown, mpi_communicator& world, std::size_t rank) {
  ASSERT_TRUE(thrown);
  EXPECT_EQ(name(thrown->code()), name(errc::user_exception)) << thrown->what();
  EXPECT_EQ(thrown->rank(), static_cast<std::int32_t>(rank)) << thrown->what();
  EXPECT_EQ(thrown->text(), "somebody pressed a key");
  EXPECT_EQ(static_cast<bool>(thrown->cause()), world.rank() == rank);
}

TEST(MpiPolls, MayThrowWhereverTheyAreOnAnyRank) {
  const reference_model model = small_model();
  for_each_world([&](mpi_communicator& world) {
    for (const policy& by : {policy_of<native_sharding<transport::scatter>>,
                             policy_of<native_sharding<transport::broadcast>>, policy_of<every_rank_loads>}) {
      for (std::size_t failing = 0; failing < world.size(); ++failing) {
        for (int polls = 1; polls <= 8; ++polls) {
          SCOPED_TRACE(concat(name(by.transport), ", rank ", failing, ", poll ", polls));
          int calls = 0;
          expect_key_of(load_twice(model, world, by,
                                   [&](std::string_view) {
                                     if (++calls == polls && world.rank() == failing) {
                                       throw std::runtime_error("somebody pressed a key");
                                     }
                                   }),
                        world, failing);
        }
      }
    }
  });
}

/// The last rank throws while it waits for rank 0, which takes its time in the phase.
void expect_thrown_in_wait(std::string_view waiting_in) {
  const reference_model model = small_model();
  for_each_world([&](mpi_communicator& world) {
    if (world.size() == 1) {
      return;  // nobody waits
    }
    const std::size_t last = world.size() - 1;
    int calls = 0;
    expect_key_of(load_twice(model, world, policy_of<native_sharding<transport::scatter>>,
                             [&](std::string_view phase) {
                               if (phase != waiting_in) {
                                 return;
                               }
                               ++calls;
                               if (world.rank() == 0 && calls == 1) {
                                 std::this_thread::sleep_for(std::chrono::milliseconds(300));
                               }
                               if (world.rank() == last && calls == 3) {
                                 throw std::runtime_error("somebody pressed a key");
                               }
                             }),
                  world, last);
  });
}

TEST(MpiPolls, MayThrowInAWaitForAnAgreement) { expect_thrown_in_wait("preflight"); }
TEST(MpiPolls, MayThrowInAWaitForABucket) { expect_thrown_in_wait("stream"); }
TEST(MpiPolls, MayThrowInTheLastWait) { expect_thrown_in_wait("commit"); }

}  // namespace
}  // namespace stop_test
