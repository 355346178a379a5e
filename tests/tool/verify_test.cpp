#include "checkpoints.hpp"
#include "tool_process.hpp"
#include <support/temp_dir.hpp>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

namespace fsdpinit::testing_support {
namespace verify_test {
namespace {

namespace fs = std::filesystem;
using arguments = std::vector<std::string>;

/// A checkpoint and a dump of it on 3 ranks.
class tool_verify : public ::testing::Test {
 protected:
  void SetUp() override {
    write_plain(model, small_model());
    expect_success(run_tool({"load", model, "--shards", "3", "--dump", dump}));
  }
  [[nodiscard]] finished_process verify(const arguments& more = {}) const {
    arguments all{"verify", model, "--dump", dump};
    all.insert(all.end(), more.begin(), more.end());
    return run_tool(all);
  }
  /// Writes over bytes at the end of a file, whose size stays.
  static void write_at_end(const std::string& path, const std::string& bytes) {
    std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(-static_cast<std::streamoff>(bytes.size()), std::ios::end);
    file << bytes;
  }

  temp_dir dir;
  std::string model = dir / "model.safetensors";
  std::string dump = dir / "out";
  std::string last = dump + "/rank-00002-of-00003.safetensors";
};

TEST_F(tool_verify, a_dump_is_what_the_checkpoint_says) {
  const finished_process process = verify();
  expect_success(process);
  EXPECT_NE(process.out.find("3 ranks of 16 tensors: "), std::string::npos) << process.out;
  EXPECT_NE(process.out.find(" are what the checkpoint says\n"), std::string::npos) << process.out;
}

TEST_F(tool_verify, one_wrong_byte_is_found) {
  // The last tensor by name is the scalar, 4 bytes on every rank.
  const std::string right = small_model().at("scale").bytes;
  write_at_end(last, {static_cast<char>(right.back() ^ 1)});
  expect_failure(verify(), 1, "scale: byte 3 of its shard in " + last, "by the checkpoint it is 0x");
}

TEST_F(tool_verify, another_checkpoint_is_found) {
  plain_tensors other = small_model();
  other["layers.1.up.weight"].bytes[5] ^= 1;
  write_plain(model, other);
  expect_failure(verify(), 1, "layers.1.up.weight: byte 5 of its shard in " + dump + "/rank-00000", "dump again");
}

TEST_F(tool_verify, a_missing_rank_is_found) {
  fs::remove(dump + "/rank-00001-of-00003.safetensors");
  expect_failure(verify(), 1, dump + ": ", "holds no file of rank 1");
  fs::remove(last);
  expect_failure(verify(), 1, dump + ": ", "holds no file of rank 1");
}

TEST_F(tool_verify, a_rank_that_is_there_twice_is_found) {
  fs::copy_file(last, dump + "/again.safetensors");
  expect_failure(verify(), 1, dump + ": ", "holds two files of rank 2");
}

TEST_F(tool_verify, files_that_are_no_dump_are_named) {
  expect_failure(run_tool({"verify", model, "--dump", dir / "absent"}), 1, dir / "absent", "cannot be opened");
  fs::create_directory(dir / "empty");
  expect_failure(run_tool({"verify", model, "--dump", dir / "empty"}), 1, dir / "empty", "no .safetensors file");
  expect_failure(run_tool({"verify", model, "--dump", dir / ""}), 1, model, "holds no shards of one rank");
}

TEST_F(tool_verify, knows_casts_names_and_replicas) {
  const arguments how{"--rename", "layers.=blocks.", "--dtype", "f32"};
  arguments load{"load", model, "--shards", "2", "--replicas", "2", "--dump", dir / "cast"};
  load.insert(load.end(), how.begin(), how.end());
  expect_success(run_tool(load));
  arguments check{"verify", model, "--dump", dir / "cast"};
  expect_failure(run_tool(check), 1, "", "belongs; dump again");
  check.insert(check.end(), how.begin(), how.end());
  expect_success(run_tool(check));
}

TEST_F(tool_verify, knows_the_ties_of_a_model) {
  expect_success(run_tool({"synthesize", "--model", "gpt2", "--layers", "1", dir / "gpt2"}));
  const arguments how{"--model", "gpt2", "--layers", "1"};
  arguments load{"load", dir / "gpt2", "--shards", "2", "--dump", dir / "tied"};
  load.insert(load.end(), how.begin(), how.end());
  expect_success(run_tool(load));
  arguments check{"verify", dir / "gpt2", "--dump", dir / "tied"};
  check.insert(check.end(), how.begin(), how.end());
  expect_success(run_tool(check));
}

TEST_F(tool_verify, threads_that_read_together_load_the_same) {
  const std::string large = dir / "large.safetensors";
  write_plain(large, {{"table", made_up("U8", 1, {1000, 3000})}, {"up", made_up("U8", 1, {2, 1500000})}});
  for (const std::string transport : {"scatter", "own-read"}) {
    const std::string out = dir / ("dump-" + transport);
    expect_success(
        run_tool({"load", large, "--shards", "2", "--transport", transport, "--reader-threads", "3", "--dump", out}));
    expect_success(run_tool({"verify", large, "--dump", out}));
  }
}

TEST_F(tool_verify, a_load_that_drops_pages_behind_loads_the_same) {
  const std::string large = dir / "large.safetensors";
  write_plain(large, {{"table", made_up("U8", 1, {1000, 9001})}});
  const std::string out = dir / "dump-drop";
  expect_success(run_tool({"load", large, "--shards", "2", "--page-cache", "drop-behind", "--dump", out}));
  expect_success(run_tool({"verify", large, "--dump", out}));
}

TEST_F(tool_verify, a_load_verifies_itself) {
  for (const std::string level : {"transfer", "reread"}) {
    for (const std::string transport : {"scatter", "broadcast", "own-read", "automatic"}) {
      const finished_process process = run_tool({"load", model, "--shards", "3", "--transport", transport, "--verify",
                                                 level, "--report", dir / "r.json", "--bucket-bytes", "1000"});
      expect_success(process);
      EXPECT_NE(process.out.find("verified (" + level + ")"), std::string::npos) << process.out;
      EXPECT_EQ(nlohmann::json::parse(content_of(dir / "r.json"))["verified"], level);
    }
  }
  expect_success(run_tool({"load", model, "--shards", "3", "--policy", "every-rank-loads", "--verify", "reread"}));
  expect_success(
      run_tool({"load", model, "--shards", "3", "--policy", "cpu-ram-efficient-loading", "--verify", "transfer"}));
  expect_failure(
      run_tool({"load", model, "--shards", "3", "--policy", "cpu-ram-efficient-loading", "--verify", "reread"}), 2,
      "--verify: ", "use transfer");
}

}  // namespace
}  // namespace verify_test
}  // namespace fsdpinit::testing_support
