// What index maps cost: restriction to a shard and runs, for each tensor; and copying as they say, beside memcpy.
#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/core/dtype.hpp>
#include <fsdpinit/index/accounting.hpp>
#include <fsdpinit/index/gather.hpp>
#include <fsdpinit/index/operations.hpp>
#include <fsdpinit/index/place.hpp>
#include <fsdpinit/index/rearrange.hpp>
#include <fsdpinit/index/runs.hpp>

#include <benchmark/benchmark.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

namespace {

using namespace fsdpinit;
using namespace fsdpinit::index_map;

/// gate_up_proj of a layer of Qwen3-30B-A3B: 128 experts, each of two stored tensors.
recipe stacked_experts() {
  std::vector<recipe> gates;
  std::vector<recipe> ups;
  for (std::size_t expert = 0; expert < 128; ++expert) {
    gates.push_back(index_map::stored_tensor(2 * expert, dtype::bf16, {768, 2048}));
    ups.push_back(index_map::stored_tensor(2 * expert + 1, dtype::bf16, {768, 2048}));
  }
  return index_map::concat(std::array{stack(gates, 0), stack(ups, 0)}, 1);
}

constexpr std::array<std::size_t, 2> transposed{1, 0};

std::uint64_t runs_in(const recipe& of, std::uint64_t begin, std::uint64_t end) {
  std::uint64_t sum = 0;
  for_each_run(of, begin, end, [&](const piece&, const run_group& group) { sum += group.count; });
  return sum;
}

void make_stacked_experts(benchmark::State& state) {
  for (auto _ : state) {
    benchmark::DoNotOptimize(stacked_experts());
  }
  state.SetItemsProcessed(state.iterations() * 256);
}
BENCHMARK(make_stacked_experts)->Unit(benchmark::kMicrosecond);

void restrict_identity(benchmark::State& state) {
  const recipe of = index_map::stored_tensor(0, dtype::bf16, {4096, 4096});
  for (auto _ : state) {
    benchmark::DoNotOptimize(restricted(of, {{1024, 0}, {2048, 4096}}));
  }
  state.SetItemsProcessed(state.iterations());
}
BENCHMARK(restrict_identity);

/// A rank's experts, and a part of each: expert parallelism, and tensor parallelism.
void restrict_stacked_experts(benchmark::State& state) {
  const recipe of = stacked_experts();
  for (auto _ : state) {
    benchmark::DoNotOptimize(restricted(of, {{0, 0, 512}, {128, 1536, 1024}}));
  }
  state.SetItemsProcessed(state.iterations() * 256);
}
BENCHMARK(restrict_stacked_experts)->Unit(benchmark::kMicrosecond);

void runs_of_identity(benchmark::State& state) {
  const recipe of = index_map::stored_tensor(0, dtype::bf16, {4096, 4096});
  for (auto _ : state) {
    benchmark::DoNotOptimize(runs_in(of, 64 * kib, 128 * kib));
  }
  state.SetItemsProcessed(state.iterations());
}
BENCHMARK(runs_of_identity);

/// Those of one bucket of 4 MiB.
void runs_of_stacked_experts(benchmark::State& state) {
  const recipe of = stacked_experts();
  for (auto _ : state) {
    benchmark::DoNotOptimize(runs_in(of, 64 * mib, 68 * mib));
  }
  state.SetItemsProcessed(state.iterations());
}
BENCHMARK(runs_of_stacked_experts);

void runs_of_transpose(benchmark::State& state) {
  const recipe of = permute(index_map::stored_tensor(0, dtype::bf16, {4096, 4096}), transposed);
  for (auto _ : state) {
    benchmark::DoNotOptimize(runs_in(of, 4 * mib, 8 * mib));
  }
  state.SetItemsProcessed(state.iterations());
}
BENCHMARK(runs_of_transpose);

/// Of a tensor in 8 x 8 tiles, each in a tensor of its own.
void account_of_tiles(benchmark::State& state) {
  const recipe of = index_map::stored_tensor(0, dtype::bf16, {4096, 4096});
  std::vector<recipe> tiles;
  for (std::uint64_t tile = 0; tile < 64; ++tile) {
    tiles.push_back(index_map::chunk(index_map::chunk(of, 0, 8, tile / 8), 1, 8, tile % 8));
  }
  const std::vector<use> uses = uses_of(tiles);
  for (auto _ : state) {
    benchmark::DoNotOptimize(misuse_of(of.extents, uses));
  }
  state.SetItemsProcessed(state.iterations() * 64);
}
BENCHMARK(account_of_tiles)->Unit(benchmark::kMicrosecond);

void account_of_whole_tensors(benchmark::State& state) {
  const std::array whole_one{index_map::stored_tensor(0, dtype::bf16, {4096, 4096})};
  const std::vector<use> uses = uses_of(whole_one);
  for (auto _ : state) {
    benchmark::DoNotOptimize(misuse_of(whole_one[0].extents, uses));
  }
  state.SetItemsProcessed(state.iterations());
}
BENCHMARK(account_of_whole_tensors);

// -- copying: 32 MiB, from one place to another

constexpr std::uint64_t copied_bytes = 32 * mib;

template <class Copy>
void copying(benchmark::State& state, Copy copy) {
  std::vector<std::byte> source(copied_bytes, std::byte{1});
  std::vector<std::byte> destination(copied_bytes);
  for (auto _ : state) {
    copy(source.data(), destination.data());
    benchmark::ClobberMemory();
  }
  state.SetBytesProcessed(state.iterations() * static_cast<std::int64_t>(copied_bytes));
}

void copy_by_memcpy(benchmark::State& state) {
  copying(state, [](const std::byte* from, std::byte* to) { std::memcpy(to, from, copied_bytes); });
}
BENCHMARK(copy_by_memcpy)->Unit(benchmark::kMillisecond);

void copying_as(benchmark::State& state, const recipe& of) {
  copying(state, [&](const std::byte* from, std::byte* to) {
    for (const piece& each : of.pieces) {
      place(each.map, bits(of.type) / 8, from, to);
    }
  });
}

void place_identity(benchmark::State& state) {
  copying_as(state, index_map::stored_tensor(0, dtype::bf16, {4096, 4096}));
}
BENCHMARK(place_identity)->Unit(benchmark::kMillisecond);

/// Of elements of so many bytes.
void place_transpose(benchmark::State& state) {
  const auto size = static_cast<std::uint64_t>(state.range(0));
  const dtype type = size == 1 ? dtype::u8 : size == 2 ? dtype::bf16 : size == 4 ? dtype::f32 : dtype::c64;
  copying_as(state, permute(index_map::stored_tensor(0, type, {4096, copied_bytes / size / 4096}), transposed));
}
BENCHMARK(place_transpose)->Arg(1)->Arg(2)->Arg(4)->Arg(8)->Unit(benchmark::kMillisecond);

/// Rows of a head put in another order: runs of a row.
void place_rotary(benchmark::State& state) {
  copying_as(state, rearrange(index_map::stored_tensor(0, dtype::bf16, {4096, 4096}), "(h d two) k -> (h two d) k",
                              std::array<axis_size, 2>{axis_size{"d", 64}, axis_size{"two", 2}}));
}
BENCHMARK(place_rotary)->Unit(benchmark::kMillisecond);

/// Read from memory through a tile, 4 MiB at a time, as from a source.
void gathering_as(benchmark::State& state, const recipe& of) {
  std::vector<std::byte> tile(256 * kib);
  copying(state, [&](const std::byte* from, std::byte* to) {
    for (std::uint64_t done = 0; done < copied_bytes; done += 4 * mib) {
      gather(of, {.offset = done, .run = 4 * mib, .stride = 0, .count = 1}, {to + done, 4 * mib}, tile,
             [&](std::size_t, std::uint64_t offset, mutable_bytes destination) {
               std::memcpy(destination.data(), from + offset, destination.size());
             });
    }
  });
}

void gather_concatenated_rows(benchmark::State& state) {
  const recipe stored = index_map::stored_tensor(0, dtype::bf16, {4096, 4096});
  const std::array halves{index_map::chunk(stored, 0, 2, 0), index_map::chunk(stored, 0, 2, 1)};
  gathering_as(state, index_map::concat(halves, 1));
}
BENCHMARK(gather_concatenated_rows)->Unit(benchmark::kMillisecond);

void gather_transpose(benchmark::State& state) {
  gathering_as(state, permute(index_map::stored_tensor(0, dtype::bf16, {4096, 4096}), transposed));
}
BENCHMARK(gather_transpose)->Unit(benchmark::kMillisecond);

}  // namespace
