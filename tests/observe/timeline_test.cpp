#include "support/process_signal.hpp"
#include <fsdpinit/memory/host_memory.hpp>
#include <fsdpinit/observe/observer.hpp>
#include <fsdpinit/observe/resident_memory.hpp>
#include <fsdpinit/observe/timeline.hpp>

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

namespace fsdpinit::timeline_test {
namespace {

static_assert(Observer<memory_timeline::rank_observer>);

constexpr timeline_options never{.interval_seconds = 3600};

void nap(int milliseconds) { std::this_thread::sleep_for(std::chrono::milliseconds(milliseconds)); }

TEST(timeline, samples_when_a_phase_begins_and_in_the_end) {
  memory_timeline timeline(never);
  host_memory memory;
  auto watch = timeline.observer(3, memory.shared_account());
  watch.phase("one");
  std::byte* const bytes = memory.allocate(1000);
  watch.phase("two");
  watch.progress(1, 2);
  memory.deallocate(bytes, 1000);
  timeline.stop();
  const auto& samples = timeline.samples();
  ASSERT_EQ(samples.size(), 3U);
  const std::vector<std::string_view> phases{"one", "two", "two"};
  const std::vector<std::uint64_t> accounted{0, 1000, 0};
  for (std::size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(samples[i].rank, 3U);
    EXPECT_EQ(samples[i].phase, phases[i]);
    EXPECT_EQ(samples[i].accounted_bytes, accounted[i]);
    EXPECT_EQ(samples[i].device_bytes, 0U);
    EXPECT_GT(samples[i].rss_bytes, 0U);
    EXPECT_FALSE(samples[i].periodic);
    EXPECT_GE(samples[i].seconds, i == 0 ? 0.0 : samples[i - 1].seconds);
  }
}

TEST(timeline, samples_at_its_interval) {
  memory_timeline timeline({.interval_seconds = 0.001});
  auto watch = timeline.observer(0, std::make_shared<account>());
  watch.phase("waiting");
  nap(100);
  timeline.stop();
  const auto& samples = timeline.samples();
  EXPECT_GE(std::count_if(samples.begin(), samples.end(), [](auto& each) { return each.periodic; }), 5);
}

TEST(timeline, shows_device_memory_beside_host_memory) {
  memory_timeline timeline(never);
  const auto host = std::make_shared<account>();
  const auto device = std::make_shared<account>();
  host->add(1);
  device->add(2);
  auto watch = timeline.observer(0, host, device);
  watch.phase("both");
  timeline.stop();
  EXPECT_EQ(timeline.samples().front().accounted_bytes, 1U);
  EXPECT_EQ(timeline.samples().front().device_bytes, 2U);
}

TEST(timeline, keeps_what_it_watches_alive) {
  memory_timeline timeline({.interval_seconds = 0.001});
  {
    host_memory memory;
    static_cast<void>(timeline.observer(0, memory.shared_account()));
  }
  nap(10);
  timeline.stop();
}

TEST(timeline, stops_once_and_records_nothing_after) {
  memory_timeline timeline({.interval_seconds = 0.001});
  auto watch = timeline.observer(0, std::make_shared<account>());
  timeline.stop();
  const std::size_t count = timeline.samples().size();
  watch.phase("late");
  timeline.stop();
  EXPECT_EQ(timeline.samples().size(), count);
}

TEST(timeline, ends_without_being_stopped) { const memory_timeline timeline({.interval_seconds = 0.001}); }

TEST(timeline, writes_csv) {
  memory_timeline timeline(never);
  const auto held = std::make_shared<account>();
  held->add(77);
  auto watch = timeline.observer(12, held);
  watch.phase("stream");
  timeline.stop();
  std::string table;
  timeline.write_csv([&](std::string_view text) { table += text; });
  EXPECT_EQ(table.rfind("seconds,rank,phase,rss_bytes,accounted_bytes,device_bytes\n0.", 0), 0U) << table;
  EXPECT_NE(table.find(",12,stream,"), std::string::npos) << table;
  EXPECT_NE(table.find(",77,0\n"), std::string::npos) << table;
  EXPECT_EQ(std::count(table.begin(), table.end(), '\n'), 3);
}

TEST(timeline, thins_out_instead_of_growing_for_ever) {
  constexpr std::size_t most = 40;
  memory_timeline timeline({.interval_seconds = 0.0005, .most_samples = most});
  auto first = timeline.observer(0, std::make_shared<account>());
  auto second = timeline.observer(1, std::make_shared<account>());
  first.phase("a");
  second.phase("b");
  nap(200);
  timeline.stop();
  const auto& samples = timeline.samples();
  EXPECT_LE(samples.size(), most + 2);
  EXPECT_GE(samples.size(), most / 4);
  EXPECT_EQ(std::count_if(samples.begin(), samples.end(), [](auto& each) { return !each.periodic; }), 4);
  EXPECT_EQ(std::count_if(samples.begin(), samples.end(), [](auto& each) { return each.rank == 0; }),
            std::count_if(samples.begin(), samples.end(), [](auto& each) { return each.rank == 1; }));
}

TEST(timeline, takes_ranks_from_many_threads) {
  memory_timeline timeline({.interval_seconds = 0.0002});
  std::vector<std::thread> ranks;
  for (std::size_t rank = 0; rank < 8; ++rank) {
    ranks.emplace_back([&timeline, rank] {
      host_memory memory;
      auto watch = timeline.observer(rank, memory.shared_account());
      for (int i = 0; i < 50; ++i) {
        watch.phase("allocate");
        std::byte* const bytes = memory.allocate(rank + 1);
        watch.phase("release");
        memory.deallocate(bytes, rank + 1);
      }
    });
  }
  for (std::thread& rank : ranks) {
    rank.join();
  }
  timeline.stop();
  std::vector<int> begun(8);
  for (const memory_sample& sample : timeline.samples()) {
    begun[sample.rank] += sample.phase == std::string_view("release") && !sample.periodic ? 1 : 0;
    EXPECT_TRUE(sample.accounted_bytes == 0 || sample.accounted_bytes == sample.rank + 1);
  }
  EXPECT_EQ(begun, std::vector<int>(8, 51));  // 50 and the last one, by stop()
}

TEST(timeline, never_handles_a_signal_of_the_process) {
  const memory_timeline timeline(never);
  EXPECT_TRUE(testing_support::signals_wait_for_this_thread());
}

TEST(resident_memory, follows_what_the_process_touches) {
  const resident_memory resident;
  const std::uint64_t before = resident.current();
  ASSERT_GT(before, 0U);
  constexpr std::uint64_t bytes = 64 * mib;
  host_memory memory;
  std::byte* const block = memory.allocate(bytes);
  for (std::uint64_t at = 0; at < bytes; at += 4096) {
    block[at] = std::byte{1};
  }
  const std::uint64_t touched = resident.current();
  EXPECT_GE(touched, before + bytes * 9 / 10);
  EXPECT_GE(peak_resident_bytes() + mib, touched);  // the kernel batches its counters
  memory.deallocate(block, bytes);
  EXPECT_LT(resident.current(), touched - bytes / 2);
  EXPECT_GE(peak_resident_bytes() + mib, touched);
}

}  // namespace
}  // namespace fsdpinit::timeline_test
