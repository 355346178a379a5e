#include "support/archetypes.hpp"
#include "support/expect_error.hpp"
#include "support/fake_device_memory.hpp"
#include "support/process_signal.hpp"
#include "support/reference_model.hpp"
#include <fsdpinit/fsdpinit.hpp>
#include <fsdpinit/os/read_threads.hpp>
#include <fsdpinit/testing/rank_harness.hpp>

#include <gtest/gtest.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>
#include <set>
#include <span>
#include <thread>
#include <utility>
#include <vector>

/// \file
/// Several threads read one bucket, and a device copies one bucket while the next is being read.

namespace read_threads_test {
namespace {

using namespace fsdpinit;
using namespace fsdpinit::testing_support;
using fsdpinit::detail::read_threads;
using fsdpinit::testing::errors_of_ranks;
using fsdpinit::testing::fake_cuda;
using fsdpinit::testing::run_ranks;

constexpr std::uint64_t least = read_threads::least_piece_bytes;

/// Pieces by offset: their sizes.
using pieces = std::map<std::uint64_t, std::uint64_t>;

pieces pieces_of(std::size_t threads, std::uint64_t bytes) {
  read_threads all(threads);
  std::vector<std::byte> memory(bytes);
  std::mutex mutex;
  pieces out;
  all.fill(memory, [&](std::size_t, std::uint64_t offset, mutable_bytes piece) {
    const std::lock_guard lock(mutex);
    EXPECT_EQ(piece.data(), memory.data() + offset);
    out[offset] = piece.size();
  });
  return out;
}

TEST(ReadThreads, FillEveryByteOnce) {
  for (const std::size_t threads : {std::size_t{1}, std::size_t{2}, std::size_t{3}, std::size_t{7}}) {
    for (const std::uint64_t bytes : {std::uint64_t{0}, std::uint64_t{1}, 2 * least - 1, 2 * least, 5 * least + 3}) {
      std::uint64_t next = 0;
      for (const auto& [offset, size] : pieces_of(threads, bytes)) {
        EXPECT_EQ(offset, next) << threads << " threads, " << bytes << " bytes";
        next = offset + size;
      }
      EXPECT_EQ(next, bytes);
    }
  }
}

TEST(ReadThreads, ShareALargeReadEvenly) {
  EXPECT_EQ(pieces_of(4, 8 * least),
            (pieces{{0, 2 * least}, {2 * least, 2 * least}, {4 * least, 2 * least}, {6 * least, 2 * least}}));
}

TEST(ReadThreads, LeaveASmallReadWhole) {
  EXPECT_EQ(pieces_of(4, 2 * least - 1), (pieces{{0, 2 * least - 1}}));
  EXPECT_EQ(pieces_of(4, 2 * least), (pieces{{0, least}, {least, least}}));
}

TEST(ReadThreads, ReadAtTheSameTime) {
  read_threads all(3);
  std::vector<std::byte> memory(3 * least);
  std::atomic<int> inside{0};
  all.fill(memory, [&](std::size_t, std::uint64_t, mutable_bytes) {
    ++inside;
    while (inside != 3) {  // each waits for the others
      std::this_thread::yield();
    }
  });
  EXPECT_EQ(inside, 3);
}

TEST(ReadThreads, ThrowWhatTheFirstPieceThrew) {
  read_threads all(2);
  std::vector<std::byte> memory(2 * least);
  std::atomic<int> inside{0};
  const auto caught = thrown_by([&] {
    all.fill(memory, [&](std::size_t, std::uint64_t offset, mutable_bytes) {
      ++inside;
      while (inside != 2) {
        std::this_thread::yield();
      }
      throw error(errc::io, offset == 0 ? "the first" : "another", "is broken");
    });
  });
  ASSERT_TRUE(caught);
  EXPECT_EQ(caught->subject(), "the first");
}

TEST(ReadThreads, ReadAgainAfterAFailure) {
  read_threads all(2);
  std::vector<std::byte> memory(4 * least);
  EXPECT_TRUE(thrown_by([&] {
    all.fill(memory, [](std::size_t, std::uint64_t, mutable_bytes) { throw error(errc::io, "it", "is broken"); });
  }));
  std::atomic<std::uint64_t> read{0};
  all.fill(memory, [&](std::size_t, std::uint64_t, mutable_bytes piece) { read += piece.size(); });
  EXPECT_EQ(read, memory.size());
}

/// Shards and whole tensors that are larger than a piece, and small ones between them.
reference_model large_model() {
  return reference_model({{.fqn = "embed", .type = dtype::f32, .extents = {1536, 400}},
                          {.fqn = "norm", .type = dtype::f32, .extents = {400}, .how = replicate{}},
                          {.fqn = "up", .type = dtype::f32, .extents = {300, 1536}, .how = shard{1}},
                          {.fqn = "table", .type = dtype::f32, .extents = {1024, 256}, .how = replicate{}},
                          {.fqn = "bias", .type = dtype::f32, .extents = {7}}});
}

/// A source that knows by how many threads it was read.
class watched_source {
 public:
  static constexpr bool reads_concurrently = true;

