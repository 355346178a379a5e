#pragma once

#include <fsdpinit/core/compiler.hpp>

#include <atomic>
#include <cstdint>

namespace fsdpinit {

/// Bytes asked of a memory space: now, and at most. Safe to read from a sampling thread.
class account {
 public:
  void add(std::uint64_t bytes) noexcept {
    const std::uint64_t now = current_.fetch_add(bytes, std::memory_order_relaxed) + bytes;
    std::uint64_t peak = peak_.load(std::memory_order_relaxed);
    while (peak < now && !peak_.compare_exchange_weak(peak, now, std::memory_order_relaxed)) {
    }
  }
  void remove(std::uint64_t bytes) noexcept { current_.fetch_sub(bytes, std::memory_order_relaxed); }
  [[nodiscard]] std::uint64_t current() const noexcept { return current_.load(std::memory_order_relaxed); }
  [[nodiscard]] std::uint64_t peak() const noexcept { return peak_.load(std::memory_order_relaxed); }
  void restart_peak() noexcept { peak_.store(current(), std::memory_order_relaxed); }

 private:
  std::atomic<std::uint64_t> current_{0};
  std::atomic<std::uint64_t> peak_{0};
};

}  // namespace fsdpinit
