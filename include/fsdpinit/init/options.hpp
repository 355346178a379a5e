#pragma once

#include <fsdpinit/core/bytes.hpp>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace fsdpinit {

/// How to initialise. Must be equal on every rank; a difference is an error that names it.
struct options {
  /// Staging per bucket in flight. Small enough to stay in cache, large enough that latency does not show.
  std::uint64_t bucket_bytes = 4 * mib;
  /// Buckets being filled, sent and placed at the same time; 2 lets the source read while the others receive.
  std::size_t buckets_in_flight = 2;
  /// The rank that reads the checkpoint, and whose non-persistent buffers all ranks get.
  std::size_t source_rank = 0;
  /// How long a rank waits for its peers, at each agreement and for each bucket.
  double deadline_seconds = 600;
  /// Least time between two calls of the observer's `progress`.
  double progress_interval_seconds = 0.1;
  /// The FQN prefixes of the units (`units_under`), in place of what the module says or the default; `{""}` asks for one unit.
  std::vector<std::string> unit_prefixes{};
};

}  // namespace fsdpinit
