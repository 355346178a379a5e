#pragma once

#include <fsdpinit/core/deadline.hpp>
#include <fsdpinit/observe/observer.hpp>
#include <fsdpinit/observe/report.hpp>

#include <cstddef>
#include <cstdint>
#include <vector>

namespace fsdpinit {

/// How far a call has come on one rank: what its observer hears of it, and how long it has taken.
class call_progress {
 public:
  explicit call_progress(observer_ref watch) noexcept : watch_(watch) {}

  /// The phase before is over, and its stages are. Allocates where it is called first, and not again.
  /// \param otherwise the stage of a rank that is in no other, in phases that have any
  void enter(const char* phase, stage_clock::stage otherwise = nullptr) {
    stages.enter(nullptr);
    leave();
    phases_.reserve(most_phases);
    phases_.push_back({.name = phase});
    stages.enter(otherwise);
    watch_.phase(phase);
  }
  /// The last phase is over, and so is the call, of which `report` has the phases so far.
  template <class Report>
  void close(Report& report) noexcept {
    leave();
    report.seconds = seconds();
    report.phases.back().seconds = phases_.back().seconds;
  }

  /// From here on the observer hears of bytes, seldom, of `total` in all. 0: it hears of none, as on ranks that do not speak.
  void expect(std::uint64_t total, double interval) noexcept {
    total_ = total;
    interval_ = interval;
    next_ = monotonic_seconds() + interval;
  }
  void add(std::uint64_t bytes) {
    if (bytes == 0 || total_ == 0) {
      return;
    }
    done_ += bytes;
    const double now = monotonic_seconds();
    if (now >= next_ || done_ == total_) {
      next_ = now + interval_;
      watch_.progress(done_, total_);
    }
  }

  /// So far, of the call.
  [[nodiscard]] double seconds() const noexcept { return monotonic_seconds() - started_; }
  [[nodiscard]] const std::vector<phase_seconds>& phases() const noexcept { return phases_; }
  /// The name of the phase under way.
  [[nodiscard]] const char* phase() const noexcept { return phases_.back().name; }

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
  std::vector<phase_seconds> phases_{};
  std::uint64_t done_ = 0;
  std::uint64_t total_ = 0;
  double interval_ = 0;
  double next_ = 0;
};

}  // namespace fsdpinit
