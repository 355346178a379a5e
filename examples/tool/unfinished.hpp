#pragma once

#include <csignal>
#include <filesystem>
#include <mutex>
#include <set>
#include <thread>

/// \file
/// Outputs are complete or not there at all: also when the user presses Ctrl-C.

namespace fsdpinit::tool {

/// Files and folders that are being written and must not outlive a failure. Used from any thread.
class unfinished {
 public:
  void add(const std::filesystem::path& path);
  /// Runs `finish`, which moves `path` to its final place, and forgets the path. Nothing is removed meanwhile.
  template <class Finish>
  void finish(const std::filesystem::path& path, Finish&& finish_it) {
    const std::lock_guard lock(mutex_);
    finish_it();
    paths_.erase(path);
  }
  /// Removes it if it is there still.
  void remove(const std::filesystem::path& path) noexcept;
  /// Removes everything and then calls `leave(was there anything)`, which does not return; whoever wants to finish waits
  /// for ever.
  template <class Leave>
  void remove_all(Leave&& leave) {
    const std::lock_guard lock(mutex_);
    for (const std::filesystem::path& path : paths_) {
      remove_now(path);
    }
    leave(!paths_.empty());
  }

 private:
  static void remove_now(const std::filesystem::path& path) noexcept;

  std::mutex mutex_;
  std::set<std::filesystem::path> paths_;
};

/// While it lives, a signal that would end the process (SIGINT, SIGTERM, SIGHUP) removes what is unfinished first. Make
/// it before any other thread, so that all inherit its mask.
class signal_guard {
 public:
  explicit signal_guard(unfinished& outputs);
  signal_guard(const signal_guard&) = delete;
  signal_guard& operator=(const signal_guard&) = delete;
  ~signal_guard();

 private:
  void watch(unfinished& outputs) const;

  sigset_t watched_{};
  std::thread watcher_;
};

}  // namespace fsdpinit::tool
