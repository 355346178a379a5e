#include "checkpoints.hpp"
#include "tool_process.hpp"
#include <support/temp_dir.hpp>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include <unistd.h>

namespace fsdpinit::testing_support {
namespace plan_test {
namespace {

using nlohmann::json;
using arguments = std::vector<std::string>;

json plan_json(const std::string& checkpoint, const arguments& how) {
  arguments all{"plan", checkpoint, "--json"};
  all.insert(all.end(), how.begin(), how.end());
  const finished_process process = run_tool(all);
  EXPECT_EQ(process.code, 0) << process.err;
  return json::parse(process.out);
}

TEST(plan, is_what_a_load_does) {
  const temp_dir dir;
  write_plain(dir / "model.safetensors", small_model());
  for (const arguments& policy :
       std::vector<arguments>{{"--policy", "every-rank-loads"},
                              {"--transport", "scatter"},
                              {"--transport", "broadcast"},
                              {"--transport", "own-read"},
                              {"--transport", "broadcast", "--dtype", "f32", "--rename", "layers.=h."}}) {
    for (const std::string shards : {"1", "2", "5"}) {
      for (const std::string bucket : {"5", "1001", "4MiB"}) {
        arguments how{"--shards", shards, "--bucket-bytes", bucket};
        how.insert(how.end(), policy.begin(), policy.end());
        const json planned = plan_json(dir / "model.safetensors", how);
        arguments load{"load", dir / "model.safetensors", "--report", dir / "report.json"};
        load.insert(load.end(), how.begin(), how.end());
        expect_success(run_tool(load));
        const json report = json::parse(content_of(dir / "report.json"));
        for (const char* key : {"policy", "transport", "shards", "bucket_bytes", "tensors", "units", "buckets"}) {
          EXPECT_EQ(planned[key], report[key]) << key;
        }
        ASSERT_EQ(planned["ranks"].size(), report["ranks"].size());
        for (std::size_t rank = 0; rank < planned["ranks"].size(); ++rank) {
          for (const auto& [key, value] : planned["ranks"][rank].items()) {
            EXPECT_EQ(value, report["ranks"][rank][key]) << key << " of rank " << rank << " of " << shards;
          }
          EXPECT_EQ(report["ranks"][rank]["predicted_peak_bytes"], report["ranks"][rank]["accounted_peak_bytes"]);
        }
      }
    }
  }
}

TEST(plan, shards_add_up_to_the_model_and_what_every_rank_holds) {
  const temp_dir dir;
  const plain_tensors model = small_model();
  write_plain(dir / "model.safetensors", model);
  std::uint64_t expected = 0;
  for (const auto& [name, tensor] : model) {
    expected += tensor.bytes.size() * (tensor.shape.empty() ? 3 : 1);
  }
  const json planned = plan_json(dir / "model.safetensors", {"--shards", "3"});
  std::uint64_t found = 0;
  for (const json& rank : planned["ranks"]) {
    found += rank["shard_bytes"].get<std::uint64_t>();
  }
  EXPECT_EQ(found, expected);
}

TEST(plan, reads_no_tensor) {
  // A model of 8 TiB, in a file that has a hole where the data would be.
  const temp_dir dir;
  const std::string header = R"({"w":{"dtype":"F32","shape":[2199023255552],"data_offsets":[0,8796093022208]}})";
  std::string content(8, '\0');
  content[0] = static_cast<char>(header.size());
  const std::string path = dir.write("model.safetensors", content + header);
  if (::truncate(path.c_str(), static_cast<off_t>(content.size() + header.size() + 8796093022208U)) != 0) {
    GTEST_SKIP() << "this file system takes no file of 8 TiB";
  }
  EXPECT_EQ(plan_json(path, {"--shards", "8", "--bucket-bytes", "1GiB"})["model_bytes"], 8796093022208U);
}

TEST(plan, sizes_of_buckets_have_units) {
  const temp_dir dir;
  write_plain(dir / "model.safetensors", small_model());
  const std::vector<std::pair<std::string, std::uint64_t>> sizes{
      {"65536", 65536},    {"64K", 65536},      {"16M", 16U << 20U}, {"4MiB", 4U << 20U},
      {"2mib", 2U << 20U}, {"1GiB", 1U << 30U}, {"3kB", 3000},       {"12b", 12}};
  for (const auto& [text, bytes] : sizes) {
    EXPECT_EQ(plan_json(dir / "model.safetensors", {"--shards", "2", "--bucket-bytes", text})["bucket_bytes"], bytes)
        << text;
  }
}

TEST(plan, of_many_ranks_stays_readable) {
  const temp_dir dir;
  write_plain(dir / "model.safetensors", small_model());
  for (const std::string shards : {"1", "16", "17", "1024"}) {
    const finished_process process = run_tool({"plan", dir / "model.safetensors", "--shards", shards});
    expect_success(process);
    EXPECT_LE(std::count(process.out.begin(), process.out.end(), '\n'), 25) << process.out;
    for (std::size_t at = 0; at < process.out.size();) {
      const std::size_t end = process.out.find('\n', at);
      EXPECT_LE(end - at, 120U) << process.out;
      at = end + 1;
    }
  }
}

// -- what one rank does

TEST(plan_explain, adds_up_to_the_plan) {
  const temp_dir dir;
  write_plain(dir / "model.safetensors", small_model());
  for (const std::string transport : {"scatter", "broadcast", "own-read"}) {
    const arguments how{"--shards", "3", "--transport", transport, "--bucket-bytes", "300", "--verify", "transfer"};
    const json planned = plan_json(dir / "model.safetensors", how);
    for (std::size_t rank = 0; rank < 3; ++rank) {
      arguments explained = how;
      explained.insert(explained.end(), {"--explain", std::to_string(rank)});
      const json program = plan_json(dir / "model.safetensors", explained);
      EXPECT_EQ(program["rank"], rank);
      std::uint64_t next = 0;
      std::map<std::string, std::uint64_t> bytes;
      for (const json& rounds : program["explained"]) {
        EXPECT_EQ(rounds["first"], next);
        next = rounds["last"].get<std::uint64_t>() + 1;
        for (const char* key : {"bytes_read", "bytes_sent", "bytes_received"}) {
          bytes[key] += rounds[key].get<std::uint64_t>();
        }
      }
      EXPECT_EQ(program["rounds"], next);
      for (const json& region : program["regions"]) {
        bytes["predicted_peak_bytes"] += region["bytes"].get<std::uint64_t>();
      }
      for (const auto& [key, found] : bytes) {
        EXPECT_EQ(planned["ranks"][rank][key], found) << key << " of rank " << rank << ", " << transport;
      }
    }
  }
}

TEST(plan_explain, tells_rounds_that_do_alike_once) {
  const finished_process process = run_tool({"plan", "gpt2", "--layers", "1", "--shards", "4", "--explain", "3"});
  expect_success(process);
  EXPECT_EQ(process.out.rfind("rank 3: ", 0), 0U);
  EXPECT_NE(process.out.find(": as round 0"), std::string::npos) << process.out;
  EXPECT_LE(std::count(process.out.begin(), process.out.end(), '\n'), 40) << process.out;
}

TEST(plan_explain, is_of_a_rank_of_a_plan) {
  expect_failure(run_tool({"plan", "gpt2", "--shards", "4", "--explain", "4"}), 2, "--explain: 4 is none of 4 ranks",
                 "counted from 0");
  expect_failure(run_tool({"plan", "gpt2", "--cluster", "examples/clusters/one_node_nvme.json", "--explain", "0"}), 2,
                 "--cluster excludes --explain", "");
}

// -- on a cluster

const std::string sample_node = "examples/clusters/one_node_nvme.json";
const std::string sample_nodes = "examples/clusters/four_nodes_shared_storage.json";

TEST(plan_cluster, compares_every_way_to_load_and_recommends_one) {
  for (const auto& [file, ways] : std::vector<std::pair<std::string, arguments>>{
           {sample_node, {"broadcast", "scatter", "own-read", "every-rank-loads"}},
           {sample_nodes, {"broadcast", "scatter", "scatter, a source per node", "own-read", "every-rank-loads"}}}) {
    const finished_process process = run_tool({"plan", "qwen3-8b", "--cluster", file});
    expect_success(process);
    for (const std::string& way : ways) {
      EXPECT_NE(process.out.find("\n" + way + "  "), std::string::npos) << process.out;
    }
    EXPECT_NE(process.out.find("\nrecommended: "), std::string::npos) << process.out;
    const json found = json::parse(run_tool({"plan", "qwen3-8b", "--cluster", file, "--json"}).out);
    ASSERT_EQ(found["ways"].size(), ways.size());
    double fastest = found["ways"][0]["seconds"];
    std::string name = found["ways"][0]["name"];
    for (const json& way : found["ways"]) {
      EXPECT_GT(way["seconds"], 0);
      EXPECT_GE(way["seconds"], way["busy_seconds"][way["bottleneck"].get<std::string>()]);
      if (way["seconds"] < fastest) {
        fastest = way["seconds"];
        name = way["name"];
      }
    }
    EXPECT_EQ(found["recommendation"].get<std::string>().rfind("recommended: " + name + ", the fastest", 0), 0U)
        << found["recommendation"];
  }
}

TEST(plan_cluster, recommends_the_fastest_and_says_what_the_nearly_as_fast_save) {
  const temp_dir dir;
  const auto recommended = [&](const std::string& nic) {
    const std::string file =
        dir.write("c.json", R"({"nodes": 4, "ranks_per_node": 2, "storage_bytes_per_second_per_node": 1e9,
                      "host_copy_bytes_per_second_per_node": 1e11, "nic_bytes_per_second_per_node": )" +
                                nic + "}");
    const arguments all{"plan", "gpt2", "--cluster", file, "--replicas", "4"};
    const std::string out = run_tool(all).out;
    const std::string found = plan_json("gpt2", {"--cluster", file, "--replicas", "4"})["recommendation"];
    EXPECT_EQ(out.substr(out.find("\n\nrecommended") + 2), found + "\n");
    return found;
  };
  EXPECT_EQ(
      recommended("1e9"),
      "recommended: scatter, a source per node, the fastest at 0.548 s, bound by storage, one node; broadcast takes "
      "0.552 s and needs less: the checkpoint on one node only, storage 522.70 MiB in place of 2.04 GiB; own-read "
      "takes 0.560 s and needs less: storage 522.70 MiB in place of 2.04 GiB");
  EXPECT_EQ(
      recommended("1.05e9"),
      "recommended: own-read, the fastest at 0.536 s, bound by NIC, out; broadcast takes 0.552 s and needs less: the "
      "checkpoint on one node only, host memory 293.35 MiB in place of 293.60 MiB; scatter, a source per node takes "
      "0.548 s and needs less: NIC 0 B in place of 1.53 GiB, host memory 293.35 MiB in place of 293.60 MiB");
  EXPECT_EQ(recommended("1e10"), "recommended: own-read, the fastest at 0.312 s, bound by storage, one node")
      << "nothing else is near";
}

TEST(plan_cluster, plays_every_way_to_load_through) {
  for (const std::string& file : {sample_node, sample_nodes}) {
    const finished_process process = run_tool({"plan", "qwen3-8b", "--cluster", file, "--simulate"});
    expect_success(process);
    EXPECT_NE(process.out.find("seconds  simulated"), std::string::npos) << process.out;
    const json found = json::parse(run_tool({"plan", "qwen3-8b", "--cluster", file, "--simulate", "--json"}).out);
    for (const json& way : found["ways"]) {
      const json& simulated = way["simulated"];
      for (const auto& [resource, busy] : simulated["busy_seconds"].items()) {
        EXPECT_GE(simulated["seconds"], busy.get<double>() * (1 - 1e-9)) << resource;
      }
      EXPECT_LT(simulated["seconds"], way["seconds"].get<double>() * 2);
      EXPECT_GE(simulated["seconds"], simulated["source_waited_seconds"]);
      EXPECT_LE(simulated["staging_peak_bytes"], way["host_peak_bytes"]);
    }
  }
  expect_failure(run_tool({"plan", "gpt2", "--shards", "2", "--simulate"}), 2, "--simulate requires --cluster", "");
  EXPECT_EQ(run_tool({"plan", "gpt2", "--cluster", sample_node}).out.find("simulated"), std::string::npos);
}

TEST(plan_cluster, has_the_bytes_of_the_plan) {
  const temp_dir dir;
  write_plain(dir / "model.safetensors", small_model());
  const std::string file =
      dir.write("c.json", R"({"nodes": 2, "ranks_per_node": 3, "storage_bytes_per_second_per_node": 1e9,
                              "host_copy_bytes_per_second_per_node": 1e10, "nic_bytes_per_second_per_node": 1e9})");
  const json found = plan_json(dir / "model.safetensors", {"--cluster", file, "--replicas", "2"});
  for (const auto& [name, how] :
       std::vector<std::pair<std::string, arguments>>{{"scatter", {"--transport", "scatter"}},
                                                      {"broadcast", {"--transport", "broadcast"}},
                                                      {"own-read", {"--transport", "own-read"}},
                                                      {"every-rank-loads", {"--policy", "every-rank-loads"}}}) {
    arguments all{"--shards", "3", "--replicas", "2"};
    all.insert(all.end(), how.begin(), how.end());
    std::uint64_t read = 0;
    std::uint64_t sent = 0;
    std::uint64_t peak = 0;
    const json planned = plan_json(dir / "model.safetensors", all);
    for (const json& rank : planned["ranks"]) {
      read += rank["bytes_read"].get<std::uint64_t>();
      sent += rank["bytes_sent"].get<std::uint64_t>();
      peak = std::max(peak, rank["predicted_peak_bytes"].get<std::uint64_t>());
    }
    std::size_t rows = 0;
    for (const json& way : found["ways"]) {
      if (way["name"] == name) {
        ++rows;
        EXPECT_EQ(way["storage_bytes"], read) << name;
        EXPECT_EQ(way["nic_bytes"].get<std::uint64_t>() + way["in_node_bytes"].get<std::uint64_t>(), sent) << name;
        EXPECT_EQ(way["host_peak_bytes"], peak) << name << ": there is no device";
        EXPECT_EQ(way["device_peak_bytes"], 0U) << name;
      }
    }
    EXPECT_EQ(rows, 1U) << name;
  }
}

TEST(plan_cluster, of_a_published_model_is_that_of_its_checkpoint) {
  const temp_dir dir;
  expect_success(run_tool({"synthesize", "--model", "gpt2", dir / "gpt2", "--layers", "1"}));
  const json of_files = plan_json(dir / "gpt2", {"--model", "gpt2", "--layers", "1", "--shards", "4"});
  const json of_name = plan_json("gpt2", {"--layers", "1", "--shards", "4"});
  ASSERT_EQ(of_name["ranks"].size(), of_files["ranks"].size());
  for (std::size_t rank = 0; rank < of_files["ranks"].size(); ++rank) {
    for (const char* key : {"shard_bytes", "slab_bytes", "bytes_read", "bytes_sent", "bytes_received"}) {
      EXPECT_EQ(of_name["ranks"][rank][key], of_files["ranks"][rank][key]) << key << " of rank " << rank;
    }
  }
}

TEST(plan_cluster, bad_files_are_one_clear_line) {
  const temp_dir dir;
  const auto expect_bad = [&](const std::string& content, const std::string& begins_with, const std::string& piece) {
    const std::string file = dir.write("c.json", content);
    expect_failure(run_tool({"plan", "gpt2", "--cluster", file}), 1, file + ": " + begins_with, piece);
  };
  const json good{{"nodes", 1},
                  {"ranks_per_node", 2},
                  {"storage_bytes_per_second_per_node", 1e9},
                  {"host_copy_bytes_per_second_per_node", 1e10}};
  const auto with = [&](const std::string& field, const json& value) {
    json changed = good;
    changed[field] = value;
    return changed.dump();
  };
  expect_success(run_tool({"plan", "gpt2", "--cluster", dir.write("good.json", good.dump())}));
  for (const auto& [field, value] : good.items()) {
    json lacking = good;
    lacking.erase(field);
    expect_bad(lacking.dump(), field + ": is missing", "add it");
    expect_bad(with(field, -1), field + ": -1 is no ", "use a");
    expect_bad(with(field, 0), field + ": 0 is no ", "use a");
    expect_bad(with(field, "8"), field + ": ", "use a");
  }
  expect_bad("nodes = 4", "is no JSON object", "examples/clusters/");
  expect_bad("", "is no JSON object", "examples/clusters/");
  expect_bad("[1, 2]", "is no JSON object", "examples/clusters/");
  expect_bad(with("nodes", 1.5), "nodes: 1.5 is no count", "whole number from 1 to");
  expect_bad(with("nodes", 2), "nic_bytes_per_second_per_node: is missing", "add it");
  expect_bad(with("nodes", 65536), "nodes: 65536 of 2 ranks are 131072 ranks", "at most 65536");
  expect_bad(with("gpus", 8), "gpus: is no field", "use one of nodes, ranks_per_node");
  expect_bad(with("storage_latency_seconds", -0.5), "storage_latency_seconds: -0.5 is no latency", "from 0");
  expect_bad(with("pcie_bytes_per_second_per_gpu", nullptr), "pcie_bytes_per_second_per_gpu: null is no bandwidth",
             "at least 1");
  expect_bad(with("nvlink_bytes_per_second_per_gpu", 1e9),
             "nvlink_bytes_per_second_per_gpu: ", "add pcie_bytes_per_second_per_gpu");
  const std::string absent = dir / "absent.json";
  expect_failure(run_tool({"plan", "gpt2", "--cluster", absent}), 1, absent + ": ", "check the path");
}

TEST(plan_cluster, ranks_are_the_clusters) {
  expect_failure(run_tool({"plan", "gpt2"}), 2, "--shards is required", "");
  expect_failure(run_tool({"plan", "gpt2", "--cluster", sample_node, "--shards", "4"}), 2,
                 "--cluster: ", "leave --shards out");
  expect_failure(run_tool({"plan", "gpt2", "--cluster", sample_node, "--replicas", "3"}), 2,
                 "--cluster: ", "divides 8");
  expect_failure(run_tool({"plan", "gpt2", "--cluster", sample_node, "--transport", "scatter"}), 2,
                 "--transport excludes --cluster", "");
  expect_failure(run_tool({"plan", "gpt2", "--shards", "2", "--rename", "a=b"}), 2, "--rename: ", "published model");
  expect_failure(run_tool({"plan", "gpt2", "--shards", "2", "--map", "m.json"}), 2, "--map: ", "published model");
}

TEST(plan_cluster, of_thousands_of_ranks_stays_readable) {
  const temp_dir dir;
  json many = json::parse(content_of(sample_nodes));
  many["nodes"] = 128;
  const finished_process process =
      run_tool({"plan", "qwen3-8b", "--cluster", dir.write("c.json", many.dump()), "--simulate"});
  expect_success(process);
  for (std::size_t at = 0; at < process.out.rfind("\nrecommended"); at = process.out.find('\n', at) + 1) {
    EXPECT_LE(process.out.find('\n', at) - at, 140U) << process.out;
  }
}

}  // namespace
}  // namespace plan_test
}  // namespace fsdpinit::testing_support
