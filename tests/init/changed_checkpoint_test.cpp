#include "support/expect_error.hpp"
#include "support/safetensors_bytes.hpp"
#include "support/temp_dir.hpp"
#include "support/test_checksum.hpp"
#include <fsdpinit/fsdpinit.hpp>
#include <fsdpinit/sources/safetensors.hpp>
#include <fsdpinit/testing/rank_harness.hpp>

#include <gtest/gtest.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <future>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

/// \file
/// The checkpoint changes while its bytes are streamed, or ranks find different files: the same error on every rank, never the bytes of
/// two files in one model.

namespace changed_checkpoint_test {
namespace {

using namespace fsdpinit;
using namespace fsdpinit::testing_support;
using fsdpinit::testing::errors_of_ranks;
namespace fs = std::filesystem;

using opener = std::function<safetensors_source()>;

/// An Observer that does something when half of the bytes have been read.
struct half_way {
  std::function<void()> act;
  bool done = false;
  void phase(const char*) const {}
  void progress(std::uint64_t read, std::uint64_t total) {
    if (!done && read >= total / 2) {
      done = true;
      act();
    }
  }
};

template <class Policy>
void expect_noticed(std::string_view what, const std::function<void(const std::string&)>& change) {
  SCOPED_TRACE(concat(Policy::name, " ", name(Policy::transport), ": ", what));
  const temp_dir dir;
  const std::string data(4096, 'x');
  const std::string path =
      dir.write("model.safetensors",
                safetensors_bytes(concat("{", safetensors_entry_json("w", "U8", "[64,64]", "[0,4096]"), "}"), data));
  const threads_world world(3);
  const auto errors = errors_of_ranks(world, [&](std::size_t rank, threads_communicator& comm) {
    host_memory memory;
    dynamic_module module;
    module.add_parameter("w", dtype::u8, {64, 64});
    half_way watch{[&] {
      if (rank == 0) {
        change(path);
      }
    }};
    try {
      initialize<Policy>(module, opener(checkpoint{path}), comm, {.bucket_bytes = 192, .progress_interval_seconds = 0},
                         {.memory = memory, .observer = watch});
    } catch (...) {
      EXPECT_TRUE(module.get_parameter("w").is_meta());
      EXPECT_EQ(memory.accounted(), 0U);
      throw;
    }
  });
  expect_same_error(errors, errc::invalid_file, path, 0, what);
}

template <class Policy>
void expect_every_change_noticed() {
  expect_noticed<Policy>("the file shrank", [](const std::string& path) { fs::resize_file(path, 2000); });
  expect_noticed<Policy>("the file grew",
                         [](const std::string& path) { fs::resize_file(path, fs::file_size(path) + 1); });
  expect_noticed<Policy>("the file was modified", [](const std::string& path) {
    fs::last_write_time(path, fs::last_write_time(path) + std::chrono::seconds(1));
  });
  expect_noticed<Policy>("the file was deleted or replaced", [](const std::string& path) {
    fs::copy_file(path, path + ".new");
    fs::rename(path + ".new", path);
  });
  expect_noticed<Policy>("the file was deleted or replaced", [](const std::string& path) { fs::remove(path); });
}

TEST(ChangedCheckpoint, IsTheSameErrorEverywhereUnderScatter) {
  expect_every_change_noticed<native_sharding<transport::scatter>>();
}

TEST(ChangedCheckpoint, IsTheSameErrorEverywhereUnderBroadcast) {
  expect_every_change_noticed<native_sharding<transport::broadcast>>();
}

// -- copies

/// A checkpoint of 64 rows of 640 bytes, all of one character.
std::string copy_of(char character, std::string_view metadata = "\"made\":\"a\"", std::uint64_t rows = 64) {
  return safetensors_bytes(
      concat("{\"__metadata__\":{", metadata, "},",
             safetensors_entry_json("w", "U8", concat("[", rows, ",640]"), concat("[0,", rows * 640, "]")), "}"),
      std::string(rows * 640, character));
}

/// What two ranks throw that read what is opened for each of them.
template <class Policy>
std::vector<std::optional<error>> errors_of_openers(const opener& first, const opener& second,
                                                    verification verify = verification::off) {
  return errors_of_ranks(2, [&](std::size_t rank, threads_communicator& comm) {
    host_memory memory;
    dynamic_module module;
    module.add_parameter("w", dtype::u8, {64, 640});
    half_way watch{[] {}};
    initialize<Policy>(module, rank == 0 ? first : second, comm, {.verify = verify, .checksum = &test_checksum},
                       {.memory = memory, .observer = watch});
  });
}

template <class Policy>
void expect_same_files_or_an_error() {
  SCOPED_TRACE(concat(Policy::name, " ", name(Policy::transport)));
  const temp_dir dir;
  const std::string first = dir.write("model.safetensors", copy_of('x'));
  const auto expect_named = [&](const std::string& content, std::string_view piece) {
    const std::string other = dir.write("other.safetensors", content);
    expect_same_error(errors_of_openers<Policy>(checkpoint{first}, checkpoint{other}), errc::disagreement, other, 1,
                      piece);
  };
  expect_named(copy_of('y'), "this rank's copy holds other data than that of rank 0, in w between bytes ");
  expect_named(copy_of('x', "\"made\":\"b\""), "this rank's copy has another header than that of rank 0; give every");
  expect_named(copy_of('x', "\"made\":\"by another\""),
               concat("this rank's copy has ", fs::file_size(first) + 9, " bytes, that of rank 0 has ",
                      fs::file_size(first), "; give every rank the same checkpoint"));
  const std::string same = dir.write("elsewhere.safetensors", copy_of('x'));
  for (const auto& each : errors_of_openers<Policy>(checkpoint{first}, checkpoint{same}, verification::reread)) {
    EXPECT_FALSE(each) << each->what();
  }
}

TEST(CopiesOfACheckpoint, AreTheSameOrAnErrorThatNamesTheFile) {
  expect_same_files_or_an_error<native_sharding<transport::own_read>>();
  expect_same_files_or_an_error<every_rank_loads>();
}

TEST(CopiesOfACheckpoint, AreOfAsManyFiles) {
  const temp_dir dir;
  const std::string one = dir.write("model.safetensors", copy_of('x'));
  const std::string parts = dir.write("model.safetensors.index.json", R"({"weight_map":{"w":"part.safetensors"}})");
  static_cast<void>(dir.write("part.safetensors", copy_of('x')));
  for (const auto& each : errors_of_openers<native_sharding<transport::own_read>>(checkpoint{one}, checkpoint{parts})) {
    EXPECT_FALSE(each) << "one file each";
  }
  const opener two = [&] {
    return safetensors_source(dir / "model.safetensors.index.json", {{.name = "model.safetensors", .tensors = {"w"}},
                                                                     {.name = "part.safetensors", .tensors = {}}});
  };
  expect_same_error(errors_of_openers<native_sharding<transport::own_read>>(checkpoint{one}, two), errc::disagreement,
                    dir / "model.safetensors", 1, "this rank's checkpoint has 2 files, that of rank 0 has 1");
}

TEST(CopiesOfACheckpoint, ThatWereRenewedBetweenTwoOpensAreNoLongerTheSame) {
  const temp_dir dir;
  const std::string link = dir / "model.safetensors";
  fs::create_symlink(dir.write("old", copy_of('x')), link);
  static_cast<void>(dir.write("new", copy_of('y')));
  std::promise<void> opened;
  const opener first = [&] {
    safetensors_source source(link);
    opened.set_value();
    return source;
  };
  const opener second = [&] {
    opened.get_future().wait();
    fs::create_symlink(dir / "new", dir / "next");
    fs::rename(dir / "next", link);
    return safetensors_source(link);
  };
  expect_same_error(errors_of_openers<native_sharding<transport::own_read>>(first, second), errc::disagreement, link, 1,
                    "this rank's copy holds other data than that of rank 0");
}

}  // namespace
}  // namespace changed_checkpoint_test
