#pragma once

#include <fsdpinit/index/mesh.hpp>

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
[[nodiscard]] inline bool scatter_is_relayed(const mesh& ranks, const source_layout& source_ranks) noexcept {
  return ranks.replicas > 1 && source_ranks.grouped && source_ranks.is_single();
}
/// Replicas take turns at reading and pass on what they read, so that every byte is read once.
[[nodiscard]] inline bool own_read_is_relayed(const mesh& ranks, const source_layout& source_ranks) noexcept {
  return ranks.replicas > 1 && source_ranks.grouped;
}

namespace detail {

/// Ascending, and equally far apart.
struct spaced_ranks {
  std::size_t first = 0;
  std::size_t apart = 1;
  std::size_t count = 0;

  [[nodiscard]] std::size_t operator[](std::size_t i) const noexcept { return first + i * apart; }
};

/// Those with the same shard index, in the order of their replicas.
[[nodiscard]] inline spaced_ranks replicas_of(const mesh& ranks, std::size_t rank) noexcept {
  return {.first = ranks.shard_of(rank), .apart = ranks.shards, .count = ranks.replicas};
}
/// Those in the scatters of a rank: of the source's replica all, of others it alone. \pre scatter_is_relayed()
[[nodiscard]] inline spaced_ranks relayed_scatter_of(const mesh& ranks, const source_layout& source_ranks,
                                                     std::size_t rank) noexcept {
  const std::size_t replica = ranks.replica_of(rank);
  return replica == ranks.replica_of(source_ranks.source_rank)
             ? spaced_ranks{.first = ranks.rank_of(replica, 0), .count = ranks.shards}
             : spaced_ranks{.first = rank, .count = 1};
}
[[nodiscard]] inline std::vector<std::size_t> listed(const spaced_ranks& ranks) {
  std::vector<std::size_t> out(ranks.count);
  for (std::size_t i = 0; i < out.size(); ++i) {
    out[i] = ranks[i];
  }
  return out;
}

}  // namespace detail

/// With whom one rank exchanges bytes; each list ascending, with the rank itself, and empty where it would be all ranks.
struct rank_groups {
  std::size_t source = 0;               ///< reads for this rank
  std::vector<std::size_t> served{};    ///< all that this source reads for
  std::vector<std::size_t> scatter{};   ///< those in its scatters; this rank alone where it gets its part relayed
  std::vector<std::size_t> replicas{};  ///< the ranks with the same shard index, in the order of their replicas
};

/// O(shards + replicas), and with several sources O(ranks).
[[nodiscard]] inline rank_groups groups_of(const mesh& ranks, const source_layout& source_ranks, std::size_t rank) {
  rank_groups out{.source = source_ranks.serving(rank), .replicas = detail::listed(detail::replicas_of(ranks, rank))};
  if (!source_ranks.is_single()) {
    for (std::size_t other = 0; other < ranks.size(); ++other) {
      if (source_ranks.serving(other) == out.source) {
        out.served.push_back(other);
      }
    }
    out.scatter = out.served;
  } else if (scatter_is_relayed(ranks, source_ranks)) {
    out.scatter = detail::listed(detail::relayed_scatter_of(ranks, source_ranks, rank));
  }
  return out;
}

}  // namespace fsdpinit
