#pragma once

#include <fsdpinit/control/attempt.hpp>
#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/core/checksum.hpp>
#include <fsdpinit/init/bucket_checksums.hpp>
#include <fsdpinit/init/bucket_fill.hpp>
#include <fsdpinit/init/payload_channel.hpp>
#include <fsdpinit/init/payload_link.hpp>
#include <fsdpinit/init/transfer.hpp>
#include <fsdpinit/init/wait_watch.hpp>
#include <fsdpinit/observe/report.hpp>
#include <fsdpinit/plan/plan.hpp>
#include <fsdpinit/plan/prediction.hpp>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <utility>
#include <vector>

namespace fsdpinit::detail {

/// Moves every bucket of a plan from the ranks that read to the slabs of all ranks; the same order on each.
///
/// A bucket moves in one operation, or in two: a scatter within the source's replica, then a broadcast of each part to the
/// other replicas. Bucket k + 1 is being filled and sent while bucket k is passed on and received, and copied to its place by a
/// device. If this rank fails, an interruptible communicator is interrupted and the failure thrown at once; on others the rank
/// goes through the remaining motions without reading or placing, so that no peer is left waiting, until the next agreement,
/// which is the caller's. Collective; no allocation per bucket.
class bucket_stream {
 public:
  /// `slots` is the staging memory of each bucket in flight; empty where no bucket needs any. `names` and `hash` are for plans
  /// with verification.
  bucket_stream(const plan& made, payload_link& data, tensor_reader& reader, workspace& work,
                std::span<const mutable_bytes> slots, transfer_counters& counters, progress_meter& progress,
                stage_clock& stages, double deadline_seconds, std::span<const tensor_request> names = {},
                const checksum* hash = nullptr, wait_watch* watch = nullptr)
      : plan_(made),
        mine_(made, data.rank()),
        channel_(data, deadline_seconds, stages, watch),
        placer_(made, data.rank(), work),
        filler_(made, mine_, reader, placer_, work, progress),
        counters_(counters),
        stages_(stages),
        can_(data.can()),
        rank_(data.rank()),
        flights_(made.options.buckets_in_flight) {
    for (std::size_t i = 0; i < flights_.size(); ++i) {
      flights_[i].placer.emplace(made, data.rank(), work);
      flights_[i].payload = operations_of_bucket * i;
      flights_[i].sums = flights_[i].payload + 1;
      flights_[i].windows.resize(made.options.ranks.size());
      if (i < slots.size()) {
        const std::size_t sums = checksums_bytes(made.options.verify, made.options.ranks.shards);
        flights_[i].staging = slots[i].first(slots[i].size() - sums);
        flights_[i].checksums = slots[i].last(sums);
      }
    }
    if (made.options.verify != verification::off) {
      verifier_.emplace(made, mine_, placer_, names, *hash);
    }
    const std::size_t operations = operations_of_bucket * flights_.size();
    channel_.reserve(operations, {.in_flight = operations,
                                  .peers = mine_.is_source() ? made.options.ranks.size() : made.options.ranks.replicas,
                                  .bytes = made.options.bucket_bytes});
  }
  bucket_stream(const bucket_stream&) = delete;
  bucket_stream& operator=(const bucket_stream&) = delete;

  /// Moves buckets up to the next place at which ranks should agree, the same on every rank: where no bucket is left, where each
  /// has read much without hearing from the others, and, on a communicator that cannot be interrupted, after some buckets.
  /// \return whether there are more. \throws this rank's own failure, or error{interrupted, peer_lost}. Afterwards no operation is
  /// in flight.
  [[nodiscard]] bool run_some() {
    try {
      const std::vector<bucket>& buckets = plan_.schedule.buckets;
      flight* previous = nullptr;
      std::uint64_t unheard = 0;
      std::size_t moved = 0;
      for (bool more = true; more && next_ < buckets.size(); ++next_) {
        const bucket& which = buckets[next_];
        flight& next = flights_[next_ % flights_.size()];
        if (previous == &next) {
          relay(next);
        }
        finish(next);
        prepare(next, which);
        start(next);
        if (next.to_place && mine_.reads(which)) {
          timed(&stage_seconds::place, [&] { begin_placing(next, which); });
        }
        if (previous != nullptr && previous != &next) {
          relay(*previous);
        }
        previous = &next;
        unheard += which.way == route::own_read && !mine_.relays(which) ? which.bytes : 0;
        ++moved;
        more = unheard < direct_read_bytes && (can_.interrupts || moved < buckets_per_agreement);
      }
      finish_all(next_);
    } catch (...) {
      const error cause = current_error();
      channel_.interrupt();
      for (flight& each : flights_) {
        // First the copies: of a viewed broadcast they read what belongs to the root again once the operation is over.
        static_cast<void>(attempt([&] { each.placer->wait(); }));
        static_cast<void>(attempt([&] { channel_.wait(each.payload); }));
        static_cast<void>(attempt([&] { channel_.wait(each.sums); }));
      }
      throw cause;
    }
    if (failure_) {
      throw error(*failure_);
    }
    return next_ < plan_.schedule.buckets.size();
  }

