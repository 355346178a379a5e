#include "support/reference_model.hpp"
#include <fsdpinit/fsdpinit.hpp>
#include <fsdpinit/testing/rank_harness.hpp>

#include <gtest/gtest.h>

#include <cstddef>
#include <string>
#include <vector>

namespace automatic_test {
namespace {

using namespace fsdpinit;
using namespace fsdpinit::testing_support;
using fsdpinit::testing::run_ranks;

using automatic = native_sharding<transport::automatic>;

reference_model large_and_small() {
  return reference_model({{.fqn = "large", .type = dtype::u8, .extents = {2 * mib}},
                          {.fqn = "small", .type = dtype::u8, .extents = {4000}}});
}

/// The checkpoint is not on every rank's disk, or is another one there.
struct opener {
  const reference_model* model;
  bool works = true;
  in_memory_source operator()() const {
    if (!works) {
      throw error(errc::io, "model.safetensors", "no such file");
    }
    return model->source();
  }
};

TEST(AutomaticTransport, ReadsLargeChunksOnTheirRanksAndScattersTheRest) {
  const reference_model model = large_and_small();
  run_ranks(2, [&](std::size_t rank, threads_communicator& world) {
    host_memory memory;
    dynamic_module module = model.module(memory, false);
    const rank_report report = initialize<automatic>(module, opener{&model}, world, {}, memory);
    EXPECT_EQ(model.faults_of(module, memory, 2, rank), "");
    EXPECT_EQ(report.transport, "automatic");
    EXPECT_EQ(report.transport_reason,
              "1 tensor, 2097152 bytes: read by each rank (chunks of 1 MiB or more); 1 tensor, 4000 bytes: scattered "
              "(smaller "
              "chunks)");
    EXPECT_EQ(report.bytes_read, mib + (rank == 0 ? 4000 : 0));
    EXPECT_EQ(report.bytes_received, rank == 0 ? 0U : 2000U);
  });
}

TEST(AutomaticTransport, ScattersAllWhereARankCannotReadTheCheckpointAndNamesTheLowest) {
  const reference_model model = large_and_small();
  run_ranks(4, [&](std::size_t rank, threads_communicator& world) {
    host_memory memory;
    dynamic_module module = model.module(memory, false);
    const rank_report report = initialize<automatic>(module, opener{&model, rank < 2}, world, {}, memory);
    EXPECT_EQ(model.faults_of(module, memory, 4, rank), "");
    EXPECT_EQ(report.transport_reason, "rank 2 cannot read the checkpoint: model.safetensors: no such file");
    EXPECT_EQ(report.bytes_read, rank == 0 ? 2 * mib + 4000 : 0);
  });
}

TEST(AutomaticTransport, ScattersAllWhereARankHasAnotherCheckpoint) {
  const reference_model model = large_and_small();
  const reference_model other({{.fqn = "large", .type = dtype::u8, .extents = {2 * mib}}});
  run_ranks(2, [&](std::size_t rank, threads_communicator& world) {
    host_memory memory;
    dynamic_module module = model.module(memory, false);
    const rank_report report = initialize<automatic>(module, opener{rank == 1 ? &other : &model}, world, {}, memory);
    EXPECT_EQ(model.faults_of(module, memory, 2, rank), "");
    EXPECT_NE(report.transport_reason.find("rank 1 cannot read the checkpoint: "), std::string::npos);
  });
}

TEST(AutomaticTransport, OfASourceThatIsOnOneRankOnlyScatters) {
  const reference_model model = large_and_small();
  run_ranks(2, [&](std::size_t rank, threads_communicator& world) {
    host_memory memory;
    auto source = share_descriptors(opener{&model}, world);
    dynamic_module module = model.module(memory, false);
    const rank_report report = initialize<automatic>(module, source, world, {}, memory);
    EXPECT_EQ(model.faults_of(module, memory, 2, rank), "");
    EXPECT_EQ(report.bytes_read, rank == 0 ? 2 * mib + 4000 : 0);
  });
}

// -- what need not fit

TEST(NonStrict, MissingTensorsStayOnMetaAndBothKindsAreListedOnEveryRank) {
  const reference_model wanted(
      {{.fqn = "kept", .type = dtype::u8, .extents = {40}}, {.fqn = "absent", .type = dtype::u8, .extents = {40}}});
  const reference_model stored(
      {{.fqn = "kept", .type = dtype::u8, .extents = {40}}, {.fqn = "left_over", .type = dtype::u8, .extents = {8}}});
  run_ranks(3, [&](std::size_t, threads_communicator& world) {
    host_memory memory;
    dynamic_module module = wanted.module(memory, false);
    const rank_report report = initialize(module, stored.source(), world, {.strict = false}, memory);
    EXPECT_EQ(report.missing, std::vector<std::string>{"absent"});
    EXPECT_EQ(report.unexpected, std::vector<std::string>{"left_over"});
    EXPECT_TRUE(module.get_parameter("absent").is_meta());
    EXPECT_FALSE(module.get_parameter("kept").is_meta());
  });
}

TEST(NonStrict, MissingTensorsAreInitialisedAlikeOnEveryMesh) {
  const reference_model wanted({{.fqn = "layers.0.kept", .type = dtype::u8, .extents = {40}},
                                {.fqn = "layers.0.absent", .type = dtype::bf16, .extents = {7, 6}, .tied = {"again"}},
                                {.fqn = "layers.1.absent", .type = dtype::f32, .extents = {3, 12}, .how = shard{1}}});
  const reference_model stored({{.fqn = "layers.0.kept", .type = dtype::u8, .extents = {40}}});
  std::vector<std::byte> alone;
  for (const std::size_t shards : {1U, 2U, 4U}) {
    for (const std::size_t replicas : {1U, 2U}) {
      std::vector<std::vector<std::byte>> parts(shards);
      run_ranks(shards * replicas, [&](std::size_t rank, threads_communicator& world) {
        host_memory memory;
        dynamic_module module = wanted.module(memory, false);
        const rank_report report = initialize(module, stored.source(), world, {.replicas = replicas, .strict = false},
                                              memory, null_observer{}, no_optimizer{}, normal_values{.seed = 5});
        EXPECT_EQ(report.missing.size(), 2U);
        EXPECT_EQ(report.accounted_peak_bytes, report.predicted.peak_bytes());
        EXPECT_EQ(module.get_parameter("again").data(), module.get_parameter("layers.0.absent").data());
        if (rank < shards) {
          parts[rank] = bytes_in(memory, module.get_parameter("layers.0.absent").local());
        }
      });
      std::vector<std::byte> whole;
      for (const std::vector<std::byte>& part : parts) {
        whole.insert(whole.end(), part.begin(), part.end());
      }
      alone = alone.empty() ? whole : alone;
      EXPECT_EQ(whole, alone) << shards << " shards, " << replicas << " replicas";
    }
  }
  EXPECT_EQ(alone.size(), 84U);
}

TEST(NonStrict, AMissingTensorThatCannotBeInitialisedIsAnErrorBeforeAnythingIsDropped) {
  const reference_model wanted({{.fqn = "steps", .type = dtype::i64, .extents = {4}}});
  run_ranks(2, [&](std::size_t, threads_communicator& world) {
    host_memory memory;
    dynamic_module module = wanted.module(memory, false);
    wanted.load(module, memory);
    EXPECT_THROW(initialize(module, in_memory_source(), world, {.strict = false}, memory, null_observer{},
                            no_optimizer{}, constant_values{}),
                 error);
    EXPECT_FALSE(module.get_parameter("steps").is_meta());
  });
}

TEST(NonStrict, AShapeThatDiffersIsStillAnError) {
  const reference_model wanted({{.fqn = "w", .type = dtype::u8, .extents = {40}}});
  const reference_model stored({{.fqn = "w", .type = dtype::u8, .extents = {41}}});
  run_ranks(2, [&](std::size_t, threads_communicator& world) {
    host_memory memory;
    dynamic_module module = wanted.module(memory, false);
    EXPECT_THROW(initialize(module, stored.source(), world, {.strict = false}, memory), error);
  });
}

}  // namespace
}  // namespace automatic_test
