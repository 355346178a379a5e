#pragma once

#include <fsdpinit/plan/bucket_loads.hpp>
#include <fsdpinit/plan/cluster_cost.hpp>
#include <fsdpinit/plan/cluster_lanes.hpp>
#include <fsdpinit/plan/cluster_reading.hpp>
#include <fsdpinit/plan/plan.hpp>
#include <fsdpinit/plan/prediction.hpp>
#include <fsdpinit/plan/rank_classes.hpp>
#include <fsdpinit/plan/staging_peak.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <span>
#include <utility>
#include <vector>

/// \file
/// An initialisation on a cluster, bucket by bucket: what `cost_on` sums up, played through. Each rank does what it does in a real
/// load, in the same order: it waits until the bucket is done that had the slot before, reads if it is its turn, starts to send or
/// receive, and passes the bucket before on where replicas do that. All of this order is the plan's, so that there is no queue of
/// events: every step begins once those before it on its rank and on its lanes have ended. Hence nothing gets slower where a
/// resource gets faster. It is assumed that
///   - a disk, a link or a memory does one thing after the other, at full bandwidth, in the order of the buckets; what several ranks
///     read for the same bucket is read at once, and is there for all of them at the same time;
///   - a rank reads by one thread, which waits for the storage, for its latencies, and for the copy out of the page cache, whichever
///     takes longest. Nothing is read ahead of a bucket. On its way to a device the bucket is off that thread;
///   - what arrives is passed on at once, along a ring, as small pieces would be; a latency counts once for each hop between nodes;
///   - a source begins to send without waiting for receivers, and its slot is free once all of them have what it held;
///   - what is read along with neighbouring bytes, or again to verify it, is read at the end.
/// As with `cost_on`, CPU time is not in it, nor are the few rounds in which ranks agree. What `calibrate` has measured of hosts
/// (`cluster::measured`) is not looked at: it is about cores, which are no resource here.

namespace fsdpinit {

struct simulated_cost {
  double seconds = 0;        ///< until the last rank has its shards
  double source_waited = 0;  ///< of these, those in which the source rank waited for a slot to read into
  std::array<double, cluster_resources>
      busy{};  ///< seconds, by resource, of the busiest node or rank; none of `nic_latency`
  // Of all ranks together, as in `cluster_cost`:
  std::uint64_t storage_bytes = 0;
  std::uint64_t nic_bytes = 0;
  std::uint64_t in_node_bytes = 0;
  std::uint64_t pcie_bytes = 0;
  /// The most that buckets hold of the staging slots of one rank at once: not more than the plan has reserved.
  std::uint64_t staging_peak_bytes = 0;

  [[nodiscard]] double busy_with(cluster_resource which) const noexcept {
    return busy[static_cast<std::size_t>(which)];
  }
};

namespace detail {

/// All ranks of one initialisation.
class simulated_ranks {
 public:
  simulated_ranks(const cluster& on, const plan& made, std::span<const prediction> ranks)
      : on_(on),
        plan_(made),
        ranks_(ranks),
        lanes_(on),
        served_(served_by_rank(made.options)),
        relays_scatter_(scatter_is_relayed(made.options.ranks, made.options.sources)),
        relays_own_reads_(own_read_is_relayed(made.options.ranks, made.options.sources)),
        full_copies_(bytes_by_route(made).full_copies),
        watched_(made.options.sources.serving(made.options.sources.source_rank)),
        flights_(made.options.buckets_in_flight, flight(made, on.ranks())),
        clock_(on.ranks()),
        ready_(on.ranks()),
        wanted_(on.ranks()),
        reads_(on.ranks()),
        round_(on.nodes) {
    for (std::size_t rank = 0; rank < served_.size(); ++rank) {
      if (!served_[rank].empty()) {
        sources_.push_back({.rank = rank, .shards = shards_of(served_[rank], grid(), flights_.front().loads)});
      }
    }
  }

