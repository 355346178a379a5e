#pragma once

#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/index/mesh.hpp>
#include <fsdpinit/plan/bucket_schedule.hpp>
#include <fsdpinit/plan/plan.hpp>
#include <fsdpinit/plan/rank_groups.hpp>
#include <fsdpinit/plan/read_coalescing.hpp>
#include <fsdpinit/plan/verification.hpp>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace fsdpinit {

/// One rank's view of a plan: whom it serves, and what it does about each bucket. Pure; made as `groups_of` is.
class rank_plan {
 public:
  /// `made` must outlive it. \pre rank < ranks.
  rank_plan(const plan& made, std::size_t rank) : plan_(made), rank_(rank) {
    const plan_options& options = made.options;
    groups_ = groups_of(options.ranks, options.source_ranks, rank);
    shard_ = options.ranks.shard_of(rank);
    relays_scatters_ = scatter_is_relayed(options.ranks, options.source_ranks);
    relays_own_reads_ = own_read_is_relayed(options.ranks, options.source_ranks);
    shards_served_ = end_served_ = options.ranks.shards;
    if (!options.source_ranks.is_single()) {
      serves_.resize(options.ranks.shards, 0);
      first_served_ = options.ranks.shards;
      shards_served_ = end_served_ = 0;
      for (const std::size_t other : groups_.served) {
        const std::size_t shard = options.ranks.shard_of(other);
        shards_served_ += serves_[shard] != 0 ? 0U : 1U;
        serves_[shard] = 1;
        first_served_ = shard < first_served_ ? shard : first_served_;
        end_served_ = shard < end_served_ ? end_served_ : shard + 1;
      }
    }
  }

  [[nodiscard]] std::size_t rank() const noexcept { return rank_; }
  [[nodiscard]] std::size_t shard() const noexcept { return shard_; }
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
  [[nodiscard]] bool serves(std::size_t shard) const noexcept { return serves_.empty() || serves_[shard] != 0; }
  /// It serves none before this one, and none from `end_served` on.
  [[nodiscard]] std::size_t first_served() const noexcept { return first_served_; }
  [[nodiscard]] std::size_t end_served() const noexcept { return end_served_; }
  [[nodiscard]] bool serves_every_shard() const noexcept { return shards_served_ == plan_.options.ranks.shards; }
  /// A source reads its own part of a scatter straight into the slab, unless it has to pass it on, or may not write there.
  [[nodiscard]] bool reads_own_window_in_place() const noexcept {
    return plan_.options.access.host && plan_.options.ranks.replicas == 1;
  }

  [[nodiscard]] bool relays(const bucket& which) const noexcept {
    return which.route == route::scatter ? relays_scatters_ : which.route == route::own_read && relays_own_reads_;
  }
  /// The rank that has the bytes of this bucket, or of this rank's window of it, when they begin to move.
  [[nodiscard]] std::size_t root_of(const bucket& which) const noexcept {
    const mesh& ranks = plan_.options.ranks;
    switch (which.route) {
      case route::scatter:
        return groups_.source;
      case route::own_read:
        return relays(which) ? ranks.rank_of(which.reader, shard()) : rank_;
      default:
        return which.from_buffer ? plan_.options.source_ranks.source_rank : groups_.source;
    }
  }
  [[nodiscard]] bool reads(const bucket& which) const noexcept { return root_of(which) == rank_; }
  /// Those that receive a broadcast bucket, the root with them; empty where it is all ranks.
  [[nodiscard]] std::span<const std::size_t> broadcast_group(const bucket& which) const noexcept {
    return which.from_buffer ? std::span<const std::size_t>{} : std::span<const std::size_t>(groups_.served);
  }

  /// Where this rank puts or takes its own part of a bucket, if that needs no staging.
  [[nodiscard]] std::optional<slab_range> in_place_range(const bucket& which) const {
    const slab_access& access = plan_.options.access;
    const bool travels = which.route != route::own_read || relays(which);
    const bool possible = (!travels || access.communicator) && (!reads(which) || access.host);
    return possible ? contiguous_destination(plan_.tensors, plan_.schedule, which, shard()) : std::nullopt;
  }

  /// The bytes of this rank's window of a bucket. O(its segments).
  [[nodiscard]] std::uint64_t window_bytes(const bucket& which, std::size_t shard) const noexcept {
    std::uint64_t bytes = 0;
    for (const segment& part : plan_.schedule.segments(which)) {
      const segment cut = clipped(part, plan_.tensors[part.tensor].partition, shard);
      bytes += cut.end - cut.begin;
    }
    return bytes;
  }

  /// Is an own read made piece by piece into the slabs?
  [[nodiscard]] bool reads_directly(const bucket& which) const noexcept {
    return which.route == route::own_read && !relays(which) && plan_.options.access.host;
  }

  /// Are there checksums of this bucket? Not where each rank reads its part straight to its place.
  [[nodiscard]] bool has_checksums(const bucket& which) const noexcept {
    return plan_.options.verify != verification::off && !reads_directly(which);
  }
  /// Staging bytes that this rank needs for one bucket: nothing where it works in place, else its own part of a window or the
  /// payload of a broadcast. The source of a scatter holds every window it sends, and its own where that is not read in place.
  [[nodiscard]] std::uint64_t staging_of(const bucket& which) const {
    if (which.route == route::scatter && is_source()) {
      return which.bytes * (shards_served_ - (reads_own_window_in_place() ? 1U : 0U));
    }
    if (reads_directly(which) || in_place_range(which)) {
      return 0;
    }
    return which.has_windows() ? window_bytes(which, shard()) : which.bytes;
  }

  /// Calls `add(run, tensor, global offset)` for what this rank reads by itself of a segment of an own-read bucket. `to(tensor, local,
  /// bytes)` says where it goes.
  template <class Place, class Add>
  void for_each_own_run(const segment& part, Place&& to, Add&& add) const {
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

 private:
  const plan& plan_;
  std::size_t rank_;
  rank_groups groups_;
  std::vector<char> serves_;  // per shard: has its source ranks of that; empty: of all
  std::size_t shard_ = 0;
  std::size_t shards_served_ = 0;
  std::size_t first_served_ = 0;
  std::size_t end_served_ = 0;
  bool relays_scatters_ = false;
  bool relays_own_reads_ = false;
};

}  // namespace fsdpinit
