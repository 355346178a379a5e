// Whole loads over MPI beside their floor, in one job and alternating, so that no process is started in between.
//
//   mpiexec -n RANKS mpi_ratio CHECKPOINT [ROUNDS] [BUCKET_BYTES]
//
// The floor of what one rank reads is rank 0 reading everything while the others wait; that of own reads is every rank reading
// an equal part. Seconds are those of the slowest rank, from a barrier on.
#include "checkpoint_module.hpp"
#include "mpi_main.hpp"
#include "ratio.hpp"
#include <fsdpinit/communicators/mpi.hpp>
#include <fsdpinit/core/xxh3.hpp>  // verification is by this
#include <fsdpinit/fsdpinit.hpp>
#include <fsdpinit/sources/safetensors.hpp>

#include <fmt/format.h>

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include <fcntl.h>
#include <unistd.h>

namespace {

using namespace fsdpinit;
using namespace fsdpinit::bench;

/// Giving the memory back is not timed.
double seconds_of(const std::string& path, std::span<const tensor_descriptor> tensors, mpi_communicator& world,
                  const policy& by, options how) {
  how.policy.emplace(by);
  dynamic_module module = tool::module_of(tensors);
  const double began = monotonic_seconds();
  initialize(module, checkpoint{path}, world, how);
  return monotonic_seconds() - began;
}

/// Has the system read the checkpoint's files from storage again. As far as it likes: the call is an advice.
void forget_pages(const safetensors_source& source) {
  for (const safetensors_file_info& file : source.files()) {
    const int opened = ::open(file.path.c_str(), O_RDONLY | O_CLOEXEC);
    if (opened >= 0) {
      ::fdatasync(opened);  // only pages that are written back can be forgotten
      ::posix_fadvise(opened, 0, 0, POSIX_FADV_DONTNEED);
      ::close(opened);
    }
  }
}

int run(int count, char** arguments) {
  mpi_communicator world;
  const std::string path = arguments[1];
  const std::uint64_t rounds = number_argument(count, arguments, 2, 9);
  const options how{.bucket_bytes = number_argument(count, arguments, 3, 4 * mib)};
  const safetensors_source source = open_safetensors(path);
  // From when all ranks are there; of the slowest one.
  const auto timed = [&](auto&& work) {
    return [&, work] {
      static_cast<void>(world.all_reduce_max(0));
      return static_cast<double>(world.all_reduce_max(static_cast<std::uint64_t>(work() * 1e6))) * 1e-6;
    };
  };
  std::vector<contender> all{
      {"floor: pread, one process",
       timed([&] { return world.rank() == 0 ? floor_seconds(path, how.bucket_bytes) : 0.0; })},
      {"native-sharding, scatter",
       timed([&] { return seconds_of(path, source.tensors(), world, policy_of<native_sharding<>>, how); })},
      {"native-sharding, broadcast", timed([&] {
         return seconds_of(path, source.tensors(), world, policy_of<native_sharding<transport::broadcast>>, how);
       })},
      {"every-rank-loads",
       timed([&] { return seconds_of(path, source.tensors(), world, policy_of<every_rank_loads>, how); })},
  };
  const std::size_t one_reader = all.size();
  options replicated = how;
  replicated.replicas = world.size() % 2 == 0 ? 2 : 1;
  all.push_back({"floor: pread, a part each",
                 timed([&] { return floor_seconds(path, how.bucket_bytes, world.rank(), world.size()); })});
  all.push_back({"native-sharding, own-read", timed([&] {
                   return seconds_of(path, source.tensors(), world, policy_of<native_sharding<transport::own_read>>,
                                     how);
                 })});
  all.push_back({"native-sharding, automatic", timed([&] {
                   return seconds_of(path, source.tensors(), world, policy_of<native_sharding<transport::automatic>>,
                                     how);
                 })});
  all.push_back({"own-read, 2 replicas", timed([&] {
                   return seconds_of(path, source.tensors(), world, policy_of<native_sharding<transport::own_read>>,
                                     replicated);
                 })});
  all.push_back({"scatter, 2 replicas", timed([&] {
                   return seconds_of(path, source.tensors(), world, policy_of<native_sharding<>>, replicated);
                 })});
  run_rounds(all, rounds);
  // Each beside itself without.
  std::vector<contender> verified;
  const auto add_verified = [&](const char* name, const policy& by, verification level, bool cached = true) {
    options checked = how;
    checked.verify = level;
    const auto load = [&, by, cached](const options& with) {
      return [&, by, cached, with] {
        if (!cached && world.rank() == 0) {
          forget_pages(source);
        }
        return timed([&] { return seconds_of(path, source.tensors(), world, by, with); })();
      };
    };
    const std::size_t without = verified.size();
    verified.push_back({name, load(how), without});
    verified.push_back({concat("  with verify = ", fsdpinit::name(level)), load(checked), without});
  };
  add_verified("scatter", policy_of<native_sharding<>>, verification::transfer);
  add_verified("broadcast", policy_of<native_sharding<transport::broadcast>>, verification::transfer);
  add_verified("every-rank-loads", policy_of<every_rank_loads>, verification::transfer);
  add_verified("scatter", policy_of<native_sharding<>>, verification::reread);
  add_verified("scatter, read from storage", policy_of<native_sharding<>>, verification::transfer, false);
  for (std::size_t pair = 0; pair < verified.size(); pair += 2) {
    run_rounds(std::span(verified).subspan(pair, 2), 2 * rounds);
  }
  if (world.rank() == 0) {
    const std::span<const contender> both(all);
    print_table(both.first(one_reader), world.size(), rounds, how.bucket_bytes);
    fmt::print("\n");
    print_table(both.subspan(one_reader), world.size(), rounds, how.bucket_bytes);
    fmt::print("\n");
    print_table(verified, world.size(), 2 * rounds, how.bucket_bytes, "x without");
  }
  return 0;
}

}  // namespace

int main(int count, char** arguments) {
  return mpi_main(count, arguments, 1, "mpi_ratio CHECKPOINT [ROUNDS] [BUCKET_BYTES]", run);
}
