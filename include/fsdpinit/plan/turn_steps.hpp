#pragma once

#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/core/dtype.hpp>
#include <fsdpinit/index/byte_region.hpp>
#include <fsdpinit/plan/bucket_schedule.hpp>
#include <fsdpinit/plan/plan.hpp>
#include <fsdpinit/plan/program_step.hpp>
#include <fsdpinit/plan/reread_pairs.hpp>
#include <fsdpinit/plan/slab_layout.hpp>
#include <fsdpinit/plan/step_writer.hpp>
#include <fsdpinit/plan/verification.hpp>

#include <cstddef>
#include <cstdint>

/// \file
/// Rounds of a program that are not buckets: those in which each rank works by itself. What takes long is cut into turns, so that
/// ranks that read side by side for hours hear of each other.

namespace fsdpinit::detail {

/// Bytes of a tensor that belong to one turn.
struct turn_part {
  std::size_t tensor = 0;
  std::uint64_t begin = 0;
  std::uint64_t end = 0;
  std::uint64_t before = 0;  ///< bytes of all turns and tensors before these
};

/// Which of the turns, and how many bytes belong to each.
struct turn_cut {
  std::size_t index = 0;
  std::uint64_t bytes = 0;
};

/// Tensors one after the other, cut into turns: calls `fn(turn_part)` for those of one. `size(tensor)` is 0 for tensors that take no
/// part. O(tensors).
template <class Size, class Fn>
void for_each_part_of_turn(const plan& made, const turn_cut& turn, Size&& size, Fn&& fn) {
  const std::uint64_t first = turn.index * turn.bytes;
  const std::uint64_t last = first + turn.bytes;
  std::uint64_t before = 0;
  for (std::size_t i = 0; i < made.tensors.size() && before < last; ++i) {
    const std::uint64_t bytes = size(made.tensors[i]);
    const std::uint64_t begin = before < first ? smaller(first - before, bytes) : 0;
    const std::uint64_t end = smaller(last - before, bytes);
    if (begin < end) {
      fn(turn_part{.tensor = i, .begin = begin, .end = end, .before = before + begin});
    }
    before += bytes;
  }
}

template <class Size>
[[nodiscard]] std::uint64_t bytes_of_turns(const plan& made, Size&& size) {
  std::uint64_t bytes = 0;
  for (const planned_tensor& tensor : made.tensors) {
    bytes += size(tensor);
  }
  return bytes;
}

/// At least one, in which ranks agree that there is nothing.
[[nodiscard]] constexpr std::size_t turns_of(std::uint64_t bytes, std::uint64_t bytes_of_turn) noexcept {
  return bytes == 0 ? 1 : static_cast<std::size_t>(ceil_div(bytes, bytes_of_turn));
}

/// What every rank reads of a tensor where each loads the whole model.
[[nodiscard]] inline std::uint64_t fully_loaded_bytes(const planned_tensor& tensor) noexcept {
  return tensor.route == route::full_copy ? tensor.partition.bytes() : 0;
}
/// What is read again of a tensor by the rank that reads most of it, so that all ranks take as many turns.
[[nodiscard]] inline std::uint64_t reread_bytes(const planned_tensor& tensor) noexcept {
  return tensor.from_buffer || tensor.generated ? 0 : tensor.partition.reserved_bytes();
}

/// Parts of tensors that the source does not have.
inline void write_generated(const step_writer& write) {
  for (std::size_t i = 0; i < write.made().tensors.size(); ++i) {
    const std::uint64_t bytes = write.tensor(i).partition.local_bytes(write.mine().shard());
    if (write.tensor(i).generated && bytes != 0) {
      write({.kind = step_kind::generate, .tensor = i, .to = write.slab(i, 0), .bytes = bytes});
    }
  }
}

/// A turn of reading everything into the full copy.
inline void write_load_turn(const step_writer& write, const turn_cut& turn) {
  for_each_part_of_turn(write.made(), turn, fully_loaded_bytes, [&](const turn_part& each) {
    write.read(each.tensor, each.begin, each.end - each.begin, {.kind = region_kind::full_copy, .offset = each.before});
  });
}

/// This rank's part of the full copy -> its slabs, which are then compared with it where that is verified.
inline void write_kept_parts(const step_writer& write) {
  region_position whole{.kind = region_kind::full_copy};
  for (std::size_t i = 0; i < write.made().tensors.size(); ++i) {
    const planned_tensor& tensor = write.tensor(i);
    if (tensor.route != route::full_copy) {
      continue;
    }
    write.place_global(i, 0, tensor.partition.bytes(), whole);
    if (write.made().options.verify != verification::off) {
      const byte_region region = tensor.partition.region(write.mine().shard());
      write.start_sum(i, 1);
      if (region.bytes() != 0) {
        write({.kind = step_kind::hash,
               .sum = 1,
               .tensor = i,
               .from = whole + region.offset,
               .bytes = region.run,
               .stride = region.stride,
               .count = region.count});
      }
      write.start_sum(i);
      write.hash_placed(i, 0, region.bytes());
      write({.kind = step_kind::check_sum, .tensor = i, .rank = write.mine().rank()});
    }
    whole = whole + tensor.partition.bytes();
  }
}

/// A turn of reading again. Of a tensor that one rank has read for all each rank compares its own part; of one that several have read
/// it sums the part of its peer (`reread_pairs`), and its own.
class reread_steps {
 public:
  /// \param peers_shard whose part this rank reads again
  reread_steps(const step_writer& write, std::size_t peers_shard) noexcept : write_(write), peers_shard_(peers_shard) {}

