#include "support/expect_error.hpp"
#include "support/expect_predicted.hpp"
#include "support/fake_device_memory.hpp"
#include "support/one_file_source.hpp"
#include "support/reference_model.hpp"
#include <fsdpinit/fsdpinit.hpp>
#include <fsdpinit/sources/adaptors.hpp>
#include <fsdpinit/testing/laws.hpp>
#include <fsdpinit/testing/rank_harness.hpp>
#include <fsdpinit/units/sharded_units.hpp>

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

/// \file
/// Tensors that are stored narrower than the module wants them: they travel as stored, and every rank widens its own part.

namespace widening_test {
namespace {

using namespace fsdpinit;
using namespace fsdpinit::testing_support;
using fsdpinit::testing::errors_of_ranks;
using fsdpinit::testing::run_ranks;

/// Narrow and wide tensors in one unit and in several, uneven and empty shards, an inner dim, whole ones, a tie, and types that no
/// cast touches.
std::vector<reference_tensor> stored_tensors() {
  return {
      {.fqn = "embed.weight", .type = dtype::bf16, .extents = {17, 6}, .tied = {"head.weight"}},
      {.fqn = "scale", .type = dtype::f16, .extents = {}, .how = replicate{}},
      {.fqn = "nothing", .type = dtype::f16, .extents = {0, 4}},
      {.fqn = "flags", .type = dtype::boolean, .extents = {9}},
      {.fqn = "wide", .type = dtype::f32, .extents = {5, 3}},
      {.fqn = "mean", .type = dtype::f16, .extents = {7}, .role = slot_role::persistent_buffer},
      {.fqn = "mask", .type = dtype::f32, .extents = {3}, .role = slot_role::non_persistent_buffer},
      {.fqn = "layers.0.up", .type = dtype::bf16, .extents = {5, 8}},
      {.fqn = "layers.0.query", .type = dtype::f16, .extents = {3, 84}, .how = shard{-1}},
      {.fqn = "layers.0.steps", .type = dtype::i64, .extents = {4}},
      {.fqn = "layers.1.up", .type = dtype::bf16, .extents = {5, 8}},
      {.fqn = "layers.1.norm", .type = dtype::f16, .extents = {2}},
  };
}

/// What the module should hold: the same tensors with their floats in f32.
reference_model widened(const std::vector<reference_tensor>& stored) {
  const reference_model narrow(stored);
  std::vector<reference_tensor> out;
  for (reference_tensor tensor : narrow.tensors()) {
    if (is_convertible(tensor.type, dtype::f32) && !tensor.from_buffer()) {
      const std::uint64_t count = tensor.bytes.size() / (bits(tensor.type) / 8);
      std::vector<std::byte> wide(count * 4);
      convert_floats(tensor.type, tensor.bytes.data(), dtype::f32, wide.data(), count);
      tensor.bytes = std::move(wide);
      tensor.type = dtype::f32;
    }
    out.push_back(std::move(tensor));
  }
  return reference_model(std::move(out));
}

/// \tparam Stored the state dict, made of one in memory.
template <class Policy, class Space, class Stored = in_memory_source>
void expect_widened(const std::vector<reference_tensor>& tensors, std::size_t ranks, const options& how) {
  SCOPED_TRACE(concat(Policy::name, " ", name(Policy::transport), ", ", ranks, " ranks, ", how.replicas,
                      " replicas, buckets of ", how.bucket_bytes, Space::host_accessible ? ", host" : ", device"));
  const reference_model stored(tensors);
  const reference_model wanted = widened(tensors);
  const mesh grid{.shards = ranks / how.replicas, .replicas = how.replicas};
  run_ranks(ranks, [&](std::size_t rank, threads_communicator& world) {
    Space memory;
    dynamic_module module = wanted.module(memory, rank == how.source_rank);
    const rank_report report =
        initialize<Policy>(module, Stored(stored.source()) | cast(dtype::f32), world, how, {.memory = memory});

    EXPECT_EQ(wanted.faults_of(module, memory, grid.shards, grid.shard_of(rank)), "") << "rank " << rank;
    const naive_traffic moved = stored.traffic(Policy::transport, grid, how.source_rank, rank, true);
    if (moved.own_reads == 0) {
      EXPECT_EQ(report.bytes_read, moved.read) << "rank " << rank;
      EXPECT_EQ(report.bytes_sent, moved.sent) << "rank " << rank;
      EXPECT_EQ(report.bytes_received, moved.received) << "rank " << rank;
    }
    expect_as_predicted(report);
    EXPECT_EQ(memory.accounted(), report.predicted.slab_bytes) << "rank " << rank;
    std::uint64_t shard_bytes = 0;
    for (const reference_tensor& tensor : wanted.tensors()) {
      shard_bytes += wanted.expected_bytes(tensor, grid.shards, grid.shard_of(rank));
    }
    EXPECT_EQ(report.predicted.shard_bytes, shard_bytes) << "rank " << rank;
    if constexpr (!Space::host_accessible) {
      EXPECT_EQ(memory.cuda().faults(), std::vector<std::string>{}) << "rank " << rank;
    }
  });
}

template <class Space, class Stored = in_memory_source>
void expect_widened_in_every_cell() {
  for (const std::size_t shards : {1U, 2U, 3U, 4U, 7U}) {
    for (const std::size_t replicas : {1U, 2U}) {
      for (const std::uint64_t bucket_bytes : {std::uint64_t{7}, std::uint64_t{59}, 1 * mib}) {
        const options how{.bucket_bytes = bucket_bytes, .source_rank = shards - 1, .replicas = replicas};
        const std::size_t ranks = shards * replicas;
        expect_widened<native_sharding<transport::scatter>, Space, Stored>(stored_tensors(), ranks, how);
        expect_widened<native_sharding<transport::broadcast>, Space, Stored>(stored_tensors(), ranks, how);
        expect_widened<native_sharding<transport::own_read>, Space, Stored>(stored_tensors(), ranks, how);
        expect_widened<every_rank_loads, Space, Stored>(stored_tensors(), ranks, how);
      }
    }
  }
}

TEST(Widening, HappensWhereBytesArriveInHostMemory) { expect_widened_in_every_cell<host_memory>(); }

TEST(Widening, HappensWhereBytesArriveInDeviceMemory) { expect_widened_in_every_cell<fake_device_memory>(); }

TEST(Widening, HappensAmongTensorsThatAreReadWithTheirNeighbours) {
  expect_widened_in_every_cell<host_memory, one_file_source>();
}

/// Counts how often it is read from.
struct counted_source : one_file_source {
  counted_source(in_memory_source inner, std::size_t& reads) : one_file_source(std::move(inner)), reads_(&reads) {}
  void read(std::size_t tensor, std::uint64_t offset, mutable_bytes to) {
    ++*reads_;
    one_file_source::read(tensor, offset, to);
  }
  void read_file(std::size_t file, std::uint64_t offset, mutable_bytes to) {
    ++*reads_;
    one_file_source::read_file(file, offset, to);
  }
  void read_file_into(std::size_t file, std::uint64_t offset, std::span<const mutable_bytes> to) {
    ++*reads_;
    one_file_source::read_file_into(file, offset, to);
  }
  std::size_t* reads_;
};

template <class Policy>
std::size_t reads_of_many_that_stay_and_one_that_is_cast() {
  std::vector<reference_tensor> tensors;
  for (std::size_t i = 0; i < 60; ++i) {
    tensors.push_back({.fqn = concat("stays.", i), .type = dtype::i64, .extents = {3, 2}});
  }
  tensors.push_back({.fqn = "widens", .type = dtype::bf16, .extents = {3, 2}});
  const reference_model stored(tensors);
  const reference_model wanted = widened(tensors);
  std::size_t reads = 0;
  run_ranks(1, [&](std::size_t, threads_communicator& world) {
    host_memory memory;
    dynamic_module module = wanted.module(memory, true);
    initialize<Policy>(module, counted_source(stored.source(), reads) | cast(dtype::f32), world, {},
                       {.memory = memory});
    EXPECT_EQ(wanted.faults_of(module, memory, 1, 0), "");
  });
  return reads;
}

TEST(Widening, WhatIsNotCastIsReadWithItsNeighbours) {
  EXPECT_EQ(reads_of_many_that_stay_and_one_that_is_cast<native_sharding<transport::scatter>>(), 2U);
  EXPECT_EQ(reads_of_many_that_stay_and_one_that_is_cast<native_sharding<transport::own_read>>(), 2U);
}

/// Has each tensor a second time, converted, in a file of its own.
struct converted_beside_stored : cast_source<one_file_source> {
  explicit converted_beside_stored(in_memory_source held)
      : cast_source(one_file_source(std::move(held)), dtype::f32, [](std::string_view) { return true; }) {}
  [[nodiscard]] std::size_t file_count() const { return 1 + tensors().size(); }
  [[nodiscard]] file_position position_of(std::size_t tensor) const { return {.file = 1 + tensor}; }
  void read_file(std::size_t file, std::uint64_t offset, mutable_bytes to) { read(file - 1, offset, to); }
  void read_file_into(std::size_t file, std::uint64_t offset, std::span<const mutable_bytes> to) {
    for (const mutable_bytes each : to) {
      read_file(file, offset, each);
      offset += each.size();
    }
  }
};

TEST(Widening, NeverTakesConvertedBytesForStoredOnes) {
  const reference_model stored(stored_tensors());
  const reference_model wanted = widened(stored_tensors());
  converted_beside_stored lawful(stored.source());
  EXPECT_EQ(fsdpinit::testing::check_source(lawful), fsdpinit::testing::violations{});
  run_ranks(2, [&](std::size_t rank, threads_communicator& world) {
    host_memory memory;
    dynamic_module module = wanted.module(memory, rank == 0);
    initialize<native_sharding<transport::own_read>>(module, converted_beside_stored(stored.source()), world, {},
                                                     {.memory = memory});
    EXPECT_EQ(wanted.faults_of(module, memory, 2, rank), "");
  });
}

TEST(Widening, HappensOnDevicesWithKernels) {
  static_assert(WideningMemory<fake_converting_memory> && !WideningMemory<fake_device_memory>);
  expect_widened_in_every_cell<fake_converting_memory>();
}

TEST(Widening, OnADeviceNeedsNoScratchMemory) {
  const reference_model stored(stored_tensors());
  const reference_model wanted = widened(stored_tensors());
  run_ranks(2, [&](std::size_t rank, threads_communicator& world) {
    fake_converting_memory memory;
    dynamic_module module = wanted.module(memory, rank == 0);
    const rank_report report = initialize<native_sharding<transport::broadcast>>(
        module, stored.source() | cast(dtype::f32), world, {}, {.memory = memory});
    EXPECT_EQ(report.predicted.scratch_bytes, 0U) << "rank " << rank;
    EXPECT_EQ(memory.cuda().faults(), std::vector<std::string>{});
  });
}

TEST(Widening, OnADeviceMayFailAtAnyCallOfIt) {
  const reference_model stored(stored_tensors());
  const reference_model wanted = widened(stored_tensors());
  std::uint64_t injections = 0;
  for (bool failed = true; failed && !::testing::Test::HasFailure(); ++injections) {
    std::vector<fsdpinit::testing::fake_cuda_with_kernels> devices(2);
    devices[1].calls.fail_at(injections);
    const auto errors = errors_of_ranks(2, [&](std::size_t rank, threads_communicator& world) {
      fake_converting_memory memory(0, devices[rank]);
      dynamic_module module = wanted.module(memory, rank == 0);
      initialize(module, stored.source() | cast(dtype::f32), world, {}, {.memory = memory});
    });
    failed = devices[1].calls.has_failed();
    EXPECT_EQ(errors[0].has_value(), failed);
    EXPECT_EQ(errors[1].has_value(), failed);
    if (failed && errors[0] && errors[1]) {
      EXPECT_EQ(errors[0]->code(), errc::device) << errors[0]->what();
      EXPECT_STREQ(errors[0]->what(), errors[1]->what());
    }
    for (const fsdpinit::testing::fake_cuda_with_kernels& device : devices) {
      EXPECT_EQ(device.left(), 0U);
      EXPECT_EQ(device.faults(), std::vector<std::string>{});
    }
  }
  EXPECT_GT(injections, 30U);
}

TEST(Widening, ScratchMemoryHoldsAnElementEvenWhereBucketsDoNot) {
  expect_widened<native_sharding<>, fake_device_memory>(stored_tensors(), 1, {.bucket_bytes = 1});
}

TEST(Widening, TensorsOfSeveralBlocksAreWhole) {
  const std::vector<reference_tensor> large{{.fqn = "a", .type = dtype::bf16, .extents = {1021, 700}},
                                            {.fqn = "b", .type = dtype::f16, .extents = {300, 1400}, .how = shard{1}}};
  expect_widened<native_sharding<>, host_memory>(large, 4, {});
  expect_widened<native_sharding<>, fake_device_memory>(large, 4, {.bucket_bytes = 64 * kib});
  expect_widened<native_sharding<>, fake_converting_memory>(large, 4, {.bucket_bytes = 64 * kib});
}

TEST(Widening, ComparesStoredCopiesOfATie) {
  std::vector<reference_tensor> tensors{
      {.fqn = "a", .type = dtype::bf16, .extents = {6, 5}, .tied = {"b"}, .stored_as = {"b", "a"}}};
  expect_widened<native_sharding<>, host_memory>(tensors, 3, {.bucket_bytes = 23});

  const reference_model stored(tensors);
  const reference_model wanted = widened(tensors);
  std::vector<std::byte> other = stored.tensors()[0].bytes;
  other.back() ^= std::byte{1};
  const tensor_descriptor a{.name = "a", .dtype = dtype::bf16, .shape = {6, 5}};
  const tensor_descriptor b{.name = "b", .dtype = dtype::bf16, .shape = {6, 5}};
  const auto errors = errors_of_ranks(3, [&](std::size_t, threads_communicator& world) {
    host_memory memory;
    dynamic_module module = wanted.module(memory, false);
    const in_memory_source source(
        {{.descriptor = a, .bytes = stored.tensors()[0].bytes}, {.descriptor = b, .bytes = other}});
    initialize(module, source | cast(dtype::f32), world, {}, {.memory = memory});
  });
  expect_same_error(errors, errc::invalid_tie, "b", 0, "stores different values");
}

TEST(Widening, OfATieThatIsStoredInTwoTypesHappensBeforeTheWire) {
  const std::vector<std::byte> narrow = content_for("a", 24);
  std::vector<std::byte> wide(48);
  convert_floats(dtype::bf16, narrow.data(), dtype::f32, wide.data(), 12);
  run_ranks(2, [&](std::size_t rank, threads_communicator& world) {
    const in_memory_source source({{.descriptor = {.name = "a", .dtype = dtype::bf16, .shape = {12}}, .bytes = narrow},
                                   {.descriptor = {.name = "b", .dtype = dtype::f32, .shape = {12}}, .bytes = wide}});
    dynamic_module module;
    module.add_parameter("a", dtype::f32, {12});
    module.add_parameter("b", dtype::f32, {12});
    module.tie({"a", "b"});
    const rank_report report = initialize(module, source | cast(dtype::f32), world);
    EXPECT_EQ(report.bytes_sent + report.bytes_received, 24U);
    EXPECT_EQ(report.bytes_read, rank == 0 ? 96U : 0U);
  });
}

TEST(Widening, WorksBehindDescriptorsThatAreShared) {
  const reference_model stored(stored_tensors());
  const reference_model wanted = widened(stored_tensors());
  run_ranks(3, [&](std::size_t rank, threads_communicator& world) {
    auto source = share_descriptors([&] { return stored.source() | renamed("", "") | cast(dtype::f32); }, world);
    host_memory memory;
    dynamic_module module = wanted.module(memory, rank == 0);
    const rank_report report = initialize(module, source, world, {}, {.memory = memory});
    EXPECT_EQ(wanted.faults_of(module, memory, 3, rank), "");
    EXPECT_EQ(report.bytes_read, stored.traffic(transport::scatter, {.shards = 3}, 0, rank, true).read);
  });
}

TEST(Widening, LeavesSlabsThatUnitsCanUnshard) {
  const reference_model stored(stored_tensors());
  const reference_model wanted = widened(stored_tensors());
  run_ranks(3, [&](std::size_t rank, threads_communicator& world) {
    host_memory memory;
    dynamic_module module = wanted.module(memory, rank == 0);
    module.visit_slots([]<class Slot>(std::string_view, Slot& slot) {
      if constexpr (std::is_same_v<Slot, parameter>) {
        slot.set_requires_grad(false);  // units that are trained have one dtype
      }
    });
    initialize(module, stored.source() | cast(dtype::f32), world, {}, {.memory = memory});
    sharded_units units(module, world, {}, memory);
    for (std::size_t unit = 0; unit < units.size(); ++unit) {
      units.unshard(unit);
    }
    EXPECT_EQ(wanted.faults_of(module, memory, 1, 0), "") << "rank " << rank;
  });
}

TEST(Widening, ASlabHoldsTheBytesThatArriveAtTheEndOfTheLargestShard) {
  const slabs_layout layout = lay_out_slabs({{.fqn = "a", .dtype = dtype::f32, .travels_as = dtype::bf16, .shape = {5}},
                                             {.fqn = "b", .dtype = dtype::f32, .shape = {5}}},
                                            {.shards = 2});
  const planned_tensor& a = layout.tensors[0];
  EXPECT_EQ(a.kept_offset(), 0U);
  EXPECT_EQ(a.offset, 6U);
  EXPECT_EQ(a.kept_bytes(a.partition.local_bytes(0)), 12U);
  EXPECT_EQ(a.kept_bytes(a.partition.local_bytes(1)), 8U);
  EXPECT_EQ(a.partition.bytes(), 10U);
  EXPECT_EQ(layout.tensors[1].offset, 256U);
  EXPECT_EQ(layout.tensors[1].kept_offset(), 256U);
}

/// Sources that differ only in what is stored.
TEST(Widening, RanksThatReadMustFindTheSameStoredType) {
  const std::vector<std::byte> bytes(48);
  const auto errors = errors_of_ranks(2, [&](std::size_t rank, threads_communicator& world) {
    const dtype type = rank == 1 ? dtype::f16 : dtype::bf16;
    const in_memory_source source(
        {{.descriptor = {.name = "a", .dtype = type, .shape = {12}}, .bytes = bytes_view(bytes).first(24)}});
    dynamic_module module;
    module.add_parameter("a", dtype::f32, {12});
    initialize<native_sharding<transport::own_read>>(module, source | cast(dtype::f32), world);
  });
  expect_same_error(errors, errc::disagreement, "a", 1, "this rank's checkpoint differs from that of rank 0");
}

}  // namespace
}  // namespace widening_test
