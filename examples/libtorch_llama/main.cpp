// A decoder in torch::nn, sharded over processes from a checkpoint of Hugging Face, and trained for a few steps.
//
//   launch.sh 4 libtorch_llama CHECKPOINT [STEPS] [LAYERS] [TIMELINE]     (or under torchrun's like, or mpirun)
//
// CHECKPOINT is a folder with a config.json beside its weights; without that file it is taken for Qwen3-0.6B, of LAYERS layers.
// TIMELINE.<rank>.csv is what the rank held over time.
#include "llama.hpp"
#include "process_group.hpp"
#include "train_step.hpp"
#include <fsdpinit/fsdpinit.hpp>
#include <fsdpinit/observe/resident_memory.hpp>
#include <fsdpinit/observe/timeline.hpp>
#include <fsdpinit/sources/adaptors.hpp>
#include <fsdpinit/sources/safetensors.hpp>
#include <fsdpinit/torch.hpp>

#include <nlohmann/json.hpp>

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>

namespace {

llama_config config_of(const std::filesystem::path& checkpoint, std::int64_t layers) {
  llama_config out;
  std::ifstream file(checkpoint / "config.json");
  if (!file) {
    out.layers = layers;
    return out;
  }
  const auto json = nlohmann::json::parse(file);
  out.vocab_size = json.at("vocab_size");
  out.hidden_size = json.at("hidden_size");
  out.layers = json.at("num_hidden_layers");
  out.heads = json.at("num_attention_heads");
  out.kv_heads = json.value("num_key_value_heads", out.heads);
  out.head_dim = json.value("head_dim", out.hidden_size / out.heads);
  out.intermediate_size = json.at("intermediate_size");
  out.rope_theta = json.value("rope_theta", 1e4);
  out.norm_epsilon = json.at("rms_norm_eps");
  out.norms_heads = json.at("model_type") == "qwen3";
  out.tied = json.value("tie_word_embeddings", false);
  return out;
}

double mib_of(std::uint64_t bytes) { return static_cast<double>(bytes) / static_cast<double>(fsdpinit::mib); }

void write(const fsdpinit::memory_timeline& timeline, const std::string& path) {
  std::ofstream file(path);
  timeline.write_csv([&](std::string_view text) { file << text; });
  if (!file.flush()) {
    throw std::runtime_error("cannot write " + path);
  }
}

void run(const std::string& path, std::int64_t steps, std::int64_t layers, const std::string& timeline_path) {
  const launch who = launch_from_environment();
  const auto group = make_process_group(who, std::chrono::minutes(2));
  const llama_config config = config_of(path, layers);
  const std::uint64_t base = fsdpinit::peak_resident_bytes();
  fsdpinit::host_memory memory;
  fsdpinit::memory_timeline timeline;
  auto watch = timeline.observer(static_cast<std::size_t>(who.rank), memory.shared_account());
  watch.phase("construct");

  // [init]
  std::optional<fsdpinit::skip_init> skipping(std::in_place);  // no random weights: parameters take no memory yet
  Llama net(config);
  skipping.reset();
  fsdpinit::torch_module module(net);
  torch::optim::AdamW adamw(module.parameters(), torch::optim::AdamWOptions(1e-4));
  fsdpinit::torch_optimizer optimizer(adamw, module);
  fsdpinit::c10d_communicator ranks(*group);
  auto source = fsdpinit::checkpoint{path} | fsdpinit::cast(fsdpinit::dtype::f32);
  fsdpinit::rank_report report = fsdpinit::initialize(
      module, source, ranks, {}, {.memory = memory, .observer = watch, .optimizer = {module, optimizer}});
  // net's parameters are this rank's shards now, in their own handles: adamw has them too
  // [init]
  const std::uint64_t peak = fsdpinit::peak_resident_bytes();
  std::printf("rank %d of %d: %.1f MiB of shards; resident %.1f MiB before, at most %.1f MiB while loading\n", who.rank,
              who.size, mib_of(report.predicted.shard_bytes), mib_of(base), mib_of(peak));

  watch.phase("train");
  fsdpinit::sharded_units units(module, ranks, {}, memory);
  torch::manual_seed(static_cast<std::uint64_t>(who.rank));
  const torch::Tensor tokens = torch::randint(config.vocab_size, {1, 32}, torch::kLong);  // other ones on each rank
  for (std::int64_t step = 0; step < steps; ++step) {
    const double loss = train_step(module, units, adamw, [&] { return net->loss(tokens); });
    std::printf("rank %d: step %ld, loss %.4f\n", who.rank, static_cast<long>(step), loss);
  }
  watch.phase("ready");
  timeline.stop();
  if (!timeline_path.empty()) {
    write(timeline, timeline_path + "." + std::to_string(who.rank) + ".csv");
  }
}

}  // namespace

int main(int count, char** arguments) {
  if (count < 2) {
    std::fputs("usage: libtorch_llama CHECKPOINT [STEPS] [LAYERS] [TIMELINE]\n", stderr);
    return 2;
  }
  try {
    run(arguments[1], count > 2 ? std::stol(arguments[2]) : 2, count > 3 ? std::stol(arguments[3]) : 28,
        count > 4 ? arguments[4] : "");
  } catch (const std::exception& failure) {
    const std::string text = failure.what();
    std::fprintf(stderr, "libtorch_llama: %s\n", text.substr(0, text.find('\n')).c_str());
    return 1;
  }
  return 0;
}
