// The model of examples/cuda_gpt in host memory: what runs where there is no GPU.
#include "demo.hpp"

#include <memory>

int main(int count, char** arguments) {
  return gpt::demo(count, arguments, [] { return std::make_unique<gpt::host_ops>(); });
}
