#pragma once

#include <fsdpinit/communicators/rank_group.hpp>
#include <fsdpinit/core/attempt.hpp>
#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/core/deadline.hpp>
#include <fsdpinit/core/error.hpp>
#include <fsdpinit/core/text.hpp>
#include <fsdpinit/os/monitor.hpp>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <utility>
#include <vector>

namespace fsdpinit::detail {

[[nodiscard]] inline error threads_size_mismatch(std::uint64_t sent, std::uint64_t expected) {
  return {
      errc::communication, "",
      concat("a peer sent ", sent, " bytes where ", expected, " were expected; are all ranks given the same plan?")};
}

/// The started operations of all ranks of a world of threads, copied outside of its monitor.
///
/// A rank's operations are counted; the count and the root are what brings root and receivers together, so disjoint groups do
/// not meet. An operation at its root is a `posted`, which its receivers look for.
class threads_payload {
 public:
  enum class kind : std::uint8_t { broadcast, scatter, all_gather, reduce_scatter };

  struct token {
    std::uint64_t epoch = 0;
    std::uint64_t sequence = 0;
    std::size_t root = 0;
    mutable_bytes destination{};
    kind what = kind::broadcast;
    bool active = false;
  };

  threads_payload(monitor& changed, std::size_t ranks) : changed_(changed), everyone_(all_ranks(ranks)), ranks_(ranks) {
    for (rank_state& rank : ranks_) {  // so that no rank fails in an operation that others wait for
      rank.posts.reserve(posts_at_first);
      rank.views.reserve(ranks);
    }
  }

  [[nodiscard]] std::span<const std::size_t> everyone() const noexcept { return everyone_; }

  /// Room for so many operations of which `self` is the root.
  void reserve(std::size_t self, std::size_t operations) {
    const monitor::lock lock(changed_);
    ranks_[self].posts.reserve(operations);
  }

  token start(std::size_t self, std::size_t root, kind what, std::span<const bytes_view> windows, mutable_bytes buffer,
              std::span<const std::size_t> group) {
    check_group(group, self, root, ranks_.size());
    const monitor::lock lock(changed_);
    rank_state& mine = ranks_[self];
    posted* const free = self == root ? &free_post(mine) : nullptr;
    const token made{.epoch = mine.epoch,
                     .sequence = mine.started++,
                     .root = root,
                     .destination = buffer,
                     .what = what,
                     .active = true};
    if (free != nullptr) {
      publish(*free, made, windows, buffer, group.size() - 1);
    }
    return made;
  }

  /// `copy(to, from, bytes)` is how a receiver copies its part, the monitor not locked; what it throws this throws.
  template <class Copy>
  void wait(std::size_t self, token& operation, deadline limit, Copy&& copy) {
    if (!std::exchange(operation.active, false)) {
      return;
    }
    monitor::lock lock(changed_);
    if (self == operation.root) {
      finish_root(lock, operation, limit);
    } else {
      receive(lock, self, operation, limit, copy);
    }
    ranks_[self].ended = operation.sequence + 1;
  }

  /// An operation in which each member of the group shows the others `shown`, the same number of bytes: calls `read(views)`
  /// once all of them are there, with what each one shows, in the order of the group, the monitor not locked.
  template <class Read>
  void exchange(std::size_t self, kind what, bytes_view shown, std::span<const std::size_t> group, deadline limit,
                Read&& read) {
    check_group(group, self, self, ranks_.size());
    monitor::lock lock(changed_);
    rank_state& mine = ranks_[self];
    mine.views.resize(group.size());
    posted& free = free_post(mine);
    const token made{.epoch = mine.epoch, .sequence = mine.started++, .root = self, .what = what};
    publish(free, made, {}, shown, group.size() - 1);
    try {
      read_all(lock, made, group, limit, std::forward<Read>(read));
    } catch (...) {
      take_back(lock, made);
      throw;
    }
    finish_root(lock, made, limit);
    mine.ended = made.sequence + 1;
  }

