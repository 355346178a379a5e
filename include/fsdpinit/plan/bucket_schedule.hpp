#pragma once

#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/core/error.hpp>
#include <fsdpinit/plan/mesh.hpp>
#include <fsdpinit/plan/slab_layout.hpp>
#include <fsdpinit/plan/transport.hpp>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

namespace fsdpinit {

/// Part of a planned tensor within a bucket. In a bucket of windows [begin, end) are bytes of the largest shard, and every
/// rank's part is that window cut to its own shard; in a broadcast bucket they are bytes of the whole tensor.
struct segment {
  std::size_t tensor = 0;  ///< index into the planned tensors
  std::uint64_t begin = 0;
  std::uint64_t end = 0;
};

/// What moves at once, or is read at once. It cuts across tensors: segments [first, last) one after the other.
struct bucket {
  route way = route::scatter;
  bool captured = false;   ///< of a broadcast: from the source rank's module to all, whoever reads the checkpoint
  std::size_t reader = 0;  ///< of an own read that is relayed: the replica whose ranks read it
  std::size_t first = 0;
  std::size_t last = 0;
  std::uint64_t bytes = 0;  ///< of the largest window (scatter, own read), or of the payload (broadcast)

  /// Does it hold a window of each shard, rather than whole bytes?
  [[nodiscard]] constexpr bool has_windows() const noexcept { return way != route::broadcast; }
};

struct bucket_schedule {
  std::vector<segment> segments;
  std::vector<bucket> buckets;
};

/// The bytes of one rank's window within a scatter bucket of at most `bucket_bytes`: an equal share, rounded down to
/// the slab alignment where it is larger than that.
[[nodiscard]] constexpr std::uint64_t scatter_window(std::uint64_t bucket_bytes, std::size_t shards) noexcept {
  const std::uint64_t share = bucket_bytes / shards;
  return share >= slab_alignment ? align_down(share, slab_alignment) : share;
}

/// Own reads that need no staging go straight into the slabs, this much at a time: enough that calls do not show, little enough
/// that a failure elsewhere is noticed.
inline constexpr std::uint64_t direct_read_bytes = 128 * mib;

/// What the schedule depends on besides the tensors.
struct schedule_options {
  std::uint64_t bucket_bytes = 4 * mib;
  std::uint64_t own_read_bytes = direct_read_bytes;  ///< of a window that is read by its own rank
  std::size_t readers = 1;                           ///< replicas that take turns at reading
  bool several_sources = false;                      ///< captured tensors travel apart from those that are read
};

/// Cuts the tensors, in their order, into buckets of at most `bucket_bytes`. Pure; O(tensors + buckets).
/// \throws error{invalid_argument} if a bucket has not a byte for each shard.
[[nodiscard]] inline bucket_schedule schedule_buckets(const std::vector<planned_tensor>& tensors, const mesh& ranks,
                                                      const schedule_options& how) {
  const std::uint64_t window = scatter_window(how.bucket_bytes, ranks.shards);
  if (window == 0) {
    throw error(errc::invalid_argument, "bucket_bytes",
                concat(how.bucket_bytes, " is too small for ", ranks.shards, " shards; use at least ", ranks.shards),
                {.rank = every_rank});
  }
  bucket_schedule schedule;
  const auto fill = [&](const bucket& kind, std::uint64_t capacity, auto&& belongs) {
    bucket open = kind;
    std::size_t turn = 0;
    const auto reopen = [&](std::size_t at) {
      open = kind;
      open.first = at;
      open.last = at;
      open.reader = kind.way == route::own_read ? turn++ % how.readers : 0;
    };
    reopen(schedule.segments.size());
    const auto close = [&] {
      if (open.bytes != 0) {
        schedule.buckets.push_back(open);
      }
      reopen(open.last);
    };
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      if (tensors[i].way != kind.way || !belongs(tensors[i])) {
        continue;
      }
      const partition& part = tensors[i].partition;
      const std::uint64_t total = kind.has_windows() ? part.slot_bytes() : part.bytes();
      for (std::uint64_t begin = 0; begin < total;) {
        const std::uint64_t room = capacity - open.bytes;
        const std::uint64_t end = total - begin < room ? total : begin + room;
        schedule.segments.push_back({.tensor = i, .begin = begin, .end = end});
        open.last = schedule.segments.size();
        open.bytes += end - begin;
        begin = end;
        if (open.bytes == capacity) {
          close();
        }
      }
    }
    close();
  };
  const auto any = [](const planned_tensor&) { return true; };
  fill({.way = route::scatter}, window, any);
  fill({.way = route::own_read}, how.own_read_bytes, any);
  if (how.several_sources) {
    fill({.way = route::broadcast}, how.bucket_bytes, [](const planned_tensor& each) { return !each.captured; });
    fill({.way = route::broadcast, .captured = true}, how.bucket_bytes,
         [](const planned_tensor& each) { return each.captured; });
  } else {
    fill({.way = route::broadcast}, how.bucket_bytes, any);
  }
  return schedule;
}

/// A segment of a window cut to one shard.
[[nodiscard]] inline segment clipped(const segment& part, const partition& how, std::size_t shard) noexcept {
  const std::uint64_t local = how.local_bytes(shard);
  return {.tensor = part.tensor,
          .begin = part.begin < local ? part.begin : local,
          .end = part.end < local ? part.end : local};
}

/// Contiguous bytes of one slab.
struct slab_range {
  std::size_t slab = 0;
  std::uint64_t offset = 0;
  std::uint64_t bytes = 0;
};

/// Where the part of a shard of a bucket lies in the slabs, if that is one contiguous range: then the bucket is received
/// in place. Nothing if it is several ranges, or if a broadcast carries more than the rank keeps. O(segments of the
/// bucket).
[[nodiscard]] inline std::optional<slab_range> contiguous_destination(const std::vector<planned_tensor>& tensors,
                                                                      const bucket_schedule& schedule,
                                                                      const bucket& which, std::size_t shard) {
  slab_range whole;
  for (std::size_t i = which.first; i < which.last; ++i) {
    const segment& part = schedule.segments[i];
    const planned_tensor& tensor = tensors[part.tensor];
    if (!which.has_windows() && !tensor.partition.is_whole()) {
      return std::nullopt;
    }
    const segment own = which.has_windows() ? clipped(part, tensor.partition, shard) : part;
    if (own.begin == own.end) {
      continue;
    }
    const std::uint64_t offset = tensor.offset + own.begin;
    if (whole.bytes == 0) {
      whole = {.slab = tensor.slab, .offset = offset, .bytes = 0};
    } else if (whole.slab != tensor.slab || whole.offset + whole.bytes != offset) {
      return std::nullopt;
    }
    whole.bytes += own.end - own.begin;
  }
  return whole;
}

}  // namespace fsdpinit
