#pragma once

#include <fsdpinit/core/deadline.hpp>
#include <fsdpinit/plan/prediction.hpp>
#include <fsdpinit/plan/verification.hpp>

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace fsdpinit {

struct phase_seconds {
  const char* name = "";
  double seconds = 0;
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
  std::uint64_t accounted_peak_bytes = 0;
  std::uint64_t bytes_read = 0;  ///< these three: counted as `prediction` says
  std::uint64_t bytes_sent = 0;
  std::uint64_t bytes_received = 0;
  std::size_t tensors = 0;  ///< stored once; tied names count as one
  std::size_t units = 0;
  std::size_t buckets = 0;
  std::vector<std::string> missing{};     ///< names that stay on meta, where that was allowed
  std::vector<std::string> unexpected{};  ///< names of the checkpoint that nobody wanted, where that was allowed
  double seconds = 0;                     ///< from the call to the commit
  std::vector<phase_seconds> phases{};
  std::size_t slowest_rank = 0;  ///< the one that took longest from the call to the end of its stream
  double slowest_seconds = 0;
  /// For a rank that is a process of its own, what the operating system says it had resident just before, and at most;
  /// filled in by the program, 0 where ranks share a process.
  std::uint64_t base_rss_bytes = 0;
  std::uint64_t peak_rss_bytes = 0;
};

/// Seconds per phase, one after the other.
class phase_clock {
 public:
  void enter(const char* name) {
    leave();
    phases_.push_back({.name = name});
  }
  void leave() noexcept {
    const double now = monotonic_seconds();
    if (!phases_.empty()) {
      phases_.back().seconds = now - entered_;
    }
    entered_ = now;
  }
  [[nodiscard]] double total() const noexcept { return monotonic_seconds() - started_; }
  [[nodiscard]] const std::vector<phase_seconds>& phases() const noexcept { return phases_; }

 private:
  double started_ = monotonic_seconds();
  double entered_ = started_;
  std::vector<phase_seconds> phases_;
};

}  // namespace fsdpinit