  [[nodiscard]] simulated_cost run() {
    const std::vector<bool> drained = drained_after(plan_);
    flight* previous = nullptr;
    std::size_t so_far = 0;
    for (const bucket& which : plan_.schedule) {
      flight& next = flights_[so_far % flights_.size()];
      finish(next);
      next.which = which;
      next.loads.load(which);
      start(next);
      if (previous != nullptr && previous != &next) {
        relay(*previous);
      }
      previous = &next;
      if (drained[so_far++]) {
        finish_all(so_far);
        previous = nullptr;
      }
    }
    finish_all(so_far);
    read_the_rest();

    simulated_cost out;
    out.seconds = *std::max_element(clock_.begin(), clock_.end());
    out.source_waited = waited_;
    lanes_.add_to(out);
    out.busy[static_cast<std::size_t>(cluster_resource::storage_latency)] =
        static_cast<double>(*std::max_element(reads_.begin(), reads_.end())) * on_.storage_latency;
    out.staging_peak_bytes = staging_peak(plan_, ranks_, flights_.front().loads, drained);
    return out;
  }

 private:
  struct flight {
    flight(const plan& made, std::size_t ranks) : loads(made), done(ranks) {}
    std::optional<bucket> which{};  // nothing: free
    bool to_relay = false;
    bucket_loads loads;
    std::vector<double> done;  // by rank: when its part in moving this is over
  };
  /// A rank that reads for others.
  struct reading_source {
    std::size_t rank = 0;
    served_shards shards;
  };
  struct reading {
    std::size_t rank = 0;
    std::uint64_t bytes = 0;
    std::uint64_t reads = 0;
  };
  /// What the ranks of one node read at once.
  struct node_round {
    double begin = std::numeric_limits<double>::infinity();
    double end = 0;
    std::uint64_t bytes = 0;
  };

  [[nodiscard]] const mesh& grid() const noexcept { return plan_.options.ranks; }
  [[nodiscard]] std::size_t size() const noexcept { return clock_.size(); }

  // -- reading

  /// All of them at once; each rank's clock is then at the end of its reads, and `ready_` when it may send.
  void read(const std::vector<reading>& all, bool to_device) {
    node_round total;
    for (const reading& each : all) {
      node_round& node = round_[lanes_.node_of(each.rank)];
      node.begin = std::min(node.begin, clock_[each.rank]);
      node.bytes += each.bytes;
      total.begin = std::min(total.begin, clock_[each.rank]);
      total.bytes += each.bytes;
      wanted_[each.rank] += each.bytes;
      reads_[each.rank] += each.reads;
    }
    lanes_.has_read(total.bytes);
    total.end = ended(lanes_.total_storage(), total.begin, lanes_.total_storage_seconds(total.bytes));
    for (const reading& each : all) {
      const std::size_t at = lanes_.node_of(each.rank);
      node_round& node = round_[at];
      if (node.bytes != 0) {
        node.end = std::max(ended(lanes_.storage(at), node.begin, lanes_.storage_seconds(node.bytes)),
                            ended(lanes_.copies(at), node.begin, lanes_.copy_seconds(node.bytes)));
        node.bytes = 0;
      }
    }
    for (const reading& each : all) {
      double& now = clock_[each.rank];
      if (each.bytes != 0) {
        now = std::max({now + static_cast<double>(each.reads) * on_.storage_latency, total.end,
                        round_[lanes_.node_of(each.rank)].end});
      }
      ready_[each.rank] = to_device && each.bytes != 0 ? lanes_.to_device(each.rank, now, each.bytes) : now;
    }
    for (const reading& each : all) {
      round_[lanes_.node_of(each.rank)] = {};
    }
  }
  static double ended(lane& which, double ready, double seconds) noexcept {
    return seconds == 0 ? 0 : which.take(ready, seconds) + seconds;
  }

  void read(const flight& each) {
    const bucket& which = *each.which;
    readings_.clear();
    if (which.way == route::own_read) {
      for (std::size_t rank = 0; rank < size(); ++rank) {
        if (!relays_own_reads_ || grid().replica_of(rank) == which.reader) {
          const std::size_t of = each.loads.class_of(grid().shard_of(rank));
          readings_.push_back(
              {.rank = rank, .bytes = each.loads.read_for_class(of), .reads = each.loads.reads_for_class(of)});
        }
      }
    } else if (which.captured) {
      readings_.push_back({.rank = plan_.options.sources.source_rank});
    } else {
      for (const reading_source& source : sources_) {
        const read_work one = read_for(which, each.loads, source.shards);
        readings_.push_back({.rank = source.rank, .bytes = one.bytes, .reads = one.reads});
      }
    }
    read(readings_, !full_copies_);
  }

