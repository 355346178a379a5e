#include <fsdpinit/os/blocked_signals.hpp>

#include <gtest/gtest.h>

#include <csignal>

namespace blocked_signals_test {
namespace {

[[nodiscard]] bool is_blocked(int signal) {
  sigset_t mask;
  pthread_sigmask(SIG_BLOCK, nullptr, &mask);
  return sigismember(&mask, signal) == 1;
}

TEST(BlockedSignals, AreThoseOfTheProcessUntilItIsGone) {
  {
    const fsdpinit::detail::blocked_signals quiet;
    for (const int signal : {SIGINT, SIGTERM, SIGALRM, SIGUSR1, SIGCHLD}) {
      EXPECT_TRUE(is_blocked(signal)) << signal;
    }
  }
  EXPECT_FALSE(is_blocked(SIGUSR1));
}

TEST(BlockedSignals, AreNotAThreadsOwnFaults) {
  const fsdpinit::detail::blocked_signals quiet;
  for (const int signal : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT}) {
    EXPECT_FALSE(is_blocked(signal)) << signal;
  }
}

TEST(BlockedSignals, KeepWhatWasBlockedBefore) {
  sigset_t usr2;
  sigset_t before;
  sigemptyset(&usr2);
  sigaddset(&usr2, SIGUSR2);
  pthread_sigmask(SIG_BLOCK, &usr2, &before);
  { const fsdpinit::detail::blocked_signals quiet; }
  EXPECT_TRUE(is_blocked(SIGUSR2));
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

}  // namespace
}  // namespace blocked_signals_test
