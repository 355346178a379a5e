#include "unfinished.hpp"

#include <csignal>
#include <cstdio>
#include <filesystem>
#include <mutex>
#include <system_error>
#include <thread>

#include <unistd.h>

namespace fsdpinit::tool {

namespace {
/// Ends the watcher when nothing happened.
constexpr int wake_signal = SIGUSR2;
}  // namespace

void unfinished::add(const std::filesystem::path& path) {
  const std::lock_guard lock(mutex_);
  paths_.insert(path);
}

void unfinished::remove(const std::filesystem::path& path) noexcept {
  const std::lock_guard lock(mutex_);
  if (paths_.erase(path) != 0) {
    remove_now(path);
  }
}

void unfinished::remove_now(const std::filesystem::path& path) noexcept {
  try {
    // Other threads may be creating files in a folder right now: under another name they no longer find it.
    std::filesystem::path aside = path;
    aside += ".removing";
    std::error_code not_moved;
    std::filesystem::rename(path, aside, not_moved);
    std::error_code ignored;
    std::filesystem::remove_all(not_moved ? path : aside, ignored);
  } catch (...) {  // out of memory: the file stays, and its name says what it is
  }
}

signal_guard::signal_guard(unfinished& outputs) {
  sigemptyset(&watched_);
  sigaddset(&watched_, wake_signal);
  for (const int number : {SIGINT, SIGTERM, SIGHUP}) {
    struct ::sigaction current {};
    // What the parent had ignored (nohup, a job in the background) stays ignored.
    if (::sigaction(number, nullptr, &current) == 0 && current.sa_handler != SIG_IGN) {
      sigaddset(&watched_, number);
    }
  }
  pthread_sigmask(SIG_BLOCK, &watched_, nullptr);
  watcher_ = std::thread([this, &outputs] { watch(outputs); });
}

signal_guard::~signal_guard() {
  pthread_kill(watcher_.native_handle(), wake_signal);
  watcher_.join();
}

void signal_guard::watch(unfinished& outputs) const {
  int received = 0;
  if (sigwait(&watched_, &received) != 0 || received == wake_signal) {
    return;
  }
  outputs.remove_all([&](bool any) {
    if (any) {
      std::fputs("\nfsdpinit: interrupted; what was not finished is removed\n", stderr);
    }
    // The way the shell expects it: as if the signal had not been caught.
    ::signal(received, SIG_DFL);
    pthread_sigmask(SIG_UNBLOCK, &watched_, nullptr);
    ::raise(received);
    ::_exit(128 + received);
  });
}

}  // namespace fsdpinit::tool