  /// Whole models, and what the plan reads besides the buckets' own bytes.
  void read_the_rest() {
    std::uint64_t reads = 0;
    for (const planned_tensor& tensor : plan_.tensors) {
      reads += tensor.way == route::full_copy ? 1 + tensor.extra_copies : 0;
    }
    readings_.clear();
    for (std::size_t rank = 0; rank < size(); ++rank) {
      readings_.push_back({.rank = rank, .bytes = ranks_[rank].bytes_read - wanted_[rank], .reads = reads});
    }
    read(readings_, !full_copies_);
    for (std::size_t rank = 0; rank < size(); ++rank) {
      clock_[rank] = std::max(clock_[rank], ready_[rank]);
      if (full_copies_) {
        const std::uint64_t own = own_bytes(plan_, route::full_copy, false, grid().shard_of(rank));
        clock_[rank] = lanes_.place(rank, clock_[rank], own);
      }
    }
  }

  // -- moving

  void start(flight& each) {
    const bucket& which = *each.which;
    each.done = clock_;
    read(each);
    for (const reading& by : readings_) {
      each.done[by.rank] = ready_[by.rank];
    }
    if (which.way == route::scatter) {
      for (const reading_source& source : sources_) {
        scatter(each, source.rank);
      }
      each.to_relay = relays_scatter_;
    } else if (which.way == route::own_read) {
      for (std::size_t shard = 0; relays_own_reads_ && shard < grid().shards; ++shard) {
        along_replicas(each, shard, which.reader, ready_[grid().rank_of(which.reader, shard)]);
      }
    } else if (which.captured) {
      const std::size_t root = plan_.options.sources.source_rank;
      const auto same = [](std::size_t i) { return i; };
      ring(each, size(), root, same, ready_[root], which.bytes, each.loads.sharded());
    } else {
      for (const reading_source& source : sources_) {
        const std::vector<std::size_t>& to = served_[source.rank];
        const auto at = static_cast<std::size_t>(std::lower_bound(to.begin(), to.end(), source.rank) - to.begin());
        const auto member = [&](std::size_t i) { return to[i]; };
        ring(each, to.size(), at, member, ready_[source.rank], which.bytes, each.loads.sharded());
      }
    }
    if (which.way == route::broadcast) {
      for (const reading& by : readings_) {
        each.done[by.rank] = std::max(each.done[by.rank], place(each, by.rank, clock_[by.rank]));
      }
    }
  }

  void scatter(flight& each, std::size_t source) {
    const passage held{.first = ready_[source], .last = ready_[source]};
    const auto send = [&](std::size_t to) {
      if (const std::uint64_t bytes = each.loads.window(grid().shard_of(to)); to != source && bytes != 0) {
        each.done[to] = lanes_.send(source, to, held, clock_[to], bytes).last;
        each.done[source] = std::max(each.done[source], each.done[to]);
      }
    };
    if (relays_scatter_) {
      for (std::size_t shard = 0; shard < grid().shards; ++shard) {
        send(grid().rank_of(grid().replica_of(source), shard));
      }
    } else {
      for (const std::size_t to : served_[source]) {
        send(to);
      }
    }
  }

