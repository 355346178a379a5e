// Whole loads beside their floor, in one run and alternating, so that the ratios hold on a machine whose speed drifts.
//
//   load_ratio CHECKPOINT [ROUNDS] [RANKS] [BUCKET_BYTES]
//
// The floor: one thread preads all W bytes, in pieces of a bucket, into fresh memory mapped and advised as the library
// does it. Each contender starts from nothing and ends with its shards in place; giving the memory back is not timed.
#include "ratio.hpp"
#include "thread_loads.hpp"
#include <fsdpinit/fsdpinit.hpp>
#include <fsdpinit/sources/safetensors.hpp>

#include <fmt/format.h>

#include <cstdio>
#include <exception>
#include <string>
#include <vector>

namespace {

using namespace fsdpinit;
using namespace fsdpinit::bench;

}  // namespace

int main(int count, char** arguments) {
  if (count < 2) {
    fmt::print(stderr, "usage: load_ratio CHECKPOINT [ROUNDS] [RANKS] [BUCKET_BYTES]\n");
    return 2;
  }
  try {
    const std::string path = arguments[1];
    const std::uint64_t rounds = number_argument(count, arguments, 2, 9);
    const std::size_t ranks = number_argument(count, arguments, 3, 4);
    const options how{.bucket_bytes = number_argument(count, arguments, 4, 4 * mib)};
    const auto load_by = [&](const policy& by) {
      options with = how;
      with.policy = by;
      return [&, with] { return load_seconds(path, ranks, with); };
    };
    std::vector<contender> all{
        {"floor: pread, one thread", [&] { return floor_seconds(path, how.bucket_bytes); }},
        {"native-sharding, scatter", load_by(policy_of<native_sharding<>>)},
        {"native-sharding, broadcast", load_by(policy_of<native_sharding<transport::broadcast>>)},
        {"every-rank-loads", load_by(policy_of<every_rank_loads>)},
    };
    run_rounds(all, rounds);
    print_table(all, ranks, rounds, how.bucket_bytes);
    return 0;
  } catch (const std::exception& failure) {
    fmt::print(stderr, "load_ratio: {}\n", failure.what());
    return 1;
  }
}
