#pragma once

#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/plan/plan.hpp>
#include <fsdpinit/plan/rank_groups.hpp>
#include <fsdpinit/plan/read_coalescing.hpp>
#include <fsdpinit/plan/reread_pairs.hpp>
#include <fsdpinit/plan/verification.hpp>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <utility>
#include <vector>

namespace fsdpinit {

/// The host memory in which strided shards are taken apart, tied copies compared, and neighbouring runs read at once.
inline constexpr std::uint64_t scratch_bound = 256 * kib;
/// And at least so much, however small buckets are: room for two elements.
inline constexpr std::uint64_t least_scratch = 16;

/// What one rank will allocate, read, send and receive; all in bytes, exact.
struct prediction {
  std::uint64_t shard_bytes = 0;  ///< of this rank's shards and whole tensors, without padding
  std::uint64_t slab_bytes = 0;   ///< reserved for them, in the module's memory space
  std::uint64_t slot_bytes =
      0;                  ///< of one staging slot, in host memory; with verification its checksums are the last of it
  std::size_t slots = 0;  ///< staging slots: min(buckets in flight, buckets), 0 where all is in place
  std::uint64_t scratch_bytes = 0;    ///< in host memory
  std::uint64_t full_copy_bytes = 0;  ///< the whole model in host memory, where every rank reads everything
  /// From the source, with what is read again and what is read along; as seen where a cast narrows. Neither headers
  /// count nor the samples by which ranks compare their checkpoints (`most_samples`).
  std::uint64_t bytes_read = 0;
  std::uint64_t bytes_sent = 0;  ///< payload x destinations; a rank's copy to itself, and checksums, are not counted
  std::uint64_t bytes_received = 0;

  [[nodiscard]] std::uint64_t staging_bytes() const noexcept {
    return slot_bytes * slots + scratch_bytes + full_copy_bytes;
  }
  /// All is allocated before the first byte moves, so the peak is the sum and does not depend on timing.
  [[nodiscard]] std::uint64_t peak_bytes() const noexcept { return slab_bytes + staging_bytes(); }
};

/// One rank's view of a plan: whom it serves, and what it does about each bucket. Pure; made as `groups_of` is.
class rank_plan {
 public:
  /// `made` must outlive it. \pre rank < ranks.
  rank_plan(const plan& made, std::size_t rank) : plan_(made), rank_(rank) {
    const plan_options& options = made.options;
    groups_ = groups_of(options.ranks, options.sources, rank);
    shards_served_ = options.ranks.shards;
    if (!options.sources.is_single()) {
      serves_.resize(options.ranks.shards, false);
      shards_served_ = 0;
      for (const std::size_t other : groups_.served) {
        const std::size_t shard = options.ranks.shard_of(other);
        shards_served_ += serves_[shard] ? 0U : 1U;
        serves_[shard] = true;
      }
    }
  }

  [[nodiscard]] std::size_t rank() const noexcept { return rank_; }
  [[nodiscard]] std::size_t shard() const noexcept { return plan_.options.ranks.shard_of(rank_); }
  [[nodiscard]] const rank_groups& groups() const noexcept { return groups_; }
  [[nodiscard]] bool is_source() const noexcept { return rank_ == groups_.source; }

  /// Calls `fn(rank)` for those that get their windows of a scatter from this rank's source, the source with them.
  template <class Fn>
  void for_each_scattered_to(Fn&& fn) const {
    const bool all = groups_.scatter.empty();
    for (std::size_t i = 0; i < (all ? plan_.options.ranks.size() : groups_.scatter.size()); ++i) {
      fn(all ? i : groups_.scatter[i]);
    }
  }

