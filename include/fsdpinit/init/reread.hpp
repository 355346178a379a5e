#pragma once

#include <fsdpinit/concepts/memory_space.hpp>
#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/core/error.hpp>
#include <fsdpinit/core/text.hpp>
#include <fsdpinit/init/transfer.hpp>
#include <fsdpinit/plan/bucket_schedule.hpp>
#include <fsdpinit/plan/byte_region.hpp>
#include <fsdpinit/plan/plan.hpp>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

namespace fsdpinit::detail {

/// Reads this rank's part of every tensor of the source once more, by itself, and compares it with what lies in the slabs: one
/// read per contiguous run, each within half of the scratch memory. Before widening.
template <class Source, MemorySpace Space>
class part_rereader {
 public:
  /// `names` has what each planned tensor's request is called.
  part_rereader(const plan& made, std::size_t rank, tensor_reader<Source, Space>& reader, workspace<Space>& work,
                std::span<const tensor_request> names)
      : plan_(made),
        shard_(made.options.ranks.shard_of(rank)),
        reader_(reader),
        placer_(made, rank, work),
        window_(work.scratch.bytes().first(work.scratch.size() / 2)),
        names_(names) {}

  /// At most `direct_read_bytes`, of shards as large as the largest, so that all ranks take as many turns. \return whether there
  /// is more to compare. \throws error{corrupted} naming the first byte that differs, and what the source throws.
  [[nodiscard]] bool compare_some() {
    std::uint64_t room = direct_read_bytes;
    for (; tensor_ < plan_.tensors.size(); ++tensor_, begin_ = 0) {
      const planned_tensor& planned = plan_.tensors[tensor_];
      if (planned.captured || planned.generated) {
        continue;
      }
      const std::uint64_t end = planned.partition.slot_bytes();
      while (begin_ < end) {
        if (room == 0) {
          return true;
        }
        const std::uint64_t bytes = smaller(smaller(end - begin_, window_.size()), room);
        compare(planned, begin_, begin_ + bytes);
        begin_ += bytes;
        room -= bytes;
      }
    }
    return false;
  }

 private:
  void compare(const planned_tensor& planned, std::uint64_t begin, std::uint64_t end) {
    const segment own = clipped({.tensor = tensor_, .begin = begin, .end = end}, planned.partition, shard_);
    const mutable_bytes expected = window_.first(own.end - own.begin);
    for_each_run(planned.partition.region(shard_), own.begin, own.end,
                 [&](std::uint64_t global, std::uint64_t local, std::uint64_t length) {
                   reader_.read_once(tensor_, global, expected.subspan(local - own.begin, length));
                 });
    placer_.for_each_placed(tensor_, own.begin, expected.size(), [&](std::uint64_t local, bytes_view placed) {
      const std::byte* const wanted = expected.data() + (local - own.begin);
      if (std::memcmp(placed.data(), wanted, placed.size()) != 0) {
        std::size_t at = 0;
        while (placed[at] == wanted[at]) {
          ++at;
        }
        throw error(errc::corrupted, names_[planned.request].fqn,
                    concat("byte ", local + at, " of the shard is ", std::to_integer<int>(placed[at]),
                           ", where the checkpoint has ", std::to_integer<int>(wanted[at]),
                           "; try again, and have memory and network of this rank checked"));
      }
    });
  }

  const plan& plan_;
  std::size_t shard_;
  tensor_reader<Source, Space>& reader_;
  tensor_placer<Space> placer_;
  mutable_bytes window_;
  std::span<const tensor_request> names_;
  std::size_t tensor_ = 0;
  std::uint64_t begin_ = 0;  // of its next byte, of the largest shard
};

}  // namespace fsdpinit::detail
