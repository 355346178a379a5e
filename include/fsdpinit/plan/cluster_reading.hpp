#pragma once

#include <fsdpinit/plan/bucket_loads.hpp>
#include <fsdpinit/plan/cluster.hpp>
#include <fsdpinit/plan/plan.hpp>
#include <fsdpinit/plan/program.hpp>
#include <fsdpinit/plan/rank_classes.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <set>
#include <utility>
#include <vector>

/// \file
/// Who reads how much of a plan's buckets, by how many reads, and for how long.

namespace fsdpinit::detail {

/// After which buckets all that are in flight are finished, as the program of any rank has it: where ranks agree.
[[nodiscard]] inline std::vector<bool> drained_after(const plan& made) {
  std::vector<bool> out(made.schedule.size());
  for_each_round(program_of(made, 0), [&](const program_round& round) {
    if (round.kind == round_kind::agree && round.part != 0) {
      out[round.part - 1] = true;
    }
  });
  return out;
}

/// How many shards of each class a rank reads for, ascending by class.
using served_shards = std::vector<std::pair<std::size_t, std::size_t>>;

/// \param served ranks. A shard that two of them have is read once.
[[nodiscard]] inline served_shards shards_of(const std::vector<std::size_t>& served, const mesh& ranks,
                                             const bucket_loads& loads) {
  std::set<std::size_t> shards;
  for (const std::size_t rank : served) {
    shards.insert(ranks.shard_of(rank));
  }
  std::vector<std::size_t> many(loads.classes());
  for (const std::size_t shard : shards) {
    ++many[loads.class_of(shard)];
  }
  served_shards out;
  for (std::size_t of = 0; of < many.size(); ++of) {
    if (many[of] != 0) {
      out.emplace_back(of, many[of]);
    }
  }
  return out;
}

struct read_work {
  std::uint64_t bytes = 0;
  std::uint64_t reads = 0;
  read_work& operator+=(const read_work& other) noexcept {
    bytes += other.bytes;
    reads += other.reads;
    return *this;
  }
};

/// What a source reads of the bucket that was loaded last, for these shards.
[[nodiscard]] inline read_work read_for(const bucket& which, const bucket_loads& loads, const served_shards& shards) {
  if (which.way != route::scatter) {
    return {.bytes = loads.read_whole(), .reads = loads.reads_whole()};
  }
  read_work out;
  for (const auto& [of, many] : shards) {
    out += {.bytes = loads.read_for_class(of) * many, .reads = loads.reads_for_class(of) * many};
  }
  return out;
}

/// Adds up what ranks read, bucket by bucket.
class plan_reading {
 public:
  plan_reading(const cluster& on, const plan& made, const std::vector<std::vector<std::size_t>>& served)
      : on_(on),
        plan_(made),
        loads_(made),
        relayed_(own_read_is_relayed(made.options.ranks, made.options.sources)),
        readers_(relayed_ ? made.options.ranks.replicas : 1),
        own_(readers_ * loads_.classes()),
        own_seconds_(readers_),
        kind_of_(served.size(), served.size()) {
    std::map<served_shards, std::size_t> known;
    std::vector<std::size_t> on_node(on.nodes);
    for (std::size_t rank = 0; rank < served.size(); ++rank) {
      if (served[rank].empty()) {
        continue;
      }
      const served_shards shards = shards_of(served[rank], grid(), loads_);
      kind_of_[rank] = known.try_emplace(shards, kinds_.size()).first->second;
      if (kind_of_[rank] == kinds_.size()) {
        kinds_.push_back({.shards = shards});
      }
      ++kinds_[kind_of_[rank]].ranks;
      sources_on_a_node_ = std::max(sources_on_a_node_, ++on_node[on.node_of(rank)]);
    }
  }

  void add(const bucket& which) {
    loads_.load(which);
    if (which.way == route::own_read) {
      add_own(which);
    } else if (!which.captured) {
      add_sources(which);
    }
  }

