#include "checkpoints.hpp"
#include "tool_process.hpp"
#include <support/temp_dir.hpp>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <cstddef>
#include <filesystem>
#include <fstream>
#include <string>
#include <utility>
#include <vector>

/// \file
/// A checkpoint is loaded as a whole, however many files it has; a part of one, or nothing, does not pass for it.

namespace fsdpinit::testing_support {
namespace whole_test {
namespace {

namespace fs = std::filesystem;
using arguments = std::vector<std::string>;

std::string part_file(std::size_t number, std::size_t count) {
  const auto padded = [](std::size_t value) {
    const std::string digits = std::to_string(value);
    return std::string(5 - digits.size(), '0') + digits;
  };
  return "model-" + padded(number) + "-of-" + padded(count) + ".safetensors";
}

/// `count` files of one tensor each. \return the folder.
std::string write_parts(const temp_dir& dir, std::size_t count) {
  std::string folder = dir / "in";
  fs::create_directory(folder);
  for (std::size_t number = 1; number <= count; ++number) {
    write_plain(folder + "/" + part_file(number, count),
                {{"layers." + std::to_string(number) + ".weight", made_up("BF16", 2, {5 + number % 7, 3})}});
  }
  return folder;
}

void write_index(const std::string& folder, const std::vector<std::pair<std::string, std::string>>& map) {
  nlohmann::json index;
  index["weight_map"] = nlohmann::json::object();
  for (const auto& [tensor, file] : map) {
    index["weight_map"][tensor] = file;
  }
  std::ofstream(folder + "/model.safetensors.index.json") << index;
}

/// The same, and an index of them.
std::string write_indexed_parts(const temp_dir& dir, std::size_t count) {
  const std::string folder = write_parts(dir, count);
  std::vector<std::pair<std::string, std::string>> map;
  for (std::size_t number = 1; number <= count; ++number) {
    map.emplace_back("layers." + std::to_string(number) + ".weight", part_file(number, count));
  }
  write_index(folder, map);
  return folder;
}

/// The tool with its descriptors limited by `ulimit OPTIONS`.
finished_process run_limited(const std::string& options, const arguments& given) {
  arguments all{"sh", "-c", "ulimit " + options + "; exec \"$@\"", "sh", tool_path()};
  all.insert(all.end(), given.begin(), given.end());
  return run_process(all);
}

TEST(tool_whole, one_part_may_be_inspected_but_is_no_checkpoint) {
  const temp_dir dir;
  const std::string folder = write_parts(dir, 3);
  const std::string part = folder + "/" + part_file(1, 3);
  expect_success(run_tool({"inspect", part}));
  for (const arguments& command :
       std::vector<arguments>{{"load", part, "--shards", "2"},
                              {"load", part, "--shards", "2", "--policy", "every-rank-loads"},
                              {"plan", part, "--shards", "2"},
                              {"verify", part, "--dump", dir / "out"}}) {
    expect_failure(run_tool(command), 1, part + ": is part 1 of 3 of a checkpoint",
                   "give their folder, " + folder + ",");
  }
  expect_success(run_tool({"load", folder, "--shards", "2", "--dump", dir / "out"}));  // as it says
  expect_success(run_tool({"verify", folder, "--dump", dir / "out"}));

  fs::remove(folder + "/" + part_file(2, 3));
  expect_failure(run_tool({"load", folder, "--shards", "2"}), 1, folder + ": ",
                 "1 of 3 parts absent: model-00002-of-00003.safetensors");
}

TEST(tool_whole, the_file_of_a_rank_may_be_inspected_but_is_no_checkpoint) {
  const temp_dir dir;
  write_plain(dir / "model.safetensors", small_model());
  expect_success(run_tool({"load", dir / "model.safetensors", "--shards", "2", "--dump", dir / "out"}));
  const std::string first = dir / "out/rank-00000-of-00002.safetensors";
  expect_success(run_tool({"inspect", first}));
  expect_failure(run_tool({"load", first, "--shards", "2"}), 1, first + ": holds the shards of one rank", "checkpoint");
  expect_failure(run_tool({"load", dir / "out", "--shards", "2"}), 1, first + ": holds the shards of one rank",
                 "checkpoint");
}

TEST(tool_whole, nothing_is_not_enough_where_names_may_differ) {
  const temp_dir dir;
  write_plain(dir / "model.safetensors", small_model());
  for (const std::string command : {"load", "plan"}) {
    expect_failure(run_tool({command, dir / "model.safetensors", "--shards", "2", "--model", "gpt2", "--layers", "1",
                             "--non-strict"}),
                   1, "", "tensors that the module wants: the checkpoint has 16 others, such as ");
  }
}

TEST(tool_whole, an_index_that_maps_nothing_is_an_error) {
  const temp_dir dir;
  const std::string folder = write_parts(dir, 2);
  write_index(folder, {});
  for (const std::string command : {"inspect", "load"}) {
    arguments given{command, folder};
    if (command == "load") {
      given.insert(given.end(), {"--shards", "2"});
    }
    expect_failure(run_tool(given), 1, folder + "/model.safetensors.index.json: ", "weight_map maps no tensor");
  }
}

TEST(tool_whole, what_the_index_leaves_out_is_listed) {
  const temp_dir dir;
  const std::string folder = write_parts(dir, 3);
  write_plain(folder + "/consolidated.safetensors", small_model());
  write_index(folder, {{"layers.1.weight", part_file(1, 3)}, {"layers.2.weight", part_file(2, 3)}});

  const finished_process text = run_tool({"inspect", folder});
  expect_success(text);
  EXPECT_NE(text.out.find("left out by the index"), std::string::npos) << text.out;
  const finished_process inspected = run_tool({"inspect", folder, "--json"});
  expect_success(inspected);
  EXPECT_EQ(nlohmann::json::parse(inspected.out)["unlisted"],
            nlohmann::json::parse(R"([{"name": null, "file": "consolidated.safetensors"},
                                      {"name": "layers.3.weight", "file": "model-00003-of-00003.safetensors"}])"));

  const finished_process loaded = run_tool({"load", folder, "--shards", "2", "--report", dir / "report.json"});
  expect_success(loaded);
  const std::string line =
      "left out by the checkpoint's index, 2 items: consolidated.safetensors, layers.3.weight in "
      "model-00003-of-00003.safetensors\n";
  EXPECT_NE(loaded.out.find(line), std::string::npos) << loaded.out;
  EXPECT_EQ(nlohmann::json::parse(content_of(dir / "report.json"))["unlisted"].size(), 2U);
}

// -- many files

TEST(tool_whole, of_1433_parts_is_loaded_with_1024_descriptors) {
  const temp_dir dir;
  const std::string folder = write_indexed_parts(dir, 1433);
  expect_success(run_limited("-n 1024", {"load", folder, "--shards", "2", "--dump", dir / "out"}));
  expect_success(run_limited("-n 1024", {"verify", folder, "--dump", dir / "out"}));
}

TEST(tool_whole, of_163_parts_is_read_by_8_ranks_that_share_256_descriptors) {
  const temp_dir dir;
  const std::string folder = write_indexed_parts(dir, 163);
  expect_success(run_limited("-n 256", {"load", folder, "--shards", "8", "--transport", "own-read", "--reader-threads",
                                        "2", "--bucket-bytes", "4K", "--dump", dir / "out"}));
  expect_success(run_tool({"verify", folder, "--dump", dir / "out"}));
}

TEST(tool_whole, the_soft_limit_on_descriptors_is_no_limit) {
  const temp_dir dir;
  const std::string folder = write_indexed_parts(dir, 3);
  expect_success(run_limited("-Sn 24", {"load", folder, "--shards", "32", "--transport", "own-read"}));
}

}  // namespace
}  // namespace whole_test
}  // namespace fsdpinit::testing_support
