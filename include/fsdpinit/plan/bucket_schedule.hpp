#pragma once

#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/core/error.hpp>
#include <fsdpinit/plan/mesh.hpp>
#include <fsdpinit/plan/slab_layout.hpp>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

namespace fsdpinit {

/// How bytes get from the source rank to the shards.
enum class transport_kind : std::uint8_t {
  scatter,    ///< every rank receives its own part alone; whole tensors are broadcast
  broadcast,  ///< every rank receives everything and keeps its part
  none,       ///< nothing travels but captured buffers: every rank reads by itself
};

[[nodiscard]] constexpr std::string_view name(transport_kind kind) noexcept {
  switch (kind) {
    case transport_kind::scatter:
      return "scatter";
    case transport_kind::broadcast:
      return "broadcast";
    case transport_kind::none:
      return "none";
  }
  return "unknown";
}

/// Part of a planned tensor within a bucket. In a scatter bucket [begin, end) are bytes of the largest rank's shard,
/// and every rank's part is that window cut to its own shard; in a broadcast bucket they are bytes of the whole tensor.
struct segment {
  std::size_t tensor = 0;  ///< index into the planned tensors
  std::uint64_t begin = 0;
  std::uint64_t end = 0;
};

/// One collective operation. It cuts across tensors: segments [first, last) one after the other.
struct bucket {
  bool scatter = false;
  std::size_t first = 0;
  std::size_t last = 0;
  std::uint64_t bytes = 0;  ///< of the largest window (scatter), or of the payload (broadcast)
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

/// Cuts the tensors, in their order, into buckets of at most `bucket_bytes`. Pure; O(tensors + buckets).
/// \throws error{invalid_argument} if a bucket has not a byte for each rank.
[[nodiscard]] inline bucket_schedule schedule_buckets(const std::vector<planned_tensor>& tensors, mesh ranks,
                                                      transport_kind transport, std::uint64_t bucket_bytes) {
  const std::uint64_t window = scatter_window(bucket_bytes, ranks.shards);
  if (window == 0) {
    throw error(errc::invalid_argument, "bucket_bytes",
                concat(bucket_bytes, " is too small for ", ranks.shards, " ranks; use at least ", ranks.shards),
                {.rank = every_rank});
  }
  const auto is_scattered = [&](const planned_tensor& tensor) {
    return transport == transport_kind::scatter && !tensor.partition.is_whole();
  };
  bucket_schedule schedule;
  const auto fill = [&](bool scatter, std::uint64_t capacity) {
    bucket open{.scatter = scatter, .first = schedule.segments.size(), .last = schedule.segments.size()};
    const auto close = [&] {
      if (open.bytes != 0) {
        schedule.buckets.push_back(open);
      }
      open = {.scatter = scatter, .first = open.last, .last = open.last};
    };
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      if (is_scattered(tensors[i]) != scatter || (transport == transport_kind::none && !tensors[i].captured)) {
        continue;
      }
      const std::uint64_t total = scatter ? tensors[i].partition.slot_bytes() : tensors[i].partition.bytes();
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
  fill(true, window);
  fill(false, bucket_bytes);
  return schedule;
}

/// A scatter segment cut to the shard of one rank.
[[nodiscard]] inline segment clipped(const segment& part, const partition& how, std::size_t rank) noexcept {
  const std::uint64_t local = how.local_bytes(rank);
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

/// Where the part of `rank` of a bucket lies in its slabs, if that is one contiguous range: then the bucket is received
/// in place. Nothing if it is several ranges, or if a broadcast carries more than the rank keeps. O(segments of the
/// bucket).
[[nodiscard]] inline std::optional<slab_range> contiguous_destination(const std::vector<planned_tensor>& tensors,
                                                                      const bucket_schedule& schedule,
                                                                      const bucket& which, std::size_t rank) {
  slab_range whole;
  for (std::size_t i = which.first; i < which.last; ++i) {
    const segment& part = schedule.segments[i];
    const planned_tensor& tensor = tensors[part.tensor];
    if (!which.scatter && !tensor.partition.is_whole()) {
      return std::nullopt;
    }
    const segment own = which.scatter ? clipped(part, tensor.partition, rank) : part;
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
