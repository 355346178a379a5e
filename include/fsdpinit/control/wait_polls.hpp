#pragma once

#include <fsdpinit/core/attempt.hpp>
#include <fsdpinit/core/deadline.hpp>
#include <fsdpinit/core/error.hpp>
#include <fsdpinit/observe/observer.hpp>
#include <fsdpinit/observe/stop_ref.hpp>

#include <optional>

namespace fsdpinit::detail {

/// What one rank looks at while it waits, and between steps: whether a stop was requested, and its observer's poll(). A failure is kept
/// until the rank can tell the others. Nothing is allocated unless something has failed.
class wait_polls final : public wait_hook {
 public:
  wait_polls(observer_ref observer, stop_ref stop) noexcept : observer_(observer), stop_(stop) {}

  /// Is there anything to look at?
  [[nodiscard]] bool has_any() const noexcept { return observer_.polls() || stop_.has_any(); }

  bool look() noexcept override {
    const double now = monotonic_seconds();
    if (now >= next_) {
      look_at(now);
    }
    return untold() != nullptr;
  }
  const error* failure() noexcept override {
    look_at(monotonic_seconds());
    return untold();
  }
  const error* take() noexcept override {
    const error* const taken = untold();
    taken_ = taken_ || taken != nullptr;
    return taken;
  }

 private:
  [[nodiscard]] const error* untold() const noexcept { return failure_ && !taken_ ? &*failure_ : nullptr; }
  void look_at(double now) noexcept {
    if (failure_) {
      return;
    }
    failure_ = attempt([&] {
      own_step([&] {
        if (stop_.stop_requested()) {
          throw error(errc::cancelled, "", "a stop was requested");
        }
        observer_.poll();
      });
    });
    next_ = now + deadline::look_seconds;
  }

  observer_ref observer_;
  stop_ref stop_;
  double next_ = 0;
  std::optional<error> failure_;
  bool taken_ = false;
};

}  // namespace fsdpinit::detail