  explicit watched_source(in_memory_source inner) : inner_(std::move(inner)) {}
  [[nodiscard]] std::span<const tensor_descriptor> tensors() const { return inner_.tensors(); }
  void read(std::size_t tensor, std::uint64_t offset, mutable_bytes destination) {
    {
      const std::lock_guard lock(mutex_);
      threads_.insert(std::this_thread::get_id());
    }
    inner_.read(tensor, offset, destination);
  }
  [[nodiscard]] std::size_t threads() const { return threads_.size(); }

 private:
  in_memory_source inner_;
  std::mutex mutex_;
  std::set<std::thread::id> threads_;
};

template <class Policy, class Space>
void expect_same_shards() {
  const reference_model model = large_model();
  run_ranks(2, [&](std::size_t rank, threads_communicator& world) {
    Space memory;
    dynamic_module module = model.module(memory, rank == 0);
    watched_source source(model.source());
    const rank_report report =
        initialize<Policy>(module, source, world, {.bucket_bytes = 2 * mib, .reader_threads = 3}, {.memory = memory});
    EXPECT_EQ(model.faults_of(module, memory, 2, rank), "");
    EXPECT_EQ(report.accounted_peak_bytes, report.predicted.peak_bytes());
    EXPECT_EQ(report.bytes_read, report.predicted.bytes_read);
    EXPECT_LE(source.threads(), 3U);
  });
}

TEST(ReaderThreads, GiveTheSameShardsUnderScatter) {
  expect_same_shards<native_sharding<transport::scatter>, host_memory>();
  expect_same_shards<native_sharding<transport::scatter>, fake_device_memory>();
}
TEST(ReaderThreads, GiveTheSameShardsUnderBroadcast) {
  expect_same_shards<native_sharding<transport::broadcast>, host_memory>();
  expect_same_shards<native_sharding<transport::broadcast>, fake_device_memory>();
}
TEST(ReaderThreads, GiveTheSameShardsUnderOwnReads) {
  expect_same_shards<native_sharding<transport::own_read>, host_memory>();
  expect_same_shards<native_sharding<transport::own_read>, fake_device_memory>();
}
TEST(ReaderThreads, GiveTheSameShardsWhereEveryRankLoads) {
  expect_same_shards<every_rank_loads, host_memory>();
  expect_same_shards<every_rank_loads, fake_device_memory>();
}

/// Which threads read depends on who wakes first; that more than one does shows in some attempt.
TEST(ReaderThreads, AreMoreThanOne) {
  const reference_model model = large_model();
  std::size_t most = 0;
  for (int attempt = 0; attempt < 100 && most < 2; ++attempt) {
    self_communicator alone;
    host_memory memory;
    dynamic_module module = model.module(memory, true);
    watched_source source(model.source());
    static_cast<void>(initialize<native_sharding<transport::own_read>>(module, source, alone, {.reader_threads = 4}));
    most = source.threads() > most ? source.threads() : most;
  }
  EXPECT_GE(most, 2U);
}

TEST(ReaderThreads, LeaveASourceAloneThatIsReadByOneThreadAtATime) {
  using source_of_one = minimal_source<in_memory_source>;
  static_assert(!ConcurrentSource<source_of_one>);
  const reference_model model = large_model();
  self_communicator alone;
  host_memory memory;
  dynamic_module module = model.module(memory, true);
  static_cast<void>(initialize<native_sharding<transport::own_read>>(module, source_of_one(model.source()), alone,
                                                                     {.reader_threads = 4}));
  EXPECT_EQ(model.faults_of(module, memory, 1, 0), "");
}

/// Of the reads of the largest tensor all but the first throw.
class breaking_source {
 public:
  static constexpr bool reads_concurrently = true;

