#include <fsdpinit/fsdpinit.hpp>
#include <fsdpinit/init/initialize.hpp>
#include <fsdpinit/init/pretrained.hpp>
#include <fsdpinit/testing/rank_harness.hpp>

#include <gtest/gtest.h>

#include <array>
#include <cstddef>
#include <cstring>
#include <span>
#include <string_view>

// A framework that does not tell persistent buffers from others: the source decides.

namespace undeclared_buffer_test {
namespace {

struct undeclared : fsdpinit::buffer {
  using fsdpinit::buffer::buffer;
};

}  // namespace
}  // namespace undeclared_buffer_test

template <>
struct fsdpinit::slot_traits<undeclared_buffer_test::undeclared> : fsdpinit::slot_traits<fsdpinit::buffer> {
  static slot_role role(const buffer& /*slot*/) noexcept { return slot_role::undeclared_buffer; }
};

namespace undeclared_buffer_test {
namespace {

using namespace fsdpinit;
using fsdpinit::testing::errors_of_ranks;
using fsdpinit::testing::run_ranks;

using pair = std::array<float, 2>;

struct model {
  parameter weight{dtype::f32, {4}};
  undeclared mean{dtype::f32, {2}};
  undeclared angles{dtype::f32, {2}};

  template <class Visitor>
  void visit_slots(Visitor&& visitor) {
    visitor(std::string_view("weight"), weight);
    visitor(std::string_view("mean"), mean);
    visitor(std::string_view("angles"), angles);
  }
  /// What a constructor leaves in its buffers on a rank.
  void construct(std::size_t rank) {
    const float value = 100.0F + static_cast<float>(rank);
    const pair means{value, value};
    mean.set(std::as_bytes(std::span(means)));
    const pair turns{value + 10, value + 10};
    angles.set(std::as_bytes(std::span(turns)));
  }
};

[[nodiscard]] pair values_of(const buffer& slot) {
  pair out{};
  if (!slot.is_meta()) {
    std::memcpy(out.data(), slot.data(), sizeof out);
  }
  return out;
}

constexpr std::array<float, 4> stored_weight{1, 2, 3, 4};
constexpr pair stored_mean{5, 6};

[[nodiscard]] in_memory_source checkpoint_with_mean() {
  return in_memory_source({{.descriptor = {.name = "weight", .dtype = dtype::f32, .shape = {4}},
                            .bytes = std::as_bytes(std::span(stored_weight))},
                           {.descriptor = {.name = "mean", .dtype = dtype::f32, .shape = {2}},
                            .bytes = std::as_bytes(std::span(stored_mean))}});
}

TEST(UndeclaredBuffer, IsReadWhereTheSourceHasIt) {
  run_ranks(3, [&](std::size_t rank, threads_communicator& world) {
    model net;
    net.construct(rank);
    initialize(net, checkpoint_with_mean(), world);
    EXPECT_EQ(values_of(net.mean), stored_mean);
  });
}

TEST(UndeclaredBuffer, IsTheSourceRanksWhereTheSourceLacksIt) {
  run_ranks(3, [&](std::size_t rank, threads_communicator& world) {
    model net;
    net.construct(rank);
    initialize(net, checkpoint_with_mean(), world, {.source_rank = 1});
    EXPECT_EQ(values_of(net.angles), (pair{111, 111}));
  });
}

TEST(UndeclaredBuffer, KeepsBothKindsOfValuesThroughTheTwoHalvesOfCpuRamEfficientLoading) {
  run_ranks(2, [&](std::size_t rank, threads_communicator& world) {
    model net;
    net.construct(rank);
    load_pretrained(net, checkpoint_with_mean(), world);
    prepare(net, world);
    EXPECT_EQ(values_of(net.mean), stored_mean);
    EXPECT_EQ(values_of(net.angles), (pair{110, 110}));
  });
}

TEST(UndeclaredBuffer, WithoutValuesAnywhereIsAnErrorOnEveryRank) {
  const auto errors = errors_of_ranks(2, [&](std::size_t /*rank*/, threads_communicator& world) {
    model net;
    initialize(net, checkpoint_with_mean(), world);
  });
  ASSERT_EQ(errors.size(), 2U);
  for (const auto& each : errors) {
    ASSERT_TRUE(each.has_value());
    EXPECT_EQ(each->code(), errc::missing_tensor);
    EXPECT_EQ(each->subject(), "angles");
  }
}

}  // namespace
}  // namespace undeclared_buffer_test
