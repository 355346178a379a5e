#pragma once

#include <fsdpinit/communicators/monitor.hpp>
#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/core/deadline.hpp>
#include <fsdpinit/core/error.hpp>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

/// \file
/// Ranks as threads of one process. A root publishes where its bytes are; every receiver copies its own part from
/// there, once, so receivers copy at the same time and nothing is staged in between.

namespace fsdpinit {

namespace detail {

/// The state that all ranks of a `threads_world` share; one mutex, and copies of payload outside of it.
class threads_state {
 public:
  explicit threads_state(std::size_t ranks) : ranks_(ranks) {}

  /// A started operation at its root. It is `live` until the root has waited for it.
  struct posted {
    std::uint64_t epoch = 0;
    std::uint64_t sequence = 0;
    std::span<const bytes_view> windows;  // of a scatter
    bytes_view payload;                   // of a broadcast
    std::size_t finished = 0;             // receivers that have their part
    std::size_t copying = 0;              // receivers that are reading right now
    bool draining = false;                // the root takes its buffers back as soon as nobody reads them
    bool scatter = false;
    bool live = false;
  };

  struct token {
    std::uint64_t epoch = 0;
    std::uint64_t sequence = 0;
    std::size_t root = 0;
    mutable_bytes destination;
    bool scatter = false;
    bool active = false;
  };

  [[nodiscard]] std::size_t size() const noexcept { return ranks_.size(); }

  token start(std::size_t self, std::size_t root, bool scatter, std::span<const bytes_view> windows,
              mutable_bytes buffer) {
    const monitor::lock lock(changed_);
    rank_state& mine = ranks_[self];
    const token made{.epoch = mine.epoch,
                     .sequence = mine.started++,
                     .root = root,
                     .destination = buffer,
                     .scatter = scatter,
                     .active = true};
    if (self == root) {
      posted* const free = free_post(mine);
      *free = {.epoch = made.epoch,
               .sequence = made.sequence,
               .windows = windows,
               .payload = buffer,
               .scatter = scatter,
               .live = true};
      changed_.notify_all();
    }
    return made;
  }

  void wait(std::size_t self, token& operation, deadline limit) {
    if (!std::exchange(operation.active, false)) {
      return;
    }
    monitor::lock lock(changed_);
    if (self == operation.root) {
      finish_root(lock, operation, limit);
    } else {
      receive(lock, self, operation, limit);
    }
  }

  void interrupt(std::size_t self) noexcept {
    const monitor::lock lock(changed_);
    interrupt_locked(self);
  }

  void rearm(std::size_t self) noexcept {
    const monitor::lock lock(changed_);
    ++ranks_[self].epoch;
    ranks_[self].started = 0;
  }

  std::uint64_t all_reduce_max(std::size_t self, std::uint64_t value, deadline limit) {
    monitor::lock lock(changed_);
    enter_control(lock, self, limit);
    const std::uint64_t generation = reduce_.generation;
    reduce_.most = reduce_.most < value ? value : reduce_.most;
    if (++reduce_.arrived == size()) {
      reduce_.result = std::exchange(reduce_.most, 0);
      reduce_.arrived = 0;
      ++reduce_.generation;
      changed_.notify_all();
    } else {
      wait_control(lock, limit, [&] { return reduce_.generation != generation; });
    }
    return reduce_.result;  // the next reduction cannot end before this rank has joined it
  }

