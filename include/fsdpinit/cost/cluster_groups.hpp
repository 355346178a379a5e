#pragma once

#include <fsdpinit/cost/cluster.hpp>
#include <fsdpinit/cost/rank_classes.hpp>
#include <fsdpinit/cost/rank_work.hpp>
#include <fsdpinit/index/byte_region.hpp>
#include <fsdpinit/index/mesh.hpp>
#include <fsdpinit/index/partition.hpp>
#include <fsdpinit/plan/bucket_schedule.hpp>
#include <fsdpinit/plan/plan.hpp>
#include <fsdpinit/plan/program_step.hpp>
#include <fsdpinit/plan/rank_groups.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <set>
#include <span>
#include <utility>
#include <vector>

namespace fsdpinit::detail {

/// Ranks that exchange bytes, ascending: equally far apart, or listed.
struct group_members {
  spaced_ranks spaced{};
  std::span<const std::size_t> listed{};

  [[nodiscard]] std::size_t size() const noexcept { return listed.empty() ? spaced.count : listed.size(); }
  [[nodiscard]] std::size_t operator[](std::size_t i) const noexcept { return listed.empty() ? spaced[i] : listed[i]; }
  /// \pre it is one of them
  [[nodiscard]] std::size_t place_of(std::size_t rank) const noexcept {
    return listed.empty()
               ? (rank - spaced.first) / spaced.apart
               : static_cast<std::size_t>(std::lower_bound(listed.begin(), listed.end(), rank) - listed.begin());
  }
  /// The one before it in a ring.
  [[nodiscard]] std::size_t before(std::size_t rank) const noexcept {
    const std::size_t place = place_of(rank);
    return (*this)[place == 0 ? size() - 1 : place - 1];
  }
};

/// `groups_of` of every rank, in O(ranks) memory.
class groups_of_ranks {
 public:
  explicit groups_of_ranks(const plan_options& how)
      : ranks_(how.ranks), source_ranks_(how.source_ranks), relays_(scatter_is_relayed(how.ranks, how.source_ranks)) {
    if (!source_ranks_.is_single()) {
      served_ = served_by_rank(how);
    }
  }

  [[nodiscard]] group_members operator()(rank_group group, std::size_t rank) const noexcept {
    const group_members all{.spaced = {.count = ranks_.size()}};
    switch (group) {
      case rank_group::replicas:
        return {.spaced = replicas_of(ranks_, rank)};
      case rank_group::scatter:
        if (relays_) {
          return {.spaced = relayed_scatter_of(ranks_, source_ranks_, rank)};
        }
        [[fallthrough]];
      case rank_group::served:
        return served_.empty() ? all : group_members{.listed = served_[source_ranks_.serving(rank)]};
      case rank_group::all:
        break;
    }
    return all;
  }

 private:
  const mesh& ranks_;
  const source_layout& source_ranks_;
  bool relays_;
  std::vector<std::vector<std::size_t>> served_;
};

/// What shards keep of broadcasts, out of staging: other ranges of a tensor in every bucket, and so not the same for ranks that are
/// otherwise alike. By the rule of `step_writer::place_global`.
class kept_of_broadcasts {
 public:
  explicit kept_of_broadcasts(std::size_t shards) : bytes_(shards) {}

  /// So many buckets that follow one another. O(segments + shards that have a part of it).
  void add(const plan& made, const bucket& first, std::size_t count = 1) {
    for (segment part : made.schedule.segments(first)) {
      part.end += (part.end - part.begin) * (count - 1);
      add(part, made.tensors[part.tensor].partition);
    }
  }
  void clear() noexcept {
    for (const std::size_t shard : touched_) {
      bytes_[shard] = 0;
    }
    touched_.clear();
  }
  [[nodiscard]] std::uint64_t operator[](std::size_t shard) const noexcept { return bytes_[shard]; }

