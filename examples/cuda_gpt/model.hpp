#pragma once

// GPT-2 as plain structs of fsdpinit's ready-made parameters. Member names are the FQNs of Hugging Face's GPT-2; weights are (outputs,
// inputs), as llm.c stores them.
#include <fsdpinit/modules/parameter.hpp>
#include <fsdpinit/modules/struct_module.hpp>

#include <boost/hana/adapt_struct.hpp>

#include <cstdint>
#include <vector>

namespace gpt {

using fsdpinit::dtype;
using fsdpinit::parameter;

struct config {
  std::uint64_t positions = 0;
  std::uint64_t vocabulary = 0;
  std::uint64_t layers = 0;
  std::uint64_t heads = 0;
  std::uint64_t channels = 0;
  std::uint64_t rows = 0;  // of the embedding: the vocabulary, padded
};

struct embedding {
  parameter weight;
};
struct affine {  // a linear layer, or what follows a normalisation
  parameter weight;
  parameter bias;
};
struct attention {
  affine c_attn;
  affine c_proj;
};
struct perceptron {
  affine c_fc;
  affine c_proj;
};
struct block {
  affine ln_1;
  attention attn;
  affine ln_2;
  perceptron mlp;
};
struct model {
  embedding wte;  // the head too
  embedding wpe;
  std::vector<block> h;
  affine ln_f;
};

/// On meta.
inline model make(const config& c) {
  const auto linear = [](std::uint64_t outputs, std::uint64_t inputs) {
    return affine{.weight = parameter(dtype::f32, {outputs, inputs}), .bias = parameter(dtype::f32, {outputs})};
  };
  const auto norm = [&] {
    return affine{.weight = parameter(dtype::f32, {c.channels}), .bias = parameter(dtype::f32, {c.channels})};
  };
  model out{.wte = {parameter(dtype::f32, {c.rows, c.channels})},
            .wpe = {parameter(dtype::f32, {c.positions, c.channels})},
            .h = {},
            .ln_f = norm()};
  for (std::uint64_t layer = 0; layer < c.layers; ++layer) {
    out.h.push_back(
        {.ln_1 = norm(),
         .attn = {.c_attn = linear(3 * c.channels, c.channels), .c_proj = linear(c.channels, c.channels)},
         .ln_2 = norm(),
         .mlp = {.c_fc = linear(4 * c.channels, c.channels), .c_proj = linear(c.channels, 4 * c.channels)}});
  }
  return out;
}

}  // namespace gpt

BOOST_HANA_ADAPT_STRUCT(gpt::embedding, weight);
BOOST_HANA_ADAPT_STRUCT(gpt::affine, weight, bias);
BOOST_HANA_ADAPT_STRUCT(gpt::attention, c_attn, c_proj);
BOOST_HANA_ADAPT_STRUCT(gpt::perceptron, c_fc, c_proj);
BOOST_HANA_ADAPT_STRUCT(gpt::block, ln_1, attn, ln_2, mlp);
BOOST_HANA_ADAPT_STRUCT(gpt::model, wte, wpe, h, ln_f);
