// What erasure costs a message: a read, a send and a copy into place through the engine's references, beside the same call of the
// type itself. Of each pair `direct` and `ref` have the same arguments; the argument is the size in bytes.
#include <fsdpinit/communicators/self.hpp>
#include <fsdpinit/communicators/threads.hpp>
#include <fsdpinit/concepts/memory_ref.hpp>
#include <fsdpinit/core.hpp>
#include <fsdpinit/engine/payload_link.hpp>
#include <fsdpinit/memory/host_memory.hpp>
#include <fsdpinit/sources/in_memory.hpp>
#include <fsdpinit/sources/source_ref.hpp>

#include <benchmark/benchmark.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace {

using namespace fsdpinit;

void over_sizes(benchmark::internal::Benchmark* bench) { bench->ArgName("bytes")->Arg(1024)->Arg(65536)->Arg(4194304); }

std::uint64_t size_of(const benchmark::State& state) { return static_cast<std::uint64_t>(state.range(0)); }

void count_bytes(benchmark::State& state) { state.SetBytesProcessed(state.range(0) * state.iterations()); }

/// What stands behind a reference is not to be known where it is called.
template <class T>
T& opaque(T& what) {
  T* address = &what;
  benchmark::DoNotOptimize(address);
  return *address;
}

template <class Read>
void read(benchmark::State& state, Read through) {
  const std::uint64_t bytes = size_of(state);
  const std::vector<std::byte> stored(bytes, std::byte{2});
  std::vector<std::byte> destination(bytes, std::byte{1});
  in_memory_source source({{.descriptor = {.name = "weight", .dtype = dtype::u8, .shape = {bytes}}, .bytes = stored}});
  through(state, opaque(source), mutable_bytes(destination));
  count_bytes(state);
}

void read_direct(benchmark::State& state) {
  read(state, [](benchmark::State& runs, in_memory_source& source, mutable_bytes destination) {
    for (auto _ : runs) {
      source.read(0, 0, destination);
      benchmark::ClobberMemory();
    }
  });
}
void read_ref(benchmark::State& state) {
  read(state, [](benchmark::State& runs, in_memory_source& source, mutable_bytes destination) {
    source_ref erased(source);
    const source_ref& ref = opaque(erased);
    for (auto _ : runs) {
      ref.read(0, 0, destination);
      benchmark::ClobberMemory();
    }
  });
}
BENCHMARK(read_direct)->Name("read/direct")->Apply(over_sizes);
BENCHMARK(read_ref)->Name("read/ref")->Apply(over_sizes);

template <class Copy>
void place(benchmark::State& state, Copy through) {
  const std::uint64_t bytes = size_of(state);
  const std::vector<std::byte> staged(bytes, std::byte{2});
  host_memory memory;
  std::byte* const to = memory.allocate(bytes);
  through(state, opaque(memory), to, staged);
  memory.deallocate(to, bytes);
  count_bytes(state);
}

void place_direct(benchmark::State& state) {
  place(state, [](benchmark::State& runs, host_memory& memory, std::byte* to, bytes_view from) {
    host_memory::queue order;
    for (auto _ : runs) {
      memory.copy_in(to, from.data(), from.size(), from.size(), 1, order);
      benchmark::ClobberMemory();
    }
    memory.wait(order);
  });
}
void place_ref(benchmark::State& state) {
  place(state, [](benchmark::State& runs, host_memory& memory, std::byte* to, bytes_view from) {
    memory_ref erased(memory);
    const memory_ref& ref = opaque(erased);
    memory_ref::queue order = ref.make_queue();
    for (auto _ : runs) {
      ref.copy_in(to, from.data(), from.size(), from.size(), 1, order);
      benchmark::ClobberMemory();
    }
    ref.wait(order);
  });
}
BENCHMARK(place_direct)->Name("place/direct")->Apply(over_sizes);
BENCHMARK(place_ref)->Name("place/ref")->Apply(over_sizes);

template <class Communicator>
void send_directly(benchmark::State& state, Communicator& comm, mutable_bytes buffer) {
  for (auto _ : state) {
    auto started = comm.start_broadcast(buffer, 0);
    comm.wait(started, deadline::never());
  }
}
template <class Communicator>
void send_by_link(benchmark::State& state, Communicator& comm, mutable_bytes buffer) {
  detail::payload_link_of<Communicator> made(comm);
  detail::payload_link& link = opaque<detail::payload_link>(made);
  link.reserve(1, {.in_flight = 1, .peers = 1, .bytes = buffer.size()});
  for (auto _ : state) {
    link.start_broadcast(0, buffer, 0, {});
    link.wait(0, deadline::never());
  }
}

// Alone: nothing moves, so that all that is timed is the call.
void send_alone_direct(benchmark::State& state) {
  self_communicator comm;
  std::vector<std::byte> buffer(size_of(state));
  send_directly(state, opaque(comm), buffer);
}
void send_alone_ref(benchmark::State& state) {
  self_communicator comm;
  std::vector<std::byte> buffer(size_of(state));
  send_by_link(state, opaque(comm), buffer);
}
BENCHMARK(send_alone_direct)->Name("send_alone/direct")->ArgName("bytes")->Arg(1024);
BENCHMARK(send_alone_ref)->Name("send_alone/ref")->ArgName("bytes")->Arg(1024);

// To a second thread: a bucket's way, one at a time.
std::optional<threads_world> two_ranks;
void make_two_ranks(const benchmark::State& /*state*/) { two_ranks.emplace(std::size_t{2}); }
void unmake_two_ranks(const benchmark::State& /*state*/) { two_ranks.reset(); }

template <class Send>
void send_to_a_thread(benchmark::State& state, Send send) {
  threads_communicator comm = two_ranks->rank(static_cast<std::size_t>(state.thread_index()));
  std::vector<std::byte> buffer(size_of(state), std::byte{1});
  send(state, opaque(comm), mutable_bytes(buffer));
  count_bytes(state);
}
void send_direct(benchmark::State& state) { send_to_a_thread(state, &send_directly<threads_communicator>); }
void send_ref(benchmark::State& state) { send_to_a_thread(state, &send_by_link<threads_communicator>); }

void between_two(benchmark::internal::Benchmark* bench) {
  over_sizes(bench);
  bench->Threads(2)->UseRealTime()->Setup(&make_two_ranks)->Teardown(&unmake_two_ranks);
}
BENCHMARK(send_direct)->Name("send/direct")->Apply(between_two);
BENCHMARK(send_ref)->Name("send/ref")->Apply(between_two);

}  // namespace
