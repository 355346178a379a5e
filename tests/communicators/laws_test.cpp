#include "support/archetypes.hpp"
#include "support/sanitizers.hpp"
#include <fsdpinit/communicators/self.hpp>
#include <fsdpinit/communicators/threads.hpp>
#include <fsdpinit/testing/faults.hpp>
#include <fsdpinit/testing/laws.hpp>
#include <fsdpinit/testing/rank_harness.hpp>

#include <gtest/gtest.h>

#include <cstddef>

namespace laws_test {
namespace {

using namespace fsdpinit;
using namespace fsdpinit::testing_support;
using fsdpinit::testing::call_counter;
using fsdpinit::testing::check_communicator;
using fsdpinit::testing::faulty_communicator;
using fsdpinit::testing::run_ranks;
using fsdpinit::testing::violations;

TEST(Laws, OfTheSelfCommunicator) {
  self_communicator alone;
  EXPECT_EQ(check_communicator(alone), violations{});
}

TEST(Laws, OfTheThreadsCommunicator) {
  for (const std::size_t ranks : {1U, 2U, 3U, 4U, 5U, 6U, 7U}) {
    if (is_sanitized && ranks > 3) {
      break;  // the work grows with their square
    }
    SCOPED_TRACE(ranks);
    run_ranks(ranks, [](threads_communicator& world) { EXPECT_EQ(check_communicator(world), violations{}); });
  }
}

TEST(Laws, OfTheThreadsCommunicatorWithSeveralNodes) {
  const std::size_t nodes[] = {7, 2, 7, 9, 2};
  run_ranks(threads_world(5, nodes), [](threads_communicator& world) {
    EXPECT_EQ(check_communicator(world), violations{});
    faulty_communicator decorated(world, call_counter());
    EXPECT_EQ(check_communicator(decorated), violations{});
  });
}

/// The archetypes wrap it; that the kit compiles and passes with each shows that a law asks only for what is modelled.
template <class C>
void expect_lawful() {
  run_ranks(3, [](threads_communicator& world) {
    C wrapped(world);
    EXPECT_EQ(check_communicator(wrapped), violations{});
  });
}

TEST(Laws, AreAskedOnlyOfWhatIsModelled) {
  expect_lawful<minimal_communicator>();
  expect_lawful<scattering_communicator>();
  expect_lawful<non_blocking_communicator>();
  expect_lawful<group_communicator>();
  expect_lawful<node_aware_communicator>();
  expect_lawful<collective_communicator>();
  expect_lawful<interruptible_communicator>();
  expect_lawful<reducing_control>();
  expect_lawful<failable_control>();
}

}  // namespace
}  // namespace laws_test
