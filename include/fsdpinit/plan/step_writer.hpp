#pragma once

#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/index/byte_region.hpp>
#include <fsdpinit/plan/plan.hpp>
#include <fsdpinit/plan/program_step.hpp>
#include <fsdpinit/plan/rank_plan.hpp>
#include <fsdpinit/plan/read_coalescing.hpp>

#include <cstddef>
#include <cstdint>
#include <optional>

namespace fsdpinit::detail {

/// What the rounds of a program have in common: how tensors are read, placed, looked at again. Hands out steps one by one.
class step_writer {
 public:
  /// All must outlive it. \param scratch_bytes of this rank's scratch region \param coarse see `program::coarse`
  step_writer(const plan& made, const rank_plan& mine, std::uint64_t scratch_bytes, bool coarse,
              step_visitor emit) noexcept
      : plan_(made),
        mine_(mine),
        scratch_bytes_(scratch_bytes),
        piece_bytes_(coarse ? everything : scratch_bytes),
        coarse_(coarse),
        emit_(emit) {}

  /// More than there is of anything.
  static constexpr std::uint64_t everything = std::uint64_t{1} << 62U;

  [[nodiscard]] const plan& made() const noexcept { return plan_; }
  [[nodiscard]] const rank_plan& mine() const noexcept { return mine_; }
  [[nodiscard]] std::uint64_t scratch_bytes() const noexcept { return scratch_bytes_; }
  /// Of what passes through it at a time.
  [[nodiscard]] std::uint64_t piece_bytes() const noexcept { return piece_bytes_; }
  [[nodiscard]] bool is_coarse() const noexcept { return coarse_; }
  [[nodiscard]] const planned_tensor& tensor(std::size_t index) const noexcept { return plan_.tensors[index]; }
  [[nodiscard]] bool host_touches_slabs() const noexcept { return plan_.options.access.host; }

  void operator()(const program_step& each) const { emit_(each); }

  static constexpr region_position scratch{.kind = region_kind::scratch};
  /// Where this shard's byte `local` of a tensor arrives.
  [[nodiscard]] region_position slab(std::size_t tensor, std::uint64_t local) const noexcept {
    const planned_tensor& planned = plan_.tensors[tensor];
    return {.kind = region_kind::slab, .index = planned.slab, .offset = planned.offset + local};
  }
  [[nodiscard]] static region_position slab(const slab_range& range) noexcept {
    return {.kind = region_kind::slab, .index = range.slab, .offset = range.offset};
  }

  /// Bytes of a tensor as its first reader gets them: from the source, with further stored copies compared piece by piece, or
  /// from the module.
  void read(std::size_t tensor, std::uint64_t offset, std::uint64_t bytes, region_position to) const {
    const planned_tensor& planned = plan_.tensors[tensor];
    if (bytes == 0) {
      return;
    }
    if (planned.from_buffer) {
      emit_({.kind = step_kind::read_buffer, .tensor = tensor, .to = to, .at = {.offset = offset}, .bytes = bytes});
      return;
    }
    read_once(tensor, offset, bytes, to);
    for (std::size_t copy = 1; copy <= planned.extra_copies; ++copy) {
      for (std::uint64_t done = 0; done < bytes;) {
        const std::uint64_t piece = smaller(bytes - done, piece_bytes_);
        emit_({.kind = step_kind::read,
               .tensor = tensor,
               .copy = copy,
               .to = scratch,
               .at = {.file = file_of_tensor(tensor), .offset = offset + done},
               .bytes = piece});
        emit_({.kind = step_kind::compare,
               .tensor = tensor,
               .copy = copy,
               .from = scratch,
               .to = to + done,
               .bytes = piece});
        done += piece;
      }
    }
  }
  /// `count` times: `stride` apart in the tensor, to places that are `apart`.
  void read_alike(std::size_t tensor, std::uint64_t offset, std::uint64_t bytes, region_position to,
                  std::uint64_t count, std::uint64_t stride, std::uint64_t apart) const {
    const planned_tensor& planned = plan_.tensors[tensor];
    if (!planned.from_buffer && planned.extra_copies == 0) {
      read_once(tensor, offset, bytes, to, count, stride, apart);
      return;
    }
    for (std::uint64_t i = 0; i < count; ++i) {
      read(tensor, offset + i * stride, bytes, to + i * apart);
    }
  }
  /// The same without further copies. \pre not from a buffer.
  void read_once(std::size_t tensor, std::uint64_t offset, std::uint64_t bytes, region_position to,
                 std::uint64_t count = 1, std::uint64_t stride = 0, std::uint64_t apart = 0) const {
    const std::optional<file_position>& begin = plan_.tensors[tensor].position;
    emit_({.kind = step_kind::read,
           .tensor = tensor,
           .to = to,
           .at = {.file = begin ? begin->file : file_of_tensor(tensor), .offset = (begin ? begin->offset : 0) + offset},
           .bytes = bytes,
           .stride = stride,
           .count = count,
           .apart = apart,
           .wanted = bytes * count});
  }

