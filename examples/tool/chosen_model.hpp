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
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace fsdpinit::tool {

/// With as many layers and experts; all where nothing is said.
/// \pre `name` is that of a published model. \throws usage_error for more of them than it has.
[[nodiscard]] inline published_model chosen_model(std::string_view name, const std::optional<std::size_t>& layers,
                                                  const std::optional<std::uint64_t>& experts) {
  const auto* const model = std::find_if(published_models.begin(), published_models.end(),
                                         [&](const published_model& each) { return each.name == name; });
  if (layers.value_or(1) < 1 || layers.value_or(1) > model->layers) {
    throw usage_error(fmt::format("--layers: {} has layers 1 to {}, not {}", model->name, model->layers, *layers));
  }
  if (experts && model->experts == 0) {
    throw usage_error(fmt::format("--experts: {} has none", model->name));
  }
  if (experts.value_or(1) < 1 || experts.value_or(1) > std::max<std::uint64_t>(model->experts, 1)) {
    throw usage_error(
        fmt::format("--experts: {} has experts 1 to {} in a layer, not {}", model->name, model->experts, *experts));
  }
  published_model cut = *model;
  cut.layers = layers.value_or(model->layers);
  cut.experts = experts.value_or(model->experts);
  cut.predicts_more = model->predicts_more && cut.layers == model->layers;
  return cut;
}

/// The published tensors with the dtypes that --dtype gives them: floats that a cast converts, unless --keep-dtype exempts them.
[[nodiscard]] inline std::vector<synthetic_tensor> cast_tensors_of(const sharding_request& how,
                                                                   const published_model& model) {
  std::vector<synthetic_tensor> tensors = tensors_of(model, model.type, true);
  for (synthetic_tensor& tensor : tensors) {
    dtype& type = tensor.descriptor.dtype;
    type = how.type && is_cast(how, tensor.descriptor.name) && is_convertible(type, *how.type) ? *how.type : type;
  }
  return tensors;
}

/// The published model that was named, tied as it is, with those of its optional buffers that are stored, of the dtype that they
/// are stored with; else the checkpoint's own list of tensors. What --keep-dtype exempts has the dtype that it is stored with.
[[nodiscard]] inline dynamic_module module_of(const sharding_request& how, std::span<const tensor_descriptor> stored) {
  if (how.model.empty()) {
    return module_of(stored);
  }
  dynamic_module module;
  const published_model model = chosen_model(how.model, how.layers, how.experts);
  std::map<std::string_view, dtype> stored_as;
  for (const tensor_descriptor& tensor : stored) {
    stored_as.emplace(tensor.name, tensor.dtype);
  }
  std::set<std::string> buffers;
  for (tensor_descriptor& optional : optional_buffers_of(model)) {
    if (const auto at = stored_as.find(optional.name); at != stored_as.end()) {
      module.add_buffer(optional.name, at->second, optional.shape);
    }
    buffers.insert(std::move(optional.name));
  }
  for (synthetic_tensor& tensor : cast_tensors_of(how, model)) {
    if (buffers.contains(tensor.descriptor.name)) {
      continue;
    }
    if (how.type && !is_cast(how, tensor.descriptor.name)) {
      if (const auto at = stored_as.find(tensor.descriptor.name); at != stored_as.end()) {
        tensor.descriptor.dtype = at->second;
      }
    }
    add_parameter(module, tensor.descriptor);
    if (tensor.content_name != tensor.descriptor.name) {
      module.tie({tensor.content_name, tensor.descriptor.name});
    }
  }
  return module;
}

}  // namespace fsdpinit::tool