  explicit breaking_source(in_memory_source inner) : inner_(std::move(inner)) {}
  [[nodiscard]] std::span<const tensor_descriptor> tensors() const { return inner_.tensors(); }
  void read(std::size_t tensor, std::uint64_t offset, mutable_bytes destination) {
    if (offset != 0 && tensors()[tensor].name == "embed") {
      throw error(errc::io, "embed", "is broken");
    }
    inner_.read(tensor, offset, destination);
  }

 private:
  in_memory_source inner_;
};

TEST(ReaderThreads, ThatFailAreTheSameErrorEverywhere) {
  const reference_model model = large_model();
  const threads_world world(3);
  const auto errors = errors_of_ranks(world, [&](std::size_t rank, threads_communicator& comm) {
    host_memory memory;
    dynamic_module module = model.module(memory, rank == 0);
    breaking_source source(model.source());
    static_cast<void>(initialize(module, source, comm, {.reader_threads = 3}));
  });
  for (const auto& each : errors) {
    ASSERT_TRUE(each);
    EXPECT_EQ(each->code(), errc::io);
    EXPECT_EQ(each->subject(), "embed");
    EXPECT_EQ(each->rank(), 0);
  }
}

TEST(ReaderThreads, MoreThanAnybodyNeedsAreAnError) {
  for (const std::size_t threads : {std::size_t{0}, most_reader_threads + 1}) {
    const reference_model model = large_model();
    self_communicator alone;
    host_memory memory;
    dynamic_module module = model.module(memory, true);
    expect_error(errc::invalid_argument, "reader_threads", "from 1 to 256",
                 [&] { static_cast<void>(initialize(module, model.source(), alone, {.reader_threads = threads})); });
  }
}

/// How much the device has to do when this source is read.
class device_watcher {
 public:
  device_watcher(in_memory_source inner, fake_cuda cuda) : inner_(std::move(inner)), cuda_(std::move(cuda)) {}
  [[nodiscard]] std::span<const tensor_descriptor> tensors() const { return inner_.tensors(); }
  void read(std::size_t tensor, std::uint64_t offset, mutable_bytes destination) {
    const std::size_t pending = cuda_.pending();
    most_ = pending > most_ ? pending : most_;
    inner_.read(tensor, offset, destination);
  }
  [[nodiscard]] std::size_t most() const { return most_; }

 private:
  in_memory_source inner_;
  fake_cuda cuda_;
  std::size_t most_ = 0;
};

template <class Policy>
std::size_t copies_beside_reads(std::size_t buckets_in_flight) {
  const reference_model model = varied_model();
  self_communicator alone;
  const fake_cuda cuda;
  fake_device_memory memory(0, cuda);
  dynamic_module module = model.module(memory, true);
  device_watcher source(model.source(), cuda);
  static_cast<void>(initialize<Policy>(
      module, source, alone, {.bucket_bytes = 100, .buckets_in_flight = buckets_in_flight}, {.memory = memory}));
  EXPECT_EQ(model.faults_of(module, memory, 1, 0), "");
  EXPECT_TRUE(cuda.faults().empty());
  return source.most();
}

TEST(ReadThreads, NeverHandleASignalOfTheProcess) {
  const read_threads all(4);
  EXPECT_TRUE(signals_wait_for_this_thread());
}

TEST(Pipeline, ADeviceCopiesOneBucketWhileTheNextIsRead) {
  EXPECT_GE(copies_beside_reads<native_sharding<transport::own_read>>(2), 1U);
  EXPECT_GE(copies_beside_reads<native_sharding<transport::scatter>>(2), 1U);
  EXPECT_GE(copies_beside_reads<native_sharding<transport::broadcast>>(2), 1U);
}
TEST(Pipeline, OneBucketInFlightIsCopiedBeforeItIsReadInto) {
  EXPECT_EQ(copies_beside_reads<native_sharding<transport::own_read>>(1), 0U);
}

}  // namespace
}  // namespace read_threads_test
