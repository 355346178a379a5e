#pragma once

#include <fsdpinit/core/error.hpp>
#include <fsdpinit/os/file.hpp>
#include <fsdpinit/os/page_cache.hpp>

#include <gsl/assert>

#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include <unistd.h>

namespace fsdpinit {

/// The files of a source, of which a bounded number is open: checkpoints of more than a thousand parts exist, and a process may hold
/// a source for each of its ranks, but often no more than 1024 descriptors.
///
/// A file that is wanted and closed is opened again, and must be the one that it was (device, inode, size, time of modification):
/// whether a file stayed open makes no difference to what is noticed. Of those that nobody reads, the one is closed that was not read
/// for longest. Threads may use files at the same time. Using one that is open costs a few atomic operations; opening one costs
/// besides its system calls a look at every file.
class input_files {
  struct entry;

 public:
  /// So many files stay open, and one more for each thread that reads from yet another; fewer where the process can have no more.
  /// Checkpoints are read from front to back, one or two files at a time.
  static constexpr std::size_t most_open = 16;

  explicit input_files(page_cache pages = page_cache::keep) : pages_(pages) {}
  input_files(const input_files&) = delete;
  input_files& operator=(const input_files&) = delete;

  [[nodiscard]] std::size_t size() const noexcept { return entries_.size(); }

  /// Opens one more, which gets the next number. \throws as `input_file` does. \pre no other thread is in here.
  void add(std::string path) {
    std::string again = path.starts_with('/') ? std::string() : concat(working_folder(), "/", path);
    with_room([&] { entries_.emplace_back(input_file(path, pages_), std::move(again)); });
  }

  /// A file that is open as long as this lives.
  class in_use {
   public:
    explicit in_use(entry& used) noexcept : used_(&used) {}
    in_use(const in_use&) = delete;
    in_use& operator=(const in_use&) = delete;
    ~in_use() { used_->readers.fetch_sub(1, std::memory_order_release); }
    const input_file* operator->() const noexcept { return &used_->file; }
    const input_file& operator*() const noexcept { return used_->file; }

   private:
    entry* used_;
  };

  /// \throws as `input_file::open_again` does, where it was closed. \pre `number` is that of a file.
  [[nodiscard]] in_use use(std::size_t number) {
    Expects(number < entries_.size());
    entry& wanted = entries_[number];
    if (!wanted.take()) {
      const std::lock_guard lock(mutex_);
      if (!wanted.take()) {  // nobody else has opened it meanwhile
        with_room([&] { wanted.file.open_again(wanted.again.empty() ? wanted.file.path() : wanted.again); });
        wanted.readers.store(1, std::memory_order_release);
      }
    }
    wanted.last_use.store(openings_.load(std::memory_order_relaxed), std::memory_order_relaxed);
    return in_use(wanted);
  }

 private:
  static constexpr int closed = -1;

  struct entry {
    entry(input_file opened, std::string path) : file(std::move(opened)), again(std::move(path)) {}

    /// One more reader, unless the file is closed.
    [[nodiscard]] bool take() noexcept {
      int count = readers.load(std::memory_order_relaxed);
      while (count != closed) {
        if (readers.compare_exchange_weak(count, count + 1, std::memory_order_acquire, std::memory_order_relaxed)) {
          return true;
        }
      }
      return false;
    }

    input_file file;
    std::string again;  // where it lies, also when the working folder is another one by then; empty: its path says so
    std::atomic<int> readers{0};             // or `closed`; from and to that only under the mutex
    std::atomic<std::uint64_t> last_use{0};  // counted in openings
  };

  [[nodiscard]] static std::string working_folder() {
    struct release {
      void operator()(char* text) const noexcept { std::free(text); }  // NOLINT: getcwd's is malloc's
    };
    const std::unique_ptr<char, release> folder(::getcwd(nullptr, 0));
    return folder != nullptr ? std::string(folder.get()) : std::string(".");
  }

  /// Opens one more by `open()`, after closing others as needed.
  template <class Open>
  void with_room(Open&& open) {
    while (open_ >= most_open && close_one()) {
    }
    for (;;) {
      try {
        open();
        ++open_;
        openings_.fetch_add(1, std::memory_order_relaxed);
        return;
      } catch (const error& failure) {
        const bool no_descriptor = failure.native_code() == EMFILE || failure.native_code() == ENFILE;
        if (!no_descriptor || !close_one()) {
          throw;
        }
      }
    }
  }

  /// Closes the file that nobody has read for longest, and nobody reads. \return was there one?
  bool close_one() noexcept {
    for (;;) {
      entry* oldest = nullptr;
      for (entry& each : entries_) {
        if (each.readers.load(std::memory_order_relaxed) == 0 &&
            (oldest == nullptr ||
             each.last_use.load(std::memory_order_relaxed) < oldest->last_use.load(std::memory_order_relaxed))) {
          oldest = &each;
        }
      }
      if (oldest == nullptr) {
        return false;
      }
      int nobody = 0;
      if (oldest->readers.compare_exchange_strong(nobody, closed, std::memory_order_acq_rel)) {
        oldest->file.let_go();
        --open_;
        return true;
      }  // else somebody has begun to read it meanwhile
    }
  }

  page_cache pages_;
  std::mutex mutex_;           // of all below
  std::deque<entry> entries_;  // which never move
  std::size_t open_ = 0;
  std::atomic<std::uint64_t> openings_{0};
};

}  // namespace fsdpinit
