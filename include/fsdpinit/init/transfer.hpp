#pragma once

#include <fsdpinit/concepts/memory_ref.hpp>
#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/core/deadline.hpp>
#include <fsdpinit/core/error.hpp>
#include <fsdpinit/core/float_conversion.hpp>
#include <fsdpinit/init/match.hpp>
#include <fsdpinit/init/read_threads.hpp>
#include <fsdpinit/init/stored_copies.hpp>
#include <fsdpinit/memory/block.hpp>
#include <fsdpinit/observe/observer_ref.hpp>
#include <fsdpinit/plan/plan.hpp>
#include <fsdpinit/plan/prediction.hpp>
#include <fsdpinit/plan/read_coalescing.hpp>
#include <fsdpinit/sources/source_ref.hpp>

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

/// \file
/// What a rank has in hand while bytes move, and the two ends of the way: reading from the state dict, and placing into
/// slabs.

namespace fsdpinit::detail {

/// Where the values of a buffer are that is not read, on the rank that gives them to all. \throws error{missing_tensor} without any.
[[nodiscard]] inline const std::byte* captured_values(const slot_record& slot) {
  const std::byte* const values = slot.handle.data();
  if (values == nullptr && byte_size(slot.fqn, slot.dtype, slot.shape) != 0) {
    throw error(errc::missing_tensor, slot.fqn,
                "a buffer that is not in the checkpoint, without a value on the source rank; compute it there before "
                "initialising");
  }
  return values;
}

/// Tells the planner where tensors lie in files, on ranks that have opened a source which knows it. `source` is empty on others. A
/// position is that of the bytes that `read` gives: of no use for what travels as it is stored.
inline void add_positions(std::vector<tensor_request>& requests, std::span<const load_item> items,
                          const std::optional<source_ref>& source) {
  for (std::size_t i = 0; source && i < requests.size(); ++i) {
    tensor_request& request = requests[i];
    const bool travels_as_read = request.travels_as.value_or(request.dtype) == request.dtype;
    if (!request.captured && !request.generated && travels_as_read) {
      request.position = source->position_of(items[i].source);
    }
  }
}

struct transfer_counters {
  std::uint64_t read = 0;
  std::uint64_t sent = 0;
  std::uint64_t received = 0;
};

/// The allocations of one initialisation, all made before the first byte moves.
struct workspace {
  workspace(memory_ref space, memory_ref staging) : memory(std::move(space)), host(std::move(staging)) {}

  memory_ref memory;
  memory_ref host;
  std::vector<std::shared_ptr<block<memory_ref>>> slabs{};
  block<memory_ref> scratch{host, 0};
  block<memory_ref> full_copy{host, 0};
};

/// Calls the observer seldom, and only on the rank that speaks.
class progress_meter {
 public:
  progress_meter(observer_ref watch, bool speaks, std::uint64_t total, double interval) noexcept
      : watch_(watch), speaks_(speaks), total_(total), interval_(interval) {}
  void add(std::uint64_t bytes) {
    if (bytes == 0 || !speaks_) {
      return;
    }
    done_ += bytes;
    const double now = monotonic_seconds();
    if (now >= next_ || done_ == total_) {
      next_ = now + interval_;
      watch_.progress(done_, total_);
    }
  }

 private:
  observer_ref watch_;
  bool speaks_;
  std::uint64_t done_ = 0;
  std::uint64_t total_;
  double interval_;
  double next_ = monotonic_seconds() + interval_;
};

/// Reads the bytes of planned tensors, from the state dict or from the source rank's own buffers.
class tensor_reader {
 public:
  /// `source` is empty on ranks that never read. `captured[i]` is the memory of request i, for captured ones.
  tensor_reader(const plan& made, std::span<const load_item> items, std::span<const std::byte* const> captured,
                std::optional<source_ref> source, read_threads& threads, workspace& work, transfer_counters& counters)
      : plan_(made),
        items_(items),
        captured_(captured),
        source_(source),
        threads_(threads),
        work_(work),
        counters_(counters),
        queue_(work.memory.make_queue()) {}

