#include "init/random_case.hpp"
#include "plan/expected_prediction.hpp"
#include "plan/program_machine.hpp"
#include "support/cluster_plans.hpp"
#include "support/heap_faults.hpp"
#include "support/reference_model.hpp"
#include "support/sanitizers.hpp"
#include "support/test_seed.hpp"
#include <fsdpinit/core.hpp>
#include <fsdpinit/core/float_conversion.hpp>
#include <fsdpinit/plan/program.hpp>

#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <rapidcheck.h>

namespace program_test {
namespace {

using namespace fsdpinit;
using namespace fsdpinit::testing_support;

// -- small programs, by hand

/// Every step of a phase, in one line each: `read w [0, 8) -> slot 0 + 4`.
std::string text_of(const program_step& each) {
  const auto where = [](const region_position& at) {
    return at.kind == region_kind::none ? std::string("-") : concat(name(at.kind), " ", at.index, "+", at.offset);
  };
  switch (each.kind) {
    case step_kind::read:
      return concat("read ", each.copy == 0 ? "" : "copy ", tensor_of_file(each.at.file) ? "tensor " : "file ",
                    tensor_of_file(each.at.file).value_or(each.at.file), "+", each.at.offset, " ", each.bytes, " -> ",
                    where(each.to));
    case step_kind::read_buffer:
      return concat("read-buffer ", each.tensor, "+", each.at.offset, " ", each.bytes, " -> ", where(each.to));
    case step_kind::window:
      return concat("window ", each.bytes, " of ", where(each.from), " for ", each.rank);
    case step_kind::scatter:
      return concat("scatter of ", each.rank,
                    each.to.kind == region_kind::none ? "" : concat(" ", each.bytes, " -> ", where(each.to)));
    case step_kind::broadcast:
      return concat("broadcast of ", each.rank, " ", each.bytes, " ", where(each.from), " -> ", where(each.to),
                    each.viewable ? " viewable" : "");
    case step_kind::copy:
    case step_kind::place:
    case step_kind::fetch:
    case step_kind::compare:
    case step_kind::generate:
      return concat(name(each.kind), " ", each.count == 1 ? "" : concat(each.count, "x"), each.bytes, " ",
                    where(each.from), each.count == 1 ? "" : concat("/", each.stride), " -> ", where(each.to));
    case step_kind::widen:
      return concat("widen ", each.count, " ", name(each.narrow), " ", where(each.from), " -> ", name(each.wide), " ",
                    where(each.to));
    case step_kind::hash:
      return concat("hash ", each.count == 1 ? "" : concat(each.count, "x"), each.bytes, " ", where(each.from));
    case step_kind::start_sum:
      return concat("sum ", each.seed);
    case step_kind::store_sum:
      return concat("store ", where(each.to));
    case step_kind::check_sum:
      return concat("check ", where(each.from), " of ", each.rank);
    case step_kind::compare_sums:
      return concat("compare sums of ", each.rank);
    case step_kind::clear_sums:
    case step_kind::release:
    case step_kind::agree:
      break;
  }
  return std::string(name(each.kind));
}

using lines = std::vector<std::string>;

/// All rounds; phases but the first are told by a `|` in front of their steps.
lines program_text(const plan& made, std::size_t rank, const program_options& how = {}) {
  program of = program_of(made, rank, how);
  lines out;
  for_each_round(of, [&](const program_round& round) {
    out.push_back(concat(name(round.kind), " ", round.part));
    for (const round_phase phase : {round_phase::begin, round_phase::pass_on, round_phase::end}) {
      const auto tell = [&](const program_step& each) {
        out.push_back(concat(phase == round_phase::begin     ? ""
                             : phase == round_phase::pass_on ? "| "
                                                             : "|| ",
                             text_of(each)));
      };
      of.for_each_step(round, phase, [&](const program_step& each) { for_each_single(each, tell); });
    }
  });
  return out;
}

std::vector<tensor_request> bytes_sharded(std::uint64_t bytes) {
  return {{.fqn = "w", .dtype = dtype::u8, .shape = {bytes}}};
}

TEST(Program, OfAScatterReadsWindowsAndReceivesThemInPlace) {
  const plan made = make_plan(bytes_sharded(10), {.ranks = {.shards = 3}, .bucket_bytes = 9});
  EXPECT_EQ(program_text(made, 0),
            (lines{"bucket 0", "read tensor 0+0 3 -> slab 0+0", "read tensor 0+4 3 -> slot 0+0",
                   "read tensor 0+8 2 -> slot 0+3", "window 3 of slot 0+0 for 1", "window 2 of slot 0+3 for 2",
                   "scatter of 0", "bucket 1", "read tensor 0+3 1 -> slab 0+3", "read tensor 0+7 1 -> slot 1+0",
                   "release", "window 1 of slot 1+0 for 1", "window 0 of slot 1+1 for 2", "scatter of 0", "agree 2",
                   "agree", "finish 0", "agree"}));
  EXPECT_EQ(program_text(made, 2), (lines{"bucket 0", "scatter of 0 2 -> slab 0+0", "bucket 1",
                                          "scatter of 0 0 -> slab 0+0", "agree 2", "agree", "finish 0", "agree"}));
}

TEST(Program, OfAScatterOverReplicasPassesPartsOn) {
  const plan made = make_plan(bytes_sharded(4), {.ranks = {.shards = 2, .replicas = 2}, .bucket_bytes = 8});
  EXPECT_EQ(program_text(made, 0),
            (lines{"bucket 0", "read tensor 0+0 2 -> slot 0+0", "read tensor 0+2 2 -> slot 0+2", "release",
                   "window 2 of slot 0+2 for 1", "scatter of 0", "place 2 slot 0+0 -> slab 0+0",
                   "| broadcast of 0 2 slot 0+0 -> -", "agree 1", "agree", "finish 0", "agree"}));
  EXPECT_EQ(program_text(made, 1), (lines{"bucket 0", "scatter of 0 2 -> slab 0+0", "| broadcast of 1 2 slab 0+0 -> -",
                                          "agree 1", "agree", "finish 0", "agree"}));
  EXPECT_EQ(program_text(made, 3), (lines{"bucket 0", "scatter of 3", "| broadcast of 1 2 - -> slab 0+0", "agree 1",
                                          "agree", "finish 0", "agree"}));
}

TEST(Program, OfABroadcastPlacesWhatIsKeptOutOfTheSlotWhereItMayBeViewed) {
  const plan made = make_plan({{.fqn = "w", .dtype = dtype::u8, .shape = {2, 4}, .placement = shard{1}}},
                              {.ranks = {.shards = 2}, .transport = transport::broadcast, .bucket_bytes = 8});
  EXPECT_EQ(program_text(made, 0),
            (lines{"bucket 0", "read tensor 0+0 8 -> slot 0+0", "release", "broadcast of 0 8 slot 0+0 -> -",
                   "place 2x2 slot 0+0/4 -> slab 0+0", "agree 1", "agree", "finish 0", "agree"}));
  EXPECT_EQ(program_text(made, 1),
            (lines{"bucket 0", "broadcast of 0 8 - -> slot 0+0 viewable", "|| place 2x2 slot 0+2/4 -> slab 0+0",
                   "agree 1", "agree", "finish 0", "agree"}));
}

TEST(Program, OfAnOwnReadJoinsRunsThatLieCloseTogether) {
  const plan made = make_plan({{.fqn = "w",
                                .dtype = dtype::u8,
                                .shape = {3, 8},
                                .placement = shard{1},
                                .position = file_position{.file = 2, .offset = 100}}},
                              {.ranks = {.shards = 2}, .transport = transport::own_read, .bucket_bytes = 64});
  EXPECT_EQ(program_text(made, 1),
            (lines{"bucket 0", "read file 2+104 20 -> scratch 0+0", "copy 3x4 scratch 0+0/8 -> slab 0+0", "release",
                   "agree 1", "agree", "finish 0", "agree"}));
}

TEST(Program, OfAnOwnReadOnADevicePlacesOutOfTheSlot) {
  const plan made = make_plan(bytes_sharded(6), {.ranks = {.shards = 2},
                                                 .transport = transport::own_read,
                                                 .bucket_bytes = 4,
                                                 .access = {.host = false, .communicator = false}});
  EXPECT_EQ(program_text(made, 1), (lines{"bucket 0", "read tensor 0+3 3 -> slot 0+0", "release",
                                          "place 3 slot 0+0 -> slab 0+0", "agree 1", "agree", "finish 0", "agree"}));
}

TEST(Program, OfAnOwnReadAgreesAsOftenOnARankThatTakesNoPart) {
  const plan made =
      make_plan(bytes_sharded(10), {.transport = transport::own_read, .bucket_bytes = 4, .own_read_bytes = 4});
  EXPECT_EQ(program_text(made, 0, {.bytes_between_agreements = 8}),
            (lines{"bucket 0", "read tensor 0+0 4 -> slab 0+0", "bucket 1", "read tensor 0+4 4 -> slab 0+4", "agree 2",
                   "agree", "bucket 2", "read tensor 0+8 2 -> slab 0+8", "release", "agree 3", "agree", "finish 0",
                   "agree"}));
  const program_options idle{.bytes_between_agreements = 8, .takes_part = false};
  EXPECT_EQ(program_text(made, 0, idle),
            (lines{"bucket 0", "bucket 1", "agree 2", "agree", "bucket 2", "agree 3", "agree", "finish 0", "agree"}));
  EXPECT_TRUE(program_of(made, 0, idle).regions().empty());
}

TEST(Program, OfReplicasThatReadForEachOtherTakesTurns) {
  const plan made = make_plan(
      bytes_sharded(8), {.ranks = {.shards = 1, .replicas = 2}, .transport = transport::own_read, .bucket_bytes = 4});
  EXPECT_EQ(program_text(made, 1),
            (lines{"bucket 0", "broadcast of 0 4 - -> slab 0+0", "bucket 1", "read tensor 0+4 4 -> slab 0+4", "release",
                   "broadcast of 1 4 slab 0+4 -> -", "agree 2", "agree", "finish 0", "agree"}));
}

TEST(Program, OfTransfersThatAreVerifiedSendsChecksumsAndChecksSlabs) {
  const plan made = make_plan(
      bytes_sharded(4),
      {.ranks = {.shards = 2}, .transport = transport::broadcast, .bucket_bytes = 4, .verify = verification::transfer});
  EXPECT_EQ(program_text(made, 0), (lines{"bucket 0",
                                          "clear-sums",
                                          "read tensor 0+0 4 -> slot 0+0",
                                          "release",
                                          "sum 0",
                                          "hash 2 slot 0+0",
                                          "store checksums 0+0",
                                          "sum 1",
                                          "hash 2 slot 0+2",
                                          "store checksums 0+8",
                                          "sum 2",
                                          "store checksums 0+16",
                                          "broadcast of 0 4 slot 0+0 -> -",
                                          "broadcast of 0 24 checksums 0+0 -> -",
                                          "place 2 slot 0+0 -> slab 0+0",
                                          "|| sum 0",
                                          "|| hash 2 slab 0+0",
                                          "|| check checksums 0+0 of 0",
                                          "|| sum 2",
                                          "|| check checksums 0+16 of 0",
                                          "agree 1",
                                          "agree",
                                          "finish 0",
                                          "agree"}));
}

TEST(Program, OfAStoredCopyComparesItPieceByPiece) {
  const plan made =
      make_plan({{.fqn = "w", .dtype = dtype::u8, .shape = {20}, .placement = replicate{}, .extra_copies = 1}},
                {.bucket_bytes = 20});
  EXPECT_EQ(program_text(made, 0),
            (lines{"bucket 0", "read tensor 0+0 20 -> slab 0+0", "read copy tensor 0+0 20 -> scratch 0+0",
                   "compare 20 scratch 0+0 -> slab 0+0", "release", "broadcast of 0 20 slab 0+0 -> -", "agree 1",
                   "agree", "finish 0", "agree"}));
}

TEST(Program, TakesBuffersFromTheModuleAndMakesWhatIsMissing) {
  const plan made =
      make_plan({{.fqn = "w", .dtype = dtype::u8, .shape = {4}, .generated = true},
                 {.fqn = "b", .dtype = dtype::u8, .shape = {3}, .placement = replicate{}, .from_buffer = true}},
                {.ranks = {.shards = 2}});
  EXPECT_EQ(program_text(made, 0),
            (lines{"generate 0", "generate 2 - -> slab 0+0", "agree", "bucket 0", "read-buffer 1+0 3 -> slab 0+256",
                   "broadcast of 0 3 slab 0+256 -> -", "agree 1", "agree", "finish 0", "agree"}));
}

TEST(Program, WhereEveryRankLoadsReadsAllAndKeepsItsPart) {
  const plan made = make_plan(bytes_sharded(5),
                              {.ranks = {.shards = 2}, .transport = transport::none, .verify = verification::transfer});
  EXPECT_EQ(program_text(made, 1),
            (lines{"load 0", "read tensor 0+0 5 -> full-copy 0+0", "agree", "keep 0",
                   "place 2 full-copy 0+3 -> slab 0+0", "sum 0", "hash 2 full-copy 0+3", "sum 0", "hash 2 slab 0+0",
                   "check - of 1", "agree", "agree 0", "agree", "finish 0", "agree"}));
}

TEST(Program, ReadsAgainWhatOneRankHasReadAndComparesIt) {
  const plan made =
      make_plan(bytes_sharded(6), {.ranks = {.shards = 2}, .bucket_bytes = 6, .verify = verification::reread});
  const lines all = program_text(made, 1);
  EXPECT_EQ(lines(all.end() - 6, all.end()),
            (lines{"reread 0", "read tensor 0+3 3 -> scratch 0+0", "compare 3 scratch 0+0 -> slab 0+0", "agree",
                   "finish 0", "agree"}));
}

TEST(Program, ReadsAgainWhatAPeerHasReadAndExchangesSums) {
  const plan made = make_plan(
      bytes_sharded(6),
      {.ranks = {.shards = 2}, .transport = transport::own_read, .bucket_bytes = 6, .verify = verification::reread});
  const lines all = program_text(made, 1);
  EXPECT_EQ(lines(all.end() - 15, all.end()),
            (lines{"reread 0", "clear-sums", "clear-sums", "sum 0", "sum 0", "read tensor 0+0 3 -> scratch 0+0",
                   "hash 3 scratch 0+0", "hash 3 slab 0+0", "store peer-sums 0+0", "store peer-sums 1+0", "agree",
                   "compare 0", "compare sums of 0", "finish 0", "agree"}));
}

TEST(Program, WidensInPlaceOrAside) {
  const std::vector<tensor_request> requests{
      {.fqn = "w", .dtype = dtype::f32, .travels_as = dtype::bf16, .shape = {9}, .placement = replicate{}}};
  const lines here = program_text(make_plan(requests, {.bucket_bytes = 18}), 0);
  EXPECT_EQ(lines(here.end() - 3, here.end()), (lines{"finish 0", "widen 9 BF16 slab 0+18 -> F32 slab 0+0", "agree"}));
  const lines aside = program_text(
      make_plan(requests, {.bucket_bytes = 18, .access = {.host = false, .communicator = false, .widens = false}}), 0);
  EXPECT_EQ(lines(aside.end() - 11, aside.end()),
            (lines{"finish 0", "fetch 8 slab 0+18 -> scratch 0+8", "widen 4 BF16 scratch 0+8 -> F32 scratch 0+0",
                   "place 16 scratch 0+0 -> slab 0+0", "fetch 8 slab 0+26 -> scratch 0+8",
                   "widen 4 BF16 scratch 0+8 -> F32 scratch 0+0", "place 16 scratch 0+0 -> slab 0+16",
                   "fetch 2 slab 0+34 -> scratch 0+2", "widen 1 BF16 scratch 0+2 -> F32 scratch 0+0",
                   "place 4 scratch 0+0 -> slab 0+32", "agree"}));
}

TEST(Program, OfNothingIsAnAgreement) {
  EXPECT_EQ(program_text(make_plan({}, {.ranks = {.shards = 2}}), 1), (lines{"agree 0", "agree", "finish 0", "agree"}));
}

// -- when ranks agree

/// Kinds of the rounds, and how many of one kind follow each other.
std::string rounds_of(const program& of) {
  std::string out;
  std::size_t count = 0;
  round_kind last = round_kind::finish;
  for_each_round(of, [&](const program_round& round) {
    if (count != 0 && round.kind != last) {
      out += concat(name(last), " ", count, ", ");
      count = 0;
    }
    last = round.kind;
    ++count;
  });
  return concat(out, name(last), " ", count);
}

TEST(Program, AgreesWhereRanksHaveReadMuchWithoutHearingOfEachOther) {
  const auto over = [](const plan_options& how) {
    return rounds_of(program_of(make_plan(bytes_sharded(gib), how), 0));
  };
  EXPECT_EQ(over({.ranks = {.shards = 2}, .transport = transport::own_read}),
            "bucket 1, agree 1, bucket 1, agree 1, bucket 1, agree 1, bucket 1, agree 1, finish 1");
  EXPECT_EQ(over({.ranks = {.shards = 2}, .transport = transport::own_read, .access = {.host = false}}),
            "bucket 32, agree 1, bucket 32, agree 1, bucket 32, agree 1, bucket 32, agree 1, finish 1");
  EXPECT_EQ(over({.ranks = {.shards = 2}, .transport = transport::broadcast}), "bucket 256, agree 1, finish 1");
  EXPECT_EQ(over({.ranks = {.shards = 2}, .transport = transport::none}), "load 8, keep 1, agree 1, finish 1");
  EXPECT_EQ(over({.ranks = {.shards = 2}, .transport = transport::broadcast, .verify = verification::reread}),
            "bucket 256, agree 1, reread 4, finish 1");
}

TEST(Program, AgreesAfterSomeBucketsWhereAFailureCannotInterruptPeers) {
  const plan made = make_plan(bytes_sharded(100), {.ranks = {.shards = 2}, .bucket_bytes = 20});
  EXPECT_EQ(rounds_of(program_of(made, 1, {.buckets_per_agreement = 4})),
            "bucket 4, agree 1, bucket 1, agree 1, finish 1");
}

TEST(Program, TurnsCutTensorsAtTheSameBytesOnEveryRank) {
  const std::uint64_t large = direct_read_bytes + 5;
  const plan made = make_plan({{.fqn = "a", .dtype = dtype::u8, .shape = {large}},
                               {.fqn = "none", .dtype = dtype::u8, .shape = {0}},
                               {.fqn = "b", .dtype = dtype::u8, .shape = {7}}},
                              {.ranks = {.shards = 2}, .transport = transport::none});
  const lines all = program_text(made, 0);
  EXPECT_EQ(lines(all.begin(), all.begin() + 7), (lines{"load 0", "read tensor 0+0 134217728 -> full-copy 0+0", "agree",
                                                        "load 1", "read tensor 0+134217728 5 -> full-copy 0+134217728",
                                                        "read tensor 1+0 7 -> full-copy 0+134217733", "agree"}));
}

// -- memory

/// How often a program allocates while it is made, and while all of its steps are.
std::pair<std::uint64_t, std::uint64_t> allocations_of(const plan& made) {
  const std::uint64_t before = heap_allocations();
  program of = program_of(made, 0);
  const std::uint64_t between = heap_allocations();
  std::uint64_t steps = 0;
  for_each_round(of,
                 [&](const program_round& round) { of.for_each_step(round, [&](const program_step&) { ++steps; }); });
  EXPECT_GT(steps, made.schedule.size());
  return {between - before, heap_allocations() - between};
}

TEST(Program, AllocatesWhenItIsMadeAsMuchForManyBucketsAsForFew) {
  if (!heap_is_a_seam) {
    GTEST_SKIP() << "allocations cannot be counted under this sanitizer";
  }
  const std::vector<tensor_request> requests = requests_of(varied_model());
  for (const fsdpinit::transport transport : {transport::scatter, transport::broadcast, transport::own_read}) {
    const auto of_buckets = [&](std::uint64_t bytes) {
      return allocations_of(make_plan(requests, {.ranks = {.shards = 3},
                                                 .transport = transport,
                                                 .bucket_bytes = bytes,
                                                 .access = {.host = false},
                                                 .verify = verification::reread}));
    };
    const auto [few, while_few] = of_buckets(1000);
    const auto [many, while_many] = of_buckets(3);
    EXPECT_EQ(few, many) << name(transport);
    EXPECT_EQ(while_few + while_many, 0U) << name(transport);
  }
}

// -- any plan

/// A plan, and what is in the checkpoint.
struct random_plan {
  std::vector<reference_tensor> tensors{};
  std::vector<tensor_request> requests{};
  plan_options options{};
  program_options program{};
  bool in_files = false;
  bool late = false;
};

template <class Below>
plan_options random_options(Below&& below) {
  plan_options how{.ranks = {.shards = 1 + below(6)}};
  how.ranks.replicas = how.ranks.shards < 4 ? 1 + below(3) : 1;
  const std::size_t ranks = how.ranks.size();
  how.source_ranks.source_rank = below(ranks);
  const std::size_t node_size = 1 + below(3);
  if (below(3) == 2) {
    for (std::size_t rank = 0; rank < ranks; ++rank) {
      const std::size_t source = how.source_ranks.source_rank;
      how.source_ranks.source_of.push_back(source / node_size == rank / node_size ? source
                                                                                  : rank / node_size * node_size);
    }
  } else {
    how.source_ranks.grouped = below(4) != 3;
  }
  for (std::size_t rank = 0; rank < ranks && below(2) == 1; ++rank) {
    how.source_ranks.nodes.push_back(0);
  }
  if (how.source_ranks.nodes.size() != ranks) {
    how.source_ranks.nodes.clear();
  }
  for (std::size_t rank = 0; rank < how.source_ranks.nodes.size(); ++rank) {
    how.source_ranks.nodes[rank] = rank / node_size * node_size;
  }
  how.transport = static_cast<fsdpinit::transport>(below(5));
  how.bucket_bytes = ranks + below(below(2) == 0 ? 60 : 3000);
  how.buckets_in_flight = 1 + below(4);
  how.access.host = below(2) == 0;
  how.access.communicator = below(2) == 0;
  how.access.widens = how.access.host || below(2) == 0;
  how.verify = static_cast<verification>(below(3));
  return how;
}

template <class Below>
random_plan random_plan_from(Below&& below) {
  random_plan made{.options = random_options(below)};
  for (std::size_t i = 0, count = 1 + below(9); i < count; ++i) {
    made.tensors.push_back(random_tensor(i, made.options.ranks.shards, below));
  }
  made.tensors = reference_model(made.tensors).tensors();
  for (const reference_tensor& tensor : made.tensors) {
    const bool is_parameter = tensor.role == slot_role::parameter;
    tensor_request request{.fqn = tensor.fqn,
                           .dtype = tensor.type,
                           .shape = tensor.extents,
                           .placement = is_parameter ? tensor.how : placement(replicate{}),
                           .unit = below(3),
                           .from_buffer = tensor.from_buffer(),
                           .generated = is_parameter && below(8) == 7};
    request.extra_copies = request.from_buffer || request.generated ? 0 : tensor.stored_names().size() - 1;
    if (tensor.type == dtype::f32 && !request.from_buffer && !request.generated && below(2) == 1) {
      request.travels_as = dtype::bf16;
    }
    made.requests.push_back(request);
  }
  if (below(3) == 2) {
    made.program.buckets_per_agreement = 1 + below(5);
  }
  made.in_files = below(2) == 1;
  made.late = below(2) == 1;
  return made;
}

std::string to_string(const random_plan& made) {
  const plan_options& how = made.options;
  std::string out =
      concat(name(how.transport), ", ", how.ranks.shards, " shards x ", how.ranks.replicas, " replicas, source ",
             how.source_ranks.source_rank, how.source_ranks.is_single() ? "" : " and others",
             how.source_ranks.grouped ? "" : ", no groups", ", buckets of ", how.bucket_bytes, ", ",
             how.buckets_in_flight, " in flight, host ", how.access.host ? 1 : 0, ", communicator ",
             how.access.communicator ? 1 : 0, ", widens ", how.access.widens ? 1 : 0, ", verify ", name(how.verify),
             made.in_files ? ", in files" : "", made.late ? ", late" : "", "\n");
  for (const tensor_request& each : made.requests) {
    out += concat("  ", each.fqn, " ", name(each.dtype), " ", to_string(each.shape), " ", to_string(each.placement),
                  each.travels_as ? " narrow" : "", each.from_buffer ? " from a buffer" : "",
                  each.generated ? " generated" : "", " copies ", each.extra_copies, "\n");
  }
  return out;
}

/// Its tensors as they travel, their bytes as they are kept, and the plan.
class planned_case {
 public:
  explicit planned_case(random_plan how) : how_(std::move(how)) {
    std::vector<std::vector<std::byte>> travelling;
    for (std::size_t i = 0; i < how_.requests.size(); ++i) {
      const tensor_request& request = how_.requests[i];
      std::vector<std::byte> kept = how_.tensors[i].bytes;
      travelling.push_back(kept);
      if (request.travels_as) {
        const std::uint64_t count = kept.size() / 4;
        travelling.back().resize(count * 2);
        convert_floats(dtype::bf16, travelling.back().data(), dtype::f32, kept.data(), count);
      }
      kept_.push_back(std::move(kept));
    }
    if (how_.in_files) {
      add_files(travelling);
    }
    plan_ = make_plan(how_.requests, how_.options);
    for (const planned_tensor& tensor : plan_.tensors) {
      input_.tensors.push_back(travelling[tensor.request]);
    }
    input_.late = how_.late;
  }

