#pragma once

#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/plan/bucket_schedule.hpp>
#include <fsdpinit/plan/byte_region.hpp>
#include <fsdpinit/plan/joined_reads.hpp>
#include <fsdpinit/plan/partition.hpp>
#include <fsdpinit/plan/plan.hpp>
#include <fsdpinit/plan/prediction.hpp>
#include <fsdpinit/plan/program_step.hpp>
#include <fsdpinit/plan/step_writer.hpp>
#include <fsdpinit/plan/verification.hpp>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <utility>

namespace fsdpinit::detail {

/// What one rank does about one bucket: reads and sends, passes on, places and checks. Allocates nothing.
class bucket_steps {
 public:
  /// `write` must outlive it. \param index of the bucket \param slot of the staging memory
  /// \param cursors room for a number per shard
  bucket_steps(const step_writer& write, std::size_t index, std::size_t slot, std::span<std::uint64_t> cursors) noexcept
      : write_(write),
        mine_(write.mine()),
        index_(index),
        which_(write.made().schedule.buckets[index]),
        slot_{.kind = region_kind::slot, .index = slot},
        sums_{.kind = region_kind::checksums, .index = slot},
        cursors_(cursors),
        scatters_(which_.way == route::scatter && mine_.is_source()),
        own_(own_part()) {}

  /// Up to the point at which the bucket is on its way.
  void begin() const {
    if (mine_.has_checksums(which_)) {
      write_({.kind = step_kind::clear_sums, .to = sums_, .bytes = sums_bytes()});
    }
    if (scatters_) {
      fill_windows();
    } else if (mine_.reads(which_)) {
      which_.way == route::own_read ? fill_own_window() : fill_payload();
    }
    if (mine_.has_checksums(which_) && mine_.reads(which_)) {
      sum_what_was_read();
    }
    start();
    if (mine_.reads(which_)) {
      place();
    }
  }

  /// The second transfer of a bucket that has one: the source's replica passes on what `begin` has brought it.
  void pass_on() const {
    if (which_.way == route::scatter && mine_.relays(which_)) {
      const mesh& ranks = write_.made().options.ranks;
      broadcast(own_.at, own_.bytes, ranks.rank_of(ranks.replica_of(mine_.groups().source), mine_.shard()),
                rank_group::replicas);
    }
  }

  /// Everything has arrived.
  void end() const {
    if (!mine_.reads(which_)) {
      place();
    }
    // What a source has read to its place was not moved.
    if (mine_.has_checksums(which_) && (!scatters_ || is_staged())) {
      check();
    }
  }

 private:
  /// This rank's part: where it is received, or read to, or passed on from.
  struct part {
    region_position at{};
    std::uint64_t bytes = 0;
  };

  [[nodiscard]] std::size_t shards() const noexcept { return write_.made().options.ranks.shards; }
  [[nodiscard]] std::size_t rank() const noexcept { return mine_.rank(); }
  [[nodiscard]] std::uint64_t sums_bytes() const noexcept {
    return checksums_bytes(write_.made().options.verify, shards());
  }
  [[nodiscard]] bool is_staged() const noexcept { return own_.at.kind == region_kind::slot; }

  [[nodiscard]] part own_part() const {
    if (scatters_) {
      if (!has_window(mine_.shard())) {
        return {};
      }
      std::uint64_t before = 0;
      for (std::size_t shard = 0; shard < mine_.shard(); ++shard) {
        before += has_window(shard) ? which_.bytes : 0;
      }
      return {.at = slot_ + before, .bytes = mine_.window_bytes(which_, mine_.shard())};
    }
    if (mine_.reads_directly(which_)) {
      return {};
    }
    if (const std::optional<slab_range> range = mine_.in_place_range(which_)) {
      return {.at = step_writer::slab(*range), .bytes = range->bytes};
    }
    return {.at = slot_, .bytes = mine_.staging_of(which_)};
  }

  // -- segments

