#include <fsdpinit/core.hpp>
#include <fsdpinit/observe/program_text.hpp>
#include <fsdpinit/plan/program.hpp>
#include <fsdpinit/plan/program_summary.hpp>

#include <gtest/gtest.h>

#include <cstddef>
#include <string>
#include <vector>

namespace program_text_test {
namespace {

using namespace fsdpinit;

std::string text_of(const plan& made, std::size_t rank) {
  program of = program_of(made, rank);
  return to_text(summary_of(of), [](std::size_t tensor) { return concat("w", tensor); });
}

TEST(program_text, tells_what_is_read_where_sent_to_whom_and_placed_where) {
  const std::vector<tensor_request> requests{{.fqn = "w0", .dtype = dtype::u8, .shape = {16}},
                                             {.fqn = "w1", .dtype = dtype::u8, .shape = {4}, .placement = replicate{}}};
  const plan made =
      make_plan(requests, {.ranks = {.shards = 2, .replicas = 2}, .bucket_bytes = 8, .verify = verification::transfer});
  EXPECT_EQ(text_of(made, 0), R"(rank 0: 5 rounds
memory: slab of 260 B, 2 x slot of 8 B, 2 x checksums of 24 B

round 0: bucket
  begin    read      8 B of w0 -> slot 0, 2 requests
           hash      8 B of slot 0
           scatter   4 B of slot 0 to rank 1
           broadcast 24 B of checksums 0 to ranks 1-3
           place     4 B of w0: slot -> slab 0
  pass-on  broadcast 4 B of slot 0 to rank 2
  end      hash      4 B of slab 0
           check-sum 1 of rank 0

round 1: as round 0; 8 B read, 8 B sent

rounds 2-3: bucket
  begin    read      4 B of w1 -> slab 0, 1 request
           release   w1
           hash      4 B of slab 0
           broadcast 4 B of slab 0 to ranks 1-3
           broadcast 24 B of checksums 0 to ranks 1-3
  end      check-sum 2 of rank 0
           hash      4 B of slab 0
           agree

round 4: finish
           agree
)");
  EXPECT_EQ(text_of(made, 3), R"(rank 3: 5 rounds
memory: slab of 260 B, 2 x checksums of 24 B

round 0: bucket
  begin    scatter   to nobody
           broadcast 24 B from rank 0 -> checksums 0
  pass-on  broadcast 4 B from rank 1 -> slab 0
  end      hash      4 B of slab 0
           check-sum 1 of rank 0

round 1: as round 0; 4 B received

rounds 2-3: bucket
  begin    broadcast 4 B from rank 0 -> slab 0
           broadcast 24 B from rank 0 -> checksums 0
  end      check-sum 2 of rank 0
           hash      4 B of slab 0
           agree

round 4: finish
           agree
)");
}

TEST(program_text, shortens_lists_of_ranks) {
  EXPECT_EQ(detail::ranks_text(std::vector<std::size_t>{4}), "rank 4");
  EXPECT_EQ(detail::ranks_text(std::vector<std::size_t>{0, 1, 2, 5, 7, 8}), "ranks 0-2, 5, 7-8");
}

TEST(program_text, counts_rounds_that_are_done_again) {
  EXPECT_EQ(detail::repeated_text(std::vector<repeated_round>{{.round = 4, .times = 9}}), "round 4");
  EXPECT_EQ(detail::repeated_text(std::vector<repeated_round>{{.round = 4, .times = 9}, {.round = 6, .times = 1}}),
            "rounds 4 (9 times) and 6 (1 time)");
}

}  // namespace
}  // namespace program_text_test