  /// \pre the monitor is locked.
  void interrupt(std::size_t self) noexcept {
    interrupted_epoch_ = interrupted_epoch_ < ranks_[self].epoch ? ranks_[self].epoch : interrupted_epoch_;
    changed_.notify_all();
  }
  /// \pre the monitor is locked.
  [[nodiscard]] bool is_interrupted(std::size_t self) const noexcept {
    return interrupted_epoch_ >= ranks_[self].epoch;
  }
  /// \pre the monitor is locked.
  void rearm(std::size_t self) noexcept {
    ++ranks_[self].epoch;
    ranks_[self].started = 0;
    ranks_[self].ended = 0;
  }

 private:
  /// A started operation at its root. It is `live` until the root has waited for it.
  struct posted {
    std::uint64_t epoch = 0;
    std::uint64_t sequence = 0;
    std::span<const bytes_view> windows;  // of a scatter
    bytes_view payload;                   // of anything else
    std::size_t receivers = 0;
    std::size_t finished = 0;  // receivers that have their part
    std::size_t copying = 0;   // receivers that are reading right now
    bool draining = false;     // the root takes its buffers back as soon as nobody reads them
    kind what = kind::broadcast;
    bool live = false;
  };
  static constexpr std::size_t posts_at_first = 8;
  struct rank_state {
    std::uint64_t epoch = 1;
    std::uint64_t started = 0;
    std::uint64_t ended = 0;  // all operations before that
    std::vector<posted> posts;
    std::vector<bytes_view> views;  // of an exchange
  };

  static error interrupted() noexcept {
    return error::if_possible_with_text(errc::interrupted, "", "interrupted by the failure of another rank");
  }

  [[nodiscard]] bool is_interrupted(const token& operation) const noexcept {
    return interrupted_epoch_ >= operation.epoch;
  }
  /// As many as were ever in flight from this root: a handful. Past those that a world begins with, this may fail, before anything has
  /// been started.
  static posted& free_post(rank_state& root) {
    for (posted& post : root.posts) {
      if (!post.live) {
        return post;
      }
    }
    return root.posts.emplace_back();
  }
  void publish(posted& free, const token& operation, std::span<const bytes_view> windows, bytes_view payload,
               std::size_t receivers) noexcept {
    free = {.epoch = operation.epoch,
            .sequence = operation.sequence,
            .windows = windows,
            .payload = payload,
            .receivers = receivers,
            .what = operation.what,
            .live = true};
    changed_.notify_all();
  }
  posted* find(const token& operation) noexcept { return find(operation, operation.root); }
  /// What `rank` has posted at the place of the operation.
  posted* find(const token& operation, std::size_t rank) noexcept {
    for (posted& post : ranks_[rank].posts) {
      if (post.live && post.epoch == operation.epoch && post.sequence == operation.sequence) {
        return &post;
      }
    }
    return nullptr;
  }
  /// A root alone has nothing to wait for, but must not miss that the others have stopped.
  [[nodiscard]] bool is_complete(const token& operation) noexcept {
    const posted& post = *find(operation);
    return post.finished == post.receivers && !(post.receivers == 0 && is_interrupted(operation));
  }

  void finish_root(monitor::lock& lock, const token& operation, deadline limit) {
    const bool in_time = lock.wait_until(limit, [&] { return is_complete(operation) || is_interrupted(operation); });
    if (is_complete(operation)) {
      take_back(lock, operation);
      return;
    }
    const std::size_t unfinished = find(operation)->receivers - find(operation)->finished;
    take_back(lock, operation);
    throw in_time || !limit.passed() ? interrupted() : lost_receivers(operation, unfinished);
  }

  /// Operations of groups know only how many receivers they have: of all ranks that have not come so far there may be too many.
  [[nodiscard]] error lost_receivers(const token& operation, std::size_t unfinished) const {
    std::vector<std::size_t> missing;
    for (const std::size_t rank : everyone_) {
      if (rank != operation.root && ranks_[rank].ended <= operation.sequence) {
        missing.push_back(rank);
      }
    }
    if (missing.size() == unfinished && unfinished != 0) {
      return lost_ranks(missing);
    }
    return {errc::peer_lost,
            "",
            concat(unfinished, " of a group of ranks did not answer rank ", operation.root,
                   " within the deadline; look at what the other ranks do, or raise deadline_seconds"),
            {.rank = every_rank}};
  }

