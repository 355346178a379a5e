#pragma once

#include <fsdpinit/cost/rank_classes.hpp>
#include <fsdpinit/plan/mesh.hpp>
#include <fsdpinit/plan/plan.hpp>
#include <fsdpinit/plan/program_step.hpp>
#include <fsdpinit/plan/rank_groups.hpp>

#include <algorithm>
#include <cstddef>
#include <span>
#include <vector>

namespace fsdpinit::detail {

/// Ranks that exchange bytes, ascending: equally far apart, or listed.
struct group_members {
  std::size_t first = 0;
  std::size_t apart = 1;
  std::size_t count = 0;
  std::span<const std::size_t> listed{};

  [[nodiscard]] std::size_t size() const noexcept { return listed.empty() ? count : listed.size(); }
  [[nodiscard]] std::size_t operator[](std::size_t i) const noexcept {
    return listed.empty() ? first + i * apart : listed[i];
  }
  /// \pre it is one of them
  [[nodiscard]] std::size_t place_of(std::size_t rank) const noexcept {
    return listed.empty()
               ? (rank - first) / apart
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
      : ranks_(how.ranks), sources_(how.sources), relays_(scatter_is_relayed(how.ranks, how.sources)) {
    if (!sources_.is_single()) {
      served_ = served_by_rank(how);
    }
  }

  [[nodiscard]] group_members operator()(rank_group group, std::size_t rank) const noexcept {
    const group_members all{.count = ranks_.size()};
    switch (group) {
      case rank_group::replicas:
        return {.first = ranks_.shard_of(rank), .apart = ranks_.shards, .count = ranks_.replicas};
      case rank_group::served:
        return served_.empty() ? all : listed(rank);
      case rank_group::scatter: {
        if (!relays_) {
          return served_.empty() ? all : listed(rank);
        }
        const std::size_t replica = ranks_.replica_of(rank);
        const bool takes_part = replica == ranks_.replica_of(sources_.source_rank);
        return takes_part ? group_members{.first = ranks_.rank_of(replica, 0), .count = ranks_.shards}
                          : group_members{.first = rank, .count = 1};
      }
      case rank_group::all:
        break;
    }
    return all;
  }

 private:
  [[nodiscard]] group_members listed(std::size_t rank) const noexcept {
    return {.listed = served_[sources_.serving(rank)]};
  }

  const mesh& ranks_;
  const source_layout& sources_;
  bool relays_;
  std::vector<std::vector<std::size_t>> served_;
};

}  // namespace fsdpinit::detail