  /// Seconds in which the slowest of those that read at once have read their buckets, waiting in each for the slowest of the storage,
  /// its latencies and the copies out of the page cache. Of own reads by replica, where they take turns.
  [[nodiscard]] std::vector<double> seconds(route way) const {
    if (way == route::own_read) {
      return own_seconds_;
    }
    double most = 0;
    for (const source_kind& kind : kinds_) {
      most = std::max(most, kind.seconds[way == route::scatter ? 0 : 1]);
    }
    return {most};
  }

  /// What a rank has read, of buckets that go one way.
  [[nodiscard]] read_work by(std::size_t rank, route way) const {
    read_work out;
    if (way != route::own_read) {
      return kind_of_[rank] == kind_of_.size() ? out : kinds_[kind_of_[rank]].read[way == route::scatter ? 0 : 1];
    }
    return own_[(relayed_ ? grid().replica_of(rank) : 0) * loads_.classes() + loads_.class_of(grid().shard_of(rank))];
  }

 private:
  /// Sources that read alike.
  struct source_kind {
    served_shards shards;
    std::size_t ranks = 0;
    std::array<read_work, 2> read{};  // scattered, broadcast
    std::array<double, 2> seconds{};
    read_work now{};
  };

  [[nodiscard]] const mesh& grid() const noexcept { return plan_.options.ranks; }

  [[nodiscard]] double seconds(std::uint64_t reads_of_a_rank, std::uint64_t of_a_node, std::uint64_t in_all) const {
    return std::max({static_cast<double>(reads_of_a_rank) * on_.storage_latency,
                     static_cast<double>(of_a_node) / on_.storage_bandwidth_per_node,
                     on_.storage_bandwidth ? static_cast<double>(in_all) / *on_.storage_bandwidth : 0,
                     on_.measured ? 0 : static_cast<double>(of_a_node) / on_.host_copy_bandwidth});
  }

  void add_sources(const bucket& which) {
    std::uint64_t in_all = 0;
    for (source_kind& kind : kinds_) {
      kind.now = read_for(which, loads_, kind.shards);
      in_all += kind.now.bytes * kind.ranks;
    }
    for (source_kind& kind : kinds_) {
      const std::size_t way = which.way == route::scatter ? 0 : 1;
      if (kind.now.bytes != 0) {
        kind.read[way] += kind.now;
        kind.seconds[way] += seconds(kind.now.reads, kind.now.bytes * sources_on_a_node_, in_all);
      }
    }
  }

  void add_own(const bucket& which) {
    std::uint64_t reads = 0;
    for (std::size_t of = 0; of < loads_.classes(); ++of) {
      const read_work one{.bytes = loads_.read_for_class(of), .reads = loads_.reads_for_class(of)};
      own_[(relayed_ ? which.reader : 0) * loads_.classes() + of] += one;
      reads = std::max(reads, one.reads);
    }
    // Shards are largest first, and so is the first node's part.
    std::uint64_t in_all = 0;
    std::uint64_t on_first = 0;
    for (std::size_t shard = 0; shard < grid().shards; ++shard) {
      const std::uint64_t bytes = loads_.read_for_class(loads_.class_of(shard));
      in_all += bytes;
      on_first += shard < on_.ranks_per_node ? bytes : 0;
    }
    // Replicas that do not take turns read at once, side by side where they share a node.
    const std::size_t at_once = relayed_ ? 1 : grid().replicas;
    const std::size_t side_by_side = std::min(at_once, std::max<std::size_t>(on_.ranks_per_node / grid().shards, 1));
    own_seconds_[relayed_ ? which.reader : 0] += seconds(reads, on_first * side_by_side, in_all * at_once);
  }

  const cluster& on_;
  const plan& plan_;
  bucket_loads loads_;
  bool relayed_;
  std::size_t readers_;
  std::vector<read_work> own_;       // by replica that takes turns, and by class
  std::vector<double> own_seconds_;  // by replica that takes turns
  std::vector<source_kind> kinds_;
  std::vector<std::size_t> kind_of_;  // by rank; as many as there are: reads for nobody
  std::size_t sources_on_a_node_ = 0;
};

}  // namespace fsdpinit::detail
