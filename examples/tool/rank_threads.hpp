#pragma once

#include <fsdpinit/communicators/threads.hpp>
#include <fsdpinit/core/error.hpp>

#include <cstddef>
#include <exception>
#include <future>
#include <system_error>
#include <thread>
#include <vector>

namespace fsdpinit::tool {

/// Runs `fn(communicator)` on one thread per rank. They start together or, where the system gives not enough threads,
/// not at all. \throws what a rank threw: that of the lowest rank, once all have ended.
template <class Fn>
void run_rank_threads(std::size_t ranks, const Fn& fn) {
  const threads_world world(ranks);
  std::vector<std::exception_ptr> failures(ranks);
  std::promise<bool> gate;
  const std::shared_future<bool> all_there = gate.get_future().share();
  std::vector<std::thread> threads;
  threads.reserve(ranks);
  const auto join = [&] {
    for (std::thread& thread : threads) {
      thread.join();
    }
  };
  try {
    for (std::size_t rank = 0; rank < ranks; ++rank) {
      threads.emplace_back([&, rank, all_there] {
        if (!all_there.get()) {
          return;
        }
        try {
          threads_communicator comm = world.rank(rank);
          fn(comm);
        } catch (...) {
          failures[rank] = std::current_exception();
        }
      });
    }
  } catch (const std::system_error& refused) {
    gate.set_value(false);
    join();
    throw error(errc::out_of_memory, "--shards",
                concat("the system gives only ", threads.size(), " threads; use fewer, or raise `ulimit -u`"),
                {.native_code = refused.code().value()});
  }
  gate.set_value(true);
  join();
  for (const std::exception_ptr& failure : failures) {
    if (failure) {
      std::rethrow_exception(failure);
    }
  }
}

}  // namespace fsdpinit::tool
