#include "support/expect_error.hpp"
#include "support/expect_predicted.hpp"
#include "support/fake_device_memory.hpp"
#include "support/reference_model.hpp"
#include "support/test_checksum.hpp"
#include <fsdpinit/fsdpinit.hpp>
#include <fsdpinit/init/fingerprint.hpp>
#include <fsdpinit/plan/reread_pairs.hpp>
#include <fsdpinit/testing/rank_harness.hpp>

#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

/// \file
/// Ranks that read for themselves read the same checkpoint: evidence before anything changes, and proof by reading again.
/// `changed_checkpoint_test.cpp` has the same of files.

namespace same_checkpoint_test {
namespace {

using namespace fsdpinit;
using namespace fsdpinit::testing_support;
using fsdpinit::detail::data_sample;
using fsdpinit::detail::sample_places;
using fsdpinit::testing::errors_of_ranks;
using fsdpinit::testing::run_ranks;

using own_read = native_sharding<transport::own_read>;
using automatic = native_sharding<transport::automatic>;

/// Shards of both kinds, uneven ones, a whole tensor; large enough that most bytes are in no sample.
reference_model sampled_model() {
  return reference_model({{.fqn = "rows", .type = dtype::u8, .extents = {1001, 50}},
                          {.fqn = "columns", .type = dtype::u8, .extents = {30, 1200}, .how = shard{1}},
                          {.fqn = "whole", .type = dtype::u8, .extents = {20000}, .how = replicate{}}});
}

/// Another copy of a model's checkpoint, in which some bytes differ.
class other_copy {
 public:
  explicit other_copy(const reference_model& model) : model_(model) {}

  other_copy& change(std::string_view fqn, std::uint64_t byte) {
    std::vector<std::byte>& bytes = changed_[std::string(fqn)];
    if (bytes.empty()) {
      bytes = std::find_if(model_.tensors().begin(), model_.tensors().end(), [&](const auto& each) {
                return each.fqn == fqn;
              })->bytes;
    }
    bytes.at(byte) ^= std::byte{1};
    return *this;
  }
  other_copy& change_all(std::string_view fqn) {
    change(fqn, 0).change(fqn, 0);
    for (std::byte& each : changed_[std::string(fqn)]) {
      each ^= std::byte{1};
    }
    return *this;
  }

  [[nodiscard]] in_memory_source source() const {
    const in_memory_source original = model_.source();
    std::vector<in_memory_tensor> tensors;
    for (const tensor_descriptor& each : original.tensors()) {
      const auto known = std::find_if(model_.tensors().begin(), model_.tensors().end(),
                                      [&](const auto& tensor) { return tensor.fqn == each.name; });
      const auto changed = changed_.find(each.name);
      tensors.push_back({each, bytes_view(changed != changed_.end() ? changed->second : known->bytes)});
    }
    return in_memory_source(std::move(tensors));
  }