  /// `from` has the tensor's bytes [begin, begin + bytes), whole; this rank's part of them is kept.
  void place_global(std::size_t tensor, std::uint64_t begin, std::uint64_t bytes, region_position from) const {
    const byte_region region = plan_.tensors[tensor].partition.region(mine_.shard());
    for_each_overlap(region, begin, begin + bytes,
                     [&](std::uint64_t global, std::uint64_t local, std::uint64_t run, std::uint64_t count) {
                       emit_({.kind = step_kind::place,
                              .tensor = tensor,
                              .from = from + (global - begin),
                              .to = slab(tensor, local),
                              .bytes = run,
                              .stride = region.stride,
                              .count = count});
                     });
  }

  /// Calls `fn(local, where, bytes)` for this shard's bytes [local, local + bytes) where the host can look at them: in the slab,
  /// or piece by piece in the second half of the scratch region.
  template <class Fn>
  void for_each_placed(std::size_t tensor, std::uint64_t local, std::uint64_t bytes, Fn&& fn) const {
    if (host_touches_slabs()) {
      if (bytes != 0) {
        fn(local, slab(tensor, local), bytes);
      }
      return;
    }
    const region_position aside = scratch + scratch_bytes_ / 2;
    const std::uint64_t most = piece_bytes_ - piece_bytes_ / 2;
    while (bytes != 0) {
      const std::uint64_t piece = smaller(bytes, most);
      emit_({.kind = step_kind::fetch, .tensor = tensor, .from = slab(tensor, local), .to = aside, .bytes = piece});
      fn(local, aside, piece);
      local += piece;
      bytes -= piece;
    }
  }

  // -- checksums

  void start_sum(std::uint64_t seed, std::uint8_t sum = 0) const {
    emit_({.kind = step_kind::start_sum, .sum = sum, .seed = seed});
  }
  void hash(std::size_t tensor, region_position from, std::uint64_t bytes, std::uint8_t sum = 0) const {
    if (bytes != 0) {
      emit_({.kind = step_kind::hash, .sum = sum, .tensor = tensor, .from = from, .bytes = bytes});
    }
  }
  void hash_placed(std::size_t tensor, std::uint64_t local, std::uint64_t bytes, std::uint8_t sum = 0) const {
    for_each_placed(tensor, local, bytes, [&](std::uint64_t, region_position where, std::uint64_t piece) {
      hash(tensor, where, piece, sum);
    });
  }
  void store_sum(region_position to, std::uint8_t sum = 0) const {
    emit_({.kind = step_kind::store_sum, .sum = sum, .to = to, .bytes = sizeof(std::uint64_t)});
  }

 private:
  const plan& plan_;
  const rank_plan& mine_;
  std::uint64_t scratch_bytes_;
  std::uint64_t piece_bytes_;
  bool coarse_;
  step_visitor emit_;
};

}  // namespace fsdpinit::detail
