#pragma once

#include <fsdpinit/communicators/ordered_sum.hpp>
#include <fsdpinit/communicators/rank_group.hpp>
#include <fsdpinit/communicators/threads_control.hpp>
#include <fsdpinit/communicators/threads_payload.hpp>
#include <fsdpinit/concepts/communicator.hpp>
#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/core/deadline.hpp>
#include <fsdpinit/core/error.hpp>
#include <fsdpinit/core/text.hpp>
#include <fsdpinit/os/monitor.hpp>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <utility>
#include <vector>

/// \file
/// Ranks as threads of one process. A root publishes where its bytes are; every receiver copies its own part from
/// there, once, so receivers copy at the same time and nothing is staged in between.

namespace fsdpinit {

namespace detail {

/// What all ranks of a `threads_world` share; one mutex, and copies of payload outside of it.
struct threads_state {
  threads_state(std::size_t ranks, std::span<const std::size_t> node_numbers)
      : payload(changed, ranks), control(changed, payload, ranks), nodes(ranks) {
    if (ranks == 0) {
      throw error(errc::invalid_argument, "ranks", "a world has at least one rank");
    }
    if (!node_numbers.empty() && node_numbers.size() != ranks) {
      throw error(
          errc::invalid_argument, "nodes",
          concat(node_numbers.size(), " numbers of nodes for ", ranks, " ranks; give one for each rank, or none"));
    }
    for (std::size_t rank = 0; rank < node_numbers.size(); ++rank) {
      while (node_numbers[nodes[rank]] != node_numbers[rank]) {
        ++nodes[rank];
      }
    }
  }

  monitor changed;
  threads_payload payload;
  threads_control control;
  std::vector<std::size_t> nodes;  // per rank: the lowest rank of its node
};

}  // namespace detail

/// One rank's handle. Data and control channel in one: started operations carry payload and can be interrupted;
/// blocking ones carry agreement. A handle is used by one thread at a time.
class threads_communicator {
 public:
  using token = detail::threads_payload::token;

  threads_communicator(std::shared_ptr<detail::threads_state> state, std::size_t rank) noexcept
      : state_(std::move(state)), rank_(rank) {}

  [[nodiscard]] std::size_t rank() const noexcept { return rank_; }
  [[nodiscard]] std::size_t size() const noexcept { return state_->payload.everyone().size(); }

  /// 0: all are on one node, unless the world was told otherwise.
  [[nodiscard]] std::size_t node_of(std::size_t rank) const noexcept { return state_->nodes[rank]; }

  void reserve(const expected_operations& most) { state_->payload.reserve(rank_, most.in_flight); }
  token start_broadcast(mutable_bytes buffer, std::size_t root, std::span<const std::size_t> group = {}) {
    return state_->payload.start(rank_, root, kind::broadcast, {}, buffer, members(group));
  }
  token start_scatter(std::span<const bytes_view> windows, mutable_bytes own, std::size_t root,
                      std::span<const std::size_t> group = {}) {
    return state_->payload.start(rank_, root, kind::scatter, windows, own, members(group));
  }
  /// Receivers copy here. After a throw the operation's buffers are the caller's again.
  void wait(token& operation, deadline limit) { wait(operation, limit, copy_on_host); }

  /// Every rank copies straight from the others' parts.
  void all_gather(bytes_view own, mutable_bytes all, std::span<const std::size_t> group, deadline limit) {
    all_gather(own, all, group, limit, copy_on_host);
  }
  /// Every rank adds up its part straight from the others' contributions.
  void reduce_scatter(std::span<const float> contribution, std::span<float> own, std::span<const std::size_t> group,
                      deadline limit) {
    const std::span<const std::size_t> ranks = members(group);
    detail::check_parts(own.size(), contribution.size(), ranks.size(), "numbers");
    state_->payload.exchange(rank_, kind::reduce_scatter, std::as_bytes(contribution), ranks, limit,
                             [&](std::span<const bytes_view> contributions) {
                               const std::size_t begin = detail::index_in(ranks, rank_) * own.size();
                               detail::ordered_sum(own, contributions.size(), [&](std::size_t k) {
                                 return reinterpret_cast<const float*>(contributions[k].data()) + begin;
                               });
                             });
  }

