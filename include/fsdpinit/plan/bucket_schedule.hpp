#pragma once

#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/core/error.hpp>
#include <fsdpinit/index/mesh.hpp>
#include <fsdpinit/plan/slab_layout.hpp>
#include <fsdpinit/plan/transport.hpp>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace fsdpinit {

/// Part of a planned tensor within a bucket. In a bucket of windows [begin, end) are bytes of the largest shard, and every
/// rank's part is that window cut to its own shard; in a broadcast bucket they are bytes of the whole tensor.
struct segment {
  std::size_t tensor = 0;  ///< index into the planned tensors
  std::uint64_t begin = 0;
  std::uint64_t end = 0;
};

/// What moves at once, or is read at once. It cuts across tensors: some segments of the schedule, one after the other.
struct bucket {
  fsdpinit::route route = fsdpinit::route::scatter;
  bool from_buffer = false;  ///< of a broadcast: from the source rank's module to all, whoever reads the checkpoint
  std::size_t reader = 0;    ///< of an own read that is relayed: the replica whose ranks read it
  std::size_t first = 0;     ///< see `bucket_schedule::segments`
  std::size_t last = 0;
  std::uint64_t shift = 0;
  std::uint64_t bytes = 0;  ///< of the largest window (scatter, own read), or of the payload (broadcast)

  /// Does it hold a window of each shard, rather than whole bytes?
  [[nodiscard]] constexpr bool has_windows() const noexcept { return route != route::broadcast; }
};

/// Those of one bucket.
class segment_range {
 public:
  class iterator {
   public:
    iterator(const segment* at, std::uint64_t shift) noexcept : at_(at), shift_(shift) {}
    [[nodiscard]] segment operator*() const noexcept {
      return {.tensor = at_->tensor, .begin = at_->begin + shift_, .end = at_->end + shift_};
    }
    iterator& operator++() noexcept {
      ++at_;
      return *this;
    }
    friend bool operator==(const iterator&, const iterator&) = default;

   private:
    const segment* at_;
    std::uint64_t shift_;
  };

  segment_range(std::span<const segment> of, std::uint64_t shift) noexcept : of_(of), shift_(shift) {}
  [[nodiscard]] std::size_t size() const noexcept { return of_.size(); }
  [[nodiscard]] segment front() const noexcept { return *begin(); }
  [[nodiscard]] iterator begin() const noexcept { return {of_.data(), shift_}; }
  [[nodiscard]] iterator end() const noexcept { return {of_.data() + of_.size(), shift_}; }

 private:
  std::span<const segment> of_;
  std::uint64_t shift_;
};

/// Buckets in the order in which they move. Those that hold nothing but a stretch of the same tensor are kept as one, and how many there
/// are: a schedule is as large as there are tensors, however small buckets are.
class bucket_schedule {
 public:
  /// Buckets of one segment each, which follow one another in the same tensor; or a single bucket.
  struct run {
    bucket first{};
    std::size_t index = 0;  ///< of the first
    std::size_t count = 1;
  };

  class iterator {
   public:
    iterator(const bucket_schedule& of, std::size_t run) noexcept : of_(&of), run_(run) {}
    [[nodiscard]] bucket operator*() const noexcept { return of_->bucket_of(of_->runs_[run_], within_); }
    iterator& operator++() noexcept {
      if (++within_ == of_->runs_[run_].count) {
        ++run_;
        within_ = 0;
      }
      return *this;
    }
    friend bool operator==(const iterator&, const iterator&) = default;

   private:
    const bucket_schedule* of_;
    std::size_t run_;
    std::size_t within_ = 0;
  };

  bucket_schedule() = default;
  /// \param readers  replicas that take turns at reading own reads
  explicit bucket_schedule(std::size_t readers) noexcept : readers_(readers) {}

