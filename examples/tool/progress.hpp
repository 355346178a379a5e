#pragma once

#include <cstddef>
#include <cstdint>
#include <mutex>
#include <string>
#include <string_view>

namespace fsdpinit::tool {

/// How far something is, on stderr: a bar on a terminal, which is gone in the end; elsewhere a line, at most one a
/// second. Used from any thread.
class progress_display {
 public:
  /// Shows nothing unless `enabled`: of ranks that are processes, one speaks.
  explicit progress_display(std::string_view label, bool enabled = true);
  progress_display(const progress_display&) = delete;
  progress_display& operator=(const progress_display&) = delete;
  ~progress_display();

  /// `done` of `total` bytes.
  void show(std::uint64_t done, std::uint64_t total);
  /// `bytes` more, of `total`.
  void add(std::uint64_t bytes, std::uint64_t total);
  /// That `rank` has waited `seconds` for `what` in `phase`, and gives up after `deadline_seconds`: a line of its own, from every
  /// rank, enabled or not, since each knows only its own waits.
  void show_wait(std::size_t rank, const char* phase, const char* what, double seconds,
                 double deadline_seconds) noexcept;

 private:
  void show_locked(std::uint64_t done, std::uint64_t total);

  std::mutex mutex_;
  std::string label_;
  bool enabled_;
  bool is_terminal_;
  bool shown_ = false;
  double began_;
  double next_;
  std::uint64_t done_ = 0;
};

}  // namespace fsdpinit::tool
