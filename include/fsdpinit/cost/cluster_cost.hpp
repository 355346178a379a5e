#pragma once

#include <fsdpinit/cost/bucket_pipeline.hpp>
#include <fsdpinit/cost/cluster.hpp>
#include <fsdpinit/cost/cluster_groups.hpp>
#include <fsdpinit/cost/cluster_traffic.hpp>
#include <fsdpinit/cost/rank_work.hpp>
#include <fsdpinit/plan/plan.hpp>
#include <fsdpinit/plan/prediction.hpp>

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

/// All that ranks do on one route.
class route_work {
 public:
  route_work(const mesh& ranks, std::size_t classes) : ranks_(ranks), classes_(classes), usual_(classes) {}

  /// The round that `every` has looked at, so many times.
  void add(const every_rank_work& every, std::uint64_t times) {
    if (every.turn() && in_turn_.empty()) {
      in_turn_.resize(ranks_.replicas * classes_);
    }
    for (std::size_t of = 0; of < classes_; ++of) {
      usual_[of].add(every.usual(of).sums, times);
      if (every.turn()) {
        work_sums& instead = in_turn_[*every.turn() * classes_ + of];
        instead.add(every.in_turn(of).sums, times);
        instead.take_off(every.usual(of).sums);
      }
    }
  }

  [[nodiscard]] work_sums of(std::size_t rank, std::size_t its_class) const noexcept {
    work_sums out = usual_[its_class];
    if (!in_turn_.empty()) {
      out.add(in_turn_[ranks_.replica_of(rank) * classes_ + its_class]);
    }
    return out;
  }

 private:
  mesh ranks_;
  std::size_t classes_;
  std::vector<work_sums> usual_;    // by class, as if no rank took its turn
  std::vector<work_sums> in_turn_;  // by replica and class: what is more, or less, where it does
};

/// The buckets of each route as a pipeline, one after the other, and what ranks do besides.
class route_pipelines {
 public:
  route_pipelines(const cluster& on, const plan& made)
      : on_(on),
        plan_(made),
        groups_(made.options),
        every_(made),
        nodes_(on, grid(), every_),
        kept_{kept_of_broadcasts(grid().shards), kept_of_broadcasts(grid().shards), kept_of_broadcasts(grid().shards),
              kept_of_broadcasts(grid().shards)} {
    work_.assign(pipelines_.size(), route_work(grid(), every_.classes()));
    add_rounds();
    set_pipelines();
  }

