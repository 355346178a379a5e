// A checkpoint as it is published, for a model that has its tensors fused, stacked, transposed and padded.
// usage: fsdpinit_conversions MAP.json [PART]
// MAP.json has the same rules as this program. Tensors with PART in their names are left out of the checkpoint: the program prints the error.
#include <fsdpinit/fsdpinit.hpp>
#include <fsdpinit/os/output_file.hpp>
#include <fsdpinit/sources/converted.hpp>
#include <fsdpinit/sources/json_rules_file.hpp>
#include <fsdpinit/sources/rules.hpp>
#include <fsdpinit/sources/safetensors.hpp>
#include <fsdpinit/sources/safetensors_writer.hpp>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <numeric>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include <unistd.h>

namespace {

constexpr std::size_t ranks = 2;

struct extents_of {
  const char* name;
  fsdpinit::shape extents;
};

std::vector<extents_of> published() {
  return {{"embed.weight", {6, 2}},
          {"layers.0.attn.q_proj.weight", {4, 2}},
          {"layers.0.attn.k_proj.weight", {2, 2}},
          {"layers.0.attn.v_proj.weight", {2, 2}},
          {"layers.0.experts.0.down_proj.weight", {2, 3}},
          {"layers.0.experts.1.down_proj.weight", {2, 3}},
          {"layers.0.fc.weight", {2, 4}},
          {"layers.0.norm.weight", {2}},
          {"layers.0.rotary_emb.inv_freq", {1}}};
}

std::vector<extents_of> wanted() {
  return {{"embed.weight", {8, 2}},
          {"layers.0.attn.qkv_proj.weight", {8, 2}},
          {"layers.0.experts.down_proj", {2, 2, 3}},
          {"layers.0.fc.weight", {4, 2}},
          {"layers.0.norm.weight", {2}}};
}

/// Tensor number t, counted from 1, has the values 100 t, 100 t + 1, and so on.
void write_checkpoint(const std::string& path, std::string_view left_out) {
  std::vector<fsdpinit::tensor_descriptor> tensors;
  std::vector<std::vector<float>> values;
  for (float number = 100; const extents_of& each : published()) {
    if (left_out.empty() || std::string_view(each.name).find(left_out) == std::string_view::npos) {
      tensors.push_back({.name = each.name, .dtype = fsdpinit::dtype::f32, .shape = each.extents});
      values.emplace_back(byte_size(tensors.back()) / sizeof(float));
      std::iota(values.back().begin(), values.back().end(), number);
    }
    number += 100;
  }
  const fsdpinit::safetensors_layout layout = fsdpinit::lay_out_safetensors(tensors, {});
  fsdpinit::output_file out(path);
  out.write_all(std::as_bytes(std::span(layout.header)));
  for (const std::vector<float>& each : values) {
    out.write_all(std::as_bytes(std::span(each)));
  }
  out.close();
}

void load(fsdpinit::dynamic_module& net, const std::string& path, fsdpinit::threads_communicator world) {
  // [load]
  using namespace fsdpinit::rules;
  const rule_set as_the_model_has_it{
      make("{p...}.qkv_proj.weight",
           concat(0, {"{p...}.q_proj.weight", "{p...}.k_proj.weight", "{p...}.v_proj.weight"})),  // fused
      make("{p...}.experts.down_proj", stack("e", "{p...}.experts.{e}.down_proj.weight")),        // stacked
      make("{p...}.fc.weight", permute({1, 0}, "{p...}.fc.weight")),                              // transposed
      make("embed.weight", pad(0, multiple_of(8), "embed.weight")),                               // padded
      drop("{p...}.rotary_emb.inv_freq")};
  auto source = fsdpinit::checkpoint{path} | fsdpinit::converted(as_the_model_has_it);
  fsdpinit::initialize(net, source, world);
  // [load]
}

void load_by(const std::string& map, fsdpinit::dynamic_module& net, const std::string& path,
             fsdpinit::threads_communicator world) {
  // [json]
  auto source = fsdpinit::checkpoint{path} | fsdpinit::converted(fsdpinit::read_rules(map));
  fsdpinit::initialize(net, source, world);
  // [json]
}

/// The first value of each row of a shard.
std::string rows_of(const fsdpinit::local_shard& shard) {
  std::string out;
  const auto* const values = reinterpret_cast<const float*>(shard.data.get());
  const std::uint64_t rows = shard.shape[0];
  const std::uint64_t row = rows == 0 ? 0 : shard.bytes / sizeof(float) / rows;
  for (std::uint64_t i = 0; i < rows; ++i) {
    out += fsdpinit::concat(i == 0 ? "" : " ", static_cast<int>(values[i * row]));
  }
  return out;
}

/// What each rank has of each tensor, or the error. The map is used if there is one.
std::vector<std::vector<std::string>> loaded(const std::string& path, const std::string& map) {
  const fsdpinit::threads_world world(ranks);
  std::vector<std::vector<std::string>> out(ranks);
  std::vector<std::jthread> threads;
  for (std::size_t rank = 0; rank < ranks; ++rank) {
    threads.emplace_back([&, rank] {
      fsdpinit::dynamic_module net;
      for (const extents_of& each : wanted()) {
        net.add_parameter(each.name, fsdpinit::dtype::f32, each.extents);
      }
      try {
        if (map.empty()) {
          load(net, path, world.rank(rank));
        } else {
          load_by(map, net, path, world.rank(rank));
        }
        for (const extents_of& each : wanted()) {
          out[rank].push_back(rows_of(net.get_parameter(each.name).local()));
        }
      } catch (const std::exception& failure) {
        out[rank] = {failure.what()};
      }
    });
  }
  threads.clear();
  return out;
}

}  // namespace

int main(int count, char** arguments) {
  if (count < 2 || count > 3) {
    std::fprintf(stderr, "usage: fsdpinit_conversions MAP.json [PART]\n");
    return 2;
  }
  const std::string map = arguments[1];
  const std::string left_out = count == 3 ? arguments[2] : "";
  const std::filesystem::path folder =
      std::filesystem::temp_directory_path() / fsdpinit::concat("fsdpinit-", ::getpid());
  std::filesystem::create_directory(folder);
  const std::string path = folder / "model.safetensors";
  write_checkpoint(path, left_out);
  const auto found = loaded(path, "");
  const bool map_does_the_same = loaded(path, map) == found;
  std::filesystem::remove_all(folder);

  if (found[0].size() == 1) {
    std::printf("%s\n", found[0][0].c_str());
    return left_out.empty() ? 1 : 0;
  }
  const std::vector<extents_of> names = wanted();
  std::printf("%-30s %-10s %-16s %s\n", "", "", "rank 0", "rank 1");
  for (std::size_t i = 0; i < names.size(); ++i) {
    std::printf("%-30s %-10s %-16s %s\n", names[i].name, to_string(names[i].extents).c_str(), found[0][i].c_str(),
                found[1][i].c_str());
  }
  std::puts(map_does_the_same ? "the map does the same" : "THE MAP DOES SOMETHING ELSE");
  return left_out.empty() && map_does_the_same ? 0 : 1;
}
