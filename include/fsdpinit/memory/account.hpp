#pragma once

#include <fsdpinit/concepts/memory_ref.hpp>
#include <fsdpinit/core/compiler.hpp>

#include <atomic>
#include <cstdint>
#include <utility>

namespace fsdpinit {

/// Bytes asked of a memory space: now, and at most. Safe to read from a sampling thread.
class account {
 public:
  void add(std::uint64_t bytes) noexcept { raise(current_.fetch_add(bytes) + bytes); }
  void remove(std::uint64_t bytes) noexcept { current_.fetch_sub(bytes, std::memory_order_relaxed); }
  [[nodiscard]] std::uint64_t current() const noexcept { return current_.load(std::memory_order_relaxed); }
  [[nodiscard]] std::uint64_t peak() const noexcept { return peak_.load(std::memory_order_relaxed); }
  /// The peak is what is there now. It is never less, whoever adds at the same time.
  void restart_peak() noexcept {
    peak_.store(current_.load());
    raise(current_.load());
  }

 private:
  void raise(std::uint64_t now) noexcept {
    std::uint64_t peak = peak_.load();
    while (peak < now && !peak_.compare_exchange_weak(peak, now)) {
    }
  }

  std::atomic<std::uint64_t> current_{0};
  std::atomic<std::uint64_t> peak_{0};
};

}  // namespace fsdpinit

namespace fsdpinit::detail {

/// How far the account of a space has risen above what was in it when this was made; that restarts the account's peak. Whoever
/// uses the account at the same time has a part in it: what they add counts, and what they give back or restart may hide as much.
class peak_growth {
 public:
  explicit peak_growth(memory_ref space) noexcept : space_(std::move(space)) {
    space_.restart_peak();
    before_ = space_.accounted();
  }
  /// 0 where others have given back more than was added.
  [[nodiscard]] std::uint64_t bytes() const noexcept {
    const std::uint64_t peak = space_.accounted_peak();
    return peak < before_ ? 0 : peak - before_;
  }

 private:
  memory_ref space_;
  std::uint64_t before_ = 0;
};

}  // namespace fsdpinit::detail
