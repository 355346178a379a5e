// Payload through the threads communicator, beside memcpy of the same bytes: bytes per second are what the receivers
// get, counted once for a scatter (each byte has one receiver) and once per receiver for a broadcast.
#include <fsdpinit/communicators/threads.hpp>
#include <fsdpinit/core.hpp>

#include <benchmark/benchmark.h>

#include <cstring>
#include <thread>
#include <vector>

namespace {

using namespace fsdpinit;

constexpr std::uint64_t payload = 256 * mib;
constexpr std::uint64_t bucket_size = 4 * mib;

/// Every rank's own destination, touched once, so that what is timed is copying.
std::vector<std::vector<std::byte>> destinations(std::size_t ranks, std::uint64_t bytes) {
  return std::vector<std::vector<std::byte>>(ranks, std::vector<std::byte>(bytes, std::byte{1}));
}

void memcpy_floor(benchmark::State& state) {
  const std::vector<std::byte> from(bucket_size, std::byte{2});
  std::vector<std::byte> to(payload, std::byte{1});
  for (auto _ : state) {
    for (std::uint64_t at = 0; at < payload; at += bucket_size) {
      std::memcpy(to.data() + at, from.data(), bucket_size);
    }
    benchmark::ClobberMemory();
  }
  state.SetBytesProcessed(static_cast<std::int64_t>(payload) * state.iterations());
}
BENCHMARK(memcpy_floor)->UseRealTime()->Unit(benchmark::kMillisecond);

template <class Start>
void run_ranks(std::size_t ranks, Start start) {
  const threads_world world(ranks);
  std::vector<std::jthread> threads;
  for (std::size_t r = 0; r < ranks; ++r) {
    threads.emplace_back([&world, r, start] {
      threads_communicator comm = world.rank(r);
      threads_communicator::token flight[2];
      for (std::uint64_t k = 0; k < payload / bucket_size; ++k) {
        comm.wait(flight[k % 2], deadline::never());
        flight[k % 2] = start(comm, r, k);
      }
      comm.wait(flight[0], deadline::never());
      comm.wait(flight[1], deadline::never());
    });
  }
}

void threads_scatter(benchmark::State& state) {
  const auto ranks = static_cast<std::size_t>(state.range(0));
  const std::vector<std::byte> from(bucket_size, std::byte{2});
  const std::uint64_t window = bucket_size / ranks;
  auto to = destinations(ranks, payload / ranks);
  std::vector<bytes_view> windows;
  for (std::size_t r = 0; r < ranks; ++r) {
    windows.emplace_back(from.data() + r * window, window);
  }
  for (auto _ : state) {
    run_ranks(ranks, [&](threads_communicator& comm, std::size_t r, std::uint64_t k) {
      return comm.start_scatter(windows, {to[r].data() + k * window, window}, 0);
    });
  }
  state.SetBytesProcessed(static_cast<std::int64_t>(payload / ranks * (ranks - 1)) * state.iterations());
}
BENCHMARK(threads_scatter)->Arg(2)->Arg(4)->Arg(8)->UseRealTime()->Unit(benchmark::kMillisecond);

void threads_broadcast(benchmark::State& state) {
  const auto ranks = static_cast<std::size_t>(state.range(0));
  auto to = destinations(ranks, bucket_size);
  for (auto _ : state) {
    run_ranks(ranks,
              [&](threads_communicator& comm, std::size_t r, std::uint64_t) { return comm.start_broadcast(to[r], 0); });
  }
  state.SetBytesProcessed(static_cast<std::int64_t>(payload * (ranks - 1)) * state.iterations());
}
BENCHMARK(threads_broadcast)->Arg(2)->Arg(4)->Arg(8)->UseRealTime()->Unit(benchmark::kMillisecond);

}  // namespace