  void interrupt() noexcept {
    const detail::monitor::lock lock(state_->changed);
    state_->payload.interrupt(rank_);
  }
  void rearm() noexcept {
    const detail::monitor::lock lock(state_->changed);
    state_->payload.rearm(rank_);
  }
  [[nodiscard]] bool interrupted() noexcept {
    const detail::monitor::lock lock(state_->changed);
    return state_->payload.is_interrupted(rank_);
  }

  [[nodiscard]] std::uint64_t all_reduce_max(std::uint64_t value, deadline limit = deadline::never()) {
    return state_->control.all_reduce_max(rank_, value, limit);
  }
  void broadcast(mutable_bytes buffer, std::size_t root, deadline limit = deadline::never()) {
    state_->control.broadcast(rank_, buffer, root, limit);
  }
  /// Ends control operations on all ranks with the first reported error, which it returns. They throw it until every
  /// rank has called this; then the channel works again.
  [[nodiscard]] error fail(const error& cause) { return state_->control.fail(rank_, cause); }

 protected:
  /// For payload that is not in host memory: `copy(to, from, bytes)` copies it, and may throw.
  template <class Copy>
  void wait(token& operation, deadline limit, Copy&& copy) {
    state_->payload.wait(rank_, operation, limit, copy);
  }
  template <class Copy>
  void all_gather(bytes_view own, mutable_bytes all, std::span<const std::size_t> group, deadline limit, Copy&& copy) {
    const std::span<const std::size_t> ranks = members(group);
    detail::check_parts(own.size(), all.size(), ranks.size(), "bytes");
    state_->payload.exchange(rank_, kind::all_gather, own, ranks, limit, [&](std::span<const bytes_view> parts) {
      const std::size_t first = detail::index_in(ranks, rank_);  // not all of them from the same one at the same time
      for (std::size_t i = 0; i < parts.size(); ++i) {
        const std::size_t from = (first + i) % parts.size();
        std::byte* const to = all.data() + from * own.size();
        if (!own.empty() && parts[from].data() != to) {
          copy(to, parts[from].data(), own.size());
        }
      }
    });
  }

 private:
  using kind = detail::threads_payload::kind;

  [[nodiscard]] std::span<const std::size_t> members(std::span<const std::size_t> group) const noexcept {
    return group.empty() ? state_->payload.everyone() : group;
  }
  static void copy_on_host(std::byte* to, const std::byte* from, std::uint64_t bytes) noexcept {
    std::memcpy(to, from, bytes);
  }

  std::shared_ptr<detail::threads_state> state_;
  std::size_t rank_;
};

/// A world of `ranks` ranks in this process; give `rank(r)` to the thread that plays rank r. Handles keep the world
/// alive.
class threads_world {
 public:
  /// \throws error{invalid_argument} for no ranks, or another number of nodes. `nodes`, for tests, is empty or has a number for each rank: ranks of equal numbers say that they share a node.
  explicit threads_world(std::size_t ranks, std::span<const std::size_t> nodes = {})
      : state_(std::make_shared<detail::threads_state>(ranks, nodes)) {}
  [[nodiscard]] std::size_t size() const noexcept { return state_->payload.everyone().size(); }
  /// \throws error{invalid_argument} for a rank that the world does not have.
  [[nodiscard]] threads_communicator rank(std::size_t rank) const {
    if (rank >= size()) {
      throw error(errc::invalid_argument, "rank",
                  concat("there is no rank ", rank, " in a world of ", size(), "; ranks count from 0"));
    }
    return {state_, rank};
  }

 private:
  std::shared_ptr<detail::threads_state> state_;
};

}  // namespace fsdpinit
