#pragma once

#include <fsdpinit/plan/plan.hpp>
#include <fsdpinit/plan/rank_classes.hpp>

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

/// \file
/// What a bucket holds for each rank, in bytes: of many thousand ranks at the price of the few classes of shards that differ.

namespace fsdpinit::detail {

/// The bytes of one bucket after the other. Only what `load` was called for last can be asked for.
class bucket_loads {
 public:
  /// `made` must outlive it. O(tensors x shards).
  explicit bucket_loads(const plan& made)
      : plan_(made),
        classes_(shard_classes(made)),
        window_(classes_.first.size()),
        read_(classes_.first.size()),
        reads_(classes_.first.size()),
        placed_(made.options.ranks.shards) {}

  /// O(segments x classes), and of a broadcast O(segments + shards that have a part of it).
  void load(const bucket& which) {
    for (const std::size_t shard : touched_) {
      placed_[shard] = 0;
    }
    touched_.clear();
    window_.assign(window_.size(), 0);
    read_.assign(read_.size(), 0);
    reads_.assign(reads_.size(), 0);
    read_whole_ = 0;
    reads_whole_ = 0;
    sharded_ = 0;
    for (const segment& part : plan_.schedule.segments(which)) {
      const planned_tensor& tensor = plan_.tensors[part.tensor];
      const std::uint64_t copies = tensor.captured ? 0 : 1 + tensor.extra_copies;
      if (!which.has_windows()) {
        read_whole_ += (part.end - part.begin) * copies;
        reads_whole_ += copies;
        if (!tensor.partition.is_whole()) {
          sharded_ += part.end - part.begin;
          add_places(part, tensor.partition);
        }
        continue;
      }
      for (std::size_t of = 0; of < window_.size(); ++of) {
        const segment cut = clipped(part, tensor.partition, classes_.first[of]);
        window_[of] += cut.end - cut.begin;
        read_[of] += (cut.end - cut.begin) * copies;
        reads_[of] += cut.end == cut.begin ? 0U : copies;
      }
    }
  }

  [[nodiscard]] std::size_t class_of(std::size_t shard) const noexcept { return classes_.of_shard[shard]; }
  [[nodiscard]] std::size_t classes() const noexcept { return classes_.first.size(); }
  /// A shard's window of a scatter or of an own read.
  [[nodiscard]] std::uint64_t window(std::size_t shard) const noexcept { return window_[class_of(shard)]; }
  /// What is read of the checkpoint for the window of a shard of that class; more where it stores a tensor several times.
  [[nodiscard]] std::uint64_t read_for_class(std::size_t of) const noexcept { return read_[of]; }
  /// By how many reads: one for each tensor that it has a part of, and for each further copy of that.
  [[nodiscard]] std::uint64_t reads_for_class(std::size_t of) const noexcept { return reads_[of]; }
  /// What is read for a broadcast; without what is captured.
  [[nodiscard]] std::uint64_t read_whole() const noexcept { return read_whole_; }
  [[nodiscard]] std::uint64_t reads_whole() const noexcept { return reads_whole_; }
  /// Of a broadcast, what ranks keep a part of.
  [[nodiscard]] std::uint64_t sharded() const noexcept { return sharded_; }
  /// That part.
  [[nodiscard]] std::uint64_t placed(std::size_t shard) const noexcept { return placed_[shard]; }

 private:
  void add_places(const segment& part, const partition& how) {
    // Of a contiguous tensor only those shards have a part that lie in between.
    const std::uint64_t chunk = how.slot_bytes();
    const bool contiguous = how.is_contiguous();
    const std::size_t first = contiguous ? static_cast<std::size_t>(part.begin / chunk) : 0;
    const std::size_t last = contiguous ? static_cast<std::size_t>((part.end - 1) / chunk) + 1 : placed_.size();
    for (std::size_t shard = first; shard < last; ++shard) {
      std::uint64_t bytes = 0;
      for_each_overlap(
          how.region(shard), part.begin, part.end,
          [&](std::uint64_t, std::uint64_t, std::uint64_t run, std::uint64_t count) { bytes += run * count; });
      placed_[shard] += bytes;
      touched_.push_back(shard);
    }
  }

  const plan& plan_;
  shard_classes_of_plan classes_;
  std::vector<std::uint64_t> window_;  // by class, as the next two
  std::vector<std::uint64_t> read_;
  std::vector<std::uint64_t> reads_;
  std::vector<std::uint64_t> placed_;  // by shard
  std::vector<std::size_t> touched_;   // of these, which are not 0
  std::uint64_t read_whole_ = 0;
  std::uint64_t reads_whole_ = 0;
  std::uint64_t sharded_ = 0;
};

}  // namespace fsdpinit::detail
