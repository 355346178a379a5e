#pragma once

#include "checkpoint_module.hpp"
#include "commands.hpp"
#include "published_models.hpp"
#include <fsdpinit/core/tensor_descriptor.hpp>
#include <fsdpinit/modules/dynamic_module.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <cstddef>
#include <optional>
#include <span>
#include <string_view>

namespace fsdpinit::tool {

/// \pre `name` is that of a published model. \throws usage_error for more layers than it has.
[[nodiscard]] inline const published_model& chosen_model(std::string_view name,
                                                         const std::optional<std::size_t>& layers) {
  const auto* const model = std::find_if(published_models.begin(), published_models.end(),
                                         [&](const published_model& each) { return each.name == name; });
  if (layers.value_or(1) < 1 || layers.value_or(1) > model->layers) {
    throw usage_error(fmt::format("--layers: {} has layers 1 to {}, not {}", model->name, model->layers, *layers));
  }
  return *model;
}

/// The published model that was named, tied as it is; else the checkpoint's own list of tensors.
[[nodiscard]] inline dynamic_module module_of(const sharding_request& how, std::span<const tensor_descriptor> stored) {
  if (how.model.empty()) {
    return module_of(stored);
  }
  dynamic_module module;
  const published_model& model = chosen_model(how.model, how.layers);
  for (const synthetic_tensor& tensor :
       tensors_of(model, how.layers.value_or(model.layers), how.type.value_or(model.type), true)) {
    add_parameter(module, tensor.descriptor);
    if (tensor.content_name != tensor.descriptor.name) {
      module.tie({tensor.content_name, tensor.descriptor.name});
    }
  }
  return module;
}

}  // namespace fsdpinit::tool
