#include <fsdpinit/observe/report.hpp>
#include <fsdpinit/observe/report_json.hpp>
#include <fsdpinit/observe/report_text.hpp>
#include <fsdpinit/observe/text_table.hpp>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <fstream>
#include <set>
#include <string>
#include <string_view>
#include <thread>
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
    report.stages = {.read = rank == 0 ? 0.5 : 0, .place = 0.125, .wait = rank == 0 ? 0.25 : 0.875};
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

TEST(text_table, puts_columns_below_for_which_there_is_no_room) {
  text_table table({"rank", "read", "sent"});
  table.add({"0", "4 B", "12 B"});
  EXPECT_EQ(table.text(16), "rank  read  sent\n0      4 B  12 B\n");
  EXPECT_EQ(table.text(15), "rank  read\n0      4 B\n\nrank  sent\n0     12 B\n");
  EXPECT_EQ(table.text(1), table.text(15)) << "a column is never cut";
  EXPECT_EQ(text_table({"alone"}).text(80), "alone\n");
}

TEST(text_table, aligns_names_of_any_language) {
  text_table table({"name", "bytes"});
  table.add({"größe", "1"});
  table.add({"重み.weight", "12345678"});  // each of the two takes two columns
  EXPECT_EQ(table.text(), "name            bytes\ngröße               1\n重み.weight  12345678\n");
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
            "rank, of its stream   read  checksum  place   wait\n"
            "0                    50.0%      0.0%  12.5%  25.0%\n"
            "1                     0.0%      0.0%  12.5%  87.5%\n"
            "\n"
            "slowest: rank 1, 1.250 s to the end of its stream\n");
}

TEST(report_text, points_out_slow_settings) {
  auto reports = made_up_reports(2);
  reports.front().advice = {"tiny buckets"};
  EXPECT_NE(report_text(reports).find("7 buckets\nslow: tiny buckets\n\nrank"), std::string::npos)
      << report_text(reports);
}

TEST(report_text, of_many_ranks_is_short) {
  const std::string text = report_text(made_up_reports(1024));
  EXPECT_NE(text.find("\n1-1023 "), std::string::npos) << text;
  EXPECT_LE(std::count(text.begin(), text.end(), '\n'), 16) << text;
}

TEST(report_text, of_ranks_that_share_a_row_has_the_shares_of_all_of_them_together) {
  std::vector<rank_report> reports = made_up_reports(17);
  reports[16].stages = {.read = 3, .wait = 0.125};
  reports[16].phases = {{"stream", 4.0}};
  const std::string text = report_text(reports);
  EXPECT_NE(text.find("\n1-16                 15.8%      0.0%   9.9%  69.7%\n"), std::string::npos) << text;
}

TEST(report_text, of_ranks_that_did_not_stream_has_no_shares) {
  std::vector<rank_report> reports = made_up_reports(1);
  reports[0].stages = {};
  reports[0].phases.clear();
  EXPECT_NE(report_text(reports).find("\n0                    0.0%      0.0%   0.0%  0.0%\n"), std::string::npos);
}

/// At least what was slept, and what was not entered is 0.
TEST(stage_clock, counts_to_the_stage_that_a_rank_is_in) {
  stage_clock clock;
  const auto pause = [] { std::this_thread::sleep_for(std::chrono::milliseconds(3)); };
  const double began = monotonic_seconds();
  {
    const stage_scope waiting(clock, &stage_seconds::wait);
    pause();
    {
      const stage_scope reading(clock, &stage_seconds::read);
      pause();
    }
    {
      const stage_scope idle(clock, nullptr);
      pause();
    }
    pause();
  }
  pause();
  const double passed = monotonic_seconds() - began;
  const stage_seconds& seconds = clock.seconds();
  EXPECT_GE(seconds.wait, 0.006);
  EXPECT_GE(seconds.read, 0.003);
  EXPECT_EQ(seconds.checksum, 0.0);
  EXPECT_EQ(seconds.place, 0.0);
  EXPECT_LE(seconds.wait + seconds.read + 0.006, passed + 1e-6) << "what passed outside of any stage was counted";
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
  expect_keys(schema["definitions"]["stages"], report["ranks"][0]["stages"]);
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
  EXPECT_EQ(report["ranks"][0]["stages"], json({{"read", 0.5}, {"checksum", 0.0}, {"place", 0.125}, {"wait", 0.25}}));
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
