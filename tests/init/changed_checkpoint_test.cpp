#include "support/expect_error.hpp"
#include "support/safetensors_bytes.hpp"
#include "support/temp_dir.hpp"
#include <fsdpinit/fsdpinit.hpp>
#include <fsdpinit/sources/safetensors.hpp>
#include <fsdpinit/testing/rank_harness.hpp>

#include <gtest/gtest.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>

/// \file
/// The checkpoint changes while its bytes are streamed: the same error on every rank, never the bytes of two files in one model.

namespace changed_checkpoint_test {
namespace {

using namespace fsdpinit;
using namespace fsdpinit::testing_support;
using fsdpinit::testing::errors_of_ranks;
namespace fs = std::filesystem;

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
      initialize<Policy>(module, checkpoint{path}, comm, {.bucket_bytes = 192, .progress_interval_seconds = 0}, memory,
                         watch);
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

}  // namespace
}  // namespace changed_checkpoint_test
