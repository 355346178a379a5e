#pragma once

#include <fsdpinit/cost/cluster.hpp>
#include <fsdpinit/cost/rank_work.hpp>
#include <fsdpinit/plan/mesh.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <set>
#include <utility>
#include <vector>

namespace fsdpinit::detail {

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
