#include "support/heap_faults.hpp"
#include "support/reference_model.hpp"
#include "support/temp_dir.hpp"
#include "support/test_checksum.hpp"
#include <fsdpinit/fsdpinit.hpp>
#include <fsdpinit/init/fingerprint.hpp>
#include <fsdpinit/observe/resident_memory.hpp>
#include <fsdpinit/sources/safetensors.hpp>
#include <fsdpinit/sources/safetensors_writer.hpp>
#include <fsdpinit/testing/rank_harness.hpp>

#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <ostream>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

/// \file
/// What a load costs in numbers that are the same on a busy machine: allocations while bytes move, system calls, bytes copied.
/// They are pinned: whoever changes one says why. Instructions are in tests/instructions.

namespace pinned_counts_test {
namespace {

using namespace fsdpinit;
using namespace fsdpinit::testing_support;
using fsdpinit::testing::run_ranks;

/// An Observer that counts what its rank's thread allocates from when bytes begin to move until the commit.
struct allocation_watch {
  std::uint64_t before = 0;
  std::uint64_t in_between = 0;
  bool counts = false;
  void phase(std::string_view name) {
    if (counts && name == "commit") {
      in_between = heap_allocations() - before;
      counts = false;
    } else if (!counts && (name == "stream" || name == "read")) {
      before = heap_allocations();
      counts = true;
    }
  }
  void progress(std::uint64_t /*done*/, std::uint64_t /*total*/) {}
};

/// A safetensors file that counts what threads other than the one that opened it have allocated when they have read: all in all, as
/// they do nothing else.
class watched_source {
 public:
  static constexpr bool reads_concurrently = true;

  watched_source(const std::string& path, std::atomic<std::uint64_t>& by_readers)
      : inner_(path), by_readers_(&by_readers) {}
  [[nodiscard]] std::span<const tensor_descriptor> tensors() const { return inner_.tensors(); }
  void read(std::size_t tensor, std::uint64_t offset, mutable_bytes destination) {
    inner_.read(tensor, offset, destination);
    look();
  }
  [[nodiscard]] std::size_t file_count() const { return inner_.file_count(); }
  [[nodiscard]] file_position position_of(std::size_t tensor) const { return inner_.position_of(tensor); }
  void read_file(std::size_t file, std::uint64_t offset, mutable_bytes destination) {
    inner_.read_file(file, offset, destination);
    look();
  }
  void read_file_into(std::size_t file, std::uint64_t offset, std::span<const mutable_bytes> destinations) {
    inner_.read_file_into(file, offset, destinations);
    look();
  }

 private:
  void look() {
    if (std::this_thread::get_id() != owner_) {
      *by_readers_ += heap_allocations();
    }
  }

