// A decoder of the Llama family (Llama, Qwen3) in torch::nn, under the names that Hugging Face's checkpoints have for it.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <utility>
#include <vector>

#include <ATen/core/ivalue.h>  // before the rest: without it libtorch 1.13 does not compile as C++20
#include <torch/torch.h>

struct llama_config {
  std::int64_t vocab_size = 151936;
  std::int64_t hidden_size = 1024;
  std::int64_t layers = 28;
  std::int64_t heads = 16;
  std::int64_t kv_heads = 8;
  std::int64_t head_dim = 128;
  std::int64_t intermediate_size = 3072;
  double rope_theta = 1e6;
  double norm_epsilon = 1e-6;
  bool norms_heads = true;  // Qwen3 has norms of queries and keys
  bool tied = true;         // the head is the embedding
};

struct RMSNormImpl : torch::nn::Module {
  RMSNormImpl(std::int64_t size, double small) : epsilon(small) {
    weight = register_parameter("weight", torch::ones({size}));
  }
  torch::Tensor forward(const torch::Tensor& x) {
    const torch::Tensor wide = x.to(torch::kFloat);
    return weight * (wide * torch::rsqrt(wide.pow(2).mean(-1, true) + epsilon)).to(x.scalar_type());
  }
  double epsilon;
  torch::Tensor weight;
};
TORCH_MODULE(RMSNorm);

/// Angles of the rotary embedding. `inv_freq` is computed, and in no checkpoint: a non-persistent buffer.
struct RotaryImpl : torch::nn::Module {
  RotaryImpl(std::int64_t head_dim, double theta) {
    const torch::Tensor exponents = torch::arange(0, head_dim, 2, torch::kFloat) / static_cast<double>(head_dim);
    inv_freq = register_buffer("inv_freq", torch::pow(theta, -exponents));
  }
  /// cos and sin, [time, head_dim] each.
  std::pair<torch::Tensor, torch::Tensor> forward(std::int64_t time) {
    const torch::Tensor half = torch::outer(torch::arange(time, torch::kFloat), inv_freq.to(torch::kFloat));
    const torch::Tensor angles = torch::cat({half, half}, -1);
    return {angles.cos(), angles.sin()};
  }
  torch::Tensor inv_freq;
};
TORCH_MODULE(Rotary);

struct AttentionImpl : torch::nn::Module {
  explicit AttentionImpl(const llama_config& config) : how(config) {
    const auto linear = [](std::int64_t in, std::int64_t out) {
      return torch::nn::Linear(torch::nn::LinearOptions(in, out).bias(false));
    };
    q_proj = register_module("q_proj", linear(how.hidden_size, how.heads * how.head_dim));
    k_proj = register_module("k_proj", linear(how.hidden_size, how.kv_heads * how.head_dim));
    v_proj = register_module("v_proj", linear(how.hidden_size, how.kv_heads * how.head_dim));
    o_proj = register_module("o_proj", linear(how.heads * how.head_dim, how.hidden_size));
    if (how.norms_heads) {
      q_norm = register_module("q_norm", RMSNorm(how.head_dim, how.norm_epsilon));
      k_norm = register_module("k_norm", RMSNorm(how.head_dim, how.norm_epsilon));
    }
  }
  /// x [batch, time, hidden]
  torch::Tensor forward(const torch::Tensor& x, const torch::Tensor& cos, const torch::Tensor& sin) {
    const std::int64_t batch = x.size(0);
    const std::int64_t time = x.size(1);
    const auto heads_of = [&](const torch::Tensor& all, std::int64_t count) {
      return all.view({batch, time, count, how.head_dim});
    };
    torch::Tensor q = heads_of(q_proj(x), how.heads);
    torch::Tensor k = heads_of(k_proj(x), how.kv_heads);
    if (how.norms_heads) {
      q = q_norm(q);
      k = k_norm(k);
    }
    const std::int64_t sharing = how.heads / how.kv_heads;  // grouped queries: as many heads share one key and value
    q = rotated(q.transpose(1, 2), cos, sin);
    k = rotated(k.transpose(1, 2), cos, sin).repeat_interleave(sharing, 1);
    const torch::Tensor v = heads_of(v_proj(x), how.kv_heads).transpose(1, 2).repeat_interleave(sharing, 1);
    const torch::Tensor future = torch::ones({time, time}, torch::kBool).triu(1);
    const torch::Tensor scores = torch::matmul(q, k.transpose(2, 3)) / std::sqrt(static_cast<double>(how.head_dim));
    const torch::Tensor weights =
        scores.to(torch::kFloat).masked_fill(future, -std::numeric_limits<float>::infinity()).softmax(-1);
    return o_proj(torch::matmul(weights.to(v.scalar_type()), v).transpose(1, 2).reshape({batch, time, -1}));
  }
  static torch::Tensor rotated(const torch::Tensor& x, const torch::Tensor& cos, const torch::Tensor& sin) {
    const std::vector<torch::Tensor> halves = x.chunk(2, -1);
    const torch::Tensor turned = torch::cat({-halves[1], halves[0]}, -1);
    return x * cos.to(x.scalar_type()) + turned * sin.to(x.scalar_type());
  }
  llama_config how;
  torch::nn::Linear q_proj{nullptr}, k_proj{nullptr}, v_proj{nullptr}, o_proj{nullptr};
  RMSNorm q_norm{nullptr}, k_norm{nullptr};
};
TORCH_MODULE(Attention);

