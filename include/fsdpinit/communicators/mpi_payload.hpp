#pragma once

#include <fsdpinit/communicators/mpi_handles.hpp>
#include <fsdpinit/communicators/mpi_link.hpp>
#include <fsdpinit/communicators/mpi_transfers.hpp>
#include <fsdpinit/communicators/mpi_window.hpp>
#include <fsdpinit/communicators/rank_group.hpp>
#include <fsdpinit/concepts/communicator.hpp>
#include <fsdpinit/core/bytes.hpp>

#include <cstddef>
#include <span>
#include <vector>

namespace fsdpinit::detail {

/// The started operations of one rank: who gets what from whom. On the root's node everybody gets it from the root; a scatter
/// does so on other nodes too, a broadcast goes there along a binomial tree.
class mpi_payload {
 public:
  mpi_payload(mpi_link& link, mpi_window& window, mpi_transfers& transfers)
      : link_(link), window_(window), transfers_(transfers), everyone_(all_ranks(link.size())) {}

  [[nodiscard]] std::span<const std::size_t> everyone() const noexcept { return everyone_; }

  void reserve(const expected_operations& most) {
    const std::size_t messages = message_count(most.bytes);
    const std::size_t departures = most.peers < most_tree_children ? most_tree_children : most.peers;
    tree_.reserve(link_.size());
    transfers_.reserve(
        most.in_flight,
        {.arrivals = 1, .receives = messages, .departures = departures, .sends = 1 + departures * messages});
  }

  /// \param viewed  not copied on this rank where it lies in a window
  mpi_operation* broadcast(mutable_bytes buffer, std::size_t root, std::span<const std::size_t> group,
                           bool viewed = false) {
    check_group(group, link_.rank(), root, link_.size());
    const std::size_t messages = message_count(buffer.size());
    const std::size_t departures = root == link_.rank() ? group.size() : most_tree_children;
    tree_.reserve(link_.size());
    mpi_operation& made = transfers_.begin(
        {.arrivals = 1, .receives = messages, .departures = departures, .sends = 1 + departures * messages});
    made.relays = true;
    if (root == link_.rank()) {
      for (const std::size_t peer : group) {
        if (peer != root && window_.together(peer, root)) {
          transfers_.offer(made, peer, buffer);
        }
      }
    } else if (window_.together(link_.rank(), root)) {
      transfers_.expect(made, root, buffer, viewed);
    }
    join_tree(made, buffer, root, group);
    transfers_.progress();
    return &made;
  }

  mpi_operation* scatter(std::span<const bytes_view> windows, mutable_bytes own, std::size_t root,
                         std::span<const std::size_t> group) {
    check_group(group, link_.rank(), root, link_.size());
    if (root != link_.rank()) {
      mpi_operation& made =
          transfers_.begin({.arrivals = 1, .receives = message_count(own.size()), .departures = 0, .sends = 1});
      transfers_.expect(made, root, own);
      transfers_.progress();
      return &made;
    }
    std::size_t messages = 0;
    for (const std::size_t peer : group) {
      messages += message_count(windows[peer].size());
    }
    mpi_operation& made =
        transfers_.begin({.arrivals = 0, .receives = 0, .departures = group.size(), .sends = messages});
    for (const std::size_t peer : group) {
      if (peer != root) {
        transfers_.offer(made, peer, windows[peer]);
      }
    }
    transfers_.progress();
    return &made;
  }

 private:
  static constexpr std::size_t most_tree_children = 64;  // one for each bit of a rank

  /// The root and the ranks of other nodes, in the order of the group from the root on. In a binomial tree the parent of
  /// position p is p without its lowest bit.
  void join_tree(mpi_operation& which, mutable_bytes buffer, std::size_t root, std::span<const std::size_t> group) {
    std::vector<std::size_t>& tree = tree_;
    tree.clear();
    const std::size_t first = index_in(group, root);
    std::size_t position = group.size();
    for (std::size_t i = 0; i < group.size(); ++i) {
      const std::size_t rank = group[(first + i) % group.size()];
      if (i == 0 || !window_.together(rank, root)) {
        position = rank == link_.rank() ? tree.size() : position;
        tree.push_back(rank);
      }
    }
    if (position == group.size()) {
      return;  // on the root's node
    }
    if (position != 0) {
      transfers_.receive(which, tree[position & (position - 1)], buffer);
    }
    std::size_t bit = 1;
    while (bit < tree.size() && (position & bit) == 0) {
      bit <<= 1U;
    }
    for (bit >>= 1U; bit != 0; bit >>= 1U) {  // the largest subtree first
      if (position + bit < tree.size()) {
        transfers_.send(which, tree[position + bit], buffer);
      }
    }
  }

  mpi_link& link_;
  mpi_window& window_;
  mpi_transfers& transfers_;
  std::vector<std::size_t> everyone_;
  std::vector<std::size_t> tree_;
};

}  // namespace fsdpinit::detail
