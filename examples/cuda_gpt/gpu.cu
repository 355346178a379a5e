// The same model on a GPU, which all ranks share: layers are gathered within its memory.
#include "cuda_ops.cuh"
#include "demo.hpp"
#include <fsdpinit/communicators/cuda_threads.hpp>

#include <cstddef>
#include <memory>

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

}  // namespace

int main(int count, char** arguments) { return gpt::demo<on_one_gpu>(count, arguments); }
