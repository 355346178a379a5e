#include "checkpoints.hpp"
#include "tool_process.hpp"
#include <support/temp_dir.hpp>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdio>
#include <cstring>
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

/// f64 as f32, by the processor. \pre no NaN.
std::string narrowed(const std::string& f64) {
  std::string f32(f64.size() / 2, '\0');
  for (std::size_t i = 0; i < f64.size() / 8; ++i) {
    double wide = 0;
    std::memcpy(&wide, f64.data() + 8 * i, sizeof wide);
    const auto narrow = static_cast<float>(wide);
    std::memcpy(f32.data() + 4 * i, &narrow, sizeof narrow);
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
        const bool is_narrow = whole.dtype == "BF16" || whole.dtype == "F16";  // the latter is empty
        const bool is_cast = is_narrow || whole.dtype == "F64";
        const std::string part = slice(whole, 3, rank).part.bytes;
        EXPECT_EQ(file.tensors.at(name).dtype, is_cast ? "F32" : whole.dtype) << name;
        EXPECT_EQ(file.tensors.at(name).bytes, is_narrow ? widened(part)
                                               : is_cast ? narrowed(part)
                                                         : part)
            << name << " of rank " << rank;
      }
    }
  }
}

TEST(dump, of_tensors_renamed_by_a_regular_expression_has_the_new_names) {
  const temp_dir dir;
  plain_tensors wrapped;
  for (const auto& [name, tensor] : small_model()) {
    const std::size_t dot = name.find('.');
    wrapped[dot == std::string::npos ? name : name.substr(0, dot) + "._orig_mod" + name.substr(dot)] = tensor;
  }
  write_plain(dir / "model.safetensors", wrapped);
  expect_success(run_tool({"load", dir / "model.safetensors", "--shards", "2", "--rename", R"(s/\b_orig_mod\.//g)",
                           "--rename", R"(s/^(embed)\./text_$1./)", "--dump", dir / "out"}));
  const plain_file file = read_plain(dir / ("out/" + file_name(0, 2)));
  EXPECT_EQ(file.tensors.size(), small_model().size());
  for (const auto& [name, tensor] : small_model()) {
    EXPECT_TRUE(file.tensors.contains(name.starts_with("embed.") ? "text_" + name : name)) << name;
  }
}

TEST(dump, keeps_the_dtype_of_names_that_are_exempt_and_says_what_was_not_cast) {
  const temp_dir dir;
  plain_tensors tensors{{"a.weight", made_up("F32", 4, {4, 2})},
                        {"a.norm", made_up("F32", 4, {4})},
                        {"scales", made_up("F8_E4M3", 1, {4})},
                        {"wide", {"F64", {1}, std::string("\0\0\0\0\0\0\xf0\x3f", 8)}},
                        {"steps", made_up("I64", 8, {2})}};
  write_plain(dir / "model.safetensors", tensors);
  const finished_process process = run_tool({"load", dir / "model.safetensors", "--shards", "2", "--dtype", "bf16",
                                             "--keep-dtype", "norm$", "--dump", dir / "out"});
  expect_success(process);
  const plain_file file = read_plain(dir / ("out/" + file_name(0, 2)));
  EXPECT_EQ(file.tensors.at("a.weight").dtype, "BF16");
  EXPECT_EQ(file.tensors.at("a.norm").dtype, "F32");
  EXPECT_EQ(file.tensors.at("wide").dtype, "BF16");
  EXPECT_EQ(file.tensors.at("wide").bytes, std::string("\x80\x3f", 2));
  EXPECT_NE(process.out.find("not cast to BF16, 2 floating tensors: "), std::string::npos) << process.out;
  EXPECT_NE(process.out.find("a.norm (F32, kept)"), std::string::npos) << process.out;
  EXPECT_NE(process.out.find("scales (F8_E4M3)"), std::string::npos) << process.out;
}

