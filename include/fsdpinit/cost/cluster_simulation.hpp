#pragma once

#include <fsdpinit/cost/cluster.hpp>
#include <fsdpinit/cost/cluster_groups.hpp>
#include <fsdpinit/cost/cluster_lanes.hpp>
#include <fsdpinit/cost/cluster_traffic.hpp>
#include <fsdpinit/cost/rank_work.hpp>
#include <fsdpinit/plan/bucket_schedule.hpp>
#include <fsdpinit/plan/plan.hpp>
#include <fsdpinit/plan/prediction.hpp>
#include <fsdpinit/plan/program.hpp>

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
        groups_(made.options),
        every_(made),
        watched_(made.options.source_ranks.serving(made.options.source_ranks.source_rank)),
        flights_(made.options.buckets_in_flight, flight(on.ranks(), made.options.ranks.shards)),
        clock_(on.ranks()),
        ready_(on.ranks()),
        read_(on.ranks()),
        reads_(on.ranks()),
        round_(on.nodes) {}

  [[nodiscard]] simulated_cost run() {
    program rounds = program_of(plan_, 0);
    program_round round = rounds.first();
    flight* previous = nullptr;
    do {
      if (round.kind == round_kind::bucket) {
        flight& next = flights_[round.slot];
        finish(next);
        look_at(round, next);
        start(next);
        if (previous != nullptr && previous != &next) {
          pass_on(*previous);
        }
        previous = &next;
      } else if (round.kind == round_kind::agree) {
        finish_all(round.part);
        previous = nullptr;
      } else if (round.part == 0) {  // the first turn stands for all
        alone(round);
      }
    } while (rounds.advance(round));
    read_the_rest();

    simulated_cost out;
    out.seconds = *std::max_element(clock_.begin(), clock_.end());
    out.source_waited = waited_;
    lanes_.add_to(out);
    out.busy[static_cast<std::size_t>(cluster_resource::storage_latency)] =
        static_cast<double>(*std::max_element(reads_.begin(), reads_.end())) * on_.storage_latency;
    out.staging_peak_bytes = staging_peak_;
    return out;
  }

 private:
  /// A bucket, from its first step to its last.
  struct flight {
    flight(std::size_t ranks, std::size_t shards) : done(ranks), kept(shards) {}
    bool open = false;
    bool passes_on = false;    // that is still to do
    bool keeps = false;        // ranks keep parts of a broadcast out of staging
    std::vector<double> done;  // by rank: when its part in moving this is over
    kept_of_broadcasts kept;
    std::optional<std::size_t> turn{};  // as in `every_rank_work`
    std::vector<rank_work> usual{};     // likewise, by class
    std::vector<rank_work> in_turn{};
  };
  struct reading {
    std::size_t rank = 0;
    std::uint64_t bytes = 0;
    std::uint64_t reads = 0;
    std::uint64_t copied = 0;
    std::uint64_t sent = 0;  // out of staging
  };
  /// What the ranks of one node read at once.
  struct node_round {
    double begin = std::numeric_limits<double>::infinity();
    double end = 0;
    std::uint64_t bytes = 0;
    std::uint64_t copied = 0;
  };

  [[nodiscard]] const mesh& grid() const noexcept { return plan_.options.ranks; }
  [[nodiscard]] std::size_t size() const noexcept { return clock_.size(); }

  // -- what there is to do

  void look_at(const program_round& round, flight& next) {
    if (round.part >= known_) {
      known_ = round.part + every_.look_at(round);
    }
    next.open = true;
    next.turn = every_.turn();
    next.usual.clear();
    next.in_turn.clear();
    next.passes_on = false;
    next.keeps = false;
    for (std::size_t of = 0; of < every_.classes(); ++of) {
      next.usual.push_back(every_.usual(of));
      next.in_turn.push_back(every_.in_turn(of));
      const rank_work& its = next.usual.back();
      next.passes_on = next.passes_on || its.passed_on;
      next.keeps = next.keeps || (its.started && is_whole(its.started->by) && its.started->staged);
    }
    next.kept.clear();
    if (next.keeps) {
      next.kept.add(plan_, near_.at(plan_.schedule, round.part));
    }
    note_staging();
  }
  [[nodiscard]] const rank_work& work(const flight& in, std::size_t rank) const noexcept {
    const bool takes_turn = in.turn && grid().replica_of(rank) == *in.turn;
    return (takes_turn ? in.in_turn : in.usual)[every_.class_of(rank)];
  }
  /// What the buckets in flight hold on the ranks that hold most.
  void note_staging() {
    const auto held_by = [&](std::size_t of, std::optional<std::size_t> replica) {
      std::uint64_t sum = 0;
      for (const flight& each : flights_) {
        const bool takes_turn = replica && each.turn == replica;
        sum += each.open ? (takes_turn ? each.in_turn : each.usual)[of].held : 0;
      }
      return sum;
    };
    for (std::size_t of = 0; of < every_.classes(); ++of) {
      staging_peak_ = std::max(staging_peak_, held_by(of, std::nullopt));
      for (const flight& each : flights_) {
        if (each.open && each.turn) {
          staging_peak_ = std::max(staging_peak_, held_by(of, each.turn));
        }
      }
    }
  }

  // -- reading

  /// All of them at once; each rank's clock is then at the end of its reads, and `ready_` when it may send.
  void read(const std::vector<reading>& all) {
    node_round total;
    for (const reading& each : all) {
      node_round& node = round_[lanes_.node_of(each.rank)];
      if (each.bytes != 0) {
        node.begin = std::min(node.begin, clock_[each.rank]);
        total.begin = std::min(total.begin, clock_[each.rank]);
      }
      node.bytes += each.bytes;
      node.copied += each.copied;
      total.bytes += each.bytes;
      read_[each.rank] += each.bytes;
      reads_[each.rank] += each.reads;
    }
    lanes_.has_read(total.bytes);
    total.end = ended(lanes_.total_storage(), total.begin, lanes_.total_storage_seconds(total.bytes));
    for (const reading& each : all) {
      const std::size_t at = lanes_.node_of(each.rank);
      node_round& node = round_[at];
      if (node.bytes != 0) {
        node.end = std::max(
            ended(lanes_.storage(at), node.begin, lanes_.storage_seconds(node.bytes)),
            ended(lanes_.copies(at), node.begin, lanes_.copy_seconds(node.bytes) + lanes_.copy_seconds(node.copied)));
        node.bytes = 0;
      }
    }
    for (const reading& each : all) {
      double& now = clock_[each.rank];
      if (each.bytes != 0) {
        now = std::max({now + static_cast<double>(each.reads) * on_.storage_latency, total.end,
                        round_[lanes_.node_of(each.rank)].end});
      }
      ready_[each.rank] = each.sent != 0 ? lanes_.to_device(each.rank, now, each.sent) : now;
    }
    for (const reading& each : all) {
      round_[lanes_.node_of(each.rank)] = {};
    }
  }
  static double ended(lane& which, double ready, double seconds) noexcept {
    return seconds == 0 ? 0 : which.take(ready, seconds) + seconds;
  }
  static reading reading_of(std::size_t rank, const work_sums& of) noexcept {
    return {.rank = rank,
            .bytes = of[amount::read],
            .reads = of[amount::reads],
            .copied = of[amount::copied],
            .sent = of[amount::sent_staged]};
  }

  void read(const flight& each) {
    readings_.clear();
    for (std::size_t rank = 0; rank < size(); ++rank) {
      if (const rank_work& its = work(each, rank); its.begins) {
        readings_.push_back(reading_of(rank, its.sums));
      }
    }
    read(readings_);
  }

  /// A round of which each rank does its part by itself.
  void alone(const program_round& round) {
    every_.look_at(round);
    readings_.clear();
    for (std::size_t rank = 0; rank < size(); ++rank) {
      readings_.push_back(reading_of(rank, every_.of(rank).sums));
    }
    read(readings_);
    for (std::size_t rank = 0; rank < size(); ++rank) {
      const work_sums& its = every_.of(rank).sums;
      clock_[rank] = lanes_.to_host(rank, clock_[rank], its[amount::fetched]);
      clock_[rank] = lanes_.place(rank, clock_[rank], its[amount::placed]);
    }
  }
  /// What was read along.
  void read_the_rest() {
    readings_.clear();
    for (std::size_t rank = 0; rank < size(); ++rank) {
      readings_.push_back({.rank = rank, .bytes = ranks_[rank].bytes_read - read_[rank]});
    }
    read(readings_);
  }

  // -- moving

  void start(flight& each) {
    each.done = clock_;
    read(each);
    for (const reading& by : readings_) {
      each.done[by.rank] = ready_[by.rank];
    }
    for (const reading& by : readings_) {
      if (const std::optional<rank_transfer>& started = work(each, by.rank).started; started && started->is_root) {
        started->by == flow::scatter ? scatter(each, by.rank)
                                     : ring(each, by.rank, &rank_work::started, ready_[by.rank]);
      }
    }
    for (const reading& by : readings_) {
      const std::uint64_t bytes = work(each, by.rank).sums[amount::placed] + kept(each, by.rank, true);
      place(by.rank, each.done[by.rank], clock_[by.rank], bytes);
    }
  }

  void scatter(flight& each, std::size_t source) {
    const passage held{.first = ready_[source], .last = ready_[source]};
    const group_members members = groups_(rank_group::scatter, source);
    for (std::size_t i = 0; i < members.size(); ++i) {
      const std::size_t to = members[i];
      const std::uint64_t bytes = work(each, to).sums[received_by(flow::scatter)];
      if (to != source && bytes != 0) {
        const double arrived = lanes_.send(source, to, held, clock_[to], bytes).last;
        each.done[source] = std::max(each.done[source], arrived);
        each.done[to] = arrived;
      }
    }
  }
  /// A broadcast: from member to member, beginning after `root`.
  void ring(flight& each, std::size_t root, std::optional<rank_transfer> rank_work::*which, double ready) {
    const rank_transfer& sent = *(work(each, root).*which);
    const group_members members = groups_(sent.group, root);
    const std::size_t first = members.place_of(root);
    passage held{.first = ready, .last = ready};
    std::size_t from = root;
    each.done[from] = std::max(each.done[from], ready);
    const auto staged = [&] {  // after passing it on: nobody waits for this
      if (from != root) {
        if (const std::uint64_t bytes = work(each, from).sums[amount::staged]; bytes != 0) {
          each.done[from] = std::max(each.done[from], lanes_.to_host(from, held.first, bytes));
        }
      }
    };
    for (std::size_t i = first + 1; sent.bytes != 0 && i < first + members.size(); ++i) {
      const std::size_t to = members[i < members.size() ? i : i - members.size()];
      const passage arrived = lanes_.send(from, to, held, clock_[to], sent.bytes);
      each.done[from] = std::max(each.done[from], arrived.last);
      staged();
      held = arrived;
      each.done[to] = held.last;
      from = to;
    }
    staged();
  }

  void pass_on(flight& each) {
    if (!each.open || !std::exchange(each.passes_on, false)) {
      return;
    }
    for (std::size_t rank = 0; rank < size(); ++rank) {
      wait(rank, each.done[rank]);
    }
    const std::size_t source = plan_.options.source_ranks.source_rank;
    const group_members members = groups_(rank_group::scatter, source);
    for (std::size_t i = 1; i <= members.size();
         ++i) {  // the source's own part last: it has first read the next bucket
      const std::size_t root = members[(members.place_of(source) + i) % members.size()];
      const std::uint64_t staged = work(each, root).sums[amount::passed_on_staged];
      const double ready = staged == 0 ? clock_[root] : lanes_.to_device(root, clock_[root], staged);
      ring(each, root, &rank_work::passed_on, ready);
    }
  }

  /// What this rank keeps of a broadcast, out of staging, as its root or as another.
  [[nodiscard]] std::uint64_t kept(const flight& in, std::size_t rank, bool by_root) const noexcept {
    const std::optional<rank_transfer>& started = work(in, rank).started;
    const bool keeps = started && is_whole(started->by) && started->staged && started->is_root == by_root;
    return keeps ? in.kept[grid().shard_of(rank)] : 0;
  }
  void place(std::size_t rank, double& when, double from, std::uint64_t bytes) noexcept {
    when = bytes == 0 ? when : std::max(when, lanes_.place(rank, from, bytes));
  }
  void wait(std::size_t rank, double until) noexcept {
    if (until > clock_[rank]) {
      waited_ += rank == watched_ ? until - clock_[rank] : 0;
      clock_[rank] = until;
    }
  }

  void finish(flight& each) {
    pass_on(each);
    if (!std::exchange(each.open, false)) {
      return;
    }
    for (std::size_t rank = 0; rank < size(); ++rank) {
      wait(rank, each.done[rank]);
    }
    for (std::size_t rank = 0; each.keeps && rank < size(); ++rank) {
      place(rank, clock_[rank], clock_[rank], kept(each, rank, false));
    }
  }
  void finish_all(std::size_t started) {
    for (std::size_t i = 0; i < flights_.size(); ++i) {
      finish(flights_[(started + i) % flights_.size()]);
    }
  }

  const cluster& on_;
  const plan& plan_;
  std::span<const prediction> ranks_;
  cluster_lanes lanes_;
  groups_of_ranks groups_;
  every_rank_work every_;
  std::size_t known_ = 0;  // up to this bucket `every_` is looking at what is alike
  bucket_cursor near_;
  std::size_t watched_;
  std::vector<flight> flights_;       // by slot
  std::vector<double> clock_;         // by rank: how far its thread is
  std::vector<double> ready_;         // by rank: of what it has read last, when it may be sent
  std::vector<std::uint64_t> read_;   // by rank: bytes so far
  std::vector<std::uint64_t> reads_;  // by rank: how many
  std::vector<node_round> round_;     // by node
  std::vector<reading> readings_;
  std::uint64_t staging_peak_ = 0;
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
