#pragma once

#include <fsdpinit/core/dtype.hpp>
#include <fsdpinit/core/tensor_descriptor.hpp>
#include <fsdpinit/core/text.hpp>

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace fsdpinit::tool {

/// What a tensor is called, and under which name its content is made up: that of the other one where two are tied.
struct synthetic_tensor {
  tensor_descriptor descriptor;
  std::string content_name;
};

enum class model_family : std::uint8_t { decoder, gpt2 };

/// A published configuration. `decoder` is Llama's architecture and what Qwen3 made of it.
struct published_model {
  std::string_view name;
  model_family family = model_family::decoder;
  std::size_t layers = 0;
  std::uint64_t vocabulary = 0;
  std::uint64_t hidden = 0;
  std::uint64_t intermediate = 0;
  std::uint64_t heads = 0;
  std::uint64_t key_value_heads = 0;
  std::uint64_t head_size = 0;
  bool query_key_norm = false;
  bool tied = false;  ///< lm_head is embed_tokens; the published file holds both
  dtype type = dtype::bf16;
};

/// From the config.json of Qwen/Qwen3-0.6B, Qwen/Qwen3-8B, meta-llama/Meta-Llama-3-8B and openai-community/gpt2.
inline constexpr std::array<published_model, 4> published_models{{
    {.name = "qwen3-0.6b",
     .layers = 28,
     .vocabulary = 151936,
     .hidden = 1024,
     .intermediate = 3072,
     .heads = 16,
     .key_value_heads = 8,
     .head_size = 128,
     .query_key_norm = true,
     .tied = true},
    {.name = "qwen3-8b",
     .layers = 36,
     .vocabulary = 151936,
     .hidden = 4096,
     .intermediate = 12288,
     .heads = 32,
     .key_value_heads = 8,
     .head_size = 128,
     .query_key_norm = true},
    {.name = "llama3-8b",
     .layers = 32,
     .vocabulary = 128256,
     .hidden = 4096,
     .intermediate = 14336,
     .heads = 32,
     .key_value_heads = 8,
     .head_size = 128},
    {.name = "gpt2",
     .family = model_family::gpt2,
     .layers = 12,
     .vocabulary = 50257,
     .hidden = 768,
     .intermediate = 3072,
     .heads = 12,
     .key_value_heads = 12,
     .head_size = 64,
     .type = dtype::f32},
}};

class tensor_list {
 public:
  explicit tensor_list(dtype type) : type_(type) {}
  void add(const std::string& name, shape extents) { add(name, std::move(extents), name); }
  void add(std::string name, shape extents, std::string content_name) {
    tensors_.push_back(
        {{.name = std::move(name), .dtype = type_, .shape = std::move(extents)}, std::move(content_name)});
  }
  [[nodiscard]] std::vector<synthetic_tensor> take() { return std::move(tensors_); }

 private:
  dtype type_;
  std::vector<synthetic_tensor> tensors_;
};

inline void add_decoder_layer(tensor_list& list, const published_model& model, const std::string& layer) {
  const std::uint64_t query = model.heads * model.head_size;
  const std::uint64_t key_value = model.key_value_heads * model.head_size;
  list.add(layer + "input_layernorm.weight", {model.hidden});
  list.add(layer + "mlp.down_proj.weight", {model.hidden, model.intermediate});
  list.add(layer + "mlp.gate_proj.weight", {model.intermediate, model.hidden});
  list.add(layer + "mlp.up_proj.weight", {model.intermediate, model.hidden});
  list.add(layer + "post_attention_layernorm.weight", {model.hidden});
  if (model.query_key_norm) {
    list.add(layer + "self_attn.k_norm.weight", {model.head_size});
  }
  list.add(layer + "self_attn.k_proj.weight", {key_value, model.hidden});
  list.add(layer + "self_attn.o_proj.weight", {model.hidden, query});
  if (model.query_key_norm) {
    list.add(layer + "self_attn.q_norm.weight", {model.head_size});
  }
  list.add(layer + "self_attn.q_proj.weight", {query, model.hidden});
  list.add(layer + "self_attn.v_proj.weight", {key_value, model.hidden});
}

inline void add_decoder(tensor_list& list, const published_model& model, std::size_t layers, bool duplicates) {
  const std::string embedding = "model.embed_tokens.weight";
  list.add(embedding, {model.vocabulary, model.hidden});
  for (std::size_t layer = 0; layer < layers; ++layer) {
    add_decoder_layer(list, model, concat("model.layers.", layer, "."));
  }
  list.add("model.norm.weight", {model.hidden});
  if (!model.tied || duplicates) {
    list.add("lm_head.weight", {model.vocabulary, model.hidden}, model.tied ? embedding : "lm_head.weight");
  }
}

/// What the published code computes and does not store, but files of older versions hold: buffers of the module where the checkpoint
/// has them. The causal mask and the number that masked scores became (GPT-2's attention), and the frequencies of rotary embeddings,
/// which each layer's attention had before the model had them. (transformers, `modeling_gpt2.py` and `modeling_llama.py`:
/// `register_buffer(..., persistent=False)`.)
[[nodiscard]] inline std::vector<tensor_descriptor> optional_buffers_of(const published_model& model,
                                                                        std::size_t layers) {
  constexpr std::uint64_t positions = 1024;
  std::vector<tensor_descriptor> buffers;
  const shape frequencies{model.head_size / 2};
  for (std::size_t i = 0; i < layers; ++i) {
    if (model.family == model_family::gpt2) {
      buffers.push_back({.name = concat("h.", i, ".attn.bias"), .shape = {1, 1, positions, positions}});
      buffers.push_back({.name = concat("h.", i, ".attn.masked_bias"), .shape = {}});
    } else {
      buffers.push_back({.name = concat("model.layers.", i, ".self_attn.rotary_emb.inv_freq"), .shape = frequencies});
    }
  }
  if (model.family == model_family::decoder) {
    buffers.push_back({.name = "model.rotary_emb.inv_freq", .shape = frequencies});
  }
  return buffers;
}

/// Its projections are Conv1D layers, whose weights are [in, out]. `attn.bias` is the causal mask, which is in the
/// file.
inline void add_gpt2(tensor_list& list, const published_model& model, std::size_t layers) {
  constexpr std::uint64_t positions = 1024;
  const std::uint64_t hidden = model.hidden;
  list.add("wte.weight", {model.vocabulary, hidden});
  list.add("wpe.weight", {positions, hidden});
  for (std::size_t i = 0; i < layers; ++i) {
    const std::string layer = concat("h.", i, ".");
    list.add(layer + "ln_1.weight", {hidden});
    list.add(layer + "ln_1.bias", {hidden});
    list.add(layer + "attn.bias", {1, 1, positions, positions});
    list.add(layer + "attn.c_attn.weight", {hidden, 3 * hidden});
    list.add(layer + "attn.c_attn.bias", {3 * hidden});
    list.add(layer + "attn.c_proj.weight", {hidden, hidden});
    list.add(layer + "attn.c_proj.bias", {hidden});
    list.add(layer + "ln_2.weight", {hidden});
    list.add(layer + "ln_2.bias", {hidden});
    list.add(layer + "mlp.c_fc.weight", {hidden, model.intermediate});
    list.add(layer + "mlp.c_fc.bias", {model.intermediate});
    list.add(layer + "mlp.c_proj.weight", {model.intermediate, hidden});
    list.add(layer + "mlp.c_proj.bias", {hidden});
  }
  list.add("ln_f.weight", {hidden});
  list.add("ln_f.bias", {hidden});
}

/// The model's tensors from the embedding to the head, as published, cut to its first `layers` layers; tied ones once,
/// or twice where the published file holds them twice.
[[nodiscard]] inline std::vector<synthetic_tensor> tensors_of(const published_model& model, std::size_t layers,
                                                              dtype type, bool published_duplicates) {
  tensor_list list(type);
  if (model.family == model_family::gpt2) {
    add_gpt2(list, model, layers);
  } else {
    add_decoder(list, model, layers, published_duplicates);
  }
  return list.take();
}

}  // namespace fsdpinit::tool