TEST(load_report, counts_what_a_cast_makes_infinite) {
  const temp_dir dir;
  const std::string values = std::string("\0\x24\x74\x49", 4) + std::string("\0\0\x80\x3f", 4);  // 1e6 and 1
  write_plain(dir / "model.safetensors", {{"w", {"F32", {4}, values + values}}});
  for (const arguments& policy : std::vector<arguments>{{},
                                                        {"--transport", "own-read", "--verify", "reread"},
                                                        {"--policy", "every-rank-loads"},
                                                        {"--policy", "cpu-ram-efficient-loading"}}) {
    arguments all{"load", dir / "model.safetensors", "--shards", "2", "--dtype", "f16", "--report", dir / "r.json"};
    all.insert(all.end(), policy.begin(), policy.end());
    const finished_process process = run_tool(all);
    expect_success(process);
    EXPECT_NE(process.out.find("cast to infinity, 2 finite elements, the first in w"), std::string::npos)
        << process.out;
    const auto report = nlohmann::json::parse(content_of(dir / "r.json"));
    EXPECT_EQ(report["overflow"]["elements"], 2);
    EXPECT_EQ(report["overflow"]["first"], "w");
    std::filesystem::remove(dir / "r.json");
  }
}

TEST(published_model, has_the_stored_causal_mask_whole_on_every_rank) {
  const temp_dir dir;
  const std::string in = dir / "in";
  expect_success(run_tool({"synthesize", "--model", "gpt2", in, "--layers", "1", "--dtype", "bf16"}));
  const arguments how{"--model", "gpt2", "--layers", "1", "--dtype", "bf16"};
  arguments load{"load", in, "--shards", "2", "--dump", dir / "out"};
  load.insert(load.end(), how.begin(), how.end());
  expect_success(run_tool(load));
  const plain_file file = read_plain(dir / ("out/" + file_name(1, 2)));
  EXPECT_EQ(file.tensors.at("h.0.attn.bias").shape, (std::vector<std::uint64_t>{1, 1, 1024, 1024}));
  EXPECT_EQ(file.tensors.at("h.0.mlp.c_fc.bias").shape, (std::vector<std::uint64_t>{1536}));
  arguments check{"verify", in, "--dump", dir / "out"};
  check.insert(check.end(), how.begin(), how.end());
  expect_success(run_tool(check));
}

TEST(load_errors, say_what_explains_them_as_options) {
  const temp_dir dir;
  const std::string in = dir / "in";
  expect_success(run_tool({"synthesize", "--model", "gpt2", in, "--layers", "1", "--dtype", "bf16"}));
  const arguments load{"load", in, "--shards", "2", "--model", "gpt2", "--layers", "1"};
  const auto with = [&](arguments more) {
    more.insert(more.begin(), load.begin(), load.end());
    return run_tool(more);
  };
  const finished_process wrapped = with({"--dtype", "bf16", "--rename", "=module."});
  EXPECT_EQ(wrapped.code, 1);
  EXPECT_NE(wrapped.err.find("through renamed(\"module.\", \"\")"), std::string::npos) << wrapped.err;
  EXPECT_NE(wrapped.err.find("\n  as options: --rename 'module.='\n"), std::string::npos) << wrapped.err;
  expect_success(with({"--dtype", "bf16", "--rename", "=module.", "--rename", "module.="}));
  const finished_process mid =
      with({"--dtype", "bf16", "--rename", "h.0.attn.=h.0.attn._orig_mod.", "--rename", "h.0.mlp.=h.0.mlp._orig_mod."});
  EXPECT_NE(mid.err.find("--rename 's/\\b_orig_mod\\.//g'"), std::string::npos) << mid.err;
  const finished_process narrow = with({});  // gpt2 is published in F32
  EXPECT_NE(narrow.err.find("\n  as options: --dtype f32\n"), std::string::npos) << narrow.err;
  const finished_process shorter = with({"--dtype", "bf16", "--rename", "ln_f.bias=extra"});
  EXPECT_NE(shorter.err.find("--rename 'extra=ln_f.bias'"), std::string::npos) << shorter.err;
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
  // Not the causal mask, `attn.bias`, which the checkpoint of layer 0 has and the model computes.
  EXPECT_NE(process.out.find("missing, left on meta, 12 tensors: h.1."), std::string::npos) << process.out;
  const auto report = nlohmann::json::parse(content_of(dir / "report.json"));
  EXPECT_EQ(report["missing"].size(), 12U);
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
