#pragma once

#include <fsdpinit/plan/bucket_schedule.hpp>
#include <fsdpinit/plan/byte_region.hpp>
#include <fsdpinit/plan/partition.hpp>
#include <fsdpinit/plan/plan.hpp>

#include <cstddef>
#include <cstdint>
#include <vector>

namespace fsdpinit::detail {

/// What shards keep of broadcasts, out of staging: other ranges of a tensor in every bucket, and so not the same for ranks that are
/// otherwise alike. By the rule of `step_writer::place_global`.
class kept_of_broadcasts {
 public:
  explicit kept_of_broadcasts(std::size_t shards) : bytes_(shards) {}

  /// So many buckets that follow one another. O(segments + shards that have a part of it).
  void add(const plan& made, const bucket& first, std::size_t count = 1) {
    for (segment part : made.schedule.segments(first)) {
      part.end += (part.end - part.begin) * (count - 1);
      add(part, made.tensors[part.tensor].partition);
    }
  }
  void clear() noexcept {
    for (const std::size_t shard : touched_) {
      bytes_[shard] = 0;
    }
    touched_.clear();
  }
  [[nodiscard]] std::uint64_t operator[](std::size_t shard) const noexcept { return bytes_[shard]; }

 private:
  void add(const segment& part, const partition& how) {
    // Of a contiguous tensor only those shards have a part that lie in between.
    const std::uint64_t chunk = how.slot_bytes();
    const bool cut = !how.is_whole() && how.is_contiguous();
    const std::size_t first = cut ? static_cast<std::size_t>(part.begin / chunk) : 0;
    const std::size_t last = cut ? static_cast<std::size_t>((part.end - 1) / chunk) + 1 : bytes_.size();
    for (std::size_t shard = first; shard < last; ++shard) {
      const bool is_first = bytes_[shard] == 0;
      for_each_overlap(
          how.region(shard), part.begin, part.end,
          [&](std::uint64_t, std::uint64_t, std::uint64_t run, std::uint64_t times) { bytes_[shard] += run * times; });
      if (is_first && bytes_[shard] != 0) {
        touched_.push_back(shard);
      }
    }
  }

  std::vector<std::uint64_t> bytes_;
  std::vector<std::size_t> touched_;
};

}  // namespace fsdpinit::detail
