#pragma once

#include <fsdpinit/concepts/communicator.hpp>
#include <fsdpinit/control/agreement.hpp>
#include <fsdpinit/control/attempt.hpp>
#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/core/deadline.hpp>
#include <fsdpinit/init/transfer.hpp>
#include <fsdpinit/plan/plan.hpp>
#include <fsdpinit/plan/prediction.hpp>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <utility>
#include <vector>

namespace fsdpinit::detail {

/// A token of nothing: what blocking operations leave behind.
struct finished_token {};

template <class Data>
struct token_of {
  using type = finished_token;
};
template <NonBlockingCommunicator Data>
struct token_of<Data> {
  using type = typename Data::token;
};

/// Moves every bucket of a plan from the source rank to the slabs of all ranks; the same order on each.
///
/// The source fills bucket k + 1 while bucket k is being received. If this rank fails, an interruptible communicator is
/// interrupted and the failure thrown at once; on others the rank goes through the remaining motions without reading or
/// placing, so that no peer is left waiting, until the next agreement. Collective; no allocation per bucket.
template <class Data, class Control, class Source, MemorySpace Space, Observer Watch>
class bucket_stream {
 public:
  /// `slots` is the staging memory of each bucket in flight; empty where no bucket needs any.
  bucket_stream(const plan& made, Data& data, Control& control, tensor_reader<Source, Space>& reader,
                workspace<Space>& work, std::span<const mutable_bytes> slots, transfer_counters& counters,
                progress_meter<Watch>& progress, double deadline_seconds)
      : plan_(made),
        data_(data),
        control_(control),
        reader_(reader),
        placer_(made, data.rank(), work),
        work_(work),
        counters_(counters),
        progress_(progress),
        rank_(data.rank()),
        deadline_seconds_(deadline_seconds),
        flights_(made.options.buckets_in_flight),
        cursors_(made.options.ranks.shards) {
    for (std::size_t i = 0; i < flights_.size(); ++i) {
      flights_[i].windows.resize(made.options.ranks.shards);
      if (i < slots.size()) {
        flights_[i].staging = slots[i];
      }
    }
  }

  /// \throws this rank's own failure, or error{interrupted, peer_lost}. Afterwards no operation is in flight.
  void run() {
    try {
      const std::vector<bucket>& buckets = plan_.schedule.buckets;
      for (std::size_t k = 0; k < buckets.size(); ++k) {
        flight& next = flights_[k % flights_.size()];
        finish(next);
        prepare(next, buckets[k]);
        start(next);
        if constexpr (!InterruptibleCommunicator<Data>) {
          if ((k + 1) % buckets_per_agreement == 0) {
            finish_all(k + 1);
            agree(control_, failure_, deadline::after(deadline_seconds_));
          }
        }
      }
      finish_all(buckets.size());
    } catch (...) {
      const error cause = current_error();
      if constexpr (InterruptibleCommunicator<Data>) {
        data_.interrupt();
      }
      for (flight& each : flights_) {
        static_cast<void>(attempt([&] { wait(each); }));
      }
      throw cause;
    }
    if (failure_) {
      throw error(*failure_);
    }
  }

 private:
  /// Without a way to interrupt peers, a failure is known to all after this many buckets.
  static constexpr std::size_t buckets_per_agreement = 64;

  struct flight {
    const bucket* which = nullptr;                       // nullptr: free
    std::optional<typename token_of<Data>::type> token;  // of an operation that was started and not waited for
    mutable_bytes staging;
    mutable_bytes own;      // what this rank sends (broadcast) or receives
    bool to_place = false;  // this rank's part is still in the staging memory
    std::vector<bytes_view> windows;
  };

  [[nodiscard]] bool is_source() const noexcept { return rank_ == plan_.options.source_rank; }

  /// Work that only this rank does. Without interruption its failure is kept until the next agreement.
  template <class Fn>
  void locally(Fn&& fn) {
    if constexpr (InterruptibleCommunicator<Data>) {
      fn();
    } else if (!failure_) {
      failure_ = attempt(fn);
    }
  }