  safetensors_source inner_;
  std::thread::id owner_ = std::this_thread::get_id();
  std::atomic<std::uint64_t>* by_readers_;
};
/// A SourceOpener: only ranks that read call it.
struct watched_checkpoint {
  const std::string* path;
  std::atomic<std::uint64_t>* by_readers;
  watched_source operator()() const { return {*path, *by_readers}; }
};

/// Host memory that counts what is copied within a rank: between staging memory and slabs.
struct counting_memory : host_memory {
  std::shared_ptr<std::uint64_t> copied = std::make_shared<std::uint64_t>(0);
  void copy_in(std::byte* destination, const std::byte* source, std::uint64_t stride, std::uint64_t run,
               std::uint64_t count, queue& order) {
    *copied += run * count;
    host_memory::copy_in(destination, source, stride, run, count, order);
  }
  void copy_out(std::byte* destination, const std::byte* source, std::uint64_t bytes, queue& order) {
    *copied += bytes;
    host_memory::copy_out(destination, source, bytes, order);
  }
};

std::string write_checkpoint(const reference_model& model, const temp_dir& dir) {
  in_memory_source source = model.source();
  std::string file = lay_out_safetensors(source.tensors()).header;
  for (std::size_t i = 0; i < source.tensors().size(); ++i) {
    std::vector<std::byte> bytes(byte_size(source.tensors()[i]));
    source.read(i, 0, bytes);
    file.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  }
  return dir.write("model.safetensors", file);
}

struct rank_counts {
  std::uint64_t allocations = 0;
  std::uint64_t copied = 0;
  rank_report report{};
};

std::vector<rank_counts> load(const reference_model& model, const std::string& path, std::size_t ranks,
                              const options& how) {
  std::vector<rank_counts> counts(ranks);
  run_ranks(ranks, [&](std::size_t rank, threads_communicator& comm) {
    counting_memory memory;
    dynamic_module module = model.module(memory, rank == how.source_rank);
    std::atomic<std::uint64_t> by_readers{0};
    watched_checkpoint source{&path, &by_readers};
    allocation_watch watch;
    counts[rank].report = initialize(module, source, comm, how, {.memory = memory, .observer = watch});
    EXPECT_FALSE(watch.counts);
    counts[rank].allocations = watch.in_between + by_readers;
    counts[rank].copied = *memory.copied;
    const std::size_t shards = ranks / how.replicas;
    EXPECT_EQ(model.faults_of(module, memory, shards, rank % shards), "");
  });
  return counts;
}

const std::vector<policy> all_policies{policy_of<native_sharding<transport::scatter>>,
                                       policy_of<native_sharding<transport::broadcast>>,
                                       policy_of<native_sharding<transport::own_read>>,
                                       policy_of<native_sharding<transport::automatic>>, policy_of<every_rank_loads>};

std::string text_of(const options& how) {
  return concat(how.policy->name, " ", name(how.policy->transport), ", ", how.replicas, " replicas, verify ",
                name(how.verify), ", ", how.reader_threads, " readers, ", how.buckets_in_flight, " buckets of ",
                how.bucket_bytes);
}

void expect_no_allocation(const reference_model& model, const std::string& path, const options& how) {
  SCOPED_TRACE(text_of(how));
  for (const rank_counts& rank : load(model, path, 4, how)) {
    EXPECT_EQ(rank.allocations, 0U) << "rank " << rank.report.rank;
  }
}

TEST(WhileBytesMove, NothingIsAllocated) {
  const reference_model model = varied_model();
  const temp_dir dir;
  const std::string path = write_checkpoint(model, dir);
  for (const policy& each : all_policies) {
    for (const std::size_t replicas : {1, 2}) {
      for (const verification verify : {verification::off, verification::transfer, verification::reread}) {
        for (const std::size_t in_flight : {1, 2, 5}) {
          expect_no_allocation(model, path,
                               {.policy = each,
                                .bucket_bytes = 256,
                                .buckets_in_flight = in_flight,
                                .replicas = replicas,
                                .verify = verify,
                                .checksum = &test_checksum});
        }
      }
    }
  }
}

TEST(WhileBytesMove, ThreadsThatReadAllocateNothing) {
  const reference_model model({{.fqn = "large", .type = dtype::u8, .extents = {2048, 1024}}});
  const temp_dir dir;
  const std::string path = write_checkpoint(model, dir);
  for (const policy& each : all_policies) {
    expect_no_allocation(model, path, {.policy = each, .reader_threads = 3, .replicas = 2});
  }
}

/// Of all ranks together.
struct load_counts {
  std::uint64_t read_calls = 0;      ///< pread(2) and the like, those of headers included
  std::uint64_t bytes_read = 0;      ///< by them, of tensors
  std::uint64_t bytes_received = 0;  ///< each is one copy, from the memory of the rank that sends
  std::uint64_t bytes_placed = 0;    ///< one copy, from staging memory into slabs

