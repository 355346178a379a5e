#include "support/expect_error.hpp"
#include "support/reference_model.hpp"
#include <fsdpinit/core.hpp>

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace partition_test {
namespace {

using namespace fsdpinit;
using namespace fsdpinit::testing_support;

// -- chunks

TEST(Chunk, IsTorchChunkForEveryExtentAndShardCount) {
  for (std::uint64_t extent = 0; extent <= 40; ++extent) {
    for (std::size_t shards = 1; shards <= 9; ++shards) {
      const std::vector<naive_chunk> expected = naive_chunks(extent, shards);
      for (std::size_t r = 0; r < shards; ++r) {
        const chunk got = chunk_of(extent, shards, r);
        EXPECT_EQ(got.offset, expected[r].offset) << extent << " over " << shards << ", rank " << r;
        EXPECT_EQ(got.length, expected[r].length) << extent << " over " << shards << ", rank " << r;
      }
    }
  }
}

TEST(Chunk, DoesNotOverflow) {
  constexpr std::uint64_t most = std::numeric_limits<std::uint64_t>::max();
  EXPECT_EQ(chunk_of(most, 3, 0), (chunk{.offset = 0, .length = most / 3}));
  EXPECT_EQ(chunk_of(most, 2, 1), (chunk{.offset = std::uint64_t{1} << 63U, .length = (std::uint64_t{1} << 63U) - 1}));
  EXPECT_EQ(chunk_of(most, most, most - 1), (chunk{.offset = most - 1, .length = 1}));
  EXPECT_EQ(chunk_of(5, most, most - 1), (chunk{.offset = 5, .length = 0}));
}

// -- worked cases

std::string rows_per_rank(const shape& extents, placement how, std::size_t shards) {
  static_cast<void>(partition::make("w", dtype::f32, extents, how, shards));
  const std::size_t dim = sharded_dim("w", extents, how);
  std::string out;
  for (std::size_t r = 0; r < shards; ++r) {
    const shard_view part = view_of_shard("w", extents, how, shards, r);
    out += concat(r == 0 ? "" : " ", part.shape[dim], "@", part.offset);
    for (std::size_t d = 0; d < extents.rank(); ++d) {
      if (d != dim) {
        EXPECT_EQ(part.shape[d], extents[d]);  // an empty shard keeps its other dims
      }
    }
  }
  return out;
}

TEST(WorkedCases, AreAsFsdp2HasThem) {
  EXPECT_EQ(rows_per_rank({8, 5}, shard{0}, 4), "2@0 2@2 2@4 2@6");
  EXPECT_EQ(rows_per_rank({7, 3}, shard{0}, 4), "2@0 2@2 2@4 1@6");
  EXPECT_EQ(rows_per_rank({5, 8}, shard{0}, 4), "2@0 2@2 1@4 0@5");
  EXPECT_EQ(rows_per_rank({6}, shard{0}, 4), "2@0 2@2 2@4 0@6");
  EXPECT_EQ(rows_per_rank({17, 16}, shard{0}, 8), "3@0 3@3 3@6 3@9 3@12 2@15 0@17 0@17");
  EXPECT_EQ(rows_per_rank({16, 16}, shard{-1}, 8), "2@0 2@2 2@4 2@6 2@8 2@10 2@12 2@14");
  EXPECT_EQ(rows_per_rank({10, 4}, shard{0}, 4), "3@0 3@3 3@6 1@9");
  EXPECT_EQ(rows_per_rank({10000, 300}, shard{0}, 4), "2500@0 2500@2500 2500@5000 2500@7500");
  EXPECT_EQ(view_of_shard("w", {5, 8}, shard{0}, 4, 3), (shard_view{.shape = {0, 8}, .offset = 5}));
}

template <class Fn>
void expect_rejected(std::string_view what, Fn call) {
  const auto caught = thrown_by(call);
  ASSERT_TRUE(caught.has_value());
  EXPECT_EQ(caught->code(), errc::invalid_placement);
  EXPECT_EQ(std::string_view(caught->what()), what);
}

TEST(WorkedCases, ThatCannotBeShardedSayWhyAndWhatToDo) {
  const auto make = [](shape extents, placement how, std::size_t shards, dtype type = dtype::f32) {
    return [=] { static_cast<void>(partition::make("layers.3.mlp.up.weight", type, extents, how, shards)); };
  };
  expect_rejected(
      "layers.3.mlp.up.weight: cannot shard dim 1 of [8, 17] evenly over 8 ranks; use shard{0} or pad the dimension",
      make({8, 17}, shard{1}, 8));
  expect_rejected(
      "layers.3.mlp.up.weight: cannot shard dim 1 of [8, 17] evenly over 8 ranks; use shard{0} or pad the dimension",
      make({8, 17}, shard{-1}, 8));
  for (const std::size_t shards : {1U, 4U}) {
    expect_rejected(
        "layers.3.mlp.up.weight: cannot shard a 0-dim tensor; make it 1-D, replicate it, or leave it out of sharding",
        make({}, shard{0}, shards));
    expect_rejected("layers.3.mlp.up.weight: dim 2 is out of range for [8, 17]; use a dim in [-2, 1]",
                    make({8, 17}, shard{2}, shards));
    expect_rejected("layers.3.mlp.up.weight: dim -3 is out of range for [8, 17]; use a dim in [-2, 1]",
                    make({8, 17}, shard{-3}, shards));
  }
  expect_rejected(
      "layers.3.mlp.up.weight: cannot shard dim 0 of [6, 3] F4: one row is 12 bits, not whole bytes; shard another "
      "dimension, or replicate it",
      make({6, 3}, shard{0}, 2, dtype::f4));
}

TEST(Partition, SubByteRowsOfWholeBytesAreSharded) {
  const partition made = partition::make("w", dtype::f6_e3m2, {5, 4}, shard{0}, 2);
  EXPECT_EQ(made.bytes(), 15U);
  EXPECT_EQ(made.local_bytes(0), 9U);
  EXPECT_EQ(made.local_bytes(1), 6U);
  // On one rank nothing is cut, so rows need not be whole bytes.
  EXPECT_EQ(partition::make("w", dtype::f4, {6, 3}, shard{0}, 1).local_bytes(0), 9U);
}

TEST(Partition, ReplicatedEmptyAndLoneTensorsAreWhole) {
  for (const partition& made :
       {partition::make("w", dtype::f32, {6, 3}, replicate{}, 4), partition::make("w", dtype::f32, {}, replicate{}, 4),
        partition::make("w", dtype::f32, {0, 3}, shard{0}, 4), partition::make("w", dtype::f32, {6, 0}, shard{0}, 4),
        partition::make("w", dtype::f32, {6, 3}, shard{1}, 1)}) {
    EXPECT_TRUE(made.is_whole());
    EXPECT_TRUE(made.is_contiguous());
    for (std::size_t r = 0; r < 4; ++r) {
      EXPECT_EQ(made.local_bytes(r), made.bytes());
    }
    EXPECT_EQ(made.reserved_bytes(), made.bytes());
  }
}

TEST(Partition, EveryRankReservesTheLargestShard) {
  const partition made = partition::make("w", dtype::u8, {17, 2}, shard{0}, 8);
  EXPECT_EQ(made.reserved_bytes(), 6U);
  EXPECT_EQ(made.local_bytes(5), 4U);
  EXPECT_EQ(made.local_bytes(7), 0U);
}

/// Global bytes of each local byte of a rank's shard, found by slicing a tensor of byte numbers.
std::vector<std::uint64_t> naive_positions(const shape& extents, std::size_t element, std::size_t dim,
                                           std::size_t shards, std::size_t rank) {
  const naive_chunk mine = naive_chunks(extents[dim], shards)[rank];
  std::uint64_t elements = 1;
  std::uint64_t below = 1;
  for (std::size_t d = 0; d < extents.rank(); ++d) {
    elements *= extents[d];
    below *= d > dim ? extents[d] : 1;
  }
  std::vector<std::uint64_t> out;
  for (std::uint64_t byte = 0; byte < elements * element; ++byte) {
    const std::uint64_t index = byte / element / below % extents[dim];
    if (index >= mine.offset && index < mine.offset + mine.length) {
      out.push_back(byte);
    }
  }
  return out;
}

TEST(Region, PiecesAreThoseOfNaiveSlicingForEveryWindow) {
  const std::vector<std::pair<shape, std::size_t>> cases{{{7}, 0},       {{5, 3}, 0},    {{3, 4}, 1}, {{2, 6, 2}, 1},
                                                         {{2, 2, 4}, 2}, {{1, 4, 1}, 1}, {{9, 1}, 0}};
  for (const auto& [extents, dim] : cases) {
    for (std::size_t shards = 2; shards <= 4; ++shards) {
      if (dim != 0 && extents[dim] % shards != 0) {
        continue;
      }
      const partition made = partition::make("w", dtype::u16, extents, shard{static_cast<std::int64_t>(dim)}, shards);
      for (std::size_t rank = 0; rank < shards; ++rank) {
        const std::vector<std::uint64_t> positions = naive_positions(extents, 2, dim, shards, rank);
        const byte_region region = made.region(rank);
        ASSERT_EQ(region.bytes(), positions.size());
        for (std::uint64_t begin = 0; begin <= positions.size(); ++begin) {
          for (std::uint64_t end = begin; end <= positions.size(); ++end) {
            std::uint64_t next = begin;
            for_each_run(region, begin, end, [&](std::uint64_t global, std::uint64_t local, std::uint64_t length) {
              ASSERT_EQ(local, next);
              ASSERT_GT(length, 0U);
              for (std::uint64_t i = 0; i < length; ++i, ++next) {
                ASSERT_EQ(positions[next], global + i);
              }
            });
            ASSERT_EQ(next, end);
          }
        }
        for (std::uint64_t begin = 0; begin <= made.bytes(); ++begin) {
          for (std::uint64_t end = begin; end <= made.bytes(); ++end) {
            std::vector<std::uint64_t> wanted;
            for (std::uint64_t local = 0; local < positions.size(); ++local) {
              if (positions[local] >= begin && positions[local] < end) {
                wanted.push_back(local);
              }
            }
            std::vector<std::uint64_t> got;
            int calls = 0;
            for_each_overlap(region, begin, end,
                             [&](std::uint64_t global, std::uint64_t local, std::uint64_t run, std::uint64_t count) {
                               ++calls;
                               for (std::uint64_t i = 0; i < run * count; ++i) {
                                 got.push_back(local + i);
                                 ASSERT_EQ(positions[local + i], global + i / run * region.stride + i % run);
                               }
                             });
            ASSERT_EQ(got, wanted) << to_string(extents) << " dim " << dim << " rank " << rank << " of " << shards
                                   << " [" << begin << ", " << end << ")";
            ASSERT_LE(calls, 3);
          }
        }
      }
    }
  }
}

TEST(Placement, IsPrintedAsItIsWritten) {
  EXPECT_EQ(to_string(placement(shard{0})), "shard{0}");
  EXPECT_EQ(to_string(placement(shard{-1})), "shard{-1}");
  EXPECT_EQ(to_string(placement(replicate{})), "replicate");
  EXPECT_EQ(placement(), placement(shard{0}));
  EXPECT_NE(placement(shard{0}), placement(replicate{}));
}

}  // namespace
}  // namespace partition_test
