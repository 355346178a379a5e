#pragma once

#include <fsdpinit/concepts/control_ref.hpp>
#include <fsdpinit/control/agreement.hpp>
#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/core/checksum.hpp>
#include <fsdpinit/core/deadline.hpp>
#include <fsdpinit/core/error.hpp>
#include <fsdpinit/core/text.hpp>
#include <fsdpinit/init/transfer.hpp>
#include <fsdpinit/plan/bucket_schedule.hpp>
#include <fsdpinit/plan/byte_region.hpp>
#include <fsdpinit/plan/plan.hpp>
#include <fsdpinit/plan/reread_pairs.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

namespace fsdpinit::detail {

/// Reads every tensor of the source once more, and compares with what lies in the slabs. Before widening.
///
/// Of a tensor that one rank has read for all, each rank reads its own part and compares the bytes. Of one that several
/// ranks have read, each reads the part of its peer (`reread_pairs`), and the peers compare checksums in the end. One
/// read per contiguous run, each within half of the scratch memory; 16 bytes per tensor are kept.
class part_rereader {
 public:
  /// `names` has what each planned tensor's request is called. \throws std::bad_alloc, what a queue of the space throws
  part_rereader(const plan& made, std::size_t rank, tensor_reader& reader, workspace& work,
                std::span<const tensor_request> names, const checksum& with)
      : plan_(made),
        rank_(rank),
        shard_(made.options.ranks.shard_of(rank)),
        pairs_(made.options),
        peers_shard_(made.options.ranks.shard_of(pairs_.read_by(rank))),
        reader_(reader),
        placer_(made, rank, work),
        window_(work.scratch.bytes().first(work.scratch.size() / 2)),
        names_(names),
        held_hash_(with),
        read_hash_(with) {
    if (std::any_of(made.tensors.begin(), made.tensors.end(),
                    [&](const planned_tensor& each) { return is_read_by_several(made.options, each); })) {
      held_.resize(made.tensors.size());
      read_.resize(made.tensors.size());
    }
  }

  /// At most `direct_read_bytes`, of shards as large as the largest, so that all ranks take as many turns. \return whether there
  /// is more to compare. \throws error{corrupted} naming the first byte that differs, and what the source throws.
  [[nodiscard]] bool compare_some() {
    std::uint64_t room = direct_read_bytes;
    for (; tensor_ < plan_.tensors.size(); ++tensor_, begin_ = 0) {
      const planned_tensor& planned = plan_.tensors[tensor_];
      if (planned.captured || planned.generated) {
        continue;
      }
      const bool by_several = is_read_by_several(plan_.options, planned);
      if (by_several && begin_ == 0) {
        held_hash_.restart(tensor_);
        read_hash_.restart(tensor_);
      }
      const std::uint64_t end = planned.partition.slot_bytes();
      while (begin_ < end) {
        if (room == 0) {
          return true;
        }
        const std::uint64_t bytes = smaller(smaller(end - begin_, window_.size()), room);
        by_several ? sum(planned, begin_, begin_ + bytes) : compare(planned, begin_, begin_ + bytes);
        begin_ += bytes;
        room -= bytes;
      }
      if (by_several) {
        held_[tensor_] = held_hash_.value();
        read_[tensor_] = read_hash_.value();
      }
    }
    return false;
  }

  /// After all turns: is what each rank holds of what several ranks have read what its peer has read again? Collective:
  /// a broadcast of 8 bytes from each rank and a reduction; nothing where one rank has read everything. \throws
  /// error{disagreement}, the same on every rank, naming the lowest rank that holds something else, its peer, and the
  /// first such tensor.
  void compare_with_peer(control_ref control, double deadline_seconds) {
    if (held_.empty()) {
      return;
    }
    const std::size_t ranks = control.size();
    const std::size_t peer = pairs_.reader_of(rank_);
    std::uint64_t expected = 0;
    for (std::size_t root = 0; root < ranks; ++root) {
      std::uint64_t value = root == rank_ ? sum_of(read_) : 0;
      send(control, std::as_writable_bytes(std::span(&value, 1)), root, deadline_seconds);
      expected = root == peer ? value : expected;
    }
    const std::uint64_t worst =
        all_reduce_max(control, sum_of(held_) == expected ? 0 : ranks - rank_, deadline::after(deadline_seconds));
    if (worst == 0) {
      return;
    }
    const std::size_t differing = ranks - static_cast<std::size_t>(worst);
    // Only the peer's is of use from here on.
    send(control, std::as_writable_bytes(std::span(read_)), pairs_.reader_of(differing), deadline_seconds);
    agreed(control, deadline_seconds, [&] {
      if (rank_ == differing) {
        fail_against(peer);
      }
    });
  }