 private:
  /// Its payload, of which one move is over before the next begins, and its checksums.
  static constexpr std::size_t operations_of_bucket = 2;
  /// Without a way to interrupt peers, a failure is known to all after this many buckets.
  static constexpr std::size_t buckets_per_agreement = 64;

  struct flight {
    const bucket* which = nullptr;  // nullptr: free
    std::size_t payload = 0;        // the operation that moves it
    std::size_t sums = 0;           // and that of its checksums
    mutable_bytes staging;
    mutable_bytes checksums;  // on the rank that reads, and where they are received
    mutable_bytes own;        // this rank's part: what it receives, or has to pass on
    bytes_view arrived;       // where that lies: in a broadcast that is viewed somewhere else
    bool viewed = false;      // it is placed from there, and then waited for
    bool to_place = false;    // its part is still in the staging memory
    bool placing = false;     // copies from there have been started
    bool to_check = false;    // once it is in the slabs
    bool to_relay = false;    // the second operation has not been started
    std::vector<bytes_view> windows;
    std::optional<tensor_placer> placer;  // with a queue for this bucket alone
  };

  /// Work that only this rank does. Without interruption its failure is kept until the next agreement.
  template <class Fn>
  void locally(Fn&& fn) {
    if (can_.interrupts) {
      own_step(fn);
    } else if (!failure_) {
      failure_ = attempt([&] { own_step(fn); });
    }
  }

  template <class Fn>
  void timed(stage_clock::stage which, Fn&& fn) {
    const stage_scope here(stages_, which);
    fn();
  }

  void prepare(flight& each, const bucket& which) {
    each.which = &which;
    each.to_check = mine_.has_checksums(which);
    if (each.to_check) {
      verifier_->sum_nothing(each.checksums);
    }
    each.to_relay = which.way == route::scatter && mine_.relays(which);
    if (which.way == route::scatter && mine_.is_source()) {
      each.own = filler_.cut_windows(which, each.staging, each.windows);
      each.to_place = !mine_.reads_own_window_in_place();
      locally([&] {
        timed(&stage_seconds::read, [&] { filler_.fill_windows(which); });
        if (each.to_check) {
          timed(&stage_seconds::checksum, [&] { verifier_->sum_windows(which, filler_.windows(), each.checksums); });
        }
      });
      each.to_check = each.to_check && each.to_place;  // else nothing has been moved
      return;
    }
    if (mine_.reads_directly(which)) {
      each.own = {};
      each.to_place = false;
    } else {
      const std::optional<slab_range> range = mine_.in_place_range(which);
      each.to_place = !range.has_value();
      each.own =
          range ? mutable_bytes(placer_.address(*range), range->bytes) : each.staging.first(mine_.staging_of(which));
    }
    if (mine_.reads(which)) {
      locally([&] {
        const bool own = which.way == route::own_read;
        timed(&stage_seconds::read,
              [&] { own ? filler_.fill_own_window(which, each.own) : filler_.fill_payload(which, each.own); });
        if (each.to_check) {
          timed(&stage_seconds::checksum, [&] {
            own ? verifier_->sum_window(which, mine_.shard(), each.own, each.checksums)
                : verifier_->sum_payload(which, each.own, each.checksums);
          });
        }
      });
    }
  }

  void start(flight& each) {
    const bucket& which = *each.which;
    each.arrived = each.own;
    const std::size_t root = mine_.root_of(which);
    switch (which.way) {
      case route::scatter:
        channel_.start_scatter(each.payload, each.windows, root == rank_ ? mutable_bytes{} : each.own, root,
                               mine_.groups().scatter);
        break;
      case route::own_read:
        if (mine_.relays(which)) {
          channel_.start_broadcast(each.payload, each.own, root, mine_.groups().replicas);
        }
        break;
      default:
        if (can_.views && each.to_place && !mine_.reads(which)) {
          each.viewed = true;
          channel_.start_viewed_broadcast(each.payload, each.own, root, mine_.broadcast_group(which));
          break;
        }
        channel_.start_broadcast(each.payload, each.own, root, mine_.broadcast_group(which));
    }
    if (mine_.sends_checksums(which)) {
      channel_.start_broadcast(each.sums, each.checksums, root, mine_.checksum_group(which));
    }
  }

