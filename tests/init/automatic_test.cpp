#include "support/expect_error.hpp"
#include "support/readable_checkpoint.hpp"
#include "support/reference_model.hpp"
#include <fsdpinit/cost/by_cost.hpp>
#include <fsdpinit/fsdpinit.hpp>
#include <fsdpinit/testing/rank_harness.hpp>

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace automatic_test {
namespace {

using namespace fsdpinit;
using namespace fsdpinit::testing_support;
using fsdpinit::testing::errors_of_ranks;
using fsdpinit::testing::run_ranks;

using automatic = native_sharding<transport::automatic>;

TEST(AutomaticTransport, ReadsLargeChunksOnTheirRanksAndScattersTheRest) {
  const reference_model model = large_and_small();
  run_ranks(2, [&](std::size_t rank, threads_communicator& world) {
    host_memory memory;
    dynamic_module module = model.module(memory, false);
    const rank_report report =
        initialize<automatic>(module, readable_checkpoint{&model}, world, {}, {.memory = memory});
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
    const rank_report report =
        initialize<automatic>(module, readable_checkpoint{&model, rank < 2}, world, {}, {.memory = memory});
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
    const rank_report report =
        initialize<automatic>(module, readable_checkpoint{rank == 1 ? &other : &model}, world, {}, {.memory = memory});
    EXPECT_EQ(model.faults_of(module, memory, 2, rank), "");
    EXPECT_NE(report.transport_reason.find("rank 1 has another checkpoint: "), std::string::npos)
        << report.transport_reason;
  });
}

TEST(AutomaticTransport, OfASourceThatIsOnOneRankOnlyScatters) {
  const reference_model model = large_and_small();
  run_ranks(2, [&](std::size_t rank, threads_communicator& world) {
    host_memory memory;
    auto source = share_descriptors(readable_checkpoint{&model}, world);
    dynamic_module module = model.module(memory, false);
    const rank_report report = initialize<automatic>(module, source, world, {}, {.memory = memory});
    EXPECT_EQ(model.faults_of(module, memory, 2, rank), "");
    EXPECT_EQ(report.bytes_read, rank == 0 ? 2 * mib + 4000 : 0);
  });
}

TEST(AutomaticTransport, DoesNotTakeAnotherFailureOfAnOpenerForACheckpointThatCannotBeRead) {
  const reference_model model = large_and_small();
  for (const errc code : {errc::out_of_memory, errc::device, errc::invalid_argument}) {
    const auto errors = errors_of_ranks(3, [&](std::size_t rank, threads_communicator& world) {
      host_memory memory;
      dynamic_module module = model.module(memory, false);
      initialize<automatic>(module, readable_checkpoint{&model, rank != 1, code}, world, {}, {.memory = memory});
    });
    expect_same_error(errors, code, "model.safetensors", 1, "no such file");
  }
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
    const rank_report report = initialize(module, stored.source(), world, {.strict = false}, {.memory = memory});
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
                                              {.memory = memory, .missing = normal_values{.seed = 5}});
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
    expect_error(errc::invalid_argument, "steps", "these initial values cannot be I64", [&] {
      initialize(module, in_memory_source(), world, {.strict = false}, {.memory = memory, .missing = normal_values{}});
    });
    EXPECT_FALSE(module.get_parameter("steps").is_meta());
  });
}

TEST(NonStrict, NothingInCommonIsTheSameErrorEverywhere) {
  const reference_model wanted({{.fqn = "w", .type = dtype::u8, .extents = {40}}});
  const reference_model stored({{.fqn = "model.w", .type = dtype::u8, .extents = {40}}});
  run_ranks(3, [&](std::size_t, threads_communicator& world) {
    host_memory memory;
    dynamic_module module = wanted.module(memory, false);
    wanted.load(module, memory);
    expect_error(errc::missing_tensor, "w", "the checkpoint has 1 other, model.w; check",
                 [&] { initialize(module, stored.source(), world, {.strict = false}, {.memory = memory}); });
    EXPECT_FALSE(module.get_parameter("w").is_meta());
  });
}

