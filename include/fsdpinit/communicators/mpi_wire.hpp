#pragma once

#include <fsdpinit/communicators/message_engine.hpp>
#include <fsdpinit/communicators/mpi_handles.hpp>
#include <fsdpinit/communicators/mpi_link.hpp>
#include <fsdpinit/communicators/mpi_transfers.hpp>
#include <fsdpinit/communicators/mpi_window.hpp>
#include <fsdpinit/concepts/communicator.hpp>
#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/core/deadline.hpp>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <utility>
#include <vector>

namespace fsdpinit::detail {

/// How payload travels over MPI: within a node through a shared window where it lies there, else as messages. A broadcast goes to other
/// nodes along a binomial tree.
class mpi_wire {
 public:
  using operation = mpi_operation;

  mpi_wire(mpi_group&& world, peer_lost_action when_lost, std::uint64_t staging_bytes, int window_group)
      : link_(std::move(world), when_lost),
        window_(link_.world(), staging_bytes, window_group),
        transfers_(link_, window_) {}

  [[nodiscard]] std::size_t rank() const noexcept { return link_.rank(); }
  [[nodiscard]] std::size_t size() const noexcept { return link_.size(); }
  [[nodiscard]] mpi_link& link() noexcept { return link_; }
  [[nodiscard]] mpi_window& window() noexcept { return window_; }

  template <class Fn>
  auto guarded(Fn&& fn) {
    return link_.guarded(std::forward<Fn>(fn));
  }

  void reserve(const expected_operations& most) {
    tree_.reserve(link_.size());
    transfers_.reserve(most.in_flight, {.sends = most.peers < most_tree_children ? most_tree_children : most.peers,
                                        .receives = 1,
                                        .bytes = most.bytes});
  }
  [[nodiscard]] operation& begin(const message_load& load) { return transfers_.begin(load); }
  void send(operation& which, std::size_t peer, bytes_view payload) { transfers_.offer(which, peer, payload); }
  void receive(operation& which, std::size_t peer, mutable_bytes into) { transfers_.expect(which, peer, into); }
  void go(operation& /*which*/) { transfers_.progress(); }
  void copy(operation& /*which*/, std::byte* to, bytes_view from) noexcept {
    std::memcpy(to, from.data(), from.size());
  }
  void wait(operation& which, deadline limit) { transfers_.wait(which, limit); }
  [[nodiscard]] bytes_view view(operation& which, deadline limit) { return transfers_.view(which, limit); }
  void abandon(operation& which, deadline limit) {
    if (!link_.poisoned()) {
      transfers_.abandon(which, limit);
    }
  }
  void rearm() noexcept {
    link_.rearm();
    transfers_.rearm();
  }

  /// \param viewed  not copied on this rank where it lies in a window
  [[nodiscard]] operation* broadcast(mutable_bytes buffer, std::size_t root, std::span<const std::size_t> group,
                                     bool viewed = false) {
    tree_.reserve(link_.size());
    operation& made = transfers_.begin(
        {.sends = root == link_.rank() ? group.size() : most_tree_children, .receives = 1, .bytes = buffer.size()});
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

  mpi_link link_;
  mpi_window window_;
  mpi_transfers transfers_;
  std::vector<std::size_t> tree_;
};

}  // namespace fsdpinit::detail
