#pragma once

#include <fsdpinit/core/compiler.hpp>

#include <atomic>
#include <cstdint>
#include <memory>

namespace fsdpinit::testing {

/// Counts calls and fails one of them. Copies share the count; one per rank and decorated object. A call that fails has
/// not reached the decorated object, unless its decorator says otherwise.
class call_counter {
 public:
  /// From now on counts from 0, and fails none.
  void restart() const noexcept {
    state_->calls = 0;
    state_->failing = none;
  }
  /// From now on counts from 0, and fails call `index`.
  void fail_at(std::uint64_t index) const noexcept {
    state_->calls = 0;
    state_->failing = index;
  }
  [[nodiscard]] std::uint64_t calls() const noexcept { return state_->calls; }
  /// Has the call that was to fail been made?
  [[nodiscard]] bool has_failed() const noexcept { return state_->failing != none && state_->calls > state_->failing; }

  /// Counts one call; true if it is the one to fail.
  [[nodiscard]] bool fails_now() const noexcept { return state_->calls++ == state_->failing; }

 private:
  static constexpr std::uint64_t none = ~std::uint64_t{0};
  struct state {
    std::atomic<std::uint64_t> calls{0};
    std::atomic<std::uint64_t> failing{none};
  };
  std::shared_ptr<state> state_ = std::make_shared<state>();
};

}  // namespace fsdpinit::testing
