#pragma once

#include <fsdpinit/core/deadline.hpp>
#include <fsdpinit/observe/observer_ref.hpp>

#include <cstdint>

namespace fsdpinit::detail {

/// Calls the observer seldom, and only on the rank that speaks.
class progress_meter {
 public:
  progress_meter(observer_ref watch, bool speaks, std::uint64_t total, double interval) noexcept
      : watch_(watch), speaks_(speaks), total_(total), interval_(interval) {}
  void add(std::uint64_t bytes) {
    if (bytes == 0 || !speaks_) {
      return;
    }
    done_ += bytes;
    const double now = monotonic_seconds();
    if (now >= next_ || done_ == total_) {
      next_ = now + interval_;
      watch_.progress(done_, total_);
    }
  }

 private:
  observer_ref watch_;
  bool speaks_;
  std::uint64_t done_ = 0;
  std::uint64_t total_;
  double interval_;
  double next_ = monotonic_seconds() + interval_;
};

}  // namespace fsdpinit::detail
