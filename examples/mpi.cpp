// Brings a checkpoint up on the processes of an MPI job, each with its shard: mpiexec -n 4 mpi CHECKPOINT
// [program]
#include <fsdpinit/communicators/mpi.hpp>
#include <fsdpinit/fsdpinit.hpp>
#include <fsdpinit/sources/safetensors.hpp>

#include <cstdint>
#include <cstdio>

#include <mpi.h>

void load(const char* path) {
  fsdpinit::mpi_communicator world;  // a duplicate of MPI_COMM_WORLD
  // Rank 0 opens the checkpoint and tells the others which tensors it has.
  auto source = fsdpinit::share_descriptors(fsdpinit::checkpoint{path}, world);
  fsdpinit::dynamic_module net;  // names, dtypes and shapes; no storage yet
  for (const auto& tensor : source.tensors()) {
    net.add_parameter(tensor.name, tensor.dtype, tensor.shape);
  }
  const fsdpinit::rank_report report = fsdpinit::initialize(net, source, world);
  // net.get_parameter(name).data() is this rank's shard now.
  std::printf("rank %zu: %ju bytes of shards\n", report.rank, std::uintmax_t{report.predicted.shard_bytes});
}

int main(int count, char** arguments) {
  MPI_Init(&count, &arguments);
  int code = count == 2 ? 0 : 2;
  try {
    if (code == 0) {
      load(arguments[1]);
    }
  } catch (const fsdpinit::error& failure) {  // the same one on every rank
    std::fprintf(stderr, "%s\n", failure.what());
    code = 1;
  }
  MPI_Finalize();
  return code;
}
// [program]