  [[nodiscard]] std::size_t size() const noexcept {
    return runs_.empty() ? 0 : runs_.back().index + runs_.back().count;
  }
  /// O(log runs). \pre index < size()
  [[nodiscard]] bucket operator[](std::size_t index) const noexcept {
    std::size_t hint = runs_.size();
    return near(index, hint);
  }
  /// The same for who goes through all, perhaps several at a time: O(1) where it is in the run `hint`, or the next, or the one before.
  /// \param hint any number; what it becomes is for the next call
  [[nodiscard]] bucket near(std::size_t index, std::size_t& hint) const noexcept {
    const auto holds = [&](std::size_t which) {
      return which < runs_.size() && index - runs_[which].index < runs_[which].count;
    };
    if (!holds(hint)) {
      hint = holds(hint + 1) ? hint + 1 : holds(hint - 1) ? hint - 1 : run_of(index);
    }
    return bucket_of(runs_[hint], index - runs_[hint].index);
  }
  [[nodiscard]] iterator begin() const noexcept { return {*this, 0}; }
  [[nodiscard]] iterator end() const noexcept { return {*this, runs_.size()}; }
  [[nodiscard]] std::span<const run> runs() const noexcept { return runs_; }

  [[nodiscard]] segment_range segments(const bucket& of) const noexcept {
    return {std::span(segments_).subspan(of.first, of.last - of.first), of.shift};
  }

  /// For who makes a schedule. \return its index
  std::size_t add(const segment& next) {
    segments_.push_back(next);
    return segments_.size() - 1;
  }
  /// Buckets that begin with `first`.
  void add(const bucket& first, std::size_t count) {
    runs_.push_back({.first = first, .index = size(), .count = count});
  }
  [[nodiscard]] std::size_t segments_so_far() const noexcept { return segments_.size(); }

  /// Replicas that take turns at reading.
  [[nodiscard]] std::size_t readers() const noexcept { return readers_; }
  [[nodiscard]] bucket bucket_of(const run& of, std::size_t within) const noexcept {
    bucket out = of.first;
    out.shift = within * out.bytes;
    out.reader = out.route == route::own_read && readers_ != 1 ? (out.reader + within) % readers_ : 0;
    return out;
  }

 private:
  [[nodiscard]] std::size_t run_of(std::size_t index) const noexcept {
    std::size_t first = 0;  // which begins at or before the bucket
    for (std::size_t last = runs_.size(); last - first > 1;) {
      const std::size_t middle = first + (last - first) / 2;
      (runs_[middle].index <= index ? first : last) = middle;
    }
    return first;
  }

  std::vector<segment> segments_;
  std::vector<run> runs_;
  std::size_t readers_ = 1;
};

/// Goes through the buckets of a schedule, perhaps several at a time, and back again.
class bucket_cursor {
 public:
  /// As `bucket_schedule::near`.
  [[nodiscard]] const bucket& at(const bucket_schedule& of, std::size_t index) noexcept {
    if (index_ != index) {
      which_ = of.near(index, hint_);
      index_ = index;
    }
    return which_;
  }

 private:
  bucket which_{};
  std::size_t index_ = ~std::size_t{0};
  std::size_t hint_ = 0;
};

/// The bytes of one rank's window within a scatter bucket of at most `bucket_bytes`: an equal share, rounded down to
/// the slab alignment where it is larger than that.
[[nodiscard]] constexpr std::uint64_t scatter_window(std::uint64_t bucket_bytes, std::size_t shards) noexcept {
  const std::uint64_t share = bucket_bytes / shards;
  return share >= slab_alignment ? align_down(share, slab_alignment) : share;
}

/// Own reads that need no staging go straight into the slabs, this much at a time: enough that calls do not show, little enough
/// that a failure elsewhere is noticed.
inline constexpr std::uint64_t direct_read_bytes = 128 * mib;

/// What the schedule depends on besides the tensors.
struct schedule_options {
  std::uint64_t bucket_bytes = 4 * mib;
  std::uint64_t own_read_bytes = direct_read_bytes;  ///< of a window that is read by its own rank
  std::size_t readers = 1;                           ///< replicas that take turns at reading
  bool several_source_ranks = false;                 ///< tensors from buffers travel apart from those that are read
};

