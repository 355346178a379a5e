#pragma once

#include <fsdpinit/plan/bucket_pipeline.hpp>
#include <fsdpinit/plan/cluster.hpp>
#include <fsdpinit/plan/cluster_reading.hpp>
#include <fsdpinit/plan/cluster_traffic.hpp>
#include <fsdpinit/plan/plan.hpp>
#include <fsdpinit/plan/prediction.hpp>
#include <fsdpinit/plan/rank_classes.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

/// \file
/// How long an initialisation takes on a cluster that is known by a few figures. The bytes are the plan's, exact; the seconds are a
/// model, which assumes
///   - ranks fill one node after the other, and all nodes are alike and idle;
///   - buckets of one route follow those of another. Of each, reading, copying and sending go on at the same time, a bucket in each
///     stage: the busiest resource sets the pace, and the other stages show once, with one bucket, while the pipeline fills and
///     drains, as it does where ranks agree after much that each has read by itself. Where every rank loads the whole model before
///     it keeps its shard, stages follow one another;
///   - a bucket holds its slot from its read until its rank has passed it on, and only so many are in flight;
///   - a bucket is read at the pace of what is slowest for it: the storage, its reads' latencies, or the copies of what is read;
///   - a broadcast goes round its ranks as a ring, in their order: it enters each node once. A scatter goes from the source to each rank;
///   - links carry both directions at once, and what ranks of a node share is shared evenly;
///   - nothing is in a page cache, and what is read is copied out of it once; latencies of reads are overlapped with other reads'
///     bytes (read-ahead), but not with one another on a rank, which reads by one thread.
/// CPU time for casts, checksums and allocation is not in it. Where the hosts were measured (`host_rates`, by `calibrate`), first
/// writes to fresh memory are, a rank's work is limited by what one thread does, and a node's by what all of them do at once.
/// `simulate_on` plays the same through. Over published models on 2 to 512 ranks, four clusters, 1 to 8 replicas and 1 to 4 buckets in
/// flight the two are within 15 % in 98 of 100 cases, and within 45 % in all of them. On random clusters so many are too, but where
/// links are about as fast as storage the simulation, which serves requests in their order, may take twice as long.

namespace fsdpinit {

namespace detail {

/// Bytes of a plan by route: the same for all ranks.
struct routed_bytes {
  std::uint64_t broadcast = 0;
  std::uint64_t captured = 0;           ///< of these, from the source rank's module
  std::uint64_t broadcast_sharded = 0;  ///< of these, of tensors of which a rank keeps a part
  std::uint64_t full_copy_reads = 0;    ///< by which each rank reads what it copies in full
  bool full_copies = false;
  route most = route::scatter;  ///< by which most bytes go
};

[[nodiscard]] inline routed_bytes bytes_by_route(const plan& made) {
  routed_bytes out;
  std::array<std::uint64_t, 4> sums{};
  for (const planned_tensor& tensor : made.tensors) {
    if (tensor.way == route::generated) {
      continue;
    }
    const std::uint64_t bytes = tensor.partition.bytes();
    sums[static_cast<std::size_t>(tensor.way)] += bytes;
    if (tensor.way == route::broadcast) {
      out.broadcast += bytes;
      out.captured += tensor.captured ? bytes : 0;
      out.broadcast_sharded += tensor.partition.is_whole() ? 0 : bytes;
    } else if (tensor.way == route::full_copy) {
      out.full_copies = true;
      out.full_copy_reads += 1 + tensor.extra_copies;
    }
  }
  out.most = static_cast<route>(std::max_element(sums.begin(), sums.end()) - sums.begin());
  return out;
}

/// What a rank keeps of the tensors that go one way, as bytes that travel.
[[nodiscard]] inline std::uint64_t own_bytes(const plan& made, route way, bool sharded_only, std::size_t shard) {
  std::uint64_t bytes = 0;
  for (const planned_tensor& tensor : made.tensors) {
    const bool counts = tensor.way == way && !(sharded_only && tensor.partition.is_whole());
    bytes += counts ? tensor.partition.local_bytes(shard) : 0;
  }
  return bytes;
}

/// The rank before `rank` in a ring of those that `source` serves.
[[nodiscard]] inline std::size_t before_in_ring(const std::vector<std::size_t>& ring, std::size_t rank) {
  const auto at = std::lower_bound(ring.begin(), ring.end(), rank);
  return at == ring.begin() ? ring.back() : *(at - 1);
}

/// The buckets of each route as a pipeline, one after the other, and what ranks read and send besides.
class route_pipelines {
 public:
  route_pipelines(const cluster& on, const plan& made)
      : on_(on),
        plan_(made),
        routed_(bytes_by_route(made)),
        served_(served_by_rank(made.options)),
        relays_scatter_(scatter_is_relayed(grid(), sources())),
        relays_own_reads_(own_read_is_relayed(grid(), sources())),
        reading_(on, made, served_) {
    const std::vector<bool> drained = drained_after(made);
    std::size_t so_far = 0;
    for (const bucket& which : made.schedule) {
      reading_.add(which);
      bucket_pipeline& its = on_way(which.way);
      ++its.buckets;
      its.fills += drained[so_far] && so_far + 1 != drained.size() ? 1U : 0U;
      ++so_far;
    }
    const auto in_flight = static_cast<double>(made.options.buckets_in_flight);
    for (const route way : {route::scatter, route::own_read, route::broadcast}) {
      on_way(way).read_by = reading_.seconds(way);
      on_way(way).in_flight = in_flight;
      on_way(way).travels = way != route::own_read || relays_own_reads_;
      on_way(way).rings = way != route::scatter || relays_scatter_;
    }
    if (relays_own_reads_) {
      // Replicas of a node read one after the other; those of the next node begin as many buckets earlier as are in flight besides.
      const auto in_turn = static_cast<double>(std::max<std::size_t>(on.ranks_per_node / grid().shards, 1));
      bucket_pipeline& its = on_way(route::own_read);
      its.read_at_once = in_turn / std::max(in_turn - in_flight + 1, in_turn / in_flight);
      // A ring that begins at another replica than the one before does without one link. Two such rings have all others in common,
      // and so follow one another, unless there are but two replicas, which use either direction of one link.
      const auto replicas = static_cast<double>(grid().replicas);
      its.ring_turns = grid().replicas > 2 ? replicas / (replicas - 1) : 1;
    }
    if (relays_scatter_) {
      // The source passes its part on once it has read the next bucket, so that a slot is free a bucket later; and where that takes
      // a link over which the next bucket is scattered, or its slot, once that has been sent.
      bucket_pipeline& its = on_way(route::scatter);
      its.in_flight = std::max(in_flight - 1, 1.0);
      its.passes_early = in_flight > 1 && !relays_where_it_scatters() && (on.nvlink_bandwidth || !on.pcie_bandwidth);
    }
  }

