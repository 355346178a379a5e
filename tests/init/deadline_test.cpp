#include <fsdpinit/fsdpinit.hpp>
#include <fsdpinit/testing/rank_harness.hpp>

#include <gtest/gtest.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <span>
#include <thread>
#include <vector>

/// \file
/// The deadline is for a rank that makes no progress, not for a load that takes long.

namespace deadline_test {
namespace {

using namespace fsdpinit;
using fsdpinit::testing::run_ranks;

// A piece takes 1.1 s to read: what is left to the deadline is for a machine that has other things to do.
constexpr double deadline_seconds = 2;

/// Takes its time over every 32 MiB, and leaves memory as it is: nobody looks at the values.
struct slow_source {
  double seconds = 0;
  std::vector<tensor_descriptor> listed{};
  std::uint64_t bytes_read = 0;

  [[nodiscard]] std::span<const tensor_descriptor> tensors() const { return listed; }
  void read(std::size_t, std::uint64_t, mutable_bytes destination) {
    constexpr std::uint64_t step = 32 * mib;
    const std::uint64_t before = bytes_read / step;
    bytes_read += destination.size();
    std::this_thread::sleep_for(
        std::chrono::duration<double>(seconds * static_cast<double>(bytes_read / step - before)));
  }
};

/// One rank reads so slowly that all of it takes several deadlines.
template <class Policy>
void expect_patience(std::uint64_t mebibytes, const options& how) {
  SCOPED_TRACE(concat(Policy::name, " ", name(Policy::transport)));
  const shape extents{mebibytes, mib};
  run_ranks(2, [&](std::size_t rank, threads_communicator& world) {
    const double began = monotonic_seconds();
    dynamic_module module;
    module.add_parameter("w", dtype::u8, extents);
    initialize<Policy>(module, slow_source{rank == 0 ? 0.28 : 0, {{"w", dtype::u8, extents}}}, world, how);
    EXPECT_GT(monotonic_seconds() - began, 2 * deadline_seconds) << "the test shows nothing";
  });
}

TEST(Deadline, IsForEachBucketOfASlowSource) {
  expect_patience<native_sharding<transport::scatter>>(512, {.deadline_seconds = deadline_seconds});
}

TEST(Deadline, IsForEachPieceThatRanksReadByThemselves) {
  expect_patience<native_sharding<transport::own_read>>(1024, {.deadline_seconds = deadline_seconds});
}

TEST(Deadline, IsForEachPieceWhereEveryRankLoads) {
  expect_patience<every_rank_loads>(512, {.deadline_seconds = deadline_seconds});
}

}  // namespace
}  // namespace deadline_test
