#include "support/expect_error.hpp"
#include "support/temp_dir.hpp"
#include <fsdpinit/communicators/file_rendezvous.hpp>
#include <fsdpinit/communicators/nccl_control.hpp>
#include <fsdpinit/testing/rank_harness.hpp>

#include <gtest/gtest.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <iterator>
#include <string>
#include <string_view>
#include <thread>

namespace file_rendezvous_test {
namespace {

using namespace fsdpinit;
using namespace fsdpinit::testing_support;
using fsdpinit::testing::run_ranks;

static_assert(Rendezvous<file_rendezvous>);

using some_id = std::array<std::byte, 128>;

some_id id_of(std::uint8_t first) {
  some_id out{};
  for (std::size_t i = 0; i < out.size(); ++i) {
    out[i] = static_cast<std::byte>(first + i);
  }
  return out;
}

std::size_t files_in(const temp_dir& folder) {
  const auto entries = std::filesystem::directory_iterator(folder.path());
  return static_cast<std::size_t>(std::distance(begin(entries), end(entries)));
}

/// What rank 1 says of the file `job` within 0.05 s.
void expect_not_met(const temp_dir& folder, errc code, std::string_view piece) {
  some_id got{};
  const std::string path = folder / "job";
  const auto meet = [&] { file_rendezvous{path}(got, 1, deadline::after(0.05)); };
  expect_error(code, path, piece, meet);
  EXPECT_EQ(thrown_by(meet)->rank(), 1);
}

TEST(FileRendezvous, GivesAllRanksTheBytesOfRankZeroAndLeavesNoFile) {
  const temp_dir folder;
  run_ranks(4, [&](std::size_t rank, threads_communicator& world) {
    some_id id = rank == 0 ? id_of(7) : some_id{};
    file_rendezvous meet(folder / "job");
    meet(id, rank, deadline::after(20));
    EXPECT_EQ(id, id_of(7));
    static_cast<void>(world.all_reduce_max(0));  // connected
  });
  EXPECT_EQ(files_in(folder), 0U);
}

TEST(FileRendezvous, WaitsForALateRankZero) {
  const temp_dir folder;
  run_ranks(2, [&](std::size_t rank, threads_communicator& world) {
    some_id id = rank == 0 ? id_of(9) : some_id{};
    if (rank == 0) {
      std::this_thread::sleep_for(std::chrono::milliseconds(30));
    }
    file_rendezvous meet(folder / "job");
    meet(id, rank, deadline::after(20));
    EXPECT_EQ(id, id_of(9));
    static_cast<void>(world.all_reduce_max(0));
  });
}

TEST(FileRendezvous, SaysSoWhereRankZeroDoesNotCome) {
  expect_not_met(temp_dir(), errc::peer_lost, "rank 0 did not write this file within the deadline");
}

TEST(FileRendezvous, IsNeverReplaced) {
  const temp_dir folder;
  for (const char* name : {"job", "job.unfinished"}) {
    const std::string there = folder.write(name, "somebody else's");
    some_id id = id_of(1);
    const auto meet = [&] { file_rendezvous{folder / "job"}(id, 0, deadline::after(20)); };
    expect_error(errc::io, there, "give each job a path of its own, or remove the file", meet);
    EXPECT_EQ(thrown_by(meet)->rank(), 0);
    EXPECT_EQ(thrown_by(meet)->native_code(), EEXIST);
    EXPECT_EQ(content_of(there), "somebody else's");
    EXPECT_EQ(files_in(folder), 1U);
    std::filesystem::remove(there);
  }
}

TEST(FileRendezvous, ThatIsCutShortIsWaitedForAndThenNamed) {
  const temp_dir folder;
  folder.write("job", "fsdpinit rendez");
  expect_not_met(folder, errc::peer_lost, "has 15 bytes where an id of 150 was waited for; remove the file");
}

TEST(FileRendezvous, ThatIsSomethingElseIsNamedAtOnce) {
  const temp_dir folder;
  folder.write("job", std::string(150, 'x'));
  expect_not_met(folder, errc::invalid_file, "no file by which ranks of this build meet");
  folder.write("job", std::string(151, 'x'));
  expect_not_met(folder, errc::invalid_file, "no file by which ranks of this build meet");
  std::filesystem::remove(folder / "job");
  std::filesystem::create_directory(folder / "job");
  expect_not_met(folder, errc::invalid_file, "is a folder");
}

TEST(FileRendezvous, InAFolderThatIsNotThereIsAnErrorOfRankZero) {
  const temp_dir folder;
  some_id id{};
  expect_error(errc::io, folder / "none/job.unfinished", "cannot be created",
               [&] { file_rendezvous{folder / "none/job"}(id, 0, deadline::after(20)); });
}

}  // namespace
}  // namespace file_rendezvous_test
