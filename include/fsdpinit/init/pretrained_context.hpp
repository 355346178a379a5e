#pragma once

#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/observe/report.hpp>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

/// \file
/// What `load_pretrained` is told, and what it tells.

namespace fsdpinit {

/// Who loads pretrained weights: accelerate's CPU-RAM-efficient loading as a plain value, equal on every rank. Made by
/// hand, or by `pretrained_context_from_environment()`.
struct pretrained_load_context {
  /// The source rank alone loads real weights, and the others' modules stay on meta; where not, every rank loads
  /// everything.
  bool active = true;
  std::size_t source_rank = 0;
};

/// Equal on every rank, seconds apart; a difference is an error that names it.
struct pretrained_load_options {
  /// Ranks agree that all is well whenever so much of the weights was read. A rank without weights waits for the source
  /// rank no longer than one such part takes, which must be within the deadline.
  std::uint64_t bytes_between_agreements = 1 * gib;
  /// How long a rank waits for its peers, at each agreement.
  double deadline_seconds = default_deadline_seconds;
  /// Least time between two calls of the observer's `progress`.
  double progress_interval_seconds = 0.1;
};

/// What loading pretrained weights did on one rank.
struct pretrained_report {
  std::size_t rank = 0;
  bool holds_weights = false;      ///< its module holds the weights; where not, it is on meta
  std::size_t tensors = 0;         ///< stored once; tied names count as one
  std::uint64_t weight_bytes = 0;  ///< in this rank's memory: W, or 0
  std::uint64_t bytes_read = 0;    ///< further stored copies of tied tensors among them, and what is read along
  std::uint64_t predicted_peak_bytes = 0;
  std::uint64_t accounted_peak_bytes = 0;
  std::vector<std::string> unread_buffers{};  ///< in the checkpoint, but the module computes them
  overflow_count overflow{};                  ///< of what this rank read
  double seconds = 0;
  std::vector<phase_seconds> phases{};
};

}  // namespace fsdpinit