 private:
  void add(const segment& part, const partition& how) {
    // Of a contiguous tensor only those shards have a part that lie in between.
    const std::uint64_t chunk = how.reserved_bytes();
    const bool cut = !how.is_whole() && how.is_contiguous();
    const std::size_t first = cut ? static_cast<std::size_t>(part.begin / chunk) : 0;
    const std::size_t last = cut ? static_cast<std::size_t>((part.end - 1) / chunk) + 1 : bytes_.size();
    for (std::size_t shard = first; shard < last; ++shard) {
      const bool is_first = bytes_[shard] == 0;
      for_each_overlap(
          how.region(shard), part.begin, part.end,
          [&](std::uint64_t, std::uint64_t, std::uint64_t run, std::uint64_t times) { bytes_[shard] += run * times; });
      if (is_first && bytes_[shard] != 0) {
        touched_.push_back(shard);
      }
    }
  }

  std::vector<std::uint64_t> bytes_;
  std::vector<std::size_t> touched_;
};

/// The nodes of a cluster by how many ranks of each class are on them: few that differ.
class cluster_nodes {
 public:
  /// `on` must outlive it. O(ranks).
  cluster_nodes(const cluster& on, const mesh& ranks, const every_rank_work& every)
      : on_(on), ranks_(ranks), sizes_(every.classes()), of_node_(on.nodes) {
    std::set<std::vector<std::size_t>> known;
    for (std::size_t node = 0; node < on.nodes; ++node) {
      std::vector<std::size_t> kind(every.classes());
      for (std::size_t i = 0; i < on.ranks_per_node; ++i) {
        const std::size_t its_class = every.class_of(node * on.ranks_per_node + i);
        ++kind[its_class];
        ++sizes_[its_class];
      }
      known.insert(std::move(kind));
    }
    kinds_.assign(known.begin(), known.end());
  }

  /// How long the round that `every` has looked at takes to read: until the slowest of the storage, its latencies and the copies out of
  /// the page cache is done. O(classes x kinds of nodes), and O(shards) where replicas take turns.
  [[nodiscard]] double seconds_of_reading(const every_rank_work& every) {
    std::uint64_t most_reads = 0;
    std::uint64_t in_all = 0;
    std::uint64_t on_one = 0;
    for (std::size_t of = 0; of < sizes_.size(); ++of) {
      most_reads = std::max(most_reads, every.usual(of).sums[amount::reads]);
      in_all += every.usual(of).sums[amount::read] * sizes_[of];
    }
    for (const std::vector<std::size_t>& kind : kinds_) {
      std::uint64_t bytes = 0;
      for (std::size_t of = 0; in_all != 0 && of < kind.size(); ++of) {
        bytes += every.usual(of).sums[amount::read] * kind[of];
      }
      on_one = std::max(on_one, bytes);
    }
    if (every.turn()) {
      const std::size_t first = ranks_.rank_of(*every.turn(), 0);
      for (std::size_t rank = first; rank < first + ranks_.shards; ++rank) {
        const work_sums& its = every.of(rank).sums;
        most_reads = std::max(most_reads, its[amount::reads]);
        in_all += its[amount::read];
        std::uint64_t& bytes = of_node_[on_.node_of(rank)];
        bytes += its[amount::read];
        on_one = std::max(on_one, bytes);
      }
      for (std::size_t rank = first; rank < first + ranks_.shards; ++rank) {
        of_node_[on_.node_of(rank)] = 0;
      }
    }
    return std::max({static_cast<double>(most_reads) * on_.storage_latency,
                     static_cast<double>(on_one) / on_.storage_bandwidth_per_node,
                     on_.storage_bandwidth ? static_cast<double>(in_all) / *on_.storage_bandwidth : 0,
                     on_.measured ? 0 : static_cast<double>(on_one) / on_.host_copy_bandwidth});
  }

 private:
  const cluster& on_;
  mesh ranks_;
  std::vector<std::size_t> sizes_;               // ranks, by class
  std::vector<std::vector<std::size_t>> kinds_;  // likewise, of nodes that differ
  std::vector<std::uint64_t> of_node_;           // scratch: 0 between calls
};

}  // namespace fsdpinit::detail
