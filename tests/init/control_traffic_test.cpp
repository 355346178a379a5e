// Collective operations on the control channel: how many a load takes must not grow with ranks, tensors or bytes. Each is O(log N)
// messages where the channel reduces.
#include "support/reference_model.hpp"
#include <fsdpinit/fsdpinit.hpp>
#include <fsdpinit/testing/rank_harness.hpp>

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <ostream>
#include <string>
#include <vector>

namespace control_traffic_test {
namespace {

using namespace fsdpinit;
using namespace fsdpinit::testing_support;
using fsdpinit::testing::run_ranks;

struct traffic {
  std::size_t reductions = 0;
  std::size_t broadcasts = 0;

  friend bool operator==(const traffic&, const traffic&) = default;
  friend std::ostream& operator<<(std::ostream& out, const traffic& each) {
    return out << each.reductions << " reductions, " << each.broadcasts << " broadcasts";
  }
};

/// Counts what is asked of the communicator behind it.
class counting_control {
 public:
  counting_control(threads_communicator& world, traffic& counts) : world_(&world), counts_(&counts) {}
  [[nodiscard]] std::size_t rank() const { return world_->rank(); }
  [[nodiscard]] std::size_t size() const { return world_->size(); }
  void broadcast(mutable_bytes bytes, std::size_t root) {
    ++counts_->broadcasts;
    world_->broadcast(bytes, root);
  }
  [[nodiscard]] std::uint64_t all_reduce_max(std::uint64_t value) {
    ++counts_->reductions;
    return world_->all_reduce_max(value);
  }

 private:
  threads_communicator* world_;
  traffic* counts_;
};

/// Of rank 0, in a load of so many tensors of so many bytes.
template <class Policy>
traffic traffic_of(std::size_t ranks, std::size_t tensors, std::uint64_t bytes) {
  std::vector<reference_tensor> described;
  for (std::size_t i = 0; i < tensors; ++i) {
    described.push_back({.fqn = concat("layers.", i, ".weight"), .type = dtype::u8, .extents = {bytes}});
  }
  const reference_model model(described);
  const in_memory_source source = model.source();
  std::vector<traffic> counts(ranks);
  run_ranks(ranks, [&](std::size_t rank, threads_communicator& world) {
    host_memory memory;
    dynamic_module module = model.module(memory, false);
    counting_control control(world, counts[rank]);
    in_memory_source own = source;
    initialize<Policy>(module, own, channels{world, control}, {}, {.memory = memory});
  });
  for (const traffic& each : counts) {
    EXPECT_EQ(each, counts.front()) << "an operation is every rank's";
  }
  return counts.front();
}

template <class Policy>
class ControlTraffic : public ::testing::Test {};
using policies =
    ::testing::Types<native_sharding<>, native_sharding<transport::broadcast>, native_sharding<transport::own_read>,
                     native_sharding<transport::automatic>, every_rank_loads>;
TYPED_TEST_SUITE(ControlTraffic, policies);

TYPED_TEST(ControlTraffic, IsTheSameForAnyNumberOfRanksTensorsAndBytes) {
  const traffic least = traffic_of<TypeParam>(2, 3, 64);
  EXPECT_GT(least.reductions, 0U);
  EXPECT_LE(least.reductions, 20U) << "eight or nine agreements, and what they are made of";
  for (const std::size_t ranks : {3U, 8U, 16U}) {
    EXPECT_EQ(traffic_of<TypeParam>(ranks, 3, 64), least) << ranks << " ranks";
  }
  EXPECT_EQ(traffic_of<TypeParam>(2, 300, 64), least) << "many tensors";
  EXPECT_EQ(traffic_of<TypeParam>(2, 3, 3 * mib), least) << "several buckets";
}

}  // namespace
}  // namespace control_traffic_test
