#pragma once

#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/init/transfer.hpp>
#include <fsdpinit/plan/plan.hpp>
#include <fsdpinit/plan/prediction.hpp>
#include <fsdpinit/plan/read_coalescing.hpp>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <utility>
#include <vector>

namespace fsdpinit::detail {

/// Reads the bytes of buckets on the rank that has them to read. No allocation per bucket.
class bucket_filler {
 public:
  bucket_filler(const plan& made, const rank_plan& mine, tensor_reader& reader, tensor_placer& placer, workspace& work,
                progress_meter& progress)
      : plan_(made),
        mine_(mine),
        reader_(reader),
        placer_(placer),
        work_(work),
        progress_(progress),
        cursors_(made.options.ranks.shards),
        windows_(made.options.ranks.shards) {}

  /// Broadcast: the payload, contiguous; in the slab itself where that is possible.
  void fill_payload(const bucket& which, mutable_bytes payload) {
    neighbours joined(*this);
    for (std::size_t i = which.first; i < which.last; ++i) {
      const segment& part = plan_.schedule.segments[i];
      const mutable_bytes piece = payload.first(part.end - part.begin);
      payload = payload.subspan(piece.size());
      joined.read(part.tensor, part.begin, piece);
      progress_.add(piece.size());
      leave(part, false);
    }
    joined.flush();
  }

  /// Own read: this rank's window, into `own` one run after the other; straight to its places in the slabs where that is
  /// empty. Runs that lie close together in the file are one read.
  void fill_own_window(const bucket& which, mutable_bytes own) {
    const bool direct = mine_.reads_directly(which);
    std::byte* next = own.data();
    read_coalescer reads(work_.scratch.size());
    const auto read = [&](std::span<const wanted_run> runs) { reader_.read_joined(runs); };
    mine_.for_each_own_run(
        which,
        [&](std::size_t tensor, std::uint64_t local, std::uint64_t bytes) {
          return direct ? placer_.address(tensor, local) : std::exchange(next, next + bytes);
        },
        [&](const wanted_run& run, std::size_t tensor, std::uint64_t global) {
          if (plan_.tensors[tensor].extra_copies != 0) {
            reader_.read(tensor, global, {run.to, run.bytes});
          } else {
            reads.add(run, read);
          }
          progress_.add(run.bytes);
        });
    reads.flush(read);
    for (std::size_t i = which.first; i < which.last; ++i) {
      leave(plan_.schedule.segments[i], true);
    }
  }

  /// Scatter: cuts a window for each shard out of the staging memory, of exactly its size; `windows[r]` is the one of rank r.
  /// The source's own part has none where it is read straight into the slab. \return its own window.
  mutable_bytes cut_windows(const bucket& which, mutable_bytes staging, std::vector<bytes_view>& windows) {
    const mesh& ranks = plan_.options.ranks;
    std::byte* begin = staging.data();
    for (std::size_t shard = 0; shard < windows_.size(); ++shard) {
      windows_[shard] = {};
      cursors_[shard] = nullptr;
      if (!mine_.serves(shard) || (shard == mine_.shard() && mine_.reads_own_window_in_place())) {
        continue;
      }
      windows_[shard] = {begin, mine_.window_bytes(which, shard)};
      cursors_[shard] = begin;
      begin += which.bytes;
    }
    mine_.for_each_scattered_to([&](std::size_t rank) { windows[rank] = windows_[ranks.shard_of(rank)]; });
    return windows_[mine_.shard()];
  }

  /// The windows that were cut last, by shard; an empty one is not sent.
  [[nodiscard]] std::span<const mutable_bytes> windows() const noexcept { return windows_; }

  /// Scatter: reads every window that was cut last.
  void fill_windows(const bucket& which) {
    neighbours joined(*this);
    for (std::size_t i = which.first; i < which.last; ++i) {
      fill_segment(plan_.schedule.segments[i], joined);
      leave(plan_.schedule.segments[i], true);
    }
    joined.flush();
  }