  [[nodiscard]] const plan& made() const noexcept { return plan_; }
  [[nodiscard]] const machine_input& input() const noexcept { return input_; }
  [[nodiscard]] const program_options& program_how() const noexcept { return how_.program; }

  /// A shard as it should be in the end.
  [[nodiscard]] std::vector<std::byte> expected(const planned_tensor& tensor, std::size_t rank) const {
    const tensor_request& request = how_.requests[tensor.request];
    return naive_slice(kept_[tensor.request], request.dtype, request.shape, request.placement,
                       plan_.options.ranks.shards, plan_.options.ranks.shard_of(rank))
        .bytes;
  }

 private:
  /// Two files, with gaps that are read along and gaps that are not.
  void add_files(const std::vector<std::vector<std::byte>>& travelling) {
    input_.files.resize(2);
    for (std::size_t i = 0; i < travelling.size(); ++i) {
      tensor_request& request = how_.requests[i];
      if (!request.from_buffer && !request.generated && !request.travels_as && i % 5 != 4) {
        const std::size_t file = i % 3 == 2 ? 1 : 0;
        std::vector<std::byte>& content = input_.files[file];
        content.resize(content.size() + (i % 4 == 3 ? 5000 : 3 * (i % 2)));
        request.position = file_position{.file = file, .offset = content.size()};
        content.insert(content.end(), travelling[i].begin(), travelling[i].end());
      }
    }
  }