  void broadcast(std::size_t self, mutable_bytes buffer, std::size_t root, deadline limit) {
    monitor::lock lock(changed_);
    enter_control(lock, self, limit);
    if (size() == 1) {
      return;
    }
    std::uint64_t& number = ranks_[self].broadcasts;
    if (self == root) {
      wait_control(lock, limit, [&] { return broadcast_.remaining == 0; });  // the previous one, of another root
      broadcast_ = {.payload = buffer, .number = number, .remaining = size() - 1};
      changed_.notify_all();
      try {
        wait_control(lock, limit, [&] { return broadcast_.remaining == 0 || broadcast_.number != number; });
      } catch (...) {
        broadcast_.remaining = 0;  // the buffer goes back to the caller: nobody may begin to read it
        throw;
      }
    } else {
      wait_control(lock, limit, [&] { return broadcast_.remaining != 0 && broadcast_.number == number; });
      if (broadcast_.payload.size() != buffer.size()) {
        throw size_mismatch(broadcast_.payload.size(), buffer.size());
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
      interrupt_locked(self);
    }
    error first = *failure_;
    if (std::exchange(ranks_[self].has_failed, true)) {
      return first;
    }
    if (++failed_ == size()) {
      failed_ = 0;
      failure_.reset();
      reduce_ = {};
      broadcast_ = {};
      for (rank_state& rank : ranks_) {
        rank.has_failed = false;
        rank.broadcasts = 0;
      }
    }
    changed_.notify_all();
    return first;
  }

 private:
  struct rank_state {
    std::uint64_t epoch = 1;
    std::uint64_t started = 0;
    std::vector<posted> posts;
    std::uint64_t broadcasts = 0;  // on the control channel, finished
    bool has_failed = false;       // it knows of the current failure
  };
  struct reduction {
    std::uint64_t generation = 0;
    std::uint64_t most = 0;
    std::uint64_t result = 0;
    std::size_t arrived = 0;
  };
  struct control_broadcast {
    bytes_view payload;
    std::uint64_t number = 0;
    std::size_t remaining = 0;  // receivers that have not read it yet
  };

  static error size_mismatch(std::uint64_t sent, std::uint64_t expected) {
    return {
        errc::communication, "",
        concat("a peer sent ", sent, " bytes where ", expected, " were expected; are all ranks given the same plan?")};
  }
  static error lost() {
    return {errc::peer_lost, "",
            "a peer did not arrive within the deadline; look at what the other ranks do, or raise deadline_seconds"};
  }
  static error interrupted() { return {errc::interrupted, "", "interrupted by the failure of another rank"}; }

  [[nodiscard]] bool is_interrupted(const token& operation) const noexcept {
    return interrupted_epoch_ >= operation.epoch;
  }
  /// As many as were ever in flight from this root: a handful.
  static posted* free_post(rank_state& root) {
    for (posted& post : root.posts) {
      if (!post.live) {
        return &post;
      }
    }
    return &root.posts.emplace_back();
  }
  void interrupt_locked(std::size_t self) noexcept {
    interrupted_epoch_ = interrupted_epoch_ < ranks_[self].epoch ? ranks_[self].epoch : interrupted_epoch_;
    changed_.notify_all();
  }
  posted* find(const token& operation) noexcept {
    for (posted& post : ranks_[operation.root].posts) {
      if (post.live && post.epoch == operation.epoch && post.sequence == operation.sequence) {
        return &post;
      }
    }
    return nullptr;
  }

  void finish_root(monitor::lock& lock, const token& operation, deadline limit) {
    const bool in_time =
        lock.wait_until(limit, [&] { return find(operation)->finished == size() - 1 || is_interrupted(operation); });
    const bool complete = find(operation)->finished == size() - 1;
    // The buffers go back to the caller: whoever still reads them is waited for (one memcpy), whoever has not begun
    // never will.
    posted& post = *find(operation);
    post.draining = true;
    static_cast<void>(lock.wait_until(deadline::never(), [&] { return post.copying == 0; }));
    post.live = false;
    if (!complete) {
      throw in_time ? interrupted() : lost();
    }
  }

  void receive(monitor::lock& lock, std::size_t self, const token& operation, deadline limit) {
    const bool in_time =
        lock.wait_until(limit, [&] { return find(operation) != nullptr || is_interrupted(operation); });
    posted* post = find(operation);
    if (is_interrupted(operation) || post == nullptr) {
      throw in_time ? interrupted() : lost();
    }
    const bytes_view from = post->scatter ? post->windows[self] : post->payload;
    if (post->scatter != operation.scatter || from.size() != operation.destination.size()) {
      throw size_mismatch(from.size(), operation.destination.size());
    }
    ++post->copying;
    lock.without([&] {
      if (!from.empty()) {
        std::memcpy(operation.destination.data(), from.data(), from.size());
      }
    });
    post = find(operation);  // posts may have moved; while copying it is live
    --post->copying;
    ++post->finished;
    if (post->finished == size() - 1 || (post->draining && post->copying == 0)) {  // else nobody waits for this
      changed_.notify_all();
    }
  }

  /// A rank that knows of a failure waits here until all do, and the channel starts afresh.
  void enter_control(monitor::lock& lock, std::size_t self, deadline limit) {
    if (!lock.wait_until(limit, [&] { return !ranks_[self].has_failed; })) {
      throw lost();
    }
    if (failure_) {
      throw error(*failure_);
    }
  }

  template <class Predicate>
  void wait_control(monitor::lock& lock, deadline limit, Predicate&& done) {
    if (!lock.wait_until(limit, [&] { return done() || failure_; })) {
      throw lost();
    }
    if (!done()) {
      throw error(*failure_);
    }
  }

  monitor changed_;
  std::vector<rank_state> ranks_;
  std::uint64_t interrupted_epoch_ = 0;
  reduction reduce_;
  control_broadcast broadcast_;
  std::optional<error> failure_;
  std::size_t failed_ = 0;  // ranks that know of it
};

}  // namespace detail

/// One rank's handle. Data and control channel in one: started operations carry payload and can be interrupted;
/// blocking ones carry agreement. A handle is used by one thread at a time.
class threads_communicator {
 public:
  using token = detail::threads_state::token;

