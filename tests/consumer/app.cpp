#include <fsdpinit/core.hpp>
#include <fsdpinit/sources/safetensors_header.hpp>

#include <cstddef>
#include <cstdio>
#include <vector>

int main() {
  const std::vector first{std::byte{2}, std::byte{0}, std::byte{0}, std::byte{0},
                          std::byte{0}, std::byte{0}, std::byte{0}, std::byte{0}};
  std::printf("header of %d bytes\n", static_cast<int>(fsdpinit::safetensors_header_length("empty", first, 10)));
}