  /// Calls `fn(segment)` for each, in windows cut to this rank's shard.
  template <class Fn>
  void for_each_own_segment(Fn&& fn) const {
    for (std::size_t i = which_.first; i < which_.last; ++i) {
      const segment& whole = write_.made().schedule.segments[i];
      fn(which_.has_windows() ? clipped(whole, write_.tensor(whole.tensor).partition, mine_.shard()) : whole);
    }
  }
  /// A source that holds a tensor in memory may let go of it once its last byte was read.
  void leave(const segment& whole) const {
    const planned_tensor& tensor = write_.tensor(whole.tensor);
    const std::uint64_t end = which_.has_windows() ? tensor.partition.slot_bytes() : tensor.partition.bytes();
    if (whole.end == end && !tensor.captured) {
      write_({.kind = step_kind::release, .tensor = whole.tensor});
    }
  }

  // -- reading: a broadcast, an own read

  void fill_payload() const {
    region_position next = own_.at;
    for_each_own_segment([&](const segment& each) {
      write_.read(each.tensor, each.begin, each.end - each.begin, next);
      next = next + (each.end - each.begin);
      leave(each);
    });
  }

  void fill_own_window() const {
    const bool direct = mine_.reads_directly(which_);
    region_position next = own_.at;
    region_position to;
    joined_reads joined(write_);
    mine_.for_each_own_run(
        which_,
        [&](std::size_t tensor, std::uint64_t local, std::uint64_t bytes) {
          to = direct ? write_.slab(tensor, local) : next;
          next = next + bytes;
          return nullptr;
        },
        [&](const wanted_run& run, std::size_t tensor, std::uint64_t global) {
          if (write_.tensor(tensor).extra_copies != 0) {
            write_.read(tensor, global, run.bytes, to);
          } else {
            joined.add(run, tensor, to);
          }
        });
    joined.flush();
    for (std::size_t i = which_.first; i < which_.last; ++i) {
      leave(write_.made().schedule.segments[i]);
    }
  }

  // -- reading: the windows of a scatter

  /// Does this source stage a window of the shard? Its own it may read straight to its place.
  [[nodiscard]] bool has_window(std::size_t shard) const noexcept {
    return mine_.serves(shard) && (shard != mine_.shard() || !mine_.reads_own_window_in_place());
  }
  /// Calls `fn(shard, where)` for each window that is staged.
  template <class Fn>
  void for_each_window(Fn&& fn) const {
    region_position next = slot_;
    for (std::size_t shard = 0; shard < shards(); ++shard) {
      if (has_window(shard)) {
        fn(shard, next);
        next = next + which_.bytes;
      }
    }
  }

  void put_cursors_at_windows() const {
    for_each_window([&](std::size_t shard, region_position begin) { cursors_[shard] = begin.offset; });
  }

  void fill_windows() const {
    put_cursors_at_windows();
    for (std::size_t i = which_.first; i < which_.last; ++i) {
      fill_segment(write_.made().schedule.segments[i]);
      leave(write_.made().schedule.segments[i]);
    }
  }

  void fill_segment(const segment& whole) const {
    const planned_tensor& tensor = write_.tensor(whole.tensor);
    const partition& how = tensor.partition;
    const std::uint64_t row = how.region(0).run;
    const std::uint64_t first_row = ceil_div(whole.begin, row) * row;
    const std::uint64_t last_row = align_down(whole.end, row);
    const bool by_rows = !how.is_contiguous() && how.period_bytes() <= write_.scratch_bytes() &&
                         tensor.extra_copies == 0 && mine_.serves_every_shard() && first_row < last_row;
    if (!by_rows) {
      read_runs(whole);
      return;
    }
    read_runs({.tensor = whole.tensor, .begin = whole.begin, .end = first_row});
    read_rows({.tensor = whole.tensor, .begin = first_row, .end = last_row});
    read_runs({.tensor = whole.tensor, .begin = last_row, .end = whole.end});
  }

  /// Where the next `bytes` bytes of a shard go, which begin at its local byte `local` of the tensor.
  [[nodiscard]] region_position claim(std::size_t shard, std::size_t tensor, std::uint64_t local,
                                      std::uint64_t bytes) const noexcept {
    if (!has_window(shard)) {
      return write_.slab(tensor, local);
    }
    return slot_ + std::exchange(cursors_[shard], cursors_[shard] + bytes);
  }