  /// Starts the second operation of a bucket that has one.
  void relay(flight& each) {
    if (each.which == nullptr || !std::exchange(each.to_relay, false)) {
      return;
    }
    channel_.wait(each.payload);
    const mesh& ranks = plan_.options.ranks;
    channel_.start_broadcast(each.payload, each.own,
                             ranks.rank_of(ranks.replica_of(mine_.groups().source), mine_.shard()),
                             mine_.groups().replicas);
  }

  void finish(flight& each) {
    relay(each);
    const bucket* const which = each.which;
    if (which == nullptr) {
      return;
    }
    const bool is_over = arrive(each);
    channel_.wait(each.sums);
    each.which = nullptr;
    count(each, *which);
    if (each.to_place || each.placing) {
      timed(&stage_seconds::place, [&] {
        begin_placing(each, *which);
        finish_placing(each);
      });
    }
    if (!is_over) {
      channel_.wait(each.payload);
    }
    if (each.to_check) {
      locally([&] { timed(&stage_seconds::checksum, [&] { verifier_->check(*which, each.checksums); }); });
    }
  }

  /// False for what is only viewed: it is over when it was placed, and waited for.
  bool arrive(flight& each) {
    if (std::exchange(each.viewed, false)) {
      each.arrived = channel_.view(each.payload);
      return false;
    }
    channel_.wait(each.payload);
    return true;
  }

  void count(const flight& each, const bucket& which) noexcept {
    const mesh& ranks = plan_.options.ranks;
    const bool relays = mine_.relays(which);
    if (!mine_.reads(which)) {
      counters_.received += each.own.size();
    } else if (which.way == route::broadcast) {
      counters_.sent +=
          each.own.size() * (mine_.broadcast_size(which.captured || plan_.options.sources.is_single()) - 1);
    } else if (which.way == route::scatter) {
      mine_.for_each_scattered_to(
          [&](std::size_t other) { counters_.sent += other == rank_ ? 0 : each.windows[other].size(); });
    }
    const bool passes_on =
        relays && (which.way == route::own_read ? mine_.reads(which)
                                                : ranks.replica_of(rank_) == ranks.replica_of(mine_.groups().source));
    counters_.sent += passes_on ? each.own.size() * (ranks.replicas - 1) : 0;
  }

  /// In the order in which they were started. \param started buckets so far.
  void finish_all(std::size_t started) {
    for (std::size_t i = 0; i < flights_.size(); ++i) {
      finish(flights_[(started + i) % flights_.size()]);
    }
  }

  /// Starts to copy this rank's part out of the staging memory: right after it was read, so that it is on its way to a device while
  /// the next bucket is being read.
  void begin_placing(flight& each, const bucket& which) {
    if (std::exchange(each.to_place, false)) {
      each.placing = true;
      locally([&] { place(each, which); });
    }
  }
  /// The staging memory may be written to afterwards, also where it throws.
  void finish_placing(flight& each) {
    if (!std::exchange(each.placing, false)) {
      return;
    }
    if (can_.interrupts) {
      each.placer->wait();
    } else {
      std::optional<error> failed = attempt([&] { each.placer->wait(); });
      failure_ = failure_ ? failure_ : failed;
    }
  }

  void place(flight& each, const bucket& which) {
    bytes_view rest = each.arrived;
    for (std::size_t i = which.first; i < which.last; ++i) {
      const segment& part = plan_.schedule.segments[i];
      const segment cut =
          which.has_windows() ? clipped(part, plan_.tensors[part.tensor].partition, mine_.shard()) : part;
      const bytes_view piece = rest.first(cut.end - cut.begin);
      rest = rest.subspan(piece.size());
      if (which.has_windows()) {
        each.placer->place_local(part.tensor, cut.begin, piece);
      } else {
        each.placer->place_global(part.tensor, cut.begin, piece);
      }
    }
  }

  const plan& plan_;
  rank_plan mine_;
  payload_channel channel_;
  tensor_placer placer_;
  bucket_filler filler_;
  std::optional<bucket_checksums> verifier_;
  transfer_counters& counters_;
  stage_clock& stages_;
  link_abilities can_;
  std::size_t rank_;
  std::vector<flight> flights_;
  std::size_t next_ = 0;  // bucket
  std::optional<error> failure_;
};

}  // namespace fsdpinit::detail
