#pragma once

// The forward pass over sharded units, once for every kind of memory: a layer is whole while it is computed with, and the next one is
// gathered meanwhile.
#include "model.hpp"
#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/core/text.hpp>
#include <fsdpinit/memory/block.hpp>

#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

namespace gpt {

inline const float* floats(const parameter& whole) { return reinterpret_cast<const float*>(whole.data()); }

/// Activations of `t` tokens in `Ops::space`, allocated once.
template <class Ops>
class decoder {
 public:
  using space = typename Ops::space;

  decoder(const config& shape, std::uint64_t t, space memory, Ops& ops)
      : shape_(shape),
        t_(t),
        memory_(memory),
        ops_(ops),
        tokens_(memory_, t * sizeof(int)),
        stream_(make(shape.channels)),
        normal_(make(shape.channels)),
        wide_(make(4 * shape.channels)),
        mixed_(make(shape.channels)),
        logits_(make(shape.rows)) {}

  /// Collective, as unsharding is. \return t x vocabulary logits. \pre no token is outside of the vocabulary.
  template <class Units>
  std::vector<float> logits(const model& weights, std::span<const int> tokens, Units& units) {
    copy_in(tokens);
    const std::uint64_t c = shape_.channels;
    const std::size_t root = units.unit_of("wte.weight");
    units.unshard(root);
    ops_.embed(floats(stream_), ints(tokens_), gpt::floats(weights.wte.weight), gpt::floats(weights.wpe.weight), t_, c);
    units.unshard(unit_of_layer(units, 0));
    for (std::size_t layer = 0; layer < weights.h.size(); ++layer) {
      run(weights.h[layer]);
      if (layer + 1 < weights.h.size()) {
        units.unshard(unit_of_layer(units, layer + 1));  // while the device computes
      }
      ops_.wait();
      units.reshard(unit_of_layer(units, layer));
    }
    normalise(weights.ln_f, stream_);
    ops_.multiply(floats(logits_), floats(normal_), gpt::floats(weights.wte.weight), nullptr, t_, c, shape_.rows);
    ops_.wait();
    units.reshard(root);
    return copy_out();
  }

 private:
  using buffer = fsdpinit::block<space>;

  static float* floats(buffer& memory) { return reinterpret_cast<float*>(memory.data()); }
  static const int* ints(buffer& memory) { return reinterpret_cast<const int*>(memory.data()); }
  template <class Units>
  static std::size_t unit_of_layer(const Units& units, std::size_t layer) {
    return units.unit_of(fsdpinit::concat("h.", layer, ".ln_1.weight"));
  }
  buffer make(std::uint64_t columns) { return buffer(memory_, t_ * columns * sizeof(float)); }

  void normalise(const affine& norm, buffer& in) {
    ops_.normalise(floats(normal_), floats(in), gpt::floats(norm.weight), gpt::floats(norm.bias), t_, shape_.channels);
  }
  void multiply(buffer& out, const affine& layer, buffer& in) {
    const fsdpinit::shape& extents = layer.weight.shape();
    ops_.multiply(floats(out), floats(in), gpt::floats(layer.weight), gpt::floats(layer.bias), t_, extents[1],
                  extents[0]);
  }
  void run(const block& layer) {
    const std::uint64_t c = shape_.channels;
    normalise(layer.ln_1, stream_);
    multiply(wide_, layer.attn.c_attn, normal_);
    ops_.attend(floats(mixed_), floats(wide_), t_, c, shape_.heads);
    multiply(normal_, layer.attn.c_proj, mixed_);
    ops_.add(floats(stream_), floats(normal_), t_ * c);
    normalise(layer.ln_2, stream_);
    multiply(wide_, layer.mlp.c_fc, normal_);
    ops_.activate(floats(wide_), t_ * 4 * c);
    multiply(normal_, layer.mlp.c_proj, wide_);
    ops_.add(floats(stream_), floats(normal_), t_ * c);
  }

  void copy_in(std::span<const int> tokens) {
    typename space::queue order;
    const auto bytes = std::as_bytes(tokens);
    memory_.copy_in(tokens_.data(), bytes.data(), bytes.size(), bytes.size(), 1, order);
    memory_.wait(order);
  }
  std::vector<float> copy_out() {
    std::vector<float> padded(t_ * shape_.rows);
    typename space::queue order;
    memory_.copy_out(reinterpret_cast<std::byte*>(padded.data()), logits_.data(), logits_.size(), order);
    memory_.wait(order);
    std::vector<float> out(t_ * shape_.vocabulary);
    for (std::uint64_t i = 0; i < t_; ++i) {
      std::memcpy(&out[i * shape_.vocabulary], &padded[i * shape_.rows], shape_.vocabulary * sizeof(float));
    }
    return out;
  }

  config shape_;
  std::uint64_t t_;
  space memory_;
  Ops& ops_;
  buffer tokens_;
  buffer stream_;  // the residual stream
  buffer normal_;
  buffer wide_;
  buffer mixed_;
  buffer logits_;
};

}  // namespace gpt