TEST(NonStrict, AShapeThatDiffersIsStillAnError) {
  const reference_model wanted({{.fqn = "w", .type = dtype::u8, .extents = {40}}});
  const reference_model stored({{.fqn = "w", .type = dtype::u8, .extents = {41}}});
  run_ranks(2, [&](std::size_t, threads_communicator& world) {
    host_memory memory;
    dynamic_module module = wanted.module(memory, false);
    EXPECT_THROW(initialize(module, stored.source(), world, {.strict = false}, {.memory = memory}), error);
  });
}

// -- where it is told

struct outcome {
  std::string reason;
  std::uint64_t read = 0;
};

std::vector<outcome> outcomes_of(const reference_model& model, const transport_choice& choose,
                                 bool all_can_read = true) {
  std::vector<outcome> out(2);
  run_ranks(2, [&](std::size_t rank, threads_communicator& world) {
    host_memory memory;
    dynamic_module module = model.module(memory, false);
    const rank_report report = initialize<automatic>(module, readable_checkpoint{&model, rank == 0 || all_can_read},
                                                     world, {.choose = choose}, {.memory = memory});
    EXPECT_EQ(model.faults_of(module, memory, 2, rank), "");
    out[rank] = {.reason = report.transport_reason, .read = report.bytes_read};
  });
  return out;
}

TEST(AutomaticTransport, DoesWhatIsChosen) {
  const reference_model model = large_and_small();
  const auto scattered = outcomes_of(model, [](const auto&, const auto&) { return transport::scatter; });
  EXPECT_EQ(scattered[0].reason, "chosen: scatter; 2 tensors, 2101152 bytes: scattered");
  EXPECT_EQ(scattered[1].reason, scattered[0].reason);
  EXPECT_EQ(scattered[1].read, 0U);
  const auto own = outcomes_of(model, [](const auto&, const auto&) { return transport::own_read; });
  EXPECT_EQ(own[0].reason, "chosen: own-read; 2 tensors, 2101152 bytes: read by each rank");
  EXPECT_EQ(own[1].read, mib + 2000);
}

TEST(Report, TakesNothingFromAnAccountThatOthersGiveMoreBackTo) {
  const reference_model model = large_and_small();
  run_ranks(2, [&](std::size_t rank, threads_communicator& world) {
    host_memory memory;
    block<host_memory> of_others(memory, 100 * mib);
    dynamic_module module = model.module(memory, false);
    const transport_choice choose = [&](const auto&, const auto&) {
      of_others.release();
      memory.restart_peak();
      return transport::own_read;
    };
    const rank_report report =
        initialize<automatic>(module, readable_checkpoint{&model}, world, {.choose = choose}, {.memory = memory});
    EXPECT_LE(report.accounted_peak_bytes, report.predicted.peak_bytes()) << "rank " << rank;
  });
}

TEST(AutomaticTransport, AsksOnTheSourceRankAlone) {
  const reference_model model = large_and_small();
  std::vector<int> asked(2);
  run_ranks(2, [&](std::size_t rank, threads_communicator& world) {
    host_memory memory;
    dynamic_module module = model.module(memory, false);
    const transport_choice choose = [&, rank](const std::vector<tensor_request>& tensors, const plan_options& how) {
      ++asked[rank];
      EXPECT_EQ(tensors.size(), 2U);
      EXPECT_EQ(how.ranks.shards, 2U);
      return rank == 1 ? transport::broadcast : transport::own_read;
    };
    initialize<automatic>(module, readable_checkpoint{&model}, world, {.source_rank = 1, .choose = choose},
                          {.memory = memory});
    EXPECT_EQ(model.faults_of(module, memory, 2, rank), "");
  });
  EXPECT_EQ(asked, (std::vector<int>{0, 1}));
}

