#pragma once

#include <fsdpinit/plan/bucket_schedule.hpp>
#include <fsdpinit/plan/program_step.hpp>
#include <fsdpinit/plan/rank_plan.hpp>
#include <fsdpinit/plan/step_writer.hpp>
#include <fsdpinit/plan/transport.hpp>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

namespace fsdpinit::detail {

/// A rank's part of a bucket: where it is received, or read to, or passed on from.
struct bucket_part {
  region_position at{};
  std::uint64_t bytes = 0;
};

/// What the source of a scatter has of the window of one shard in the slot: [begin, next).
struct window_cursor {
  std::uint64_t begin = 0;
  std::uint64_t next = 0;
  [[nodiscard]] std::uint64_t bytes() const noexcept { return next - begin; }
};

/// What a rank has to do with the bucket that was looked at last in a slot: it is asked for in each phase.
struct bucket_role {
  std::size_t index = ~std::size_t{0};
  bucket which{};
  std::size_t root = 0;  ///< has the bytes when they begin to move
  bool reads = false;    ///< this rank is the root
  bool has_checksums = false;
  bool passes_on = false;  ///< there are steps in which it is passed on
  bool ends = false;       ///< there are steps once it has arrived
  bucket_part own{};
};

/// One bucket as one rank sees it: what it has of it, and where that lies. Allocates nothing.
class bucket_view {
 public:
  /// `write` must outlive it. \param index of the bucket \param slot of the staging memory \param role that of the slot
  /// \param cursors one per shard \param near goes through the schedule
  bucket_view(const step_writer& write, std::size_t index, std::size_t slot, bucket_role& role,
              std::span<window_cursor> cursors, bucket_cursor& near) noexcept
      : write_(write), index_(index), slot_(slot), cursors_(cursors), role_(role), which_(role.which) {
    if (role.index != index) {
      role.index = index;
      role.which = near.at(write.made().schedule, index);
      const std::size_t root = mine().root_of(which_);
      role.root = root;
      role.reads = root == mine().rank();
      role.has_checksums = mine().has_checksums(which_);
      role.own = own_part();
      role.passes_on = which_.route == route::scatter && mine().relays(which_);
      role.ends = role.has_checksums || (is_staged() && !role.reads);
    }
  }

  [[nodiscard]] const step_writer& write() const noexcept { return write_; }
  [[nodiscard]] const rank_plan& mine() const noexcept { return write_.mine(); }
  [[nodiscard]] const bucket& which() const noexcept { return which_; }
  [[nodiscard]] std::size_t index() const noexcept { return index_; }
  [[nodiscard]] segment_range segments() const noexcept { return write_.made().schedule.segments(which_); }
  [[nodiscard]] const partition& partition_of(const segment& each) const noexcept {
    return write_.tensor(each.tensor).partition;
  }
  [[nodiscard]] std::size_t shards() const noexcept { return write_.made().options.ranks.shards; }
  [[nodiscard]] std::span<window_cursor> cursors() const noexcept { return cursors_; }

  [[nodiscard]] std::size_t root() const noexcept { return role_.root; }
  [[nodiscard]] bool reads() const noexcept { return role_.reads; }
  /// Is this rank the source of a scatter?
  [[nodiscard]] bool scatters() const noexcept { return which_.route == route::scatter && mine().is_source(); }
  [[nodiscard]] bool has_checksums() const noexcept { return role_.has_checksums; }

  [[nodiscard]] const bucket_part& own() const noexcept { return role_.own; }
  /// Is its part to be placed out of the slot?
  [[nodiscard]] bool is_staged() const noexcept { return role_.own.at.kind == region_kind::slot; }
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
    for (std::size_t shard = mine().first_served(); shard < mine().end_served(); ++shard) {
      if (has_window(shard)) {
        fn(shard, next);
        next = next + which_.bytes;
      }
    }
  }
  /// Each at the begin of its window.
  void put_cursors_at_windows() const {
    for_each_window([&](std::size_t shard, region_position begin) {
      cursors_[shard] = {.begin = begin.offset, .next = begin.offset};
    });
  }
  /// Calls `fn(shard, count, part)` for a segment's parts of the windows, `part` the same for `count` shards from `shard` on, whose
  /// cursors are as far apart as windows are; by itself for a shard that has no window, as its part is read to its place.
  template <class Fn>
  void for_each_alike(const segment& whole, Fn&& fn) const {
    const partition& how = partition_of(whole);
    const std::size_t full = how.full_ranks();
    for (std::size_t shard = mine().first_served(); shard < mine().end_served();) {
      const std::size_t first = shard++;
      const segment part = mine().serves(first) ? clipped(whole, how, first) : segment{};
      if (part.begin == part.end) {
        continue;
      }
      while (shard < full && has_window(first) && has_window(shard) &&
             cursors_[shard].next == cursors_[shard - 1].next + which_.bytes) {
        ++shard;
      }
      fn(first, shard - first, part);
    }
  }

 private:
  [[nodiscard]] bucket_part own_part() const {
    if (scatters()) {
      bucket_part window;
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
    return {.at = slot(), .bytes = which_.has_windows() ? mine().window_bytes(which_, mine().shard()) : which_.bytes};
  }

  const step_writer& write_;
  std::size_t index_;
  std::size_t slot_;
  std::span<window_cursor> cursors_;
  const bucket_role& role_;
  const bucket& which_;
};

}  // namespace fsdpinit::detail