  void prepare(flight& each, const bucket& which) {
    if (which.scatter && is_source()) {
      each.own = {};
      each.to_place = !plan_.options.access.host;
      cut_windows(each, which);
      locally([&] { fill_windows(which); });
    } else {
      const std::optional<slab_range> range = in_place_range(plan_, which, rank_);
      each.to_place = !range.has_value();
      each.own = range ? mutable_bytes(placer_.address(*range), range->bytes)
                       : each.staging.first(staging_of(plan_, which, rank_));
      if (is_source()) {
        locally([&] { fill_payload(each, which); });
      }
    }
    each.which = &which;
  }

  void start(flight& each) {
    const std::size_t root = plan_.options.source_rank;
    if (each.which->scatter) {
      if constexpr (NonBlockingScatterCommunicator<Data>) {
        each.token = data_.start_scatter(each.windows, each.own, root);
      } else if constexpr (ScatterCommunicator<Data>) {
        data_.scatter(each.windows, each.own, root);
      }
    } else if constexpr (NonBlockingCommunicator<Data>) {
      each.token = data_.start_broadcast(each.own, root);
    } else {
      data_.broadcast(each.own, root);
    }
  }

  void wait(flight& each) {
    if (std::exchange(each.which, nullptr) == nullptr) {
      return;
    }
    if constexpr (NonBlockingCommunicator<Data>) {
      if (each.token) {
        auto operation = std::move(*each.token);
        each.token.reset();
        data_.wait(operation, deadline::after(deadline_seconds_));
      }
    }
  }

  void finish(flight& each) {
    const bucket* const which = each.which;
    if (which == nullptr) {
      return;
    }
    wait(each);
    const std::size_t peers = plan_.options.ranks.shards - 1;
    if (!is_source()) {
      counters_.received += each.own.size();
    } else if (!which->scatter) {
      counters_.sent += each.own.size() * peers;
    } else {
      for (std::size_t r = 0; r <= peers; ++r) {
        counters_.sent += r == rank_ ? 0 : each.windows[r].size();
      }
    }
    if (each.to_place) {
      locally([&] { place(each, *which); });
    }
  }

  /// In the order in which they were started. \param started buckets so far.
  void finish_all(std::size_t started) {
    for (std::size_t i = 0; i < flights_.size(); ++i) {
      finish(flights_[(started + i) % flights_.size()]);
    }
  }

  void place(flight& each, const bucket& which) {
    bytes_view rest = which.scatter && is_source() ? each.windows[rank_] : bytes_view(each.own);
    for (std::size_t i = which.first; i < which.last; ++i) {
      const segment& part = plan_.schedule.segments[i];
      const segment cut = which.scatter ? clipped(part, plan_.tensors[part.tensor].partition, rank_) : part;
      const bytes_view piece = rest.first(cut.end - cut.begin);
      rest = rest.subspan(piece.size());
      if (which.scatter) {
        placer_.place_local(part.tensor, cut.begin, piece);
      } else {
        placer_.place_global(part.tensor, cut.begin, piece);
      }
    }
    placer_.wait();
  }

  /// Source, broadcast: the payload, contiguous; in the slab itself where that is possible.
  void fill_payload(flight& each, const bucket& which) {
    mutable_bytes rest = each.own;
    for (std::size_t i = which.first; i < which.last; ++i) {
      const segment& part = plan_.schedule.segments[i];
      const mutable_bytes piece = rest.first(part.end - part.begin);
      rest = rest.subspan(piece.size());
      reader_.read(part.tensor, part.begin, piece);
      progress_.add(piece.size());
    }
  }

  /// Source, scatter: a window of the staging memory for each rank, of exactly its size. Its own part is read straight
  /// into the slab where host code may write there; then it has none.
  void cut_windows(flight& each, const bucket& which) {
    std::byte* begin = each.staging.data();
    for (std::size_t r = 0; r < cursors_.size(); ++r) {
      if (r == rank_ && plan_.options.access.host) {
        cursors_[r] = nullptr;
        each.windows[r] = {};
        continue;
      }
      std::uint64_t size = 0;
      for (std::size_t i = which.first; i < which.last; ++i) {
        const segment& part = plan_.schedule.segments[i];
        const segment cut = clipped(part, plan_.tensors[part.tensor].partition, r);
        size += cut.end - cut.begin;
      }
      cursors_[r] = begin;
      each.windows[r] = {begin, size};
      begin += which.bytes;
    }
  }