/// Cuts the tensors, in their order, into buckets of at most `bucket_bytes`. Pure; O(tensors).
/// \throws error{invalid_argument} if a bucket has not a byte for each shard.
[[nodiscard]] inline bucket_schedule schedule_buckets(const std::vector<planned_tensor>& tensors, const mesh& ranks,
                                                      const schedule_options& how) {
  const std::uint64_t window = scatter_window(how.bucket_bytes, ranks.shards);
  if (window == 0) {
    throw error(errc::invalid_argument, "bucket_bytes",
                concat(how.bucket_bytes, " is too small for ", ranks.shards, " shards; use at least ", ranks.shards),
                {.rank = every_rank});
  }
  bucket_schedule schedule(how.readers);
  const auto fill = [&](const bucket& kind, std::uint64_t capacity, auto&& belongs) {
    bucket open = kind;
    std::size_t turn = 0;
    const auto reopen = [&](std::size_t at) {
      open = kind;
      open.first = at;
      open.last = at;
      open.reader = kind.route == route::own_read ? turn++ % how.readers : 0;
    };
    reopen(schedule.segments_so_far());
    const auto close = [&] {
      if (open.bytes != 0) {
        schedule.add(open, 1);
      }
      reopen(open.last);
    };
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      if (tensors[i].route != kind.route || !belongs(tensors[i])) {
        continue;
      }
      const partition& part = tensors[i].partition;
      const std::uint64_t total = kind.has_windows() ? part.reserved_bytes() : part.bytes();
      for (std::uint64_t begin = 0; begin < total;) {
        const std::uint64_t room = capacity - open.bytes;
        const std::uint64_t end = total - begin < room ? total : begin + room;
        open.last = schedule.add({.tensor = i, .begin = begin, .end = end}) + 1;
        open.bytes += end - begin;
        begin = end;
        if (open.bytes < capacity) {
          continue;
        }
        const std::uint64_t alike = open.last - open.first == 1 ? (total - begin) / capacity : 0;
        schedule.add(open, 1 + static_cast<std::size_t>(alike));
        turn += static_cast<std::size_t>(alike);
        begin += alike * capacity;
        reopen(open.last);
      }
    }
    close();
  };
  const auto any = [](const planned_tensor&) { return true; };
  fill({.route = route::scatter}, window, any);
  fill({.route = route::own_read}, how.own_read_bytes, any);
  if (how.several_source_ranks) {
    fill({.route = route::broadcast}, how.bucket_bytes, [](const planned_tensor& each) { return !each.from_buffer; });
    fill({.route = route::broadcast, .from_buffer = true}, how.bucket_bytes,
         [](const planned_tensor& each) { return each.from_buffer; });
  } else {
    fill({.route = route::broadcast}, how.bucket_bytes, any);
  }
  return schedule;
}

/// A segment of a window cut to one shard.
[[nodiscard]] inline segment clipped(const segment& part, const partition& how, std::size_t shard) noexcept {
  const std::uint64_t local = how.local_bytes(shard);
  return {.tensor = part.tensor,
          .begin = part.begin < local ? part.begin : local,
          .end = part.end < local ? part.end : local};
}

/// Contiguous bytes of one slab.
struct slab_range {
  std::size_t slab = 0;
  std::uint64_t offset = 0;
  std::uint64_t bytes = 0;
};

/// Where the part of a shard of a bucket lies in the slabs, if that is one contiguous range: then the bucket is received
/// in place. Nothing if it is several ranges, or if a broadcast carries more than the rank keeps. O(segments of the
/// bucket).
[[nodiscard]] inline std::optional<slab_range> contiguous_destination(const std::vector<planned_tensor>& tensors,
                                                                      const bucket_schedule& schedule,
                                                                      const bucket& which, std::size_t shard) {
  slab_range whole;
  for (const segment& part : schedule.segments(which)) {
    const planned_tensor& tensor = tensors[part.tensor];
    if (!which.has_windows() && !tensor.partition.is_whole()) {
      return std::nullopt;
    }
    const segment own = which.has_windows() ? clipped(part, tensor.partition, shard) : part;
    if (own.begin == own.end) {
      continue;
    }
    const std::uint64_t offset = tensor.offset + own.begin;
    if (whole.bytes == 0) {
      whole = {.slab = tensor.slab, .offset = offset, .bytes = 0};
    } else if (whole.slab != tensor.slab || whole.offset + whole.bytes != offset) {
      return std::nullopt;
    }
    whole.bytes += own.end - own.begin;
  }
  return whole;
}

}  // namespace fsdpinit
