// Qwen3-0.6B as plain structs: the module tree is the code, and the checkpoint's names are its members' names.
//
//   qwen3 CHECKPOINT [RANKS] [LAYERS]
#include <fsdpinit/fsdpinit.hpp>
#include <fsdpinit/sources/safetensors.hpp>

#include <boost/hana/adapt_struct.hpp>

#include <cstdio>
#include <cstdlib>
#include <string>
#include <thread>
#include <vector>

// [model]
struct weight {
  fsdpinit::parameter weight;  // on meta until it is initialised: shape and dtype, no storage
};
struct attention {
  ::weight q_proj, k_proj, v_proj, o_proj, q_norm, k_norm;
};
struct feed_forward {
  weight gate_proj, up_proj, down_proj;
};
struct decoder_layer {
  weight input_layernorm, post_attention_layernorm;
  attention self_attn;
  feed_forward mlp;
};
struct decoder {
  weight embed_tokens, norm;
  std::vector<decoder_layer> layers;
};
struct qwen3 {
  decoder model;
  weight lm_head;  // tied to the embedding: stored, sent and sharded once
  static std::vector<std::vector<std::string>> tie_groups() {
    return {{"model.embed_tokens.weight", "lm_head.weight"}};
  }
};
BOOST_HANA_ADAPT_STRUCT(weight, weight);
BOOST_HANA_ADAPT_STRUCT(attention, q_proj, k_proj, v_proj, o_proj, q_norm, k_norm);
BOOST_HANA_ADAPT_STRUCT(feed_forward, gate_proj, up_proj, down_proj);
BOOST_HANA_ADAPT_STRUCT(decoder_layer, input_layernorm, post_attention_layernorm, self_attn, mlp);
BOOST_HANA_ADAPT_STRUCT(decoder, embed_tokens, norm, layers);
BOOST_HANA_ADAPT_STRUCT(qwen3, model, lm_head);
// [model]

qwen3 make_model(std::size_t layers) {
  const auto bf16 = [](fsdpinit::shape extents) {
    return weight{fsdpinit::parameter(fsdpinit::dtype::bf16, std::move(extents), fsdpinit::shard{0})};
  };
  qwen3 net;
  net.model.embed_tokens = net.lm_head = bf16({151936, 1024});
  net.model.norm = bf16({1024});
  net.model.layers.assign(
      layers,
      {.input_layernorm = bf16({1024}),
       .post_attention_layernorm = bf16({1024}),
       .self_attn = {.q_proj = bf16({2048, 1024}),
                     .k_proj = bf16({1024, 1024}),
                     .v_proj = bf16({1024, 1024}),
                     .o_proj = bf16({1024, 2048}),
                     .q_norm = bf16({128}),
                     .k_norm = bf16({128})},
       .mlp = {.gate_proj = bf16({3072, 1024}), .up_proj = bf16({3072, 1024}), .down_proj = bf16({1024, 3072})}});
  return net;
}

int main(int count, char** arguments) {
  if (count < 2) {
    std::fputs("usage: qwen3 CHECKPOINT [RANKS] [LAYERS]\n", stderr);
    return 2;
  }
  const std::string path = arguments[1];
  const std::size_t ranks = count > 2 ? std::strtoul(arguments[2], nullptr, 10) : 4;
  const std::size_t layers = count > 3 ? std::strtoul(arguments[3], nullptr, 10) : 28;
  if (ranks == 0) {
    std::fputs("qwen3: RANKS must be a number above 0\n", stderr);
    return 2;
  }
  const fsdpinit::threads_world world(ranks);
  std::vector<std::string> lines(ranks);
  std::vector<std::jthread> threads;
  for (std::size_t rank = 0; rank < ranks; ++rank) {
    threads.emplace_back([&, rank] {
      try {
        // [call]
        qwen3 net = make_model(layers);  // no storage yet
        fsdpinit::rank_report report = fsdpinit::initialize(net, fsdpinit::checkpoint{path}, world.rank(rank),
                                                            {.bucket_bytes = 4 * fsdpinit::mib});
        // net.model.layers[3].self_attn.q_proj.weight.data() is this rank's shard; only rank 0 opened the file
        // [call]
        const fsdpinit::local_shard& head = net.lm_head.weight.local();
        lines[rank] =
            fsdpinit::concat("rank ", rank, ": ", report.units, " units, ", report.predicted.shard_bytes,
                             " bytes of shards, at most ", report.accounted_peak_bytes, " while loading; lm_head ",
                             to_string(head.shape), " from row ", head.offset, "\n");
      } catch (const fsdpinit::error& failure) {
        lines[rank] = fsdpinit::concat("rank ", rank, ": error: ", failure.what(), "\n");
      }
    });
  }
  threads.clear();
  bool failed = false;
  for (const std::string& line : lines) {
    failed = failed || line.find("error:") != std::string::npos;
    std::fputs(line.c_str(), stdout);
  }
  return failed ? 1 : 0;
}
