// What planning costs: one rank's part, of a model of 100,000 tensors over 1024 ranks.
#include <fsdpinit/core.hpp>
#include <fsdpinit/modules/units.hpp>

#include <benchmark/benchmark.h>

#include <string>
#include <vector>

namespace {

using namespace fsdpinit;

/// A mixture-of-experts model's worth of names: four weights in each of `count / 4` experts, 256 experts to a layer.
struct large_model {
  std::vector<std::string> names;
  std::vector<tensor_request> requests;

  explicit large_model(std::size_t count) {
    for (std::size_t i = 0; i < count; ++i) {
      names.push_back(concat("model.layers.", i / 1024, ".experts.", i / 4 % 256, ".", i % 4 == 3 ? "norm" : "proj",
                             i % 4, ".weight"));
    }
    for (std::size_t i = 0; i < count; ++i) {
      requests.push_back({.fqn = names[i],
                          .dtype = dtype::bf16,
                          .shape = i % 4 == 3 ? shape{2048} : shape{2048, 1536},
                          .placement = shard{0},
                          .unit = 1 + i / 1024});
    }
  }
};

void plan_one_rank(benchmark::State& state) {
  const large_model model(static_cast<std::size_t>(state.range(0)));
  const plan_options options{.ranks = {.shards = static_cast<std::size_t>(state.range(1))}, .bucket_bytes = 64 * mib};
  for (auto _ : state) {
    const plan made = make_plan(model.requests, options);
    benchmark::DoNotOptimize(predict(made, 1));
  }
  state.SetItemsProcessed(state.iterations() * state.range(0));
}
BENCHMARK(plan_one_rank)->Args({1000, 8})->Args({100'000, 8})->Args({100'000, 1024})->Unit(benchmark::kMillisecond);

void assign_units(benchmark::State& state) {
  const large_model model(static_cast<std::size_t>(state.range(0)));
  const std::vector<std::string_view> names(model.names.begin(), model.names.end());
  for (auto _ : state) {
    benchmark::DoNotOptimize(default_units(names));
  }
  state.SetItemsProcessed(state.iterations() * state.range(0));
}
BENCHMARK(assign_units)->Arg(100'000)->Unit(benchmark::kMillisecond);

}  // namespace
