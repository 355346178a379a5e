// Scatter and broadcast with buckets of several sizes, and several of them in flight, in one MPI job and taking turns.
//
//   mpiexec -n RANKS bucket_ratio CHECKPOINT [ROUNDS]
#include "checkpoint_module.hpp"
#include "mpi_main.hpp"
#include "ratio.hpp"
#include <fsdpinit/communicators/mpi.hpp>
#include <fsdpinit/fsdpinit.hpp>
#include <fsdpinit/sources/safetensors.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace {

using namespace fsdpinit;
using namespace fsdpinit::bench;

double load(const std::string& path, const safetensors_source& source, mpi_communicator& world, const options& how) {
  dynamic_module module = tool::module_of(source.tensors());
  static_cast<void>(world.all_reduce_max(0));
  const double began = monotonic_seconds();
  initialize(module, checkpoint{path}, world, how);
  const double mine = monotonic_seconds() - began;
  return static_cast<double>(world.all_reduce_max(static_cast<std::uint64_t>(mine * 1e6))) * 1e-6;
}

int run(int count, char** arguments) {
  mpi_communicator world;
  const std::string path = arguments[1];
  const std::uint64_t rounds = number_argument(count, arguments, 2, 9);
  const safetensors_source source = open_safetensors(path);
  std::vector<contender> all;
  for (const char* transport : {"scatter", "broadcast"}) {
    for (const std::size_t in_flight : {2U, 4U, 8U}) {
      for (const std::uint64_t bytes : {512 * kib, mib, 2 * mib, 4 * mib, 8 * mib}) {
        if (in_flight * bytes > 16 * mib) {
          continue;
        }
        const options how{.policy = policy_named("native-sharding", transport),
                          .bucket_bytes = bytes,
                          .buckets_in_flight = in_flight};
        all.push_back({.name = fmt::format("{}, {} x {} KiB", transport, in_flight, bytes / kib),
                       .run = [=, &source, &world] { return load(path, source, world, how); }});
      }
    }
  }
  const auto usual = [&](const char* transport) {
    return static_cast<std::size_t>(
        std::find_if(all.begin(), all.end(),
                     [&](const contender& each) { return each.name == fmt::format("{}, 2 x 4096 KiB", transport); }) -
        all.begin());
  };
  for (contender& each : all) {
    each.compared_to = usual(each.name.starts_with("scatter") ? "scatter" : "broadcast");
  }
  run_rounds(all, rounds);
  if (world.rank() == 0) {
    print_table(all, world.size(), rounds, 0, "x default");
  }
  return 0;
}

}  // namespace

int main(int count, char** arguments) { return mpi_main(count, arguments, 1, "bucket_ratio CHECKPOINT [ROUNDS]", run); }
