#pragma once

#include <fsdpinit/plan/plan.hpp>
#include <fsdpinit/plan/slab_layout.hpp>
#include <fsdpinit/plan/transport.hpp>

#include <cstddef>
#include <vector>

/// \file
/// `verification::reread`: who reads what again.

namespace fsdpinit {

/// Do several ranks read a tensor, each a part of it or for some others? Then its parts may be of different copies of
/// the checkpoint, and what a rank holds is held against what another one reads. Else it comes from one copy, and each
/// rank reads its own part again.
[[nodiscard]] inline bool is_read_by_several(const plan_options& how, const planned_tensor& tensor) noexcept {
  if (tensor.from_buffer || tensor.generated || how.ranks.size() == 1) {
    return false;
  }
  return tensor.route == route::own_read || tensor.route == route::full_copy || !how.source_ranks.is_single();
}

/// Whose part of such tensors each rank reads again: that of the rank half of all ranks away, counted node by node
/// where nodes are known, so that copies on two nodes meet. Every part is read again by one rank, and never by the one
/// that holds it where there are two.
class reread_pairs {
 public:
  /// O(ranks). By counting: `<algorithm>` is more than core.hpp should cost.
  explicit reread_pairs(const plan_options& how) : order_(how.ranks.size()) {
    const std::vector<std::size_t>& node_of = how.source_ranks.nodes;
    std::vector<std::size_t> next(node_of.empty() ? 0 : order_.size() + 1);  // per node: the place of its next rank
    for (const std::size_t node : node_of) {
      ++next[node + 1];
    }
    for (std::size_t node = 1; node < next.size(); ++node) {
      next[node] += next[node - 1];
    }
    for (std::size_t rank = 0; rank < order_.size(); ++rank) {
      order_[node_of.empty() ? rank : next[node_of[rank]]++] = rank;
    }
  }

  /// O(ranks), both.
  [[nodiscard]] std::size_t read_by(std::size_t rank) const noexcept { return after(rank, order_.size() / 2); }
  [[nodiscard]] std::size_t reader_of(std::size_t rank) const noexcept {
    return after(rank, order_.size() - order_.size() / 2);
  }

 private:
  [[nodiscard]] std::size_t after(std::size_t rank, std::size_t steps) const noexcept {
    std::size_t place = 0;
    while (order_[place] != rank) {
      ++place;
    }
    return order_[(place + steps) % order_.size()];
  }

  std::vector<std::size_t> order_;
};

}  // namespace fsdpinit
