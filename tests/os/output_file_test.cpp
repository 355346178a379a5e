#include <fsdpinit/os/output_file.hpp>
#include <support/expect_error.hpp>
#include <support/temp_dir.hpp>

#include <gtest/gtest.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace fsdpinit::output_file_test {
namespace {

using testing_support::content_of;
using testing_support::temp_dir;
using testing_support::thrown_by;
namespace fs = std::filesystem;

bytes_view bytes_of(std::string_view text) { return std::as_bytes(std::span(text)); }

TEST(output_file, holds_what_was_written_one_behind_the_other) {
  const temp_dir dir;
  output_file file(dir / "a");
  file.write_all(bytes_of("123"));
  file.write_all({});
  file.write_all(bytes_of("45"));
  file.close();
  EXPECT_EQ(content_of(file.path()), "12345");
}

TEST(output_file, stays_after_the_object_once_it_was_closed) {
  const temp_dir dir;
  { output_file(dir / "a").close(); }
  EXPECT_TRUE(fs::exists(dir / "a"));
}

TEST(output_file, is_removed_when_it_was_not_closed) {
  const temp_dir dir;
  {
    output_file file(dir / "a");
    file.write_all(bytes_of("123"));
    EXPECT_TRUE(fs::exists(dir / "a"));
  }
  EXPECT_FALSE(fs::exists(dir / "a"));
}

TEST(output_file, goes_on_after_it_was_synced) {
  const temp_dir dir;
  output_file file(dir / "a");
  file.write_all(bytes_of("12"));
  file.sync();
  file.write_all(bytes_of("3"));
  file.close();
  EXPECT_EQ(content_of(dir / "a"), "123");
}

TEST(output_file, survives_being_moved) {
  const temp_dir dir;
  {
    output_file first(dir / "a");
    first.write_all(bytes_of("12"));
    output_file file(std::move(first));
    file.write_all(bytes_of("3"));
    file.close();
  }
  EXPECT_EQ(content_of(dir / "a"), "123");
}

TEST(output_file, never_overwrites) {
  const temp_dir dir;
  const std::string path = dir.write("a", "old");
  const auto caught = thrown_by([&] { output_file file(path); });
  ASSERT_TRUE(caught);
  EXPECT_EQ(caught->code(), errc::io);
  EXPECT_EQ(caught->native_code(), EEXIST);
  EXPECT_EQ(caught->what(), path + ": cannot be created: File exists");
  EXPECT_EQ(content_of(path), "old");
}

TEST(output_file, does_not_write_through_a_dangling_link) {
  const temp_dir dir;
  fs::create_symlink("target", dir / "a");
  const auto caught = thrown_by([&] { output_file file(dir / "a"); });
  ASSERT_TRUE(caught);
  EXPECT_EQ(caught->native_code(), EEXIST);
  EXPECT_FALSE(fs::exists(dir / "target"));
}

TEST(output_file, a_missing_folder_is_an_error) {
  const temp_dir dir;
  const auto caught = thrown_by([&] { output_file file(dir / "b/a"); });
  ASSERT_TRUE(caught);
  EXPECT_EQ(caught->native_code(), ENOENT);
  EXPECT_EQ(caught->subject(), dir / "b/a");
}

/// write(2) into a string that plays a list of results: a count of bytes at most, or minus an errno.
struct played_write {
  std::vector<int> script;
  std::string* out;
  std::size_t* calls;

  ssize_t operator()(int /*descriptor*/, const void* from, std::size_t count) {
    const int step = *calls < script.size() ? script[*calls] : 1'000;
    ++*calls;
    if (step < 0) {
      errno = -step;
      return -1;
    }
    const std::size_t part = std::min(count, static_cast<std::size_t>(step));
    out->append(static_cast<const char*>(from), part);
    return static_cast<ssize_t>(part);
  }
};

TEST(write_all, goes_on_after_short_writes_and_interruptions) {
  for (const std::vector<int>& script : {std::vector<int>{}, {1, 1, 1, 1}, {-EINTR, 3, -EINTR, -EINTR, 1}}) {
    SCOPED_TRACE(::testing::PrintToString(script));
    std::string out;
    std::size_t calls = 0;
    detail::write_all(played_write{script, &out, &calls}, 0, "f", bytes_of("12345"));
    EXPECT_EQ(out, "12345");
  }
}

TEST(write_all, a_full_disk_is_an_error_naming_the_file) {
  std::string out;
  std::size_t calls = 0;
  const auto caught = thrown_by([&] {
    detail::write_all(played_write{{2, -ENOSPC}, &out, &calls}, 0, "f", bytes_of("12345"));
  });
  ASSERT_TRUE(caught);
  EXPECT_EQ(caught->code(), errc::io);
  EXPECT_EQ(caught->native_code(), ENOSPC);
  EXPECT_STREQ(caught->what(), "f: cannot be written: No space left on device");
}

TEST(sync_to_disk, goes_on_after_interruptions) {
  int calls = 0;
  detail::sync_to_disk([&](int) { return errno = EINTR, ++calls < 3 ? -1 : 0; }, 0, "f");
  EXPECT_EQ(calls, 3);
}

TEST(sync_to_disk, is_content_where_there_is_no_disk) {
  EXPECT_NO_THROW(detail::sync_to_disk([](int) { return errno = EINVAL, -1; }, 0, "f"));
}

TEST(sync_to_disk, what_the_disk_refuses_is_an_error_naming_the_file) {
  const auto caught = thrown_by([&] { detail::sync_to_disk([](int) { return errno = EIO, -1; }, 0, "f"); });
  ASSERT_TRUE(caught);
  EXPECT_EQ(caught->code(), errc::io);
  EXPECT_STREQ(caught->what(), "f: cannot be written: Input/output error");
}

TEST(write_all, no_progress_is_an_error_not_a_loop) {
  std::string out;
  std::size_t calls = 0;
  const auto caught = thrown_by([&] {
    detail::write_all(played_write{{2, 0}, &out, &calls}, 0, "f", bytes_of("12345"));
  });
  ASSERT_TRUE(caught);
  EXPECT_EQ(caught->native_code(), EIO);
}

}  // namespace
}  // namespace fsdpinit::output_file_test
