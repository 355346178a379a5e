#include "checkpoints.hpp"
#include "tool_process.hpp"
#include <fsdpinit/core/bytes.hpp>
#include <support/safetensors_bytes.hpp>
#include <support/temp_dir.hpp>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <array>
#include <chrono>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <set>
#include <sstream>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include <sys/types.h>

namespace fsdpinit::testing_support {
namespace mpi_test {
namespace {

namespace fs = std::filesystem;
using arguments = std::vector<std::string>;

class mpi : public ::testing::Test {
 protected:
  void SetUp() override {
    // More ranks than cores, and containers in which everybody is root.
    for (const char* name :
         {"OMPI_MCA_rmaps_base_oversubscribe", "OMPI_ALLOW_RUN_AS_ROOT", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM"}) {
      ::setenv(name, "1", 1);  // NOLINT(concurrency-mt-unsafe): one thread
    }
    // NOLINTBEGIN(concurrency-mt-unsafe): one thread
    ::setenv("PRTE_MCA_rmaps_default_mapping_policy", ":oversubscribe", 1);  // the first of them, for Open MPI 5
    ::setenv("ASAN_OPTIONS", "detect_leaks=0", 1);                           // MPI keeps memory until the end
    // NOLINTEND(concurrency-mt-unsafe)
  }

  [[nodiscard]] arguments command(std::size_t ranks, const arguments& how) const {
    arguments all{launcher_, "-n", std::to_string(ranks), tool_path()};
    all.insert(all.end(), how.begin(), how.end());
    return all;
  }
  [[nodiscard]] finished_process run(std::size_t ranks, const arguments& how) const {
    return run_process(command(ranks, how));
  }
  /// Two ranks that do different things. By a shell on each: the launcher of Open MPI 5.0.7 crashes where it is given two programs.
  [[nodiscard]] finished_process run_shells(const std::string& first, const std::string& second) const {
    return run_process(
        {launcher_, "-n", "2", "sh", "-c",
         "if [ ${OMPI_COMM_WORLD_RANK:-$PMI_RANK} = 0 ]; then exec " + first + "; else " + second + "; fi"});
  }

 private:
  std::string launcher_ = FSDPINIT_MPIEXEC;
};

std::size_t count_of(std::string_view piece, std::string_view text) {
  std::size_t count = 0;
  for (std::size_t at = text.find(piece); at != std::string_view::npos; at = text.find(piece, at + 1)) {
    ++count;
  }
  return count;
}

/// One rank says what is wrong; the launcher may add that a process has failed.
void expect_said_once(const finished_process& process, int code, const std::string& what) {
  EXPECT_EQ(process.code, code) << process.err;
  EXPECT_EQ(count_of("fsdpinit: error: ", process.err), 1U) << process.err;
  EXPECT_NE(process.err.find(what), std::string::npos) << "no \"" << what << "\" in: " << process.err;
}

std::string dumped(const std::string& folder, std::size_t ranks) {
  std::string all;
  for (std::size_t rank = 0; rank < ranks; ++rank) {
    std::array<char, 64> name{};
    std::snprintf(name.data(), name.size(), "/rank-%05zu-of-%05zu.safetensors", rank, ranks);
    all += content_of(folder + name.data());
  }
  return all;
}

TEST_F(mpi, dumps_are_those_of_threads) {
  const temp_dir dir;
  write_plain(dir / "model.safetensors", small_model());
  int number = 0;
  for (const std::size_t ranks : {1U, 3U, 4U}) {
    const arguments load{"load", dir / "model.safetensors", "--shards", std::to_string(ranks), "--bucket-bytes", "97"};
    for (const arguments& how : {arguments{"--transport", "scatter"},
                                 {"--transport", "broadcast"},
                                 {"--transport", "own-read"},
                                 {"--policy", "cpu-ram-efficient-loading"},
                                 {"--policy", "every-rank-loads"}}) {
      arguments both = load;
      both.insert(both.end(), how.begin(), how.end());
      const std::string threads = dir / ("threads" + std::to_string(++number));
      const std::string processes = dir / ("processes" + std::to_string(number));
      both.insert(both.end(), {"--dump", threads});
      expect_success(run_tool(both));
      both.back() = processes;
      expect_success(run(ranks, both));
      EXPECT_EQ(dumped(processes, ranks), dumped(threads, ranks)) << ranks << " ranks, " << how[1];
    }
  }
}

TEST_F(mpi, replicas_are_those_of_threads) {
  const temp_dir dir;
  write_plain(dir / "model.safetensors", small_model());
  for (const std::string transport : {"scatter", "own-read"}) {
    arguments load{
        "load",    dir / "model.safetensors", "--shards", "2",      "--replicas",           "2", "--transport",
        transport, "--bucket-bytes",          "1001",     "--dump", dir / (transport + "0")};
    expect_success(run_tool(load));
    load.back() = dir / (transport + "1");
    expect_success(run(4, load));
    EXPECT_EQ(dumped(dir / (transport + "1"), 4), dumped(dir / (transport + "0"), 4)) << transport;
  }
}

TEST_F(mpi, reports_and_timelines_have_every_rank) {
  const temp_dir dir;
  write_plain(dir / "model.safetensors", small_model());
  const finished_process process = run(3, {"load", dir / "model.safetensors", "--shards", "3", "--report",
                                           dir / "r.json", "--timeline", dir / "t.csv", "--optimizer"});
  expect_success(process);
  EXPECT_EQ(count_of("peak RSS", process.out), 1U) << process.out;

  const auto report = nlohmann::json::parse(content_of(dir / "r.json"));
  EXPECT_TRUE(report["process_peak_rss_bytes"].is_null());
  ASSERT_EQ(report["ranks"].size(), 3U);
  for (std::size_t rank = 0; rank < 3; ++rank) {
    const auto& each = report["ranks"][rank];
    EXPECT_EQ(each["rank"], rank);
    EXPECT_EQ(each["accounted_peak_bytes"], each["predicted_peak_bytes"]);
    EXPECT_GT(each["base_rss_bytes"], 0);
    EXPECT_GE(each["peak_rss_bytes"], each["base_rss_bytes"]);
    EXPECT_EQ(each["bytes_read"].get<std::uint64_t>() > 0, rank == 0);
  }

  std::istringstream table(content_of(dir / "t.csv"));
  std::string line;
  std::getline(table, line);
  EXPECT_EQ(line, "seconds,rank,phase,rss_bytes,accounted_bytes,device_bytes");
  std::set<std::string> seen;
  while (std::getline(table, line)) {
    const std::size_t begin = line.find(',') + 1;
    seen.insert(line.substr(begin, line.find(',', line.find(',', begin) + 1) - begin));
  }
  for (const std::string rank : {"0", "1", "2"}) {
    for (const std::string phase : {"open", "stream", "optimizer", "ready"}) {
      EXPECT_TRUE(seen.contains(rank + "," + phase)) << rank << ", " << phase;
    }
  }
}

/// Of a whole process, what is neither shard nor bucket: program, libraries, MPI, the checkpoint's header and plans.
constexpr std::uint64_t all_else_bytes = 40 * mib;

TEST_F(mpi, a_shard_two_buckets_and_40_mib_are_resident_whatever_the_transport) {
  const temp_dir dir;
  expect_success(
      run_process({tool_path(), "synthesize", "--model", "gpt2", "--layers", "1", "--dtype", "bf16", dir / "gpt2"}));
  constexpr std::uint64_t bucket = 32 * mib;
  for (const std::string transport : {"scatter", "broadcast", "own-read", "automatic"}) {
    expect_success(run(4, {"load", dir / "gpt2", "--shards", "4", "--transport", transport, "--bucket-bytes",
                           std::to_string(bucket), "--report", dir / "r.json"}));
    const auto report = nlohmann::json::parse(content_of(dir / "r.json"));
    ASSERT_EQ(report["ranks"].size(), 4U);
    for (const auto& rank : report["ranks"]) {
      EXPECT_LE(rank["peak_rss_bytes"].get<std::uint64_t>(),
                rank["shard_bytes"].get<std::uint64_t>() + 2 * bucket + all_else_bytes)
          << transport << ", rank " << rank["rank"];
    }
  }
}

TEST_F(mpi, another_number_of_shards_than_processes_is_a_usage_error) {
  const temp_dir dir;
  write_plain(dir / "model.safetensors", small_model());
  expect_said_once(run(3, {"load", dir / "model.safetensors", "--shards", "4"}), 2,
                   "--shards is 4, but the launcher has started 3 ranks");
}

TEST_F(mpi, the_launcher_may_be_overruled) {
  const temp_dir dir;
  write_plain(dir / "model.safetensors", small_model());
  const finished_process process =
      run(1, {"load", dir / "model.safetensors", "--shards", "2", "--launcher", "threads"});
  expect_success(process);
  EXPECT_NE(process.out.find("2 ranks"), std::string::npos) << process.out;
}

TEST_F(mpi, what_all_ranks_find_wrong_is_said_once) {
  const temp_dir dir;
  std::ofstream(dir / "broken.safetensors") << "no header";
  expect_said_once(run(3, {"load", dir / "broken.safetensors", "--shards", "3"}), 1, "broken.safetensors: ");
  expect_said_once(run(2, {"load", dir / "absent.safetensors", "--shards", "2", "--policy", "every-rank-loads"}), 1,
                   "absent.safetensors: ");
  expect_said_once(run(2, {"load", dir / "broken.safetensors", "--shards", "none"}), 2, "none");
}

TEST_F(mpi, ranks_that_read_other_checkpoints_are_an_error_or_served_by_one_of_them) {
  const temp_dir dir;
  plain_tensors other = small_model();
  for (char& each : other["layers.1.up.weight"].bytes) {
    each = static_cast<char>(each ^ 1);
  }
  for (const std::string folder : {"a", "b", "copy"}) {
    fs::create_directory(dir / folder);
    write_plain(dir / folder + "/model.safetensors", folder == "b" ? other : small_model());
  }
  const auto load = [&](const std::string& second, const std::string& how) {
    const auto of = [&](const std::string& folder) {
      return tool_path() + " load " + (dir / folder) + " --shards 2 --verify " + how;
    };
    return run_shells(of("a"), of(second));
  };
  const std::string named = dir / "b/model.safetensors: this rank's copy holds other data than that of rank 0, in ";
  for (const char* how : {"reread --transport own-read", "reread --policy every-rank-loads"}) {
    const finished_process refused = load("b", how);
    expect_said_once(refused, 1, named + "layers.1.up.weight between bytes ");
    EXPECT_NE(refused.err.find("; give every rank the same checkpoint (rank 1)"), std::string::npos) << refused.err;
    EXPECT_EQ(refused.out.find("verified"), std::string::npos) << refused.out;
    const finished_process verified = load("copy", how);
    expect_success(verified);
    EXPECT_NE(verified.out.find("verified (reread)"), std::string::npos) << verified.out;
  }
  const finished_process served = load("b", "transfer --transport automatic");
  expect_success(served);
  EXPECT_NE(served.out.find("rank 1 has another checkpoint: " + named), std::string::npos) << served.out;
}

TEST_F(mpi, ranks_that_read_nothing_need_no_map) {
  const temp_dir dir;
  write_plain(dir / "model.safetensors", small_model());
  const std::string map =
      dir.write("map.json", R"({"rules": [{"make": "ups", "from": {"stack": "layers.{i}.up.weight", "over": "i"}}]})");
  const auto load = [&](const std::string& second, const std::string& how) {
    const auto by = [&](const std::string& file) {
      return tool_path() + " load " + (dir / "model.safetensors") + " --shards 2 --map " + file + how;
    };
    return run_shells(by(map), by(second));
  };
  expect_success(
      run_tool({"load", dir / "model.safetensors", "--shards", "2", "--map", map, "--dump", dir / "threads"}));
  expect_success(load(dir / "absent.json", " --dump " + (dir / "processes")));
  EXPECT_EQ(dumped(dir / "processes", 2), dumped(dir / "threads", 2));
  expect_said_once(load(dir / "absent.json", " --transport own-read"), 1,
                   "absent.json: no such file or folder; check the path (rank 1)\n");
}

TEST_F(mpi, rules_that_do_not_fit_the_checkpoint_are_said_once) {
  const temp_dir dir;
  write_plain(dir / "model.safetensors", small_model());
  const std::string map = dir.write("map.json", R"({"rules": [{"make": "x", "from": "absent"}]})");
  for (const std::string transport : {"scatter", "own-read"}) {
    expect_said_once(
        run(3, {"load", dir / "model.safetensors", "--shards", "3", "--map", map, "--transport", transport}), 1,
        map + ": rule 1 (make \"x\"): matches nothing");
  }
}

TEST_F(mpi, outputs_that_cannot_be_written_are_found_before_anything_is_loaded) {
  const temp_dir dir;
  write_plain(dir / "model.safetensors", small_model());
  expect_said_once(run(2, {"load", dir / "model.safetensors", "--shards", "2", "--report", dir / "absent/r.json"}), 1,
                   "absent/r.json: ");
}

TEST_F(mpi, one_rank_without_memory_is_said_once) {
  const temp_dir dir;
  const std::string model = dir.write(
      "model.safetensors",
      safetensors_bytes("{" + safetensors_entry_json("layers.0.weight", "U8", "[196608,4096]", "[0,805306368]") + "}"));
  fs::resize_file(model, fs::file_size(model) + 805306368);  // zeros, without a disk block
  const std::string load = tool_path() + " load " + model + " --shards 2";
  // Enough for the program and MPI's own memory, not for its shard.
  const finished_process process = run_shells(load, "ulimit -v $((500 * 1024)); " + load);
  expect_said_once(process, 1, "the memory space cannot give 402653184 bytes");
  EXPECT_NE(process.err.find("(rank 1)"), std::string::npos) << process.err;
}

/// The process that plays a rank of the job that works on `mark`; 0 if there is none.
pid_t process_of_rank(const std::string& mark, const std::string& rank) {
  for (const fs::directory_entry& entry : fs::directory_iterator("/proc")) {
    std::ifstream arguments_of(entry.path() / "cmdline");
    const std::string line{std::istreambuf_iterator<char>(arguments_of), {}};
    std::ifstream environment_of(entry.path() / "environ");
    const std::string environment = '\0' + std::string{std::istreambuf_iterator<char>(environment_of), {}};
    const auto has = [&](const std::string& name) {
      return environment.find('\0' + name + "=" + rank + '\0') != std::string::npos;
    };
    if (line.find(mark) != std::string::npos && (has("OMPI_COMM_WORLD_RANK") || has("PMI_RANK"))) {
      return static_cast<pid_t>(std::stol(entry.path().filename().string()));
    }
  }
  return 0;
}

/// Until `done()`, or for so long that a test that waits for it has failed.
template <class Done>
void wait_for(Done&& done) {
  for (int i = 0; i < 4000 && !done(); ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
}

/// Has a load that dumps to `out` begun? Rank 0 makes a folder first.
bool has_begun(const fs::path& out) {
  for (const fs::directory_entry& entry : fs::directory_iterator(out.parent_path())) {
    if (entry.path().filename().string().rfind("." + out.filename().string() + ".partial", 0) == 0) {
      return true;
    }
  }
  return false;
}

TEST_F(mpi, a_rank_says_how_long_it_has_waited_for_one_that_is_stopped) {
  const temp_dir dir;
  write_plain(dir / "model.safetensors", {{"layers.0.weight", made_up("U8", 1, {4096, 4096})}});
  const fs::path out = dir / "out";
  const started_process job(
      command(2, {"load", dir / "model.safetensors", "--shards", "2", "--bucket-bytes", "300", "--dump", out}));
  wait_for([&] { return has_begun(out); });
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  const pid_t rank = process_of_rank(out, "1");
  ASSERT_NE(rank, 0);
  ::kill(rank, SIGSTOP);
  wait_for([&] { return job.err().find("load: rank 0 has waited ") != std::string::npos; });
  ::kill(rank, SIGCONT);
  const finished_process process = job.wait();
  expect_success(process);
  EXPECT_NE(process.err.find(" s for "), std::string::npos) << process.err;
  EXPECT_NE(process.err.find(", and gives up after 600 s\n"), std::string::npos) << process.err;
}

TEST_F(mpi, a_rank_that_is_stopped_ends_the_load_by_its_deadline) {
  const temp_dir dir;
  write_plain(dir / "model.safetensors", {{"layers.0.weight", made_up("U8", 1, {4096, 4096})}});
  const fs::path out = dir / "out";
  // Thousands of buckets, so that there is time to stop a rank in the middle.
  const started_process job(command(3, {"load", dir / "model.safetensors", "--shards", "3", "--bucket-bytes", "300",
                                        "--deadline", "1", "--dump", out}));
  wait_for([&] { return has_begun(out); });
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  const pid_t rank = process_of_rank(out, "1");
  ASSERT_NE(rank, 0);
  ::kill(rank, SIGSTOP);
  const auto stopped = std::chrono::steady_clock::now();
  const finished_process process = job.wait();
  EXPECT_LE(std::chrono::steady_clock::now() - stopped, std::chrono::seconds(6));
  EXPECT_NE(process.code, 0);
  EXPECT_EQ(count_of("fsdpinit: error: ", process.err), 1U) << process.err;
  EXPECT_NE(process.err.find("fsdpinit: error: rank 1: did not answer within the deadline"), std::string::npos)
      << process.err;
  EXPECT_EQ(std::distance(fs::directory_iterator(dir.path()), fs::directory_iterator()), 1) << "something is left";
}

}  // namespace
}  // namespace mpi_test
}  // namespace fsdpinit::testing_support
