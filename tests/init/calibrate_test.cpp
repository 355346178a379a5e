#include "support/archetypes.hpp"
#include "support/expect_error.hpp"
#include "support/reference_model.hpp"
#include <fsdpinit/fsdpinit.hpp>
#include <fsdpinit/init/calibrate.hpp>
#include <fsdpinit/plan/by_cost.hpp>
#include <fsdpinit/testing/rank_harness.hpp>

#include <gtest/gtest.h>

#include <array>
#include <cstddef>
#include <optional>
#include <string>
#include <vector>

namespace calibrate_test {
namespace {

using namespace fsdpinit;
using namespace fsdpinit::testing_support;
using fsdpinit::testing::errors_of_ranks;
using fsdpinit::testing::run_ranks;

using automatic = native_sharding<transport::automatic>;

reference_model small_model() {
  return reference_model({{.fqn = "large", .type = dtype::u8, .extents = {2 * mib}},
                          {.fqn = "small", .type = dtype::u8, .extents = {4000}}});
}

/// The checkpoint is on some ranks only.
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

std::array<double, 10> figures_of(const cluster& on) {
  return {on.storage_bandwidth_per_node,   on.host_copy_bandwidth,      on.measured->read.alone,
          on.measured->read.together,      on.measured->copy.alone,     on.measured->copy.together,
          on.measured->touch.alone,        on.measured->touch.together, on.measured->hand_over,
          on.storage_bandwidth.value_or(1)};
}

const calibration quick{.probe_bytes = 256 * kib};

TEST(Calibrate, MeasuresPositiveFiguresThatAreTheSameOnEveryRank) {
  const reference_model model = small_model();
  std::vector<std::array<double, 10>> found(4);
  run_ranks(4, [&](std::size_t rank, threads_communicator& world) {
    const cluster on = calibrate(opener{&model}, world, quick);
    EXPECT_EQ(on.nodes, 1U);
    EXPECT_EQ(on.ranks_per_node, 4U);
    found[rank] = figures_of(on);
  });
  for (const std::array<double, 10>& each : found) {
    EXPECT_EQ(each, found.front());
    for (const double figure : each) {
      EXPECT_GT(figure, 0);
      EXPECT_LT(figure, 1e15);
    }
  }
}

TEST(Calibrate, CountsNodesAndMeasuresWhatIsBetweenThem) {
  const reference_model model = small_model();
  const std::array<std::size_t, 4> nodes{0, 0, 2, 2};
  run_ranks(threads_world(4, nodes), [&](std::size_t, threads_communicator& world) {
    const cluster on = calibrate(opener{&model}, world, quick);
    EXPECT_EQ(on.nodes, 2U);
    EXPECT_EQ(on.ranks_per_node, 2U);
    EXPECT_GT(on.nic_bandwidth, 0);
    EXPECT_GT(on.nic_latency, 0);
  });
}

TEST(Calibrate, WhereOnlyTheSourceRankCanReadItReadsForAll) {
  const reference_model model = small_model();
  run_ranks(2, [&](std::size_t rank, threads_communicator& world) {
    const cluster on = calibrate(opener{&model, rank == 1}, world, {.source_rank = 1, .probe_bytes = 256 * kib});
    EXPECT_EQ(on.measured->read.alone, on.measured->read.together);
  });
}

TEST(Calibrate, ACheckpointThatTheSourceRankCannotOpenIsItsErrorOnEveryRank) {
  const reference_model model = small_model();
  const std::vector<std::optional<error>> found =
      errors_of_ranks(2, [&](std::size_t rank, threads_communicator& world) {
        static_cast<void>(calibrate(opener{&model, rank == 1}, world, quick));
      });
  for (const std::optional<error>& each : found) {
    ASSERT_TRUE(each);
    EXPECT_EQ(std::string(each->what()), "model.safetensors: no such file (rank 0)");
  }
}

TEST(Calibrate, AProbeOfNothingIsRefused) {
  const reference_model model = small_model();
  const std::vector<std::optional<error>> found = errors_of_ranks(2, [&](std::size_t, threads_communicator& world) {
    static_cast<void>(calibrate(opener{&model}, world, {.probe_bytes = 0}));
  });
  for (const std::optional<error>& each : found) {
    ASSERT_TRUE(each);
    EXPECT_EQ(each->code(), errc::invalid_argument);
    EXPECT_EQ(std::string(each->what()).find("probe_bytes"), 0U);
  }
}

TEST(Calibrate, ACheckpointWithoutBytesIsMeasuredAsCopies) {
  const reference_model model({{.fqn = "empty", .type = dtype::u8, .extents = {0}}});
  run_ranks(2, [&](std::size_t, threads_communicator& world) {
    EXPECT_GT(calibrate(opener{&model}, world, quick).measured->read.together, 0);
  });
}

TEST(Calibrate, NeedsNoMoreThanTheMinimalCommunicator) {
  const reference_model model = small_model();
  self_communicator alone;
  const cluster on = calibrate(model.source(), alone, quick);
  EXPECT_EQ(on.ranks(), 1U);
}

// -- an automatic transport that is told

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
    const rank_report report =
        initialize<automatic>(module, opener{&model, rank == 0 || all_can_read}, world, {.choose = choose}, memory);
    EXPECT_EQ(model.faults_of(module, memory, 2, rank), "");
    out[rank] = {.reason = report.transport_reason, .read = report.bytes_read};
  });
  return out;
}

