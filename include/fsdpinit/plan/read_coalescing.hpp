#pragma once

#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/core/tensor_descriptor.hpp>

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

namespace fsdpinit {

/// A tensor without a position counts as a file of its own, under a number that no file has: only its own runs are joined.
[[nodiscard]] constexpr std::size_t file_of_tensor(std::size_t tensor) noexcept { return ~tensor; }
/// The tensor for which a file was made up; nothing for real ones.
[[nodiscard]] constexpr std::optional<std::size_t> tensor_of_file(std::size_t file) noexcept {
  return file > ~file ? std::optional(~file) : std::nullopt;
}

/// Contiguous bytes that a rank wants of a file, and where they go. Pure arithmetic may leave `to` null.
struct wanted_run {
  file_position at{};
  std::uint64_t bytes = 0;
  std::byte* to = nullptr;
};

/// Joins wanted runs that lie close together into one read. The bounds are those that readers of sharded checkpoints have found
/// to pay (Orbax, transformers; see `max_gap`): gaps below 4 KiB are read along, but never more than twice the bytes wanted.
///
/// `emit(span<const wanted_run>)` is one read, from the first run's begin to the last one's end. Holds at most `most_runs`
/// runs, without allocation.
class read_coalescer {
 public:
  static constexpr std::uint64_t max_gap = 4 * kib;
  static constexpr std::size_t most_runs = 64;

  /// \param limit bytes of a joined read at most; single runs may be longer.
  /// \param gap_bound gaps below it are read along; 1 joins what leaves none.
  explicit read_coalescer(std::uint64_t limit, std::uint64_t gap_bound = max_gap) noexcept
      : limit_(limit), gap_bound_(gap_bound) {}

  template <class Emit>
  void add(const wanted_run& run, Emit&& emit) {
    if (run.bytes == 0) {
      return;
    }
    if (count_ != 0 && !joins(run)) {
      flush(emit);
    }
    runs_[count_++] = run;
    wanted_ += run.bytes;
  }
  [[nodiscard]] bool has_runs() const noexcept { return count_ != 0; }
  template <class Emit>
  void flush(Emit&& emit) {
    if (count_ != 0) {
      const std::size_t count = count_;
      count_ = 0;
      wanted_ = 0;
      emit(std::span<const wanted_run>(runs_.data(), count));
    }
  }

 private:
  [[nodiscard]] bool joins(const wanted_run& run) const noexcept {
    const file_position& begin = runs_.front().at;
    const wanted_run& last = runs_[count_ - 1];
    const std::uint64_t end = last.at.offset + last.bytes;
    if (count_ == most_runs || run.at.file != begin.file || run.at.offset < end || run.at.offset - end >= gap_bound_) {
      return false;
    }
    const std::uint64_t joined = run.at.offset + run.bytes - begin.offset;
    return joined <= limit_ && joined <= 2 * (wanted_ + run.bytes);
  }

  std::uint64_t limit_;
  std::uint64_t gap_bound_;
  std::uint64_t wanted_ = 0;
  std::size_t count_ = 0;
  std::array<wanted_run, most_runs> runs_{};
};

/// The bytes of the read that covers these runs. \pre not empty.
[[nodiscard]] inline std::uint64_t covering_bytes(std::span<const wanted_run> runs) noexcept {
  return runs.back().at.offset + runs.back().bytes - runs.front().at.offset;
}

}  // namespace fsdpinit
