#pragma once

#include <atomic>
#include <csignal>
#include <ctime>

#include <sys/syscall.h>
#include <unistd.h>

namespace fsdpinit::testing_support {

namespace detail {

inline std::atomic<long> handled_by{0};  // a handler has nothing else to write to

extern "C" inline void note_thread(int /*signal*/) { handled_by = syscall(SYS_gettid); }

}  // namespace detail

/// Sends this process a signal that the calling thread does not take at first. Does it wait for this thread, or does any other one
/// handle it?
[[nodiscard]] inline bool signals_wait_for_this_thread() {
  constexpr std::timespec a_millisecond{.tv_sec = 0, .tv_nsec = 1'000'000};
  const auto wait_for_handler = [&](int milliseconds) {
    for (int i = 0; i < milliseconds && detail::handled_by == 0; ++i) {
      nanosleep(&a_millisecond, nullptr);
    }
  };
  detail::handled_by = 0;
  struct sigaction noting {};
  struct sigaction before {};
  noting.sa_handler = detail::note_thread;
  sigaction(SIGUSR1, &noting, &before);
  sigset_t blocked;
  sigset_t mask;
  sigemptyset(&blocked);
  sigaddset(&blocked, SIGUSR1);
  pthread_sigmask(SIG_BLOCK, &blocked, &mask);
  kill(getpid(), SIGUSR1);
  wait_for_handler(30);
  pthread_sigmask(SIG_SETMASK, &mask, nullptr);
  wait_for_handler(1000);
  sigaction(SIGUSR1, &before, nullptr);
  return detail::handled_by == syscall(SYS_gettid);
}

}  // namespace fsdpinit::testing_support
