#pragma once

#include <fsdpinit/core/deadline.hpp>

#include <ctime>

#include <pthread.h>

namespace fsdpinit::detail {

/// A mutex and the condition that its state has changed. POSIX rather than <condition_variable>, which costs every
/// includer <chrono>, <stop_token> and the stream classes.
class monitor {
 public:
  /// Locks for its lifetime.
  class lock {
   public:
    explicit lock(monitor& owner) noexcept : owner_(owner) { pthread_mutex_lock(&owner_.mutex_); }
    lock(const lock&) = delete;
    lock& operator=(const lock&) = delete;
    ~lock() { pthread_mutex_unlock(&owner_.mutex_); }

    /// Runs `fn` with the monitor unlocked.
    template <class Fn>
    void without(Fn&& fn) noexcept {
      pthread_mutex_unlock(&owner_.mutex_);
      fn();
      pthread_mutex_lock(&owner_.mutex_);
    }
    /// Waits until `done()`, which is called with the monitor locked. False if the deadline passes first, or the wait is ended: who looks
    /// does so with the monitor unlocked.
    template <class Predicate>
    bool wait_until(deadline limit, Predicate&& done) {
      while (!done()) {
        const double left = limit.remaining();
        if (left <= 0) {
          return false;
        }
        if (limit.looks()) {
          bool ended = false;
          without([&] { ended = limit.ended(); });
          if (ended) {
            return done();
          }
          if (done()) {
            return true;
          }
        }
        // An hour at a time, so that "never" is a time too.
        const double longest = limit.looks() ? deadline::look_seconds : 3600;
        const double at = monotonic_seconds() + (left < longest ? left : longest);
        const std::timespec until{
            .tv_sec = static_cast<std::time_t>(at),
            .tv_nsec = static_cast<long>((at - static_cast<double>(static_cast<std::time_t>(at))) * 1e9)};
        pthread_cond_timedwait(&owner_.changed_, &owner_.mutex_, &until);
      }
      return true;
    }

   private:
    monitor& owner_;
  };

  monitor() noexcept {
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&changed_, &attributes);
    pthread_condattr_destroy(&attributes);
  }
  monitor(const monitor&) = delete;
  monitor& operator=(const monitor&) = delete;
  ~monitor() {
    pthread_cond_destroy(&changed_);
    pthread_mutex_destroy(&mutex_);
  }

  void notify_all() noexcept { pthread_cond_broadcast(&changed_); }

 private:
  pthread_mutex_t mutex_ = PTHREAD_MUTEX_INITIALIZER;
  pthread_cond_t changed_{};
};

}  // namespace fsdpinit::detail