  void add(std::size_t rank, const prediction& mine) {
    const std::uint64_t received = add_sends(rank);
    bucket_pipeline& own = on_way(route::own_read);
    own.all.send(before_replica(rank), rank, mine.bytes_received - received);
    if (relays_own_reads_) {
      own.passed_on = std::max(
          own.passed_on,
          seconds_between(on_, before_replica(rank), rank, reading_.by(before_replica(rank), route::own_read).bytes));
    }
    add_reads(rank, mine);

    const std::size_t shard = grid().shard_of(rank);
    for (const route way : {route::broadcast, route::full_copy}) {
      const std::uint64_t placed = own_bytes(plan_, way, way == route::broadcast, shard);
      const bool is_staged = on_.pcie_bandwidth && way == route::broadcast && rank != sources().serving(rank);
      const std::uint64_t staged = is_staged ? routed_.broadcast_sharded : 0;
      on_way(way).all.place(rank, placed);
      on_way(way).all.to_host(rank, staged);
      on_way(way).kept = std::max(on_way(way).kept, placed + staged);
    }
    // Nearly all that is allocated is first written to where most bytes go.
    on_way(routed_.most).all.touch(rank, mine.peak_bytes() - (on_.pcie_bandwidth ? mine.slab_bytes : 0));
  }

  [[nodiscard]] cluster_cost cost() const {
    cluster_cost out;
    cluster_traffic all(on_);
    double fill = 0;
    double hand_over = 0;
    double nic_latency = 0;
    for (const bucket_pipeline& each : pipelines_) {
      const pipeline_seconds its = seconds_of(each, on_);
      all += each.all;
      out.seconds += its.pace;
      fill = std::max(fill, its.fill);  // one route fills while the one before drains
      hand_over += its.hand_over;
      nic_latency += its.nic_latency;
    }
    out.seconds += fill;
    all.add_to(out);
    const auto set = [&](cluster_resource which, double seconds) {
      out.busy[static_cast<std::size_t>(which)] = seconds;
    };
    set(cluster_resource::storage_latency, static_cast<double>(most_reads_) * on_.storage_latency);
    set(cluster_resource::nic_latency, nic_latency);
    set(cluster_resource::hand_over, hand_over);
    out.bottleneck =
        static_cast<cluster_resource>(std::max_element(out.busy.begin(), out.busy.end()) - out.busy.begin());
    return out;
  }

 private:
  [[nodiscard]] const mesh& grid() const noexcept { return plan_.options.ranks; }
  [[nodiscard]] const source_layout& sources() const noexcept { return plan_.options.sources; }
  [[nodiscard]] bucket_pipeline& on_way(route way) noexcept { return pipelines_[static_cast<std::size_t>(way)]; }
  [[nodiscard]] std::size_t before_replica(std::size_t rank) const noexcept {
    return grid().rank_of((grid().replica_of(rank) + grid().replicas - 1) % grid().replicas, grid().shard_of(rank));
  }
  /// Does the source pass its part on to the next replica as it scatters, within its node or out of it?
  [[nodiscard]] bool relays_where_it_scatters() const noexcept {
    const std::size_t source = sources().source_rank;
    const std::size_t first = grid().rank_of(grid().replica_of(source), 0);
    const bool scatter_crosses = on_.node_of(first) != on_.node_of(first + grid().shards - 1);
    const bool relay_crosses = on_.node_of(source) != on_.node_of((source + grid().shards) % grid().size());
    return scatter_crosses == relay_crosses;
  }

