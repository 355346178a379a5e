#pragma once

#include <fsdpinit/plan/mesh.hpp>

#include <cstddef>
#include <vector>

namespace fsdpinit {

/// Which source rank serves whom, and whether ranks can exchange bytes in groups of their own.
struct source_layout {
  std::size_t source_rank = 0;           ///< the one whose module's buffers all ranks get
  std::vector<std::size_t> source_of{};  ///< the rank that reads for each rank; empty: `source_rank` reads for all
  bool grouped = true;                   ///< the communicator works within groups of ranks
  std::vector<std::size_t> nodes{};      ///< the node of each rank, where that decides who reads again; empty: unknown

  [[nodiscard]] bool is_single() const noexcept { return source_of.empty(); }
  [[nodiscard]] std::size_t serving(std::size_t rank) const noexcept {
    return source_of.empty() ? source_rank : source_of[rank];
  }
};

/// A scatter goes to the source's replica only, whose ranks pass their parts on to the other replicas: the source sends the
/// model once, whatever the number of replicas. With several sources each sends to the ranks it serves.
[[nodiscard]] inline bool scatter_is_relayed(const mesh& ranks, const source_layout& sources) noexcept {
  return ranks.replicas > 1 && sources.grouped && sources.is_single();
}
/// Replicas take turns at reading and pass on what they read, so that every byte is read once.
[[nodiscard]] inline bool own_read_is_relayed(const mesh& ranks, const source_layout& sources) noexcept {
  return ranks.replicas > 1 && sources.grouped;
}

/// With whom one rank exchanges bytes; each list ascending, with the rank itself, and empty where it would be all ranks.
struct rank_groups {
  std::size_t source = 0;               ///< reads for this rank
  std::vector<std::size_t> served{};    ///< all that this source reads for
  std::vector<std::size_t> scatter{};   ///< those in its scatters; this rank alone where it gets its part relayed
  std::vector<std::size_t> replicas{};  ///< the ranks with the same shard index, in the order of their replicas
};

/// O(shards + replicas), and with several sources O(ranks).
[[nodiscard]] inline rank_groups groups_of(const mesh& ranks, const source_layout& sources, std::size_t rank) {
  rank_groups out{.source = sources.serving(rank)};
  if (!sources.is_single()) {
    for (std::size_t other = 0; other < ranks.size(); ++other) {
      if (sources.serving(other) == out.source) {
        out.served.push_back(other);
      }
    }
    out.scatter = out.served;
  } else if (scatter_is_relayed(ranks, sources)) {
    const std::size_t replica = ranks.replica_of(rank);
    if (replica != ranks.replica_of(out.source)) {
      out.scatter.push_back(rank);
    }
    for (std::size_t shard = 0; replica == ranks.replica_of(out.source) && shard < ranks.shards; ++shard) {
      out.scatter.push_back(ranks.rank_of(replica, shard));
    }
  }
  for (std::size_t replica = 0; replica < ranks.replicas; ++replica) {
    out.replicas.push_back(ranks.rank_of(replica, ranks.shard_of(rank)));
  }
  return out;
}

}  // namespace fsdpinit