  friend bool operator==(const load_counts&, const load_counts&) = default;
  friend std::ostream& operator<<(std::ostream& out, const load_counts& each) {
    return out << each.read_calls << " calls read " << each.bytes_read << " bytes; " << each.bytes_received
               << " received, " << each.bytes_placed << " placed";
  }
};

/// Calls that read, of this process, this one not included.
std::uint64_t read_calls_so_far() {
  std::array<char, 1024> buffer{};
  const std::string_view text = detail::proc_file("/proc/self/io").read(buffer);
  const std::size_t line = text.find("syscr:");
  EXPECT_NE(line, std::string_view::npos) << "the kernel does not count calls (CONFIG_TASK_IO_ACCOUNTING)";
  return line == std::string_view::npos ? 0 : detail::number_in(text, line);
}

/// A matrix of 256 KiB and a vector of 256 bytes in each of 32 layers, over 4 ranks, by buckets of 1 MiB.
constexpr std::uint64_t layers = 32;
constexpr std::uint64_t matrix_bytes = 256 * kib;
constexpr std::uint64_t vector_bytes = 256;
constexpr std::uint64_t model_bytes = layers * (matrix_bytes + vector_bytes);

load_counts counts_of(const policy& chosen) {
  std::vector<reference_tensor> tensors;
  for (std::uint64_t i = 0; i < layers; ++i) {
    tensors.push_back(
        {.fqn = concat("layers.", i, ".matrix"), .type = dtype::u8, .extents = {256, matrix_bytes / 256}});
    tensors.push_back({.fqn = concat("layers.", i, ".vector"), .type = dtype::u8, .extents = {vector_bytes}});
  }
  const reference_model model(tensors);
  const temp_dir dir;
  const std::string path = write_checkpoint(model, dir);
  const std::uint64_t before = read_calls_so_far();
  const std::vector<rank_counts> ranks = load(model, path, 4, {.policy = chosen, .bucket_bytes = 1 * mib});
  load_counts all{.read_calls = read_calls_so_far() - before - 1};
  for (const rank_counts& each : ranks) {
    all.bytes_read += each.report.bytes_read;
    all.bytes_received += each.report.bytes_received;
    all.bytes_placed += each.copied;
  }
  return all;
}

// On each rank that reads two calls for a header and, where several read, those for samples; then those that read tensors.

TEST(PinnedCounts, OfScatter) {
  EXPECT_EQ(counts_of(policy_of<native_sharding<transport::scatter>>),
            (load_counts{.read_calls = 2 + 185,
                         .bytes_read = model_bytes,
                         .bytes_received = 3 * model_bytes / 4,
                         .bytes_placed = 3 * layers * matrix_bytes / 4}));
}
TEST(PinnedCounts, OfBroadcast) {
  EXPECT_EQ(counts_of(policy_of<native_sharding<transport::broadcast>>), (load_counts{.read_calls = 2 + 65,
                                                                                      .bytes_read = model_bytes,
                                                                                      .bytes_received = 3 * model_bytes,
                                                                                      .bytes_placed = model_bytes}));
}
TEST(PinnedCounts, OfOwnReads) {
  EXPECT_EQ(counts_of(policy_of<native_sharding<transport::own_read>>),
            (load_counts{.read_calls = 4 * (2 + most_samples) + 193, .bytes_read = model_bytes + 12096}));
}
TEST(PinnedCounts, OfTheAutomaticTransport) {
  EXPECT_EQ(counts_of(policy_of<native_sharding<transport::automatic>>),
            (load_counts{.read_calls = 4 * (2 + most_samples) + 185,
                         .bytes_read = model_bytes,
                         .bytes_received = 3 * model_bytes / 4,
                         .bytes_placed = 3 * layers * matrix_bytes / 4}));
}
TEST(PinnedCounts, WhereEveryRankLoads) {
  EXPECT_EQ(counts_of(policy_of<every_rank_loads>), (load_counts{.read_calls = 4 * (2 + most_samples + 64),
                                                                 .bytes_read = 4 * model_bytes,
                                                                 .bytes_placed = model_bytes}));
}

}  // namespace
}  // namespace pinned_counts_test
