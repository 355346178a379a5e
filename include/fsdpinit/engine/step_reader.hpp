#pragma once

#include <fsdpinit/concepts/memory_ref.hpp>
#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/core/deadline.hpp>
#include <fsdpinit/core/error.hpp>
#include <fsdpinit/core/text.hpp>
#include <fsdpinit/index/byte_region.hpp>
#include <fsdpinit/modules/module_view.hpp>
#include <fsdpinit/observe/report.hpp>
#include <fsdpinit/os/read_threads.hpp>
#include <fsdpinit/plan/plan.hpp>
#include <fsdpinit/plan/program_step.hpp>
#include <fsdpinit/plan/read_coalescing.hpp>
#include <fsdpinit/plan/slab_layout.hpp>
#include <fsdpinit/sources/source_ref.hpp>

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <utility>
#include <vector>

namespace fsdpinit::detail {

/// Where the values of a buffer are that is not read, on the rank that gives them to all. \throws error{missing_tensor} without any.
[[nodiscard]] inline const std::byte* buffer_values(const slot_record& slot) {
  const std::byte* const values = slot.handle.data();
  if (values == nullptr && byte_size(slot.fqn, slot.dtype, slot.shape) != 0) {
    throw error(errc::missing_tensor, slot.fqn,
                "a buffer that is not in the checkpoint, without a value on the source rank; compute it there before "
                "initialising");
  }
  return values;
}

/// How many threads read it, of so many.
[[nodiscard]] inline std::size_t threads_that_read(const std::optional<source_ref>& source, std::size_t threads) {
  return source && source->reads_concurrently() ? threads : 1;
}

/// Tells the planner where tensors lie in files, and what memory reading them takes, on ranks that have opened a source which knows it.
/// `source` is empty on others. Both are of the bytes that `read` gives: of no use for what travels as it is stored.
inline void add_means_of_reading(std::vector<tensor_request>& requests, std::span<const load_item> items,
                                 const std::optional<source_ref>& source, std::size_t threads) {
  for (std::size_t i = 0; source && i < requests.size(); ++i) {
    tensor_request& request = requests[i];
    const bool travels_as_read = request.travels_as.value_or(request.dtype) == request.dtype;
    if (!request.from_buffer && !request.generated && travels_as_read) {
      request.position = source->position_of(items[i].source);
      request.tile_bytes = source->tile_bytes(items[i].source) * threads_that_read(source, threads);
    }
  }
}

/// Executes the steps that read: from the state dict, or from the source rank's own buffers. No allocation per step.
class step_reader {
 public:
  /// `source` is empty on ranks that never read. `buffer_values[i]` is the memory of request i, for those from buffers. \param threads that read
  /// \param tiles memory for the source, as planned \param hook looks while this thread waits for others
  /// \throws std::bad_alloc, what a queue of the space throws; error{io} where there are not so many threads
  step_reader(const plan& made, std::span<const load_item> items, std::span<const std::byte* const> buffer_values,
              std::optional<source_ref> source, std::size_t threads, mutable_bytes tiles, const memory_ref& memory,
              wait_hook* hook)
      : plan_(made),
        items_(items),
        buffer_values_(buffer_values),
        source_(source),
        threads_(threads_that_read(source, threads), hook),
        tiles_(tiles),
        tile_bytes_(tiles.size() / threads_that_read(source, threads)),
        memory_(memory),
        queue_(memory.make_queue()),
        joins_(source && source->reads_into_several()) {
    for (std::size_t i = 0; source && source->counts_overflows() && i < items.size(); ++i) {
      overflows_before_.push_back(overflows_of(i));
    }
  }

  /// Its requests; small ones are made with what follows them in the file: see `flush`. \throws what the source throws
  void read(const program_step& step, std::byte* to) {
    const planned_tensor& planned = plan_.tensors[step.tensor];
    const load_item& item = items_[planned.request];
    const bool in_file = step.copy == 0 && !tensor_of_file(step.at.file);
    const bool puts_off = joins_ && in_file && step.bytes <= small_read && planned.extra_copies == 0;
    const std::size_t name = step.copy == 0 ? item.source : item.copies[step.copy - 1];
    if (planned.tile_bytes != 0 && (step.count == 1 || step.apart == step.bytes)) {
      read_together(name, {.offset = step.at.offset, .run = step.bytes, .stride = step.stride, .count = step.count},
                    to);
      bytes_ += step.total();
      return;
    }
    file_position at = step.at;
    for (std::uint64_t i = 0; i < step.count; ++i, at.offset += step.stride, to += step.apart) {
      const std::uint64_t offset = in_file ? at.offset - planned.position->offset : at.offset;
      if (puts_off) {
        neighbours_.add({.at = at, .bytes = step.bytes, .to = to}, *this);
      } else if (!in_file || offset + step.bytes <= planned.partition.bytes()) {
        read_travelling(planned, name, offset, {to, step.bytes});
      } else {  // of several tensors
        read_file(at, {to, step.bytes});
      }
    }
    bytes_ += puts_off ? 0 : step.total();
  }
  [[nodiscard]] bool has_put_off() const noexcept { return neighbours_.has_runs(); }
  /// Makes the request that was put off: before any other step but `release`.
  void flush() { neighbours_.flush(*this); }

