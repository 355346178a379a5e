// The same model on a GPU for each rank, which is a thread: layers are gathered by NCCL.
#include "cuda_ops.cuh"
#include "demo.hpp"
#include <fsdpinit/nccl.hpp>

#include <cstddef>
#include <memory>

namespace {

struct over_nccl {
  static std::size_t most_ranks() {
    int gpus = 0;
    gpt::cuda_ops::runtime cuda;
    fsdpinit::detail::require_cuda(cuda, cudaGetDeviceCount(&gpus), "count the GPUs");
    return static_cast<std::size_t>(gpus);
  }
  static auto make_ops(std::size_t rank) { return std::make_unique<gpt::cuda_ops>(static_cast<int>(rank)); }
  template <class Use>
  static void run(fsdpinit::threads_communicator& world, Use&& use) {
    fsdpinit::basic_nccl_communicator<fsdpinit::nccl_runtime, gpt::cuda_ops::runtime, fsdpinit::threads_communicator>
        comm(world, static_cast<int>(world.rank()));
    use(comm);
  }
};

}  // namespace

int main(int count, char** arguments) { return gpt::demo<over_nccl>(count, arguments); }
