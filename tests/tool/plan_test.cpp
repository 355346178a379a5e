#include "checkpoints.hpp"
#include "tool_process.hpp"
#include <support/temp_dir.hpp>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
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

}  // namespace
}  // namespace plan_test
}  // namespace fsdpinit::testing_support
