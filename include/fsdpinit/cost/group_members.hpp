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
      : ranks_(how.ranks), sources_(how.sources), relays_(scatter_is_relayed(how.ranks, how.sources)) {
    if (!sources_.is_single()) {
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
          return {.spaced = relayed_scatter_of(ranks_, sources_, rank)};
        }
        [[fallthrough]];
      case rank_group::served:
        return served_.empty() ? all : group_members{.listed = served_[sources_.serving(rank)]};
      case rank_group::all:
        break;
    }
    return all;
  }

 private:
  const mesh& ranks_;
  const source_layout& sources_;
  bool relays_;
  std::vector<std::vector<std::size_t>> served_;
};

}  // namespace fsdpinit::detail
