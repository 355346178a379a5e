#pragma once

#include <fsdpinit/core/dtype.hpp>
#include <fsdpinit/core/shape.hpp>

#include <cstdint>
#include <string>

namespace fsdpinit {

/// What is known of a tensor without its storage: its fully qualified name (FQN), element type and global shape.
struct tensor_descriptor {
  std::string name{};
  fsdpinit::dtype dtype = fsdpinit::dtype::f32;
  fsdpinit::shape shape{};

  friend bool operator==(const tensor_descriptor&, const tensor_descriptor&) = default;
};

/// Bytes of the whole tensor. \throws error{invalid_argument} as `byte_size(fqn, dtype, shape)` does.
[[nodiscard]] inline std::uint64_t byte_size(const tensor_descriptor& tensor) {
  return byte_size(tensor.name, tensor.dtype, tensor.shape);
}

}  // namespace fsdpinit