struct FeedForwardImpl : torch::nn::Module {
  explicit FeedForwardImpl(const llama_config& how) {
    const auto linear = [](std::int64_t in, std::int64_t out) {
      return torch::nn::Linear(torch::nn::LinearOptions(in, out).bias(false));
    };
    gate_proj = register_module("gate_proj", linear(how.hidden_size, how.intermediate_size));
    up_proj = register_module("up_proj", linear(how.hidden_size, how.intermediate_size));
    down_proj = register_module("down_proj", linear(how.intermediate_size, how.hidden_size));
  }
  torch::Tensor forward(const torch::Tensor& x) { return down_proj(torch::silu(gate_proj(x)) * up_proj(x)); }
  torch::nn::Linear gate_proj{nullptr}, up_proj{nullptr}, down_proj{nullptr};
};
TORCH_MODULE(FeedForward);

struct DecoderLayerImpl : torch::nn::Module {
  explicit DecoderLayerImpl(const llama_config& how) {
    input_layernorm = register_module("input_layernorm", RMSNorm(how.hidden_size, how.norm_epsilon));
    self_attn = register_module("self_attn", Attention(how));
    post_attention_layernorm = register_module("post_attention_layernorm", RMSNorm(how.hidden_size, how.norm_epsilon));
    mlp = register_module("mlp", FeedForward(how));
  }
  torch::Tensor forward(torch::Tensor x, const torch::Tensor& cos, const torch::Tensor& sin) {
    x = x + self_attn(input_layernorm(x), cos, sin);
    return x + mlp(post_attention_layernorm(x));
  }
  RMSNorm input_layernorm{nullptr}, post_attention_layernorm{nullptr};
  Attention self_attn{nullptr};
  FeedForward mlp{nullptr};
};
TORCH_MODULE(DecoderLayer);

struct DecoderImpl : torch::nn::Module {
  explicit DecoderImpl(const llama_config& how) {
    embed_tokens = register_module("embed_tokens", torch::nn::Embedding(how.vocab_size, how.hidden_size));
    layers = register_module("layers", torch::nn::ModuleList());
    for (std::int64_t i = 0; i < how.layers; ++i) {
      layers->push_back(DecoderLayer(how));
    }
    norm = register_module("norm", RMSNorm(how.hidden_size, how.norm_epsilon));
    rotary_emb = register_module("rotary_emb", Rotary(how.head_dim, how.rope_theta));
  }
  torch::Tensor forward(const torch::Tensor& tokens) {
    torch::Tensor x = embed_tokens(tokens);
    const auto [cos, sin] = rotary_emb(tokens.size(1));
    for (const auto& layer : *layers) {
      x = layer->as<DecoderLayer>()->forward(x, cos, sin);
    }
    return norm(x);
  }
  torch::nn::Embedding embed_tokens{nullptr};
  torch::nn::ModuleList layers{nullptr};
  RMSNorm norm{nullptr};
  Rotary rotary_emb{nullptr};
};
TORCH_MODULE(Decoder);

/// A projection to the vocabulary, by a weight of its own or by the embedding's very tensor.
struct HeadImpl : torch::nn::Module {
  explicit HeadImpl(const torch::Tensor& values) { weight = register_parameter("weight", values); }
  torch::Tensor forward(const torch::Tensor& x) { return torch::linear(x, weight); }
  torch::Tensor weight;
};
TORCH_MODULE(Head);

struct LlamaImpl : torch::nn::Module {
  explicit LlamaImpl(const llama_config& how) {
    model = register_module("model", Decoder(how));
    torch::Tensor head = model->embed_tokens->weight;
    if (!how.tied) {
      head = torch::empty({how.vocab_size, how.hidden_size});
      torch::nn::init::normal_(head);
    }
    lm_head = register_module("lm_head", Head(head));
  }
  /// tokens [batch, time] -> logits [batch, time, vocabulary]
  torch::Tensor forward(const torch::Tensor& tokens) { return lm_head(model(tokens)); }
  /// Of predicting each token from those before it.
  torch::Tensor loss(const torch::Tensor& tokens) {
    const std::int64_t time = tokens.size(1);
    const torch::Tensor logits = forward(tokens.slice(1, 0, time - 1));
    return torch::nn::functional::cross_entropy(logits.flatten(0, 1).to(torch::kFloat),
                                                tokens.slice(1, 1, time).flatten());
  }
  Decoder model{nullptr};
  Head lm_head{nullptr};
};
TORCH_MODULE(Llama);