  /// Is a window of this shard among those that this rank, a source, sends?
  [[nodiscard]] bool serves(std::size_t shard) const noexcept { return serves_.empty() || serves_[shard]; }
  [[nodiscard]] bool serves_every_shard() const noexcept { return shards_served_ == plan_.options.ranks.shards; }
  /// A source reads its own part of a scatter straight into the slab, unless it has to pass it on, or may not write there.
  [[nodiscard]] bool reads_own_window_in_place() const noexcept {
    return plan_.options.access.host && plan_.options.ranks.replicas == 1;
  }

  [[nodiscard]] bool relays(const bucket& which) const noexcept {
    const plan_options& options = plan_.options;
    return which.way == route::scatter    ? scatter_is_relayed(options.ranks, options.sources)
           : which.way == route::own_read ? own_read_is_relayed(options.ranks, options.sources)
                                          : false;
  }
  /// The rank that has the bytes of this bucket, or of this rank's window of it, when they begin to move.
  [[nodiscard]] std::size_t root_of(const bucket& which) const noexcept {
    const mesh& ranks = plan_.options.ranks;
    switch (which.way) {
      case route::scatter:
        return groups_.source;
      case route::own_read:
        return relays(which) ? ranks.rank_of(which.reader, shard()) : rank_;
      default:
        return which.captured ? plan_.options.sources.source_rank : groups_.source;
    }
  }
  [[nodiscard]] bool reads(const bucket& which) const noexcept { return root_of(which) == rank_; }
  /// Those that receive a broadcast bucket, the root with them.
  [[nodiscard]] std::size_t broadcast_size(bool captured) const noexcept {
    return captured || groups_.served.empty() ? plan_.options.ranks.size() : groups_.served.size();
  }
  /// The same as a list; empty where it is all ranks.
  [[nodiscard]] std::span<const std::size_t> broadcast_group(const bucket& which) const noexcept {
    return which.captured ? std::span<const std::size_t>{} : std::span<const std::size_t>(groups_.served);
  }

  /// Where this rank puts or takes its own part of a bucket, if that needs no staging.
  [[nodiscard]] std::optional<slab_range> in_place_range(const bucket& which) const {
    const slab_access& access = plan_.options.access;
    const bool travels = which.way != route::own_read || relays(which);
    const bool possible = (!travels || access.communicator) && (!reads(which) || access.host);
    return possible ? contiguous_destination(plan_.tensors, plan_.schedule, which, shard()) : std::nullopt;
  }

  /// The bytes of this rank's window of a bucket. O(its segments).
  [[nodiscard]] std::uint64_t window_bytes(const bucket& which, std::size_t shard) const noexcept {
    std::uint64_t bytes = 0;
    for (std::size_t i = which.first; i < which.last; ++i) {
      const segment& part = plan_.schedule.segments[i];
      const segment cut = clipped(part, plan_.tensors[part.tensor].partition, shard);
      bytes += cut.end - cut.begin;
    }
    return bytes;
  }

  /// Is an own read made piece by piece into the slabs?
  [[nodiscard]] bool reads_directly(const bucket& which) const noexcept {
    return which.way == route::own_read && !relays(which) && plan_.options.access.host;
  }

  /// Are there checksums of this bucket? Not where each rank reads its part straight to its place.
  [[nodiscard]] bool has_checksums(const bucket& which) const noexcept {
    return plan_.options.verify != verification::off && !reads_directly(which);
  }
  /// Do its checksums travel, from the rank that reads? Else they stay where they were made.
  [[nodiscard]] bool sends_checksums(const bucket& which) const noexcept {
    return has_checksums(which) && (which.way != route::own_read || relays(which));
  }
  /// Those that get the checksums of a bucket, the root with them; empty where it is all ranks.
  [[nodiscard]] std::span<const std::size_t> checksum_group(const bucket& which) const noexcept {
    return which.way == route::own_read ? std::span<const std::size_t>(groups_.replicas) : broadcast_group(which);
  }