  void add(std::size_t rank, const prediction& mine) {
    std::uint64_t rest = mine.bytes_read;
    std::uint64_t reads = 0;
    for (const fsdpinit::route route : {route::scatter, route::own_read, route::broadcast, route::full_copy}) {
      const work_sums done = work(route, rank);
      bucket_pipeline& its = on_route(route);
      add_sends(route, rank, done);
      its.all.read(rank, done[amount::read]);
      its.all.copy(rank, done[amount::copied]);
      its.all.to_device(rank, out_of_staging(done[amount::sent_staged] + done[amount::passed_on_staged]));
      std::uint64_t at_once = done[amount::placed];
      std::uint64_t later = 0;
      if (route == route::broadcast) {
        for (const flow by : {flow::all, flow::served}) {
          (is_root(by, rank) ? at_once : later) += kept(by, is_root(by, rank))[grid().shard_of(rank)];
        }
      }
      const std::uint64_t to_host = out_of_staging(done[amount::staged] + done[amount::fetched]);
      its.all.place(rank, at_once + later);
      its.all.to_host(rank, to_host);
      its.to_device = std::max(its.to_device, out_of_staging(done[amount::sent_staged]));
      its.kept_at_once = std::max(its.kept_at_once, out_of_staging(at_once));
      its.kept = std::max(its.kept, later + to_host);
      rest -= done[amount::read];
      reads += done[amount::reads];
    }
    on_route(route::full_copy).all.read(rank, rest);  // what is read along
    most_reads_ = std::max(most_reads_, reads);
    // Nearly all that is allocated is first written to where most bytes go.
    on_route(route_of_most_).all.touch(rank, mine.peak_bytes() - (on_.pcie_bandwidth ? mine.slab_bytes : 0));
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
  [[nodiscard]] const source_layout& source_ranks() const noexcept { return plan_.options.source_ranks; }
  [[nodiscard]] bucket_pipeline& on_route(fsdpinit::route route) noexcept {
    return pipelines_[static_cast<std::size_t>(route)];
  }
  [[nodiscard]] route_work& work_on(fsdpinit::route route) noexcept { return work_[static_cast<std::size_t>(route)]; }
  [[nodiscard]] work_sums work(fsdpinit::route route, std::size_t rank) noexcept {
    return work_on(route).of(rank, every_.class_of(rank));
  }
  /// Of broadcasts to all, or to those that a source serves; what their roots keep, or the others.
  [[nodiscard]] kept_of_broadcasts& kept(flow by, bool is_root) noexcept {
    return kept_[(by == flow::all ? 0U : 2U) + (is_root ? 1U : 0U)];
  }
  [[nodiscard]] bool is_root(flow by, std::size_t rank) const noexcept {
    return rank == (by == flow::all ? source_ranks().source_rank : source_ranks().serving(rank));
  }
  [[nodiscard]] std::uint64_t out_of_staging(std::uint64_t bytes) const noexcept {
    return on_.pcie_bandwidth ? bytes : 0;
  }
  [[nodiscard]] std::size_t before_replica(std::size_t rank) const noexcept {
    return groups_(rank_group::replicas, rank).before(rank);
  }

  // -- what is done

  void add_rounds() {
    program rounds = program_of(plan_, 0);
    program_round round = rounds.first();
    std::size_t known = 0;  // buckets up to here are added
    std::array<std::uint64_t, 4> moved{};
    fsdpinit::route route = fsdpinit::route::full_copy;
    do {
      if (round.kind == round_kind::agree) {
        on_route(route).fills += round.part != 0 && round.part != plan_.schedule.size() ? 1U : 0U;
      } else if (round.kind != round_kind::bucket) {
        if (round.part == 0) {  // the first turn stands for all
          every_.look_at(round);
          work_on(route::full_copy).add(every_, 1);
        }
      } else if (round.part >= known) {
        const std::size_t alike = every_.look_at(round);
        const bucket which = plan_.schedule[round.part];
        known = round.part + alike;
        route = which.route;
        moved[static_cast<std::size_t>(route)] += which.bytes * alike * (which.has_windows() ? grid().shards : 1);
        add_buckets(which, alike);
      }
    } while (rounds.advance(round));
    if (plan_.options.transport == transport::none) {
      moved[static_cast<std::size_t>(route::full_copy)] = bytes_of_turns(plan_, fully_loaded_bytes);
    }
    route_of_most_ = static_cast<fsdpinit::route>(std::max_element(moved.begin(), moved.end()) - moved.begin());
  }

  void add_buckets(const bucket& which, std::size_t alike) {
    bucket_pipeline& its = on_route(which.route);
    its.buckets += alike;
    work_on(which.route).add(every_, alike);
    const std::size_t turn = every_.turn().value_or(0);
    its.read_by.resize(std::max(its.read_by.size(), turn + 1));
    its.read_by[turn] += nodes_.seconds_of_reading(every_) * static_cast<double>(alike);
    if (which.route != route::broadcast) {
      return;
    }
    std::array<bool, 2> staged{};  // by those that are not its root, and by that
    flow by = flow::all;
    for (std::size_t of = 0; of < every_.classes(); ++of) {
      if (const auto& started = every_.usual(of).started) {
        by = started->by;
        staged[started->is_root ? 1 : 0] = staged[started->is_root ? 1 : 0] || started->staged;
      }
    }
    for (const bool is_root : {false, true}) {
      if (staged[is_root ? 1 : 0]) {
        kept(by, is_root).add(plan_, which, alike);
      }
    }
  }

  // -- how it goes on at the same time

  void set_pipelines() {
    const auto in_flight = static_cast<double>(plan_.options.buckets_in_flight);
    for (const fsdpinit::route route : {route::scatter, route::own_read, route::broadcast}) {
      on_route(route).in_flight = in_flight;
      on_route(route).travels = route != route::own_read;
      on_route(route).rings = route == route::broadcast;
    }
    relays_scatter_ = receives_by(route::scatter, flow::passed_on);
    relays_own_reads_ = receives_by(route::own_read, flow::replicas);
    if (relays_own_reads_) {
      // Replicas of a node read one after the other; those of the next node begin as many buckets earlier as are in flight besides.
      const auto in_turn = static_cast<double>(std::max<std::size_t>(on_.ranks_per_node / grid().shards, 1));
      bucket_pipeline& its = on_route(route::own_read);
      its.travels = its.rings = true;
      its.read_at_once = in_turn / std::max(in_turn - in_flight + 1, in_turn / in_flight);
      // A ring that begins at another replica than the one before does without one link. Two such rings have all others in common,
      // and so follow one another, unless there are but two replicas, which use either direction of one link.
      const auto replicas = static_cast<double>(grid().replicas);
      its.ring_turns = grid().replicas > 2 ? replicas / (replicas - 1) : 1;
    }
    if (relays_scatter_) {
      // The source passes its part on once it has read the next bucket, so that a slot is free a bucket later; and where that takes
      // a link over which the next bucket is scattered, or its slot, once that has been sent.
      bucket_pipeline& its = on_route(route::scatter);
      its.rings = true;
      its.in_flight = std::max(in_flight - 1, 1.0);
      its.passes_early = in_flight > 1 && !relays_where_it_scatters() && (on_.nvlink_bandwidth || !on_.pcie_bandwidth);
    }
  }
  /// Does any rank receive anything by this route?
  [[nodiscard]] bool receives_by(fsdpinit::route route, flow by) noexcept {
    for (std::size_t rank = 0; rank < grid().size(); ++rank) {
      if (work(route, rank)[received_by(by)] != 0) {
        return true;
      }
    }
    return false;
  }
  /// Does the source pass its part on to the next replica as it scatters, within its node or out of it?
  [[nodiscard]] bool relays_where_it_scatters() const noexcept {
    const std::size_t source = source_ranks().source_rank;
    const group_members to = groups_(rank_group::scatter, source);
    const bool scatter_crosses = on_.node_of(to[0]) != on_.node_of(to[to.size() - 1]);
    const bool relay_crosses = on_.node_of(source) != on_.node_of((source + grid().shards) % grid().size());
    return scatter_crosses == relay_crosses;
  }

  /// What is sent to a rank on one route. What a rank that reads sends holds its slot.
  void add_sends(fsdpinit::route route, std::size_t rank, const work_sums& done) {
    bucket_pipeline& its = on_route(route);
    const auto send = [&](flow by, std::size_t from, bool holds_slot) {
      const std::uint64_t bytes = done[received_by(by)];
      its.all.send(from, rank, bytes);
      if (holds_slot) {
        its.held.send(from, rank, bytes);
      }
    };
    const std::size_t source = source_ranks().serving(rank);
    send(flow::scatter, source, true);
    const std::size_t before = groups_(rank_group::all, rank).before(rank);
    send(flow::all, before, is_root(flow::all, before));
    const std::size_t before_served = groups_(rank_group::served, rank).before(rank);
    send(flow::served, before_served, is_root(flow::served, before_served));

    const std::size_t from = before_replica(rank);
    send(flow::replicas, from, false);
    if (route == route::own_read && relays_own_reads_) {
      its.passed_on = std::max(its.passed_on, seconds_between(on_, from, rank, work(route, from)[amount::read]));
    }
    if (done[received_by(flow::passed_on)] == 0) {
      return;
    }
    // What other ranks of the source's node pass on is in its way where the scatter goes there too.
    const bool beside_source =
        grid().replica_of(from) == grid().replica_of(source) && on_.node_of(from) == on_.node_of(source);
    const bool in_the_way = relays_where_it_scatters() || plan_.options.buckets_in_flight == 1;
    if (from == source) {
      its.passed_on = seconds_over_pcie(on_, work(route, source)[amount::passed_on_staged]) +
                      (in_the_way ? 0 : seconds_between(on_, source, rank, done[received_by(flow::passed_on)]));
    }
    send(flow::passed_on, from, beside_source && in_the_way);
  }

  const cluster& on_;
  const plan& plan_;
  groups_of_ranks groups_;
  every_rank_work every_;
  cluster_nodes nodes_;
  std::array<kept_of_broadcasts, 4> kept_;
  std::vector<route_work> work_{};  // by route, but `generated`; rounds that are no buckets are `full_copy`
  std::array<bucket_pipeline, 4> pipelines_{bucket_pipeline(on_), bucket_pipeline(on_), bucket_pipeline(on_),
                                            bucket_pipeline(on_)};  // likewise
  bool relays_scatter_ = false;
  bool relays_own_reads_ = false;
  route route_of_most_ = route::scatter;  // by which most bytes go
  std::uint64_t most_reads_ = 0;          // of one rank
};

}  // namespace detail

/// What `made` costs on a cluster: the steps of its programs, added up. Pure; O(tensors x ranks), and the steps of a program for each
/// class of ranks. `ranks` is `predict_every_rank(made)`.
///
/// With PCIe the plan has to be one for slabs that the host cannot reach but the communicator can (`slab_access{.host = false}`): what a
/// rank sends out of staging crosses its PCIe, and so does what it keeps out of it, each by itself; what comes over a NIC too. A broadcast
/// of which a rank keeps a part is staged in host memory; a window never is, although a few lie across slabs.
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
