#pragma once

#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/index/byte_region.hpp>
#include <fsdpinit/index/partition.hpp>
#include <fsdpinit/plan/bucket_schedule.hpp>
#include <fsdpinit/plan/bucket_view.hpp>
#include <fsdpinit/plan/joined_reads.hpp>
#include <fsdpinit/plan/program_step.hpp>
#include <fsdpinit/plan/step_writer.hpp>
#include <fsdpinit/plan/transport.hpp>

#include <cstddef>
#include <cstdint>
#include <utility>

namespace fsdpinit::detail {

/// The steps by which a bucket is read, on the rank that has it to read.
class bucket_reading {
 public:
  /// `of` must outlive it.
  explicit bucket_reading(const bucket_view& of) noexcept : bucket_(of), write_(of.write()) {}

  void write() const {
    if (bucket_.scatters()) {
      fill_windows();
    } else if (bucket_.which().route == route::own_read) {
      fill_own_window();
    } else {
      fill_payload();
    }
  }

 private:
  /// A source that holds a tensor in memory may let go of it once its last byte was read.
  void leave(const segment& whole) const {
    if (write_.is_coarse()) {
      return;
    }
    const partition& how = bucket_.partition_of(whole);
    const std::uint64_t end = bucket_.which().has_windows() ? how.reserved_bytes() : how.bytes();
    if (whole.end == end && !write_.tensor(whole.tensor).from_buffer) {
      write_({.kind = step_kind::release, .tensor = whole.tensor});
    }
  }

  /// Broadcast: whole tensors, one after the other.
  void fill_payload() const {
    bucket_.for_each_own_segment([&](const segment& each, std::uint64_t offset) {
      write_.read(each.tensor, each.begin, each.end - each.begin, bucket_.own().at + offset);
      leave(each);
    });
  }

  /// Own read: the runs of this rank's shard, to one place after the other or straight into the slabs.
  void fill_own_window() const {
    const bool direct = bucket_.mine().reads_directly(bucket_.which());
    region_position next = bucket_.own().at;
    region_position to;
    const auto place = [&](std::size_t tensor, std::uint64_t local, std::uint64_t bytes) {
      return to = direct ? write_.slab(tensor, local) : std::exchange(next, next + bytes);
    };
    joined_reads joined(write_);
    for (const segment& part : bucket_.segments()) {
      if (write_.tensor(part.tensor).tile_bytes != 0 && write_.tensor(part.tensor).extra_copies == 0) {
        joined.flush();
        read_together(part, place);
        continue;
      }
      bucket_.mine().for_each_own_run(
          part,
          [&](std::size_t tensor, std::uint64_t local, std::uint64_t bytes) {
            place(tensor, local, bytes);
            return nullptr;
          },
          [&](const wanted_run& run, std::size_t tensor, std::uint64_t global) {
            if (write_.tensor(tensor).extra_copies != 0) {
              write_.read(tensor, global, run.bytes, to);
            } else {
              joined.add(run, tensor, to);
            }
          });
    }
    joined.flush();
    for (const segment& each : bucket_.segments()) {
      leave(each);
    }
  }

  /// All runs of this rank's shard in a few requests, of a tensor that the source puts together.
  template <class Place>
  void read_together(const segment& whole, Place&& place) const {
    const partition& how = write_.tensor(whole.tensor).partition;
    const segment cut = clipped(whole, how, bucket_.mine().shard());
    for_each_part(how.region(bucket_.mine().shard()), cut.begin, cut.end,
                  [&](const byte_region& part, std::uint64_t local) {
                    write_.read_once(whole.tensor, part.offset, part.run, place(whole.tensor, local, part.bytes()),
                                     part.count, part.stride, part.run);
                  });
  }

  /// Scatter: a window for each shard, and perhaps this rank's own part in its place.
  void fill_windows() const {
    bucket_.put_cursors_at_windows();
    for (const segment& each : bucket_.segments()) {
      fill_segment(each);
      leave(each);
    }
  }

  void fill_segment(const segment& whole) const {
    const partition& how = bucket_.partition_of(whole);
    const std::uint64_t row = how.region(0).run;
    const std::uint64_t first_row = ceil_div(whole.begin, row) * row;
    const std::uint64_t last_row = align_down(whole.end, row);
    const bool by_rows = !how.is_contiguous() && how.period_bytes() <= write_.scratch_bytes() &&
                         write_.tensor(whole.tensor).extra_copies == 0 && bucket_.mine().serves_every_shard() &&
                         first_row < last_row;
    if (!by_rows) {
      read_runs(whole);
      return;
    }
    read_runs({.tensor = whole.tensor, .begin = whole.begin, .end = first_row});
    read_rows({.tensor = whole.tensor, .begin = first_row, .end = last_row});
    read_runs({.tensor = whole.tensor, .begin = last_row, .end = whole.end});
  }

  /// Where the next `bytes` bytes of a shard go, which begin at its local byte `local` of the tensor; and those of the `count` - 1
  /// shards after it, as far apart as windows are.
  [[nodiscard]] region_position claim(std::size_t shard, std::size_t tensor, std::uint64_t local, std::uint64_t bytes,
                                      std::size_t count = 1) const noexcept {
    if (!bucket_.has_window(shard)) {
      return write_.slab(tensor, local);
    }
    const region_position first = bucket_.slot() + bucket_.cursors()[shard].next;
    for (window_cursor& each : bucket_.cursors().subspan(shard, count)) {
      each.next += bytes;
    }
    return first;
  }

  /// Each window by itself, with one request per contiguous run.
  void read_runs(const segment& whole) const {
    const partition& how = bucket_.partition_of(whole);
    const std::uint64_t chunk = how.region(0).run;  // from one shard's run to that of the next
    bucket_.for_each_alike(whole, [&](std::size_t shard, std::size_t count, const segment& part) {
      for_each_run(how.region(shard), part.begin, part.end,
                   [&](std::uint64_t global, std::uint64_t local, std::uint64_t length) {
                     write_.read_alike(whole.tensor, global, length, claim(shard, whole.tensor, local, length, count),
                                       count, chunk, bucket_.which().bytes);
                   });
    });
  }

  /// Sharded on an inner dim: whole rows of all shards are one request, and taken apart afterwards.
  void read_rows(const segment& rows) const {
    const partition& how = bucket_.partition_of(rows);
    const std::uint64_t run = how.region(0).run;  // equal for all shards: such dims divide evenly
    const std::uint64_t period = how.period_bytes();
    const std::uint64_t at_once = write_.piece_bytes() / period;
    for (std::uint64_t row = rows.begin / run; row < rows.end / run;) {
      const std::uint64_t count = smaller(at_once, rows.end / run - row);
      write_.read(rows.tensor, row * period, count * period, step_writer::scratch);
      for (std::size_t shard = 0; shard < bucket_.shards(); ++shard) {
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

  const bucket_view& bucket_;
  const step_writer& write_;
};

}  // namespace fsdpinit::detail
