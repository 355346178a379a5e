#include "support/archetypes.hpp"
#include "support/expect_error.hpp"
#include "support/expect_predicted.hpp"
#include "support/fake_device_memory.hpp"
#include "support/reference_model.hpp"
#include "support/sanitizers.hpp"
#include "support/test_checksum.hpp"
#include <fsdpinit/fsdpinit.hpp>
#include <fsdpinit/sources/adaptors.hpp>
#include <fsdpinit/testing/rank_harness.hpp>

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

/// \file
/// options::verify where nothing is wrong, and where it cannot be had; `flips_test.cpp` has what it is for.

namespace verification_test {
namespace {

using namespace fsdpinit;
using namespace fsdpinit::testing_support;
using fsdpinit::testing::errors_of_ranks;
using fsdpinit::testing::run_ranks;

template <class Policy, class Space>
void expect_verified(const reference_model& model, std::size_t ranks, const options& how) {
  SCOPED_TRACE(concat(Policy::name, " ", name(Policy::transport), ", ", ranks, " ranks, ", how.replicas,
                      " replicas, buckets of ", how.bucket_bytes, ", verify ", name(how.verify),
                      Space::host_accessible ? ", host" : ", device"));
  const mesh grid{.shards = ranks / how.replicas, .replicas = how.replicas};
  run_ranks(ranks, [&](std::size_t rank, threads_communicator& world) {
    Space memory;
    dynamic_module module = model.module(memory, rank == how.source_rank);
    const rank_report report = initialize<Policy>(module, model.source(), world, how, {.memory = memory});
    EXPECT_EQ(model.faults_of(module, memory, grid.shards, grid.shard_of(rank)), "") << "rank " << rank;
    EXPECT_EQ(report.verified, how.verify);
    expect_as_predicted(report);
  });
}

template <class Space>
void expect_verified_in_every_cell() {
  using counts = std::vector<std::size_t>;
  const reference_model model = varied_model();
  for (const std::size_t shards : is_sanitized ? counts{3} : counts{1, 2, 3, 7}) {
    for (const std::size_t replicas : counts{1, 2}) {
      for (const std::uint64_t bucket_bytes : is_sanitized ? counts{13, 1 * mib} : counts{13, 509, 1 * mib}) {
        for (const verification verify : {verification::transfer, verification::reread}) {
          const std::size_t ranks = shards * replicas;
          const options how{.bucket_bytes = bucket_bytes,
                            .source_rank = ranks - 1,
                            .replicas = replicas,
                            .verify = verify,
                            .checksum = &test_checksum};
          expect_verified<native_sharding<transport::scatter>, Space>(model, ranks, how);
          expect_verified<native_sharding<transport::broadcast>, Space>(model, ranks, how);
          expect_verified<native_sharding<transport::own_read>, Space>(model, ranks, how);
          expect_verified<native_sharding<transport::automatic>, Space>(model, ranks, how);
          expect_verified<every_rank_loads, Space>(model, ranks, how);
        }
      }
    }
  }
}

TEST(Verification, PassesWhereNothingIsWrongInHostMemory) { expect_verified_in_every_cell<host_memory>(); }

TEST(Verification, PassesWhereNothingIsWrongInDeviceMemory) { expect_verified_in_every_cell<fake_device_memory>(); }

TEST(Verification, PassesWithOneByteBuckets) {
  expect_verified<native_sharding<>, fake_device_memory>(
      varied_model(), 1, {.bucket_bytes = 1, .verify = verification::reread, .checksum = &test_checksum});
}

TEST(Verification, CoversAModulesOwnState) {
  const reference_model model = varied_model();
  run_ranks(3, [&](std::size_t rank, threads_communicator& world) {
    host_memory memory;
    dynamic_module module = model.module(memory, rank == 0);
    if (rank == 0) {
      model.load(module, memory);
    }
    const rank_report report = initialize(
        module, module_state{}, world,
        {.bucket_bytes = 509, .verify = verification::transfer, .checksum = &test_checksum}, {.memory = memory});
    EXPECT_EQ(model.faults_of(module, memory, 3, rank), "");
    EXPECT_EQ(report.verified, verification::transfer);
  });
}

TEST(Verification, CoversCastsOfBothDirections) {
  const reference_model stored({{.fqn = "a", .type = dtype::f32, .extents = {9, 4}},
                                {.fqn = "b", .type = dtype::f16, .extents = {6, 6}, .how = shard{1}}});
  for (const dtype wanted : {dtype::bf16, dtype::f32}) {
    for (const verification verify : {verification::transfer, verification::reread}) {
      run_ranks(3, [&](std::size_t, threads_communicator& world) {
        dynamic_module module;
        module.add_parameter("a", wanted, {9, 4});
        module.add_parameter("b", wanted, {6, 6}, shard{1});
        expect_as_predicted(initialize(module, stored.source() | cast(wanted), world,
                                       {.bucket_bytes = 31, .verify = verify, .checksum = &test_checksum}));
      });
    }
  }
}

/// Every kind of communicator, down to the one that can do nothing but broadcast.
template <class Comm>
void expect_verified_over() {
  const reference_model model = varied_model();
  run_ranks(3, [&](std::size_t rank, threads_communicator& world) {
    Comm data(world);
    host_memory memory;
    dynamic_module module = model.module(memory, rank == 1);
    static_cast<void>(
        initialize(module, model.source(), channels{data, world},
                   {.bucket_bytes = 64, .source_rank = 1, .verify = verification::transfer, .checksum = &test_checksum},
                   {.memory = memory}));
    EXPECT_EQ(model.faults_of(module, memory, 3, rank), "");
  });
}

TEST(Verification, NeedsNoMoreThanABroadcast) {
  expect_verified_over<minimal_communicator>();
  expect_verified_over<scattering_communicator>();
  expect_verified_over<non_blocking_communicator>();
  expect_verified_over<half_blocking_communicator>();
  expect_verified_over<group_communicator>();
}

/// Its third read fails.
struct failing_source {
  in_memory_source inner;
  int reads = 0;
  [[nodiscard]] std::span<const tensor_descriptor> tensors() const { return inner.tensors(); }
  void read(std::size_t tensor, std::uint64_t offset, mutable_bytes destination) {
    if (++reads == 3) {
      throw error(errc::io, "the disk", "is gone");
    }
    inner.read(tensor, offset, destination);
  }
};

TEST(Verification, DoesNotHideAReadThatFailed) {
  const reference_model model = varied_model();
  const threads_world world(3);
  const auto errors = errors_of_ranks(world, [&](std::size_t rank, threads_communicator& control) {
    minimal_communicator data(control);  // cannot be interrupted: peers go on with what was not read
    host_memory memory;
    dynamic_module module = model.module(memory, rank == 2);
    failing_source source{.inner = model.source()};
    static_cast<void>(
        initialize(module, source, channels{data, control},
                   {.bucket_bytes = 64, .source_rank = 2, .verify = verification::transfer, .checksum = &test_checksum},
                   {.memory = memory}));
  });
  expect_same_error(errors, errc::io, "the disk", 2, "is gone");
}

/// What ranks other than `source` see of a checkpoint: one byte of it is another. Of a large tensor: no sample has that byte.
in_memory_source other_copy(const reference_model& model, std::vector<std::byte>& bytes, std::string_view fqn) {
  std::vector<in_memory_tensor> tensors;
  for (const reference_tensor& tensor : model.tensors()) {
    bytes_view values = tensor.bytes;
    if (tensor.fqn == fqn) {
      bytes = tensor.bytes;
      bytes.back() ^= std::byte{1};
      values = bytes;
    }
    tensors.push_back({{.name = tensor.fqn, .dtype = tensor.type, .shape = tensor.extents}, values});
  }
  return in_memory_source(std::move(tensors));
}

template <class Space>
void expect_rereading_finds_another_copy() {
  const reference_model model({{.fqn = "a", .type = dtype::u8, .extents = {40}},
                               {.fqn = "b", .type = dtype::u8, .extents = {4, 10000}, .how = shard{1}},
                               {.fqn = "c", .type = dtype::u8, .extents = {3}, .how = replicate{}}});
  const threads_world world(2);
  const auto errors = errors_of_ranks(world, [&](std::size_t rank, threads_communicator& comm) {
    Space memory;
    dynamic_module module = model.module(memory, rank == 0);
    std::vector<std::byte> bytes;
    in_memory_source source = other_copy(model, bytes, rank == 0 ? "" : "b");
    static_cast<void>(initialize(module, source, comm,
                                 {.bucket_bytes = 32, .verify = verification::reread, .checksum = &test_checksum},
                                 {.memory = memory}));
  });
  expect_same_error(errors, errc::corrupted, "b", 1, "byte 19999 of the shard is ");
}

TEST(Verification, RereadingFindsThatARankHasAnotherCopyOfTheCheckpoint) {
  expect_rereading_finds_another_copy<host_memory>();
  expect_rereading_finds_another_copy<fake_device_memory>();
}

TEST(Verification, AModulesOwnStateCannotBeReadAgain) {
  run_ranks(2, [](std::size_t, threads_communicator& world) {
    dynamic_module module;
    expect_error(errc::invalid_argument, "verify", "use verification::transfer", [&] {
      static_cast<void>(
          initialize(module, module_state{}, world, {.verify = verification::reread, .checksum = &test_checksum}));
    });
  });
}

TEST(Verification, RereadingNeedsTheCheckpointOnEveryRank) {
  const reference_model model = varied_model();
  const threads_world world(2);
  const auto errors = errors_of_ranks(world, [&](std::size_t, threads_communicator& comm) {
    auto source = share_descriptors([&] { return model.source(); }, comm);
    dynamic_module module;
    static_cast<void>(initialize(module, source, comm, {.verify = verification::reread, .checksum = &test_checksum}));
  });
  expect_same_error(errors, errc::invalid_argument, "source", 1, "use verification::transfer");
}

TEST(Verification, IsTheSameOnEveryRankOrAnError) {
  const threads_world world(2);
  const auto errors = errors_of_ranks(world, [](std::size_t rank, threads_communicator& comm) {
    dynamic_module module;
    const auto verify = rank == 0 ? verification::off : verification::transfer;
    static_cast<void>(initialize(module, in_memory_source(), comm, {.verify = verify, .checksum = &test_checksum}));
  });
  expect_same_error(errors, errc::disagreement, "", 1, "'verify transfer ");
}

}  // namespace
}  // namespace verification_test