  void turn(const turn_cut& turn) const {
    for_each_part_of_turn(write_.made(), turn, reread_bytes, [&](const turn_part& each) {
      const planned_tensor& tensor = write_.tensor(each.tensor);
      const bool by_several = is_read_by_several(write_.made().options, tensor);
      if (by_several && each.begin == 0) {
        write_.start_sum(each.tensor, held);
        write_.start_sum(each.tensor, again);
      }
      const std::uint64_t most = write_.piece_bytes() / 2;
      for (std::uint64_t begin = each.begin; begin < each.end;) {
        const std::uint64_t end = begin + smaller(each.end - begin, most);
        const segment part{.tensor = each.tensor, .begin = begin, .end = end};
        by_several ? sum(part) : compare(part);
        begin = end;
      }
      if (by_several && each.end == tensor.partition.reserved_bytes()) {
        store(each.tensor, held);
        store(each.tensor, again);
      }
    });
  }

 private:
  static constexpr std::uint8_t held = 0;  // indices of running checksums and of peer sums
  static constexpr std::uint8_t again = 1;

  [[nodiscard]] segment cut(const segment& part, std::size_t shard) const noexcept {
    return clipped(part, write_.tensor(part.tensor).partition, shard);
  }

  void compare(const segment& part) const {
    const segment own = cut(part, write_.mine().shard());
    read_again(own, write_.mine().shard());
    write_.for_each_placed(own.tensor, own.begin, own.end - own.begin,
                           [&](std::uint64_t local, region_position where, std::uint64_t bytes) {
                             write_({.kind = step_kind::compare,
                                     .tensor = own.tensor,
                                     .from = step_writer::scratch + (local - own.begin),
                                     .to = where,
                                     .at = {.offset = local},
                                     .bytes = bytes});
                           });
  }

  void sum(const segment& part) const {
    const segment peers = cut(part, peers_shard_);
    read_again(peers, peers_shard_);
    write_.hash(part.tensor, step_writer::scratch, peers.end - peers.begin, again);
    const segment own = cut(part, write_.mine().shard());
    write_.hash_placed(own.tensor, own.begin, own.end - own.begin, held);
  }

  /// One request per contiguous run, into the first half of the scratch region.
  void read_again(const segment& part, std::size_t shard) const {
    for_each_run(write_.tensor(part.tensor).partition.region(shard), part.begin, part.end,
                 [&](std::uint64_t global, std::uint64_t local, std::uint64_t bytes) {
                   write_.read_once(part.tensor, global, bytes, step_writer::scratch + (local - part.begin));
                 });
  }

  void store(std::size_t tensor, std::uint8_t sum) const {
    write_.store_sum({.kind = region_kind::peer_sums, .index = sum, .offset = tensor * sizeof(std::uint64_t)}, sum);
  }

  const step_writer& write_;
  std::size_t peers_shard_;
};

/// What has travelled narrow becomes what is kept: where it lies, or aside in the scratch region.
inline void write_widening(const step_writer& write) {
  for (std::size_t i = 0; i < write.made().tensors.size(); ++i) {
    const planned_tensor& tensor = write.tensor(i);
    if (!tensor.widening) {
      continue;
    }
    const std::uint64_t narrow = bits(tensor.widening->from) / 8;
    const std::uint64_t wide = bits(tensor.widening->to) / 8;
    std::uint64_t left = tensor.partition.local_bytes(write.mine().shard()) / narrow;
    region_position from = write.slab(i, 0);
    region_position to{.kind = from.kind, .index = from.index, .offset = tensor.kept_offset()};
    const auto widen = [&](region_position narrow_at, region_position wide_at, std::uint64_t count) {
      write({.kind = step_kind::widen,
             .narrow = tensor.widening->from,
             .wide = tensor.widening->to,
             .tensor = i,
             .from = narrow_at,
             .to = wide_at,
             .bytes = narrow,
             .stride = narrow,
             .count = count});
    };
    if (write.made().options.access.widens) {
      if (left != 0) {
        widen(from, to, left);
      }
      continue;
    }
    while (left != 0) {
      const std::uint64_t count = smaller(left, write.piece_bytes() / wide);
      const region_position aside = step_writer::scratch + count * (wide - narrow);
      write({.kind = step_kind::fetch, .tensor = i, .from = from, .to = aside, .bytes = count * narrow});
      widen(aside, step_writer::scratch, count);
      write({.kind = step_kind::place,
             .tensor = i,
             .from = step_writer::scratch,
             .to = to,
             .bytes = count * wide,
             .stride = count * wide});
      from = from + count * narrow;
      to = to + count * wide;
      left -= count;
    }
  }
}

}  // namespace fsdpinit::detail
