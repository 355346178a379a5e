#pragma once

#include "support/adamw.hpp"
#include <fsdpinit/core.hpp>
#include <fsdpinit/modules/counter_rng.hpp>
#include <fsdpinit/modules/dynamic_module.hpp>
#include <fsdpinit/sources/in_memory.hpp>

#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

/// \file
/// A language model small enough to train in a test: it says which token follows three others. An embedding that is tied to the
/// head, and blocks of norm, linear, tanh and linear around which the stream passes. Forward and backward are written out in
/// float, example by example and element by element, so that the same weights and examples give the same bits.

namespace fsdpinit::testing_support {

using float_tensors = std::map<std::string, std::vector<float>, std::less<>>;

struct language_model {
  static constexpr std::size_t vocabulary = 29;
  static constexpr std::size_t context = 3;
  static constexpr std::size_t width = 12;
  static constexpr std::size_t hidden = 18;
  static constexpr std::size_t layers = 3;

  struct weight {
    std::string fqn;
    shape extents;
    placement how = shard{0};
    float mean = 0;
    float deviation = 0.3F;
    bool decays = true;
    std::string tied{};
    bool trained = true;
  };

  /// Rows of a frozen table that pairs of tokens are looked up in; 0: none.
  std::size_t pairs = 0;

  /// Placements differ from layer to layer; rows do not divide evenly, and on four ranks one has no position.
  [[nodiscard]] std::vector<weight> weights() const {
    std::vector<weight> out{{.fqn = "embed.weight", .extents = {vocabulary, width}, .tied = "head.weight"},
                            {.fqn = "position", .extents = {context, width}, .decays = false}};
    if (pairs != 0) {
      out.push_back({.fqn = "pairs", .extents = {pairs, width}, .deviation = 0.03F, .decays = false, .trained = false});
    }
    for (std::size_t layer = 0; layer < layers; ++layer) {
      const std::string prefix = concat("layers.", layer, ".");
      const bool odd = layer % 2 == 1;
      const placement norm = odd ? placement(replicate{}) : shard{0};
      out.push_back({.fqn = prefix + "norm", .extents = {width}, .how = norm, .mean = 1, .decays = false});
      out.push_back({.fqn = prefix + "up", .extents = {hidden, width}, .how = shard{odd ? 1 : 0}});
      out.push_back({.fqn = prefix + "bias", .extents = {hidden}, .decays = false});
      out.push_back({.fqn = prefix + "down", .extents = {width, hidden}});
    }
    return out;
  }

  /// On meta.
  [[nodiscard]] dynamic_module module() const {
    dynamic_module out;
    for (const weight& each : weights()) {
      out.add_parameter(each.fqn, dtype::f32, each.extents, each.how).set_requires_grad(each.trained);
      if (!each.tied.empty()) {
        out.add_parameter(each.tied, dtype::f32, each.extents, each.how);
        out.tie({each.fqn, each.tied});
      }
    }
    return out;
  }

  [[nodiscard]] float_tensors values(std::uint64_t seed) const {
    float_tensors out;
    for (const weight& each : weights()) {
      std::vector<float>& made = out[each.fqn];
      made.resize(*checked_elements(each.extents));
      const counter_rng random(seed, each.fqn);
      for (std::size_t i = 0; i < made.size(); ++i) {
        made[i] = random.normal(i, each.mean, each.deviation);
      }
    }
    return out;
  }

  /// Views into `of`.
  [[nodiscard]] in_memory_source checkpoint(const float_tensors& of) const {
    std::vector<in_memory_tensor> stored;
    for (const weight& each : weights()) {
      stored.push_back({.descriptor = {.name = each.fqn, .dtype = dtype::f32, .shape = each.extents},
                        .bytes = std::as_bytes(std::span(of.at(each.fqn)))});
    }
    return in_memory_source(std::move(stored));
  }

