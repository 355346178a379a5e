#pragma once

#include "checkpoint_module.hpp"
#include "commands.hpp"
#include "opener.hpp"
#include "published_models.hpp"
#include <fsdpinit/core/tensor_descriptor.hpp>
#include <fsdpinit/modules/dynamic_module.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <cstddef>
#include <map>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <utility>

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

/// The published model that was named, tied as it is, with those of its optional buffers that are stored, of the dtype that they
/// are stored with; else the checkpoint's own list of tensors. What --keep-dtype exempts has the dtype that it is stored with.
[[nodiscard]] inline dynamic_module module_of(const sharding_request& how, std::span<const tensor_descriptor> stored) {
  if (how.model.empty()) {
    return module_of(stored);
  }
  dynamic_module module;
  const published_model& model = chosen_model(how.model, how.layers);
  const std::size_t layers = how.layers.value_or(model.layers);
  std::map<std::string_view, dtype> stored_as;
  for (const tensor_descriptor& tensor : stored) {
    stored_as.emplace(tensor.name, tensor.dtype);
  }
  std::set<std::string> buffers;
  for (tensor_descriptor& optional : optional_buffers_of(model, layers)) {
    if (const auto at = stored_as.find(optional.name); at != stored_as.end()) {
      module.add_buffer(optional.name, at->second, optional.shape);
    }
    buffers.insert(std::move(optional.name));
  }
  for (synthetic_tensor& tensor : tensors_of(model, layers, how.type.value_or(model.type), true)) {
    if (buffers.contains(tensor.descriptor.name)) {
      continue;
    }
    if (how.type && !is_cast(how, tensor.descriptor.name)) {
      const auto at = stored_as.find(tensor.descriptor.name);
      tensor.descriptor.dtype = at != stored_as.end() ? at->second : model.type;
    }
    add_parameter(module, tensor.descriptor);
    if (tensor.content_name != tensor.descriptor.name) {
      module.tie({tensor.content_name, tensor.descriptor.name});
    }
  }
  return module;
}

}  // namespace fsdpinit::tool
