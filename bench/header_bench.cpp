// Parsing a safetensors header of about 10 MB, 100,000 tensors, beside reading its bytes once.
#include <fsdpinit/sources/safetensors_header.hpp>

#include <benchmark/benchmark.h>

#include <cstdint>
#include <numeric>
#include <string>

namespace {

using namespace fsdpinit;

std::string header_of(std::size_t tensors) {
  std::string json = "{";
  for (std::size_t i = 0; i < tensors; ++i) {
    json += concat(i == 0 ? "" : ",", "\"model.layers.", i / 1024, ".mlp.experts.", i % 256, ".projection_", i,
                   R"(.weight":{"dtype":"BF16","shape":[4,8],"data_offsets":[)", i * 64, ",", i * 64 + 64, "]}");
  }
  return json + "}";
}

void parse_header(benchmark::State& state) {
  const auto tensors = static_cast<std::size_t>(state.range(0));
  const std::string json = header_of(tensors);
  for (auto _ : state) {
    benchmark::DoNotOptimize(parse_safetensors_header("bench", json, 8 + json.size() + tensors * 64));
  }
  state.SetBytesProcessed(static_cast<std::int64_t>(json.size()) * state.iterations());
  state.SetItemsProcessed(state.range(0) * state.iterations());
}
BENCHMARK(parse_header)->Arg(1000)->Arg(100'000)->Unit(benchmark::kMillisecond);

void sum_header_bytes(benchmark::State& state) {
  const std::string json = header_of(100'000);
  for (auto _ : state) {
    benchmark::DoNotOptimize(std::accumulate(json.begin(), json.end(), std::uint64_t{0}));
  }
  state.SetBytesProcessed(static_cast<std::int64_t>(json.size()) * state.iterations());
}
BENCHMARK(sum_header_bytes)->Unit(benchmark::kMillisecond);

}  // namespace
