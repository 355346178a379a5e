#pragma once

#include <fsdpinit/core/compiler.hpp>

#include <cstdint>
#include <ctime>
#include <limits>

namespace fsdpinit {

class error;

/// Seconds on the monotonic clock. Read through clock_gettime so that `<chrono>` stays out of `core.hpp`.
[[nodiscard]] inline double monotonic_seconds() noexcept {
  std::timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

/// How long a rank waits for its peers unless it is told.
inline constexpr double default_deadline_seconds = 600;

/// Is that a time to wait? 0, negative numbers and NaN are none.
[[nodiscard]] constexpr bool is_deadline(double seconds) noexcept { return seconds > 0; }

/// What a rank looks at while it waits: whether the program wants the wait to end. Used on the rank's own thread.
class wait_hook {
 public:
  wait_hook(const wait_hook&) = delete;
  wait_hook& operator=(const wait_hook&) = delete;

  /// Looks, unless it did a moment ago. \return shall this rank wait no longer?
  virtual bool look() noexcept = 0;
  /// Looks in any case. The failure that this rank has to tell the others, nullptr for none; it belongs to the hook.
  virtual const error* failure() noexcept = 0;
  /// The same without another look, for who tells them: afterwards there is none, and the hook looks at nothing any more.
  virtual const error* take() noexcept = 0;

 protected:
  wait_hook() = default;
  ~wait_hook() = default;
};

/// The moment after which a rank stops waiting for its peers and reports `peer_lost`; and what may end the wait before.
///
/// Whoever waits until a deadline, in a communicator for instance, asks `ended()` at least every `look_seconds`, and throws
/// error{interrupted} where it says so: the rank itself knows why, and tells the others.
class deadline {
 public:
  /// How often a wait asks whether it has ended.
  static constexpr double look_seconds = 0.05;

  [[nodiscard]] static deadline after(double seconds) noexcept { return deadline(monotonic_seconds() + seconds); }
  [[nodiscard]] static constexpr deadline never() noexcept { return deadline(std::numeric_limits<double>::infinity()); }

  /// Seconds left; negative once it has passed, infinite for `never()`.
  [[nodiscard]] double remaining() const noexcept { return at_ - monotonic_seconds(); }
  [[nodiscard]] bool passed() const noexcept { return remaining() <= 0; }

  /// So many seconds from now, and otherwise the same.
  [[nodiscard]] deadline in(double seconds) const noexcept { return after(seconds).looking(hook_, may_end_); }
  /// The same moment, for a wait in which `hook` looks; nullptr: nobody does. It outlives the wait.
  /// \param may_end  else it only looks, as in an operation that cannot be given up
  [[nodiscard]] deadline looking(wait_hook* hook, bool may_end) const noexcept {
    deadline out = *this;
    out.hook_ = hook;
    out.may_end_ = may_end;
    return out;
  }
  /// The same, for a wait that the hook does not end.
  [[nodiscard]] deadline only_looking() const noexcept { return looking(hook_, false); }
  /// Is there anybody who looks?
  [[nodiscard]] bool looks() const noexcept { return hook_ != nullptr; }
  /// Looks. Must this wait end, though what it waits for has not come?
  [[nodiscard]] bool ended() const noexcept { return hook_ != nullptr && hook_->look() && may_end_; }
  /// Why a wait has ended, for a communicator that hands this to the others itself: as `wait_hook::take`. nullptr where none has.
  [[nodiscard]] const error* reason() const noexcept { return hook_ != nullptr && may_end_ ? hook_->take() : nullptr; }

 private:
  explicit constexpr deadline(double at) noexcept : at_(at) {}
  double at_;
  wait_hook* hook_ = nullptr;
  bool may_end_ = false;
};

}  // namespace fsdpinit
