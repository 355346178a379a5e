#pragma once

#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/core/checksum.hpp>
#include <fsdpinit/core/error.hpp>
#include <fsdpinit/core/text.hpp>
#include <fsdpinit/init/transfer.hpp>
#include <fsdpinit/plan/byte_region.hpp>
#include <fsdpinit/plan/plan.hpp>
#include <fsdpinit/plan/prediction.hpp>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

namespace fsdpinit::detail {

/// The checksums of buckets: made of the bytes that were read, and compared with what lies in the slabs. A bucket has one for each
/// shard, of what that keeps of sharded tensors, and a last one of its whole tensors, which all keep: every byte that is read is
/// hashed once. The seed is the bucket's and the shard's own, so that right bytes in a wrong place do not pass.
class bucket_checksums {
 public:
  /// `names` has what each planned tensor's request is called. \throws std::bad_alloc
  bucket_checksums(const plan& made, const rank_plan& mine, tensor_placer& placer,
                   std::span<const tensor_request> names, const checksum& with)
      : plan_(made), mine_(mine), placer_(placer), names_(names), hash_(with) {}

  /// In place of checksums, should the bucket not be read after all: its reader has failed, and its receivers will learn of it.
  void sum_nothing(mutable_bytes sums) const noexcept { std::memset(sums.data(), none_byte, sums.size()); }

  /// Of the windows that were read to be scattered, by shard; an empty one is of nobody.
  void sum_windows(const bucket& which, std::span<const mutable_bytes> windows, mutable_bytes sums) {
    for (std::size_t shard = 0; shard < windows.size(); ++shard) {
      sum_window(which, shard, windows[shard], sums);
    }
    restart(which, whole_tensors());
    put(whole_tensors(), sums);
  }
  /// Of the window of one shard.
  void sum_window(const bucket& which, std::size_t shard, bytes_view window, mutable_bytes sums) {
    restart(which, shard);
    hash_.update(window);
    put(shard, sums);
  }
  /// Of the payload of a broadcast.
  void sum_payload(const bucket& which, bytes_view payload, mutable_bytes sums) {
    for (std::size_t shard = 0; shard < whole_tensors(); ++shard) {
      if (mine_.serves(shard)) {
        restart(which, shard);
        for_each_segment(which, payload, [&](const segment& part, const partition& how, bytes_view bytes) {
          if (!how.is_whole()) {
            const byte_region region = how.region(shard);
            for_each_overlap(region, part.begin, part.end,
                             [&](std::uint64_t global, std::uint64_t, std::uint64_t run, std::uint64_t count) {
                               for (std::uint64_t i = 0; i < count; ++i) {
                                 hash_.update(bytes.subspan(global - part.begin + i * region.stride, run));
                               }
                             });
          }
        });
        put(shard, sums);
      }
    }
    restart(which, whole_tensors());
    for_each_segment(which, payload, [&](const segment&, const partition& how, bytes_view bytes) {
      if (how.is_whole()) {
        hash_.update(bytes);
      }
    });
    put(whole_tensors(), sums);
  }

  /// Compares them with what this rank's slabs hold of the bucket. \throws error{corrupted} naming a tensor of it.
  void check(const bucket& which, bytes_view sums) {
    restart(which, mine_.shard());
    for_each_piece(which, false);
    require_equal(which, mine_.shard(), sums);
    restart(which, whole_tensors());
    for_each_piece(which, true);
    require_equal(which, whole_tensors(), sums);
  }

 private:
  static constexpr int none_byte = 0xff;
  static constexpr std::uint64_t none = ~std::uint64_t{0};

  /// Never `none`.
  [[nodiscard]] std::uint64_t value() const noexcept {
    const std::uint64_t hashed = hash_.value();
    return hashed == none ? none - 1 : hashed;
  }
  [[nodiscard]] std::size_t whole_tensors() const noexcept { return plan_.options.ranks.shards; }

  void restart(const bucket& which, std::size_t sum) noexcept {
    const auto index = static_cast<std::uint64_t>(&which - plan_.schedule.buckets.data());
    hash_.restart(index * (whole_tensors() + 1) + sum);
  }
  void put(std::size_t sum, mutable_bytes sums) const noexcept {
    const std::uint64_t value = this->value();
    std::memcpy(sums.data() + sum * sizeof value, &value, sizeof value);
  }

  template <class Fn>
  void for_each_segment(const bucket& which, bytes_view payload, Fn&& fn) const {
    for (std::size_t i = which.first; i < which.last; ++i) {
      const segment& part = plan_.schedule.segments[i];
      fn(part, plan_.tensors[part.tensor].partition, payload.first(part.end - part.begin));
      payload = payload.subspan(part.end - part.begin);
    }
  }

  /// Hashes what this rank keeps of the bucket's whole tensors, or of the others.
  void for_each_piece(const bucket& which, bool whole) {
    for (std::size_t i = which.first; i < which.last; ++i) {
      const segment& part = plan_.schedule.segments[i];
      const partition& how = plan_.tensors[part.tensor].partition;
      if (which.has_windows()) {
        const segment cut = clipped(part, how, mine_.shard());
        if (!whole) {
          hash_placed(part.tensor, cut.begin, cut.end - cut.begin);
        }
      } else if (how.is_whole()) {
        if (whole) {
          hash_placed(part.tensor, part.begin, part.end - part.begin);
        }
      } else if (!whole) {
        for_each_overlap(how.region(mine_.shard()), part.begin, part.end,
                         [&](std::uint64_t, std::uint64_t local, std::uint64_t run, std::uint64_t count) {
                           hash_placed(part.tensor, local, run * count);
                         });
      }
    }
  }
  void hash_placed(std::size_t tensor, std::uint64_t local, std::uint64_t bytes) {
    placer_.for_each_placed(tensor, local, bytes, [&](std::uint64_t, bytes_view placed) { hash_.update(placed); });
  }

  void require_equal(const bucket& which, std::size_t sum, bytes_view sums) const {
    std::uint64_t expected = 0;
    std::memcpy(&expected, sums.data() + sum * sizeof expected, sizeof expected);
    if (value() == expected || expected == none) {
      return;
    }
    const std::size_t others = which.last - which.first - 1;
    const std::size_t index = static_cast<std::size_t>(&which - plan_.schedule.buckets.data());
    throw error(
        errc::corrupted, names_[plan_.tensors[plan_.schedule.segments[which.first].tensor].request].fqn,
        concat("its bytes", others == 0 ? "" : concat(", or those of the ", others, " tensors after it,"),
               " in bucket ", index, " are not here as rank ", mine_.root_of(which), " read them (", hash_.name(), " ",
               value(), " in place of ", expected, "); try again, and have memory and network of both checked"));
  }

  const plan& plan_;
  const rank_plan& mine_;
  tensor_placer& placer_;
  std::span<const tensor_request> names_;
  running_checksum hash_;
};

}  // namespace fsdpinit::detail
