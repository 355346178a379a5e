#include "checkpoints.hpp"
#include "tool_process.hpp"
#include <support/safetensors_bytes.hpp>
#include <support/temp_dir.hpp>

#include <gtest/gtest.h>

#include <chrono>
#include <csignal>
#include <filesystem>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include <sys/stat.h>
#include <unistd.h>

namespace fsdpinit::testing_support {
namespace errors_test {
namespace {

namespace fs = std::filesystem;
using arguments = std::vector<std::string>;

class tool_errors : public ::testing::Test {
 protected:
  void SetUp() override {
    fs::create_directory(dir / "in");
    write_plain(model, small_model());
  }
  /// Nothing but what the test itself put there.
  void expect_nothing_left(std::size_t expected = 0) const {
    std::vector<std::string> names;
    for (const auto& entry : fs::directory_iterator(dir.path())) {
      names.push_back(entry.path().filename());
    }
    EXPECT_EQ(names.size(), expected + 1) << ::testing::PrintToString(names);
  }
  void expect_usage(const arguments& given, const std::string& begins_with, const std::string& piece) const {
    expect_failure(run_tool(given), 2, begins_with, piece);
    expect_nothing_left();
  }

  temp_dir dir;
  std::string model = dir / "in/model.safetensors";
};

TEST_F(tool_errors, help_and_version_are_no_errors) {
  for (const arguments& given : std::vector<arguments>{{"--help"},
                                                       {"inspect", "--help"},
                                                       {"plan", "-h"},
                                                       {"load", "--help"},
                                                       {"verify", "--help"},
                                                       {"synthesize", "--help"},
                                                       {"--version"}}) {
    const finished_process process = run_tool(given);
    EXPECT_EQ(process.code, 0);
    EXPECT_EQ(process.err, "");
    EXPECT_NE(process.out.find("fsdpinit"), std::string::npos);
    std::istringstream lines(process.out);
    for (std::string line; std::getline(lines, line);) {
      EXPECT_LE(line.size(), 80U) << line;
    }
  }
}

TEST_F(tool_errors, usage) {
  expect_usage({}, "no command", "inspect, plan, load, verify or synthesize");
  expect_usage({"lod", model}, "lod: there is no such command", "inspect, plan, load, verify or synthesize");
  expect_usage({"--frob"}, "--frob: there is no such option", "");
  expect_usage({"load", model, model, "--shards", "2"}, model + ": load takes no further argument", "");
  expect_usage({"load", model}, "--shards", "required");
  expect_usage({"load", "--shards", "2"}, "CHECKPOINT", "required");
  expect_usage({"load", "", "--shards", "2"}, "CHECKPOINT", "empty");
  expect_usage({"load", model, "--shards", "0"}, "--shards", "\"0\" is no number from 1 to 1024");
  expect_usage({"load", model, "--shards", "-1"}, "--shards", "from 1 to 1024");
  expect_usage({"load", model, "--shards", "two"}, "--shards", "two");
  expect_usage({"load", model, "--shards", "2", "--replicas", "0"}, "--replicas", "from 1 to 1024");
  expect_usage({"load", model, "--shards", "600", "--replicas", "2"}, "--replicas", "are 1200 ranks; at most 1024");
  expect_usage({"load", model, "--shards", "2", "--source-rank", "2"}, "--source-rank", "2 is none of 2 ranks");
  expect_usage({"load", model, "--shards", "2", "--source-rank", "-1"}, "--source-rank",
               "\"-1\" is no number from 0 on");
  expect_usage({"load", model, "--shards", "2", "--model", "gpt2", "--layers", "x"}, "--layers", "\"x\" is no number");
  expect_usage({"load", model, "--shards", "2", "--policy", "cpu-ram-efficient-loading", "--transport", "own-read"},
               "--transport", "own-read is not for cpu-ram-efficient-loading");
  expect_usage({"load", model, "--shards", "2", "--page-cache", "drop"}, "--page-cache", "keep, drop-behind");
  expect_usage({"load", model, "--shards", "2", "--reader-threads", "0"}, "--reader-threads", "from 1 to 256");
  expect_usage({"load", model, "--shards", "2", "--rename", "a"}, "--rename",
               "\"a\" is neither FROM=TO nor s/REGEX/REPLACEMENT/");
  expect_usage({"plan", model, "--shards", "2", "--rename", "a=b=c"}, "--rename", "\"a=b=c\" is neither FROM=TO nor");
  expect_usage({"load", model, "--shards", "2", "--rename", "s/a/b"}, "--rename", "is not s/REGEX/REPLACEMENT/");
  expect_usage({"load", model, "--shards", "2", "--rename", "s/a/b/x"}, "--rename", "is not s/REGEX/REPLACEMENT/");
  expect_usage({"load", model, "--shards", "2", "--rename", "s/(a/b/"}, "--rename", "\"(a\" is no regular expression");
  expect_usage({"load", model, "--shards", "2", "--rename", "s//b/"}, "--rename", "has 1 to 1000 characters, not 0");
  expect_usage({"load", model, "--shards", "2", "--keep-dtype", "norm"}, "--keep-dtype", "requires --dtype");
  expect_usage({"load", model, "--shards", "2", "--dtype", "f32", "--keep-dtype", "[a"}, "--keep-dtype",
               "\"[a\" is no regular expression");
  expect_usage({"load", model, "--shards", "2", "--dtype", "f64"}, "--dtype", "bf16, f16, f32");
  expect_usage({"load", model, "--shards", "2", "--non-strict"}, "--non-strict", "only with --model");
  expect_usage({"plan", model, "--shards", "2", "--layers", "2"}, "--layers", "only with --model");
  expect_usage({"load", model, "--shards", "2", "--model", "gpt2", "--layers", "13"}, "--layers", "1 to 12");
  expect_usage({"load", model, "--shards", "2", "--model", "gpt5"}, "--model", "qwen3-0.6b");
  expect_usage(
      {"load", model, "--shards", "2", "--model", "gpt2", "--non-strict", "--policy", "cpu-ram-efficient-loading"},
      "--non-strict", "not for cpu-ram-efficient-loading");
  expect_usage({"plan", model, "--shards", "99999999"}, "--shards", "from 1 to 65536");
  expect_usage({"load", model, "--shards", "2", "--frob"}, "--frob: load has no such option", "");
  expect_usage({"load", model, "--shards"}, "--shards: needs a value", "");
  expect_usage({"load", model, "--shards", "2", "--shards", "3"}, "--shards: is given twice", "give it once");
  expect_usage({"load", model, "--shards", "2", "--policy", "x"}, "--policy",
               "native-sharding, cpu-ram-efficient-loading, every-rank-loads");
  expect_usage({"load", model, "--shards", "2", "--transport", "x"}, "--transport", "scatter, broadcast");
  for (const char* size : {"0", "4Q", "-1", "1.5M", "", "99999999999G", "0x10"}) {
    expect_usage({"load", model, "--shards", "2", "--bucket-bytes", size}, "--bucket-bytes", "no size");
  }
  expect_usage({"load", model, "--shards", "4", "--bucket-bytes", "3"}, "--bucket-bytes", "use at least 4");
  expect_usage({"plan", model, "--shards", "4", "--bucket-bytes", "3"}, "--bucket-bytes", "use at least 4");
  expect_usage({"load", model, "--shards", "2", "--report", dir / "a", "--timeline", dir / "./a"}, "--report",
               "same file");
  expect_usage({"synthesize", dir / "out"}, "--model", "required");
  expect_usage({"synthesize", "--model", "gpt5", dir / "out"}, "--model", "qwen3-0.6b");
  expect_usage({"synthesize", "--model", "gpt2"}, "DIR", "required");
  expect_usage({"synthesize", "--model", "gpt2", dir / "out", "--layers", "13"}, "--layers", "1 to 12");
  expect_usage({"synthesize", "--model", "gpt2", dir / "out", "--layers", "0"}, "--layers", "1 to 12");
  expect_usage({"synthesize", "--model", "gpt2", dir / "out", "--dtype", "f64"}, "--dtype", "bf16, f32");
}

TEST_F(tool_errors, a_checkpoint_that_is_not_there) {
  const std::string missing = dir / "missing";
  expect_failure(run_tool({"inspect", missing}), 1, missing + ": ", "check the path");
  expect_failure(run_tool({"plan", missing, "--shards", "2"}), 1, missing + ": ", "check the path");
  for (const std::string policy : {"native-sharding", "every-rank-loads"}) {
    expect_failure(run_tool({"load", missing, "--shards", "3", "--policy", policy, "--dump", dir / "a/b", "--report",
                             dir / "r.json", "--timeline", dir / "t.csv"}),
                   1, missing + ": ", "check the path");
  }
  expect_nothing_left();
}

TEST_F(tool_errors, a_checkpoint_that_is_damaged) {
  const std::string bad = dir.write("in/bad.safetensors", safetensors_bytes(R"({"w":{"dtype":"F99"}})"));
  for (const std::string policy : {"native-sharding", "every-rank-loads"}) {
    expect_failure(run_tool({"load", bad, "--shards", "2", "--policy", policy, "--dump", dir / "out"}), 1, bad + ": ",
                   "w");
  }
  expect_failure(run_tool({"inspect", dir / "in"}), 1, dir / "in: ", "bad.safetensors, model.safetensors");
  expect_nothing_left();
}

TEST_F(tool_errors, outputs_that_cannot_be_written) {
  const auto load = [&](const std::string& option, const std::string& path) {
    return run_tool({"load", model, "--shards", "2", option, path});
  };
  expect_failure(load("--dump", dir / "in"), 1, dir / "in: ", "not empty, it holds model.safetensors; give one");
  expect_failure(load("--dump", model), 1, model + ": ", "not a folder");
  expect_failure(load("--dump", model + "/x"), 1, model, "");
  for (const std::string option : {"--report", "--timeline"}) {
    expect_failure(load(option, dir / "in"), 1, dir / "in: ", "is a folder");
    expect_failure(load(option, dir / "no/such/file"), 1, dir / "no/such/file: ", "No such file");
  }
  fs::create_symlink("nowhere", dir / "link");
  expect_failure(load("--dump", dir / "link"), 1, dir / "link: ", "dangling");
  expect_failure(load("--report", dir / "link"), 1, dir / "link: ", "dangling");
  expect_failure(run_tool({"synthesize", "--model", "gpt2", dir / "in"}), 1, dir / "in: ", "not empty");
  expect_nothing_left(1);
}

TEST_F(tool_errors, folders_without_permission) {
  if (::geteuid() == 0) {
    GTEST_SKIP() << "root may write everywhere";
  }
  ASSERT_EQ(::chmod((dir / "in").c_str(), 0555), 0);
  expect_failure(run_tool({"load", model, "--shards", "2", "--report", dir / "in/r"}), 1, dir / "in/r", "denied");
  expect_failure(run_tool({"load", model, "--shards", "2", "--dump", dir / "in/d"}), 1, dir / "in", "denied");
  ASSERT_EQ(::chmod((dir / "in").c_str(), 0755), 0);
}

TEST_F(tool_errors, a_failed_load_keeps_the_old_report) {
  dir.write("in/report.json", "old");
  const std::string report = dir / "in/report.json";
  EXPECT_EQ(run_tool({"load", dir / "missing", "--shards", "2", "--report", report}).code, 1);
  EXPECT_EQ(content_of(report), "old");
  expect_success(run_tool({"load", model, "--shards", "2", "--report", report}));
  EXPECT_NE(content_of(report), "old");
  expect_nothing_left();
}

TEST_F(tool_errors, what_cannot_be_sharded_is_named) {
  const std::string odd =
      dir.write("in/odd.safetensors",
                safetensors_bytes(R"({"packed":{"dtype":"F4","shape":[2,3],"data_offsets":[0,3]}})", "abc"));
  expect_failure(run_tool({"plan", odd, "--shards", "2"}), 1, "packed: ", "not whole bytes");
  expect_failure(run_tool({"load", odd, "--shards", "2"}), 1, "packed: ", "not whole bytes");
}

TEST_F(tool_errors, a_full_disk_behind_stdout) {
  if (!fs::exists("/dev/full")) {
    GTEST_SKIP() << "there is no /dev/full here";
  }
  const finished_process process = run_process({"sh", "-c", "\"$0\" inspect \"$1\" > /dev/full", tool_path(), model});
  expect_failure(process, 1, "stdout: ", "disk full");
}

TEST_F(tool_errors, a_disk_that_is_full_half_way) {
  // A limit on file sizes does what a full disk does, at a place of our choosing.
  const auto limited = [](const std::string& blocks, arguments given) {
    arguments all{"sh", "-c", "trap '' XFSZ; ulimit -f " + blocks + "; exec \"$@\"", "sh", tool_path()};
    all.insert(all.end(), given.begin(), given.end());
    return run_process(all);
  };
  const finished_process synthesized = limited("1000", {"synthesize", "--model", "gpt2", "--layers", "1", dir / "out"});
  EXPECT_EQ(synthesized.code, 1);
  EXPECT_NE(synthesized.err.find("cannot be written"), std::string::npos) << synthesized.err;
  for (const std::string option : {"--dump", "--report", "--timeline"}) {
    const finished_process loaded = limited("1", {"load", model, "--shards", "2", option, dir / "a/out"});
    EXPECT_EQ(loaded.code, 1) << option;
    EXPECT_NE(loaded.err.find("fsdpinit: error: "), std::string::npos) << loaded.err;
  }
  expect_nothing_left();
}

TEST_F(tool_errors, what_is_no_regular_file_is_written_to) {
  const finished_process process =
      run_process({"sh", "-c", "\"$0\" load \"$1\" --shards 2 --report /dev/stdout | cat", tool_path(), model});
  expect_success(process);
  EXPECT_EQ(process.out.rfind("{\n", 0), 0U) << process.out;
  expect_nothing_left();
}

TEST_F(tool_errors, an_interrupted_command_leaves_nothing) {
  for (const int signal : {SIGINT, SIGTERM}) {
    const started_process process({tool_path(), "synthesize", "--model", "qwen3-8b", "--layers", "1", dir / "a/out"});
    while (!fs::exists(dir / "a") || fs::is_empty(dir / "a")) {  // until it writes
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    ASSERT_EQ(::kill(process.pid(), signal), 0);
    const finished_process ended = process.wait();
    EXPECT_EQ(ended.code, 128 + signal) << ended.err;
    EXPECT_NE(ended.err.find("interrupted"), std::string::npos);
    EXPECT_TRUE(!fs::exists(dir / "a") || fs::is_empty(dir / "a"));
  }
}

}  // namespace
}  // namespace errors_test
}  // namespace fsdpinit::testing_support
