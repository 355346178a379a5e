#pragma once

#include <fsdpinit/core/compiler.hpp>

#include <cstdint>
#include <ctime>
#include <limits>

namespace fsdpinit {

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

/// The moment after which a rank stops waiting for its peers and reports `peer_lost`.
class deadline {
 public:
  [[nodiscard]] static deadline after(double seconds) noexcept { return deadline(monotonic_seconds() + seconds); }
  [[nodiscard]] static constexpr deadline never() noexcept { return deadline(std::numeric_limits<double>::infinity()); }

  /// Seconds left; negative once it has passed, infinite for `never()`.
  [[nodiscard]] double remaining() const noexcept { return at_ - monotonic_seconds(); }
  [[nodiscard]] bool passed() const noexcept { return remaining() <= 0; }

 private:
  explicit constexpr deadline(double at) noexcept : at_(at) {}
  double at_;
};

}  // namespace fsdpinit