TEST(AutomaticTransport, DoesWhatIsChosen) {
  const reference_model model = small_model();
  const auto scattered = outcomes_of(model, [](const auto&, const auto&) { return transport_kind::scatter; });
  EXPECT_EQ(scattered[0].reason, "chosen: scatter; 2 tensors, 2101152 bytes: scattered");
  EXPECT_EQ(scattered[1].reason, scattered[0].reason);
  EXPECT_EQ(scattered[1].read, 0U);
  const auto own = outcomes_of(model, [](const auto&, const auto&) { return transport_kind::own_read; });
  EXPECT_EQ(own[0].reason, "chosen: own-read; 2 tensors, 2101152 bytes: read by each rank");
  EXPECT_EQ(own[1].read, mib + 2000);
}

TEST(AutomaticTransport, AsksOnTheSourceRankAlone) {
  const reference_model model = small_model();
  std::vector<int> asked(2);
  run_ranks(2, [&](std::size_t rank, threads_communicator& world) {
    host_memory memory;
    dynamic_module module = model.module(memory, false);
    const transport_choice choose = [&, rank](const std::vector<tensor_request>& tensors, const plan_options& how) {
      ++asked[rank];
      EXPECT_EQ(tensors.size(), 2U);
      EXPECT_EQ(how.ranks.shards, 2U);
      return rank == 1 ? transport_kind::broadcast : transport_kind::own_read;
    };
    initialize<automatic>(module, opener{&model}, world, {.source_rank = 1, .choose = choose}, memory);
    EXPECT_EQ(model.faults_of(module, memory, 2, rank), "");
  });
  EXPECT_EQ(asked, (std::vector<int>{0, 1}));
}

TEST(AutomaticTransport, DoesNotAskWhereARankCannotRead) {
  const reference_model model = small_model();
  const auto found = outcomes_of(
      model, [](const auto&, const auto&) { return transport_kind::own_read; }, false);
  EXPECT_EQ(found[1].read, 0U);
  EXPECT_NE(found[0].reason.find("no such file"), std::string::npos) << found[0].reason;
}

TEST(AutomaticTransport, AChoiceThatThrowsOrIsNoTransportIsAnErrorOnEveryRank) {
  const reference_model model = small_model();
  const auto errors = [&](const transport_choice& choose) {
    return errors_of_ranks(2, [&](std::size_t, threads_communicator& world) {
      host_memory memory;
      dynamic_module module = model.module(memory, false);
      initialize<automatic>(module, opener{&model}, world, {.choose = choose}, memory);
    });
  };
  for (const std::optional<error>& each :
       errors([](const auto&, const auto&) -> transport_kind { throw error(errc::io, "costs.json", "unreadable"); })) {
    ASSERT_TRUE(each);
    EXPECT_EQ(std::string(each->what()), "costs.json: unreadable (rank 0)");
  }
  for (const std::optional<error>& each : errors([](const auto&, const auto&) { return transport_kind::none; })) {
    ASSERT_TRUE(each);
    EXPECT_EQ(
        std::string(each->what()),
        "choose: it chose that every rank loads everything, which is a policy (every_rank_loads) and no transport "
        "(rank 0)");
  }
}

TEST(AutomaticTransport, AChoiceOnOneRankAloneIsADisagreement) {
  const reference_model model = small_model();
  for (const std::optional<error>&each : errors_of_ranks(2, [&](std::size_t rank, threads_communicator& world) {
         host_memory memory;
         dynamic_module module = model.module(memory, false);
         options how;
         if (rank == 1) {
           how.choose = [](const auto&, const auto&) { return transport_kind::scatter; };
         }
         initialize<automatic>(module, opener{&model}, world, how, memory);
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
  const std::vector<outcome> found = outcomes_of(small_model(), by_cost(two_ranks(1e9, 2e9)));
  EXPECT_EQ(found[0].reason.substr(0, 69), "chosen: automatic; 1 tensor, 2097152 bytes: read by each rank (chunks")
      << "own reads of the small one would gain nothing";
}

TEST(ByCost, TheSourceReadsWhereRanksOnlyShareWhatThereIs) {
  const std::vector<outcome> found = outcomes_of(small_model(), by_cost(two_ranks(1e9, 1e9)));
  EXPECT_EQ(found[0].reason.substr(0, 16), "chosen: scatter;") << found[0].reason;
}

TEST(ByCost, AnotherNumberOfRanksIsRefused) {
  const std::vector<tensor_request> requests{{.fqn = "w", .dtype = dtype::u8, .shape = {8}}};
  EXPECT_THROW(static_cast<void>(cheapest_transport(two_ranks(1e9, 1e9), requests, {.ranks = {.shards = 3}})), error);
}

}  // namespace
}  // namespace calibrate_test