  /// From the module's memory, which is that of its space.
  void read_buffer(const program_step& step, std::byte* to) {
    const std::byte* const values = buffer_values_[plan_.tensors[step.tensor].request];
    memory_.copy_out(to, values + step.at.offset, step.bytes, queue_);
    memory_.wait(queue_);
  }

  void release(const program_step& step) const noexcept {
    source_->release(items_[plan_.tensors[step.tensor].request].source);
  }

  /// \throws error{invalid_tie} where a further stored copy differs from the first.
  void compare_copy(const program_step& step, const std::byte* copy, const std::byte* first) const {
    if (std::memcmp(copy, first, step.bytes) != 0) {
      const load_item& item = items_[plan_.tensors[step.tensor].request];
      const std::span<const tensor_descriptor> tensors = source_->tensors();
      throw error(errc::invalid_tie, tensors[item.copies[step.copy - 1]].name,
                  concat("tied to ", printable(tensors[item.source].name),
                         ", but the checkpoint stores different values under the two names; untie them in the module, "
                         "or repair the checkpoint"));
    }
  }

  /// What casts of the source have made infinite since this was made. `names` are those of the items. Further stored copies of a tie are
  /// not counted.
  [[nodiscard]] overflow_count overflow(std::span<const tensor_request> names) const {
    overflow_count all;
    for (std::size_t i = 0; i < overflows_before_.size(); ++i) {
      const std::uint64_t infinite = overflows_of(i) - overflows_before_[i];
      if (infinite != 0 && all.elements == 0) {
        all.first = names[i].fqn;
      }
      all.elements += infinite;
    }
    return all;
  }
  /// So far, from the source.
  [[nodiscard]] std::uint64_t bytes_read() const noexcept { return bytes_; }

  /// Runs of a file that follow one another: one request into several places.
  void operator()(std::span<const wanted_run> runs) {
    if (runs.size() == 1) {
      read_file(runs.front().at, {runs.front().to, runs.front().bytes});
    } else {
      std::array<mutable_bytes, read_coalescer::most_runs> to;
      for (std::size_t i = 0; i < runs.size(); ++i) {
        to[i] = {runs[i].to, runs[i].bytes};
      }
      source_->read_file_into(runs.front().at.file, runs.front().at.offset, std::span(to).first(runs.size()));
    }
    bytes_ += covering_bytes(runs);
  }

 private:
  /// Of small parts of tensors several are one request: a system call takes longer than they do.
  static constexpr std::uint64_t small_read = 16 * kib;

  [[nodiscard]] std::uint64_t overflows_of(std::size_t item) const {
    return items_[item].from_buffer || items_[item].missing ? 0 : source_->overflows(items_[item].source);
  }

  /// Bytes of a tensor under one of its names, as they travel.
  void read_travelling(const planned_tensor& planned, std::size_t name, std::uint64_t offset, mutable_bytes to) {
    threads_.fill(to, [&](std::size_t, std::uint64_t at, mutable_bytes piece) {
      if (planned.widening) {
        source_->read_stored(name, offset + at, piece);
      } else {
        source_->read(name, offset + at, piece);
      }
    });
  }
  void read_file(const file_position& at, mutable_bytes to) {
    threads_.fill(to, [&](std::size_t, std::uint64_t from, mutable_bytes piece) {
      source_->read_file(at.file, at.offset + from, piece);
    });
  }
  /// What the source puts together, each thread in a tile of its own.
  void read_together(std::size_t name, const byte_region& runs, std::byte* to) {
    threads_.fill({to, runs.bytes()}, [&](std::size_t thread, std::uint64_t begin, mutable_bytes piece) {
      const mutable_bytes tile = tiles_.subspan(thread * tile_bytes_, tile_bytes_);
      for_each_part(runs, begin, begin + piece.size(), [&](const byte_region& part, std::uint64_t local) {
        source_->read_runs(name, part, piece.subspan(local - begin, part.bytes()), tile);
      });
    });
  }

  const plan& plan_;
  std::span<const load_item> items_;
  std::span<const std::byte* const> buffer_values_;
  std::optional<source_ref> source_;
  read_threads threads_;
  mutable_bytes tiles_;
  std::uint64_t tile_bytes_;  // for each thread
  memory_ref memory_;
  memory_ref::queue queue_;
  read_coalescer neighbours_{small_read * read_coalescer::most_runs, 1};
  std::uint64_t bytes_ = 0;
  std::vector<std::uint64_t> overflows_before_;  // per item; empty where nothing is counted
  bool joins_;                                   // can one request fill several places?
};

}  // namespace fsdpinit::detail
