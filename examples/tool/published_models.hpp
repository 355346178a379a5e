#pragma once

#include <fsdpinit/core/bytes.hpp>
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

enum class model_family : std::uint8_t { decoder, gpt2, deepseek };

/// Where a layer's experts are, and what their three matrices are called; nothing where layers have none.
struct expert_names {
  std::string_view block{};
  std::string_view gate{};
  std::string_view up{};
  std::string_view down{};
};

/// A published configuration, or its first layers and experts. `decoder` is Llama's architecture and what Qwen3 and Mixtral made of it.
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
  std::uint64_t experts = 0;              ///< of a layer
  std::uint64_t expert_intermediate = 0;  ///< of each
  expert_names expert{};
  bool predicts_more = false;                ///< DeepSeek's layer behind the last one, which predicts a second token
  std::uint64_t file_bytes = 4'000'000'000;  ///< of a published file at most
};

/// From the config.json of Qwen/Qwen3-0.6B, Qwen/Qwen3-8B, meta-llama/Meta-Llama-3-8B, openai-community/gpt2, Qwen/Qwen3-30B-A3B,
/// mistralai/Mixtral-8x7B-v0.1 and deepseek-ai/DeepSeek-V3.
inline constexpr std::array<published_model, 7> published_models{{
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
    {.name = "qwen3-30b-a3b",
     .layers = 48,
     .vocabulary = 151936,
     .hidden = 2048,
     .heads = 32,
     .key_value_heads = 4,
     .head_size = 128,
     .query_key_norm = true,
     .experts = 128,
     .expert_intermediate = 768,
     .expert = {.block = "mlp.", .gate = "gate_proj", .up = "up_proj", .down = "down_proj"}},
    {.name = "mixtral-8x7b",
     .layers = 32,
     .vocabulary = 32000,
     .hidden = 4096,
     .heads = 32,
     .key_value_heads = 8,
     .head_size = 128,
     .experts = 8,
     .expert_intermediate = 14336,
     .expert = {.block = "block_sparse_moe.", .gate = "w1", .up = "w3", .down = "w2"},
     .file_bytes = 5'000'000'000},
    {.name = "deepseek-v3",
     .family = model_family::deepseek,
     .layers = 61,
     .vocabulary = 129280,
     .hidden = 7168,
     .intermediate = 18432,
     .heads = 128,
     .head_size = 64,  // of the part that is rotated
     .type = dtype::f8_e4m3,
     .experts = 256,
     .expert_intermediate = 2048,
     .expert = {.block = "mlp.", .gate = "gate_proj", .up = "up_proj", .down = "down_proj"},
     .predicts_more = true,
     .file_bytes = 4'270'000'000},
}};

class tensor_list {
 public:
  /// Of that type; norms, embeddings and routers have another one, where that has 8 bits.
  explicit tensor_list(dtype type) : type_(type), wide_(bits(type) == 8 ? dtype::bf16 : type) {}
  void add(const std::string& name, shape extents) { add(name, std::move(extents), name); }
  void add(std::string name, shape extents, std::string content_name) {
    add(std::move(name), std::move(extents), std::move(content_name), wide_);
  }
  void add(std::string name, shape extents, std::string content_name, dtype type) {
    tensors_.push_back(
        {{.name = std::move(name), .dtype = type, .shape = std::move(extents)}, std::move(content_name)});
  }
  /// The weight of a linear layer: with 8 bits, each block of 128 x 128 has a scale.
  void add_linear(const std::string& layer, std::uint64_t out, std::uint64_t in) {
    const std::string name = layer + ".weight";
    add(name, {out, in}, name, type_);
    if (bits(type_) == 8) {
      add(name + "_scale_inv", {ceil_div(out, 128), ceil_div(in, 128)}, name + "_scale_inv", dtype::f32);
    }
  }
  [[nodiscard]] std::vector<synthetic_tensor> take() { return std::move(tensors_); }

 private:
  dtype type_;
  dtype wide_;
  std::vector<synthetic_tensor> tensors_;
};

inline void add_feed_forward(tensor_list& list, const std::string& block, std::uint64_t hidden,
                             std::uint64_t intermediate,
                             const expert_names& names = {.gate = "gate_proj", .up = "up_proj", .down = "down_proj"}) {
  list.add_linear(concat(block, names.gate), intermediate, hidden);
  list.add_linear(concat(block, names.up), intermediate, hidden);
  list.add_linear(concat(block, names.down), hidden, intermediate);
}

/// Each an MLP, and what chooses among them.
inline void add_experts(tensor_list& list, const published_model& model, const std::string& layer) {
  const std::string block = concat(layer, model.expert.block);
  for (std::uint64_t expert = 0; expert < model.experts; ++expert) {
    add_feed_forward(list, concat(block, "experts.", expert, "."), model.hidden, model.expert_intermediate,
                     model.expert);
  }
  list.add(block + "gate.weight", {model.experts, model.hidden});
}

inline void add_decoder_layer(tensor_list& list, const published_model& model, const std::string& layer) {
  const std::uint64_t query = model.heads * model.head_size;
  const std::uint64_t key_value = model.key_value_heads * model.head_size;
  list.add(layer + "input_layernorm.weight", {model.hidden});
  if (model.experts != 0) {
    add_experts(list, model, layer);
  } else {
    list.add(layer + "mlp.down_proj.weight", {model.hidden, model.intermediate});
    list.add(layer + "mlp.gate_proj.weight", {model.intermediate, model.hidden});
    list.add(layer + "mlp.up_proj.weight", {model.intermediate, model.hidden});
  }
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

/// Latent attention: queries, and keys with values, go through a narrower layer each. The first three layers have one MLP; the others
/// experts, one of which takes part always.
inline void add_deepseek_layer(tensor_list& list, const published_model& model, std::size_t number,
                               const std::string& layer) {
  constexpr std::uint64_t query_rank = 1536;
  constexpr std::uint64_t key_value_rank = 512;
  constexpr std::uint64_t unrotated = 128;  // of a head, and of its values
  constexpr std::size_t dense_layers = 3;
  const std::string attention = layer + "self_attn.";
  list.add_linear(attention + "q_a_proj", query_rank, model.hidden);
  list.add(attention + "q_a_layernorm.weight", {query_rank});
  list.add_linear(attention + "q_b_proj", model.heads * (unrotated + model.head_size), query_rank);
  list.add_linear(attention + "kv_a_proj_with_mqa", key_value_rank + model.head_size, model.hidden);
  list.add(attention + "kv_a_layernorm.weight", {key_value_rank});
  list.add_linear(attention + "kv_b_proj", model.heads * 2 * unrotated, key_value_rank);
  list.add_linear(attention + "o_proj", model.hidden, model.heads * unrotated);
  if (number < dense_layers) {
    add_feed_forward(list, layer + "mlp.", model.hidden, model.intermediate);
  } else {
    const std::string bias = layer + "mlp.gate.e_score_correction_bias";
    list.add(bias, {model.experts}, bias, dtype::f32);
    add_feed_forward(list, layer + "mlp.shared_experts.", model.hidden, model.expert_intermediate);
    add_experts(list, model, layer);
  }
  list.add(layer + "input_layernorm.weight", {model.hidden});
  list.add(layer + "post_attention_layernorm.weight", {model.hidden});
}

/// Behind the last layer: it shares embedding and head, which its file has again.
inline void add_deepseek_prediction(tensor_list& list, const published_model& model) {
  const std::string layer = concat("model.layers.", model.layers, ".");
  list.add(layer + "embed_tokens.weight", {model.vocabulary, model.hidden}, "model.embed_tokens.weight");
  list.add(layer + "enorm.weight", {model.hidden});
  list.add(layer + "hnorm.weight", {model.hidden});
  list.add(layer + "eh_proj.weight", {model.hidden, 2 * model.hidden});
  add_deepseek_layer(list, model, model.layers, layer);
  list.add(layer + "shared_head.norm.weight", {model.hidden});
  list.add(layer + "shared_head.head.weight", {model.vocabulary, model.hidden}, "lm_head.weight");
}

inline void add_decoder(tensor_list& list, const published_model& model, bool duplicates) {
  const std::string embedding = "model.embed_tokens.weight";
  list.add(embedding, {model.vocabulary, model.hidden});
  for (std::size_t i = 0; i < model.layers; ++i) {
    const std::string layer = concat("model.layers.", i, ".");
    if (model.family == model_family::deepseek) {
      add_deepseek_layer(list, model, i, layer);
    } else {
      add_decoder_layer(list, model, layer);
    }
  }
  if (model.predicts_more) {
    add_deepseek_prediction(list, model);
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
[[nodiscard]] inline std::vector<tensor_descriptor> optional_buffers_of(const published_model& model) {
  constexpr std::uint64_t positions = 1024;
  std::vector<tensor_descriptor> buffers;
  const shape frequencies{model.head_size / 2};
  for (std::size_t i = 0; i < model.layers; ++i) {
    if (model.family == model_family::gpt2) {
      buffers.push_back({.name = concat("h.", i, ".attn.bias"), .shape = {1, 1, positions, positions}});
      buffers.push_back({.name = concat("h.", i, ".attn.masked_bias"), .shape = {}});
    } else {
      buffers.push_back({.name = concat("model.layers.", i, ".self_attn.rotary_emb.inv_freq"), .shape = frequencies});
    }
  }
  if (model.family != model_family::gpt2) {
    buffers.push_back({.name = "model.rotary_emb.inv_freq", .shape = frequencies});
  }
  return buffers;
}

/// Its projections are Conv1D layers, whose weights are [in, out]. `attn.bias` is the causal mask, which is in the
/// file.
inline void add_gpt2(tensor_list& list, const published_model& model) {
  constexpr std::uint64_t positions = 1024;
  const std::uint64_t hidden = model.hidden;
  list.add("wte.weight", {model.vocabulary, hidden});
  list.add("wpe.weight", {positions, hidden});
  for (std::size_t i = 0; i < model.layers; ++i) {
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

/// The model's tensors from the embedding to the head, as published; tied ones once, or twice where the published file holds them
/// twice. Weights have that type: in one that is not published, also what is wider in the files, and there are no scales.
[[nodiscard]] inline std::vector<synthetic_tensor> tensors_of(const published_model& model, dtype type,
                                                              bool published_duplicates) {
  tensor_list list(type);
  if (model.family == model_family::gpt2) {
    add_gpt2(list, model);
  } else {
    add_decoder(list, model, published_duplicates);
  }
  return list.take();
}

}  // namespace fsdpinit::tool
