#include "checkpoints.hpp"
#include "tool_process.hpp"
#include <support/temp_dir.hpp>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <cstddef>
#include <cstdint>
#include <set>
#include <sstream>
#include <string>
#include <vector>

namespace fsdpinit::testing_support {
namespace outputs_test {
namespace {

using nlohmann::json;

class tool_outputs : public ::testing::Test {
 protected:
  void SetUp() override { write_plain(model, small_model()); }

  temp_dir dir;
  std::string model = dir / "model.safetensors";
};

TEST_F(tool_outputs, report_says_what_the_issue_asks_for) {
  expect_success(run_tool({"load", model, "--shards", "4", "--report", dir / "r.json"}));
  const json report = json::parse(content_of(dir / "r.json"));
  EXPECT_EQ(report["policy"], "native-sharding");
  EXPECT_EQ(report["transport"], "scatter");
  EXPECT_EQ(report["shards"], 4);
  EXPECT_GT(report["process_peak_rss_bytes"], 0);
  EXPECT_GT(report["seconds"], 0.0);
  ASSERT_EQ(report["ranks"].size(), 4U);
  for (std::size_t rank = 0; rank < 4; ++rank) {
    const json& each = report["ranks"][rank];
    EXPECT_EQ(each["rank"], rank);
    EXPECT_TRUE(each["peak_rss_bytes"].is_null());
    EXPECT_EQ(each["predicted_peak_bytes"], each["accounted_peak_bytes"]);
    EXPECT_GT(each["shard_bytes"], 0);
    EXPECT_TRUE(each["phases"].contains("stream"));
  }
}

TEST_F(tool_outputs, json_fits_its_schema) {
  std::vector<std::string> pairs;  // a schema, and a file that should fit it
  const auto add = [&](const std::string& schema, const std::string& file) {
    pairs.push_back("examples/" + schema + ".schema.json");
    pairs.push_back(file);
  };
  const auto report = [&](const std::string& file, std::vector<std::string> how) {
    how.insert(how.begin(), {"load", model, "--report", dir / file});
    expect_success(run_tool(how));
    add("report", dir / file);
  };
  report("a.json", {"--shards", "3"});
  report("b.json", {"--shards", "2", "--policy", "every-rank-loads"});
  report("c.json", {"--shards", "1", "--transport", "broadcast"});
  const auto print = [&](const std::string& schema, std::vector<std::string> how) {
    how.emplace_back("--json");
    const finished_process printed = run_tool(how);
    expect_success(printed);
    add(schema, dir.write(std::to_string(pairs.size()) + ".json", printed.out));
  };
  print("inspect", {"inspect", model});
  print("inspect", {"inspect", model, "--map",
                    dir.write("map.json", R"({"rules": [{"make": "ups", "from": {"stack": "layers.{i}.up.weight",
                                              "over": "i"}}, {"make": "norm", "from": "norm.weight"}]})")});
  print("plan", {"plan", model, "--shards", "3"});
  print("plan", {"plan", "gpt2", "--shards", "8", "--replicas", "2", "--policy", "every-rank-loads"});
  for (const std::string transport : {"scatter", "broadcast", "own-read"}) {
    for (const std::string rank : {"0", "5"}) {
      print("program", {"plan", "gpt2", "--layers", "2", "--shards", "3", "--replicas", "2", "--transport", transport,
                        "--verify", "reread", "--dtype", "bf16", "--explain", rank});
    }
  }
  print("cluster_plan", {"plan", "gpt2", "--cluster", "examples/clusters/one_node_nvme.json"});
  print("cluster_plan",
        {"plan", "gpt2", "--cluster", "examples/clusters/four_nodes_shared_storage.json", "--simulate"});

