#include "../../examples/tool/published_models.hpp"
#include "checkpoints.hpp"
#include "tool_process.hpp"
#include <support/temp_dir.hpp>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <set>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include <sys/types.h>

namespace fsdpinit::testing_support {
namespace synthesize_test {
namespace {

namespace fs = std::filesystem;
using arguments = std::vector<std::string>;

const tool::published_model& model(std::string_view name) {
  for (const tool::published_model& each : tool::published_models) {
    if (each.name == name) {
      return each;
    }
  }
  throw std::out_of_range("no such model");
}

struct published_size {
  std::string_view name;
  std::size_t tensors;
  std::uint64_t bytes;
};

TEST(synthesize, has_the_sizes_that_were_published) {
  // `total_size` of the published index, or the size of the published file less its header.
  for (const published_size& expected : {published_size{"qwen3-0.6b", 311, 1503264768},
                                         {"qwen3-8b", 399, 16381470720},
                                         {"llama3-8b", 291, 16060522496},
                                         {"gpt2", 160, 548090880},
                                         {"qwen3-30b-a3b", 18867, 61064245248},
                                         {"mixtral-8x7b", 995, 93405585408},
                                         {"deepseek-v3", 91991, 688574839360}}) {
    const tool::published_model& published = model(expected.name);
    const auto tensors = tool::tensors_of(published, published.type, true);
    std::uint64_t bytes = 0;
    std::set<std::string> names;
    for (const tool::synthetic_tensor& tensor : tensors) {
      bytes += byte_size(tensor.descriptor);
      names.insert(tensor.descriptor.name);
    }
    EXPECT_EQ(tensors.size(), expected.tensors) << expected.name;
    EXPECT_EQ(names.size(), expected.tensors) << expected.name;
    EXPECT_EQ(bytes, expected.bytes) << expected.name;
  }
}

TEST(synthesize, has_the_parameters_that_deepseek_counts) {
  std::uint64_t of_the_model = 0;
  std::uint64_t of_the_layer_behind_it = 0;
  for (const tool::synthetic_tensor& each : tool::tensors_of(model("deepseek-v3"), dtype::f8_e4m3, true)) {
    if (!each.descriptor.name.ends_with("_scale_inv")) {
      const bool is_behind = each.descriptor.name.starts_with("model.layers.61.");
      (is_behind ? of_the_layer_behind_it : of_the_model) += *checked_elements(each.descriptor.shape);
    }
  }
  EXPECT_EQ(of_the_model, 671026419200U);
  EXPECT_EQ(of_the_model + of_the_layer_behind_it, 684489845504U);
}

TEST(synthesize, leaves_scales_out_where_weights_are_no_f8) {
  for (const tool::synthetic_tensor& each : tool::tensors_of(model("deepseek-v3"), dtype::bf16, true)) {
    ASSERT_FALSE(each.descriptor.name.ends_with("_scale_inv")) << each.descriptor.name;
  }
}

TEST(synthesize, has_the_names_and_shapes_that_were_published) {
  const auto shape_of = [](std::string_view name, std::string_view tensor) {
    for (const auto& each : tool::tensors_of(model(name), model(name).type, true)) {
      if (each.descriptor.name == tensor) {
        return to_string(each.descriptor.shape);
      }
    }
    return std::string("missing");
  };
  EXPECT_EQ(shape_of("qwen3-0.6b", "model.embed_tokens.weight"), "[151936, 1024]");
  EXPECT_EQ(shape_of("qwen3-0.6b", "lm_head.weight"), "[151936, 1024]");
  EXPECT_EQ(shape_of("qwen3-0.6b", "model.layers.27.self_attn.q_proj.weight"), "[2048, 1024]");
  EXPECT_EQ(shape_of("qwen3-0.6b", "model.layers.27.self_attn.o_proj.weight"), "[1024, 2048]");
  EXPECT_EQ(shape_of("qwen3-0.6b", "model.layers.0.self_attn.k_norm.weight"), "[128]");
  EXPECT_EQ(shape_of("qwen3-0.6b", "model.layers.28.self_attn.k_norm.weight"), "missing");
  EXPECT_EQ(shape_of("qwen3-8b", "model.layers.35.mlp.gate_proj.weight"), "[12288, 4096]");
  EXPECT_EQ(shape_of("qwen3-8b", "model.layers.35.self_attn.v_proj.weight"), "[1024, 4096]");
  EXPECT_EQ(shape_of("llama3-8b", "model.layers.31.mlp.down_proj.weight"), "[4096, 14336]");
  EXPECT_EQ(shape_of("llama3-8b", "lm_head.weight"), "[128256, 4096]");
  EXPECT_EQ(shape_of("llama3-8b", "model.layers.0.self_attn.q_norm.weight"), "missing");
  EXPECT_EQ(shape_of("gpt2", "wte.weight"), "[50257, 768]");
  EXPECT_EQ(shape_of("gpt2", "wpe.weight"), "[1024, 768]");
  EXPECT_EQ(shape_of("gpt2", "h.0.attn.bias"), "[1, 1, 1024, 1024]");
  EXPECT_EQ(shape_of("gpt2", "h.11.attn.c_attn.weight"), "[768, 2304]");
  EXPECT_EQ(shape_of("gpt2", "h.11.mlp.c_proj.weight"), "[3072, 768]");
  EXPECT_EQ(shape_of("qwen3-30b-a3b", "model.layers.47.mlp.experts.127.down_proj.weight"), "[2048, 768]");
  EXPECT_EQ(shape_of("qwen3-30b-a3b", "model.layers.0.mlp.gate.weight"), "[128, 2048]");
  EXPECT_EQ(shape_of("qwen3-30b-a3b", "model.layers.0.mlp.gate_proj.weight"), "missing");
  EXPECT_EQ(shape_of("mixtral-8x7b", "model.layers.31.block_sparse_moe.experts.7.w2.weight"), "[4096, 14336]");
  EXPECT_EQ(shape_of("deepseek-v3", "model.layers.2.mlp.gate_proj.weight_scale_inv"), "[144, 56]");
  EXPECT_EQ(shape_of("deepseek-v3", "model.layers.60.mlp.experts.255.up_proj.weight"), "[2048, 7168]");
  EXPECT_EQ(shape_of("deepseek-v3", "model.layers.3.mlp.gate.e_score_correction_bias"), "[256]");
  EXPECT_EQ(shape_of("deepseek-v3", "model.layers.61.eh_proj.weight"), "[7168, 14336]");
  EXPECT_EQ(shape_of("deepseek-v3", "model.layers.0.self_attn.kv_a_proj_with_mqa.weight_scale_inv"), "[5, 56]");
}

/// The safetensors files in a folder, by name.
std::map<std::string, plain_file> plain_files_of(const std::string& folder) {
  std::map<std::string, plain_file> files;
  for (const auto& entry : fs::directory_iterator(folder)) {
    if (entry.path().extension() == ".safetensors") {
      const plain_file& file = files[entry.path().filename()] = read_plain(entry.path());
      EXPECT_EQ(file.metadata, nlohmann::json({{"format", "pt"}}));
      EXPECT_EQ(file.header_bytes % 8, 0U);
    }
  }
  return files;
}

/// Every tensor of them.
plain_tensors all_of(const std::string& folder) {
  plain_tensors all;
  for (auto& [name, file] : plain_files_of(folder)) {
    all.merge(file.tensors);
  }
  return all;
}

std::map<std::string, std::string> files_of(const std::string& folder) {
  std::map<std::string, std::string> files;
  for (const auto& entry : fs::directory_iterator(folder)) {
    files[entry.path().filename()] = content_of(entry.path());
  }
  return files;
}

void synthesize(const std::string& folder, const arguments& more) {
  arguments all{"synthesize", "--model", "gpt2", folder, "--layers", "1", "--dtype", "bf16"};
  all.insert(all.end(), more.begin(), more.end());
  expect_success(run_tool(all));
}

TEST(synthesize, writes_several_files_with_an_index_that_fits) {
  const temp_dir dir;
  synthesize(dir / "m", {});
  const auto index = nlohmann::json::parse(content_of(dir / "m/model.safetensors.index.json"));
  std::uint64_t bytes = 0;
  std::size_t tensors = 0;
  const auto files = plain_files_of(dir / "m");
  for (const auto& [file, content] : files) {
    for (const auto& [name, tensor] : content.tensors) {
      EXPECT_EQ(index["weight_map"][name], file) << name;
      EXPECT_EQ(tensor.dtype, "BF16") << name;
      bytes += tensor.bytes.size();
      ++tensors;
    }
  }
  EXPECT_EQ(tensors, 4U + 13U);
  EXPECT_EQ(index["weight_map"].size(), tensors);
  EXPECT_EQ(index["metadata"]["total_size"], bytes);
  EXPECT_GE(files.size(), 2U);
  EXPECT_EQ(static_cast<std::size_t>(std::distance(fs::directory_iterator(dir / "m"), fs::directory_iterator())),
            files.size() + 1);
  expect_success(run_tool({"load", dir / "m", "--shards", "3"}));
}

TEST(synthesize, writes_the_same_for_the_same_seed_and_other_bytes_for_another) {
  const temp_dir dir;
  synthesize(dir / "a", {"--seed", "7"});
  synthesize(dir / "b", {"--seed", "7"});
  synthesize(dir / "c", {"--seed", "8"});
  EXPECT_TRUE(files_of(dir / "a") == files_of(dir / "b"));
  const plain_tensors a = all_of(dir / "a");
  for (const auto& [name, tensor] : all_of(dir / "c")) {
    EXPECT_NE(tensor.bytes, a.at(name).bytes) << name;
  }
}

TEST(synthesize, values_do_not_depend_on_how_the_model_is_split) {
  const temp_dir dir;
  synthesize(dir / "one", {});
  expect_success(run_tool({"synthesize", "--model", "gpt2", dir / "two", "--layers", "2", "--dtype", "bf16"}));
  const plain_tensors two = all_of(dir / "two");
  for (const auto& [name, tensor] : all_of(dir / "one")) {
    EXPECT_TRUE(tensor.bytes == two.at(name).bytes) << name;
  }
}

TEST(synthesize, values_are_finite_varied_and_the_same_in_both_types) {
  const temp_dir dir;
  expect_success(run_tool({"synthesize", "--model", "gpt2", dir / "f32", "--layers", "1"}));
  synthesize(dir / "bf16", {});
  const plain_tensors narrow = all_of(dir / "bf16");
  for (const auto& [name, tensor] : all_of(dir / "f32")) {
    std::set<float> seen;
    const std::size_t count = std::min<std::size_t>(tensor.bytes.size() / 4, 10000);
    for (std::size_t i = 0; i < count; ++i) {
      float value = 0;
      std::memcpy(&value, tensor.bytes.data() + 4 * i, 4);
      ASSERT_TRUE(std::isnormal(value) && std::abs(value) < 1) << name << " " << i << ": " << value;
      ASSERT_EQ(std::memcmp(tensor.bytes.data() + 4 * i + 2, narrow.at(name).bytes.data() + 2 * i, 2), 0)
          << name << " " << i;
      seen.insert(value);
    }
    EXPECT_GE(seen.size() * 100, count * 99) << name;
  }
}

TEST(synthesize, publishes_as_f32_what_is_published_as_f32) {
  const temp_dir dir;
  expect_success(run_tool({"synthesize", "--model", "gpt2", dir / "m", "--layers", "1"}));
  const auto found = nlohmann::json::parse(run_tool({"inspect", dir / "m", "--json"}).out);
  EXPECT_EQ(found["dtypes"], nlohmann::json({{"F32", {{"tensors", 17}, {"bytes", found["bytes"]}}}}));
}

/// The first bytes of a tensor, as the JSON of `inspect` says where it is.
std::string beginning_of(const nlohmann::json& found, const std::string& name) {
  for (const auto& tensor : found["tensors"]) {
    if (tensor["name"] == name) {
      std::ifstream file(found["files"][tensor["file"].get<std::size_t>()]["path"].get<std::string>(),
                         std::ios::binary);
      file.seekg(tensor["offset"].get<std::streamoff>());
      std::string bytes(1 << 20, '\0');
      file.read(bytes.data(), static_cast<std::streamsize>(bytes.size()));
      return bytes;
    }
  }
  return {};
}

TEST(synthesize, stores_tied_tensors_once_or_as_published) {
  const temp_dir dir;
  const auto inspect = [&](const std::string& folder, const arguments& more) {
    arguments all{"synthesize", "--model", "qwen3-0.6b", folder, "--layers", "1"};
    all.insert(all.end(), more.begin(), more.end());
    expect_success(run_tool(all));
    return nlohmann::json::parse(run_tool({"inspect", folder, "--json"}).out);
  };
  EXPECT_EQ(beginning_of(inspect(dir / "once", {}), "lm_head.weight"), "");
  const auto twice = inspect(dir / "twice", {"--published-duplicates"});
  EXPECT_TRUE(beginning_of(twice, "lm_head.weight") == beginning_of(twice, "model.embed_tokens.weight"));
  EXPECT_EQ(beginning_of(twice, "lm_head.weight").size(), 1U << 20U);
  EXPECT_EQ(twice["tensors"].size(), 11U + 3U);
}

/// The peak of a process that runs; 0 once it has ended. (What wait4() says begins with the peak of this test.)
std::uint64_t peak_rss_kib(pid_t process) {
  std::ifstream status("/proc/" + std::to_string(process) + "/status");
  for (std::string line; std::getline(status, line);) {
    if (line.rfind("VmHWM:", 0) == 0) {
      return std::stoull(line.substr(6));
    }
  }
  return 0;
}

TEST(synthesize, needs_little_memory) {
  const temp_dir dir;
  const started_process process({tool_path(), "synthesize", "--model", "qwen3-0.6b", dir / "m", "--layers", "1"});
  std::uint64_t peak = 0;
  while (const std::uint64_t now = peak_rss_kib(process.pid())) {
    peak = std::max(peak, now);
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  expect_success(process.wait());
  EXPECT_GT(peak, 0U);
  EXPECT_LE(peak, 64U << 10U);
}

TEST(synthesize, cuts_layers_and_experts) {
  tool::published_model cut = model("qwen3-30b-a3b");
  cut.layers = 1;
  cut.experts = 2;
  std::map<std::string, std::string> shapes;
  for (const tool::synthetic_tensor& each : tool::tensors_of(cut, cut.type, true)) {
    shapes[each.descriptor.name] = to_string(each.descriptor.shape);
  }
  EXPECT_EQ(shapes.size(), 3U + 8U + 1U + 2 * 3U);
  EXPECT_EQ(shapes.count("model.layers.0.mlp.experts.1.up_proj.weight"), 1U);
  EXPECT_EQ(shapes.count("model.layers.0.mlp.experts.2.up_proj.weight"), 0U);
  EXPECT_EQ(shapes["model.layers.0.mlp.gate.weight"], "[2, 2048]");
}

TEST(synthesize, experts_of_a_model_without_any_are_an_error) {
  const temp_dir dir;
  expect_failure(run_tool({"synthesize", "--model", "gpt2", dir / "m", "--experts", "2"}), 2,
                 "--experts: ", "gpt2 has none");
  expect_failure(run_tool({"synthesize", "--model", "mixtral-8x7b", dir / "m", "--experts", "9"}), 2,
                 "--experts: ", "mixtral-8x7b has experts 1 to 8 in a layer, not 9");
}

}  // namespace
}  // namespace synthesize_test
}  // namespace fsdpinit::testing_support
