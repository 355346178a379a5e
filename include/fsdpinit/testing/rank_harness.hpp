#pragma once

#include <fsdpinit/communicators/threads.hpp>
#include <fsdpinit/core/attempt.hpp>
#include <fsdpinit/core/error.hpp>
#include <fsdpinit/core/text.hpp>

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

/// \file
/// Every rank test goes through here: a thread per rank, a deadline, and no exception lost. Works under any test
/// framework.

namespace fsdpinit::testing {

/// How long `run_ranks` waits by default. A test that needs as long has hung.
inline constexpr double default_rank_deadline = 60;

namespace detail {

/// Who is still running; the caller waits here, the ranks sign off.
class rank_roll {
 public:
  explicit rank_roll(std::size_t ranks) : running_(ranks, true), left_(ranks) {}

  void sign_off(std::size_t rank) {
    const std::lock_guard lock(mutex_);
    running_[rank] = false;
    --left_;
    changed_.notify_all();
  }

  /// Threads cannot be ended, so a rank that hangs ends the process: a test that hangs forever says nothing.
  void wait_or_end_process(double seconds) {
    std::unique_lock lock(mutex_);
    if (changed_.wait_for(lock, std::chrono::duration<double>(seconds), [&] { return left_ == 0; })) {
      return;
    }
    std::string names;
    for (std::size_t rank = 0; rank < running_.size(); ++rank) {
      if (running_[rank]) {
        names += concat(names.empty() ? "" : ", ", rank);
      }
    }
    std::fprintf(stderr, "fsdpinit: rank %s of %zu still running after %g s; ending the process\n", names.c_str(),
                 running_.size(), seconds);
    std::fflush(stderr);
    std::abort();
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<bool> running_;
  std::size_t left_;
};

template <class Fn>
void call_rank(Fn& fn, std::size_t rank, threads_communicator& communicator) {
  if constexpr (std::is_invocable_v<Fn&, std::size_t, threads_communicator&>) {
    fn(rank, communicator);
  } else {
    fn(communicator);
  }
}

}  // namespace detail

/// Calls `fn(communicator)` or `fn(rank, communicator)` once for each rank of `world`, each on a thread of its own, and
/// returns what each threw, nullptr for those that returned. Ends the process, naming the ranks that are still running,
/// after `deadline_seconds`.
template <class Fn>
[[nodiscard]] std::vector<std::exception_ptr> exceptions_of_ranks(const threads_world& world, Fn&& fn,
                                                                  double deadline_seconds = default_rank_deadline) {
  std::vector<std::exception_ptr> thrown(world.size());
  detail::rank_roll roll(world.size());
  std::vector<std::thread> threads;
  threads.reserve(world.size());
  for (std::size_t rank = 0; rank < world.size(); ++rank) {
    threads.emplace_back([&, rank] {
      try {
        threads_communicator communicator = world.rank(rank);
        detail::call_rank(fn, rank, communicator);
      } catch (...) {
        thrown[rank] = std::current_exception();
      }
      roll.sign_off(rank);
    });
  }
  roll.wait_or_end_process(deadline_seconds);
  for (std::thread& thread : threads) {
    thread.join();
  }
  return thrown;
}

/// The same, with what each rank threw as an `error`: nothing for ranks that returned.
template <class Fn>
[[nodiscard]] std::vector<std::optional<error>> errors_of_ranks(const threads_world& world, Fn&& fn,
                                                                double deadline_seconds = default_rank_deadline) {
  std::vector<std::optional<error>> errors;
  for (const std::exception_ptr& each : exceptions_of_ranks(world, fn, deadline_seconds)) {
    errors.push_back(!each ? std::nullopt : attempt([&] { std::rethrow_exception(each); }));
  }
  return errors;
}

/// The same; throws the exception of the lowest rank that threw, once all ranks have ended.
template <class Fn>
void run_ranks(const threads_world& world, Fn&& fn, double deadline_seconds = default_rank_deadline) {
  for (const std::exception_ptr& each : exceptions_of_ranks(world, fn, deadline_seconds)) {
    if (each) {
      std::rethrow_exception(each);
    }
  }
}

/// On a world of its own.
template <class Fn>
void run_ranks(std::size_t ranks, Fn&& fn, double deadline_seconds = default_rank_deadline) {
  run_ranks(threads_world(ranks), fn, deadline_seconds);
}

template <class Fn>
[[nodiscard]] std::vector<std::optional<error>> errors_of_ranks(std::size_t ranks, Fn&& fn,
                                                                double deadline_seconds = default_rank_deadline) {
  return errors_of_ranks(threads_world(ranks), fn, deadline_seconds);
}

}  // namespace fsdpinit::testing
