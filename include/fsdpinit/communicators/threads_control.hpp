#pragma once

#include <fsdpinit/communicators/rank_group.hpp>
#include <fsdpinit/communicators/threads_payload.hpp>
#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/core/deadline.hpp>
#include <fsdpinit/core/error.hpp>
#include <fsdpinit/os/monitor.hpp>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <utility>
#include <vector>

namespace fsdpinit::detail {

/// The control channel of a world of threads: one operation at a time, and failures that end it on every rank.
class threads_control {
 public:
  threads_control(monitor& changed, threads_payload& payload, std::size_t ranks)
      : changed_(changed), payload_(payload), ranks_(ranks) {}

  std::uint64_t all_reduce_max(std::size_t self, std::uint64_t value, deadline limit) {
    monitor::lock lock(changed_);
    enter(lock, self, limit);
    const std::uint64_t generation = reduce_.generation;
    reduce_.most = reduce_.most < value ? value : reduce_.most;
    ++ranks_[self].reductions;
    if (++reduce_.arrived == ranks_.size()) {
      reduce_.result = std::exchange(reduce_.most, 0);
      reduce_.arrived = 0;
      ++reduce_.generation;
      changed_.notify_all();
    } else {
      wait(
          lock, self, limit, [&] { return reduce_.generation != generation; },
          [&](std::size_t rank) { return ranks_[rank].reductions <= generation; });
    }
    return reduce_.result;  // the next reduction cannot end before this rank has joined it
  }

  void broadcast(std::size_t self, mutable_bytes buffer, std::size_t root, deadline limit) {
    monitor::lock lock(changed_);
    enter(lock, self, limit);
    if (ranks_.size() == 1) {
      return;
    }
    std::uint64_t& number = ranks_[self].broadcasts;
    const auto is_behind = [&](std::size_t rank) { return ranks_[rank].broadcasts < number; };  // at one before
    if (self == root) {
      wait(
          lock, self, limit, [&] { return broadcast_.remaining == 0; }, is_behind);
      broadcast_ = {.payload = buffer, .number = number, .remaining = ranks_.size() - 1};
      changed_.notify_all();
      try {
        wait(
            lock, self, limit, [&] { return broadcast_.remaining == 0 || broadcast_.number != number; },
            [&](std::size_t rank) { return rank != self && ranks_[rank].broadcasts <= number; });
      } catch (...) {
        broadcast_.remaining = 0;  // the buffer goes back to the caller: nobody may begin to read it
        throw;
      }
    } else {
      wait(
          lock, self, limit, [&] { return broadcast_.remaining != 0 && broadcast_.number == number; },
          [&](std::size_t rank) { return rank == root || is_behind(rank); });
      if (broadcast_.payload.size() != buffer.size()) {
        throw threads_size_mismatch(broadcast_.payload.size(), buffer.size());
      }
      if (!buffer.empty()) {
        std::memcpy(buffer.data(), broadcast_.payload.data(), buffer.size());
      }
      --broadcast_.remaining;
      changed_.notify_all();
    }
    ++number;
  }

  /// Every rank whose control operation threw comes here, once; the last one clears the failure.
  error fail(std::size_t self, const error& cause) {
    const monitor::lock lock(changed_);
    if (!failure_) {
      failure_ = cause;
      payload_.interrupt(self);
    }
    // The cause belongs to the rank where it was thrown.
    error first = failure_->rank() == static_cast<std::int32_t>(self) ? *failure_ : failure_->caused_by(nullptr);
    if (std::exchange(ranks_[self].has_failed, true)) {
      return first;
    }
    if (++failed_ == ranks_.size()) {
      failed_ = 0;
      failure_.reset();
      reduce_ = {};
      broadcast_ = {};
      for (rank_state& rank : ranks_) {
        rank = {};
      }
    }
    changed_.notify_all();
    return first;
  }

 private:
  struct rank_state {
    std::uint64_t reductions = 0;  // joined
    std::uint64_t broadcasts = 0;  // finished
    bool has_failed = false;       // it knows of the current failure
  };
  struct reduction {
    std::uint64_t generation = 0;
    std::uint64_t most = 0;
    std::uint64_t result = 0;
    std::size_t arrived = 0;
  };
  struct current_broadcast {
    bytes_view payload;
    std::uint64_t number = 0;
    std::size_t remaining = 0;  // receivers that have not read it yet
  };

  /// A rank that knows of a failure waits here until all do, and the channel starts afresh.
  void enter(monitor::lock& lock, std::size_t self, deadline limit) {
    // Looks without ending it: the others have not all heard of that failure yet, and this would take its place.
    if (!lock.wait_until(limit.only_looking(), [&] { return !ranks_[self].has_failed; })) {
      throw lost([&](std::size_t rank) { return !ranks_[rank].has_failed; });
    }
    if (failure_) {
      throw error(*failure_);
    }
  }

  /// `is_missing(rank)` says whom it waits for.
  template <class Predicate, class IsMissing>
  void wait(monitor::lock& lock, std::size_t self, deadline limit, Predicate&& done, IsMissing&& is_missing) {
    if (!lock.wait_until(limit, [&] { return done() || failure_; })) {
      end_if_asked(self, limit);
      throw lost(is_missing);
    }
    if (!done()) {
      throw error(*failure_);
    }
  }

  /// The channel fails for all before it is unlocked: else the operation could still succeed on the others.
  void end_if_asked(std::size_t self, deadline limit) {
    if (const error* const reason = limit.reason(); reason != nullptr) {
      failure_ = reason->reported_by(static_cast<std::int32_t>(self));
      payload_.interrupt(self);
      throw error(*failure_);
    }
  }

  template <class IsMissing>
  [[nodiscard]] error lost(IsMissing&& is_missing) const {
    std::vector<std::size_t> missing;
    for (const std::size_t rank : payload_.everyone()) {
      if (is_missing(rank)) {
        missing.push_back(rank);
      }
    }
    return lost_ranks(missing);
  }

  monitor& changed_;
  threads_payload& payload_;
  std::vector<rank_state> ranks_;
  reduction reduce_;
  current_broadcast broadcast_;
  std::optional<error> failure_;
  std::size_t failed_ = 0;  // ranks that know of it
};

}  // namespace fsdpinit::detail