  void fill_windows(const bucket& which) {
    for (std::size_t i = which.first; i < which.last; ++i) {
      fill_segment(plan_.schedule.segments[i]);
    }
  }

  void fill_segment(const segment& part) {
    const partition& how = plan_.tensors[part.tensor].partition;
    const std::uint64_t row = how.region(0).run;
    const std::uint64_t first_row = ceil_div(part.begin, row) * row;
    const std::uint64_t last_row = align_down(part.end, row);
    const bool by_rows = !how.is_contiguous() && how.period_bytes() <= work_.scratch.size() &&
                         plan_.tensors[part.tensor].extra_copies == 0 && first_row < last_row;
    if (!by_rows) {
      read_runs(part);
      return;
    }
    read_runs({.tensor = part.tensor, .begin = part.begin, .end = first_row});
    read_rows({.tensor = part.tensor, .begin = first_row, .end = last_row});
    read_runs({.tensor = part.tensor, .begin = last_row, .end = part.end});
  }

  /// Moves the cursor of rank r past `bytes` bytes that begin at its local byte `local`, and says where they go.
  std::byte* claim(std::size_t r, std::size_t tensor, std::uint64_t local, std::uint64_t bytes) noexcept {
    return cursors_[r] == nullptr ? placer_.address(tensor, local) : std::exchange(cursors_[r], cursors_[r] + bytes);
  }

  /// Each rank's window by itself: one read per contiguous run.
  void read_runs(const segment& part) {
    const partition& how = plan_.tensors[part.tensor].partition;
    for (std::size_t r = 0; r < cursors_.size(); ++r) {
      const segment cut = clipped(part, how, r);
      for_each_run(how.region(r), cut.begin, cut.end,
                   [&](std::uint64_t global, std::uint64_t local, std::uint64_t length) {
                     reader_.read(part.tensor, global, {claim(r, part.tensor, local, length), length});
                   });
      progress_.add(cut.end - cut.begin);
    }
  }

  /// Sharded on an inner dim: whole rows of all ranks are one contiguous read into the scratch memory, then taken
  /// apart; reading each rank's short runs by themselves would cost a system call each.
  void read_rows(const segment& part) {
    const partition& how = plan_.tensors[part.tensor].partition;
    const std::uint64_t run = how.region(0).run;  // equal on all ranks: such dims divide evenly
    const std::uint64_t period = how.period_bytes();
    const std::uint64_t rows_at_once = work_.scratch.size() / period;
    for (std::uint64_t row = part.begin / run; row < part.end / run;) {
      const std::uint64_t rows = smaller(rows_at_once, part.end / run - row);
      const mutable_bytes block = work_.scratch.bytes().first(rows * period);
      reader_.read(part.tensor, row * period, block);
      for (std::size_t r = 0; r < cursors_.size(); ++r) {
        const std::uint64_t column = how.region(r).offset;
        std::byte* const to = claim(r, part.tensor, row * run, rows * run);
        for (std::uint64_t i = 0; i < rows; ++i) {
          std::memcpy(to + i * run, block.data() + i * period + column, run);
        }
      }
      progress_.add(block.size());
      row += rows;
    }
  }

  const plan& plan_;
  Data& data_;
  Control& control_;
  tensor_reader<Source, Space>& reader_;
  tensor_placer<Space> placer_;
  workspace<Space>& work_;
  transfer_counters& counters_;
  progress_meter<Watch>& progress_;
  std::size_t rank_;
  double deadline_seconds_;
  std::vector<flight> flights_;
  std::vector<std::byte*> cursors_;
  std::optional<error> failure_;
};

}  // namespace fsdpinit::detail
