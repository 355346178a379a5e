// The same model on a GPU, which all ranks share: layers are gathered within its memory. With --nccl on a GPU for each rank, which is a
// thread: layers are gathered by NCCL.
#include "cuda_ops.cuh"
#include "demo.hpp"
#include <fsdpinit/communicators/cuda_threads.hpp>
#ifdef GPT_HAS_NCCL
#include <fsdpinit/nccl.hpp>
#endif

#include <cstddef>
#include <memory>
#include <string_view>

namespace {

struct on_one_gpu {
  static std::size_t most_ranks() { return gpt::any_number; }
  static auto make_ops(std::size_t /*rank*/) { return std::make_unique<gpt::cuda_ops>(0); }
  template <class Use>
  static void run(fsdpinit::threads_communicator& world, Use&& use) {
    fsdpinit::basic_cuda_threads_communicator<gpt::cuda_ops::runtime> comm(world, 0);
    use(comm);
  }
};

#ifdef GPT_HAS_NCCL
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
#endif

}  // namespace

int main(int count, char** arguments) {
#ifdef GPT_HAS_NCCL
  if (count > 1 && std::string_view(arguments[1]) == "--nccl") {
    arguments[1] = arguments[0];
    return gpt::demo<over_nccl>(count - 1, arguments + 1);
  }
#endif
  return gpt::demo<on_one_gpu>(count, arguments);
}
