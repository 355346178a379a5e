// How well the planner predicts: calibrates, predicts each way to load, then loads, in one MPI job.
//
//   mpiexec -n RANKS prediction_ratio ROUNDS CHECKPOINT...
//
// Seconds are those of the slowest rank, from a barrier on; medians of the rounds, in each of which all ways take turns. Rank 0
// prints a line of JSON per checkpoint and way, which prediction_table.py makes a table of.
#include "checkpoint_module.hpp"
#include "mpi_main.hpp"
#include "ratio.hpp"
#include <fsdpinit/communicators/mpi.hpp>
#include <fsdpinit/cost/calibrate.hpp>
#include <fsdpinit/cost/cluster_cost.hpp>
#include <fsdpinit/cost/rank_classes.hpp>
#include <fsdpinit/fsdpinit.hpp>
#include <fsdpinit/sources/safetensors.hpp>

#include <fmt/format.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace {

using namespace fsdpinit;
using namespace fsdpinit::bench;

constexpr std::array ways{policy_of<native_sharding<transport::scatter>>,
                          policy_of<native_sharding<transport::broadcast>>,
                          policy_of<native_sharding<transport::own_read>>, policy_of<every_rank_loads>};

plan plan_of(const safetensors_source& source, std::size_t ranks, const options& how) {
  std::vector<tensor_request> requests;
  for (const tensor_descriptor& tensor : source.tensors()) {
    tensor_request& request = requests.emplace_back();
    request.fqn = tensor.name;
    request.dtype = tensor.dtype;
    request.shape = tensor.shape;
    request.placement = tensor.shape.is_scalar() ? placement(replicate{}) : placement(shard{0});
  }
  return make_plan(requests, {.ranks = {.shards = ranks},
                              .transport = how.policy->transport,
                              .bucket_bytes = how.bucket_bytes,
                              .buckets_in_flight = how.buckets_in_flight});
}

double load(const std::string& path, const safetensors_source& source, mpi_communicator& world, const options& how) {
  dynamic_module module = tool::module_of(source.tensors());
  static_cast<void>(world.all_reduce_max(0));
  const double began = monotonic_seconds();
  initialize(module, checkpoint{path}, world, how);
  const double mine = monotonic_seconds() - began;
  return static_cast<double>(world.all_reduce_max(static_cast<std::uint64_t>(mine * 1e6))) * 1e-6;
}

void compare(const std::string& path, std::uint64_t rounds, mpi_communicator& world) {
  const safetensors_source source = open_safetensors(path);
  for (const policy& each : ways) {
    load(path, source, world, {.policy = each});  // brings the files into the page cache
  }
  struct row {
    std::vector<double> predicted;
    std::vector<double> measured;
    cluster_cost cost;
  };
  std::array<row, ways.size()> rows;
  std::vector<double> probe_seconds;
  for (std::uint64_t round = 0; round < rounds; ++round) {
    const double began = monotonic_seconds();
    const cluster on = calibrate(checkpoint{path}, world);
    probe_seconds.push_back(monotonic_seconds() - began);
    for (std::size_t i = 0; i < ways.size(); ++i) {
      const std::size_t way = round % 2 == 0 ? i : ways.size() - 1 - i;
      const options how{.policy = ways[way]};
      const plan made = plan_of(source, world.size(), how);
      rows[way].cost = cost_on(on, made, predict_every_rank(made));
      rows[way].predicted.push_back(rows[way].cost.seconds);
      rows[way].measured.push_back(load(path, source, world, how));
    }
  }
  if (world.rank() != 0) {
    return;
  }
  for (std::size_t way = 0; way < ways.size(); ++way) {
    const double predicted = median(rows[way].predicted);
    const double measured = median(rows[way].measured);
    fmt::print(
        "{{\"checkpoint\": \"{}\", \"ranks\": {}, \"way\": \"{}\", \"predicted\": {:.6f}, \"measured\": {:.6f}, "
        "\"bottleneck\": \"{}\", \"probe\": {:.6f}}}\n",
        path, world.size(), ways[way].every_rank_reads ? ways[way].name : name(ways[way].transport), predicted,
        measured, name(rows[way].cost.bottleneck), median(probe_seconds));
  }
}

int run(int count, char** arguments) {
  mpi_communicator world;
  for (int i = 2; i < count; ++i) {
    compare(arguments[i], number_argument(count, arguments, 1, 5), world);
  }
  return 0;
}

}  // namespace

int main(int count, char** arguments) {
  return mpi_main(count, arguments, 2, "prediction_ratio ROUNDS CHECKPOINT...", run);
}
