#include "plan/expected_prediction.hpp"
#include "support/cluster_plans.hpp"
#include <fsdpinit/core.hpp>
#include <fsdpinit/cost/cluster_groups.hpp>
#include <fsdpinit/cost/rank_work.hpp>
#include <fsdpinit/plan/program.hpp>

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <vector>

namespace rank_work_test {
namespace {

using namespace fsdpinit;
using namespace fsdpinit::testing_support;
using detail::amount;
using detail::flow;

constexpr std::size_t no_step = ~std::size_t{0};

/// All that a rank does, without the step of that number among those that are priced.
struct total {
  std::uint64_t read = 0;
  std::uint64_t received = 0;
  std::uint64_t sent = 0;  // of windows
  std::uint64_t placed = 0;
  std::uint64_t reads = 0;
  std::uint64_t copied = 0;
  std::uint64_t fetched = 0;
  friend bool operator==(const total&, const total&) = default;
};

total total_of(const plan& made, std::size_t rank, std::size_t left_out = no_step, std::size_t* priced = nullptr) {
  total out;
  program of = program_of(made, rank).coarse();
  std::size_t number = 0;
  for_each_round(of, [&](const program_round& round) {
    detail::work_adder sum(rank);
    for (const round_phase phase : {round_phase::begin, round_phase::pass_on, round_phase::end}) {
      of.for_each_step(round, phase, [&](const program_step& step) {
        const bool counts = step.kind == step_kind::read || step.kind == step_kind::window ||
                            step.kind == step_kind::copy || step.kind == step_kind::fetch ||
                            ((step.kind == step_kind::scatter || step.kind == step_kind::broadcast) &&
                             step.rank != rank && step.to.kind != region_kind::checksums) ||
                            (step.kind == step_kind::place && phase == round_phase::begin);
        if (!counts || step.total() == 0 || number++ != left_out) {
          sum.add(phase, step);
        }
      });
    }
    const detail::work_sums sums = sum.work().sums;
    out.read += sums[amount::read];
    out.reads += sums[amount::reads];
    out.sent += sums[amount::sent_staged];
    out.placed += sums[amount::placed];
    out.copied += sums[amount::copied];
    out.fetched += sums[amount::fetched];
    for (const flow by : {flow::scatter, flow::all, flow::served, flow::replicas, flow::passed_on}) {
      out.received += sums[detail::received_by(by)];
    }
  });
  if (priced != nullptr) {
    *priced = number;
  }
  return out;
}

TEST(RankWork, IsThatOfThePrediction) {
  for_each_plan([](const plan& made, std::size_t) {
    for (std::size_t rank = 0; rank < made.options.ranks.size(); ++rank) {
      const prediction expected = expected_prediction(made, rank);
      const total found = total_of(made, rank);
      EXPECT_EQ(found.received, expected.bytes_received) << rank;
      EXPECT_LE(found.read, expected.bytes_read) << rank << ", with what is read along";
      if (made.options.transport != transport::own_read && made.options.transport != transport::automatic) {
        EXPECT_EQ(found.read, expected.bytes_read) << rank;
      }
    }
  });
}

TEST(RankWork, LacksWhateverStepIsLeftOut) {
  std::size_t left_out = 0;
  for_each_plan([&](plan made, std::size_t nodes) {
    made.options.access.host = nodes == 2;
    if (nodes > 2 || made.options.source_ranks.source_rank != 0) {
      return;
    }
    for (const std::size_t rank : {std::size_t{0}, made.options.ranks.size() - 1}) {
      std::size_t priced = 0;
      const total whole = total_of(made, rank, no_step, &priced);
      for (std::size_t step = 0; step < priced; step += 1 + priced / 8, ++left_out) {
        EXPECT_NE(total_of(made, rank, step), whole) << "rank " << rank << ", step " << step;
      }
    }
  });
  EXPECT_GT(left_out, 500U);
}

TEST(RankWork, OfAClassIsThatOfEachOfItsRanks) {
  std::size_t classes = 0;
  std::size_t compared = 0;
  for_each_plan([&](const plan& made, std::size_t) {
    detail::every_rank_work every(made);
    std::vector<program> own;
    for (std::size_t rank = 0; rank < made.options.ranks.size(); ++rank) {
      own.push_back(program_of(made, rank).coarse());
    }
    for_each_round(own.front(), [&](const program_round& round) {
      every.look_at(round);
      for (std::size_t rank = 0; rank < own.size(); ++rank, ++compared) {
        detail::work_sums expected = detail::work_of(own[rank], round).sums;
        expected[amount::reads] =
            every.of(rank).sums[amount::reads];  // runs of one rank are joined where another's are not
        EXPECT_EQ(every.of(rank).sums, expected) << "round " << round.number << ", rank " << rank;
      }
    });
    classes += every.classes();
    EXPECT_LE(every.classes(), own.size());
  });
  EXPECT_GT(compared, classes * 10);
}

TEST(RankWork, MembersOfGroupsAreThoseOfThePrograms) {
  std::size_t groups = 0;
  for_each_plan([&](const plan& made, std::size_t) {
    const detail::groups_of_ranks members(made.options);
    for (std::size_t rank = 0; rank < made.options.ranks.size(); ++rank) {
      const program of = program_of(made, rank);
      for (const rank_group group : {rank_group::all, rank_group::served, rank_group::scatter, rank_group::replicas}) {
        const detail::group_members found = members(group, rank);
        std::vector<std::size_t> listed;
        for (std::size_t i = 0; i < found.size(); ++i) {
          listed.push_back(found[i]);
          EXPECT_EQ(found.place_of(listed[i]), i);
        }
        std::vector<std::size_t> expected(of.ranks_of(group).begin(), of.ranks_of(group).end());
        for (std::size_t other = 0; of.ranks_of(group).empty() && other < made.options.ranks.size(); ++other) {
          expected.push_back(other);
        }
        EXPECT_EQ(listed, expected) << "group " << static_cast<int>(group) << " of rank " << rank;
        ++groups;
      }
    }
  });
  EXPECT_GT(groups, 1000U);
}

TEST(RankWork, OfABroadcastIsKeptAsItsStepsPlaceIt) {
  std::size_t kept_bytes = 0;
  for_each_plan([&](const plan& made, std::size_t) {
    if (made.options.transport != transport::broadcast) {
      return;
    }
    for (std::size_t rank = 0; rank < made.options.ranks.size(); ++rank) {
      program of = program_of(made, rank);
      detail::kept_of_broadcasts kept(made.options.ranks.shards);
      for_each_round(of, [&](const program_round& round) {
        std::uint64_t placed = 0;
        bool staged = false;
        of.for_each_step(round, [&](const program_step& step) {
          placed += step.kind == step_kind::place ? step.total() : 0;
          staged = staged || step.to.kind == region_kind::slot;
        });
        kept.clear();
        if (staged) {
          kept.add(made, made.schedule[round.part]);
        }
        EXPECT_EQ(kept[made.options.ranks.shard_of(rank)], placed) << "round " << round.number << ", rank " << rank;
        kept_bytes += placed;
      });
    }
  });
  EXPECT_GT(kept_bytes, 0U);
}

}  // namespace
}  // namespace rank_work_test
