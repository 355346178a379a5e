#pragma once

#include <fsdpinit/plan/bucket_schedule.hpp>
#include <fsdpinit/plan/prediction.hpp>
#include <fsdpinit/plan/program_step.hpp>
#include <fsdpinit/plan/step_writer.hpp>
#include <fsdpinit/plan/transport.hpp>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

namespace fsdpinit::detail {

/// One bucket as one rank sees it: what it has of it, and where that lies. Allocates nothing.
class bucket_view {
 public:
  /// This rank's part: where it is received, or read to, or passed on from.
  struct part {
    region_position at{};
    std::uint64_t bytes = 0;
  };

  /// `write` must outlive it. \param index of the bucket \param slot of the staging memory
  /// \param cursors room for a number per shard
  bucket_view(const step_writer& write, std::size_t index, std::size_t slot, std::span<std::uint64_t> cursors) noexcept
      : write_(write),
        index_(index),
        which_(write.made().schedule.buckets[index]),
        slot_(slot),
        cursors_(cursors),
        own_(own_part()) {}

  [[nodiscard]] const step_writer& write() const noexcept { return write_; }
  [[nodiscard]] const rank_plan& mine() const noexcept { return write_.mine(); }
  [[nodiscard]] const bucket& which() const noexcept { return which_; }
  [[nodiscard]] std::size_t index() const noexcept { return index_; }
  [[nodiscard]] std::span<const segment> segments() const noexcept {
    return std::span(write_.made().schedule.segments).subspan(which_.first, which_.last - which_.first);
  }
  [[nodiscard]] const partition& partition_of(const segment& each) const noexcept {
    return write_.tensor(each.tensor).partition;
  }
  [[nodiscard]] std::size_t shards() const noexcept { return write_.made().options.ranks.shards; }
  [[nodiscard]] std::span<std::uint64_t> cursors() const noexcept { return cursors_; }

  [[nodiscard]] bool reads() const noexcept { return mine().reads(which_); }
  /// Is this rank the source of a scatter?
  [[nodiscard]] bool scatters() const noexcept { return which_.way == route::scatter && mine().is_source(); }
  [[nodiscard]] bool has_checksums() const noexcept { return mine().has_checksums(which_); }

  [[nodiscard]] const part& own() const noexcept { return own_; }
  /// Is its part to be placed out of the slot?
  [[nodiscard]] bool is_staged() const noexcept { return own_.at.kind == region_kind::slot; }
  [[nodiscard]] region_position slot() const noexcept { return {.kind = region_kind::slot, .index = slot_}; }
  [[nodiscard]] region_position checksums() const noexcept { return {.kind = region_kind::checksums, .index = slot_}; }

  /// Calls `fn(segment, offset)` for each, in windows cut to this rank's shard; `offset` is how much of its part is before it.
  template <class Fn>
  void for_each_own_segment(Fn&& fn) const {
    std::uint64_t offset = 0;
    for (const segment& whole : segments()) {
      const segment own = which_.has_windows() ? clipped(whole, partition_of(whole), mine().shard()) : whole;
      fn(own, offset);
      offset += own.end - own.begin;
    }
  }

  /// Does the source of a scatter stage a window of the shard? Its own it may read straight to its place.
  [[nodiscard]] bool has_window(std::size_t shard) const noexcept {
    return mine().serves(shard) && (shard != mine().shard() || !mine().reads_own_window_in_place());
  }
  /// Calls `fn(shard, where)` for each window that is staged.
  template <class Fn>
  void for_each_window(Fn&& fn) const {
    region_position next = slot();
    for (std::size_t shard = 0; shard < shards(); ++shard) {
      if (has_window(shard)) {
        fn(shard, next);
        next = next + which_.bytes;
      }
    }
  }
  /// `cursors()[shard]` = where its window begins in the slot.
  void put_cursors_at_windows() const {
    for_each_window([&](std::size_t shard, region_position begin) { cursors_[shard] = begin.offset; });
  }

 private:
  [[nodiscard]] part own_part() const {
    if (scatters()) {
      part window;
      for_each_window([&](std::size_t shard, region_position begin) {
        if (shard == mine().shard()) {
          window = {.at = begin, .bytes = mine().window_bytes(which_, shard)};
        }
      });
      return window;
    }
    if (mine().reads_directly(which_)) {
      return {};
    }
    if (const std::optional<slab_range> range = mine().in_place_range(which_)) {
      return {.at = step_writer::slab(*range), .bytes = range->bytes};
    }
    return {.at = slot(), .bytes = mine().staging_of(which_)};
  }

  const step_writer& write_;
  std::size_t index_;
  const bucket& which_;
  std::size_t slot_;
  std::span<std::uint64_t> cursors_;
  part own_;
};

}  // namespace fsdpinit::detail
