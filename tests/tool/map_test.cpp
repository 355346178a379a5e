#include "checkpoints.hpp"
#include "tool_process.hpp"
#include <support/temp_dir.hpp>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <string>
#include <utility>
#include <vector>

namespace fsdpinit::testing_support {
namespace map_test {
namespace {

using nlohmann::json;
using arguments = std::vector<std::string>;

const std::string example = "examples/maps/fused.json";

arguments joined(arguments first, const arguments& second) {
  first.insert(first.end(), second.begin(), second.end());
  return first;
}

/// As they are stored, and as the example's rules make them, one transposed tensor larger than what is put together without memory.
struct both {
  plain_tensors stored;
  plain_tensors made;
};
both tensors() {
  both out;
  out.stored["norm.weight"] = out.made["norm.weight"] = made_up("BF16", 2, {7});
  const plain_tensor& table = out.stored["wte.weight"] = made_up("BF16", 2, {70, 5});
  out.made["embed.weight"] = {"BF16", {128, 5}, table.bytes + std::string(std::size_t{58} * 5 * 2, '\0')};
  std::uint64_t rows = 16;
  for (const std::string layer : {"layers.0.", "layers.1."}) {
    plain_tensor& qkv = out.made[layer + "qkv.weight"] = {"BF16", {rows + 11, 12}, ""};
    for (const auto& [part, extent] :
         std::vector<std::pair<std::string, std::uint64_t>>{{"q.weight", rows}, {"k.weight", 8}, {"v.weight", 3}}) {
      qkv.bytes += (out.stored[layer + part] = made_up("BF16", 2, {extent, 12})).bytes;
    }
    plain_tensor& experts = out.made[layer + "experts.weight"] = {"BF16", {11, 6, rows}, ""};
    for (int expert = 0; expert < 11; ++expert) {
      plain_tensor& part = out.stored[layer + "experts." + std::to_string(expert) + ".weight"];
      part = made_up("BF16", 2, {6, rows});
      part.bytes[0] = static_cast<char>(expert);
      experts.bytes += part.bytes;
    }
    const plain_tensor& down = out.stored[layer + "w2.weight"] = made_up("BF16", 2, {300, 70 + rows});
    plain_tensor& transposed = out.made[layer + "down.weight"] = {"BF16", {70 + rows, 300}, ""};
    for (std::uint64_t column = 0; column < 70 + rows; ++column) {
      for (std::uint64_t row = 0; row < 300; ++row) {
        transposed.bytes += down.bytes.substr(2 * (row * (70 + rows) + column), 2);
      }
    }
    rows += 3;
  }
  return out;
}

std::string dumped(const std::string& folder) {
  std::string all;
  for (std::size_t rank = 0; rank < 4; ++rank) {
    std::array<char, 64> name{};
    std::snprintf(name.data(), name.size(), "/rank-%05zu-of-00004.safetensors", rank);
    all += content_of(folder + name.data());
  }
  return all;
}

class tool_map : public ::testing::Test {
 protected:
  void SetUp() override {
    write_plain(stored, tensors().stored);
    write_plain(converted, tensors().made);
  }
  /// What a load of it on 4 ranks dumps.
  [[nodiscard]] std::string loaded(const std::string& checkpoint, const arguments& how) {
    const std::string folder = dir / ("dump" + std::to_string(++dumps));
    expect_success(run_tool(joined({"load", checkpoint, "--shards", "4", "--dump", folder}, how)));
    return dumped(folder);
  }