  const char* const script =
      "import json, sys\n"
      "try:\n"
      "  import jsonschema\n"
      "except ImportError:\n"
      "  sys.exit(77)\n"
      "for at in range(1, len(sys.argv), 2):\n"
      "  schema, found = (json.load(open(path)) for path in sys.argv[at:at + 2])\n"
      "  jsonschema.Draft7Validator.check_schema(schema)\n"
      "  jsonschema.validate(found, schema)\n";
  std::vector<std::string> command{"sh", "-c", "exec python3 -c \"$@\"", "sh", script};
  command.insert(command.end(), pairs.begin(), pairs.end());
  const finished_process checked = run_process(command);
  if (checked.code == 77 || checked.code == 127) {
    GTEST_SKIP() << "python3 with jsonschema is not installed: reports are checked by their structure, in observe/";
  }
  EXPECT_EQ(checked.code, 0) << checked.err;
}

TEST_F(tool_outputs, timeline_has_every_rank_and_phase) {
  expect_success(run_tool({"load", model, "--shards", "3", "--timeline", dir / "t.csv", "--dump", dir / "out"}));
  std::istringstream lines(content_of(dir / "t.csv"));
  std::string line;
  std::getline(lines, line);
  EXPECT_EQ(line, "seconds,rank,phase,rss_bytes,accounted_bytes,device_bytes");
  std::set<std::string> seen;
  double last = 0;
  while (std::getline(lines, line)) {
    std::vector<std::string> cells;
    std::istringstream row(line);
    for (std::string cell; std::getline(row, cell, ',');) {
      cells.push_back(cell);
    }
    ASSERT_EQ(cells.size(), 6U) << line;
    EXPECT_GE(std::stod(cells[0]), last - 1e-3);
    last = std::stod(cells[0]);
    EXPECT_GT(std::stoull(cells[3]), 0U);
    EXPECT_EQ(cells[5], "0");
    seen.insert(cells[1] + " " + cells[2]);
  }
  for (const std::string rank : {"0", "1", "2"}) {
    for (const std::string phase : {"open", "preflight", "allocate", "stream", "commit", "ready"}) {
      EXPECT_TRUE(seen.contains(std::string(rank).append(" ").append(phase))) << rank << " " << phase;
    }
  }
}

TEST_F(tool_outputs, inspect_lists_everything) {
  const finished_process process = run_tool({"inspect", model, "--json"});
  expect_success(process);
  const json found = json::parse(process.out);
  const plain_tensors expected_model = small_model();
  std::uint64_t bytes = 0;
  ASSERT_EQ(found["tensors"].size(), expected_model.size());
  for (const json& tensor : found["tensors"]) {
    const plain_tensor& expected = expected_model.at(tensor["name"]);
    EXPECT_EQ(tensor["dtype"], expected.dtype);
    EXPECT_EQ(tensor["shape"], json(expected.shape));
    EXPECT_EQ(tensor["bytes"], expected.bytes.size());
    bytes += expected.bytes.size();
  }
  EXPECT_EQ(found["bytes"], bytes);
  EXPECT_EQ(found["files"][0]["metadata"]["format"], "pt");
  EXPECT_EQ(found["dtypes"]["BOOL"]["tensors"], 1);

  const finished_process text = run_tool({"inspect", model});
  expect_success(text);
  for (const std::string piece :
       {"layers.{0..2}.up.weight", "[131, 12]", "format=pt", "16 tensors", "embed.weight", "scale"}) {
    EXPECT_NE(text.out.find(piece), std::string::npos) << piece << " in\n" << text.out;
  }
}

TEST_F(tool_outputs, names_are_shown_on_one_line) {
  plain_tensors odd;
  odd["a\nb\x1b[31m"] = made_up("F32", 4, {2});
  write_plain(dir / "odd.safetensors", odd);
  const finished_process process = run_tool({"inspect", dir / "odd.safetensors"});
  expect_success(process);
  EXPECT_NE(process.out.find("a\\nb\\x1b[31m"), std::string::npos) << process.out;
  expect_success(run_tool({"load", dir / "odd.safetensors", "--shards", "2", "--dump", dir / "out"}));
}

TEST_F(tool_outputs, of_an_empty_checkpoint) {
  write_plain(dir / "empty.safetensors", {});
  for (const std::string policy : {"native-sharding", "every-rank-loads"}) {
    expect_success(run_tool(
        {"load", dir / "empty.safetensors", "--shards", "2", "--policy", policy, "--dump", dir / ("out-" + policy)}));
  }
  expect_success(run_tool({"inspect", dir / "empty.safetensors"}));
  expect_success(run_tool({"plan", dir / "empty.safetensors", "--shards", "2"}));
}

TEST_F(tool_outputs, of_a_load_on_many_ranks) {
  const finished_process process = run_tool({"load", model, "--shards", "64"});
  expect_success(process);
  EXPECT_NE(process.out.find("slowest: rank "), std::string::npos) << process.out;
}

}  // namespace
}  // namespace outputs_test
}  // namespace fsdpinit::testing_support
