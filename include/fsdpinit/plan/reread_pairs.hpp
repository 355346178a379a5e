#pragma once

#include <fsdpinit/plan/plan.hpp>
#include <fsdpinit/plan/slab_layout.hpp>
#include <fsdpinit/plan/transport.hpp>

#include <algorithm>
#include <cstddef>
#include <numeric>
#include <vector>

/// \file
/// `verification::reread`: who reads what again.

namespace fsdpinit {

/// Do several ranks read a tensor, each a part of it or for some others? Then its parts may be of different copies of
/// the checkpoint, and what a rank holds is held against what another one reads. Else it comes from one copy, and each
/// rank reads its own part again.
[[nodiscard]] inline bool is_read_by_several(const plan_options& how, const planned_tensor& tensor) noexcept {
  if (tensor.captured || tensor.generated || how.ranks.size() == 1) {
    return false;
  }
  return tensor.way == route::own_read || tensor.way == route::full_copy || !how.sources.is_single();
}

/// Whose part of such tensors each rank reads again: that of the rank half of all ranks away, counted node by node
/// where nodes are known, so that copies on two nodes meet. Every part is read again by one rank, and never by the one
/// that holds it where there are two.
class reread_pairs {
 public:
  /// O(ranks); with nodes O(ranks log ranks).
  explicit reread_pairs(const plan_options& how) : order_(how.ranks.size()) {
    std::iota(order_.begin(), order_.end(), std::size_t{0});
    if (const std::vector<std::size_t>& node_of = how.sources.nodes; !node_of.empty()) {
      std::stable_sort(order_.begin(), order_.end(),
                       [&](std::size_t a, std::size_t b) { return node_of[a] < node_of[b]; });
    }
  }

  /// O(ranks), both.
  [[nodiscard]] std::size_t read_by(std::size_t rank) const noexcept { return after(rank, order_.size() / 2); }
  [[nodiscard]] std::size_t reader_of(std::size_t rank) const noexcept {
    return after(rank, order_.size() - order_.size() / 2);
  }

 private:
  [[nodiscard]] std::size_t after(std::size_t rank, std::size_t steps) const noexcept {
    const auto place = static_cast<std::size_t>(std::find(order_.begin(), order_.end(), rank) - order_.begin());
    return order_[(place + steps) % order_.size()];
  }

  std::vector<std::size_t> order_;
};

}  // namespace fsdpinit