  temp_dir dir;
  std::string stored = dir / "stored.safetensors";
  std::string converted = dir / "converted.safetensors";
  int dumps = 0;
};

TEST_F(tool_map, load_loads_what_the_rules_make) {
  for (const arguments& how : std::vector<arguments>{{"--transport", "scatter"},
                                                     {"--transport", "broadcast"},
                                                     {"--transport", "own-read", "--reader-threads", "3"},
                                                     {"--policy", "cpu-ram-efficient-loading"},
                                                     {"--policy", "every-rank-loads"}}) {
    for (const std::string bucket : {"1001", "4MiB"}) {
      const arguments all = joined(how, {"--bucket-bytes", bucket});
      EXPECT_EQ(loaded(stored, joined(all, {"--map", example})), loaded(converted, all)) << how[1] << " " << bucket;
    }
  }
}

TEST_F(tool_map, names_are_changed_before_it_and_dtypes_after_it) {
  plain_tensors prefixed;
  for (const auto& [name, tensor] : tensors().stored) {
    prefixed["model." + name] = tensor;
  }
  write_plain(dir / "prefixed.safetensors", prefixed);
  const arguments dtypes{"--dtype", "f32", "--keep-dtype", "qkv"};
  EXPECT_EQ(loaded(dir / "prefixed.safetensors", joined(dtypes, {"--map", example, "--rename", "model.="})),
            loaded(converted, dtypes));
}

TEST_F(tool_map, verify_compares_with_what_the_rules_make) {
  static_cast<void>(loaded(stored, {"--map", example}));
  const arguments verify{"verify", stored, "--dump", dir / "dump1"};
  expect_success(run_tool(joined(verify, {"--map", example})));
  expect_failure(run_tool(verify), 1, "", "is not in " + (dir / "dump1/"));
  plain_tensors other = tensors().stored;
  other["layers.1.w2.weight"].bytes[2] ^= 1;
  write_plain(stored, other);
  expect_failure(run_tool(joined(verify, {"--map", example})), 1, "layers.1.down.weight: byte 600 of its shard in ",
                 "dump again");
}

TEST_F(tool_map, plan_is_what_a_load_does) {
  for (const arguments& how : std::vector<arguments>{{"--transport", "scatter"},
                                                     {"--transport", "scatter", "--source-rank", "2"},
                                                     {"--transport", "scatter", "--verify", "reread"},
                                                     {"--transport", "broadcast"},
                                                     {"--transport", "own-read"},
                                                     {"--policy", "every-rank-loads"}}) {
    const arguments all = joined({stored, "--shards", "4", "--bucket-bytes", "20000", "--map", example}, how);
    const finished_process process = run_tool(joined(joined({"plan"}, all), {"--json"}));
    expect_success(process);
    expect_success(run_tool(joined(joined({"load"}, all), {"--report", dir / "report.json"})));
    const json planned = json::parse(process.out);
    const json report = json::parse(content_of(dir / "report.json"));
    EXPECT_EQ(planned["tensors"], tensors().made.size());
    ASSERT_EQ(planned["ranks"].size(), report["ranks"].size());
    for (std::size_t rank = 0; rank < planned["ranks"].size(); ++rank) {
      for (const auto& [key, value] : planned["ranks"][rank].items()) {
        EXPECT_EQ(value, report["ranks"][rank][key]) << key << " of rank " << rank << ", " << how[1];
      }
      EXPECT_EQ(report["ranks"][rank]["predicted_peak_bytes"], report["ranks"][rank]["accounted_peak_bytes"]);
    }
  }
}

TEST_F(tool_map, inspect_shows_what_is_made_of_what) {
  const finished_process process = run_tool({"inspect", stored, "--map", example, "--json"});
  expect_success(process);
  const json found = json::parse(process.out);
  EXPECT_EQ(found["map"], example);
  ASSERT_EQ(found["tensors"].size(), tensors().made.size());
  for (const json& tensor : found["tensors"]) {
    EXPECT_EQ(tensor["shape"], json(tensors().made.at(tensor["name"]).shape));
    EXPECT_EQ(tensor.contains("made_of"), tensor["name"] != "norm.weight");
    EXPECT_EQ(tensor["offset"].is_null(), tensor["name"] != "norm.weight");
    if (tensor["name"] == "layers.1.qkv.weight") {
      EXPECT_EQ(tensor["made_of"], json::array({"layers.1.q.weight", "layers.1.k.weight", "layers.1.v.weight"}));
    }
  }
  const finished_process text = run_tool({"inspect", stored, "--map", example});
  expect_success(text);
  for (const std::string piece :
       {"embed.weight <- wte.weight\n",
        "layers.0.qkv.weight <- layers.0.q.weight, layers.0.k.weight, layers.0.v.weight\n", " and 3 more\n"}) {
    EXPECT_NE(text.out.find(piece), std::string::npos) << piece << " in\n" << text.out;
  }
}

TEST_F(tool_map, inspect_shows_once_what_several_are_made_of) {
  const std::string map = dir.write(
      "map.json", R"({"rules": [{"make": "half.0", "from": {"slice": "wte.weight", "dim": 0, "begin": 0, "end": 35}},
                                {"make": "half.1", "from": {"slice": "wte.weight", "dim": 0, "begin": 35, "end": 70}}]})");
  const finished_process process = run_tool({"inspect", stored, "--map", map});
  expect_success(process);
  EXPECT_NE(process.out.find("\nhalf.{0..1} <- wte.weight\n"), std::string::npos) << process.out;
}

TEST_F(tool_map, the_guide_shows_the_example) {
  EXPECT_NE(content_of("docs/guide/tool.md").find("```json\n" + content_of(example) + "```"), std::string::npos);
}

TEST_F(tool_map, what_is_wrong_with_it_is_one_line_that_names_file_and_rule) {
  const std::string file = dir / "map.json";
  const auto expect_wrong = [&](const std::string& begins_with, const std::string& piece) {
    for (const arguments& command : std::vector<arguments>{{"load", "--shards", "2"},
                                                           {"load", "--shards", "2", "--policy", "every-rank-loads"},
                                                           {"plan", "--shards", "2"},
                                                           {"verify", "--dump", dir / "none"},
                                                           {"inspect"}}) {
      const finished_process process = run_tool(joined(command, {stored, "--map", file}));
      expect_failure(process, 1, file + ": " + begins_with, piece);
      EXPECT_EQ(std::count(process.err.begin(), process.err.end(), '\n'), 1) << process.err;
    }
  };
  const auto expect_wrong_map = [&](const std::string& text, const std::string& begins_with, const std::string& piece) {
    dir.write("map.json", text);
    expect_wrong(begins_with, piece);
  };
  const auto expect_wrong_rule = [&](const std::string& text, const std::string& piece) {
    expect_wrong_map(R"({"rules": [{"drop": "norm.weight"}, )" + text + "]}", "rule 2 (make \"x\"): ", piece);
  };
  expect_wrong("no such file", "check the path");
  expect_wrong_map("rules: []", "the map ", "JSON");
  expect_wrong_map(R"({"rules": [], "others": "keep"})", "the map has an unknown key \"others\"", "rest");
  expect_wrong_rule(R"({"make": "x", "from": {"cat": ["a"], "dim": 0}})", "expected");
  expect_wrong_rule(R"({"make": "x", "from": "absent"})", "matches nothing");
  expect_wrong_rule(R"({"make": "x", "from": {"slice": "wte.weight", "dim": 0, "begin": 0, "end": 69}})",
                    "[69:70, 0:5] of \"wte.weight\" BF16 [70, 5] is used by nothing");
  expect_wrong_rule(R"({"make": "x", "from": {"concat": ["wte.weight", "layers.0.w2.weight"], "dim": 0}})",
                    "cannot be made of ");
}

}  // namespace
}  // namespace map_test
}  // namespace fsdpinit::testing_support
