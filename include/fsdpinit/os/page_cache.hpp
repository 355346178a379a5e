#pragma once

#include <fsdpinit/core/bytes.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <span>
#include <utility>

#include <fcntl.h>

namespace fsdpinit {

/// What becomes of the pages of a file, in the system's cache, once they were read.
///
/// `drop_behind` is for checkpoints that one job reads once, where the cache is counted as the job's memory (containers) or others
/// need it: what stays cached is what the device reads ahead and some MiB, not W bytes. It is advice: tmpfs and other file systems
/// may keep everything, and pages that are dirty, or mapped by somebody, stay. It takes away pages that were cached before, too, and
/// those that other readers of the file are about to read: ranks of a node that all read all of it (`every_rank_loads`, a
/// verification that reads again) read from the device again what another rank has dropped.
enum class page_cache : std::uint8_t { keep, drop_behind };

namespace detail {

/// Remembers which bytes of a file were read, and says in steps which pages are behind the reader. Without the file: `advise(begin,
/// end)` is told of bytes [begin, end) that are not needed; both are multiples of the page.
///
/// Reads may come from several places in turns (the windows of a bucket that is scattered), each of which goes on where it ended, and
/// from several threads. Memory: this object.
class pages_behind {
 public:
  static constexpr std::uint64_t page_bytes = 4 * kib;
  /// The cache drops its folios whole or not at all, and they may be this large: a step begins where the folio began of which the
  /// step before could only give a part.
  static constexpr std::uint64_t folio_bytes = 2 * mib;
  /// So much is read between two steps.
  static constexpr std::uint64_t step_bytes = 8 * mib;
  /// Places that are read in turns. More of them make steps smaller.
  static constexpr std::size_t most_places = 64;

  /// Bytes [begin, end) were read.
  template <class Advise>
  void passed(std::uint64_t begin, std::uint64_t end, Advise&& advise) {
    std::array<range, most_places + 1> due;
    std::size_t count = 0;
    {
      const std::lock_guard lock(mutex_);
      add({begin, end});
      fresh_ += end - begin;
      if (fresh_ >= step_bytes || count_ == most_places) {
        count = take(due);
      }
    }
    for (const range& each : std::span(due).first(count)) {
      give_up(each, advise);
    }
  }

  /// Nothing more will be read. \pre no other thread is in here.
  template <class Advise>
  void finish(Advise&& advise) {
    const std::uint64_t end = (furthest_ + page_bytes - 1) / page_bytes * page_bytes;
    if (end != 0) {
      give_up({swept_, end}, advise);
      for (const range& each : std::span(places_).first(count_)) {
        give_up(each, advise);
      }
    }
    count_ = 0;
  }

 private:
  struct range {
    std::uint64_t begin = 0;
    std::uint64_t end = 0;
  };

  void add(const range& read) {
    furthest_ = std::max(furthest_, read.end);
    for (range& place : std::span(places_).first(count_)) {
      if (place.end == read.begin) {
        place.end = read.end;
        return;
      }
      if (place.begin == read.end) {
        place.begin = read.begin;
        return;
      }
    }
    places_[count_++] = read;
  }

  /// What is due: the places, and all that lies before the first of them since the last time, which was read, or was read
  /// ahead of a place that then ended.
  std::size_t take(std::span<range> due) {
    const auto places = std::span(places_).first(count_);
    std::copy(places.begin(), places.end(), due.begin());
    const std::uint64_t lowest = std::min_element(places.begin(), places.end(), [](const range& a, const range& b) {
                                   return a.begin < b.begin;
                                 })->begin;
    due[count_] = {swept_, lowest};
    swept_ = lowest;
    fresh_ = 0;
    return std::exchange(count_, 0) + 1;
  }

  template <class Advise>
  static void give_up(const range& behind, Advise&& advise) {
    const std::uint64_t begin = behind.begin / folio_bytes * folio_bytes;
    const std::uint64_t end = behind.end / page_bytes * page_bytes;  // the page of the end is still to be read
    if (begin < end && behind.begin < behind.end) {
      advise(begin, end);
    }
  }

  std::mutex mutex_;
  std::array<range, most_places> places_{};
  std::size_t count_ = 0;
  std::uint64_t fresh_ = 0;     // bytes read since the last step
  std::uint64_t swept_ = 0;     // what lies before it was given up
  std::uint64_t furthest_ = 0;  // end of the last byte that was read
};

/// The same for a file that may be closed and opened again meanwhile. Whoever closes it calls `leave` before.
class dropping_behind {
 public:
  explicit dropping_behind(int descriptor) noexcept : descriptor_(descriptor) {}
  dropping_behind(const dropping_behind&) = delete;
  dropping_behind& operator=(const dropping_behind&) = delete;
  ~dropping_behind() { leave(); }

  void passed(std::uint64_t begin, std::uint64_t end) { behind_.passed(begin, end, advice{descriptor_}); }

  /// Gives up all that was read; nothing more is until `go_on`. \pre no other thread is in here.
  void leave() noexcept {
    if (descriptor_ >= 0) {
      behind_.finish(advice{std::exchange(descriptor_, -1)});
    }
  }
  void go_on(int descriptor) noexcept { descriptor_ = descriptor; }

 private:
  struct advice {
    int descriptor;
    void operator()(std::uint64_t begin, std::uint64_t end) const noexcept {
      // A file system that does not take it keeps the pages.
      static_cast<void>(
          ::posix_fadvise(descriptor, static_cast<off_t>(begin), static_cast<off_t>(end - begin), POSIX_FADV_DONTNEED));
    }
  };

  int descriptor_;
  pages_behind behind_;
};

}  // namespace detail

}  // namespace fsdpinit
