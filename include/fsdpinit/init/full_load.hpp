#pragma once

#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/core/checksum.hpp>
#include <fsdpinit/core/error.hpp>
#include <fsdpinit/core/text.hpp>
#include <fsdpinit/init/transfer.hpp>
#include <fsdpinit/plan/bucket_schedule.hpp>
#include <fsdpinit/plan/byte_region.hpp>
#include <fsdpinit/plan/plan.hpp>
#include <fsdpinit/plan/verification.hpp>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

namespace fsdpinit::detail {

/// Reads every tensor whole into `full_copy`: what each rank does where every rank loads the model. Piece by piece: ranks that
/// read side by side for hours would take each other for lost.
class full_reader {
 public:
  full_reader(const plan& made, tensor_reader& reader, workspace& work, progress_meter& progress)
      : plan_(made), reader_(reader), progress_(progress), rest_(work.full_copy.bytes()) {}

  /// At most `direct_read_bytes`, the same on every rank. \return whether there is more to read.
  [[nodiscard]] bool read_some() {
    std::uint64_t room = direct_read_bytes;
    for (; tensor_ < plan_.tensors.size(); ++tensor_, offset_ = 0) {
      const planned_tensor& planned = plan_.tensors[tensor_];
      if (planned.way != route::full_copy) {
        continue;
      }
      const std::uint64_t bytes = smaller(planned.partition.bytes() - offset_, room);
      if (bytes != 0) {
        reader_.read(tensor_, offset_, rest_.first(bytes));
        progress_.add(bytes);
      }
      rest_ = rest_.subspan(bytes);
      offset_ += bytes;
      room -= bytes;
      if (offset_ != planned.partition.bytes()) {
        return true;
      }
    }
    return false;
  }

 private:
  const plan& plan_;
  tensor_reader& reader_;
  progress_meter& progress_;
  mutable_bytes rest_;
  std::size_t tensor_ = 0;
  std::uint64_t offset_ = 0;  // of its next byte
};

/// Compares what was placed of a planned tensor with `region` of `whole`. \throws error{corrupted}
inline void require_placed(tensor_placer& placer, std::size_t tensor, const byte_region& region, bytes_view whole,
                           std::string_view fqn, running_checksum& hash) {
  hash.restart(0);
  for_each_run(region, 0, region.bytes(), [&](std::uint64_t global, std::uint64_t, std::uint64_t length) {
    hash.update(whole.subspan(global, length));
  });
  const std::uint64_t expected = hash.value();
  hash.restart(0);
  placer.for_each_placed(tensor, 0, region.bytes(), [&](std::uint64_t, bytes_view placed) { hash.update(placed); });
  if (hash.value() != expected) {
    throw error(errc::corrupted, fqn,
                concat("the shard differs from the tensor it was copied from (", hash.name(), " ", hash.value(),
                       " in place of ", expected, "); try again, and have this rank's memory checked"));
  }
}

/// Copies this rank's part of the full model into its slabs; what is there is then compared by `hash`, if there is one.
/// \throws error{corrupted}
inline void keep_own_part(const plan& made, std::size_t rank, workspace& work, std::span<const tensor_request> names,
                          std::optional<running_checksum>& hash) {
  tensor_placer placer(made, rank, work);
  bytes_view rest = work.full_copy.bytes();
  for (std::size_t i = 0; i < made.tensors.size(); ++i) {
    if (made.tensors[i].way != route::full_copy) {
      continue;
    }
    const bytes_view whole = rest.first(made.tensors[i].partition.bytes());
    rest = rest.subspan(whole.size());
    placer.place_global(i, 0, whole);
    if (hash) {
      placer.wait();
      require_placed(placer, i, made.tensors[i].partition.region(made.options.ranks.shard_of(rank)), whole,
                     names[made.tensors[i].request].fqn, *hash);
    }
  }
  placer.wait();
}

}  // namespace fsdpinit::detail
