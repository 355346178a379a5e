#include "support/cluster_plans.hpp"
#include "support/expect_error.hpp"
#include "support/reference_model.hpp"
#include <fsdpinit/core.hpp>
#include <fsdpinit/cost/rank_classes.hpp>
#include <fsdpinit/modules/units.hpp>
#include <fsdpinit/plan/program_regions.hpp>

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace plan_test {
namespace {

using namespace fsdpinit;
using namespace fsdpinit::testing_support;

// -- slabs

TEST(Slabs, HoldShardedTensorsBeforeWholeOnesInRequestOrder) {
  const slabs_layout layout = lay_out_slabs({{.fqn = "whole", .shape = {3}, .placement = replicate{}, .unit = 5},
                                             {.fqn = "first", .shape = {8}, .unit = 5},
                                             {.fqn = "elsewhere", .shape = {8}, .unit = 2},
                                             {.fqn = "second", .shape = {9}, .unit = 5}},
                                            {.shards = 4});
  ASSERT_EQ(layout.slabs.size(), 2U);
  EXPECT_EQ(layout.slabs[0].unit, 5U);
  EXPECT_EQ(layout.slabs[1].unit, 2U);
  std::vector<std::size_t> order;
  for (const planned_tensor& tensor : layout.tensors) {
    order.push_back(tensor.request);
  }
  EXPECT_EQ(order, (std::vector<std::size_t>{1, 3, 0, 2}));
}

TEST(Slabs, AlignTensorsAndReserveTheLargestShard) {
  const slabs_layout layout = lay_out_slabs({{.fqn = "a", .dtype = dtype::u8, .shape = {10}},
                                             {.fqn = "b", .dtype = dtype::u8, .shape = {1030}},
                                             {.fqn = "c", .dtype = dtype::u8, .shape = {7}, .placement = replicate{}}},
                                            {.shards = 4});
  EXPECT_EQ(layout.tensors[0].offset, 0U);    // 3 bytes
  EXPECT_EQ(layout.tensors[1].offset, 256U);  // 258 bytes
  EXPECT_EQ(layout.tensors[2].offset, 768U);
  EXPECT_EQ(layout.slabs[0].bytes, 775U);
}

TEST(Slabs, OfNothingAreNone) {
  EXPECT_TRUE(lay_out_slabs({}, {.shards = 3}).slabs.empty());
  const slabs_layout empty = lay_out_slabs({{.fqn = "a", .shape = {0, 3}}}, {.shards = 3});
  ASSERT_EQ(empty.slabs.size(), 1U);
  EXPECT_EQ(empty.slabs[0].bytes, 0U);
}

/// Each of their sizes fits into 64 bits.
std::vector<tensor_request> huge_tensors(std::size_t count) {
  return {count, {.fqn = "huge", .dtype = dtype::u8, .shape = {(std::uint64_t{1} << 61U) - 256}}};
}

TEST(Slabs, WhoseSizesAddUpToMoreThan64BitsAreAnErrorThatNamesTheTensor) {
  std::vector<tensor_request> requests = huge_tensors(8);
  requests.push_back({.fqn = "small", .dtype = dtype::u8, .shape = {4096}});
  expect_error(errc::invalid_argument, "huge",
               "its 2305843009213693696 bytes and those of the tensors before it add up to more than 64 bits",
               [&] { static_cast<void>(lay_out_slabs(requests, {})); });
}

TEST(Slabs, WhoseTrafficOfAllRanksIsMoreThan64BitsAreAnErrorToo) {
  const std::vector<tensor_request> requests{{.fqn = "w", .dtype = dtype::u8, .shape = {std::uint64_t{1} << 50U}}};
  static_cast<void>(lay_out_slabs(requests, {.shards = 1024}));
  expect_error(errc::invalid_argument, "w", "more than 64 bits can count of what all ranks move",
               [&] { static_cast<void>(lay_out_slabs(requests, {.shards = 2048})); });
  std::vector<tensor_request> stored_often = requests;
  stored_often.front().extra_copies = 3;
  expect_error(errc::invalid_argument, "w", "more than 64 bits can count of what all ranks move",
               [&] { static_cast<void>(lay_out_slabs(stored_often, {.shards = 1024})); });
}

// -- schedule

TEST(Schedule, CarriesEveryByteOnceInOrderWithinTheBound) {
  const reference_model model = varied_model();
  for (const fsdpinit::transport transport : {transport::scatter, transport::broadcast, transport::none}) {
    for (const std::size_t shards : {1U, 2U, 3U, 7U}) {
      for (const std::uint64_t bound : {std::uint64_t{7}, std::uint64_t{100}, std::uint64_t{4096}, 4 * mib}) {
        SCOPED_TRACE(concat(name(transport), " over ", shards, " in buckets of ", bound));
        const plan made = make_plan(requests_of(model, 3),
                                    {.ranks = {.shards = shards}, .transport = transport, .bucket_bytes = bound});
        std::vector<std::uint64_t> done(made.tensors.size(), 0);
        bool broadcasts_began = false;
        std::size_t previous = 0;
        for (const bucket& which : made.schedule) {
          const bool scatters = which.route == route::scatter;
          EXPECT_LE(scatters ? which.bytes * shards : which.bytes, bound);
          EXPECT_FALSE(scatters && broadcasts_began) << "scatter buckets come first";
          if (!scatters && !broadcasts_began) {
            broadcasts_began = true;
            previous = 0;
          }
          std::uint64_t bytes = 0;
          for (const segment& part : made.schedule.segments(which)) {
            EXPECT_GE(part.tensor, previous) << "tensors travel in the order in which they lie";
            previous = part.tensor;
            EXPECT_EQ(part.begin, done[part.tensor]);
            EXPECT_LT(part.begin, part.end);
            done[part.tensor] = part.end;
            bytes += part.end - part.begin;
          }
          EXPECT_EQ(bytes, which.bytes);
        }
        for (std::size_t i = 0; i < made.tensors.size(); ++i) {
          const planned_tensor& tensor = made.tensors[i];
          const bool travels = transport != transport::none || tensor.from_buffer;
          const bool scattered = transport == transport::scatter && !tensor.partition.is_whole();
          EXPECT_EQ(done[i], !travels ? 0 : scattered ? tensor.partition.reserved_bytes() : tensor.partition.bytes());
        }
      }
    }
  }
}

TEST(Schedule, FillsBucketsBeforeItOpensNewOnes) {
  const plan made =
      make_plan({{.fqn = "a", .dtype = dtype::u8, .shape = {1000}}, {.fqn = "b", .dtype = dtype::u8, .shape = {1000}}},
                {.ranks = {.shards = 2}, .transport = transport::broadcast, .bucket_bytes = 600});
  ASSERT_EQ(made.schedule.size(), 4U);
  EXPECT_EQ(made.schedule[1].bytes, 600U);
  EXPECT_EQ(made.schedule[1].last - made.schedule[1].first, 2U);
  EXPECT_EQ(made.schedule[3].bytes, 200U);
}

TEST(Schedule, ScatterWindowsAreAlignedWhereTheyAreLarge) {
  EXPECT_EQ(scatter_window(4 * mib, 4), mib);
  EXPECT_EQ(scatter_window(4 * mib, 7), align_down(4 * mib / 7, 256));
  EXPECT_EQ(scatter_window(100, 7), 14U);
}

TEST(Schedule, ABucketNeedsAByteForEachRank) {
  expect_error(errc::invalid_argument, "bucket_bytes", "3 is too small for 4 shards; use at least 4",
               [] { static_cast<void>(make_plan({}, {.ranks = {.shards = 4}, .bucket_bytes = 3})); });
}

// -- advice

TEST(Advice, PointsOutBucketsThatCarryLittleAndAreMany) {
  const auto advice = [](std::size_t shards, std::uint64_t bucket_bytes, std::uint64_t model_bytes,
                         fsdpinit::transport transport = fsdpinit::transport::scatter) {
    return advice_on(make_plan({{.fqn = "w", .dtype = dtype::u8, .shape = {model_bytes}}},
                               {.ranks = {.shards = shards}, .transport = transport, .bucket_bytes = bucket_bytes}));
  };
  const auto given = advice(2, 4 * kib, 64 * mib);
  ASSERT_EQ(given.size(), 1U);
  EXPECT_EQ(given.front(),
            "16384 buckets carry 2048 bytes to a rank on average, so that messages cost more than what they carry; set "
            "bucket_bytes, 4096, to 4194304 or more");
  EXPECT_NE(advice(1024, 4 * mib, 16 * gib).front().find("to 16777216 or more"), std::string::npos);
  EXPECT_TRUE(advice(2, 4 * mib, 64 * gib).empty()) << "as by default";
  EXPECT_TRUE(advice(2, 4 * kib, mib).empty()) << "few buckets cost little";
  EXPECT_TRUE(advice(1, 4 * kib, 64 * mib).empty()) << "there is nobody to send to";
  EXPECT_TRUE(advice(2, 4 * kib, 64 * mib, transport::own_read).empty()) << "nothing is sent";
}

// -- prediction

TEST(Plan, OfAHugeTensorIsNoLargerThanThatOfASmallOne) {
  const std::uint64_t bytes = std::uint64_t{1} << 48U;
  const plan made = make_plan({{.fqn = "w", .dtype = dtype::u8, .shape = {bytes}}},
                              {.ranks = {.shards = 16}, .bucket_bytes = 16 * 256});
  EXPECT_EQ(made.schedule.size(), bytes / 4096);
  EXPECT_EQ(made.schedule.runs().size(), 1U);
  const bucket last = made.schedule[made.schedule.size() - 1];
  EXPECT_EQ(made.schedule.segments(last).front().end, bytes / 16);
  EXPECT_EQ(predict(made, 0).bytes_sent, bytes / 16 * 15);
  EXPECT_EQ(predict(made, 1).bytes_received, bytes / 16);
}

TEST(Prediction, OfTheLargestModelThatCanBeLaidOutDoesNotOverflow) {
  for (const fsdpinit::transport transport : {transport::scatter, transport::broadcast, transport::none}) {
    const std::uint64_t bytes = std::uint64_t{1} << 54U;
    const plan made =
        make_plan({{.fqn = "w", .dtype = dtype::u8, .shape = {bytes}, .extra_copies = 1}},
                  {.ranks = {.shards = 16, .replicas = 2}, .transport = transport, .bucket_bytes = bytes});
    std::uint64_t read = 0;
    for (const prediction& each : predict_every_rank(made)) {
      EXPECT_GE(each.peak_bytes(), each.slab_bytes);
      EXPECT_LT(each.peak_bytes(), std::uint64_t{1} << 60U);
      read += each.bytes_read;
    }
    EXPECT_EQ(read, transport == transport::none ? 64 * bytes : 2 * bytes);
  }
}

TEST(Prediction, WhatIsSentIsReceived) {
  const reference_model model = varied_model();
  for (const fsdpinit::transport transport : {transport::scatter, transport::broadcast, transport::none}) {
    for (const std::size_t shards : {1U, 2U, 3U, 4U, 7U}) {
      for (std::size_t source = 0; source < shards; ++source) {
        const plan made = make_plan(requests_of(model, 3), {.ranks = {.shards = shards},
                                                            .source_ranks = {.source_rank = source},
                                                            .transport = transport,
                                                            .bucket_bytes = 300});
        std::uint64_t sent = 0;
        std::uint64_t received = 0;
        for (std::size_t rank = 0; rank < shards; ++rank) {
          const prediction each = predict(made, rank);
          sent += each.bytes_sent;
          received += each.bytes_received;
          EXPECT_TRUE(rank == source || each.bytes_sent == 0);
          EXPECT_TRUE(rank != source || each.bytes_received == 0);
          EXPECT_EQ(each.slab_bytes, predict(made, 0).slab_bytes) << "slabs are the same on every rank";
        }
        EXPECT_EQ(sent, received);
      }
    }
  }
}

/// One sharded tensor of 8,000 bytes and one replicated of 100, over 4 ranks, rank 0 the source.
prediction predicted(fsdpinit::transport transport, std::size_t rank, slab_access access = {}) {
  return predict(make_plan({{.fqn = "w", .dtype = dtype::u8, .shape = {8000}},
                            {.fqn = "p", .dtype = dtype::u8, .shape = {100}, .placement = replicate{}}},
                           {.ranks = {.shards = 4},
                            .transport = transport,
                            .bucket_bytes = 1024,
                            .buckets_in_flight = 2,
                            .access = access}),
                 rank);
}

TEST(Prediction, OfBroadcastIsTheTableOfTheDesign) {
  const prediction source = predicted(transport::broadcast, 0);
  EXPECT_EQ(source.bytes_read, 8100U);
  EXPECT_EQ(source.bytes_sent, 3U * 8100);
  const prediction other = predicted(transport::broadcast, 1);
  EXPECT_EQ(other.bytes_read, 0U);
  EXPECT_EQ(other.bytes_received, 8100U);
  for (const prediction& each : {source, other}) {
    EXPECT_EQ(each.shard_bytes, 2100U);
    EXPECT_EQ(each.slab_bytes, 2048U + 100);
    EXPECT_EQ(each.staging_bytes(), 2U * 1024);
  }
}

TEST(Prediction, OfScatterIsTheTableOfTheDesign) {
  const prediction source = predicted(transport::scatter, 0);
  EXPECT_EQ(source.bytes_read, 8100U);
  EXPECT_EQ(source.bytes_sent, 3U * 2000 + 3 * 100);
  EXPECT_EQ(source.staging_bytes(), 2U * 3 * 256) << "its own window is read in place";
  const prediction other = predicted(transport::scatter, 3);
  EXPECT_EQ(other.bytes_received, 2100U);
  EXPECT_EQ(other.staging_bytes(), 0U) << "received in place";
}

TEST(Prediction, OfScatterCountsTheStagingCopyWhereTheCommunicatorCannotReachTheSlabs) {
  const slab_access none{.host = false, .communicator = false};
  EXPECT_EQ(predicted(transport::scatter, 0, none).staging_bytes(), 2U * 1024);
  EXPECT_EQ(predicted(transport::scatter, 3, none).staging_bytes(), 2U * 256);
}

TEST(Prediction, OfEveryRankLoadingIsTheWholeModelOnEachRank) {
  for (std::size_t rank = 0; rank < 4; ++rank) {
    const prediction each = predicted(transport::none, rank);
    EXPECT_EQ(each.bytes_read, 8100U);
    EXPECT_EQ(each.bytes_sent + each.bytes_received, 0U);
    EXPECT_EQ(each.full_copy_bytes, 8100U);
    EXPECT_EQ(each.peak_bytes(), 8100U + 2148);
  }
}

TEST(Prediction, ExtraCopiesOfATieAreReadButNotSent) {
  const plan made = make_plan({{.fqn = "w", .dtype = dtype::u8, .shape = {1000}, .extra_copies = 2}},
                              {.ranks = {.shards = 4}, .bucket_bytes = 1024});
  EXPECT_EQ(predict(made, 0).bytes_read, 3000U);
  EXPECT_EQ(predict(made, 0).bytes_sent, 750U);
  EXPECT_EQ(predict(made, 0).scratch_bytes, 1024U);
  EXPECT_EQ(predict(made, 1).scratch_bytes, 0U);
}

TEST(Prediction, NonPersistentBuffersAreSentButNotRead) {
  const plan made =
      make_plan({{.fqn = "b", .dtype = dtype::u8, .shape = {100}, .placement = replicate{}, .from_buffer = true}},
                {.ranks = {.shards = 4}, .transport = transport::none});
  EXPECT_EQ(predict(made, 0).bytes_read, 0U);
  EXPECT_EQ(predict(made, 0).bytes_sent, 300U);
  EXPECT_EQ(predict(made, 2).bytes_received, 100U);
}

TEST(Prediction, MemoryInWhichTensorsAreMadeIsThatOfRanksThatRead) {
  const auto made_in = [](fsdpinit::transport transport, std::size_t rank) {
    const plan made = make_plan({{.fqn = "a", .dtype = dtype::u8, .shape = {100}, .tile_bytes = 1000}},
                                {.ranks = {.shards = 4}, .transport = transport});
    return predict(made, rank).scratch_bytes;
  };
  EXPECT_EQ(made_in(transport::scatter, 0), 1000U);
  EXPECT_EQ(made_in(transport::scatter, 3), 0U);
  EXPECT_EQ(made_in(transport::broadcast, 3), 0U);
  EXPECT_EQ(made_in(transport::own_read, 3), 1000U + scratch_bound);
  EXPECT_EQ(made_in(transport::none, 3), 1000U);
}

// -- units

/// `name:unit` of each FQN.
std::string units_of(const std::vector<std::string_view>& fqns) {
  const unit_assignment units = default_units(fqns);
  EXPECT_EQ(units.names[0], "");
  std::string out;
  for (std::size_t i = 0; i < fqns.size(); ++i) {
    out += concat(i == 0 ? "" : " ", fqns[i], "=", units.names[units.unit_of[i]]);
  }
  return out;
}

TEST(Units, EachLayerIsOneAndTheRestIsTheRoot) {
  EXPECT_EQ(units_of({"embed", "layers.0.q", "layers.0.k", "layers.1.q", "layers.1.k", "norm"}),
            "embed= layers.0.q=layers.0 layers.0.k=layers.0 layers.1.q=layers.1 layers.1.k=layers.1 norm=");
}

TEST(Units, AreFoundUnderAPrefix) {
  EXPECT_EQ(units_of({"model.embed", "model.layers.0.q", "model.layers.1.q", "head"}),
            "model.embed= model.layers.0.q=model.layers.0 model.layers.1.q=model.layers.1 head=");
}

TEST(Units, LayersWinOverTheExpertsInThem) {
  EXPECT_EQ(units_of({"layers.0.experts.0.up", "layers.0.experts.1.up", "layers.0.experts.2.up",
                      "layers.1.experts.0.up", "layers.1.experts.1.up", "layers.1.experts.2.up"}),
            "layers.0.experts.0.up=layers.0 layers.0.experts.1.up=layers.0 layers.0.experts.2.up=layers.0 "
            "layers.1.experts.0.up=layers.1 layers.1.experts.1.up=layers.1 layers.1.experts.2.up=layers.1");
}

TEST(Units, AFirstLayerOfAnotherKindIsAUnitToo) {
  EXPECT_EQ(units_of({"layers.0.dense", "layers.1.experts.0", "layers.1.experts.1", "layers.2.experts.0",
                      "layers.2.experts.1"}),
            "layers.0.dense=layers.0 layers.1.experts.0=layers.1 layers.1.experts.1=layers.1 "
            "layers.2.experts.0=layers.2 layers.2.experts.1=layers.2");
}

TEST(Units, ASingleChildMakesNone) { EXPECT_EQ(units_of({"embed", "layers.0.q", "norm"}), "embed= layers.0.q= norm="); }

TEST(Units, TheLargerOfTwoStacksWins) {
  EXPECT_EQ(units_of({"encoder.0.q", "encoder.1.q", "decoder.0.q", "decoder.0.k", "decoder.1.q", "decoder.1.k"}),
            "encoder.0.q= encoder.1.q= decoder.0.q=decoder.0 decoder.0.k=decoder.0 decoder.1.q=decoder.1 "
            "decoder.1.k=decoder.1");
}

TEST(Units, TenComesAfterNine) {
  std::vector<std::string> names;
  for (int i = 0; i < 12; ++i) {
    names.push_back(concat("layers.", i, ".q"));
  }
  const std::vector<std::string_view> fqns(names.begin(), names.end());
  const unit_assignment units = default_units(fqns);
  ASSERT_EQ(units.names.size(), 13U);
  for (std::size_t i = 0; i < 12; ++i) {
    EXPECT_EQ(units.names[units.unit_of[i]], concat("layers.", i));
  }
}

TEST(Units, NumbersThatAreNoIndicesDoNoHarm) {
  EXPECT_EQ(units_of({"a.99999999999999999999999.b", "a..b", ".", "", "0", "1"}),
            "a.99999999999999999999999.b= a..b= .= = 0=0 1=1");
  EXPECT_EQ(units_of({}), "");
}

}  // namespace
}  // namespace plan_test
