#pragma once

#include <fsdpinit/plan/plan.hpp>
#include <fsdpinit/plan/prediction.hpp>
#include <fsdpinit/plan/reread_pairs.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <utility>
#include <vector>

namespace fsdpinit {

/// The ranks that each rank reads for, itself with them, ascending; empty for ranks that read for nobody. O(ranks).
[[nodiscard]] inline std::vector<std::vector<std::size_t>> served_by_rank(const plan_options& options) {
  std::vector<std::vector<std::size_t>> served(options.ranks.size());
  for (std::size_t rank = 0; rank < served.size(); ++rank) {
    served[options.source_ranks.serving(rank)].push_back(rank);
  }
  return served;
}

/// Shards whose parts have the same size of every tensor are a class.
struct shard_classes_of_plan {
  std::vector<std::size_t> of_shard;  ///< its class
  std::vector<std::size_t> first;     ///< the lowest shard of each class
};

/// Pure; O(tensors x shards). Chunks are alike but for the last ones, so classes are few: about as many as there are extents.
[[nodiscard]] inline shard_classes_of_plan shard_classes(const plan& made) {
  std::map<std::vector<std::uint64_t>, std::size_t> known;
  shard_classes_of_plan out;
  for (std::size_t shard = 0; shard < made.options.ranks.shards; ++shard) {
    std::vector<std::uint64_t> sizes;
    sizes.reserve(made.tensors.size());
    for (const planned_tensor& tensor : made.tensors) {
      sizes.push_back(tensor.partition.local_bytes(shard));
    }
    const auto [at, is_new] = known.try_emplace(std::move(sizes), known.size());
    out.of_shard.push_back(at->second);
    if (is_new) {
      out.first.push_back(shard);
    }
  }
  return out;
}

/// Ranks that do alike: their shards have the same sizes, and they serve the like.
struct classes_of_ranks {
  std::vector<std::size_t> of_rank;  ///< its class
  std::vector<std::size_t> first;    ///< the lowest rank of each class
};

/// Replicas that take turns at reading are alike here: each does in its turn what the others do in theirs. O(tensors x shards + ranks).
[[nodiscard]] inline classes_of_ranks rank_classes(const plan& made) {
  const mesh& ranks = made.options.ranks;
  const source_layout& source_ranks = made.options.source_ranks;
  const bool rereads = made.options.verify == verification::reread;
  const reread_pairs pairs(made.options);
  const std::vector<std::size_t> class_of_shard = shard_classes(made).of_shard;
  const std::vector<std::vector<std::size_t>> served = served_by_rank(made.options);
  std::map<std::vector<std::size_t>, std::size_t> known;
  classes_of_ranks out;
  out.of_rank.reserve(ranks.size());
  for (std::size_t rank = 0; rank < ranks.size(); ++rank) {
    const bool beside_source = ranks.replica_of(rank) == ranks.replica_of(source_ranks.serving(rank));
    std::vector<std::size_t> key{class_of_shard[ranks.shard_of(rank)], beside_source ? 1U : 0U,
                                 rank == source_ranks.source_rank ? 1U : 0U,
                                 rank == source_ranks.serving(rank) ? 1U : 0U,
                                 rereads ? class_of_shard[ranks.shard_of(pairs.read_by(rank))] : 0};
    if (!source_ranks.is_single()) {
      std::map<std::size_t, std::size_t> first_of_shard;  // a shard that two served ranks have is read once
      for (std::size_t i = 0; i < served[rank].size(); ++i) {
        const std::size_t shard = ranks.shard_of(served[rank][i]);
        key.push_back(class_of_shard[shard]);
        key.push_back(first_of_shard.try_emplace(shard, i).first->second);
      }
    }
    const auto [at, is_new] = known.try_emplace(std::move(key), known.size());
    out.of_rank.push_back(at->second);
    if (is_new) {
      out.first.push_back(rank);
    }
  }
  return out;
}

/// `predict` of every rank, at the price of the few ranks that differ. O(tensors x ranks), and as much as `predict` for each class of
/// ranks. Where ranks read their own parts, what is read along depends on where these lie, and each rank is predicted by itself.
[[nodiscard]] inline std::vector<prediction> predict_every_rank(const plan& made) {
  const bool by_itself = std::any_of(made.tensors.begin(), made.tensors.end(),
                                     [](const planned_tensor& tensor) { return tensor.route == route::own_read; });
  const classes_of_ranks classes = by_itself ? classes_of_ranks{} : rank_classes(made);
  std::vector<prediction> out;
  out.reserve(made.options.ranks.size());
  for (std::size_t rank = 0; rank < made.options.ranks.size(); ++rank) {
    const std::size_t like = by_itself ? rank : classes.first[classes.of_rank[rank]];
    out.push_back(like == rank ? predict(made, rank) : out[like]);
  }
  return out;
}

}  // namespace fsdpinit