TEST(AutomaticTransport, DoesNotAskWhereARankCannotRead) {
  const reference_model model = large_and_small();
  const auto found = outcomes_of(
      model, [](const auto&, const auto&) { return transport::own_read; }, false);
  EXPECT_EQ(found[1].read, 0U);
  EXPECT_NE(found[0].reason.find("no such file"), std::string::npos) << found[0].reason;
}

TEST(AutomaticTransport, AChoiceThatThrowsOrIsNoTransportIsAnErrorOnEveryRank) {
  const reference_model model = large_and_small();
  const auto errors = [&](const transport_choice& choose) {
    return errors_of_ranks(2, [&](std::size_t, threads_communicator& world) {
      host_memory memory;
      dynamic_module module = model.module(memory, false);
      initialize<automatic>(module, readable_checkpoint{&model}, world, {.choose = choose}, {.memory = memory});
    });
  };
  for (const std::optional<error>& each :
       errors([](const auto&, const auto&) -> transport { throw error(errc::io, "costs.json", "unreadable"); })) {
    ASSERT_TRUE(each);
    EXPECT_EQ(std::string(each->what()), "costs.json: unreadable (rank 0)");
  }
  for (const std::optional<error>& each : errors([](const auto&, const auto&) { return transport::none; })) {
    ASSERT_TRUE(each);
    EXPECT_EQ(
        std::string(each->what()),
        "choose: it chose that every rank loads everything, which is a policy (every_rank_loads) and no transport "
        "(rank 0)");
  }
}

TEST(AutomaticTransport, AChoiceOnOneRankAloneIsADisagreement) {
  const reference_model model = large_and_small();
  for (const std::optional<error>&each : errors_of_ranks(2, [&](std::size_t rank, threads_communicator& world) {
         host_memory memory;
         dynamic_module module = model.module(memory, false);
         options how;
         if (rank == 1) {
           how.choose = [](const auto&, const auto&) { return transport::scatter; };
         }
         initialize<automatic>(module, readable_checkpoint{&model}, world, how, {.memory = memory});
       })) {
    ASSERT_TRUE(each);
    EXPECT_EQ(each->code(), errc::disagreement);
    EXPECT_NE(std::string(each->what()).find("choose"), std::string::npos) << each->what();
  }
}

/// Two ranks of a node, whose work is limited in one way only.
cluster two_ranks(double read_alone, double read_together) {
  constexpr double ample = 1e15;
  return {.ranks_per_node = 2,
          .storage_bandwidth_per_node = ample,
          .host_copy_bandwidth = ample,
          .measured = host_rates{.read = {.alone = read_alone, .together = read_together},
                                 .copy = {.alone = ample, .together = ample},
                                 .touch = {.alone = ample, .together = ample}}};
}

TEST(ByCost, RanksReadByThemselvesWhereTogetherTheyReadFaster) {
  const std::vector<outcome> found = outcomes_of(large_and_small(), by_cost(two_ranks(1e9, 2e9)));
  EXPECT_EQ(found[0].reason.substr(0, 69), "chosen: automatic; 1 tensor, 2097152 bytes: read by each rank (chunks")
      << "own reads of the small one would gain nothing";
}

TEST(ByCost, TheSourceReadsWhereRanksOnlyShareWhatThereIs) {
  const std::vector<outcome> found = outcomes_of(large_and_small(), by_cost(two_ranks(1e9, 1e9)));
  EXPECT_EQ(found[0].reason.substr(0, 16), "chosen: scatter;") << found[0].reason;
}

TEST(ByCost, AnotherNumberOfRanksIsRefused) {
  const std::vector<tensor_request> requests{{.fqn = "w", .dtype = dtype::u8, .shape = {8}}};
  EXPECT_THROW(static_cast<void>(cheapest_transport(two_ranks(1e9, 1e9), requests, {.ranks = {.shards = 3}})), error);
}

}  // namespace
}  // namespace automatic_test