  /// Global bytes [offset, offset + destination.size()) of a planned tensor, into host memory. Further copies of it in
  /// the source are read along and compared, piece by piece within the scratch memory. \throws what the source throws;
  /// error{invalid_tie} where stored copies differ.
  void read(std::size_t tensor, std::uint64_t offset, mutable_bytes destination) {
    const planned_tensor& planned = plan_.tensors[tensor];
    const load_item& item = items_[planned.request];
    if (planned.captured) {
      work_.memory.copy_out(destination.data(), captured_[planned.request] + offset, destination.size(), queue_);
      work_.memory.wait(queue_);
      return;
    }
    const auto read_it = [&](std::size_t name, std::uint64_t from, mutable_bytes to) {
      read_travelling(planned, name, from, to);
    };
    read_it(item.source, offset, destination);
    counters_.read += destination.size();
    for (const std::size_t copy : item.copies) {
      require_equal_copy(read_it, source_->tensors(), item.source, copy, offset, destination, work_.scratch.bytes());
      counters_.read += destination.size();
    }
  }

  /// The same of the tensor alone, without its further copies. \pre it is not captured.
  void read_once(std::size_t tensor, std::uint64_t offset, mutable_bytes destination) {
    const planned_tensor& planned = plan_.tensors[tensor];
    read_travelling(planned, items_[planned.request].source, offset, destination);
    counters_.read += destination.size();
  }

  /// Runs of one file by one read, each to its place; within the scratch memory if they are several. The runs' tensors are
  /// neither captured nor stored twice.
  void read_joined(std::span<const wanted_run> runs) {
    if (runs.size() == 1) {
      read_at(runs.front().at, {runs.front().to, runs.front().bytes});
      return;
    }
    const mutable_bytes joined = work_.scratch.bytes().first(covering_bytes(runs));
    const file_position& begin = runs.front().at;
    read_at(begin, joined);
    for (const wanted_run& run : runs) {
      std::memcpy(run.to, joined.data() + (run.at.offset - begin.offset), run.bytes);
    }
  }

  /// Can runs that follow each other in a file be one read, each to its place?
  [[nodiscard]] bool joins_neighbours() const noexcept { return source_ && source_->reads_into_several(); }

  /// The same without scratch memory. \pre joins_neighbours(); each run begins where the one before it ends.
  void read_neighbours(std::span<const wanted_run> runs) {
    if (runs.size() == 1) {
      read_joined(runs);
      return;
    }
    std::array<mutable_bytes, read_coalescer::most_runs> to;
    for (std::size_t i = 0; i < runs.size(); ++i) {
      to[i] = {runs[i].to, runs[i].bytes};
    }
    source_->read_file_into(runs.front().at.file, runs.front().at.offset, std::span(to).first(runs.size()));
    counters_.read += covering_bytes(runs);
  }

  /// The last byte of a tensor has left: a source that holds it in memory may let go of it.
  void release(std::size_t tensor) noexcept {
    const planned_tensor& planned = plan_.tensors[tensor];
    if (!planned.captured) {
      source_->release(items_[planned.request].source);
    }
  }

 private:
  /// Bytes of a tensor under one of its names, as they travel.
  void read_travelling(const planned_tensor& planned, std::size_t name, std::uint64_t offset, mutable_bytes to) {
    together(to, [&](std::uint64_t at, mutable_bytes piece) {
      if (planned.widening) {
        source_->read_stored(name, offset + at, piece);
      } else {
        source_->read(name, offset + at, piece);
      }
    });
  }
  /// Calls `read(offset, piece)` for all pieces of `to`, by several threads if the source has nothing against it.
  template <class Read>
  void together(mutable_bytes to, Read&& read) {
    if (source_->reads_concurrently()) {
      threads_.fill(to, std::forward<Read>(read));
    } else {
      read(std::uint64_t{0}, to);
    }
  }
  /// A position as the plan has it: in a file, or in a tensor of which the source knows none.
  void read_at(const file_position& at, mutable_bytes destination) {
    if (const std::optional<std::size_t> tensor = tensor_of_file(at.file)) {
      const planned_tensor& planned = plan_.tensors[*tensor];
      read_travelling(planned, items_[planned.request].source, at.offset, destination);
    } else {
      together(destination,
               [&](std::uint64_t from, mutable_bytes piece) { source_->read_file(at.file, at.offset + from, piece); });
    }
    counters_.read += destination.size();
  }

  const plan& plan_;
  std::span<const load_item> items_;
  std::span<const std::byte* const> captured_;
  std::optional<source_ref> source_;
  read_threads& threads_;
  workspace& work_;
  transfer_counters& counters_;
  memory_ref::queue queue_;
};

/// Places this rank's part of host bytes into its slabs.
class tensor_placer {
 public:
  /// \throws std::bad_alloc, what a queue of the space throws
  tensor_placer(const plan& made, std::size_t rank, workspace& work)
      : plan_(made), shard_(made.options.ranks.shard_of(rank)), work_(work), queue_(work.memory.make_queue()) {}