  threads_communicator(std::shared_ptr<detail::threads_state> state, std::size_t rank) noexcept
      : state_(std::move(state)), rank_(rank) {}

  [[nodiscard]] std::size_t rank() const noexcept { return rank_; }
  [[nodiscard]] std::size_t size() const noexcept { return state_->size(); }

  token start_broadcast(mutable_bytes buffer, std::size_t root) {
    return state_->start(rank_, root, false, {}, buffer);
  }
  token start_scatter(std::span<const bytes_view> windows, mutable_bytes own, std::size_t root) {
    return state_->start(rank_, root, true, windows, own);
  }
  /// Receivers copy here. After a throw the operation's buffers are the caller's again.
  void wait(token& operation, deadline limit) { state_->wait(rank_, operation, limit); }

  void interrupt() noexcept { state_->interrupt(rank_); }
  void rearm() noexcept { state_->rearm(rank_); }

  [[nodiscard]] std::uint64_t all_reduce_max(std::uint64_t value, deadline limit = deadline::never()) {
    return state_->all_reduce_max(rank_, value, limit);
  }
  void broadcast(mutable_bytes buffer, std::size_t root, deadline limit = deadline::never()) {
    state_->broadcast(rank_, buffer, root, limit);
  }
  /// Ends control operations on all ranks with the first reported error, which it returns. They throw it until every
  /// rank has called this; then the channel works again.
  [[nodiscard]] error fail(const error& cause) { return state_->fail(rank_, cause); }

 private:
  std::shared_ptr<detail::threads_state> state_;
  std::size_t rank_;
};

/// A world of `ranks` ranks in this process; give `rank(r)` to the thread that plays rank r. Handles keep the world
/// alive.
class threads_world {
 public:
  explicit threads_world(std::size_t ranks) : state_(std::make_shared<detail::threads_state>(ranks)) {}
  [[nodiscard]] std::size_t size() const noexcept { return state_->size(); }
  [[nodiscard]] threads_communicator rank(std::size_t rank) const { return {state_, rank}; }

 private:
  std::shared_ptr<detail::threads_state> state_;
};

}  // namespace fsdpinit
