// Whole loads beside their floor, in one run and alternating, so that the ratios hold on a machine whose speed drifts.
//
//   load_ratio CHECKPOINT [ROUNDS] [RANKS] [BUCKET_BYTES]
//
// The floor: one thread preads all W bytes, in pieces of a bucket, into fresh memory mapped and advised as the library
// does it. Each contender starts from nothing and ends with its shards in place; giving the memory back is not timed.
#include "checkpoint_module.hpp"
#include <fsdpinit/fsdpinit.hpp>
#include <fsdpinit/sources/safetensors.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <functional>
#include <optional>
#include <string>
#include <thread>
#include <vector>

namespace {

using namespace fsdpinit;

double floor_seconds(const std::string& path, std::uint64_t piece) {
  safetensors_source source = open_safetensors(path);
  std::uint64_t total = 0;
  for (const tensor_descriptor& tensor : source.tensors()) {
    total += byte_size(tensor);
  }
  const double begin = monotonic_seconds();
  const block<host_memory> memory(host_memory{}, total);
  mutable_bytes rest = memory.bytes();
  for (std::size_t i = 0; i < source.tensors().size(); ++i) {
    const std::uint64_t bytes = byte_size(source.tensors()[i]);
    for (std::uint64_t offset = 0; offset < bytes; offset += piece) {
      const std::uint64_t length = std::min(piece, bytes - offset);
      source.read(i, offset, rest.first(length));
      rest = rest.subspan(length);
    }
  }
  return monotonic_seconds() - begin;
}

template <class Policy>
double load_seconds(const std::string& path, std::size_t ranks, const options& how) {
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
        initialize<Policy>(modules[r], checkpoint{path}, world.rank(r), how);
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

struct contender {
  std::string name;
  std::function<double()> run;
  std::vector<double> seconds{};
};

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

}  // namespace

int main(int count, char** arguments) {
  if (count < 2) {
    fmt::print(stderr, "usage: load_ratio CHECKPOINT [ROUNDS] [RANKS] [BUCKET_BYTES]\n");
    return 2;
  }
  try {
    const std::string path = arguments[1];
    const auto number = [&](int index, std::uint64_t otherwise) {
      return count > index ? std::strtoull(arguments[index], nullptr, 10) : otherwise;
    };
    const std::uint64_t rounds = number(2, 9);
    const std::size_t ranks = number(3, 4);
    const options how{.bucket_bytes = number(4, 4 * mib)};
    std::vector<contender> all{
        {"floor: pread, one thread", [&] { return floor_seconds(path, how.bucket_bytes); }},
        {"native-sharding, scatter", [&] { return load_seconds<native_sharding<>>(path, ranks, how); }},
        {"native-sharding, broadcast",
         [&] { return load_seconds<native_sharding<transport::broadcast>>(path, ranks, how); }},
        {"every-rank-loads", [&] { return load_seconds<every_rank_loads>(path, ranks, how); }},
    };
    for (contender& each : all) {
      each.run();  // brings the file into the page cache, and warms up
    }
    for (std::uint64_t round = 0; round < rounds; ++round) {
      for (contender& each : all) {
        each.seconds.push_back(each.run());
      }
    }
    fmt::print("{} ranks, {} rounds, buckets of {} bytes\n\n", ranks, rounds, how.bucket_bytes);
    fmt::print("| {:<27} | {:>9} | {:>9} | {:>9} | {:>8} |\n", "", "median s", "min s", "max s", "x floor");
    fmt::print("|-{:-<27}-|-{:->9}:|-{:->9}:|-{:->9}:|-{:->8}:|\n", "", "", "", "", "");
    for (const contender& each : all) {
      // Ratios round by round, then their median: drift within a round is small.
      std::vector<double> ratios;
      for (std::size_t i = 0; i < each.seconds.size(); ++i) {
        ratios.push_back(each.seconds[i] / all.front().seconds[i]);
      }
      fmt::print("| {:<27} | {:>9.3f} | {:>9.3f} | {:>9.3f} | {:>8.2f} |\n", each.name, median(each.seconds),
                 *std::min_element(each.seconds.begin(), each.seconds.end()),
                 *std::max_element(each.seconds.begin(), each.seconds.end()), median(ratios));
    }
    return 0;
  } catch (const std::exception& failure) {
    fmt::print(stderr, "load_ratio: {}\n", failure.what());
    return 1;
  }
}
