#pragma once

#include <fsdpinit/concepts/memory_ref.hpp>

#include <cstdint>
#include <utility>

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