  /// What is broadcast or scattered to a rank. \return its bytes.
  std::uint64_t add_sends(std::size_t rank) {
    const std::size_t source = sources().serving(rank);
    const std::size_t captures = sources().is_single() ? source : sources().source_rank;
    const auto send = [&](route way, std::size_t from, std::uint64_t bytes, bool holds_slot) {
      on_way(way).all.send(from, rank, bytes);
      if (holds_slot) {
        on_way(way).held.send(from, rank, bytes);
      }
      return bytes;
    };
    const std::size_t before = (rank + grid().size() - 1) % grid().size();
    const std::size_t before_served = sources().is_single() ? before : before_in_ring(served_[source], rank);
    std::uint64_t bytes = send(route::broadcast, before_served,
                               rank == source ? 0 : routed_.broadcast - routed_.captured, before_served == source);
    bytes += send(route::broadcast, before, rank == captures ? 0 : routed_.captured, before == captures);

    const std::uint64_t scattered = rank == source ? 0 : own_bytes(plan_, route::scatter, false, grid().shard_of(rank));
    if (!relays_scatter_ || grid().replica_of(rank) == grid().replica_of(source)) {
      return bytes + send(route::scatter, source, scattered, true);
    }
    // What other ranks of the source's node pass on is in its way where the scatter goes there too.
    const std::size_t from = before_replica(rank);
    const bool beside_source =
        grid().replica_of(from) == grid().replica_of(source) && on_.node_of(from) == on_.node_of(source);
    const bool in_the_way = relays_where_it_scatters() || plan_.options.buckets_in_flight == 1;
    if (from == source && !in_the_way) {
      on_way(route::scatter).passed_on = seconds_between(on_, source, rank, scattered);
    }
    return bytes + send(route::scatter, from, scattered, beside_source && in_the_way);
  }

  void add_reads(std::size_t rank, const prediction& mine) {
    std::uint64_t reads = routed_.full_copy_reads;
    std::uint64_t rest = mine.bytes_read;
    const auto read = [&](route way, std::uint64_t bytes) {
      bucket_pipeline& its = on_way(way);
      its.all.read(rank, bytes);
      if (on_.pcie_bandwidth && !routed_.full_copies) {
        its.all.to_device(rank, bytes);
        its.to_device = std::max(its.to_device, bytes);
      }
    };
    for (const route way : {route::scatter, route::own_read, route::broadcast}) {
      const read_work one = reading_.by(rank, way);
      read(way, one.bytes);
      rest -= one.bytes;
      reads += one.reads;
    }
    read(route::full_copy, rest);  // whole models, and what is read besides the buckets' own bytes
    most_reads_ = std::max(most_reads_, reads);
  }

  const cluster& on_;
  const plan& plan_;
  routed_bytes routed_;
  std::vector<std::vector<std::size_t>> served_;
  bool relays_scatter_;
  bool relays_own_reads_;
  plan_reading reading_;
  std::array<bucket_pipeline, 4> pipelines_{bucket_pipeline(on_), bucket_pipeline(on_), bucket_pipeline(on_),
                                            bucket_pipeline(on_)};  // by route, but `generated`
  std::uint64_t most_reads_ = 0;                                    // of one rank
};

}  // namespace detail

/// What `made` costs on a cluster. Pure; O(tensors x ranks + segments x classes of shards). `ranks` is `predict_every_rank(made)`.
///
/// With PCIe the plan has to be one for slabs that the host cannot reach but the communicator can (`slab_access{.host = false}`): what a
/// rank reads crosses its PCIe once (all of it, as it is kept or sent on from the device; where every rank loads the whole model,
/// only what it keeps), what comes over a NIC too, and a broadcast of which a rank keeps a part is staged in host memory.
/// Copies out of staging are counted for these, and for whole models; the few buckets that lie across slabs are not.
/// \pre on.ranks() == made.options.ranks.size() == ranks.size().
[[nodiscard]] inline cluster_cost cost_on(const cluster& on, const plan& made, std::span<const prediction> ranks) {
  detail::route_pipelines pipelines(on, made);
  for (std::size_t rank = 0; rank < ranks.size(); ++rank) {
    pipelines.add(rank, ranks[rank]);
  }
  cluster_cost out = pipelines.cost();
  for (const prediction& each : ranks) {
    const std::uint64_t device = on.pcie_bandwidth ? each.slab_bytes : 0;
    out.device_peak_bytes = std::max(out.device_peak_bytes, device);
    out.host_peak_bytes = std::max(out.host_peak_bytes, each.peak_bytes() - device);
  }
  return out;
}

}  // namespace fsdpinit