  /// Staging bytes that this rank needs for one bucket: nothing where it works in place, else its own part of a window or the
  /// payload of a broadcast. The source of a scatter holds every window it sends, and its own where that is not read in place.
  [[nodiscard]] std::uint64_t staging_of(const bucket& which) const {
    if (which.way == route::scatter && is_source()) {
      return which.bytes * (shards_served_ - (reads_own_window_in_place() ? 1U : 0U));
    }
    if (reads_directly(which) || in_place_range(which)) {
      return 0;
    }
    return which.has_windows() ? window_bytes(which, shard()) : which.bytes;
  }

  /// Calls `add(run, tensor, global offset)` for what this rank reads by itself of an own-read bucket. `to(tensor, local, bytes)`
  /// says where it goes.
  template <class Place, class Add>
  void for_each_own_run(const bucket& which, Place&& to, Add&& add) const {
    for (std::size_t i = which.first; i < which.last; ++i) {
      const segment& part = plan_.schedule.segments[i];
      const planned_tensor& tensor = plan_.tensors[part.tensor];
      const segment cut = clipped(part, tensor.partition, shard());
      const file_position begin = tensor.position.value_or(file_position{.file = file_of_tensor(part.tensor)});
      for_each_run(tensor.partition.region(shard()), cut.begin, cut.end,
                   [&](std::uint64_t global, std::uint64_t local, std::uint64_t length) {
                     add(wanted_run{.at = {.file = begin.file, .offset = begin.offset + global},
                                    .bytes = length,
                                    .to = to(part.tensor, local, length)},
                         part.tensor, global);
                   });
    }
  }

