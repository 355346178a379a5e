#pragma once

#include <fsdpinit/core/compiler.hpp>

#include <csignal>

namespace fsdpinit::detail {

/// While it lives the calling thread handles no signals. A thread that it starts meanwhile never does: signals are for the threads of
/// the program, which may wait for them, or expect their handlers to run where their data is.
///
/// Faults of a thread's own (SIGSEGV and the like) stay as they are.
class blocked_signals {
 public:
  blocked_signals() noexcept {
    sigset_t all;
    sigfillset(&all);
    constexpr int faults[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS, SIGABRT};
    for (const int fault : faults) {
      sigdelset(&all, fault);
    }
    pthread_sigmask(SIG_BLOCK, &all, &before_);
  }
  blocked_signals(const blocked_signals&) = delete;
  blocked_signals& operator=(const blocked_signals&) = delete;
  ~blocked_signals() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }

 private:
  sigset_t before_{};
};

}  // namespace fsdpinit::detail