  random_plan how_;
  std::vector<std::vector<std::byte>> kept_;  // by request
  plan plan_;
  machine_input input_;
};

/// Executes the programs of all ranks. \return what is wrong.
std::string faults_of(const planned_case& of, program_machine& machine) {
  const plan& made = of.made();
  std::string faults = machine.run();
  for (std::size_t rank = 0; rank < made.options.ranks.size() && faults.empty(); ++rank) {
    const auto require = [&](std::uint64_t found, std::uint64_t wanted, const char* what) {
      faults += found == wanted ? "" : concat("rank ", rank, ": ", what, " ", found, " in place of ", wanted, "\n");
    };
    const prediction predicted = predict(made, rank);
    const prediction expected = expected_prediction(made, rank);
    require(predicted.shard_bytes, expected.shard_bytes, "shards");
    require(predicted.slab_bytes, expected.slab_bytes, "slabs");
    require(predicted.slots, expected.slots, "slots");
    require(predicted.slot_bytes, expected.slot_bytes, "bytes of a slot");
    require(predicted.scratch_bytes, expected.scratch_bytes, "scratch");
    require(predicted.full_copy_bytes, expected.full_copy_bytes, "full copy");
    require(predicted.peer_sum_bytes, expected.peer_sum_bytes, "peer sums");
    require(predicted.bytes_read, expected.bytes_read, "predicted to read");
    require(predicted.bytes_sent, expected.bytes_sent, "predicted to send");
    require(predicted.bytes_received, expected.bytes_received, "predicted to receive");
    require(predicted.payload_bytes, expected.payload_bytes, "predicted payload");
    require(machine.tally(rank).read, predicted.bytes_read, "read");
    require(machine.tally(rank).sent, predicted.bytes_sent, "sent");
    require(machine.tally(rank).received, predicted.bytes_received, "received");
    require(machine.tally(rank).wanted, predicted.payload_bytes, "payload");

    std::vector<std::vector<std::uint8_t>> arrivals;
    for (const slab_layout& slab : made.slabs) {
      arrivals.emplace_back(slab.bytes, std::uint8_t{0});
    }
    for (const planned_tensor& tensor : made.tensors) {
      const std::vector<std::byte> wanted = of.expected(tensor, rank);
      const auto begin = machine.slab(rank, tensor.slab).begin() + static_cast<std::ptrdiff_t>(tensor.kept_offset());
      if (!std::equal(wanted.begin(), wanted.end(), begin)) {
        faults += concat("rank ", rank, ": tensor ", tensor.request, " is not what it should be\n");
      }
      std::fill_n(arrivals[tensor.slab].begin() + static_cast<std::ptrdiff_t>(tensor.offset),
                  tensor.partition.local_bytes(made.options.ranks.shard_of(rank)), std::uint8_t{1});
    }
    for (std::size_t slab = 0; slab < made.slabs.size(); ++slab) {
      if (machine.arrivals(rank, slab) != arrivals[slab]) {
        faults += concat("rank ", rank, ": bytes of slab ", slab, " that arrive never, twice, or where nothing lies\n");
      }
    }
  }
  return faults;
}

std::string faults_of(const planned_case& of) {
  program_machine machine(of.made(), of.program_how(), of.input());
  return faults_of(of, machine);
}

TEST(Programs, OfAnyPlanBringEachByteToItsPlaceOnceAndDoWhatIsPredicted) {
  const std::string parameters = concat("seed=", test_seed(), " max_success=", is_sanitized ? 100 : 1000);
  ASSERT_EQ(::setenv("RC_PARAMS", parameters.c_str(), 1), 0);  // where RapidCheck looks for them
  const bool holds = rc::check("programs do what is predicted", [] {
    const random_plan made =
        random_plan_from([](std::uint64_t bound) { return *rc::gen::inRange<std::uint64_t>(0, bound).as("a choice"); });
    const std::string faults = faults_of(planned_case(made));
    if (!faults.empty()) {
      RC_LOG() << to_string(made) << faults;
    }
    RC_ASSERT(faults.empty());
  });
  EXPECT_TRUE(holds);
}

/// A model of every kind of tensor, over three ranks, or two replicas of three.
planned_case varied_case(fsdpinit::transport transport, verification verify, bool on_host = true,
                         std::size_t replicas = 1) {
  random_plan how{.tensors = varied_model().tensors(),
                  .requests = requests_of(varied_model(), 3),
                  .options = {.ranks = {.shards = 3, .replicas = replicas},
                              .transport = transport,
                              .bucket_bytes = 300,
                              .access = {.host = on_host, .widens = on_host},
                              .verify = verify}};
  return planned_case(std::move(how));
}

/// Runs it with one step of one rank changed, for a sample of all such steps. \return those that went unnoticed
std::string unnoticed(const planned_case& of, bool shortens) {
  constexpr std::size_t most_runs = is_sanitized ? 3 : 60;  // per rank
  machine_input input = of.input();
  program_machine whole(of.made(), of.program_how(), input);
  EXPECT_EQ(whole.run(), "");
  std::string out;
  for (std::size_t rank = 0; rank < of.made().options.ranks.size(); ++rank) {
    const std::size_t steps = whole.felt_steps(rank);
    for (std::size_t step = 0; step < steps; step += 1 + steps / most_runs) {
      input.mutated = mutation{.rank = rank, .step = step, .shortens = shortens};
      program_machine machine(of.made(), of.program_how(), input);
      const bool is_unnoticed = faults_of(of, machine).empty();
      if (is_unnoticed && !(shortens && machine.mutated().bytes == 0)) {
        out += concat("rank ", rank, ": ", text_of(machine.mutated()), "\n");
      }
    }
  }
  return out;
}

void expect_each_step_to_be_felt(bool shortens) {
  for (const fsdpinit::transport transport :
       {transport::scatter, transport::broadcast, transport::own_read, transport::none}) {
    for (const verification verify : {verification::off, verification::transfer, verification::reread}) {
      for (const bool on_host : {true, false}) {
        for (const std::size_t replicas : {1U, 2U}) {
          EXPECT_EQ(unnoticed(varied_case(transport, verify, on_host, replicas), shortens), "")
              << name(transport) << ", verify " << name(verify) << (on_host ? ", host, " : ", device, ") << replicas
              << " replicas";
        }
      }
    }
  }
}

TEST(Programs, HaveNoStepThatCouldBeLeftOut) { expect_each_step_to_be_felt(false); }
TEST(Programs, HaveNoStepThatCouldBeAByteShorter) { expect_each_step_to_be_felt(true); }

TEST(Programs, FindAByteThatArrivesFlipped) {
  const planned_case of = varied_case(transport::scatter, verification::transfer);
  EXPECT_EQ(faults_of(of), "");
  for (std::size_t i = 0; i < 10; ++i) {
    machine_input input = of.input();
    input.flipped_transfer = i;
    program_machine machine(of.made(), of.program_how(), input);
    EXPECT_NE(machine.run().find("a checksum differs"), std::string::npos) << i;
  }
}

TEST(Programs, ThatReadAgainFindARankThatReadsAnotherCheckpoint) {
  for (const fsdpinit::transport transport : {transport::own_read, transport::none}) {
    const planned_case of = varied_case(transport, verification::reread);
    EXPECT_EQ(faults_of(of), "");
    machine_input input = of.input();
    input.odd_reader = 1;
    program_machine machine(of.made(), of.program_how(), input);
    EXPECT_NE(machine.run().find("holds what no other reads"), std::string::npos) << name(transport);
  }
}

}  // namespace
}  // namespace program_test
