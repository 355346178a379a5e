#include <fsdpinit/core.hpp>
#include <fsdpinit/plan/program.hpp>
#include <fsdpinit/plan/program_summary.hpp>

#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace program_summary_test {
namespace {

using namespace fsdpinit;

plan plan_of_bytes(std::uint64_t bytes, const plan_options& how) {
  return make_plan({{.fqn = "w", .dtype = dtype::u8, .shape = {bytes}}}, how);
}

/// `0-0 bucket`, `1-8 as 0 x8`.
std::vector<std::string> outline_of(const plan& made, std::size_t rank) {
  program of = program_of(made, rank);
  std::vector<std::string> out;
  for (const round_summary& each : summary_of(of).summaries) {
    std::string what = each.as.empty() ? std::string(name(each.kind)) : "as";
    for (const repeated_round& as : each.as) {
      what += concat(" ", as.round, " x", as.times);
    }
    out.push_back(concat(each.first, "-", each.last, " ", what));
  }
  return out;
}

using lines = std::vector<std::string>;

TEST(ProgramSummary, TellsRoundsThatDoAlikeOnce) {
  const plan made = plan_of_bytes(1000, {.ranks = {.shards = 4}, .bucket_bytes = 40});
  EXPECT_EQ(outline_of(made, 0), (lines{"0-0 bucket", "1-25 as 0 x24", "26-26 finish"}));
  EXPECT_EQ(outline_of(made, 3), (lines{"0-0 bucket", "1-25 as 0 x24", "26-26 finish"}));
}

TEST(ProgramSummary, CountsWhatIsDoneInTurn) {
  const plan made =
      plan_of_bytes(400, {.ranks = {.shards = 2, .replicas = 3}, .transport = transport::own_read, .bucket_bytes = 20});
  EXPECT_EQ(outline_of(made, 0),
            (lines{"0-0 bucket", "1-1 bucket", "2-2 bucket", "3-10 as 0 x3 1 x2 2 x2", "11-11 finish"}));
}

TEST(ProgramSummary, AddsUpWhatIsPredicted) {
  for (const fsdpinit::transport transport :
       {transport::scatter, transport::broadcast, transport::own_read, transport::none}) {
    const plan made = plan_of_bytes(1000, {.ranks = {.shards = 2, .replicas = 2},
                                           .transport = transport,
                                           .bucket_bytes = 30,
                                           .verify = verification::transfer});
    for (std::size_t rank = 0; rank < 4; ++rank) {
      program of = program_of(made, rank);
      const prediction predicted = predict(made, rank);
      round_summary all;
      std::size_t next = 0;
      const program_summary summary = summary_of(of);
      for (const round_summary& each : summary.summaries) {
        EXPECT_EQ(each.first, next);
        next = each.last + 1;
        all.read += each.read;
        all.sent += each.sent;
        all.received += each.received;
      }
      EXPECT_EQ(next, summary.rounds);
      EXPECT_EQ(all.read, predicted.bytes_read) << name(transport) << rank;
      EXPECT_EQ(all.sent, predicted.bytes_sent) << name(transport) << rank;
      EXPECT_EQ(all.received, predicted.bytes_received) << name(transport) << rank;
    }
  }
}

TEST(ProgramSummary, NamesThoseWhoGetWhatARootSends) {
  const plan made = plan_of_bytes(8, {.ranks = {.shards = 4}, .bucket_bytes = 8});
  program of = program_of(made, 0);
  const std::vector<step_summary> steps = summary_of(of).summaries.front().steps;
  const auto sends = std::find_if(steps.begin(), steps.end(),
                                  [](const step_summary& each) { return each.kind == step_kind::scatter; });
  ASSERT_NE(sends, steps.end());
  EXPECT_EQ(sends->ranks, (std::vector<std::size_t>{1, 2, 3}));
  EXPECT_EQ(sends->bytes, 6U);
}

}  // namespace
}  // namespace program_summary_test
