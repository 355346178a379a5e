#pragma once

#include <fsdpinit/index/mesh.hpp>
#include <fsdpinit/plan/bucket_reading.hpp>
#include <fsdpinit/plan/bucket_schedule.hpp>
#include <fsdpinit/plan/bucket_sums.hpp>
#include <fsdpinit/plan/bucket_view.hpp>
#include <fsdpinit/plan/program_step.hpp>
#include <fsdpinit/plan/step_writer.hpp>
#include <fsdpinit/plan/transport.hpp>

#include <cstddef>
#include <cstdint>

namespace fsdpinit::detail {

/// What one rank does about one bucket: reads and sends, passes on, places and checks. Allocates nothing.
class bucket_steps {
 public:
  /// `of` must outlive it.
  explicit bucket_steps(const bucket_view& of) noexcept
      : bucket_(of), write_(of.write()), mine_(of.mine()), which_(of.which()), sums_(of) {}

  /// Up to the point at which the bucket is on its way.
  void begin() const {
    if (bucket_.has_checksums()) {
      sums_.clear();
    }
    if (bucket_.reads()) {
      bucket_reading(bucket_).write();
      if (bucket_.has_checksums() && !write_.is_coarse()) {
        sums_.make();
      }
    }
    start();
    if (bucket_.reads()) {
      place();
    }
  }

  /// The second transfer of a bucket that has one: the source's replica passes on what `begin` has brought it.
  void pass_on() const {
    if (which_.route == route::scatter && mine_.relays(which_)) {
      const mesh& ranks = write_.made().options.ranks;
      const std::size_t root = ranks.rank_of(ranks.replica_of(mine_.groups().source), mine_.shard());
      broadcast(bucket_.own(), root, rank_group::replicas);
    }
  }

  /// Everything has arrived.
  void end() const {
    if (!bucket_.reads()) {
      place();
    }
    // What a source has read to its place was not moved.
    if (bucket_.has_checksums() && !write_.is_coarse() && (!bucket_.scatters() || bucket_.is_staged())) {
      sums_.check();
    }
  }

 private:
  // -- transfers

  void start() const {
    const std::size_t root = bucket_.root();
    if (which_.route == route::scatter) {
      scatter(root);
    } else if (which_.route == route::broadcast) {
      broadcast(bucket_.own(), root, group_of_broadcast(), bucket_.is_staged() && !bucket_.reads());
    } else if (mine_.relays(which_)) {
      broadcast(bucket_.own(), root, rank_group::replicas);
    }
    if (bucket_.has_checksums() && (which_.route != route::own_read || mine_.relays(which_))) {
      broadcast({.at = bucket_.checksums(), .bytes = sums_.bytes()}, root,
                which_.route == route::own_read ? rank_group::replicas : group_of_broadcast());
    }
  }
  [[nodiscard]] rank_group group_of_broadcast() const noexcept {
    return mine_.broadcast_group(which_).empty() ? rank_group::all : rank_group::served;
  }

  /// A rank that gets its part relayed is alone in its scatter, which only keeps the count.
  void scatter(std::size_t root) const {
    const rank_group group = mine_.groups().scatter.empty() ? rank_group::all : rank_group::scatter;
    if (root != mine_.rank() && mine_.groups().scatter.size() != 1) {
      const bucket_part& own = bucket_.own();
      write_({.kind = step_kind::scatter, .group = group, .rank = root, .to = own.at, .bytes = own.bytes});
      return;
    }
    window_steps();
    write_({.kind = step_kind::scatter, .group = group, .rank = mine_.rank()});
  }

  /// What was read just now: windows of the same size that follow one another are one step.
  void window_steps() const {
    program_step next{.kind = step_kind::window, .stride = which_.bytes, .count = 0};
    const auto flush = [&] {
      if (next.count != 0) {
        write_(next);
      }
    };
    mine_.for_each_scattered_to([&](std::size_t other) {
      if (other == mine_.rank()) {
        return;
      }
      const window_cursor& window = bucket_.cursors()[write_.made().options.ranks.shard_of(other)];
      if (other == next.rank + next.count && window.bytes() == next.bytes &&
          window.begin == next.from.offset + next.count * which_.bytes) {
        ++next.count;
        return;
      }
      flush();
      next.rank = other;
      next.from = bucket_.slot() + window.begin;
      next.bytes = window.bytes();
      next.count = 1;
    });
    flush();
  }

  void broadcast(const bucket_part& what, std::size_t root, rank_group group, bool viewable = false) const {
    const bool sends = root == mine_.rank();
    write_({.kind = step_kind::broadcast,
            .group = group,
            .viewable = viewable,
            .rank = root,
            .from = sends ? what.at : region_position{},
            .to = sends ? region_position{} : what.at,
            .bytes = what.bytes});
  }

  // -- placing

  /// Out of the slot; what has arrived in its place stays there.
  void place() const {
    if (!bucket_.is_staged()) {
      return;
    }
    if (write_.is_coarse()) {
      if (which_.has_windows() && bucket_.own().bytes != 0) {
        write_({.kind = step_kind::place,
                .tensor = bucket_.segments().front().tensor,
                .from = bucket_.own().at,
                .bytes = bucket_.own().bytes,
                .stride = bucket_.own().bytes});
      }
      return;
    }
    bucket_.for_each_own_segment([&](const segment& each, std::uint64_t offset) {
      const std::uint64_t bytes = each.end - each.begin;
      const region_position from = bucket_.own().at + offset;
      if (!which_.has_windows()) {
        write_.place_global(each.tensor, each.begin, bytes, from);
      } else if (bytes != 0) {
        write_({.kind = step_kind::place,
                .tensor = each.tensor,
                .from = from,
                .to = write_.slab(each.tensor, each.begin),
                .bytes = bytes,
                .stride = bytes});
      }
    });
  }

  const bucket_view& bucket_;
  const step_writer& write_;
  const rank_plan& mine_;
  const bucket& which_;
  bucket_sums sums_;
};

}  // namespace fsdpinit::detail
