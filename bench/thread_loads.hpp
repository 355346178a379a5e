#pragma once

#include "checkpoint_module.hpp"
#include <fsdpinit/fsdpinit.hpp>
#include <fsdpinit/sources/safetensors.hpp>

#include <cstddef>
#include <exception>
#include <string>
#include <thread>
#include <vector>

namespace fsdpinit::bench {

/// Of a whole load by ranks that are threads, each into memory of its own: `memory_of(rank)`. Giving it back is not timed.
template <class MemoryOf>
double load_seconds(const std::string& path, std::size_t ranks, const options& how, MemoryOf&& memory_of) {
  const safetensors_source source = open_safetensors(path);
  std::vector<dynamic_module> modules;
  for (std::size_t r = 0; r < ranks; ++r) {
    modules.push_back(tool::module_of(source.tensors()));
  }
  const threads_world world(ranks);
  std::vector<std::exception_ptr> failures(ranks);
  const double begin = monotonic_seconds();
  std::vector<std::thread> threads;
  for (std::size_t r = 0; r < ranks; ++r) {
    threads.emplace_back([&, r] {
      try {
        auto memory = memory_of(r);
        initialize(modules[r], checkpoint{path}, world.rank(r), how, {.memory = memory});
      } catch (...) {
        failures[r] = std::current_exception();
      }
    });
  }
  for (std::thread& thread : threads) {
    thread.join();
  }
  const double seconds = monotonic_seconds() - begin;
  for (const std::exception_ptr& failure : failures) {
    if (failure) {
      std::rethrow_exception(failure);
    }
  }
  return seconds;
}

/// The same, into host memory.
inline double load_seconds(const std::string& path, std::size_t ranks, const options& how) {
  return load_seconds(path, ranks, how, [](std::size_t) { return host_memory(); });
}

}  // namespace fsdpinit::bench
