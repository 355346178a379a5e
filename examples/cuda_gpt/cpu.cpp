// The model of examples/cuda_gpt in host memory: what runs where there is no GPU.
#include "demo.hpp"

#include <cstddef>
#include <memory>

namespace {

struct on_the_host {
  static std::size_t most_ranks() { return gpt::any_number; }
  static auto make_ops(std::size_t /*rank*/) { return std::make_unique<gpt::host_ops>(); }
  template <class Use>
  static void run(fsdpinit::threads_communicator& world, Use&& use) {
    use(world);
  }
};

}  // namespace

int main(int count, char** arguments) { return gpt::demo<on_the_host>(count, arguments); }
