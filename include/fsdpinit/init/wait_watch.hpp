#pragma once

#include <fsdpinit/communicators/monitor.hpp>
#include <fsdpinit/concepts/communicator.hpp>
#include <fsdpinit/core/blocked_signals.hpp>
#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/core/deadline.hpp>
#include <fsdpinit/core/error.hpp>
#include <fsdpinit/observe/observer.hpp>

#include <cstddef>
#include <cstdint>
#include <memory>
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

  template <WaitingObserver Watch>
  explicit wait_watch(Watch& watch, double first_seconds = usual_seconds) noexcept
      : observer_(const_cast<void*>(static_cast<const void*>(std::addressof(watch)))),
        tell_([](void* observer, const char* what, double seconds) noexcept {
          static_cast<Watch*>(observer)->waiting(what, seconds);
        }),
        first_seconds_(first_seconds) {}
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
      tell_(observer_, what_, waited);
    }
  }

  void* observer_;
  void (*tell_)(void*, const char*, double) noexcept;
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

/// A control channel whose operations are waits for other ranks. Does not own the channel.
template <Communicator Control>
class watched_control {
 public:
  watched_control(Control& control, wait_watch& watch) noexcept : control_(control), watch_(watch) {}

  [[nodiscard]] std::size_t rank() const { return control_.rank(); }
  [[nodiscard]] std::size_t size() const { return control_.size(); }

  template <class... Limit>
    requires requires(Control& control, mutable_bytes buffer, std::size_t root, Limit... limit) {
      control.broadcast(buffer, root, limit...);
    }
  void broadcast(mutable_bytes buffer, std::size_t root, Limit... limit) {
    const wait_scope waiting(&watch_, awaited);
    control_.broadcast(buffer, root, limit...);
  }
  template <class... Limit>
    requires requires(Control& control, std::uint64_t value, Limit... limit) {
      control.all_reduce_max(value, limit...);
    }
  [[nodiscard]] std::uint64_t all_reduce_max(std::uint64_t value, Limit... limit) {
    const wait_scope waiting(&watch_, awaited);
    return control_.all_reduce_max(value, limit...);
  }
  [[nodiscard]] error fail(const error& cause)
    requires FailableControl<Control>
  {
    return control_.fail(cause);
  }
  void suspect(const error& cause)
    requires SuspectingControl<Control>
  {
    control_.suspect(cause);
  }

 private:
  static constexpr const char* awaited = "other ranks";
  Control& control_;
  wait_watch& watch_;
};

/// Calls `fn(links, waits)`: with a control channel that is watched where the observer hears of waits, and else with the links as they
/// are and nullptr. `fn` starts the watch in its first agreement, as that can fail.
template <Observer Watch, class Data, class Control, class Fn>
decltype(auto) with_watched_waits(Watch& watch, channels<Data, Control> links, Fn&& fn) {
  if constexpr (WaitingObserver<Watch>) {
    wait_watch waits(watch);
    watched_control<Control> control(links.control, waits);
    return std::forward<Fn>(fn)(channels<Data, watched_control<Control>>{links.data, control}, &waits);
  } else {
    return std::forward<Fn>(fn)(links, static_cast<wait_watch*>(nullptr));
  }
}

}  // namespace fsdpinit::detail
