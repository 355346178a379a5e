#pragma once

#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/plan/plan.hpp>

#include <cstddef>
#include <cstdint>

namespace fsdpinit {

/// The host memory in which the source takes strided shards apart and compares tied copies.
inline constexpr std::uint64_t scratch_bound = 256 * kib;

/// What one rank will allocate, read, send and receive; all in bytes, exact.
struct prediction {
  std::uint64_t shard_bytes = 0;      ///< of this rank's shards and whole tensors, without padding
  std::uint64_t slab_bytes = 0;       ///< reserved for them, in the module's memory space
  std::uint64_t slot_bytes = 0;       ///< of one staging slot, in host memory
  std::size_t slots = 0;              ///< staging slots: min(buckets in flight, buckets), 0 where all is in place
  std::uint64_t scratch_bytes = 0;    ///< in host memory
  std::uint64_t full_copy_bytes = 0;  ///< the whole model in host memory, where every rank reads everything
  std::uint64_t bytes_read = 0;       ///< from the source
  std::uint64_t bytes_sent = 0;       ///< payload x destinations; a rank's copy to itself is not counted
  std::uint64_t bytes_received = 0;

  [[nodiscard]] std::uint64_t staging_bytes() const noexcept {
    return slot_bytes * slots + scratch_bytes + full_copy_bytes;
  }
  /// All is allocated before the first byte moves, so the peak is the sum and does not depend on timing.
  [[nodiscard]] std::uint64_t peak_bytes() const noexcept { return slab_bytes + staging_bytes(); }
};

/// Where `rank` puts or takes its own part of a bucket, if that needs no staging.
[[nodiscard]] inline std::optional<slab_range> in_place_range(const plan& made, const bucket& which, std::size_t rank) {
  const bool is_source = rank == made.options.source_rank;
  const slab_access& access = made.options.access;
  const bool possible = is_source ? access.host && (which.scatter || access.communicator) : access.communicator;
  return possible ? contiguous_destination(made.tensors, made.schedule, which, rank) : std::nullopt;
}

/// Staging bytes that `rank` needs for one bucket: nothing where it works in place, else its own part of a scatter or
/// the payload of a broadcast. The source of a scatter holds every other rank's window, and its own where host code may
/// not write slabs (where it may, even a scattered part is read straight to its places).
[[nodiscard]] inline std::uint64_t staging_of(const plan& made, const bucket& which, std::size_t rank) {
  if (which.scatter && rank == made.options.source_rank) {
    return which.bytes * (made.options.ranks.shards - (made.options.access.host ? 1U : 0U));
  }
  if (in_place_range(made, which, rank)) {
    return 0;
  }
  if (!which.scatter) {
    return which.bytes;
  }
  std::uint64_t own = 0;
  for (std::size_t i = which.first; i < which.last; ++i) {
    const segment& part = made.schedule.segments[i];
    const segment cut = clipped(part, made.tensors[part.tensor].partition, rank);
    own += cut.end - cut.begin;
  }
  return own;
}

/// Pure; O(tensors + segments). \pre rank < shards.
[[nodiscard]] inline prediction predict(const plan& made, std::size_t rank) {
  const plan_options& options = made.options;
  const bool is_source = rank == options.source_rank;
  const bool every_rank_reads = options.transport == transport_kind::none;
  prediction out;
  bool needs_scratch = false;
  for (const slab_layout& slab : made.slabs) {
    out.slab_bytes += slab.bytes;
  }
  for (const planned_tensor& tensor : made.tensors) {
    const std::uint64_t whole = tensor.partition.bytes();
    const std::uint64_t own = tensor.partition.local_bytes(rank);
    out.shard_bytes += own;
    if (!tensor.captured && (is_source || every_rank_reads)) {
      out.bytes_read += whole * (1 + tensor.extra_copies);
      needs_scratch = needs_scratch || tensor.extra_copies != 0;
    }
    if (every_rank_reads && !tensor.captured) {
      out.full_copy_bytes += whole;
      continue;
    }
    const bool scattered = options.transport == transport_kind::scatter && !tensor.partition.is_whole();
    if (is_source) {
      out.bytes_sent += scattered ? whole - own : whole * (options.ranks.shards - 1);
      needs_scratch = needs_scratch || (scattered && !tensor.partition.is_contiguous());
    } else {
      out.bytes_received += scattered ? own : whole;
    }
  }
  for (const bucket& which : made.schedule.buckets) {
    const std::uint64_t needed = staging_of(made, which, rank);
    out.slot_bytes = needed > out.slot_bytes ? needed : out.slot_bytes;
  }
  if (out.slot_bytes != 0) {
    const std::size_t buckets = made.schedule.buckets.size();
    out.slots = buckets < options.buckets_in_flight ? buckets : options.buckets_in_flight;
  }
  if (needs_scratch) {
    out.scratch_bytes = options.bucket_bytes < scratch_bound ? options.bucket_bytes : scratch_bound;
  }
  return out;
}

}  // namespace fsdpinit
