#include "checkpoints.hpp"
#include "tool_process.hpp"
#include <support/temp_dir.hpp>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdio>
#include <filesystem>
#include <iterator>
#include <string>
#include <string_view>
#include <vector>

#include <sys/stat.h>

namespace fsdpinit::testing_support {
namespace dump_test {
namespace {

namespace fs = std::filesystem;
using arguments = std::vector<std::string>;

std::string file_name(std::size_t rank, std::size_t shards) {
  std::array<char, 64> name{};
  std::snprintf(name.data(), name.size(), "rank-%05zu-of-%05zu.safetensors", rank, shards);
  return name.data();
}

/// The dump of the checkpoint, rank by rank.
std::vector<std::string> dump(const std::string& checkpoint, std::size_t shards, const arguments& how) {
  const temp_dir dir;
  arguments all{"load", checkpoint, "--shards", std::to_string(shards), "--dump", dir / "out"};
  all.insert(all.end(), how.begin(), how.end());
  const finished_process process = run_tool(all);
  EXPECT_EQ(process.code, 0) << process.err;
  std::vector<std::string> files;
  for (std::size_t rank = 0; rank < shards; ++rank) {
    files.push_back(content_of(dir / ("out/" + file_name(rank, shards))));
  }
  EXPECT_EQ(std::distance(fs::directory_iterator(dir / "out"), fs::directory_iterator()),
            static_cast<std::ptrdiff_t>(shards));
  EXPECT_EQ(std::distance(fs::directory_iterator(dir.path()), fs::directory_iterator()), 1);
  return files;
}

TEST(dump, is_the_same_for_every_policy_transport_and_bucket) {
  const temp_dir dir;
  write_plain(dir / "model.safetensors", small_model());
  for (const std::size_t shards : {1U, 2U, 3U, 4U, 7U}) {
    const auto reference = dump(dir / "model.safetensors", shards, {"--policy", "every-rank-loads"});
    for (const std::string transport : {"scatter", "broadcast", "own-read", "automatic"}) {
      for (const std::string bucket : {"7", "1001", "4MiB"}) {
        EXPECT_EQ(dump(dir / "model.safetensors", shards, {"--transport", transport, "--bucket-bytes", bucket}),
                  reference)
            << shards << " shards, " << transport << ", buckets of " << bucket;
      }
    }
    for (const std::string transport : {"scatter", "broadcast"}) {
      EXPECT_EQ(dump(dir / "model.safetensors", shards,
                     {"--policy", "cpu-ram-efficient-loading", "--transport", transport, "--bucket-bytes", "97"}),
                reference)
          << shards << " shards, " << transport << ", from the memory of the source rank";
    }
  }
}

TEST(dump, of_replicas_holds_the_same_tensors_for_each) {
  const temp_dir dir;
  write_plain(dir / "model.safetensors", small_model());
  for (const std::string transport : {"scatter", "broadcast", "own-read", "automatic"}) {
    for (const std::size_t replicas : {2U, 3U}) {
      const std::string out = dir / (transport + std::to_string(replicas));
      expect_success(
          run_tool({"load", dir / "model.safetensors", "--shards", "2", "--replicas", std::to_string(replicas),
                    "--source-rank", "1", "--transport", transport, "--bucket-bytes", "1001", "--dump", out}));
      for (std::size_t rank = 0; rank < 2 * replicas; ++rank) {
        const plain_file file = read_plain(out + "/" + file_name(rank, 2 * replicas));
        EXPECT_EQ(file.metadata["shards"], "2");
        EXPECT_EQ(file.metadata["replicas"], std::to_string(replicas));
        for (const auto& [name, whole] : small_model()) {
          EXPECT_EQ(file.tensors.at(name).bytes, slice(whole, 2, rank % 2).part.bytes)
              << name << " of rank " << rank << ", " << transport;
        }
      }
    }
  }
}

TEST(dump, holds_plain_slices_of_the_checkpoint) {
  const temp_dir dir;
  const plain_tensors model = small_model();
  write_plain(dir / "model.safetensors", model);
  for (const std::size_t shards : {1U, 3U, 4U, 7U}) {
    const std::string out = dir / ("out" + std::to_string(shards));
    expect_success(run_tool({"load", dir / "model.safetensors", "--shards", std::to_string(shards), "--dump", out}));
    for (std::size_t rank = 0; rank < shards; ++rank) {
      const plain_file file = read_plain(out + "/" + file_name(rank, shards));
      EXPECT_EQ(file.header_bytes % 8, 0U);
      EXPECT_EQ(file.metadata["format"], "fsdpinit.shards");
      EXPECT_EQ(file.metadata["format_version"], "1");
      EXPECT_EQ(file.metadata["rank"], std::to_string(rank));
      EXPECT_EQ(file.metadata["shards"], std::to_string(shards));
      EXPECT_EQ(file.metadata["replicas"], "1");
      const auto places = nlohmann::json::parse(file.metadata["tensors"].get<std::string>());
      ASSERT_EQ(file.tensors.size(), model.size());
      EXPECT_EQ(places.size(), model.size());
      EXPECT_TRUE(std::is_sorted(file.order.begin(), file.order.end()));
      for (const auto& [name, whole] : model) {
        const plain_slice expected = slice(whole, shards, rank);
        const plain_tensor& found = file.tensors.at(name);
        EXPECT_EQ(found.dtype, whole.dtype) << name;
        EXPECT_EQ(found.shape, expected.part.shape) << name;
        EXPECT_EQ(found.bytes, expected.part.bytes) << name << " of rank " << rank;
        EXPECT_EQ(places[name]["shape"], nlohmann::json(whole.shape)) << name;
        EXPECT_EQ(places[name]["dim"], whole.shape.empty() ? nlohmann::json() : nlohmann::json(0)) << name;
        EXPECT_EQ(places[name]["offset"], expected.offset) << name;
      }
    }
  }
}

TEST(dump, of_an_index_is_that_of_the_one_file) {
  const temp_dir dir;
  const plain_tensors model = small_model();
  write_plain(dir / "model.safetensors", model);
  fs::create_directory(dir / "split");
  nlohmann::json index;
  std::array<plain_tensors, 2> halves;
  for (const auto& [name, tensor] : model) {
    const std::size_t half = index["weight_map"].size() % 2;
    halves[half][name] = tensor;
    index["weight_map"][name] = half == 0 ? "a.safetensors" : "b.safetensors";
  }
  write_plain(dir / "split/a.safetensors", halves[0]);
  write_plain(dir / "split/b.safetensors", halves[1]);
  const std::string path = dir.write("split/model.safetensors.index.json", index.dump());
  const auto expected = dump(dir / "model.safetensors", 3, {});
  EXPECT_EQ(dump(path, 3, {}), expected);
  EXPECT_EQ(dump(dir / "split", 3, {"--transport", "broadcast"}), expected);
}

TEST(dump, can_be_loaded_again) {
  const temp_dir dir;
  write_plain(dir / "model.safetensors", small_model());
  expect_success(run_tool({"load", dir / "model.safetensors", "--shards", "1", "--dump", dir / "out"}));
  const plain_file file = read_plain(dir / ("out/" + file_name(0, 1)));
  for (const auto& [name, tensor] : small_model()) {
    EXPECT_EQ(file.tensors.at(name).bytes, tensor.bytes) << name;
  }
  EXPECT_EQ(dump(dir / "out", 4, {}), dump(dir / "model.safetensors", 4, {}));
}

TEST(dump, of_renamed_tensors_has_the_new_names) {
  const temp_dir dir;
  write_plain(dir / "model.safetensors", small_model());
  expect_success(run_tool({"load", dir / "model.safetensors", "--shards", "2", "--rename", "embed.=wte.", "--rename",
                           "wte.=transformer.wte.", "--dump", dir / "out"}));
  plain_tensors expected = small_model();
  expected["transformer.wte.weight"] = expected.at("embed.weight");
  expected.erase("embed.weight");
  for (std::size_t rank = 0; rank < 2; ++rank) {
    const plain_file file = read_plain(dir / ("out/" + file_name(rank, 2)));
    EXPECT_EQ(file.tensors.size(), expected.size());
    for (const auto& [name, whole] : expected) {
      EXPECT_EQ(file.tensors.at(name).bytes, slice(whole, 2, rank).part.bytes) << name << " of rank " << rank;
    }
  }
}

/// bf16 is the upper half of f32; NaNs come out quiet.
std::string widened(const std::string& bf16) {
  std::string f32;
  for (std::size_t i = 0; i < bf16.size(); i += 2) {
    const auto low = static_cast<unsigned char>(bf16[i]);
    const auto high = static_cast<unsigned char>(bf16[i + 1]);
    const bool is_nan = (high & 0x7fU) == 0x7fU && (low & 0x80U) != 0 && (low & 0x7fU) != 0;
    f32 += {'\0', '\0', static_cast<char>(is_nan ? low | 0x40U : low), static_cast<char>(high)};
  }
  return f32;
}

TEST(dump, of_cast_tensors_has_their_new_type_and_others_as_they_are) {
  const temp_dir dir;
  write_plain(dir / "model.safetensors", small_model());
  for (const arguments& policy : std::vector<arguments>{{"--transport", "scatter"},
                                                        {"--transport", "broadcast", "--bucket-bytes", "77"},
                                                        {"--transport", "own-read"},
                                                        {"--policy", "cpu-ram-efficient-loading"},
                                                        {"--policy", "every-rank-loads"}}) {
    const std::string out = dir / ("out" + policy.back());
    arguments all{"load", dir / "model.safetensors", "--shards", "3", "--dtype", "f32", "--dump", out};
    all.insert(all.end(), policy.begin(), policy.end());
    expect_success(run_tool(all));
    for (std::size_t rank = 0; rank < 3; ++rank) {
      const plain_file file = read_plain(out + "/" + file_name(rank, 3));
      for (const auto& [name, whole] : small_model()) {
        const bool is_cast = whole.dtype == "BF16" || whole.dtype == "F16";  // the latter is empty
        const std::string part = slice(whole, 3, rank).part.bytes;
        EXPECT_EQ(file.tensors.at(name).dtype, is_cast ? "F32" : whole.dtype) << name;
        EXPECT_EQ(file.tensors.at(name).bytes, is_cast ? widened(part) : part) << name << " of rank " << rank;
      }
    }
  }
}

TEST(dump, of_a_model_that_is_named_leaves_out_what_the_checkpoint_lacks_if_that_is_let_pass) {
  const temp_dir dir;
  const std::string in = dir / "in";
  expect_success(run_tool({"synthesize", "--model", "gpt2", in, "--layers", "1", "--dtype", "bf16"}));
  const arguments load{"load", in, "--shards", "2", "--model", "gpt2", "--layers", "2", "--dtype", "bf16"};
  expect_failure(run_tool(load), 1, "h.1.", "missing: the module wants it");
  arguments lenient = load;
  lenient.insert(lenient.end(), {"--non-strict", "--dump", dir / "out", "--report", dir / "report.json"});
  const finished_process process = run_tool(lenient);
  expect_success(process);
  EXPECT_NE(process.out.find("missing, left on meta, 13 tensors: h.1."), std::string::npos) << process.out;
  const auto report = nlohmann::json::parse(content_of(dir / "report.json"));
  EXPECT_EQ(report["missing"].size(), 13U);
  EXPECT_EQ(report["unexpected"].size(), 0U);
  EXPECT_EQ(read_plain(dir / ("out/" + file_name(1, 2))).tensors.size(), 4U + 13U);
  expect_success(
      run_tool({"plan", in, "--shards", "2", "--model", "gpt2", "--layers", "2", "--dtype", "bf16", "--non-strict"}));
}

TEST(dump, fills_an_empty_folder_and_keeps_its_permissions) {
  const temp_dir dir;
  write_plain(dir / "model.safetensors", small_model());
  fs::create_directory(dir / "out");
  ASSERT_EQ(::chmod((dir / "out").c_str(), 0750), 0);
  expect_success(run_tool({"load", dir / "model.safetensors", "--shards", "2", "--dump", dir / "out"}));
  EXPECT_EQ(std::distance(fs::directory_iterator(dir / "out"), fs::directory_iterator()), 2);
  EXPECT_EQ(static_cast<int>(fs::status(dir / "out").permissions()), 0750);
}

TEST(dump, makes_missing_parents) {
  const temp_dir dir;
  write_plain(dir / "model.safetensors", small_model());
  expect_success(run_tool({"load", dir / "model.safetensors", "--shards", "2", "--dump", dir / "a/b/out/"}));
  EXPECT_TRUE(fs::exists(dir / ("a/b/out/" + file_name(1, 2))));
}

}  // namespace
}  // namespace dump_test
}  // namespace fsdpinit::testing_support
