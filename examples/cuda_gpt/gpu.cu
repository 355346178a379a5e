// The same model on a GPU, which all ranks share.
#include "cuda_ops.cuh"
#include "demo.hpp"

#include <memory>

int main(int count, char** arguments) {
  return gpt::demo(count, arguments, [] { return std::make_unique<gpt::cuda_ops>(0); });
}
