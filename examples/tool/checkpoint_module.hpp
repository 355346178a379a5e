#pragma once

#include <fsdpinit/core/tensor_descriptor.hpp>
#include <fsdpinit/modules/dynamic_module.hpp>

#include <span>

namespace fsdpinit::tool {

/// The tool's module: the checkpoint's own list of tensors, every one a parameter. Scalars cannot be sharded and are
/// replicated; all others are sharded on dim 0.
[[nodiscard]] inline dynamic_module module_of(std::span<const tensor_descriptor> tensors) {
  dynamic_module module;
  for (const tensor_descriptor& tensor : tensors) {
    const placement how = tensor.shape.is_scalar() ? placement(replicate{}) : placement(shard{0});
    module.add_parameter(tensor.name, tensor.dtype, tensor.shape, how);
  }
  return module;
}

}  // namespace fsdpinit::tool
