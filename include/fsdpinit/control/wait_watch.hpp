#pragma once

#include <fsdpinit/concepts/control_ref.hpp>
#include <fsdpinit/control/wait_polls.hpp>
#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/core/deadline.hpp>
#include <fsdpinit/core/error.hpp>
#include <fsdpinit/observe/observer.hpp>
#include <fsdpinit/observe/stop_ref.hpp>
#include <fsdpinit/os/blocked_signals.hpp>
#include <fsdpinit/os/monitor.hpp>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <utility>

#include <pthread.h>

namespace fsdpinit::detail {

/// Tells the observer of one rank of its long waits. The rank's thread says where a wait begins and ends (`wait_scope`); it is within
/// a communicator meanwhile, so that another thread looks at the clock. A wait allocates nothing, and locks twice.
class wait_watch {
 public:
  /// How long a wait is when the observer first hears of it.
  static constexpr double usual_seconds = 3;

  /// \pre observer.hears_of_waits()
  explicit wait_watch(observer_ref observer, double first_seconds = usual_seconds) noexcept
      : observer_(observer), first_seconds_(first_seconds) {}
  wait_watch(const wait_watch&) = delete;
  wait_watch& operator=(const wait_watch&) = delete;
  ~wait_watch() {
    if (!thread_) {
      return;
    }
    {
      const monitor::lock lock(changed_);
      stopping_ = true;
      changed_.notify_all();
    }
    pthread_join(*thread_, nullptr);
  }

  /// Starts the thread; before that the observer hears nothing. \pre called once.
  /// \throws error{io} with errno where the system gives no thread.
  void start() {
    const blocked_signals while_it_starts;
    pthread_t made{};
    if (const int code = pthread_create(&made, nullptr, &run, this); code != 0) {
      throw error(
          errc::io, "watch",
          "the system gives no thread from which to call the observer's waiting(); raise `ulimit -u`, or use an "
          "observer without it",
          {.native_code = code});
    }
    thread_ = made;
  }

  /// \param what  a string literal. \pre no wait is under way.
  void begin(const char* what) noexcept {
    const monitor::lock lock(changed_);
    what_ = what;
    began_ = monotonic_seconds();
    told_at_ = first_seconds_;
  }
  /// The observer is not being told of the wait any more.
  void end() noexcept {
    const monitor::lock lock(changed_);
    what_ = nullptr;
  }

 private:
  static void* run(void* self) {
    wait_watch& all = *static_cast<wait_watch*>(self);
    monitor::lock lock(all.changed_);
    while (!lock.wait_until(deadline::after(all.seconds_to_sleep()), [&] { return all.stopping_; })) {
      all.tell_if_long();
    }
    return nullptr;
  }

  /// Never longer than the shortest wait that is told: so this thread need not be woken where one begins.
  [[nodiscard]] double seconds_to_sleep() const noexcept {
    const double left = what_ == nullptr ? first_seconds_ : began_ + told_at_ - monotonic_seconds();
    return left < first_seconds_ ? left : first_seconds_;
  }

  /// Locked meanwhile, so that the rank's thread does not go on, and to calls of its own, before this one has returned.
  void tell_if_long() noexcept {
    if (what_ == nullptr) {
      return;
    }
    const double waited = monotonic_seconds() - began_;
    if (waited >= told_at_) {
      told_at_ = 2 * waited;
      observer_.waiting(what_, waited);
    }
  }

  observer_ref observer_;
  double first_seconds_;
  monitor changed_;
  std::optional<pthread_t> thread_;
  const char* what_ = nullptr;  // nullptr: this rank does not wait
  double began_ = 0;
  double told_at_ = 0;  // seconds of waiting
  bool stopping_ = false;
};

/// A wait for as long as it lives. \param watch  nullptr where nobody hears of it.
class wait_scope {
 public:
  wait_scope(wait_watch* watch, const char* what) noexcept : watch_(watch) {
    if (watch_ != nullptr) {
      watch_->begin(what);
    }
  }
  wait_scope(const wait_scope&) = delete;
  wait_scope& operator=(const wait_scope&) = delete;
  ~wait_scope() {
    if (watch_ != nullptr) {
      watch_->end();
    }
  }

 private:
  wait_watch* watch_;
};

/// A control channel whose operations are waits for other ranks.
class watched_control {
 public:
  watched_control(control_ref control, wait_watch* watch) noexcept : control_(control), watch_(watch) {}

  [[nodiscard]] std::size_t rank() const { return control_.rank(); }
  [[nodiscard]] std::size_t size() const { return control_.size(); }
  void broadcast(mutable_bytes buffer, std::size_t root, deadline limit = deadline::never()) {
    const wait_scope waiting(watch_, awaited);
    control_.broadcast(buffer, root, limit);
  }
  [[nodiscard]] std::uint64_t all_reduce_max(std::uint64_t value, deadline limit) {
    const wait_scope waiting(watch_, awaited);
    return control_.all_reduce_max(value, limit);
  }
  [[nodiscard]] bool fails_together() const { return control_.fails_together(); }
  [[nodiscard]] error fail(const error& cause) { return control_.fail(cause); }
  void suspect(const error& cause) { control_.suspect(cause); }

 private:
  static constexpr const char* awaited = "other ranks";
  control_ref control_;
  wait_watch* watch_;  // nullptr where nobody hears of waits
};

/// Calls `fn(control, waits)`: with a control channel that is watched where the observer hears of waits, and else with the channel as it
/// is and nullptr; in either case with a hook where there is anything to look at. `fn` starts the watch in its first agreement, as that
/// can fail.
template <class Fn>
decltype(auto) with_watched_waits(observer_ref observer, stop_ref stop, control_ref control, Fn&& fn) {
  wait_polls polls(observer, stop);
  wait_hook* const hook = polls.has_any() ? &polls : nullptr;
  if (!observer.hears_of_waits()) {
    return std::forward<Fn>(fn)(control.looking(hook), static_cast<wait_watch*>(nullptr));
  }
  wait_watch waits(observer);
  watched_control watched(control, &waits);
  return std::forward<Fn>(fn)(control_ref(watched).looking(hook), &waits);
}

}  // namespace fsdpinit::detail