  /// Gives every parameter whole values, one allocation for each tensor.
  void load(dynamic_module& module, const float_tensors& of) const {
    for (const weight& each : weights()) {
      const auto owner = std::make_shared<std::vector<float>>(of.at(each.fqn));
      const local_shard whole{.shape = each.extents,
                              .offset = 0,
                              .bytes = owner->size() * sizeof(float),
                              .data = {owner, reinterpret_cast<std::byte*>(owner->data())}};
      module.get_parameter(each.fqn).adopt(local_shard(whole));
      if (!each.tied.empty()) {
        module.get_parameter(each.tied).adopt(local_shard(whole));
      }
    }
  }

  /// Without references: as for a module on meta.
  [[nodiscard]] adamw optimizer() const {
    adamw::group decaying{.names = {}, .rate = 0.02F, .decay = 0.01F};
    adamw::group others{.names = {}, .rate = 0.01F, .decay = 0};
    for (const weight& each : weights()) {
      if (each.trained) {
        (each.decays ? decaying : others).names.push_back(each.fqn);
      }
    }
    return adamw({decaying, others});
  }
  /// With references to what the module holds.
  [[nodiscard]] adamw optimizer_over(dynamic_module& module) const {
    adamw out = optimizer();
    const std::vector<std::vector<std::string>> groups = out.parameter_groups();
    for (std::size_t group = 0; group < groups.size(); ++group) {
      for (const std::string& fqn : groups[group]) {
        parameter& slot = module.get_parameter(fqn);
        if (!slot.is_meta()) {
          out.rebind(group, fqn, slot);
        }
      }
    }
    return out;
  }
};

[[nodiscard]] inline std::span<const float> floats_of(dynamic_module& module, std::string_view fqn) {
  const local_shard& held = module.get_parameter(fqn).local();
  return {reinterpret_cast<const float*>(held.data.get()), held.bytes / sizeof(float)};
}

// -- examples

struct language_example {
  std::array<std::size_t, language_model::context> tokens{};
  std::size_t next = 0;
};

/// Each step has a batch of its own. What follows depends on the last token alone, which the model has to find out.
[[nodiscard]] inline std::vector<language_example> language_batch(std::size_t step, std::size_t examples) {
  const counter_rng random(1, concat("batch ", step));
  std::vector<language_example> out(examples);
  for (std::size_t i = 0; i < examples; ++i) {
    const auto words = random.words(i);
    for (std::size_t p = 0; p < language_model::context; ++p) {
      out[i].tokens[p] = words[p] % language_model::vocabulary;
    }
    out[i].next = (out[i].tokens.back() * 5 + 3) % language_model::vocabulary;
  }
  return out;
}

// -- forward and backward

/// How terms of a gradient are added up.
struct sum_of_terms {
  void operator()(float& sum, float term) const noexcept { sum += term; }
};
/// Of the terms' magnitudes, for bounds on what rounding may do to their sum.
struct sum_of_magnitudes {
  void operator()(float& sum, float term) const noexcept { sum += std::abs(term); }
};

namespace language {

using stream = std::array<float, language_model::width>;  // of one example

struct block_weights {
  block_weights(dynamic_module& module, const std::string& layer)
      : norm(floats_of(module, layer + ".norm")),
        up(floats_of(module, layer + ".up")),
        bias(floats_of(module, layer + ".bias")),
        down(floats_of(module, layer + ".down")) {}
  std::span<const float> norm, up, bias, down;
};

struct block_values {
  float scale = 0;  ///< of the norm
  stream normed{};
  std::array<float, language_model::hidden> active{};
};

[[nodiscard]] inline block_values values_in(const block_weights& weights, const stream& in) {
  block_values out;
  float squares = 0;
  for (const float each : in) {
    squares += each * each;
  }
  out.scale = 1.0F / std::sqrt(squares / static_cast<float>(in.size()) + 1e-5F);
  for (std::size_t i = 0; i < in.size(); ++i) {
    out.normed[i] = in[i] * out.scale * weights.norm[i];
  }
  for (std::size_t j = 0; j < out.active.size(); ++j) {
    float sum = weights.bias[j];
    for (std::size_t i = 0; i < in.size(); ++i) {
      sum += weights.up[j * in.size() + i] * out.normed[i];
    }
    out.active[j] = std::tanh(sum);
  }
  return out;
}

[[nodiscard]] inline stream block_forward(const block_weights& weights, const stream& in) {
  const block_values values = values_in(weights, in);
  stream out = in;
  for (std::size_t i = 0; i < out.size(); ++i) {
    for (std::size_t j = 0; j < values.active.size(); ++j) {
      out[i] += weights.down[i * values.active.size() + j] * values.active[j];
    }
  }
  return out;
}

struct block_gradients {
  block_gradients(float_tensors& of, const std::string& layer)
      : norm(of.at(layer + ".norm")),
        up(of.at(layer + ".up")),
        bias(of.at(layer + ".bias")),
        down(of.at(layer + ".down")) {}
  std::span<float> norm, up, bias, down;
};

/// \param out the loss's derivative by what the block gave. \return by what it was given, which is recomputed from.
template <class Sum>
[[nodiscard]] stream block_backward(const block_weights& weights, const stream& in, const stream& out,
                                    block_gradients& gradients, Sum add) {
  const block_values values = values_in(weights, in);
  const std::size_t hidden = values.active.size();
  stream normed{};
  for (std::size_t j = 0; j < hidden; ++j) {
    float active = 0;
    for (std::size_t i = 0; i < in.size(); ++i) {
      active += weights.down[i * hidden + j] * out[i];
      add(gradients.down[i * hidden + j], out[i] * values.active[j]);
    }
    const float before = active * (1.0F - values.active[j] * values.active[j]);
    add(gradients.bias[j], before);
    for (std::size_t i = 0; i < in.size(); ++i) {
      normed[i] += weights.up[j * in.size() + i] * before;
      add(gradients.up[j * in.size() + i], before * values.normed[i]);
    }
  }
  float along = 0;  // the norm takes away what would make the stream longer
  for (std::size_t i = 0; i < in.size(); ++i) {
    add(gradients.norm[i], normed[i] * in[i] * values.scale);
    normed[i] *= weights.norm[i];
    along += normed[i] * in[i] * values.scale;
  }
  along /= static_cast<float>(in.size());
  stream result = out;
  for (std::size_t i = 0; i < in.size(); ++i) {
    result[i] += values.scale * (normed[i] - in[i] * values.scale * along);
  }
  return result;
}

[[nodiscard]] inline stream embed(dynamic_module& module, const language_example& example) {
  const std::span<const float> table = floats_of(module, "embed.weight");
  const std::span<const float> position = floats_of(module, "position");
  stream out{};
  for (std::size_t p = 0; p < example.tokens.size(); ++p) {
    for (std::size_t i = 0; i < out.size(); ++i) {
      out[i] += table[example.tokens[p] * out.size() + i] * position[p * out.size() + i];
    }
  }
  return out;
}

inline void add_pair(dynamic_module& module, const language_example& example, std::size_t pairs, stream& to) {
  const std::span<const float> table = floats_of(module, "pairs");
  const std::size_t row = (example.tokens[1] * language_model::vocabulary + example.tokens[2]) * 97 % pairs;
  for (std::size_t i = 0; i < to.size(); ++i) {
    to[i] += table[row * to.size() + i];
  }
}

template <class Sum>
void embed_backward(dynamic_module& module, const language_example& example, const stream& out,
                    float_tensors& gradients, Sum add) {
  const std::span<const float> table = floats_of(module, "embed.weight");
  const std::span<const float> position = floats_of(module, "position");
  std::vector<float>& of_table = gradients.find("embed.weight")->second;
  std::vector<float>& of_position = gradients.find("position")->second;
  for (std::size_t p = 0; p < example.tokens.size(); ++p) {
    for (std::size_t i = 0; i < out.size(); ++i) {
      const std::size_t at = example.tokens[p] * out.size() + i;
      add(of_table[at], out[i] * position[p * out.size() + i]);
      add(of_position[p * out.size() + i], out[i] * table[at]);
    }
  }
}

/// Cross entropy. \param in becomes the derivative of `weight` times the loss.
template <class Sum>
[[nodiscard]] float head(dynamic_module& module, const language_example& example, float weight, stream& in,
                         float_tensors& gradients, Sum add) {
  const std::span<const float> table = floats_of(module, "head.weight");
  std::vector<float>& of_table = gradients.find("embed.weight")->second;
  std::array<float, language_model::vocabulary> odds{};
  float total = 0;
  float wanted = 0;
  for (std::size_t v = 0; v < odds.size(); ++v) {
    float logit = 0;
    for (std::size_t i = 0; i < in.size(); ++i) {
      logit += table[v * in.size() + i] * in[i];
    }
    wanted = v == example.next ? logit : wanted;
    odds[v] = std::exp(logit);
    total += odds[v];
  }
  stream result{};
  for (std::size_t v = 0; v < odds.size(); ++v) {
    const float by_logit = (odds[v] / total - (v == example.next ? 1.0F : 0.0F)) * weight;
    for (std::size_t i = 0; i < in.size(); ++i) {
      result[i] += by_logit * table[v * in.size() + i];
      add(of_table[v * in.size() + i], by_logit * in[i]);
    }
  }
  in = result;
  return std::log(total) - wanted;
}

}  // namespace language

/// The model's parts as a training loop that shards them sees them; this one has them whole all the time.
struct whole_parts {
  void gather(std::string_view /*part*/) {}
  void release(std::string_view /*part*/) {}
  void reduce(std::string_view /*part*/) {}
};

/// The mean loss over the examples, and its gradients: of every trained tensor, whole.
///
/// \param parts  `gather(part)` comes before weights of the part are read, `release(part)` after, and between them
///               `reduce(part)` when its gradients are complete. Parts are the layers, `layers.0` and so on, one at a time, and
///               "", the rest, which is kept from beginning to end.
template <class Parts, class Sum = sum_of_terms>
[[nodiscard]] float language_gradients(const language_model& model, dynamic_module& module,
                                       std::span<const language_example> examples, float_tensors& gradients,
                                       Parts&& parts, Sum add = {}) {
  gradients.clear();
  for (const language_model::weight& each : model.weights()) {
    if (each.trained) {
      gradients[each.fqn].assign(*checked_elements(each.extents), 0.0F);
    }
  }
  std::vector<std::vector<language::stream>> streams(language_model::layers + 1,
                                                     std::vector<language::stream>(examples.size()));
  parts.gather("");
  for (std::size_t e = 0; e < examples.size(); ++e) {
    streams[0][e] = language::embed(module, examples[e]);
    if (model.pairs != 0) {
      language::add_pair(module, examples[e], model.pairs, streams[0][e]);
    }
  }
  for (std::size_t layer = 0; layer < language_model::layers; ++layer) {
    const std::string name = concat("layers.", layer);
    parts.gather(name);
    const language::block_weights weights(module, name);
    for (std::size_t e = 0; e < examples.size(); ++e) {
      streams[layer + 1][e] = language::block_forward(weights, streams[layer][e]);
    }
    parts.release(name);
  }
  float loss = 0;
  std::vector<language::stream>& derivatives = streams.back();
  for (std::size_t e = 0; e < examples.size(); ++e) {
    loss +=
        language::head(module, examples[e], 1.0F / static_cast<float>(examples.size()), derivatives[e], gradients, add);
  }
  for (std::size_t layer = language_model::layers; layer-- > 0;) {
    const std::string name = concat("layers.", layer);
    parts.gather(name);
    const language::block_weights weights(module, name);
    language::block_gradients of_block(gradients, name);
    for (std::size_t e = 0; e < examples.size(); ++e) {
      derivatives[e] = language::block_backward(weights, streams[layer][e], derivatives[e], of_block, add);
    }
    parts.reduce(name);
    parts.release(name);
  }
  for (std::size_t e = 0; e < examples.size(); ++e) {
    language::embed_backward(module, examples[e], derivatives[e], gradients, add);
  }
  parts.reduce("");
  parts.release("");
  return loss / static_cast<float>(examples.size());
}

}  // namespace fsdpinit::testing_support