  /// Each window by itself: one request per contiguous run.
  void read_runs(const segment& whole) const {
    const partition& how = write_.tensor(whole.tensor).partition;
    for (std::size_t shard = 0; shard < shards(); ++shard) {
      if (mine_.serves(shard)) {
        const segment cut = clipped(whole, how, shard);
        for_each_run(how.region(shard), cut.begin, cut.end,
                     [&](std::uint64_t global, std::uint64_t local, std::uint64_t length) {
                       write_.read(whole.tensor, global, length, claim(shard, whole.tensor, local, length));
                     });
      }
    }
  }

  /// Sharded on an inner dim: whole rows of all shards are one request, and taken apart afterwards.
  void read_rows(const segment& rows) const {
    const partition& how = write_.tensor(rows.tensor).partition;
    const std::uint64_t run = how.region(0).run;  // equal for all shards: such dims divide evenly
    const std::uint64_t period = how.period_bytes();
    const std::uint64_t at_once = write_.scratch_bytes() / period;
    for (std::uint64_t row = rows.begin / run; row < rows.end / run;) {
      const std::uint64_t count = smaller(at_once, rows.end / run - row);
      write_.read(rows.tensor, row * period, count * period, step_writer::scratch);
      for (std::size_t shard = 0; shard < shards(); ++shard) {
        write_({.kind = step_kind::copy,
                .tensor = rows.tensor,
                .from = step_writer::scratch + how.region(shard).offset,
                .to = claim(shard, rows.tensor, row * run, count * run),
                .bytes = run,
                .stride = period,
                .count = count});
      }
      row += count;
    }
  }

  // -- checksums

  /// The seed is the bucket's and the shard's own, so that right bytes in a wrong place do not pass. A last sum is of a
  /// broadcast's whole tensors, which all ranks keep.
  void start_sum(std::size_t sum) const { write_.start_sum(index_ * (shards() + 1) + sum); }
  [[nodiscard]] region_position place_of_sum(std::size_t sum) const noexcept {
    return sums_ + sum * sizeof(std::uint64_t);
  }
  [[nodiscard]] std::size_t first_tensor() const noexcept {
    return write_.made().schedule.segments[which_.first].tensor;
  }

  void sum_what_was_read() const {
    if (scatters_) {
      for_each_window([&](std::size_t shard, region_position where) {
        sum_window(shard, where, mine_.window_bytes(which_, shard));
      });
    } else if (which_.way == route::own_read) {
      sum_window(mine_.shard(), own_.at, own_.bytes);
    } else {
      sum_payload();
    }
  }
  void sum_window(std::size_t shard, region_position where, std::uint64_t bytes) const {
    start_sum(shard);
    write_.hash(first_tensor(), where, bytes);
    write_.store_sum(place_of_sum(shard));
  }
  void sum_payload() const {
    for (std::size_t shard = 0; shard < shards(); ++shard) {
      if (mine_.serves(shard) || which_.captured) {
        start_sum(shard);
        hash_payload([&](const segment& each, const partition& how, region_position where) {
          const byte_region region = how.region(shard);
          if (!how.is_whole()) {
            for_each_overlap(region, each.begin, each.end,
                             [&](std::uint64_t global, std::uint64_t, std::uint64_t run, std::uint64_t count) {
                               write_({.kind = step_kind::hash,
                                       .tensor = each.tensor,
                                       .from = where + (global - each.begin),
                                       .bytes = run,
                                       .stride = region.stride,
                                       .count = count});
                             });
          }
        });
        write_.store_sum(place_of_sum(shard));
      }
    }
    start_sum(shards());
    hash_payload([&](const segment& each, const partition& how, region_position where) {
      if (how.is_whole()) {
        write_.hash(each.tensor, where, each.end - each.begin);
      }
    });
    write_.store_sum(place_of_sum(shards()));
  }
  template <class Fn>
  void hash_payload(Fn&& fn) const {
    region_position next = own_.at;
    for_each_own_segment([&](const segment& each) {
      fn(each, write_.tensor(each.tensor).partition, next);
      next = next + (each.end - each.begin);
    });
  }

