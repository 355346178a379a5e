#pragma once

#include <fsdpinit/plan/program_step.hpp>
#include <fsdpinit/plan/read_coalescing.hpp>
#include <fsdpinit/plan/step_writer.hpp>

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

namespace fsdpinit::detail {

/// Own reads: runs that lie close together in a file are one request into the scratch region, and copied to their places.
class joined_reads {
 public:
  /// `write` must outlive it.
  explicit joined_reads(const step_writer& write) noexcept : write_(write), coalescer_(write.scratch_bytes()) {}

  void add(const wanted_run& run, std::size_t tensor, region_position to) {
    if (run.bytes == 0) {
      return;
    }
    coalescer_.add(run, [&](std::span<const wanted_run> runs) { request(runs); });
    places_[count_++] = {.tensor = tensor, .to = to};
  }
  void flush() {
    coalescer_.flush([&](std::span<const wanted_run> runs) { request(runs); });
  }

 private:
  struct destination {
    std::size_t tensor = 0;
    region_position to{};
  };

  void request(std::span<const wanted_run> runs) {
    count_ = 0;
    std::uint64_t wanted = 0;
    for (const wanted_run& run : runs) {
      wanted += run.bytes;
    }
    const bool joined = runs.size() != 1;
    write_({.kind = step_kind::read,
            .tensor = places_.front().tensor,
            .to = joined ? step_writer::scratch : places_.front().to,
            .at = runs.front().at,
            .bytes = covering_bytes(runs),
            .wanted = wanted});
    for (std::size_t first = 0; joined && first < runs.size();) {
      first = copy_alike(runs, first);
    }
  }

  /// One copy for as many runs as are alike from `first` on. \return the next run.
  [[nodiscard]] std::size_t copy_alike(std::span<const wanted_run> runs, std::size_t first) const {
    const wanted_run& run = runs[first];
    const region_position to = places_[first].to;
    const auto distance = [&](std::size_t i) { return runs[i].at.offset - run.at.offset; };
    const std::uint64_t stride = first + 1 < runs.size() ? distance(first + 1) : run.bytes;
    std::size_t next = first + 1;
    while (next < runs.size() && runs[next].bytes == run.bytes && distance(next) == (next - first) * stride &&
           places_[next].to == to + (next - first) * run.bytes) {
      ++next;
    }
    write_({.kind = step_kind::copy,
            .tensor = places_[first].tensor,
            .from = step_writer::scratch + (run.at.offset - runs.front().at.offset),
            .to = to,
            .bytes = run.bytes,
            .stride = next == first + 1 ? run.bytes : stride,
            .count = next - first});
    return next;
  }

  const step_writer& write_;
  read_coalescer coalescer_;
  std::array<destination, read_coalescer::most_runs> places_{};  // of the runs that the coalescer holds
  std::size_t count_ = 0;
};

}  // namespace fsdpinit::detail
