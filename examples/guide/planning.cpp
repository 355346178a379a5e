// What an initialisation will need and take, before there is a checkpoint or a job: the plan, one rank's prediction, a cluster's cost.
#include <fsdpinit/core.hpp>
#include <fsdpinit/cost/by_cost.hpp>
#include <fsdpinit/cost/cluster_cost.hpp>
#include <fsdpinit/cost/cluster_simulation.hpp>
#include <fsdpinit/cost/rank_classes.hpp>
#include <fsdpinit/plan/program.hpp>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

namespace {

unsigned long long number(std::uint64_t value) { return value; }

/// A decoder of 32 layers, 6.6 G parameters in bf16.
std::vector<std::string> names_of_decoder() {
  std::vector<std::string> names{"embed"};
  for (std::size_t layer = 0; layer < 32; ++layer) {
    names.push_back(fsdpinit::concat("layers.", layer, ".attention"));
    names.push_back(fsdpinit::concat("layers.", layer, ".mlp"));
  }
  return names;
}

std::uint64_t rows_of(std::size_t i) { return i == 0 ? 32000 : i % 2 == 1 ? 16384 : 32768; }

}  // namespace

int main() {
  const std::vector<std::string> names = names_of_decoder();
  // [plan]
  // What a tensor is, and the unit whose slab it lies in; names are for errors only.
  std::vector<fsdpinit::tensor_request> requests;
  for (std::size_t i = 0; i < names.size(); ++i) {
    requests.push_back({.fqn = names[i],
                        .dtype = fsdpinit::dtype::bf16,
                        .shape = {rows_of(i), 4096},
                        .placement = fsdpinit::shard{0},
                        .unit = (i + 1) / 2});
  }
  const fsdpinit::plan made =
      fsdpinit::make_plan(requests, {.ranks = {.shards = 16}, .bucket_bytes = 64 * fsdpinit::mib});
  const fsdpinit::prediction source = fsdpinit::predict(made, 0);
  const fsdpinit::prediction other = fsdpinit::predict(made, 5);
  // [plan]
  std::printf("%zu buckets; rank 0 reads %llu bytes, sends %llu; peaks: rank 0 %llu, rank 5 %llu\n",
              made.schedule.size(), number(source.bytes_read), number(source.bytes_sent), number(source.peak_bytes()),
              number(other.peak_bytes()));

  // [program]
  fsdpinit::program mine = fsdpinit::program_of(made, 5);
  std::uint64_t received = 0;
  fsdpinit::for_each_round(mine, [&](const fsdpinit::program_round& round) {
    mine.for_each_step(round, [&](const fsdpinit::program_step& step) {
      received += step.kind == fsdpinit::step_kind::scatter ? step.bytes : 0;
    });
  });
  // [program]

  // [cost]
  const fsdpinit::cluster on{.nodes = 2,
                             .ranks_per_node = 8,
                             .storage_bandwidth_per_node = 5e9,
                             .storage_bandwidth = 8e9,  // of both nodes together: a parallel file system
                             .host_copy_bandwidth = 1e11,
                             .nic_bandwidth = 2.5e10,
                             .nic_latency = 1e-5};
  const std::vector<fsdpinit::prediction> ranks = fsdpinit::predict_every_rank(made);
  const fsdpinit::cluster_cost cost = fsdpinit::cost_on(on, made, ranks);
  const fsdpinit::simulated_cost played = fsdpinit::simulate_on(on, made, ranks);
  const fsdpinit::transport best = fsdpinit::cheapest_transport(on, requests, made.options);
  // [cost]
  std::printf("scatter: %.2f s, bound by %s; played through: %.2f s; cheapest: %s\n", cost.seconds,
              std::string(name(cost.bottleneck)).c_str(), played.seconds, std::string(name(best)).c_str());
  // What a source reads is the model, and what ranks keep is a sixteenth of it each.
  const std::uint64_t model = 16 * other.shard_bytes;
  const bool exact = source.bytes_read == model && other.bytes_received == received;
  return exact && played.seconds > 0 && cost.busy_with(cost.bottleneck) <= cost.seconds ? 0 : 1;
}
