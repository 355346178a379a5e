#include "checkpoints.hpp"
#include "tool_process.hpp"
#include <support/safetensors_bytes.hpp>
#include <support/sanitizers.hpp>
#include <support/temp_dir.hpp>

#include <gtest/gtest.h>

#include <chrono>
#include <cstddef>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>
#include <vector>

#include <sys/stat.h>

/// \file
/// Checkpoints that somebody has made to do harm. Each ends the tool with one clear line, at once, and leaves nothing behind.

namespace fsdpinit::testing_support {
namespace hostile_test {
namespace {

namespace fs = std::filesystem;

class tool_hostile : public ::testing::Test {
 protected:
  /// What every command says of the file: exit code 1 and one line that a terminal can show.
  void expect_refused(const std::string& path, const std::string& begins_with, const std::string& piece) const {
    for (const std::vector<std::string>& command : std::vector<std::vector<std::string>>{
             {"inspect", path},
             {"plan", path, "--shards", "2"},
             {"load", path, "--shards", "2", "--dump", dir / "out", "--report", dir / "r.json"},
         }) {
      const auto began = std::chrono::steady_clock::now();
      const finished_process process = run_tool(command);
      EXPECT_LT(std::chrono::steady_clock::now() - began, std::chrono::seconds(30)) << command[0];
      expect_failure(process, 1, begins_with, piece);
      EXPECT_LT(process.err.size(), 2000U) << process.err.substr(0, 2000);
      for (const char c : process.err) {
        EXPECT_TRUE(static_cast<unsigned char>(c) >= 0x20 || c == '\n') << process.err;
      }
      EXPECT_FALSE(fs::exists(dir / "out"));
      EXPECT_FALSE(fs::exists(dir / "r.json"));
    }
  }
  [[nodiscard]] std::string file(std::string_view json, std::string_view data = {}) const {
    return dir.write("m.safetensors", safetensors_bytes(json, data));
  }

  temp_dir dir;
};

/// `begin` escapes into a tensor that no rank can shard: a row of it is half a byte.
std::string half_a_byte(const std::string& name) {
  return "{" + safetensors_entry_json(name, "F4", "[2,1]", "[0,1]") + "}";
}

TEST_F(tool_hostile, a_name_of_control_characters_is_shown_escaped) {
  const std::string path = file(half_a_byte(R"(a\u0000b\n\u001b[2Jc)"), "x");
  expect_failure(run_tool({"load", path, "--shards", "2"}), 1, R"(a\x00b\n\x1b[2Jc: )", "row");
}

TEST_F(tool_hostile, a_name_of_a_megabyte_is_shortened) {
  const std::string path = file(half_a_byte(std::string(1 << 20, 'n')), "x");
  const finished_process process = run_tool({"load", path, "--shards", "2"});
  expect_failure(process, 1, "nnnnnnnn", "row");
  EXPECT_LT(process.err.size(), 1000U);
}

TEST_F(tool_hostile, a_header_that_promises_a_shape_beyond_64_bits) {
  expect_refused(file("{" + safetensors_entry_json("w", "F32", "[4294967296,4294967296]", "[0,4]") + "}", "1234"),
                 dir / "m.safetensors", "overflow");
}

TEST_F(tool_hostile, a_header_of_nothing_but_brackets) {
  expect_refused(file(std::string(1'000'000, '[')), dir / "m.safetensors", "");
}

TEST_F(tool_hostile, a_header_that_is_longer_than_allowed) {
  const std::string path = dir.write("m.safetensors", safetensors_bytes("{}", "", 100'000'001));
  fs::resize_file(path, 100'000'100);
  expect_refused(path, path, "100000001 bytes, more than the 100000000 allowed");
}

TEST_F(tool_hostile, a_header_of_the_largest_size_that_holds_nothing) {
  const std::size_t length = is_sanitized ? 10'000'000 : 100'000'000;  // where each byte takes ten times as long
  std::string bytes = safetensors_bytes("{}", "", length);
  bytes.resize(8 + length, ' ');
  const finished_process process = run_tool({"inspect", dir.write("m.safetensors", bytes)});
  expect_success(process);
}

TEST_F(tool_hostile, what_is_no_file) {
  const std::string fifo = dir / "fifo";
  ASSERT_EQ(::mkfifo(fifo.c_str(), 0600), 0);
  expect_refused(fifo, fifo, "");
  expect_refused("/dev/zero", "/dev/zero", "");
  fs::create_symlink(dir / "nowhere", dir / "link");
  expect_refused(dir / "link", dir / "link", "");
  fs::create_directory(dir / "folder");
  expect_refused(dir / "folder", dir / "folder", "no *.safetensors file");
}

TEST_F(tool_hostile, an_index_that_points_elsewhere) {
  const std::string path = dir.write("m.index.json", R"({"weight_map":{"a":"../../etc/passwd"}})");
  expect_refused(path, path, "");
}

TEST_F(tool_hostile, a_hundred_thousand_tensors_are_loaded) {
  const std::size_t count = is_sanitized ? 10'000 : 100'000;
  std::string json = "{";
  for (std::size_t i = 0; i < count; ++i) {
    const std::string offsets = "[" + std::to_string(i) + "," + std::to_string(i + 1) + "]";
    json += (i == 0 ? "" : ",") + safetensors_entry_json("t" + std::to_string(i), "U8", "[1]", offsets);
  }
  const std::string path = file(json + "}", std::string(count, 'x'));
  const finished_process process = run_tool({"load", path, "--shards", "2"});
  expect_success(process);
  EXPECT_NE(process.out.find(std::to_string(count) + " tensors"), std::string::npos) << process.out;
}

}  // namespace
}  // namespace hostile_test
}  // namespace fsdpinit::testing_support
