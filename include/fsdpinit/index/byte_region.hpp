#pragma once

#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/core/compiler.hpp>

#include <cstdint>

/// \file
/// A rank's part of a row-major tensor, as bytes: equal runs at equal distances. Local bytes are the runs one after the
/// other (a shard is a contiguous copy); global bytes are positions in the whole tensor.

namespace fsdpinit {

/// `count` runs of `run` bytes, `stride` bytes apart, the first at global byte `offset`.
struct byte_region {
  std::uint64_t offset = 0;
  std::uint64_t run = 0;
  std::uint64_t stride = 0;
  std::uint64_t count = 0;

  [[nodiscard]] constexpr std::uint64_t bytes() const noexcept { return run * count; }
  friend bool operator==(const byte_region&, const byte_region&) = default;
};

/// Calls `fn(global, local, length)` for every contiguous piece of the local bytes [begin, end). \pre end <= bytes().
template <class Fn>
constexpr void for_each_run(const byte_region& region, std::uint64_t begin, std::uint64_t end, Fn&& fn) {
  while (begin < end) {
    const std::uint64_t index = begin / region.run;
    const std::uint64_t within = begin % region.run;
    const std::uint64_t left_in_run = region.run - within;
    const std::uint64_t length = end - begin < left_in_run ? end - begin : left_in_run;
    fn(region.offset + index * region.stride + within, begin, length);
    begin += length;
  }
}

/// Calls `fn(part, local)` for the local bytes [begin, end) as regions: the rest of a run, whole runs, the beginning of a run.
/// \pre end <= bytes().
template <class Fn>
constexpr void for_each_part(const byte_region& region, std::uint64_t begin, std::uint64_t end, Fn&& fn) {
  while (begin < end) {
    const std::uint64_t within = begin % region.run;
    byte_region part{.offset = region.offset + begin / region.run * region.stride + within,
                     .run = smaller(region.run - within, end - begin),
                     .stride = region.stride,
                     .count = 1};
    if (part.run == region.run) {
      part.count = (end - begin) / region.run;
    }
    fn(part, begin);
    begin += part.bytes();
  }
}

/// Calls `fn(global, local, run, count)` for the part of the region that lies in the global bytes [begin, end): `count`
/// runs of `run` bytes, `region.stride` apart in the tensor and adjacent in the shard. At most three calls: a cut first
/// run, the whole runs, a cut last one.
template <class Fn>
constexpr void for_each_overlap(const byte_region& region, std::uint64_t begin, std::uint64_t end, Fn&& fn) {
  if (region.bytes() == 0 || begin >= end || end <= region.offset) {
    return;
  }
  // First run that reaches beyond `begin`, and one past the last run that starts before `end`.
  std::uint64_t first = 0;
  if (begin >= region.offset + region.run) {
    first = (begin - region.offset - region.run) / region.stride + 1;
  }
  std::uint64_t last = (end - 1 - region.offset) / region.stride + 1;
  last = last < region.count ? last : region.count;

  const auto start_of = [&](std::uint64_t index) { return region.offset + index * region.stride; };
  const auto piece = [&](std::uint64_t index) {
    const std::uint64_t run_begin = start_of(index);
    const std::uint64_t from = begin > run_begin ? begin : run_begin;
    const std::uint64_t to = end < run_begin + region.run ? end : run_begin + region.run;
    if (from < to) {
      fn(from, index * region.run + (from - run_begin), to - from, std::uint64_t{1});
    }
  };
  if (first < last && start_of(first) < begin) {
    piece(first++);
  }
  const bool cut_last = first < last && start_of(last - 1) + region.run > end;
  const std::uint64_t whole_end = cut_last ? last - 1 : last;
  if (first < whole_end) {
    fn(start_of(first), first * region.run, region.run, whole_end - first);
  }
  if (cut_last) {
    piece(last - 1);
  }
}

}  // namespace fsdpinit