  void check() const {
    start_sum(mine_.shard());
    hash_own(false);
    check_sum(mine_.shard());
    if (!which_.has_windows()) {
      start_sum(shards());
      hash_own(true);
      check_sum(shards());
    }
  }
  /// What this rank's slabs hold of the bucket's whole tensors, or of the others.
  void hash_own(bool whole) const {
    for_each_own_segment([&](const segment& each) {
      const partition& how = write_.tensor(each.tensor).partition;
      const bool counts_as_whole = how.is_whole() && !which_.has_windows();
      if (counts_as_whole != whole) {
        return;
      }
      if (which_.has_windows() || whole) {
        write_.hash_placed(each.tensor, each.begin, each.end - each.begin);
      } else {
        for_each_overlap(how.region(mine_.shard()), each.begin, each.end,
                         [&](std::uint64_t, std::uint64_t local, std::uint64_t run, std::uint64_t count) {
                           write_.hash_placed(each.tensor, local, run * count);
                         });
      }
    });
  }
  void check_sum(std::size_t sum) const {
    write_({.kind = step_kind::check_sum,
            .tensor = first_tensor(),
            .rank = mine_.root_of(which_),
            .from = place_of_sum(sum),
            .bytes = sizeof(std::uint64_t)});
  }

  // -- transfers

  void start() const {
    const std::size_t root = mine_.root_of(which_);
    if (which_.way == route::scatter) {
      scatter(root);
    } else if (which_.way == route::broadcast) {
      const bool views = is_staged() && root != rank();
      broadcast(own_.at, own_.bytes, root, group_of_broadcast(), views);
    } else if (mine_.relays(which_)) {
      broadcast(own_.at, own_.bytes, root, rank_group::replicas);
    }
    if (mine_.sends_checksums(which_)) {
      broadcast(sums_, sums_bytes(), root, which_.way == route::own_read ? rank_group::replicas : group_of_broadcast());
    }
  }
  [[nodiscard]] rank_group group_of_broadcast() const noexcept {
    return mine_.broadcast_group(which_).empty() ? rank_group::all : rank_group::served;
  }

  void scatter(std::size_t root) const {
    const bool alone = mine_.groups().scatter.size() == 1;
    const rank_group group = mine_.groups().scatter.empty() ? rank_group::all : rank_group::scatter;
    if (alone || root == rank()) {
      put_cursors_at_windows();
      mine_.for_each_scattered_to([&](std::size_t other) {
        if (other != rank()) {
          window(other);
        }
      });
      write_({.kind = step_kind::scatter, .group = group, .rank = rank()});
      return;
    }
    write_({.kind = step_kind::scatter, .group = group, .rank = root, .to = own_.at, .bytes = own_.bytes});
  }
  void window(std::size_t other) const {
    const std::size_t shard = write_.made().options.ranks.shard_of(other);
    write_({.kind = step_kind::window,
            .rank = other,
            .from = slot_ + cursors_[shard],
            .bytes = mine_.window_bytes(which_, shard)});
  }

  void broadcast(region_position at, std::uint64_t bytes, std::size_t root, rank_group group,
                 bool views = false) const {
    const bool sends = root == rank();
    write_({.kind = step_kind::broadcast,
            .group = group,
            .viewable = views,
            .rank = root,
            .from = sends ? at : region_position{},
            .to = sends ? region_position{} : at,
            .bytes = bytes});
  }

  // -- placing

  /// Out of the slot; what is in its place stays there.
  void place() const {
    if (!is_staged()) {
      return;
    }
    region_position next = own_.at;
    for_each_own_segment([&](const segment& each) {
      const std::uint64_t bytes = each.end - each.begin;
      if (!which_.has_windows()) {
        write_.place_global(each.tensor, each.begin, bytes, next);
      } else if (bytes != 0) {
        write_({.kind = step_kind::place,
                .tensor = each.tensor,
                .from = next,
                .to = write_.slab(each.tensor, each.begin),
                .bytes = bytes,
                .stride = bytes});
      }
      next = next + bytes;
    });
  }

  const step_writer& write_;
  const rank_plan& mine_;
  std::size_t index_;
  const bucket& which_;
  region_position slot_;
  region_position sums_;
  std::span<std::uint64_t> cursors_;  // per shard: where in the slot its next bytes go
  bool scatters_;                     // it is the source of a scatter
  part own_;
};

}  // namespace fsdpinit::detail