 private:
  void compare(const planned_tensor& planned, std::uint64_t begin, std::uint64_t end) {
    const segment own = clipped({.tensor = tensor_, .begin = begin, .end = end}, planned.partition, shard_);
    const bytes_view expected = read_again(planned, shard_, own);
    placer_.for_each_placed(tensor_, own.begin, expected.size(), [&](std::uint64_t local, bytes_view placed) {
      const std::byte* const wanted = expected.data() + (local - own.begin);
      if (std::memcmp(placed.data(), wanted, placed.size()) != 0) {
        std::size_t at = 0;
        while (placed[at] == wanted[at]) {
          ++at;
        }
        throw error(errc::corrupted, name_of(tensor_),
                    concat("byte ", local + at, " of the shard is ", std::to_integer<int>(placed[at]),
                           ", where the checkpoint has ", std::to_integer<int>(wanted[at]),
                           "; try again, and have memory and network of this rank checked"));
      }
    });
  }

  void sum(const planned_tensor& planned, std::uint64_t begin, std::uint64_t end) {
    const segment both{.tensor = tensor_, .begin = begin, .end = end};
    read_hash_.update(read_again(planned, peers_shard_, clipped(both, planned.partition, peers_shard_)));
    const segment own = clipped(both, planned.partition, shard_);
    placer_.for_each_placed(tensor_, own.begin, own.end - own.begin,
                            [&](std::uint64_t, bytes_view placed) { held_hash_.update(placed); });
  }

  [[nodiscard]] bytes_view read_again(const planned_tensor& planned, std::size_t shard, const segment& part) {
    const mutable_bytes into = window_.first(part.end - part.begin);
    for_each_run(planned.partition.region(shard), part.begin, part.end,
                 [&](std::uint64_t global, std::uint64_t local, std::uint64_t length) {
                   reader_.read_once(tensor_, global, into.subspan(local - part.begin, length));
                 });
    return into;
  }

  /// One checksum of many.
  [[nodiscard]] std::uint64_t sum_of(const std::vector<std::uint64_t>& sums) noexcept {
    held_hash_.restart(0);
    held_hash_.update(std::as_bytes(std::span(sums)));
    return held_hash_.value();
  }

  static void send(control_ref control, mutable_bytes bytes, std::size_t root, double deadline_seconds) {
    guarded(control, [&] { control.broadcast(bytes, root, deadline::after(deadline_seconds)); });
  }

  [[noreturn]] void fail_against(std::size_t peer) const {
    const auto tensor =
        static_cast<std::size_t>(std::mismatch(held_.begin(), held_.end(), read_.begin()).first - held_.begin());
    throw error(errc::disagreement, tensor < held_.size() ? name_of(tensor) : std::string_view(),
                concat("this rank's part is not what rank ", peer, " reads in the checkpoint (", held_hash_.name(),
                       "); give every rank the same checkpoint, or have memory and storage of both checked"));
  }

  [[nodiscard]] std::string_view name_of(std::size_t tensor) const { return names_[plan_.tensors[tensor].request].fqn; }

  const plan& plan_;
  std::size_t rank_;
  std::size_t shard_;
  reread_pairs pairs_;
  std::size_t peers_shard_;  // of the part that this rank reads for its peer
  tensor_reader& reader_;
  tensor_placer placer_;
  mutable_bytes window_;
  std::span<const tensor_request> names_;
  running_checksum held_hash_;
  running_checksum read_hash_;
  std::vector<std::uint64_t>
      held_;  // per planned tensor: of this rank's part; empty where one rank has read everything
  std::vector<std::uint64_t> read_;  // of the part that this rank has read for its peer
  std::size_t tensor_ = 0;
  std::uint64_t begin_ = 0;  // of its next byte, of the largest shard
};

}  // namespace fsdpinit::detail
