#pragma once

#include <fsdpinit/core/dtype.hpp>
#include <fsdpinit/sources/rules.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

/// \file
/// Rules for published families of models: from the names and shapes of their checkpoints to those that frameworks build. What they do
/// not name is kept. Those of several functions are added: `fused_qkv() + fused_gate_up()`.

namespace fsdpinit::rules {

/// Llama, Mistral, Qwen 2 and 3: `q_proj`, `k_proj` and `v_proj` are `qkv_proj`, one behind the other along dim 0; biases, too, where
/// there are any.
[[nodiscard]] inline rule_set fused_qkv() {
  const auto fused = [](const std::string& what) {
    const auto of = [&](const std::string& which) { return node("{p...}.self_attn." + which + what); };
    return make("{p...}.self_attn.qkv_proj" + what, concat(0, {of("q_proj"), of("k_proj"), of("v_proj")}));
  };
  return {fused(".weight"), optional(fused(".bias"))};
}

/// The same families, where layers are dense: `gate_proj` and `up_proj` are `gate_up_proj`.
[[nodiscard]] inline rule_set fused_gate_up() {
  const auto fused = [](const std::string& what) {
    const auto of = [&](const std::string& which) { return node("{p...}.mlp." + which + what); };
    return make("{p...}.mlp.gate_up_proj" + what, concat(0, {of("gate_proj"), of("up_proj")}));
  };
  return {fused(".weight"), optional(fused(".bias"))};
}

/// Qwen3-MoE's experts as transformers 5 has them: `mlp.experts.gate_up_proj` [E, 2I, H], gate before up, and
/// `mlp.experts.down_proj` [E, H, I].
[[nodiscard]] inline rule_set qwen3_moe_stacked() {
  return {make("{p...}.mlp.experts.gate_up_proj", concat(1, {stack("e", "{p...}.mlp.experts.{e}.gate_proj.weight"),
                                                             stack("e", "{p...}.mlp.experts.{e}.up_proj.weight")})),
          make("{p...}.mlp.experts.down_proj", stack("e", "{p...}.mlp.experts.{e}.down_proj.weight"))};
}

/// DeepSeek V2's and V3's experts as transformers 5 has them: called as those of Qwen3-MoE. Routers, `mlp.gate`, are F32 there, and BF16 in
/// published checkpoints. Shared experts and dense layers stay as they are.
[[nodiscard]] inline rule_set deepseek_stacked() {
  const std::string router = "{p...}.mlp.gate.weight";
  return qwen3_moe_stacked() + rule_set{optional(make(router, cast(dtype::f32, router)))};
}

/// Mixtral's experts as transformers 5 has them: of `block_sparse_moe`, w1 (gate) and w3 (up) are `mlp.experts.gate_up_proj` [E, 2I, H], w2
/// is `mlp.experts.down_proj` [E, H, I], and the router is `mlp.gate`.
[[nodiscard]] inline rule_set mixtral_stacked() {
  const auto experts = [](const std::string& which) {
    return stack("e", "{p...}.block_sparse_moe.experts.{e}." + which + ".weight");
  };
  return {make("{p...}.mlp.experts.gate_up_proj", concat(1, {experts("w1"), experts("w3")})),
          make("{p...}.mlp.experts.down_proj", experts("w2")),
          make("{p...}.mlp.gate.weight", "{p...}.block_sparse_moe.gate.weight")};
}

/// GPT-2's Conv1D weights, [in, out], as those of linear layers, [out, in], under the same names. Without the causal masks that its
/// checkpoints hold.
[[nodiscard]] inline rule_set gpt2_transposed() {
  const auto transposed = [](const std::string& name) { return make(name, permute({1, 0}, name)); };
  return {transposed("{p...}.c_attn.weight"), transposed("{p...}.c_proj.weight"), transposed("{p...}.c_fc.weight"),
          optional(drop("{p...}.attn.bias")), optional(drop("{p...}.attn.masked_bias"))};
}

/// Rows of a query or key projection, or its bias, from pairs that are neighbours (Meta's layout, interleaved) to pairs that are half a
/// head apart (Hugging Face's, half-split): with n rows a head, out[j*n/2 + k] = in[2k + j] within each, for j = 0, 1 and k < n/2.
[[nodiscard]] inline node half_split_rotary(std::uint64_t heads, node interleaved) {
  return rearrange("(h k two) ... -> (h two k) ...", std::move(interleaved), {{"h", heads}, {"two", 2}});
}
/// The way back: out[2k + j] = in[j*n/2 + k].
[[nodiscard]] inline node interleaved_rotary(std::uint64_t heads, node half_split) {
  return rearrange("(h two k) ... -> (h k two) ...", std::move(half_split), {{"h", heads}, {"two", 2}});
}

/// The query and key projections of Llama's names, from interleaved to half-split; those of keys have `key_heads`.
[[nodiscard]] inline rule_set llama_half_split(std::uint64_t heads, std::uint64_t key_heads) {
  const auto split = [](const std::string& name, std::uint64_t count) {
    return make(name, half_split_rotary(count, name));
  };
  return {split("{p...}.self_attn.q_proj.weight", heads), split("{p...}.self_attn.k_proj.weight", key_heads),
          optional(split("{p...}.self_attn.q_proj.bias", heads)),
          optional(split("{p...}.self_attn.k_proj.bias", key_heads))};
}
/// The way back.
[[nodiscard]] inline rule_set llama_interleaved(std::uint64_t heads, std::uint64_t key_heads) {
  const auto join = [](const std::string& name, std::uint64_t count) {
    return make(name, interleaved_rotary(count, name));
  };
  return {join("{p...}.self_attn.q_proj.weight", heads), join("{p...}.self_attn.k_proj.weight", key_heads),
          optional(join("{p...}.self_attn.q_proj.bias", heads)),
          optional(join("{p...}.self_attn.k_proj.bias", key_heads))};
}

}  // namespace fsdpinit::rules

namespace fsdpinit {

/// For `renamed`: a name without what PyTorch's wrappers put into it, `module` (DataParallel, DDP), `_orig_mod` (torch.compile),
/// `_fsdp_wrapped_module` and `_checkpoint_wrapped_module`, wherever these stand between dots and however often. Rules cannot say that, as
/// each name in them has a fixed number of parts and variables. A name that is nothing else stays.
[[nodiscard]] inline std::string without_wrappers(std::string_view name) {
  constexpr std::array<std::string_view, 4> wrappers{"module", "_orig_mod", "_fsdp_wrapped_module",
                                                     "_checkpoint_wrapped_module"};
  std::string out;
  for (std::size_t at = 0; at <= name.size();) {
    const std::string_view part = name.substr(at, name.find('.', at) - at);
    if (std::find(wrappers.begin(), wrappers.end(), part) == wrappers.end()) {
      out.append(out.empty() ? "" : ".").append(part);
    }
    at += part.size() + 1;
  }
  return out.empty() ? std::string(name) : out;
}

}  // namespace fsdpinit