 private:
  const reference_model& model_;
  std::map<std::string, std::vector<std::byte>> changed_;
};

/// The first byte of a tensor, from `begin` on, that no sample has.
std::uint64_t unsampled(const reference_model& model, std::string_view fqn, std::uint64_t begin) {
  const state_dict_contents contents = fsdpinit::detail::contents_of(model.source());
  std::uint64_t byte = begin;
  for (const data_sample& each : sample_places(contents)) {  // in the order of the data
    if (contents.tensors[each.tensor].name == fqn && each.begin <= byte && byte < each.begin + each.bytes) {
      byte = each.begin + each.bytes;
    }
  }
  return byte;
}

// -- where samples are taken

TEST(Samples, AreAtMost64WithinTheirTensorsAndOneToAStretch) {
  for (const std::uint64_t rows : {1U, 3U, 70U, 1000U, 65537U}) {
    const state_dict_contents contents{.tensors = {{.name = "empty", .dtype = dtype::u8, .shape = {0, 7}},
                                                   {.name = "a", .dtype = dtype::bf16, .shape = {rows, 9}},
                                                   {.name = "b", .dtype = dtype::f32, .shape = {}},
                                                   {.name = "c", .dtype = dtype::u8, .shape = {rows}}}};
    const std::vector<data_sample> places = sample_places(contents);
    const std::uint64_t total = rows * 18 + 4 + rows;
    EXPECT_EQ(places.size(), std::min<std::uint64_t>(64, (total + 31) / 32));
    std::uint64_t end = 0;
    for (std::size_t i = 0; i < places.size(); ++i) {
      const data_sample& each = places[i];
      ASSERT_LT(each.tensor, contents.tensors.size());
      EXPECT_GT(each.bytes, 0U);
      EXPECT_LE(each.bytes, 32U);
      EXPECT_LE(each.begin + each.bytes, byte_size(contents.tensors[each.tensor]));
      const std::uint64_t before = each.tensor == 1 ? 0 : each.tensor == 2 ? rows * 18 : rows * 18 + 4;
      EXPECT_GE(before + each.begin, i * (total / places.size()));
      EXPECT_GE(before + each.begin + 32, end) << "ascending";
      end = before + each.begin + each.bytes;
    }
  }
}

TEST(Samples, OfASmallTensorHaveEveryByte) {
  for (std::uint64_t bytes = 1; bytes <= 64 * 32; bytes += 13) {
    std::set<std::uint64_t> seen;
    for (const data_sample& each : sample_places({.tensors = {{.name = "w", .dtype = dtype::u8, .shape = {bytes}}}})) {
      for (std::uint64_t i = 0; i < each.bytes; ++i) {
        seen.insert(each.begin + i);
      }
    }
    EXPECT_EQ(seen.size(), bytes);
  }
}

TEST(Samples, OfNothingAreNone) {
  EXPECT_TRUE(sample_places({}).empty());
  EXPECT_TRUE(sample_places({.tensors = {{.name = "w", .dtype = dtype::u8, .shape = {0}}}}).empty());
}

TEST(Samples, OfMoreThan64BitsCountComeFromWhatCanBeCounted) {
  state_dict_contents contents;
  for (int i = 0; i < 16; ++i) {
    contents.tensors.push_back({.name = concat("t", i), .dtype = dtype::u8, .shape = {std::uint64_t{1} << 60U}});
  }
  const std::vector<data_sample> places = sample_places(contents);
  EXPECT_EQ(places.size(), 64U);
  EXPECT_EQ(places.back().tensor, 14U);
}

// -- evidence

template <class Policy>
std::vector<std::optional<error>> errors_with(const reference_model& model, const other_copy& other,
                                              std::size_t rank_of_other, const options& how,
                                              const threads_world& world) {
  return errors_of_ranks(world, [&](std::size_t rank, threads_communicator& comm) {
    host_memory memory;
    dynamic_module module = model.module(memory, rank == how.source_rank);
    model.load(module, memory);
    in_memory_source source = rank == rank_of_other ? other.source() : model.source();
    try {
      initialize<Policy>(module, source, comm, how, {.memory = memory});
    } catch (...) {
      EXPECT_FALSE(module.get_parameter("rows").is_meta()) << "nothing has changed yet";
      throw;
    }
  });
}

template <class Policy>
void expect_disagreement(const options& how = {}, std::size_t ranks = 4) {
  SCOPED_TRACE(concat(Policy::name, " ", name(Policy::transport), ", verify ", name(how.verify)));
  const reference_model model = sampled_model();
  for (const std::size_t other : {std::size_t{1}, ranks - 1}) {
    const auto errors =
        errors_with<Policy>(model, other_copy(model).change_all("columns"), other, how, threads_world(ranks));
    expect_same_error(errors, errc::disagreement, "columns", static_cast<std::int32_t>(other),
                      "this rank's checkpoint holds other data than that of rank 0 between bytes ");
  }
}

TEST(SameCheckpoint, IsWhatOwnReadsAreOfOrAnErrorThatNamesBothRanks) {
  expect_disagreement<own_read>();
  expect_disagreement<own_read>({.replicas = 2});
}

TEST(SameCheckpoint, IsWhatEveryRankLoads) { expect_disagreement<every_rank_loads>(); }

TEST(SameCheckpoint, IsWhatIsReadAgain) {
  expect_disagreement<native_sharding<>>({.verify = verification::reread, .checksum = &test_checksum});
  expect_disagreement<automatic>({.verify = verification::reread, .checksum = &test_checksum});
}

TEST(SameCheckpoint, IsWhatTheSourcesOfAllNodesRead) {
  const reference_model model = sampled_model();
  const std::vector<std::size_t> nodes{0, 0, 2, 2};
  const other_copy other = other_copy(model).change_all("rows");
  const options how{.source_ranks = source_ranks::per_node};
  expect_same_error(errors_with<native_sharding<>>(model, other, 2, how, threads_world(4, nodes)), errc::disagreement,
                    "rows", 2, "this rank's checkpoint holds other data than that of rank 0 ");
  for (const auto& each : errors_with<native_sharding<>>(model, other, 3, how, threads_world(4, nodes))) {
    EXPECT_FALSE(each) << "rank 3 reads nothing";
  }
}

TEST(SameCheckpoint, IsNotAskedForWhereOneRankReads) {
  const reference_model model = sampled_model();
  const other_copy other = other_copy(model).change_all("rows");
  for (const auto& each : errors_with<native_sharding<>>(model, other, 1, {}, threads_world(4))) {
    EXPECT_FALSE(each);
  }
}

TEST(SameCheckpoint, OtherwiseAutomaticScattersAndSaysSo) {
  const reference_model model({{.fqn = "large", .type = dtype::u8, .extents = {3 * mib}}});
  const other_copy other = other_copy(model).change_all("large");
  run_ranks(3, [&](std::size_t rank, threads_communicator& comm) {
    host_memory memory;
    dynamic_module module = model.module(memory, false);
    in_memory_source source = rank == 0 ? model.source() : other.source();
    const rank_report report = initialize<automatic>(module, source, comm, {}, {.memory = memory});
    EXPECT_EQ(model.faults_of(module, memory, 3, rank), "") << "all of it is the source rank's";
    EXPECT_EQ(report.bytes_read, rank == 0 ? 3 * mib : 0);
    EXPECT_NE(
        report.transport_reason.find("rank 1 has another checkpoint: large: this rank's checkpoint holds other data "
                                     "than that of rank 0 between bytes "),
        std::string::npos)
        << report.transport_reason;
    expect_as_predicted(report);
  });
}

TEST(SameCheckpoint, MayBeACopy) {
  const reference_model model = sampled_model();
  for (const auto& each :
       errors_with<own_read>(model, other_copy(model).change("rows", 7).change("rows", 7), 1, {}, threads_world(3))) {
    EXPECT_FALSE(each) << each->what();
  }
}

/// Remembers how much each of its reads asked for.
struct counting_source {
  in_memory_source inner;
  std::vector<std::uint64_t> reads{};
  [[nodiscard]] std::span<const tensor_descriptor> tensors() const { return inner.tensors(); }
  void read(std::size_t tensor, std::uint64_t offset, mutable_bytes destination) {
    reads.push_back(destination.size());
    inner.read(tensor, offset, destination);
  }
};

/// Of each rank that reads: how many reads of a sample's size, and of others.
template <class Policy>
std::vector<std::pair<std::size_t, std::size_t>> reads_of(std::size_t ranks) {
  const reference_model model({{.fqn = "w", .type = dtype::u8, .extents = {64 * kib}}});
  std::vector<std::pair<std::size_t, std::size_t>> out(ranks);
  run_ranks(ranks, [&](std::size_t rank, threads_communicator& comm) {
    host_memory memory;
    dynamic_module module = model.module(memory, false);
    counting_source source{.inner = model.source()};
    const rank_report report = initialize<Policy>(module, source, comm, {}, {.memory = memory});
    const auto samples = std::count(source.reads.begin(), source.reads.end(), sample_bytes);
    out[rank] = {static_cast<std::size_t>(samples), source.reads.size() - static_cast<std::size_t>(samples)};
    EXPECT_EQ(report.bytes_read, report.predicted.bytes_read) << "samples are not counted";
  });
  return out;
}

TEST(Fingerprint, Costs64ReadsOfARankThatReadsWhereSeveralDo) {
  using counts = std::vector<std::pair<std::size_t, std::size_t>>;
  EXPECT_EQ(reads_of<own_read>(2), (counts{{64, 1}, {64, 1}}));
  EXPECT_EQ(reads_of<every_rank_loads>(2), (counts{{64, 1}, {64, 1}}));
  EXPECT_EQ(reads_of<automatic>(2), (counts{{64, 2}, {64, 0}})) << "its chunks are small: they are scattered";
}

TEST(Fingerprint, CostsNothingWhereOneRankReads) {
  using counts = std::vector<std::pair<std::size_t, std::size_t>>;
  EXPECT_EQ(reads_of<native_sharding<>>(2), (counts{{0, 2}, {0, 0}}));
  EXPECT_EQ(reads_of<native_sharding<transport::broadcast>>(2), (counts{{0, 1}, {0, 0}}));
  EXPECT_EQ(reads_of<own_read>(1), (counts{{0, 1}}));
  EXPECT_EQ(reads_of<automatic>(1), (counts{{0, 1}}));
}

// -- proof

/// One rank's copy differs in a byte that is in no sample. \return what all ranks throw
template <class Policy, class Space>
std::vector<std::optional<error>> errors_rereading(const reference_model& model, const other_copy& other,
                                                   std::size_t rank_of_other, std::size_t replicas,
                                                   const threads_world& world) {
  return errors_of_ranks(world, [&](std::size_t rank, threads_communicator& comm) {
    Space memory;
    dynamic_module module = model.module(memory, rank == 0);
    in_memory_source source = rank == rank_of_other ? other.source() : model.source();
    initialize<Policy>(
        module, source, comm,
        {.bucket_bytes = 4096, .replicas = replicas, .verify = verification::reread, .checksum = &test_checksum},
        {.memory = memory});
  });
}

/// The copy of one rank differs in the first rows, which rank 0 holds; of 4 ranks, rank 2 reads these again.
template <class Policy, class Space>
void expect_proof() {
  SCOPED_TRACE(concat(Policy::name, " ", name(Policy::transport), Space::host_accessible ? ", host" : ", device"));
  const reference_model model = sampled_model();
  const other_copy other = other_copy(model).change("rows", unsampled(model, "rows", 0));
  for (const std::size_t rank_of_other : {std::size_t{0}, std::size_t{2}}) {
    expect_same_error(errors_rereading<Policy, Space>(model, other, rank_of_other, 1, threads_world(4)),
                      errc::disagreement, "rows", 0, "this rank's part is not what rank 2 reads in the checkpoint");
  }
  for (const auto& each : errors_rereading<Policy, Space>(model, other, 1, 1, threads_world(4))) {
    EXPECT_FALSE(each) << "that byte of rank 1's copy is not used, nor read";
  }
}

TEST(Rereading, ProvesThatOwnReadsAreOfOneCheckpoint) {
  expect_proof<own_read, host_memory>();
  expect_proof<own_read, fake_device_memory>();
}

TEST(Rereading, ProvesThatWhatEveryRankLoadsIsOneCheckpoint) {
  expect_proof<every_rank_loads, host_memory>();
  expect_proof<every_rank_loads, fake_device_memory>();
}

TEST(Rereading, ProvesItOfTheLastPartToo) {
  const reference_model model = sampled_model();
  const other_copy other = other_copy(model).change("rows", unsampled(model, "rows", 900 * 50));
  expect_same_error(errors_rereading<own_read, host_memory>(model, other, 2, 1, threads_world(3)), errc::disagreement,
                    "rows", 2, "this rank's part is not what rank 1 reads in the checkpoint (");
}

TEST(Rereading, ProvesItOfReplicasThatReadForEachOther) {
  const reference_model model = sampled_model();
  for (const std::uint64_t row : {0U, 100U, 480U}) {  // of buckets that either replica reads
    const other_copy other = other_copy(model).change("rows", unsampled(model, "rows", row * 50));
    const auto errors = errors_rereading<own_read, host_memory>(model, other, 2, 2, threads_world(4));
    ASSERT_TRUE(errors[0]);
    expect_same_error(errors, errc::disagreement, "rows", errors[0]->rank(), "in the checkpoint (");
  }
}

TEST(Rereading, ProvesItOfTheSourcesOfAllNodesHoweverRanksAreNumbered) {
  const reference_model model = sampled_model();
  const other_copy other = other_copy(model).change("rows", unsampled(model, "rows", 0));
  for (const std::vector<std::size_t>& nodes : {std::vector<std::size_t>{0, 0, 2, 2}, {0, 1, 0, 1}}) {
    const auto errors = errors_of_ranks(threads_world(4, nodes), [&](std::size_t rank, threads_communicator& comm) {
      host_memory memory;
      dynamic_module module = model.module(memory, rank == 0);
      in_memory_source source = nodes[rank] == 0 ? other.source() : model.source();
      initialize(module, source, comm,
                 {.source_ranks = source_ranks::per_node, .verify = verification::reread, .checksum = &test_checksum},
                 {.memory = memory});
    });
    expect_same_error(errors, errc::disagreement, "rows", 0, "this rank's part is not what rank ");
  }
}

TEST(Rereading, PairsEachRankWithOneOfAnotherNodeWhereNoneHasMostRanks) {
  for (const std::vector<std::size_t>& nodes : {std::vector<std::size_t>{},
                                                {0, 0, 0, 0, 0, 0},
                                                {0, 0, 2, 2, 4, 4},
                                                {0, 1, 0, 1, 0, 1},
                                                {0, 1, 2, 0, 1, 2},
                                                {0, 1, 1, 0, 0, 1}}) {
    const reread_pairs pairs({.ranks = {.shards = 6}, .source_ranks = {.nodes = nodes}});
    std::set<std::size_t> read;
    for (std::size_t rank = 0; rank < 6; ++rank) {
      const std::size_t whose = pairs.read_by(rank);
      read.insert(whose);
      EXPECT_EQ(pairs.reader_of(whose), rank);
      EXPECT_NE(whose, rank);
      if (!nodes.empty() && nodes != std::vector<std::size_t>(6, 0)) {
        EXPECT_NE(nodes[whose], nodes[rank]);
      }
    }
    EXPECT_EQ(read.size(), 6U);
  }
  EXPECT_EQ(reread_pairs({.ranks = {.shards = 1}}).read_by(0), 0U);
}

/// A source of which a byte changes after the first reading of it.
struct changing_source {
  in_memory_source inner;
  std::set<std::uint64_t> seen{};
  [[nodiscard]] std::span<const tensor_descriptor> tensors() const { return inner.tensors(); }
  void read(std::size_t tensor, std::uint64_t offset, mutable_bytes destination) {
    inner.read(tensor, offset, destination);
    if (!destination.empty() && destination.size() != sample_bytes && !seen.insert(offset).second) {
      destination[0] ^= std::byte{1};
    }
  }
};

TEST(Rereading, OfARankAloneReadsAgainWhatItHasRead) {
  const reference_model model({{.fqn = "w", .type = dtype::u8, .extents = {1000}}});
  host_memory memory;
  dynamic_module module = model.module(memory, false);
  changing_source source{.inner = model.source()};
  threads_communicator alone = threads_world(1).rank(0);
  expect_error(errc::corrupted, "w", "byte 0 of the shard is ", [&] {
    initialize<own_read>(module, source, alone, {.verify = verification::reread, .checksum = &test_checksum},
                         {.memory = memory});
  });
}

// -- channels

template <class Policy>
void expect_unequal_channels_to_be_refused() {
  SCOPED_TRACE(name(Policy::transport));
  const reference_model model = sampled_model();
  const threads_world data(3);
  const auto errors = errors_of_ranks(3, [&](std::size_t rank, threads_communicator& control) {
    threads_communicator reversed = data.rank(2 - rank);
    host_memory memory;
    dynamic_module module = model.module(memory, rank == 0);
    in_memory_source source = model.source();
    initialize<Policy>(module, source, channels{reversed, control}, {}, {.memory = memory});
  });
  expect_same_error(errors, errc::invalid_argument, "ranks", 0,
                    "this rank is rank 2 of 3 on the data channel, but rank 0 of 3 on the control channel");
}

TEST(Channels, WhoseRanksDifferAreAnErrorOnEveryRank) {
  expect_unequal_channels_to_be_refused<native_sharding<>>();
  expect_unequal_channels_to_be_refused<own_read>();
}

TEST(Channels, WhoseSizesDifferAreAnErrorOnEveryRank) {
  const reference_model model = sampled_model();
  const threads_world data(3);
  const auto errors = errors_of_ranks(2, [&](std::size_t rank, threads_communicator& control) {
    threads_communicator larger = data.rank(rank);
    host_memory memory;
    dynamic_module module = model.module(memory, rank == 0);
    in_memory_source source = model.source();
    initialize(module, source, channels{larger, control}, {}, {.memory = memory});
  });
  expect_same_error(errors, errc::invalid_argument, "ranks", 0, "rank 0 of 3 on the data channel, but rank 0 of 2");
}

}  // namespace
}  // namespace same_checkpoint_test