  /// The address of this shard's local byte `local` of a planned tensor.
  [[nodiscard]] std::byte* address(std::size_t tensor, std::uint64_t local) const noexcept {
    const planned_tensor& planned = plan_.tensors[tensor];
    return work_.slabs[planned.slab]->data() + planned.offset + local;
  }
  [[nodiscard]] std::byte* address(const slab_range& range) const noexcept {
    return work_.slabs.empty() ? nullptr : work_.slabs[range.slab]->data() + range.offset;
  }

  /// `bytes` are the tensor's global bytes from `begin` on; this rank's part of them is kept.
  void place_global(std::size_t tensor, std::uint64_t begin, bytes_view bytes) {
    const byte_region region = plan_.tensors[tensor].partition.region(shard_);
    for_each_overlap(region, begin, begin + bytes.size(),
                     [&](std::uint64_t global, std::uint64_t local, std::uint64_t run, std::uint64_t count) {
                       work_.memory.copy_in(address(tensor, local), bytes.data() + (global - begin), region.stride, run,
                                            count, queue_);
                     });
  }
  /// `bytes` are this rank's local bytes from `begin` on.
  void place_local(std::size_t tensor, std::uint64_t begin, bytes_view bytes) {
    if (!bytes.empty()) {
      work_.memory.copy_in(address(tensor, begin), bytes.data(), bytes.size(), bytes.size(), 1, queue_);
    }
  }
  /// Calls `fn(local, bytes)` for local bytes [local, local + count) of a planned tensor as they lie in the slab, in order: at
  /// once, or where the host may not touch them as copies in the second half of the scratch memory. Before `widen`.
  template <class Fn>
  void for_each_placed(std::size_t tensor, std::uint64_t local, std::uint64_t count, Fn&& fn) {
    if (work_.memory.host_accessible()) {
      if (count != 0) {
        fn(local, bytes_view(address(tensor, local), count));
      }
    } else {
      const mutable_bytes scratch = work_.scratch.bytes();
      const mutable_bytes aside = scratch.subspan(scratch.size() / 2);
      while (count != 0) {
        const mutable_bytes piece = aside.first(smaller(count, aside.size()));
        work_.memory.copy_out(piece.data(), address(tensor, local), piece.size(), queue_);
        wait();
        fn(local, bytes_view(piece));
        local += piece.size();
        count -= piece.size();
      }
    }
  }
  /// All bytes have arrived: what has travelled narrow becomes what is kept.
  void widen() {
    for (std::size_t i = 0; i < plan_.tensors.size(); ++i) {
      if (plan_.tensors[i].widening) {
        widen(i, *plan_.tensors[i].widening);
      }
    }
    wait();
  }
  /// The host bytes handed in may be overwritten now.
  void wait() { work_.memory.wait(queue_); }

 private:
  void widen(std::size_t tensor, const widening& how) {
    const std::uint64_t narrow = bits(how.from) / 8;
    const std::uint64_t wide = bits(how.to) / 8;
    std::uint64_t left = plan_.tensors[tensor].partition.local_bytes(shard_) / narrow;
    const std::byte* from = address(tensor, 0);
    std::byte* to = address(tensor, 0) - how.growth;
    if (work_.memory.host_accessible()) {
      convert_floats(how.from, from, how.to, to, left);
    } else if (work_.memory.widens()) {
      work_.memory.widen(how.from, from, how.to, to, left, queue_);
    } else {
      std::byte* const aside = work_.scratch.data();
      while (left != 0) {
        const std::uint64_t count = smaller(left, work_.scratch.size() / wide);
        std::byte* const stored = aside + count * (wide - narrow);
        work_.memory.copy_out(stored, from, count * narrow, queue_);
        wait();
        convert_floats(how.from, stored, how.to, aside, count);
        work_.memory.copy_in(to, aside, count * wide, count * wide, 1, queue_);
        wait();
        from += count * narrow;
        to += count * wide;
        left -= count;
      }
    }
  }

  const plan& plan_;
  std::size_t shard_;
  workspace& work_;
  memory_ref::queue queue_;
};

}  // namespace fsdpinit::detail
