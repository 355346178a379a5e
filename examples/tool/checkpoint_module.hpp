#pragma once

#include <fsdpinit/core/tensor_descriptor.hpp>
#include <fsdpinit/modules/dynamic_module.hpp>

#include <span>

namespace fsdpinit::tool {

/// Scalars cannot be sharded and are replicated; all others are sharded on dim 0.
inline void add_parameter(dynamic_module& module, const tensor_descriptor& tensor) {
  const placement how = tensor.shape.is_scalar() ? placement(replicate{}) : placement(shard{0});
  module.add_parameter(tensor.name, tensor.dtype, tensor.shape, how);
}

/// A checkpoint's own list of tensors as a module, every one a parameter.
[[nodiscard]] inline dynamic_module module_of(std::span<const tensor_descriptor> tensors) {
  dynamic_module module;
  for (const tensor_descriptor& tensor : tensors) {
    add_parameter(module, tensor);
  }
  return module;
}

}  // namespace fsdpinit::tool
