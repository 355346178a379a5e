#include "support/fake_device_memory.hpp"
#include "support/reference_model.hpp"
#include "support/test_checksum.hpp"
#include <fsdpinit/fsdpinit.hpp>
#include <fsdpinit/init/gathered_reports.hpp>
#include <fsdpinit/sources/adaptors.hpp>
#include <fsdpinit/testing/rank_harness.hpp>

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

/// \file
/// What the report says that a stream was busy with. Times have lower bounds only, forced by sleeps, and add up.

namespace stages_test {
namespace {

using namespace fsdpinit;
using namespace fsdpinit::testing_support;
using fsdpinit::testing::run_ranks;

constexpr double pause_seconds = 0.002;
void pause() { std::this_thread::sleep_for(std::chrono::duration<double>(pause_seconds)); }
void wait_until(const std::atomic<bool>& flag) {
  while (!flag) {
    std::this_thread::yield();
  }
}

/// Calls `before` in front of every read.
struct hooked_source {
  in_memory_source inner;
  std::function<void()> before;
  [[nodiscard]] std::span<const tensor_descriptor> tensors() const { return inner.tensors(); }
  void read(std::size_t tensor, std::uint64_t offset, mutable_bytes destination) {
    before();
    inner.read(tensor, offset, destination);
  }
};

/// Tells of the stream only: ranks read before it too, to compare their checkpoints.
struct streaming_observer {
  std::atomic<bool>* streams;
  void phase(std::string_view name) const { *streams = name == "stream"; }
  void progress(std::uint64_t, std::uint64_t) const {}
};

/// Says when this rank waits for payload, and when it comes to an agreement.
struct hooked_communicator : threads_communicator {
  hooked_communicator(const threads_communicator& inner, std::function<void()> waits, std::function<void()> agrees)
      : threads_communicator(inner), before_wait(std::move(waits)), before_agreement(std::move(agrees)) {}
  void wait(token& operation, deadline limit) {
    before_wait();
    threads_communicator::wait(operation, limit);
  }
  [[nodiscard]] std::uint64_t all_reduce_max(std::uint64_t value, deadline limit) {
    before_agreement();
    return threads_communicator::all_reduce_max(value, limit);
  }
  std::function<void()> before_wait;
  std::function<void()> before_agreement;
};

/// Copies take their time, and are counted.
struct slow_memory : fake_device_memory {
  std::shared_ptr<std::atomic<int>> copies = std::make_shared<std::atomic<int>>(0);
  void copy_in(std::byte* destination, const std::byte* source, std::uint64_t stride, std::uint64_t run,
               std::uint64_t count, queue& order) {
    pause();
    ++*copies;
    fake_device_memory::copy_in(destination, source, stride, run, count, order);
  }
};

double stream_seconds(const rank_report& report) {
  double seconds = 0;
  for (const phase_seconds& phase : report.phases) {
    seconds += std::string_view(phase.name) == "stream" ? phase.seconds : 0;
  }
  return seconds;
}

void expect_to_add_up(const rank_report& report) {
  const stage_seconds& in = report.stages;
  for (const double each : {in.read, in.checksum, in.place, in.wait}) {
    EXPECT_GE(each, 0.0);
  }
  EXPECT_LE(in.read + in.checksum + in.place + in.wait, stream_seconds(report) + 1e-6);
}

/// In each two numbers, read and kept as bf16 and wanted as f32.
reference_model narrow_model() {
  return reference_model({{.fqn = "a", .type = dtype::bf16, .extents = {4, 2}},
                          {.fqn = "b", .type = dtype::bf16, .extents = {2, 2}, .how = replicate{}}});
}
dynamic_module wide_module() {
  dynamic_module module;
  module.add_parameter("a", dtype::f32, {4, 2});
  module.add_parameter("b", dtype::f32, {2, 2}, replicate{});
  return module;
}

TEST(Stages, ASourceThatStallsShowsAsReading) {
  const reference_model model = varied_model();
  run_ranks(2, [&](std::size_t rank, threads_communicator& world) {
    int reads = 0;
    host_memory memory;
    dynamic_module module = model.module(memory, rank == 0);
    const auto stall = [&] {
      pause();
      ++reads;
    };
    const rank_report report = initialize(module, hooked_source{model.source(), stall}, world, {}, {.memory = memory});
    EXPECT_EQ(reads > 0, rank == 0);
    EXPECT_GE(report.stages.read, reads * pause_seconds);
    EXPECT_EQ(report.stages.checksum, 0.0);
    expect_to_add_up(report);
  });
}

TEST(Stages, ALateSourceShowsAsWaiting) {
  const reference_model model = varied_model();
  std::atomic<bool> waits = false;
  run_ranks(2, [&](std::size_t rank, threads_communicator& world) {
    host_memory memory;
    dynamic_module module = model.module(memory, rank == 0);
    const auto stall = [&] {
      wait_until(waits);
      pause();
    };
    hooked_communicator comm(
        world, [&] { waits = waits || rank == 1; }, [] {});
    const rank_report report = initialize(module, hooked_source{model.source(), stall}, comm, {}, {.memory = memory});
    EXPECT_GE(rank == 1 ? report.stages.wait : report.stages.read, pause_seconds);
    EXPECT_EQ(report.stages.read > 0, rank == 0);
    expect_to_add_up(report);
  });
}

TEST(Stages, APeerThatReadsLongerShowsAsWaiting) {
  const reference_model model({{.fqn = "a", .extents = {4, 2}}});
  std::atomic<bool> has_read = false;
  std::atomic<bool> agrees = false;
  run_ranks(2, [&](std::size_t rank, threads_communicator& world) {
    host_memory memory;
    dynamic_module module = model.module(memory, rank == 0);
    std::atomic<bool> streams = false;
    const auto read = [&] {
      if (!streams) {
        return;
      }
      if (rank == 0) {
        has_read = true;
      } else {
        wait_until(agrees);
        pause();
      }
    };
    hooked_communicator comm(
        world, [] {}, [&] { agrees = agrees || (rank == 0 && has_read); });
    const rank_report report =
        initialize<native_sharding<transport::own_read>>(module, hooked_source{model.source(), read}, comm, {},
                                                         {.memory = memory, .observer = streaming_observer{&streams}});
    EXPECT_GE(rank == 0 ? report.stages.wait : report.stages.read, pause_seconds);
    expect_to_add_up(report);
  });
}

TEST(Stages, ASlowDeviceShowsAsPlacing) {
  const reference_model model = narrow_model();
  run_ranks(2, [&](threads_communicator& world) {
    slow_memory memory;
    dynamic_module module = wide_module();
    const rank_report report = initialize(module, model.source() | cast(dtype::f32), world, {}, {.memory = memory});
    EXPECT_EQ(*memory.copies, 4) << "two tensors, each placed and widened";
    EXPECT_GE(report.stages.place, 4 * pause_seconds);
    expect_to_add_up(report);
  });
}

TEST(Stages, ASlowHashShowsAsChecksum) {
  const reference_model model = varied_model();
  checksum slow = test_checksum;
  slow.update = [](void* state, const std::byte* bytes, std::size_t n) noexcept {
    pause();
    test_checksum.update(state, bytes, n);
  };
  run_ranks(2, [&](std::size_t rank, threads_communicator& world) {
    host_memory memory;
    dynamic_module module = model.module(memory, rank == 0);
    const rank_report report = initialize<native_sharding<transport::broadcast>>(
        module, model.source(), world, {.verify = verification::transfer, .checksum = &slow}, {.memory = memory});
    EXPECT_GE(report.stages.checksum, pause_seconds);
    expect_to_add_up(report);
  });
}

/// Widening, slow as it is, is part of the last phase but one.
template <class Policy>
void expect_stages_within_the_stream() {
  const reference_model model = narrow_model();
  for (const verification verify : {verification::off, verification::transfer, verification::reread}) {
    SCOPED_TRACE(concat(Policy::name, " ", name(Policy::transport), ", verify ", name(verify)));
    run_ranks(3, [&](threads_communicator& world) {
      dynamic_module module = wide_module();
      const options how{.bucket_bytes = 8, .verify = verify, .checksum = &test_checksum};
      expect_to_add_up(
          initialize<Policy>(module, model.source() | cast(dtype::f32), world, how, {.memory = slow_memory()}));
    });
  }
}

TEST(Stages, NeverExceedTheStream) {
  expect_stages_within_the_stream<native_sharding<transport::scatter>>();
  expect_stages_within_the_stream<native_sharding<transport::broadcast>>();
  expect_stages_within_the_stream<native_sharding<transport::own_read>>();
  expect_stages_within_the_stream<every_rank_loads>();
}

TEST(Stages, OfAllRanksAreGathered) {
  run_ranks(3, [](std::size_t rank, threads_communicator& world) {
    const double mine = static_cast<double>(rank) + 1;
    const std::vector<rank_report> all =
        gather_reports(world, {.stages = {.read = mine, .checksum = 10 * mine, .place = 20 * mine, .wait = 30 * mine}});
    ASSERT_EQ(all.size(), 3U);
    for (std::size_t other = 0; other < all.size(); ++other) {
      const double theirs = static_cast<double>(other) + 1;
      EXPECT_EQ(all[other].stages.read, theirs);
      EXPECT_EQ(all[other].stages.checksum, 10 * theirs);
      EXPECT_EQ(all[other].stages.place, 20 * theirs);
      EXPECT_EQ(all[other].stages.wait, 30 * theirs);
    }
  });
}

}  // namespace
}  // namespace stages_test
