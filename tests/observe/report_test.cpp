#include <fsdpinit/observe/report.hpp>
#include <fsdpinit/observe/report_json.hpp>
#include <fsdpinit/observe/report_text.hpp>
#include <fsdpinit/observe/text_table.hpp>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <fstream>
#include <set>
#include <string>
#include <string_view>
#include <vector>

namespace fsdpinit::report_test {
namespace {

using nlohmann::json;

std::vector<rank_report> made_up_reports(std::size_t ranks) {
  std::vector<rank_report> reports;
  for (std::size_t rank = 0; rank < ranks; ++rank) {
    rank_report report{.rank = rank,
                       .shards = ranks,
                       .policy = "native-sharding",
                       .transport = "scatter",
                       .predicted = {.shard_bytes = 900, .slab_bytes = 1024, .slot_bytes = 512, .slots = 2},
                       .accounted_peak_bytes = 2048,
                       .bytes_read = rank == 0 ? 4 * mib : 0,
                       .bytes_sent = rank == 0 ? 3 * mib : 0,
                       .bytes_received = rank == 0 ? 0 : mib,
                       .tensors = 5,
                       .units = 2,
                       .buckets = 7,
                       .seconds = 1.5,
                       .slowest_rank = 1,
                       .slowest_seconds = 1.25};
    report.phases = {{"open", 0.25}, {"stream", 1.0}, {"open", 0.25}};
    reports.push_back(std::move(report));
  }
  return reports;
}

TEST(bytes_text, has_a_unit_that_fits) {
  EXPECT_EQ(bytes_text(0), "0 B");
  EXPECT_EQ(bytes_text(1023), "1023 B");
  EXPECT_EQ(bytes_text(1024), "1.00 KiB");
  EXPECT_EQ(bytes_text(mib - 1), "1.00 MiB");
  EXPECT_EQ(bytes_text(4 * mib), "4.00 MiB");
  EXPECT_EQ(bytes_text(gib + gib / 2), "1.50 GiB");
  EXPECT_EQ(bytes_text(~std::uint64_t{0}), "16.00 EiB");
  EXPECT_EQ(bytes_text(5, 5), "5 B");
  EXPECT_EQ(bytes_text(5, 1024), "5 B - 1.00 KiB");
}

TEST(text_table, aligns_its_columns) {
  text_table table({"rank", "bytes"});
  table.add({"0-9", "1"});
  table.add({"10", "12345"});
  EXPECT_EQ(table.text(), "rank  bytes\n0-9       1\n10    12345\n");
}

TEST(rows_of_ranks, are_single_where_they_fit_and_grouped_where_not) {
  const auto rows = [](std::size_t count, auto alike) {
    std::string out;
    for (const rank_range& row : rows_of_ranks(count, alike, 5)) {
      out += to_string(row) + " ";
    }
    return out;
  };
  const auto always = [](std::size_t, std::size_t) { return true; };
  const auto never = [](std::size_t, std::size_t) { return false; };
  EXPECT_EQ(rows(0, always), "");
  EXPECT_EQ(rows(5, always), "0 1 2 3 4 ");
  EXPECT_EQ(rows(6, always), "0-5 ");
  EXPECT_EQ(rows(1000, [](std::size_t a, std::size_t b) { return (a == 0) == (b == 0); }), "0 1-999 ");
  EXPECT_EQ(rows(6, never), "0 1 2-3 4 5 ");
  EXPECT_EQ(rows(100, never), "0 1 2-97 98 99 ");
}

TEST(report_text, shows_what_a_reader_looks_for) {
  const auto reports = made_up_reports(2);
  EXPECT_EQ(report_text(reports),
            "native-sharding, scatter, 2 ranks: 5 tensors in 2 units, 7 buckets\n"
            "\n"
            "rank  shard  predicted peak  accounted peak      read      sent  received\n"
            "0     900 B        2.00 KiB        2.00 KiB  4.00 MiB  3.00 MiB       0 B\n"
            "1     900 B        2.00 KiB        2.00 KiB       0 B       0 B  1.00 MiB\n"
            "\n"
            "rank  seconds   open  stream\n"
            "0       1.500  0.500   1.000\n"
            "1       1.500  0.500   1.000\n"
            "\n"
            "slowest: rank 1, 1.250 s to the end of its stream\n");
}

TEST(report_text, of_many_ranks_is_short) {
  const std::string text = report_text(made_up_reports(1024));
  EXPECT_NE(text.find("\n1-1023 "), std::string::npos) << text;
  EXPECT_LE(std::count(text.begin(), text.end(), '\n'), 12) << text;
}

/// The keys that the schema requires of an object are those it describes, and those of `found`.
void expect_keys(const json& schema, const json& found) {
  std::set<std::string> required;
  for (const json& key : schema["required"]) {
    required.insert(key);
  }
  std::set<std::string> described;
  for (const auto& [key, value] : schema["properties"].items()) {
    described.insert(key);
  }
  std::set<std::string> keys;
  for (const auto& [key, value] : found.items()) {
    keys.insert(key);
  }
  EXPECT_EQ(required, described);
  EXPECT_EQ(keys, required);
}

TEST(report_json, has_the_structure_of_the_schema) {
  const auto reports = made_up_reports(3);
  const json report = json::parse(json_text(report_json(reports, {})));
  std::ifstream file("examples/report.schema.json");
  const json schema = json::parse(file);
  expect_keys(schema, report);
  expect_keys(schema["definitions"]["rank"], report["ranks"][0]);
  EXPECT_EQ(report["format"], schema["properties"]["format"]["const"]);
  EXPECT_EQ(report["format_version"], schema["properties"]["format_version"]["const"]);
}

TEST(report_json, has_the_values_of_the_report) {
  const auto reports = made_up_reports(3);
  const json report = json::parse(json_text(
      report_json(reports, {.checkpoint = "a", .bucket_bytes = 4096, .process_peak_rss_bytes = 99, .seconds = 2.5})));
  EXPECT_EQ(report["checkpoint"], "a");
  EXPECT_EQ(report["bucket_bytes"], 4096);
  EXPECT_EQ(report["process_peak_rss_bytes"], 99);
  EXPECT_EQ(report["seconds"], 2.5);
  EXPECT_EQ(report["slowest_rank"], 1);
  ASSERT_EQ(report["ranks"].size(), 3U);
  EXPECT_EQ(report["ranks"][0]["phases"], json({{"open", 0.5}, {"stream", 1.0}}));
  EXPECT_EQ(report["ranks"][1]["bytes_received"], mib);
  EXPECT_EQ(report["ranks"][2]["predicted_peak_bytes"], 2048);
  EXPECT_TRUE(report["ranks"][2]["peak_rss_bytes"].is_null());
}

TEST(report_json, is_null_where_nothing_is_known) {
  const json report = json::parse(json_text(report_json(made_up_reports(1), {})));
  for (const char* key : {"checkpoint", "bucket_bytes", "process_peak_rss_bytes", "seconds"}) {
    EXPECT_TRUE(report[key].is_null()) << key;
  }
}

TEST(report_json, takes_a_path_that_is_no_utf8) {
  EXPECT_NO_THROW(static_cast<void>(json_text(report_json(made_up_reports(1), {.checkpoint = "\xff"}))));
}

}  // namespace
}  // namespace fsdpinit::report_test
