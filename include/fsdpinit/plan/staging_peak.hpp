#pragma once

#include <fsdpinit/plan/bucket_loads.hpp>
#include <fsdpinit/plan/plan.hpp>
#include <fsdpinit/plan/prediction.hpp>
#include <fsdpinit/plan/rank_plan.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <set>
#include <span>
#include <tuple>
#include <vector>

namespace fsdpinit::detail {

/// The staging that buckets in flight hold at once on the rank where that is most. Ranks whose shards have the same sizes, and for
/// which the plan reserves the same, are looked at once.
[[nodiscard]] inline std::uint64_t staging_peak(const plan& made, std::span<const prediction> ranks,
                                                const bucket_loads& loads, const std::vector<bool>& drained) {
  using key = std::tuple<std::uint64_t, std::size_t, std::uint64_t>;
  std::set<key> known;
  std::uint64_t peak = 0;
  for (std::size_t rank = 0; rank < ranks.size(); ++rank) {
    const std::size_t of = loads.class_of(made.options.ranks.shard_of(rank));
    if (ranks[rank].slot_bytes == 0 || !known.insert({ranks[rank].slot_bytes, of, ranks[rank].bytes_sent}).second) {
      continue;
    }
    const rank_plan mine(made, rank);
    std::vector<std::uint64_t> held(made.options.buckets_in_flight);
    std::uint64_t sum = 0;
    std::size_t i = 0;
    for (const bucket& which : made.schedule) {
      std::uint64_t& slot = held[i % held.size()];
      sum -= slot;
      slot = mine.staging_of(which);
      sum += slot;
      peak = std::max(peak, sum);
      if (drained[i++]) {
        held.assign(held.size(), 0);
        sum = 0;
      }
    }
  }
  return peak;
}

}  // namespace fsdpinit::detail
