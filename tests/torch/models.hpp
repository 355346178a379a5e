#pragma once

#include <fsdpinit/adapters/torch_dtype.hpp>
#include <fsdpinit/sources/in_memory.hpp>

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include <ATen/core/ivalue.h>  // before the rest: without it libtorch 1.13 does not compile as C++20
#include <torch/torch.h>

/// \file
/// Small modules of libtorch, and checkpoints of them.

namespace fsdpinit::testing_support {

using state_dict = std::map<std::string, at::Tensor>;

/// What libtorch and checkpoints both have, in each version of libtorch.
[[nodiscard]] inline std::vector<std::pair<torch::Dtype, dtype>> known_dtypes() {
  return {{torch::kFloat, dtype::f32},     {torch::kDouble, dtype::f64},      {torch::kHalf, dtype::f16},
          {torch::kBFloat16, dtype::bf16}, {torch::kLong, dtype::i64},        {torch::kInt, dtype::i32},
          {torch::kShort, dtype::i16},     {torch::kChar, dtype::i8},         {torch::kByte, dtype::u8},
          {torch::kBool, dtype::boolean},  {torch::kComplexFloat, dtype::c64}};
}

/// A scalar, a buffer that is computed, two layers.
struct TwoLayersImpl : torch::nn::Module {
  TwoLayersImpl() {
    scale = register_parameter("scale", torch::tensor(1.5F));
    angles = register_buffer("angles", torch::arange(4, torch::kFloat) * 0.25F);
    first = register_module("first", torch::nn::Linear(3, 5));
    second = register_module("second", torch::nn::Linear(5, 4));
  }
  torch::Tensor forward(const torch::Tensor& x) { return second(torch::tanh(first(x))) * scale + angles; }
  torch::Tensor scale, angles;
  torch::nn::Linear first{nullptr}, second{nullptr};
};
TORCH_MODULE(TwoLayers);

struct OneParameterImpl : torch::nn::Module {
  explicit OneParameterImpl(const torch::Tensor& values) { weight = register_parameter("weight", values); }
  torch::Tensor weight;
};
TORCH_MODULE(OneParameter);

/// `second` undefined: a tensor of its own.
struct PairImpl : torch::nn::Module {
  PairImpl(const torch::Tensor& first, const torch::Tensor& second) {
    a = register_parameter("a", first);
    b = register_parameter("b", second.defined() ? second : torch::zeros({3}));
  }
  torch::Tensor a, b;
};
TORCH_MODULE(Pair);

enum class tie { none, same_tensor, same_storage };

struct TiedImpl : torch::nn::Module {
  explicit TiedImpl(tie form) {
    embedding = register_parameter("embedding", torch::randn({4, 3}));
    head = register_module("head", OneParameter(form == tie::same_tensor ? embedding : torch::zeros({4, 3})));
    if (form == tie::same_storage) {
      head->weight.set_data(embedding.data());
    }
  }
  torch::Tensor embedding;
  OneParameter head{nullptr};
};
TORCH_MODULE(Tied);

/// Copies of its parameters, and of buffers that are not computed.
[[nodiscard]] inline state_dict values_of(torch::nn::Module& module) {
  state_dict out;
  for (const auto& item : module.named_parameters()) {
    out[item.key()] = item.value().detach().clone();
  }
  for (const auto& item : module.named_buffers()) {
    if (item.key() != "angles" && item.key().find("inv_freq") == std::string::npos) {
      out[item.key()] = item.value().clone();
    }
  }
  return out;
}

/// A view into contiguous tensors that outlive it.
[[nodiscard]] inline in_memory_source source_of(const state_dict& values) {
  std::vector<in_memory_tensor> tensors;
  for (const auto& [fqn, tensor] : values) {
    tensors.push_back(
        {.descriptor = {.name = fqn,
                        .dtype = dtype_of(tensor.scalar_type()).value(),
                        .shape = shape(std::vector<std::uint64_t>(tensor.sizes().begin(), tensor.sizes().end()))},
         .bytes = {static_cast<const std::byte*>(tensor.data_ptr()), tensor.nbytes()}});
  }
  return in_memory_source(std::move(tensors));
}

}  // namespace fsdpinit::testing_support
