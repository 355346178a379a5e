#pragma once

#include <fsdpinit/core/deadline.hpp>
#include <fsdpinit/plan/prediction.hpp>
#include <fsdpinit/plan/transport.hpp>
#include <fsdpinit/plan/verification.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace fsdpinit {

struct phase_seconds {
  const char* name = "";
  double seconds = 0;
};

/// What a rank was busy with while it streamed, in seconds. Together at most the seconds of the phase `stream`, of which the rest is
/// bookkeeping and what precedes the first bucket. Measured per bucket, never per tensor.
struct stage_seconds {
  double read = 0;      ///< from the source into staging memory or slabs, casts that narrow included
  double checksum = 0;  ///< of what was read and of what was placed, with `options::verify`
  double place = 0;     ///< from staging memory into slabs, as long as the rank is held up by it; and widening
  double wait = 0;  ///< in operations of the communicator and in agreements: for other ranks, and for payload to move
};

/// What casts have made infinite on one rank, as it read them: elements that were finite as they are stored.
struct overflow_count {
  std::uint64_t elements = 0;
  std::string first{};  ///< the FQN of the first tensor of the plan that has such an element; empty where none has
};

/// What an initialisation did on one rank. Bytes are payload, and equal the plan's prediction.
struct rank_report {
  std::size_t rank = 0;
  std::size_t shards = 1;
  std::size_t replicas = 1;
  std::string_view policy{};
  std::string_view transport{};    ///< the one used: scatter falls back to broadcast on a communicator that cannot
  std::string transport_reason{};  ///< why `automatic` picked it; empty for others
  verification verified = verification::off;
  prediction predicted{};
  /// How far the accounts have risen above what was in them at the beginning. Whoever uses an account at the same time has a part in
  /// it: a load that is to be compared with its prediction has a space of its own.
  std::uint64_t accounted_peak_bytes = 0;
  std::uint64_t bytes_read = 0;  ///< these three: counted as `prediction` says
  std::uint64_t bytes_sent = 0;
  std::uint64_t bytes_received = 0;
  std::size_t tensors = 0;  ///< stored once; tied names count as one
  std::size_t units = 0;
  std::size_t buckets = 0;
  std::vector<std::string> missing{};         ///< names that stay on meta, where that was allowed
  std::vector<std::string> unexpected{};      ///< names of the checkpoint that nobody wanted, where that was allowed
  std::vector<std::string> unlisted{};        ///< what the checkpoint's index leaves out: `tensor in file`, or a file
  std::vector<std::string> kept_buffers{};    ///< not in the checkpoint, with the source rank's values on all ranks
  std::vector<std::string> unread_buffers{};  ///< in the checkpoint, but the module computes them
  overflow_count overflow{};          ///< of what this rank read; ranks that read the same elements each count them
  std::vector<std::string> advice{};  ///< settings that make this slow, and what to set instead (`advice_on`)
  double seconds = 0;                 ///< from the call to the commit
  std::vector<phase_seconds> phases{};
  stage_seconds stages{};
  std::size_t slowest_rank = 0;  ///< the one that took longest from the call to the end of its stream
  double slowest_seconds = 0;
  /// For a rank that is a process of its own, what the operating system says it had resident just before, and at most;
  /// filled in by the program, 0 where ranks share a process.
  std::uint64_t base_rss_bytes = 0;
  std::uint64_t peak_rss_bytes = 0;
};

/// What casts have made infinite in one initialisation, all ranks together. Where every rank has read the whole checkpoint each has
/// counted the same. \pre the reports are those of its ranks.
[[nodiscard]] inline overflow_count overflow_of(std::span<const rank_report> reports) {
  overflow_count all;
  for (const rank_report& report : reports) {
    if (all.first.empty()) {
      all.first = report.overflow.first;
    }
    const bool reads_all = report.transport == name(transport::none);
    all.elements =
        reads_all ? std::max(all.elements, report.overflow.elements) : all.elements + report.overflow.elements;
  }
  return all;
}

/// Seconds per stage. A rank is in one at a time, or in none: stages never add up to more than has passed. One clock read where a
/// stage begins or ends.
class stage_clock {
 public:
  using stage = double stage_seconds::*;  ///< nullptr: none

  /// \return the stage before
  stage enter(stage next) noexcept {
    if (next == current_) {
      return next;
    }
    const double now = monotonic_seconds();
    if (current_ != nullptr) {
      seconds_.*current_ += now - entered_;
    }
    entered_ = now;
    return std::exchange(current_, next);
  }
  /// Of the stages that are over.
  [[nodiscard]] const stage_seconds& seconds() const noexcept { return seconds_; }

 private:
  stage_seconds seconds_;
  stage current_ = nullptr;
  double entered_ = 0;
};

/// A stage for as long as it lives; then the one before goes on.
class stage_scope {
 public:
  stage_scope(stage_clock& clock, stage_clock::stage which) noexcept : clock_(clock), before_(clock.enter(which)) {}
  stage_scope(const stage_scope&) = delete;
  stage_scope& operator=(const stage_scope&) = delete;
  ~stage_scope() { clock_.enter(before_); }

 private:
  stage_clock& clock_;
  stage_clock::stage before_;
};

}  // namespace fsdpinit
