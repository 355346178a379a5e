#include "support/expect_error.hpp"
#include "support/reference_model.hpp"
#include <fsdpinit/fsdpinit.hpp>
#include <fsdpinit/testing/rank_harness.hpp>

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

namespace agreement_test {
namespace {

using namespace fsdpinit;
using namespace fsdpinit::testing_support;
using fsdpinit::testing::errors_of_ranks;

using outcomes = std::vector<std::optional<error>>;

/// Calls `act` before each read.
struct throwing_source : in_memory_source {
  explicit throwing_source(in_memory_source inner, std::function<void()> action)
      : in_memory_source(std::move(inner)), act(std::move(action)) {}
  void read(std::size_t tensor, std::uint64_t offset, mutable_bytes destination) {
    act();
    in_memory_source::read(tensor, offset, destination);
  }
  [[nodiscard]] std::span<const tensor_descriptor> tensors() const noexcept {
    return listed.empty() ? in_memory_source::tensors() : std::span<const tensor_descriptor>(listed);
  }
  std::function<void()> act;
  std::vector<tensor_descriptor> listed{};  // in place of what it has, if any
};

/// What a rank is called with.
struct call {
  dynamic_module module;
  in_memory_source source;
  options how{};
};

reference_model plain_model() {
  return reference_model({{.fqn = "a.weight", .type = dtype::f32, .extents = {8, 4}},
                          {.fqn = "b.weight", .type = dtype::bf16, .extents = {7, 3}},
                          {.fqn = "b.mean", .type = dtype::f32, .extents = {5}, .role = slot_role::persistent_buffer}});
}

/// Every slot begins with storage of its own; a module that is untouched still has it.
const std::shared_ptr<std::byte>& marker() {
  static const std::shared_ptr<std::byte> made = std::make_shared<std::byte>();
  return made;
}
void mark(dynamic_module& module) {
  module.visit_slots([](std::string_view, auto& slot) {
    slot.adopt({.shape = slot.shape(), .offset = 0, .bytes = 1, .data = marker()});
  });
}
bool is_untouched(dynamic_module& module) {
  bool untouched = true;
  module.visit_slots(
      [&](std::string_view, auto& slot) { untouched = untouched && !slot.is_meta() && slot.local().data == marker(); });
  return untouched;
}
bool is_on_meta(dynamic_module& module) {
  bool on_meta = true;
  module.visit_slots([&](std::string_view, auto& slot) { on_meta = on_meta && slot.is_meta(); });
  return on_meta;
}

/// Initialises on `ranks` ranks, each with `change(rank, call)` applied to what it is called with.
template <class Policy = native_sharding<>>
outcomes initialize_with(const reference_model& model, const std::function<void(std::size_t, call&)>& change,
                         const std::function<bool(dynamic_module&)>& afterwards = is_untouched, std::size_t ranks = 4) {
  return errors_of_ranks(ranks, [&](std::size_t rank, threads_communicator& world) {
    host_memory memory;
    call mine{.module = model.module(memory, false), .source = model.source(), .how = {.deadline_seconds = 20}};
    change(rank, mine);
    mark(mine.module);
    try {
      initialize<Policy>(mine.module, mine.source, world, mine.how, {.memory = memory});
    } catch (...) {
      EXPECT_TRUE(afterwards(mine.module)) << "rank " << rank;
      EXPECT_EQ(memory.accounted(), 0U) << "rank " << rank;
      throw;
    }
  });
}

// -- (d) ranks that were called with something else

/// Rank 2 has another module, made of `tensors`.
void expect_module_disagreement(std::vector<reference_tensor> tensors, std::string_view piece) {
  SCOPED_TRACE(piece);
  const reference_model other(std::move(tensors));
  host_memory memory;
  const outcomes errors = initialize_with(plain_model(), [&](std::size_t rank, call& mine) {
    if (rank == 2) {
      mine.module = other.module(memory, false);
    }
  });
  expect_same_error(errors, errc::disagreement, "", 2, piece);
}

TEST(Disagreement, AnotherModuleOnOneRankIsTheSameErrorEverywhereNamingTheFirstDifference) {
  const reference_tensor a{.fqn = "a.weight", .type = dtype::f32, .extents = {8, 4}};
  const reference_tensor b{.fqn = "b.weight", .type = dtype::bf16, .extents = {7, 3}};
  const reference_tensor mean{
      .fqn = "b.mean", .type = dtype::f32, .extents = {5}, .role = slot_role::persistent_buffer};

  reference_tensor other = b;
  other.extents = {7, 4};
  expect_module_disagreement(
      {a, other, mean},
      "called with 'parameter b.weight BF16 [7, 4] shard{0}' where rank 0 has 'parameter b.weight "
      "BF16 [7, 3] shard{0}'");
  other = b;
  other.fqn = "c.weight";
  expect_module_disagreement({a, other, mean}, "'parameter c.weight BF16 [7, 3] shard{0}' where rank 0");
  other = b;
  other.type = dtype::f16;
  expect_module_disagreement({a, other, mean}, "'parameter b.weight F16 [7, 3] shard{0}' where rank 0");
  other = b;
  other.how = replicate{};
  expect_module_disagreement({a, other, mean}, "'parameter b.weight BF16 [7, 3] replicate' where rank 0");
  other = mean;
  other.role = slot_role::non_persistent_buffer;
  expect_module_disagreement({a, b, other}, "'non-persistent buffer b.mean F32 [5] replicate' where rank 0");
  expect_module_disagreement({a, b},
                             "called with 'no more parameters or buffers' where rank 0 has 'persistent buffer b.mean");
  other = b;
  other.fqn = "d.weight";
  expect_module_disagreement(
      {a, b, mean, other},
      "'parameter d.weight BF16 [7, 3] shard{0}' where rank 0 has 'no more parameters or buffers'");
  expect_module_disagreement({a, mean, b}, "'persistent buffer b.mean");
}

TEST(Disagreement, AnotherTieOnOneRankIsNamed) {
  const reference_tensor tied{.fqn = "a", .extents = {4}, .tied = {"b"}};
  host_memory memory;
  const outcomes errors = initialize_with(reference_model({tied}), [&](std::size_t rank, call& mine) {
    if (rank == 2) {
      mine.module = dynamic_module();
      mine.module.add_parameter("a", dtype::f32, {4});
      mine.module.add_parameter("b", dtype::f32, {4});
    }
  });
  expect_same_error(errors, errc::disagreement, "", 2,
                    "'parameter b F32 [4] shard{0}' where rank 0 has 'parameter b F32 [4] shard{0} tied to a'");
}

TEST(Disagreement, AnotherOptionOnOneRankIsNamed) {
  const auto with = [](const std::function<void(options&)>& change) {
    return initialize_with(plain_model(), [&](std::size_t rank, call& mine) {
      if (rank == 2) {
        change(mine.how);
      }
    });
  };
  expect_same_error(with([](options& how) { how.bucket_bytes = 12345; }), errc::disagreement, "", 2,
                    "'bucket_bytes 12345' where rank 0 has 'bucket_bytes 4194304'");
  expect_same_error(with([](options& how) { how.buckets_in_flight = 3; }), errc::disagreement, "", 2,
                    "'buckets_in_flight 3' where rank 0 has 'buckets_in_flight 2'");
  expect_same_error(with([](options& how) { how.source_rank = 1; }), errc::disagreement, "", 2,
                    "'source_rank 1' where rank 0 has 'source_rank 0'");
  expect_same_error(with([](options& how) { how.source_rank = 2; }), errc::disagreement, "", 2, "'source_rank 2'");
  expect_same_error(with([](options& how) { how.keep_missing_buffers = true; }), errc::disagreement, "", 2,
                    "'keep_missing_buffers 1' where rank 0 has 'keep_missing_buffers 0'");
}

TEST(Disagreement, AnotherPolicyOrTransportOnOneRankIsNamed) {
  const auto with = [](auto initialize_on_rank_2) {
    const reference_model model = plain_model();
    return errors_of_ranks(3, [&](std::size_t rank, threads_communicator& world) {
      host_memory memory;
      dynamic_module module = model.module(memory, false);
      if (rank == 2) {
        initialize_on_rank_2(module, model.source(), world);
      } else {
        initialize(module, model.source(), world);
      }
    });
  };
  expect_same_error(
      with([](auto& module, auto source, auto& world) { initialize<every_rank_loads>(module, source, world); }),
      errc::disagreement, "", 2, "'policy every-rank-loads' where rank 0 has 'policy native-sharding'");
  expect_same_error(with([](auto& module, auto source, auto& world) {
                      initialize<native_sharding<transport::broadcast>>(module, source, world);
                    }),
                    errc::disagreement, "", 2, "'transport broadcast' where rank 0 has 'transport scatter'");
  // What decides which agreements there are is settled before the first of them.
  expect_same_error(with([](auto& module, auto, auto& world) { initialize(module, module_state{}, world); }),
                    errc::disagreement, "", 2,
                    "'source the module's own state' where rank 0 has 'source a state dict'");
  expect_same_error(with([](auto& module, auto source, auto& world) {
                      initialize(module, source, world, {}, {.missing = normal_values{.seed = 1}});
                    }),
                    errc::disagreement, "", 2,
                    "'missing tensors initialised' where rank 0 has 'missing tensors left on meta'");
}

TEST(Disagreement, TheLowestRankThatDiffersIsNamed) {
  const outcomes errors =
      initialize_with(plain_model(), [](std::size_t rank, call& mine) { mine.how.bucket_bytes = 1000 + rank / 2; });
  expect_same_error(errors, errc::disagreement, "", 2, "'bucket_bytes 1001' where rank 0 has 'bucket_bytes 1000'");
}

TEST(Disagreement, AnotherCheckpointOnOneRankIsNamedWhereEveryRankReads) {
  const reference_model other({{.fqn = "a.weight", .type = dtype::f32, .extents = {8, 5}}});
  const auto change = [&](std::size_t rank, call& mine) {
    if (rank == 2) {
      mine.source = other.source();
    }
  };
  const outcomes errors = initialize_with<every_rank_loads>(plain_model(), change);
  expect_same_error(errors, errc::disagreement, "a.weight", 2, "checkpoint differs from that of rank 0");
}

TEST(Disagreement, OtherRanksSourcesAreNotLookedAtWhereOneRankReads) {
  const outcomes errors = initialize_with(plain_model(), [](std::size_t rank, call& mine) {
    if (rank != 0) {
      mine.source = in_memory_source();
    }
  });
  for (const auto& each : errors) {
    EXPECT_FALSE(each.has_value());
  }
}

// -- (e) strict

TEST(Strict, AMissingTensorIsTheSameErrorEverywhere) {
  const outcomes errors = initialize_with(
      plain_model(), [](std::size_t, call& mine) { mine.module.add_parameter("c.weight", dtype::f32, {2}); });
  expect_same_error(errors, errc::missing_tensor, "c.weight", every_rank, "the checkpoint does not have it");
}

TEST(Strict, AnUnexpectedTensorIsTheSameErrorEverywhere) {
  const reference_model less({{.fqn = "a.weight", .type = dtype::f32, .extents = {8, 4}},
                              {.fqn = "b.weight", .type = dtype::bf16, .extents = {7, 3}}});
  host_memory memory;
  const outcomes errors =
      initialize_with(plain_model(), [&](std::size_t, call& mine) { mine.module = less.module(memory, false); });
  expect_same_error(errors, errc::unexpected_tensor, "b.mean", every_rank, "the module does not want it");
}

TEST(Strict, AnotherShapeOrDtypeIsTheSameErrorEverywhere) {
  const reference_model model({{.fqn = "a", .type = dtype::f32, .extents = {8, 4}}});
  const auto with = [&](dtype type, shape extents) {
    return initialize_with(model, [&](std::size_t, call& mine) {
      mine.module = dynamic_module();
      mine.module.add_parameter("a", type, extents);
    });
  };
  expect_same_error(with(dtype::f32, {4, 8}), errc::shape_mismatch, "a", every_rank,
                    "the checkpoint has shape [8, 4], the module [4, 8]");
  expect_same_error(with(dtype::i32, {8, 4}), errc::dtype_mismatch, "a", every_rank,
                    "the checkpoint has F32, the module I32");
}

TEST(Strict, AllProblemsAreListedUpTo20AndThenCounted) {
  for (const int missing : {2, 20, 25}) {
    const outcomes errors = initialize_with(plain_model(), [&](std::size_t, call& mine) {
      for (int i = 0; i < missing; ++i) {
        mine.module.add_parameter(concat("extra.", i), dtype::f32, {2});
      }
    });
    expect_same_error(errors, errc::missing_tensor, "extra.0", every_rank, concat("(", missing, " such problems)"));
    const std::string text(errors[0]->text());
    EXPECT_EQ(text.find("\n  and 5 more") != std::string::npos, missing == 25) << text;
    for (int i = 0; i < missing; ++i) {
      EXPECT_EQ(text.find(concat("\n  extra.", i, ": missing")) != std::string::npos, i < 20) << text;
    }
  }
}

TEST(Strict, MissingUnexpectedAndMismatchedAreListedTogether) {
  const reference_model model({{.fqn = "a", .type = dtype::f32, .extents = {8}},
                               {.fqn = "b", .type = dtype::f32, .extents = {8}},
                               {.fqn = "c", .type = dtype::f32, .extents = {8}}});
  const outcomes errors = initialize_with(model, [&](std::size_t, call& mine) {
    mine.module = dynamic_module();
    mine.module.add_parameter("a", dtype::f32, {9});
    mine.module.add_parameter("b", dtype::f16, {8});
    mine.module.add_parameter("d", dtype::f32, {8});
  });
  expect_same_error(errors, errc::missing_tensor, "d", every_rank, "(4 such problems)");
  for (const std::string_view line : {"\n  d: missing", "\n  c: unexpected", "\n  a: the checkpoint has shape [8]",
                                      "\n  b: the checkpoint has F32"}) {
    EXPECT_NE(errors[0]->text().find(line), std::string::npos) << errors[0]->text();
  }
}

TEST(Strict, NamesAreMadePrintableInErrors) {
  const outcomes errors = initialize_with(
      plain_model(), [](std::size_t, call& mine) { mine.module.add_parameter("c\nweight", dtype::f32, {2}); });
  expect_same_error(errors, errc::missing_tensor, "c\nweight", every_rank, "missing");
  EXPECT_EQ(std::string_view(errors[0]->what()).find("c\\nweight: missing"), 0U);
}

// -- modules and options that no rank can mean

TEST(Rejected, OptionsOutOfRange) {
  const auto with = [](const std::function<void(options&)>& change) {
    return initialize_with(plain_model(), [&](std::size_t, call& mine) { change(mine.how); });
  };
  expect_same_error(with([](options& how) { how.source_rank = 4; }), errc::invalid_argument, "source_rank", 0,
                    "4 is not a rank of a world of 4");
  expect_same_error(with([](options& how) { how.buckets_in_flight = 0; }), errc::invalid_argument, "buckets_in_flight",
                    0, "from 1 to 1024");
  expect_same_error(with([](options& how) { how.buckets_in_flight = std::size_t{1} << 40U; }), errc::invalid_argument,
                    "buckets_in_flight", 0, "from 1 to 1024");
  for (const double seconds : {-1.0, std::nan("")}) {
    expect_same_error(with([&](options& how) { how.progress_interval_seconds = seconds; }), errc::invalid_argument,
                      "progress_interval_seconds", 0, "must not be negative");
  }
  expect_same_error(with([](options& how) { how.bucket_bytes = 3; }), errc::invalid_argument, "bucket_bytes",
                    every_rank, "3 is too small for 4 shards; use at least 4");
}

TEST(Rejected, ADeadlineThatIsNoneIsAnErrorOnAWorldOfOne) {
  for (const double seconds : {0.0, -1.0, std::nan("")}) {
    const outcomes errors = initialize_with(
        plain_model(), [&](std::size_t, call& mine) { mine.how.deadline_seconds = seconds; }, is_untouched, 1);
    expect_same_error(errors, errc::invalid_argument, "deadline_seconds", 0, "above 0");
  }
}

TEST(Rejected, ADeadlineThatIsNoneOnOneRankIsThatErrorEverywhere) {
  for (const double seconds : {0.0, -1.0, std::nan("")}) {
    const outcomes errors = initialize_with(
        plain_model(), [&](std::size_t rank, call& mine) { mine.how.deadline_seconds = rank == 2 ? seconds : 20; });
    expect_same_error(errors, errc::invalid_argument, "deadline_seconds", 2, "above 0");
  }
}

TEST(Rejected, AShardThatDoesNotFitIntoMemorySaysHowMuchWasAskedForAndWhatFor) {
  const outcomes errors = errors_of_ranks(2, [&](std::size_t, threads_communicator& world) {
    dynamic_module module;
    module.add_parameter("small", dtype::f32, {8});
    module.add_parameter("layers.0.huge", dtype::f32, {std::uint64_t{1} << 55U});
    module.add_parameter("layers.1.huge", dtype::f32, {8});
    in_memory_source source(std::vector<in_memory_tensor>{});
    host_memory memory;
    try {
      initialize(module, source, world, {.strict = false}, {.memory = memory, .missing = normal_values{}});
    } catch (...) {
      EXPECT_EQ(memory.accounted(), 0U);
      throw;
    }
  });
  expect_same_error(errors, errc::out_of_memory, "", 0,
                    "cannot give 72057594037927936 bytes for the shards of unit layers.0; predicted for this rank are "
                    "72057594037927968 bytes");
}

TEST(Rejected, APlacementThatDoesNotDivideEvenly) {
  const reference_model model({{.fqn = "a", .type = dtype::f32, .extents = {8, 17}, .how = shard{1}}});
  const outcomes errors = initialize_with(model, [](std::size_t, call&) {});
  expect_same_error(errors, errc::invalid_placement, "a", 0, "cannot shard dim 1 of [8, 17] evenly over 4 ranks");
}

TEST(Rejected, ATieThatDoesNotFit) {
  const auto with = [](const std::function<void(dynamic_module&)>& change) {
    return initialize_with(plain_model(), [&](std::size_t, call& mine) { change(mine.module); });
  };
  expect_same_error(with([](dynamic_module& module) {
                      module.tie({"a.weight", "nobody"});
                    }),
                    errc::invalid_tie, "nobody", 0, "no parameter of this name");
  expect_same_error(with([](dynamic_module& module) {
                      module.tie({"a.weight", "b.mean"});
                    }),
                    errc::invalid_tie, "b.mean", 0, "no parameter of this name");
  expect_same_error(with([](dynamic_module& module) {
                      module.tie({"a.weight", "b.weight"});
                    }),
                    errc::invalid_tie, "b.weight", 0, "must agree in dtype, shape and placement");
}

TEST(Rejected, ANonPersistentBufferWithoutAValueOnTheSource) {
  const reference_model model({{.fqn = "mask", .extents = {3}, .role = slot_role::non_persistent_buffer}});
  const outcomes errors = errors_of_ranks(3, [&](std::size_t rank, threads_communicator& world) {
    host_memory memory;
    dynamic_module module = model.module(memory, rank != 1);
    initialize(module, model.source(), world, {.source_rank = 1});
  });
  expect_same_error(errors, errc::missing_tensor, "mask", 1, "without a value on the source rank");
}

/// Visits one name twice.
struct stuttering_module {
  parameter weight{dtype::f32, {3}};
  bool stutters = true;
  std::function<void()> fails{};
  template <class Visitor>
  void visit_slots(Visitor&& visitor) {
    visitor(std::string_view("weight"), weight);
    if (stutters) {
      visitor(std::string_view("weight"), weight);
    }
    if (fails) {
      fails();
    }
  }
};

TEST(Rejected, AModuleThatVisitsANameTwice) {
  const outcomes errors = errors_of_ranks(2, [&](std::size_t, threads_communicator& world) {
    stuttering_module module;
    initialize(module, in_memory_source(), world);
  });
  expect_same_error(errors, errc::invalid_argument, "weight", 0, "names must be unique");
}

/// Lists what it has twice.
TEST(Rejected, ASourceThatListsANameTwice) {
  const reference_model model = plain_model();
  const outcomes errors = errors_of_ranks(2, [&](std::size_t, threads_communicator& world) {
    host_memory memory;
    dynamic_module module = model.module(memory, false);
    throwing_source source(model.source(), [] { ADD_FAILURE() << "nothing is to be read"; });
    source.listed.assign(source.tensors().begin(), source.tensors().end());
    source.listed.push_back(source.listed.front());
    initialize(module, source, world);
  });
  expect_same_error(errors, errc::invalid_argument, "b.mean", 0, "lists two tensors of this name");
}

// -- (g) ties stored twice

template <class Policy>
void expect_differing_copies_found() {
  const std::vector<std::byte> values = content_for("a", 4 * 300);
  std::vector<std::byte> changed = values;
  changed[1100] ^= std::byte{1};
  const tensor_descriptor a{.name = "a", .dtype = dtype::f32, .shape = {30, 10}};
  const tensor_descriptor b{.name = "b", .dtype = dtype::f32, .shape = {30, 10}};
  const reference_model model({{.fqn = "a", .extents = {30, 10}, .tied = {"b"}}});
  const outcomes errors = initialize_with<Policy>(
      model,
      [&](std::size_t, call& mine) {
        mine.source = in_memory_source({{.descriptor = a, .bytes = values}, {.descriptor = b, .bytes = changed}});
        mine.how.bucket_bytes = 100;
      },
      is_on_meta);
  expect_same_error(errors, errc::invalid_tie, "b", 0, "tied to a, but the checkpoint stores different values");
}

TEST(Ties, StoredCopiesThatDifferAreAnErrorOnEveryRank) {
  expect_differing_copies_found<native_sharding<transport::scatter>>();
  expect_differing_copies_found<native_sharding<transport::broadcast>>();
  expect_differing_copies_found<every_rank_loads>();
}

// -- (c) openers

/// Opens on one rank only.
struct picky_opener {
  const reference_model* model;
  bool valid;
  in_memory_source operator()() const {
    if (!valid) {
      throw error(errc::io, "/no/such/file", "cannot be opened", {.native_code = 2});
    }
    return model->source();
  }
};

TEST(Opener, IsCalledOnTheSourceRankOnly) {
  const reference_model model = plain_model();
  const outcomes errors = errors_of_ranks(3, [&](std::size_t rank, threads_communicator& world) {
    host_memory memory;
    dynamic_module module = model.module(memory, false);
    initialize(module, picky_opener{&model, rank == 1}, world, {.source_rank = 1});
    EXPECT_EQ(model.faults_of(module, memory, 3, rank), "");
    initialize<native_sharding<transport::broadcast>>(module, picky_opener{&model, rank == 1}, world,
                                                      {.source_rank = 1});
    EXPECT_EQ(model.faults_of(module, memory, 3, rank), "");
  });
  for (const auto& each : errors) {
    EXPECT_FALSE(each.has_value()) << each->what();
  }
}

TEST(Opener, ThatFailsOnTheSourceFailsEverywhere) {
  const reference_model model = plain_model();
  const outcomes errors = errors_of_ranks(3, [&](std::size_t rank, threads_communicator& world) {
    host_memory memory;
    dynamic_module module = model.module(memory, false);
    initialize(module, picky_opener{&model, rank != 1}, world, {.source_rank = 1});
  });
  expect_same_error(errors, errc::io, "/no/such/file", 1, "cannot be opened");
  EXPECT_EQ(errors[0]->native_code(), 2);
}

TEST(Opener, ThatFailsAnywhereFailsEverywhereWhereEveryRankReads) {
  const reference_model model = plain_model();
  const outcomes errors = errors_of_ranks(3, [&](std::size_t rank, threads_communicator& world) {
    host_memory memory;
    dynamic_module module = model.module(memory, false);
    initialize<every_rank_loads>(module, picky_opener{&model, rank == 0}, world);
  });
  expect_same_error(errors, errc::io, "/no/such/file", 1, "cannot be opened");
}

// -- (h) exceptions of other types

outcomes with_reads_that(const std::function<void()>& act, double deadline_seconds = 20) {
  const reference_model model = plain_model();
  return errors_of_ranks(3, [&](std::size_t, threads_communicator& world) {
    host_memory memory;
    dynamic_module module = model.module(memory, false);
    initialize(module, throwing_source(model.source(), act), world, {.deadline_seconds = deadline_seconds});
  });
}

TEST(UserException, OfAnyTypeIsAnErrorEverywhere) {
  expect_same_error(with_reads_that([] { throw std::runtime_error("the disk is full of eels"); }), errc::user_exception,
                    "", 0, "the disk is full of eels");
  expect_same_error(with_reads_that([] { throw 42; }), errc::user_exception, "", 0, "not a std::exception");
  expect_same_error(with_reads_that([] { throw std::bad_alloc(); }), errc::out_of_memory, "", 0, "use more ranks");
  expect_same_error(with_reads_that([] { throw error(errc::io, "file", std::string(9000, 'x')); }), errc::io, "file", 0,
                    std::string(3000, 'x'));
}

TEST(UserException, KeepsItsTextButNoRankOrCodeThatIsNotItsOwnToSet) {
  for (const errc code : {errc::interrupted, errc::peer_lost, errc::source_consumed}) {
    expect_same_error(
        with_reads_that([&] { throw error(code, "file", "the tape broke", {.rank = 7, .native_code = 5}); }),
        errc::user_exception, "file", 0, "the tape broke");
  }
  const outcomes errors =
      with_reads_that([] { throw error(errc::io, "file", "the tape broke", {.rank = 7, .native_code = 5}); });
  expect_same_error(errors, errc::io, "file", 0, "the tape broke");
  EXPECT_EQ(errors[0]->native_code(), 5);
}

TEST(UserException, OfAModuleThatClaimsToHaveBeenInterruptedIsNoConsequenceOfAnother) {
  const outcomes errors = errors_of_ranks(2, [&](std::size_t rank, threads_communicator& world) {
    stuttering_module module;
    module.stutters = false;
    if (rank == 1) {
      module.fails = [] { throw error(errc::interrupted, "", "the visitor fell asleep"); };
    }
    initialize(module, in_memory_source(), world);
  });
  expect_same_error(errors, errc::user_exception, "", 1, "the visitor fell asleep");
}

// -- (k) ranks that do not come

TEST(PeerLost, ALateRankIsReportedEverywhereWithinTheDeadline) {
  const reference_model model = plain_model();
  const threads_world world(3);
  std::atomic<bool> late_one_came = false;
  std::atomic<bool> waited_for_it = false;
  const outcomes errors = errors_of_ranks(world, [&](std::size_t rank, threads_communicator& mine) {
    if (rank == 2) {
      std::this_thread::sleep_for(std::chrono::seconds(3));
      late_one_came = true;
    }
    host_memory memory;
    dynamic_module module = model.module(memory, false);
    try {
      initialize(module, model.source(), mine, {.deadline_seconds = 0.2});
    } catch (...) {
      if (rank != 2 && late_one_came) {
        waited_for_it = true;
      }
      throw;
    }
  });
  EXPECT_FALSE(waited_for_it);
  for (const auto& each : errors) {
    ASSERT_TRUE(each.has_value());
    EXPECT_EQ(each->code(), errc::peer_lost) << each->what();
  }
}

TEST(PeerLost, ARankThatHangsInTheStreamIsReportedEverywhere) {
  std::atomic<bool> slept = false;
  const outcomes errors = with_reads_that(
      [&] {
        if (!slept.exchange(true)) {
          std::this_thread::sleep_for(std::chrono::milliseconds(1500));
        }
      },
      0.2);
  for (const auto& each : errors) {
    ASSERT_TRUE(each.has_value());
    EXPECT_EQ(each->code(), errc::peer_lost) << each->what();
  }
}

}  // namespace
}  // namespace agreement_test
