#pragma once

#include <fsdpinit/core/deadline.hpp>
#include <fsdpinit/observe/observer_ref.hpp>
#include <fsdpinit/observe/report.hpp>

#include <cstddef>
#include <vector>

namespace fsdpinit {

/// Seconds per phase of one call, one after the other, and per stage within them. The observer hears of each phase.
class phase_clock {
 public:
  explicit phase_clock(observer_ref watch) noexcept : watch_(watch) {}

  /// Allocates where it is called first, and not again. No stage is longer than its phase. \param otherwise the stage of a phase in which
  /// a rank is always in one
  void enter(const char* name, stage_clock::stage otherwise = nullptr) {
    stages.enter(nullptr);
    leave();
    phases_.reserve(most_phases);
    phases_.push_back({.name = name});
    stages.enter(otherwise);
    watch_.phase(name);
  }
  /// The last phase is over, and so is the call, of which `report` has the phases so far.
  template <class Report>
  void close(Report& report) noexcept {
    leave();
    report.seconds = total();
    report.phases.back().seconds = phases_.back().seconds;
  }

  [[nodiscard]] double total() const noexcept { return monotonic_seconds() - started_; }
  [[nodiscard]] const std::vector<phase_seconds>& phases() const noexcept { return phases_; }
  /// Of the phase under way.
  [[nodiscard]] const char* name() const noexcept { return phases_.back().name; }

  stage_clock stages{};

 private:
  static constexpr std::size_t most_phases = 8;

  void leave() noexcept {
    const double now = monotonic_seconds();
    if (!phases_.empty()) {
      phases_.back().seconds = now - entered_;
    }
    entered_ = now;
  }

  observer_ref watch_;
  double started_ = monotonic_seconds();
  double entered_ = started_;
  std::vector<phase_seconds> phases_;
};

}  // namespace fsdpinit
