#include "support/archetypes.hpp"
#include "support/expect_error.hpp"
#include "support/expect_predicted.hpp"
#include "support/reference_model.hpp"
#include <fsdpinit/fsdpinit.hpp>
#include <fsdpinit/testing/rank_harness.hpp>

#include <gtest/gtest.h>

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace policies_test {
namespace {

using namespace fsdpinit;
using namespace fsdpinit::testing_support;
using fsdpinit::testing::errors_of_ranks;
using fsdpinit::testing::run_ranks;

// -- values

/// Names are those of `Policy`, and name it.
template <class Policy>
void expect_round_trip() {
  constexpr policy value = policy_of<Policy>;
  EXPECT_EQ(value.name, Policy::name);
  EXPECT_EQ(value.transport, Policy::transport);
  EXPECT_EQ(value.every_rank_reads, Policy::every_rank_reads);
  EXPECT_EQ(policy_named(value.name, name(value.transport)), value) << value.name << ", " << name(value.transport);
}

TEST(PolicyNamed, IsWhatReportsCallByThatNameAndTransport) {
  expect_round_trip<native_sharding<transport::scatter>>();
  expect_round_trip<native_sharding<transport::broadcast>>();
  expect_round_trip<native_sharding<transport::own_read>>();
  expect_round_trip<native_sharding<transport::automatic>>();
  expect_round_trip<cpu_ram_efficient_loading<transport::scatter>>();
  expect_round_trip<cpu_ram_efficient_loading<transport::broadcast>>();
  expect_round_trip<every_rank_loads>();
}

TEST(PolicyNamed, WithoutATransportHasTheDefaultOne) {
  EXPECT_EQ(policy_named("native-sharding"), policy_of<native_sharding<>>);
  EXPECT_EQ(policy_named("cpu-ram-efficient-loading"), policy_of<cpu_ram_efficient_loading<>>);
  EXPECT_EQ(policy_named("every-rank-loads"), policy_of<every_rank_loads>);
}

TEST(PolicyNamed, ThatIsUnknownIsAnErrorThatListsTheKnownOnes) {
  for (const char* wrong : {"", "native_sharding", "Native-Sharding", "scatter"}) {
    expect_error(
        errc::invalid_argument, "policy",
        concat("\"", wrong, "\" is unknown; use native-sharding, cpu-ram-efficient-loading or every-rank-loads"),
        [&] { static_cast<void>(policy_named(wrong)); });
  }
}

TEST(PolicyNamed, WithAnUnknownTransportIsAnErrorThatListsTheKnownOnes) {
  for (const char* wrong : {"own_read", "none", "unknown"}) {
    expect_error(errc::invalid_argument, "transport",
                 concat("\"", wrong, "\" is unknown; use scatter, broadcast, own-read or automatic"),
                 [&] { static_cast<void>(policy_named("native-sharding", wrong)); });
  }
}

TEST(PolicyNamed, InWhichEveryRankLoadsTakesNoTransport) {
  expect_error(errc::invalid_argument, "transport", "\"scatter\" is not for every-rank-loads, which has none",
               [] { static_cast<void>(policy_named("every-rank-loads", "scatter")); });
}

TEST(PolicyNamed, IsQuotedOnOneLineHoweverItIsSpelled) {
  expect_error(errc::invalid_argument, "policy", "\"a\\nb\" is unknown",
               [] { static_cast<void>(policy_named("a\nb")); });
  expect_error(errc::invalid_argument, "transport", "\"a\\nb\" is unknown",
               [] { static_cast<void>(policy_named("native-sharding", "a\nb")); });
}

// -- by value as by type

void expect_same(const rank_report& by_value, const rank_report& by_type) {
  EXPECT_EQ(by_value.policy, by_type.policy);
  EXPECT_EQ(by_value.transport, by_type.transport);
  EXPECT_EQ(by_value.transport_reason, by_type.transport_reason);
  EXPECT_EQ(by_value.bytes_read, by_type.bytes_read);
  EXPECT_EQ(by_value.bytes_sent, by_type.bytes_sent);
  EXPECT_EQ(by_value.bytes_received, by_type.bytes_received);
  EXPECT_EQ(by_value.accounted_peak_bytes, by_type.accounted_peak_bytes);
  expect_as_predicted(by_value);
}

template <class Policy>
void expect_same_by_value() {
  SCOPED_TRACE(concat(Policy::name, ", ", name(Policy::transport)));
  const reference_model model = varied_model();
  run_ranks(3, [&](std::size_t rank, threads_communicator& world) {
    const auto run = [&](auto&& initialize_from) {
      host_memory memory;
      dynamic_module module = model.module(memory, rank == 0);
      rank_report report = initialize_from(module, model.source(), memory);
      EXPECT_EQ(model.faults_of(module, memory, 3, rank), "") << "rank " << rank;
      return report;
    };
    expect_same(run([&](auto& module, auto source, auto& memory) {
                  return initialize(module, source, world, {.policy = policy_of<Policy>, .bucket_bytes = 100},
                                    {.memory = memory});
                }),
                run([&](auto& module, auto source, auto& memory) {
                  return initialize<Policy>(module, source, world, {.bucket_bytes = 100}, {.memory = memory});
                }));
  });
}

TEST(ChosenPolicy, DoesWhatItsTypeDoes) {
  expect_same_by_value<native_sharding<transport::scatter>>();
  expect_same_by_value<native_sharding<transport::broadcast>>();
  expect_same_by_value<native_sharding<transport::own_read>>();
  expect_same_by_value<native_sharding<transport::automatic>>();
  expect_same_by_value<cpu_ram_efficient_loading<>>();
  expect_same_by_value<every_rank_loads>();
}

TEST(ChosenPolicy, MayBeTheOneOfTheType) {
  const reference_model model = varied_model();
  run_ranks(2, [&](std::size_t rank, threads_communicator& world) {
    host_memory memory;
    dynamic_module module = model.module(memory, rank == 0);
    using own_read = native_sharding<transport::own_read>;
    const rank_report report =
        initialize<own_read>(module, model.source(), world, {.policy = policy_of<own_read>}, {.memory = memory});
    EXPECT_EQ(report.transport, "own-read");
    EXPECT_EQ(model.faults_of(module, memory, 2, rank), "");
  });
}

TEST(ChosenPolicy, FallsBackToBroadcastWhereTheCommunicatorCannotScatter) {
  const reference_model model = varied_model();
  run_ranks(2, [&](std::size_t rank, threads_communicator& world) {
    minimal_communicator broadcasts_only(world);
    host_memory memory;
    dynamic_module module = model.module(memory, rank == 0);
    const rank_report report = initialize(module, model.source(), broadcasts_only,
                                          {.policy = policy_named("native-sharding")}, {.memory = memory});
    EXPECT_EQ(report.transport, "broadcast");
    EXPECT_EQ(model.faults_of(module, memory, 2, rank), "");
  });
}

TEST(ChosenPolicy, IsThatOfPrepareToo) {
  const reference_model model = varied_model();
  for (const std::string_view transport : {"scatter", "broadcast"}) {
    run_ranks(3, [&](std::size_t rank, threads_communicator& world) {
      host_memory memory;
      dynamic_module module = model.module(memory, rank == 0);
      load_pretrained(module, model.source(), world, {.active = true}, {}, {.memory = memory});
      const rank_report report =
          prepare(module, world, {.policy = policy_named("cpu-ram-efficient-loading", transport)}, {.memory = memory});
      EXPECT_EQ(report.policy, "cpu-ram-efficient-loading");
      EXPECT_EQ(report.transport, transport);
      EXPECT_EQ(model.faults_of(module, memory, 3, rank), "");
    });
  }
}

TEST(ChosenPolicy, OfModuleStateIsThatOfItsType) {
  const reference_model model = varied_model();
  for (const policy& chosen : {policy_of<native_sharding<transport::broadcast>>, policy_of<every_rank_loads>}) {
    run_ranks(3, [&](std::size_t rank, threads_communicator& world) {
      host_memory memory;
      dynamic_module module = model.module(memory, rank == 0);
      if (rank == 0 || chosen.every_rank_reads) {
        model.load(module, memory);
      }
      const rank_report report = initialize(module, module_state{}, world, {.policy = chosen}, {.memory = memory});
      EXPECT_EQ(report.policy, chosen.name);
      EXPECT_EQ(model.faults_of(module, memory, 3, rank), "");
    });
  }
}

TEST(ChosenPolicy, IsTakenWhereTheSwitchIsOnAndTheBaselineWhereItIsOff) {
  const reference_model model = varied_model();
  for (const bool enabled : {true, false}) {
    run_ranks(3, [&](std::size_t rank, threads_communicator& world) {
      host_memory memory;
      dynamic_module module = model.module(memory, rank == 0);
      const rank_report report =
          initialize(module, model.source(), world,
                     {.policy = policy_named("native-sharding", "broadcast"), .memory_efficient_init = enabled},
                     {.memory = memory});
      EXPECT_EQ(report.policy, enabled ? "native-sharding" : "every-rank-loads");
      EXPECT_EQ(report.transport, enabled ? "broadcast" : "none");
      EXPECT_EQ(model.faults_of(module, memory, 3, rank), "");
    });
  }
}

// -- mistakes

using outcomes = std::vector<std::optional<error>>;

/// Of `call(rank, module, source, world)`, on three ranks of which each has its module in memory. Nothing may change.
template <class Call>
outcomes errors_before_anything_changes(Call&& call) {
  const reference_model model({{.fqn = "w", .type = dtype::u8, .extents = {12}}});
  return errors_of_ranks(3, [&](std::size_t rank, threads_communicator& world) {
    host_memory memory;
    dynamic_module module = model.module(memory, false);
    model.load(module, memory);
    const std::byte* const before = module.get_parameter("w").data();
    try {
      call(rank, module, model.source(), world);
    } catch (...) {
      EXPECT_EQ(module.get_parameter("w").data(), before) << "rank " << rank;
      EXPECT_EQ(module.get_parameter("w").local().bytes, 12U) << "rank " << rank;
      throw;
    }
  });
}

template <class Policy>
outcomes errors_by_type_and_value(const policy& value) {
  return errors_before_anything_changes([&](std::size_t, auto& module, auto source, auto& world) {
    initialize<Policy>(module, source, world, {.policy = value});
  });
}

TEST(ChosenPolicy, OtherThanTheTypeIsTheSameErrorEverywhereNamingBoth) {
  expect_same_error(errors_by_type_and_value<native_sharding<transport::broadcast>>(policy_of<every_rank_loads>),
                    errc::invalid_argument, "policy", 0,
                    "options::policy is every-rank-loads, but the call is for native-sharding, broadcast; make them "
                    "equal, or leave one of the two out");
  expect_same_error(errors_by_type_and_value<every_rank_loads>(policy_of<native_sharding<>>), errc::invalid_argument,
                    "policy", 0,
                    "options::policy is native-sharding, scatter, but the call is for every-rank-loads; make them");
}

TEST(ChosenPolicy, WithAnotherTransportThanTheTypeIsAnError) {
  expect_same_error(
      errors_by_type_and_value<native_sharding<>>(policy_of<native_sharding<transport::own_read>>),
      errc::invalid_argument, "policy", 0,
      "options::policy is native-sharding, own-read, but the call is for native-sharding, scatter; make them");
}

TEST(ChosenPolicy, OfPrepareHasItsNameAndItsTransport) {
  const auto errors = [](auto&& prepare_with) {
    return errors_before_anything_changes(
        [&](std::size_t, auto& module, auto, auto& world) { prepare_with(module, world); });
  };
  expect_same_error(errors([](auto& module, auto& world) {
                      prepare(module, world, {.policy = policy_of<native_sharding<transport::broadcast>>});
                    }),
                    errc::invalid_argument, "policy", 0,
                    "options::policy is native-sharding, broadcast, but the call is for cpu-ram-efficient-loading; ");
  expect_same_error(errors([](auto& module, auto& world) {
                      prepare<transport::broadcast>(module, world, {.policy = policy_of<cpu_ram_efficient_loading<>>});
                    }),
                    errc::invalid_argument, "policy", 0,
                    "options::policy is cpu-ram-efficient-loading, scatter, but the call is for "
                    "cpu-ram-efficient-loading, broadcast; ");
}

TEST(ChosenPolicy, ByWhichEachRankReadsIsNotForModuleState) {
  for (const char* transport : {"own-read", "automatic"}) {
    // The words of tests/compile_fail/module_state_that_each_rank_reads.cpp.
    const std::string_view words =
        "module_state, which is on the source rank only: no rank can read its own part of it; use transport::scatter "
        "or transport::broadcast";
    expect_same_error(errors_before_anything_changes([&](std::size_t, auto& module, auto, auto& world) {
                        initialize(module, module_state{}, world,
                                   {.policy = policy_named("native-sharding", transport)});
                      }),
                      errc::invalid_argument, "source", 0, words);
    expect_same_error(errors_before_anything_changes([&](std::size_t, auto& module, auto, auto& world) {
                        prepare(module, world, {.policy = policy_named("cpu-ram-efficient-loading", transport)});
                      }),
                      errc::invalid_argument, "source", 0, words);
  }
}

TEST(ChosenPolicy, OfOneRankThatReadsAndOthersThatGetNothingIsAnError) {
  expect_same_error(errors_before_anything_changes([](std::size_t, auto& module, auto source, auto& world) {
                      initialize(module, source, world,
                                 {.policy = policy{.name = "mine", .transport = transport::none}});
                    }),
                    errc::invalid_argument, "policy", 0, "mine has no transport by which ranks could get");
}

TEST(ChosenPolicy, ThatDiffersOnOneRankIsADisagreementThatNamesBoth) {
  const auto errors_with = [](const policy& on_rank_2) {
    return errors_before_anything_changes([&](std::size_t rank, auto& module, auto source, auto& world) {
      initialize(module, source, world, {.policy = rank == 2 ? on_rank_2 : policy()});
    });
  };
  expect_same_error(errors_with(policy_named("every-rank-loads")), errc::disagreement, "", 2,
                    "'policy every-rank-loads' where rank 0 has 'policy native-sharding'");
  expect_same_error(errors_with(policy_named("native-sharding", "own-read")), errc::disagreement, "", 2,
                    "'transport own-read' where rank 0 has 'transport scatter'");
}

TEST(ChosenPolicy, ThatContradictsTheTypeOnOneRankIsThatRanksErrorEverywhere) {
  expect_same_error(errors_before_anything_changes([](std::size_t rank, auto& module, auto source, auto& world) {
                      options how;
                      if (rank == 1) {
                        how.policy = policy_of<native_sharding<transport::broadcast>>;
                      }
                      initialize<native_sharding<>>(module, source, world, how);
                    }),
                    errc::invalid_argument, "policy", 1,
                    "options::policy is native-sharding, broadcast, but the call is for ");
}

}  // namespace
}  // namespace policies_test
