#include "support/expect_error.hpp"
#include <fsdpinit/communicators/self.hpp>
#include <fsdpinit/memory/host_memory.hpp>
#include <fsdpinit/modules/dynamic_module.hpp>
#include <fsdpinit/sources/in_memory.hpp>
#include <fsdpinit/testing/faults.hpp>
#include <fsdpinit/testing/laws.hpp>
#include <fsdpinit/testing/rank_harness.hpp>

#include <gtest/gtest.h>

#include <array>
#include <cstddef>
#include <new>
#include <stdexcept>
#include <string_view>

namespace faults_test {
namespace {

using namespace fsdpinit;
using namespace fsdpinit::testing;
using fsdpinit::testing_support::expect_error;

TEST(CallCounter, FailsOneCallAndCountsOn) {
  const call_counter counter;
  const call_counter copy = counter;
  counter.fail_at(1);
  EXPECT_FALSE(counter.fails_now());
  EXPECT_FALSE(counter.has_failed());
  EXPECT_TRUE(copy.fails_now());
  EXPECT_TRUE(counter.has_failed());
  EXPECT_FALSE(counter.fails_now());
  EXPECT_EQ(counter.calls(), 3U);
  counter.restart();
  EXPECT_EQ(counter.calls(), 0U);
  EXPECT_FALSE(counter.has_failed());
}

TEST(FaultyCommunicator, IsLawfulWhileNothingFails) {
  run_ranks(3, [](threads_communicator& world) {
    const call_counter counter;
    faulty_communicator decorated(world, counter);
    EXPECT_EQ(check_communicator(decorated), violations{});
    EXPECT_GT(counter.calls(), 0U);
  });
}

TEST(FaultyCommunicator, FailsTheCallThatWasAskedFor) {
  self_communicator alone;
  const call_counter counter;
  faulty_communicator decorated(alone, counter);
  counter.fail_at(1);
  decorated.broadcast({}, 0);
  expect_error(errc::communication, "", "injected into all_reduce_max",
               [&] { static_cast<void>(decorated.all_reduce_max(1)); });
  EXPECT_EQ(decorated.all_reduce_max(1), 1U);
}

TEST(FaultySource, NamesTheTensor) {
  const std::array<std::byte, 2> bytes{};
  const call_counter counter;
  faulty_source source(
      in_memory_source({{.descriptor = {.name = "a", .dtype = dtype::u8, .shape = {2}}, .bytes = bytes}}), counter);
  std::array<std::byte, 1> to{};
  counter.fail_at(1);
  source.read(0, 0, to);
  expect_error(errc::io, "a", "injected into read", [&] { source.read(0, 1, to); });
}

TEST(FaultyMemory, SharesItsCountWithCopies) {
  const call_counter counter;
  faulty_memory<host_memory> memory(host_memory(), counter);
  faulty_memory<host_memory> copy = memory;
  counter.fail_at(1);
  std::byte* const address = memory.allocate(10);
  EXPECT_THROW(static_cast<void>(copy.allocate(10)), std::bad_alloc);
  EXPECT_EQ(copy.accounted(), 10U);
  memory.deallocate(address, 10);
  EXPECT_EQ(check_memory(memory), violations{});
}

TEST(FaultyModule, FailsTheVisitThatWasAskedFor) {
  dynamic_module inner;
  inner.add_parameter("a", dtype::f32, {1});
  inner.add_parameter("b", dtype::f32, {1});
  const call_counter counter;
  faulty_module module(inner, counter);
  EXPECT_EQ(check_module(module), violations{});
  counter.fail_at(2);
  int seen = 0;
  EXPECT_THROW(module.visit_slots([&](std::string_view, auto&) { ++seen; }), std::runtime_error);
  EXPECT_EQ(seen, 1);
}

}  // namespace
}  // namespace faults_test