 private:
  /// Small parts of tensors, which neighbours in a file have read at once: a system call takes longer than they do.
  class neighbours {
   public:
    explicit neighbours(bucket_filler& filler) noexcept : filler_(filler) {}

    void read(std::size_t tensor, std::uint64_t offset, mutable_bytes to) {
      if (filler_.reader_.joins_neighbours()) {
        const planned_tensor& planned = filler_.plan_.tensors[tensor];
        if (planned.position && planned.extra_copies == 0 && to.size() <= small) {
          joined_.add({.at = {.file = planned.position->file, .offset = planned.position->offset + offset},
                       .bytes = to.size(),
                       .to = to.data()},
                      *this);
          return;
        }
      }
      filler_.reader_.read(tensor, offset, to);
    }
    void flush() { joined_.flush(*this); }
    void operator()(std::span<const wanted_run> runs) { filler_.reader_.read_neighbours(runs); }

   private:
    static constexpr std::uint64_t small = 16 * kib;
    bucket_filler& filler_;
    read_coalescer joined_{small * read_coalescer::most_runs, 1};
  };

  /// Tells the reader of a tensor's last byte.
  void leave(const segment& part, bool window) {
    const partition& how = plan_.tensors[part.tensor].partition;
    if (part.end == (window ? how.slot_bytes() : how.bytes())) {
      reader_.release(part.tensor);
    }
  }

  void fill_segment(const segment& part, neighbours& joined) {
    const partition& how = plan_.tensors[part.tensor].partition;
    const std::uint64_t row = how.region(0).run;
    const std::uint64_t first_row = ceil_div(part.begin, row) * row;
    const std::uint64_t last_row = align_down(part.end, row);
    const bool by_rows = !how.is_contiguous() && how.period_bytes() <= work_.scratch.size() &&
                         plan_.tensors[part.tensor].extra_copies == 0 && mine_.serves_every_shard() &&
                         first_row < last_row;
    if (!by_rows) {
      read_runs(part, joined);
      return;
    }
    read_runs({.tensor = part.tensor, .begin = part.begin, .end = first_row}, joined);
    read_rows({.tensor = part.tensor, .begin = first_row, .end = last_row});
    read_runs({.tensor = part.tensor, .begin = last_row, .end = part.end}, joined);
  }

  /// Moves the cursor of a shard past `bytes` bytes that begin at its local byte `local`, and says where they go.
  std::byte* claim(std::size_t shard, std::size_t tensor, std::uint64_t local, std::uint64_t bytes) noexcept {
    return cursors_[shard] == nullptr ? placer_.address(tensor, local)
                                      : std::exchange(cursors_[shard], cursors_[shard] + bytes);
  }

  /// Each shard's window by itself: one read per contiguous run.
  void read_runs(const segment& part, neighbours& joined) {
    const partition& how = plan_.tensors[part.tensor].partition;
    for (std::size_t shard = 0; shard < cursors_.size(); ++shard) {
      if (!mine_.serves(shard)) {
        continue;
      }
      const segment cut = clipped(part, how, shard);
      for_each_run(how.region(shard), cut.begin, cut.end,
                   [&](std::uint64_t global, std::uint64_t local, std::uint64_t length) {
                     joined.read(part.tensor, global, {claim(shard, part.tensor, local, length), length});
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
      for (std::size_t shard = 0; shard < cursors_.size(); ++shard) {
        const std::uint64_t column = how.region(shard).offset;
        std::byte* const to = claim(shard, part.tensor, row * run, rows * run);
        for (std::uint64_t i = 0; i < rows; ++i) {
          std::memcpy(to + i * run, block.data() + i * period + column, run);
        }
      }
      progress_.add(block.size());
      row += rows;
    }
  }

  const plan& plan_;
  const rank_plan& mine_;
  tensor_reader& reader_;
  tensor_placer& placer_;
  workspace& work_;
  progress_meter& progress_;
  std::vector<std::byte*> cursors_;     // per shard: where its next bytes go; nullptr: into the slab
  std::vector<mutable_bytes> windows_;  // per shard
};

}  // namespace fsdpinit::detail