  /// From member to member, beginning after `root`. `sharded`: of these bytes, those that are staged in host memory.
  template <class Member>
  void ring(flight& each, std::size_t members, std::size_t root, Member&& member, double ready, std::uint64_t bytes,
            std::uint64_t sharded) {
    passage held{.first = ready, .last = ready};
    std::size_t from = member(root);
    each.done[from] = std::max(each.done[from], ready);
    const auto stage = [&] {  // after passing it on: nobody waits for this
      if (sharded != 0) {
        each.done[from] = std::max(each.done[from], lanes_.to_host(from, held.first, sharded));
      }
    };
    for (std::size_t i = root + 1; bytes != 0 && i < root + members; ++i) {
      const std::size_t to = member(i < members ? i : i - members);
      const passage arrived = lanes_.send(from, to, held, clock_[to], bytes);
      each.done[from] = std::max(each.done[from], arrived.last);
      if (i != root + 1) {
        stage();
      }
      held = arrived;
      each.done[to] = held.last;
      from = to;
    }
    if (from != member(root)) {
      stage();
    }
  }
  void along_replicas(flight& each, std::size_t shard, std::size_t from_replica, double ready) {
    const auto member = [&](std::size_t replica) { return grid().rank_of(replica, shard); };
    ring(each, grid().replicas, from_replica, member, ready, each.loads.window(shard), 0);
  }

  void relay(flight& each) {
    if (!each.which || !std::exchange(each.to_relay, false)) {
      return;
    }
    for (std::size_t rank = 0; rank < size(); ++rank) {
      wait(rank, each.done[rank]);
    }
    const std::size_t source = plan_.options.sources.source_rank;
    const std::size_t replica = grid().replica_of(source);
    for (std::size_t i = 1; i <= grid().shards; ++i) {  // the source's own part last: it has first read the next bucket
      const std::size_t shard = (grid().shard_of(source) + i) % grid().shards;
      along_replicas(each, shard, replica, clock_[grid().rank_of(replica, shard)]);
    }
  }

  /// \return when this rank's part of a broadcast is in its slabs.
  double place(flight& each, std::size_t rank, double from) {
    const std::uint64_t own = each.loads.placed(grid().shard_of(rank));
    return own == 0 ? from : lanes_.place(rank, from, own);
  }
  void wait(std::size_t rank, double until) noexcept {
    if (until > clock_[rank]) {
      waited_ += rank == watched_ ? until - clock_[rank] : 0;
      clock_[rank] = until;
    }
  }

  void finish(flight& each) {
    relay(each);
    const std::optional<bucket> which = std::exchange(each.which, std::nullopt);
    if (!which) {
      return;
    }
    for (std::size_t rank = 0; rank < size(); ++rank) {
      wait(rank, each.done[rank]);
    }
    if (which->way == route::broadcast && each.loads.sharded() != 0) {
      for (std::size_t rank = 0; rank < size(); ++rank) {
        const bool reads = rank == (which->captured ? plan_.options.sources.source_rank : serving(rank));
        clock_[rank] = reads ? clock_[rank] : place(each, rank, clock_[rank]);
      }
    }
  }
  void finish_all(std::size_t started) {
    for (std::size_t i = 0; i < flights_.size(); ++i) {
      finish(flights_[(started + i) % flights_.size()]);
    }
  }
  [[nodiscard]] std::size_t serving(std::size_t rank) const noexcept { return plan_.options.sources.serving(rank); }

  const cluster& on_;
  const plan& plan_;
  std::span<const prediction> ranks_;
  cluster_lanes lanes_;
  std::vector<std::vector<std::size_t>> served_;
  bool relays_scatter_;
  bool relays_own_reads_;
  bool full_copies_;
  std::size_t watched_;
  std::vector<flight> flights_;
  std::vector<double> clock_;          // by rank: how far its thread is
  std::vector<double> ready_;          // by rank: of what it has read last, when it may be sent
  std::vector<std::uint64_t> wanted_;  // by rank: read so far
  std::vector<std::uint64_t> reads_;   // by rank: how many
  std::vector<node_round> round_;      // by node
  std::vector<reading_source> sources_;
  std::vector<reading> readings_;
  double waited_ = 0;
};

}  // namespace detail

/// Plays `made` through on a cluster. Pure; O((buckets + tensors) x ranks): ranks are looked at one by one, since where they are in a
/// ring matters, but sizes are worked out for classes of them. `ranks` is `predict_every_rank(made)`.
/// \pre on.ranks() == made.options.ranks.size() == ranks.size(), and as for `cost_on` where there is PCIe.
[[nodiscard]] inline simulated_cost simulate_on(const cluster& on, const plan& made,
                                                std::span<const prediction> ranks) {
  return detail::simulated_ranks(on, made, ranks).run();
}

}  // namespace fsdpinit
