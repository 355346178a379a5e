#pragma once

#include <fsdpinit/index/byte_region.hpp>
#include <fsdpinit/index/partition.hpp>
#include <fsdpinit/plan/bucket_schedule.hpp>
#include <fsdpinit/plan/bucket_view.hpp>
#include <fsdpinit/plan/program_step.hpp>
#include <fsdpinit/plan/step_writer.hpp>
#include <fsdpinit/plan/transport.hpp>
#include <fsdpinit/plan/verification.hpp>

#include <cstddef>
#include <cstdint>

namespace fsdpinit::detail {

/// The steps by which checksums of a bucket are made of what was read, and compared with what lies in the slabs. There is one for
/// each shard; of a broadcast they are of sharded tensors, and a last one is of whole tensors, which all ranks keep.
class bucket_sums {
 public:
  /// `of` must outlive it.
  explicit bucket_sums(const bucket_view& of) noexcept : bucket_(of), write_(of.write()) {}

  [[nodiscard]] std::uint64_t bytes() const noexcept {
    return checksums_bytes(write_.made().options.verify, bucket_.shards());
  }

  void clear() const { write_({.kind = step_kind::clear_sums, .to = bucket_.checksums(), .bytes = bytes()}); }

  /// Of what this rank has read.
  void make() const {
    if (bucket_.scatters()) {
      bucket_.for_each_window([&](std::size_t shard, region_position where) {
        sum_window(shard, where, bucket_.cursors()[shard].bytes());
      });
    } else if (bucket_.which().route == route::own_read) {
      sum_window(bucket_.mine().shard(), bucket_.own().at, bucket_.own().bytes);
    } else {
      sum_payload();
    }
  }

  /// Of this rank's part.
  void check() const {
    start(bucket_.mine().shard());
    hash_placed(false);
    check(bucket_.mine().shard());
    if (!bucket_.which().has_windows()) {
      start(bucket_.shards());
      hash_placed(true);
      check(bucket_.shards());
    }
  }

 private:
  /// The seed is the bucket's and the shard's own, so that right bytes in a wrong place do not pass.
  void start(std::size_t sum) const { write_.start_sum(bucket_.index() * (bucket_.shards() + 1) + sum); }
  [[nodiscard]] region_position place_of(std::size_t sum) const noexcept {
    return bucket_.checksums() + sum * sizeof(std::uint64_t);
  }
  void check(std::size_t sum) const {
    write_({.kind = step_kind::check_sum,
            .tensor = bucket_.segments().front().tensor,
            .rank = bucket_.root(),
            .from = place_of(sum),
            .bytes = sizeof(std::uint64_t)});
  }

  void sum_window(std::size_t shard, region_position where, std::uint64_t bytes) const {
    start(shard);
    write_.hash(bucket_.segments().front().tensor, where, bytes);
    write_.store_sum(place_of(shard));
  }

  void sum_payload() const {
    for (std::size_t shard = 0; shard < bucket_.shards(); ++shard) {
      // A source that does not serve a shard may be where its tensors from buffers come from.
      if (bucket_.mine().serves(shard) || bucket_.which().from_buffer) {
        start(shard);
        bucket_.for_each_own_segment([&](const segment& each, std::uint64_t offset) {
          if (!bucket_.partition_of(each).is_whole()) {
            hash_overlap(each, shard, bucket_.own().at + offset);
          }
        });
        write_.store_sum(place_of(shard));
      }
    }
    start(bucket_.shards());
    bucket_.for_each_own_segment([&](const segment& each, std::uint64_t offset) {
      if (bucket_.partition_of(each).is_whole()) {
        write_.hash(each.tensor, bucket_.own().at + offset, each.end - each.begin);
      }
    });
    write_.store_sum(place_of(bucket_.shards()));
  }
  void hash_overlap(const segment& each, std::size_t shard, region_position where) const {
    const byte_region region = bucket_.partition_of(each).region(shard);
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

  /// What this rank's slabs hold of a broadcast's whole tensors, or of the others, or of its window.
  void hash_placed(bool whole) const {
    bucket_.for_each_own_segment([&](const segment& each, std::uint64_t) {
      const partition& how = bucket_.partition_of(each);
      if (bucket_.which().has_windows() || (whole && how.is_whole())) {
        write_.hash_placed(each.tensor, each.begin, each.end - each.begin);
      } else if (!whole && !how.is_whole()) {
        for_each_overlap(how.region(bucket_.mine().shard()), each.begin, each.end,
                         [&](std::uint64_t, std::uint64_t local, std::uint64_t run, std::uint64_t count) {
                           write_.hash_placed(each.tensor, local, run * count);
                         });
      }
    });
  }

  const bucket_view& bucket_;
  const step_writer& write_;
};

}  // namespace fsdpinit::detail