  /// The buffers go back to the caller: whoever still reads them is waited for (one memcpy), whoever has not begun never will.
  void take_back(monitor::lock& lock, const token& operation) {
    posted& post = *find(operation);
    post.draining = true;
    static_cast<void>(lock.wait_until(deadline::never(), [&] { return post.copying == 0; }));
    post.live = false;
  }

  template <class Copy>
  void receive(monitor::lock& lock, std::size_t self, const token& operation, deadline limit, Copy& copy) {
    const bool in_time =
        lock.wait_until(limit, [&] { return find(operation) != nullptr || is_interrupted(operation); });
    posted* post = find(operation);
    if (is_interrupted(operation) || post == nullptr) {
      throw in_time || !limit.passed() ? interrupted() : lost_ranks({&operation.root, 1});
    }
    const bytes_view from = post->what == kind::scatter ? post->windows[self] : post->payload;
    if (post->what != operation.what || from.size() != operation.destination.size()) {
      throw threads_size_mismatch(from.size(), operation.destination.size());
    }
    ++post->copying;
    std::optional<error> failed;
    lock.without([&] {
      if (!from.empty()) {
        failed = attempt([&] { copy(operation.destination.data(), from.data(), from.size()); });
      }
    });
    end_reading(*find(operation));  // posts may have moved; while copying it is live
    if (failed) {
      throw error(*failed);
    }
  }

  void end_reading(posted& post) noexcept {
    --post.copying;
    ++post.finished;
    if (post.finished == post.receivers || (post.draining && post.copying == 0)) {  // else nobody waits for this
      changed_.notify_all();
    }
  }

  template <class Read>
  void read_all(monitor::lock& lock, const token& mine, std::span<const std::size_t> group, deadline limit,
                Read&& read) {
    std::size_t posted_so_far = 0;
    const auto all_posted = [&] {
      while (posted_so_far != group.size() && find(mine, group[posted_so_far]) != nullptr) {
        ++posted_so_far;
      }
      return posted_so_far == group.size();
    };
    const bool in_time = lock.wait_until(limit, [&] { return all_posted() || is_interrupted(mine); });
    if (is_interrupted(mine) && in_time) {
      throw interrupted();
    }
    bool all_there = true;
    std::vector<std::size_t> missing;  // those that never came; others may have given up meanwhile
    for (const std::size_t member : group) {
      all_there = all_there && find(mine, member) != nullptr;
      if (ranks_[member].epoch != mine.epoch || ranks_[member].started <= mine.sequence) {
        missing.push_back(member);
      }
    }
    if (!all_there) {
      throw limit.passed() ? lost_ranks(missing) : interrupted();
    }
    const std::uint64_t bytes = find(mine)->payload.size();
    std::vector<bytes_view>& views = ranks_[mine.root].views;
    for (std::size_t i = 0; i < group.size(); ++i) {
      const posted* const post = find(mine, group[i]);
      if (post->what != mine.what || post->payload.size() != bytes) {
        throw threads_size_mismatch(post->payload.size(), bytes);
      }
      views[i] = post->payload;
    }
    for (const std::size_t member : group) {
      if (member != mine.root) {
        ++find(mine, member)->copying;
      }
    }
    std::optional<error> failed;
    lock.without([&] { failed = attempt([&] { read(std::span<const bytes_view>(views)); }); });
    for (const std::size_t member : group) {
      if (member != mine.root) {
        end_reading(*find(mine, member));
      }
    }
    if (failed) {
      throw error(*failed);
    }
  }

  monitor& changed_;
  std::vector<std::size_t> everyone_;
  std::vector<rank_state> ranks_;
  std::uint64_t interrupted_epoch_ = 0;
};

}  // namespace fsdpinit::detail
