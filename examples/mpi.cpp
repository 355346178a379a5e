// Brings a checkpoint up on the processes of an MPI world, each with its shard:
//
//   mpiexec -n 4 mpi CHECKPOINT
#include <fsdpinit/communicators/mpi.hpp>
#include <fsdpinit/fsdpinit.hpp>
#include <fsdpinit/sources/safetensors.hpp>

#include <cstdio>
#include <string>

#include <mpi.h>

namespace {

int run(const std::string& path) {
  // [mpi]
  fsdpinit::mpi_communicator world;  // works on a duplicate of MPI_COMM_WORLD
  // Rank 0 opens the checkpoint, all learn what is in it.
  auto source = fsdpinit::share_descriptors(fsdpinit::checkpoint{path}, world);
  fsdpinit::dynamic_module net;
  for (const fsdpinit::tensor_descriptor& tensor : source.tensors()) {
    net.add_parameter(tensor.name, tensor.dtype, tensor.shape);
  }
  const fsdpinit::rank_report report =
      fsdpinit::initialize(net, source, world, {.bucket_bytes = 16 * fsdpinit::mib, .deadline_seconds = 60});
  // [mpi]
  std::printf("rank %zu: %llu bytes of shards\n", report.rank,
              static_cast<unsigned long long>(report.predicted.shard_bytes));
  return 0;
}

}  // namespace

int main(int count, char** arguments) {
  MPI_Init(&count, &arguments);
  int code = 2;
  try {
    code = count == 2 ? run(arguments[1]) : 2;
  } catch (const fsdpinit::error& failure) {  // the same on every rank
    std::fprintf(stderr, "%s\n", failure.what());
    code = 1;
  }
  MPI_Finalize();
  return code;
}