 private:
  const plan& plan_;
  std::size_t rank_;
  rank_groups groups_;
  std::vector<bool> serves_;  // per shard: has its source ranks of that; empty: of all
  std::size_t shards_served_ = 0;
};

/// Pure; O(segments), and with several sources O(tensors x ranks). \pre rank < ranks.
[[nodiscard]] inline prediction predict(const plan& made, std::size_t rank) {
  const plan_options& options = made.options;
  const mesh& ranks = options.ranks;
  const rank_plan mine(made, rank);
  prediction out;
  bool needs_scratch = false;
  bool widens_aside = false;
  const bool verifies = options.verify != verification::off;
  const bool rereads = options.verify == verification::reread;
  const std::size_t peers_shard = rereads ? ranks.shard_of(reread_pairs(options).read_by(rank)) : 0;
  for (const slab_layout& slab : made.slabs) {
    out.slab_bytes += slab.bytes;
  }
  const bool relayed = scatter_is_relayed(ranks, options.sources);
  const bool beside_source = ranks.replica_of(rank) == ranks.replica_of(mine.groups().source);
  for (const planned_tensor& tensor : made.tensors) {
    const partition& part = tensor.partition;
    const std::uint64_t whole = part.bytes();
    const std::uint64_t own = part.local_bytes(mine.shard());
    const std::uint64_t copies = 1 + tensor.extra_copies;
    out.shard_bytes += tensor.kept_bytes(own);
    widens_aside = widens_aside || (tensor.widening && !options.access.widens);
    if (rereads && !tensor.captured && !tensor.generated) {
      out.bytes_read += is_read_by_several(options, tensor) ? part.local_bytes(peers_shard) : own;
      needs_scratch = true;
    }
    if (tensor.way == route::full_copy) {
      out.bytes_read += whole * copies;
      out.full_copy_bytes += whole;
      needs_scratch = needs_scratch || copies != 1;
    } else if (tensor.way == route::broadcast) {
      const bool captured = tensor.captured && !options.sources.is_single();
      if (rank == (captured ? options.sources.source_rank : mine.groups().source)) {
        out.bytes_read += tensor.captured ? 0 : whole * copies;
        out.bytes_sent += whole * (mine.broadcast_size(captured) - 1);
        needs_scratch = needs_scratch || (copies != 1 && !tensor.captured);
      } else {
        out.bytes_received += whole;
      }
    } else if (tensor.way == route::scatter) {
      out.bytes_sent += relayed && beside_source ? own * (ranks.replicas - 1) : 0;
      if (!mine.is_source()) {
        out.bytes_received += own;
        continue;
      }
      if (mine.serves_every_shard()) {
        out.bytes_read += whole * copies;
      }
      for (std::size_t shard = 0; !mine.serves_every_shard() && shard < ranks.shards; ++shard) {
        out.bytes_read += mine.serves(shard) ? part.local_bytes(shard) * copies : 0;
      }
      if (options.sources.is_single()) {
        out.bytes_sent += whole * (relayed ? 1 : ranks.replicas) - own;
      } else {
        for (const std::size_t other : mine.groups().served) {
          out.bytes_sent += other == rank ? 0 : part.local_bytes(ranks.shard_of(other));
        }
      }
      needs_scratch = needs_scratch || copies != 1 || !part.is_contiguous();
    } else if (tensor.way == route::own_read) {
      needs_scratch = true;
    }
  }
  if (needs_scratch || widens_aside || (verifies && !options.access.host)) {
    out.scratch_bytes = options.bucket_bytes < scratch_bound ? options.bucket_bytes : scratch_bound;
    out.scratch_bytes = out.scratch_bytes < least_scratch ? least_scratch : out.scratch_bytes;
  }
  bool has_checksums = false;
  for (const bucket& which : made.schedule.buckets) {
    const std::uint64_t needed = mine.staging_of(which);
    out.slot_bytes = needed > out.slot_bytes ? needed : out.slot_bytes;
    has_checksums = has_checksums || mine.has_checksums(which);
    if (which.way != route::own_read) {
      continue;
    }
    if (mine.relays(which)) {
      const std::uint64_t window = mine.window_bytes(which, mine.shard());
      (mine.reads(which) ? out.bytes_sent : out.bytes_received) +=
          mine.reads(which) ? window * (ranks.replicas - 1) : window;
    }
    if (mine.reads(which)) {
      read_coalescer reads(out.scratch_bytes);
      const auto count = [&](std::span<const wanted_run> runs) { out.bytes_read += covering_bytes(runs); };
      mine.for_each_own_run(
          which, [](auto&&...) { return nullptr; },
          [&](const wanted_run& run, std::size_t tensor, std::uint64_t) {
            if (const std::uint64_t copies = made.tensors[tensor].extra_copies; copies != 0) {
              out.bytes_read += run.bytes * (1 + copies);
            } else {
              reads.add(run, count);
            }
          });
      reads.flush(count);
    }
  }
  if (has_checksums) {
    out.slot_bytes += checksums_bytes(options.verify, ranks.shards);
  }
  if (out.slot_bytes != 0) {
    const std::size_t buckets = made.schedule.buckets.size();
    out.slots = buckets < options.buckets_in_flight ? buckets : options.buckets_in_flight;
  }
  return out;
}

/// Payload that `rank` reads, or takes from its module: what its progress is out of. O(ranks + tensors + segments x shards).
[[nodiscard]] inline std::uint64_t bytes_to_read(const plan& made, std::size_t rank) {
  const rank_plan mine(made, rank);
  std::uint64_t total = 0;
  for (const planned_tensor& tensor : made.tensors) {
    total += tensor.way == route::full_copy ? tensor.partition.bytes() : 0;
  }
  for (const bucket& which : made.schedule.buckets) {
    if (!mine.reads(which)) {
      continue;
    }
    if (which.way == route::broadcast) {
      total += which.bytes;
    } else if (which.way == route::own_read) {
      total += mine.window_bytes(which, mine.shard());
    } else {
      for (std::size_t shard = 0; shard < made.options.ranks.shards; ++shard) {
        total += mine.serves(shard) ? mine.window_bytes(which, shard) : 0;
      }
    }
  }
  return total;
}

}  // namespace fsdpinit
