#include <fsdpinit/os/file.hpp>
#include <support/expect_error.hpp>
#include <support/temp_dir.hpp>

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstring>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

namespace fsdpinit::file_test {
namespace {

using testing_support::expect_error;
using testing_support::temp_dir;
using testing_support::thrown_by;
namespace fs = std::filesystem;

std::string read(const input_file& file, std::uint64_t offset, std::size_t count) {
  std::string out(count, '?');
  file.read_exact_at(offset, std::as_writable_bytes(std::span(out)));
  return out;
}

void expect_not_opened(const std::string& path, errc code, std::string_view piece) {
  expect_error(code, path, piece, [&] { input_file opened(path); });
}

/// The descriptors of this process that lead to `path`.
std::vector<int> descriptors_of(const std::string& path) {
  std::vector<int> out;
  for (const auto& entry : fs::directory_iterator("/proc/self/fd")) {
    std::error_code gone;
    if (fs::read_symlink(entry.path(), gone) == path) {
      out.push_back(std::stoi(entry.path().filename()));
    }
  }
  return out;
}

// -- opening

TEST(input_file, knows_path_and_size) {
  const temp_dir dir;
  const std::string path = dir.write("a", "12345");
  const input_file file(path);
  EXPECT_EQ(file.path(), path);
  EXPECT_EQ(file.size(), 5U);
}

TEST(input_file, may_be_empty) {
  const temp_dir dir;
  EXPECT_EQ(input_file(dir.write("a", "")).size(), 0U);
}

TEST(input_file, follows_links_to_regular_files) {
  const temp_dir dir;
  dir.write("blob", "12345");
  fs::create_symlink("blob", dir / "link");
  fs::create_symlink("link", dir / "link to link");
  const input_file file(dir / "link to link");
  EXPECT_EQ(read(file, 0, 5), "12345");
}

TEST(input_file, what_does_not_exist_is_an_error) {
  const temp_dir dir;
  const std::string path = dir / "a";
  expect_not_opened(path, errc::io, "no such file or folder; check the path");
  EXPECT_EQ(thrown_by([&] { input_file opened(path); })->native_code(), ENOENT);
}

TEST(input_file, a_file_used_as_a_folder_is_an_error) {
  const temp_dir dir;
  expect_not_opened(dir.write("a", "") + "/b", errc::io, "Not a directory");
}

TEST(input_file, a_dangling_link_is_an_error) {
  const temp_dir dir;
  fs::create_symlink("nowhere", dir / "link");
  expect_not_opened(dir / "link", errc::io, "is a dangling link");
}

TEST(input_file, a_link_to_a_dangling_link_is_an_error) {
  const temp_dir dir;
  fs::create_symlink("nowhere", dir / "link");
  fs::create_symlink("link", dir / "link to link");
  expect_not_opened(dir / "link to link", errc::io, "is a dangling link");
}

TEST(input_file, a_link_to_itself_is_an_error) {
  const temp_dir dir;
  fs::create_symlink("link", dir / "link");
  expect_not_opened(dir / "link", errc::io, "symbolic links");
}

TEST(input_file, a_folder_is_an_error) {
  const temp_dir dir;
  expect_not_opened(dir.path(), errc::invalid_file, "is a folder; give a regular file");
}

TEST(input_file, a_link_to_a_folder_is_an_error) {
  const temp_dir dir;
  fs::create_symlink(".", dir / "link");
  expect_not_opened(dir / "link", errc::invalid_file, "is a folder");
}

TEST(input_file, a_fifo_is_an_error_and_does_not_block) {
  const temp_dir dir;
  ASSERT_EQ(::mkfifo((dir / "fifo").c_str(), 0600), 0);
  expect_not_opened(dir / "fifo", errc::invalid_file, "is a FIFO");
  fs::create_symlink("fifo", dir / "link");
  expect_not_opened(dir / "link", errc::invalid_file, "is a FIFO");
}

TEST(input_file, a_device_is_an_error) {
  for (const std::string path : {"/dev/null", "/dev/zero"}) {
    expect_not_opened(path, errc::invalid_file, "is a character device");
  }
}

TEST(input_file, a_socket_is_an_error) {
  const temp_dir dir;
  const std::string path = dir / "socket";
  const detail::file_descriptor socket(::socket(AF_UNIX, SOCK_STREAM, 0));
  ::sockaddr_un address{};
  address.sun_family = AF_UNIX;
  ASSERT_LT(path.size(), sizeof(address.sun_path));
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  ASSERT_EQ(::bind(socket.number(), reinterpret_cast<const ::sockaddr*>(&address), sizeof(address)), 0);
  expect_not_opened(path, errc::invalid_file, "is a socket");
}

TEST(input_file, one_that_may_not_be_read_is_an_error) {
  if (::geteuid() == 0) {
    GTEST_SKIP() << "root may read everything";
  }
  const temp_dir dir;
  const std::string path = dir.write("a", "1");
  fs::permissions(path, fs::perms::none);
  expect_not_opened(path, errc::io, "cannot be opened: Permission denied");
}

TEST(input_file, a_nul_in_the_path_does_not_open_the_path_before_it) {
  const temp_dir dir;
  const std::string path = dir.write("a", "1") + std::string("\0.safetensors", 13);
  expect_not_opened(path, errc::invalid_argument, "NUL");
}

TEST(input_file, an_empty_path_is_an_error) { expect_not_opened("", errc::io, "no such file or folder"); }

TEST(input_file, is_not_inherited_by_other_programs_and_is_closed_once) {
  const temp_dir dir;
  const std::string path = fs::canonical(dir.write("a", "1"));
  {
    input_file first(path);
    const input_file file(std::move(first));
    const auto open = descriptors_of(path);
    ASSERT_EQ(open.size(), 1U);
    EXPECT_NE(::fcntl(open[0], F_GETFD) & FD_CLOEXEC, 0);
    EXPECT_EQ(read(file, 0, 1), "1");
  }
  EXPECT_TRUE(descriptors_of(path).empty());
}

TEST(input_file, assignment_closes_the_file_before) {
  const temp_dir dir;
  const std::string path = fs::canonical(dir.write("a", "1"));
  input_file file(path);
  file = input_file(dir.write("b", "2"));
  EXPECT_TRUE(descriptors_of(path).empty());
  EXPECT_EQ(read(file, 0, 1), "2");
}

// -- reading

TEST(input_file, reads_any_range) {
  const temp_dir dir;
  const input_file file(dir.write("a", "0123456789"));
  EXPECT_EQ(read(file, 0, 10), "0123456789");
  EXPECT_EQ(read(file, 9, 1), "9");
  EXPECT_EQ(read(file, 3, 4), "3456");
  EXPECT_EQ(read(file, 10, 0), "");
}

TEST(input_file, a_read_beyond_the_end_is_an_error) {
  const temp_dir dir;
  const input_file file(dir.write("a", "0123456789"));
  expect_error(errc::invalid_file, file.path(), "ends at or before byte 10, 1 more were expected",
               [&] { static_cast<void>(read(file, 8, 3)); });
}

/// pread on "0123456789" that plays a list of results: a count of bytes at most, or minus an errno.
struct played_pread {
  std::vector<int> script;
  std::size_t* calls;

  ssize_t operator()(int /*descriptor*/, void* to, std::size_t count, off_t offset) {
    constexpr std::string_view content = "0123456789";
    const int step = *calls < script.size() ? script[*calls] : 1'000;
    ++*calls;
    if (step < 0) {
      errno = -step;
      return -1;
    }
    const auto part = content.substr(static_cast<std::size_t>(offset), std::min(count, static_cast<std::size_t>(step)));
    std::memcpy(to, part.data(), part.size());
    return static_cast<ssize_t>(part.size());
  }
};

TEST(read_exact_at, goes_on_after_short_reads_and_interruptions) {
  const std::vector<std::vector<int>> scripts{
      {}, {1, 1, 1, 1, 1, 1, 1, 1}, {3, 3, 3}, {-EINTR}, {-EINTR, -EINTR, 5, -EINTR, 1, -EINTR}, {7, -EINTR}};
  for (const auto& script : scripts) {
    SCOPED_TRACE(::testing::PrintToString(script));
    std::size_t calls = 0;
    std::array<char, 8> out{};
    detail::read_exact_at(played_pread{script, &calls}, 0, "f", 2, std::as_writable_bytes(std::span(out)));
    EXPECT_EQ(std::string_view(out.data(), out.size()), "23456789");
  }
}

TEST(read_exact_at, asks_for_nothing_when_nothing_is_wanted) {
  std::size_t calls = 0;
  detail::read_exact_at(played_pread{{}, &calls}, 0, "f", 0, {});
  EXPECT_EQ(calls, 0U);
}

TEST(read_exact_at, an_end_after_a_short_read_is_an_error) {
  std::size_t calls = 0;
  std::array<std::byte, 8> out{};
  expect_error(errc::invalid_file, "f",
               "the file shrank while it was read: it ends at or before byte 5, 5 more were expected", [&] {
                 detail::read_exact_at(played_pread{{3, 0}, &calls}, 0, "f", 2, out);
               });
}

TEST(read_exact_at, a_refusal_of_the_system_is_an_error_with_its_errno) {
  std::size_t calls = 0;
  std::array<std::byte, 8> out{};
  const auto caught = thrown_by([&] { detail::read_exact_at(played_pread{{3, -EIO}, &calls}, 0, "f", 2, out); });
  ASSERT_TRUE(caught);
  EXPECT_EQ(caught->code(), errc::io);
  EXPECT_EQ(caught->native_code(), EIO);
  EXPECT_STREQ(caught->what(), "f: reading 5 bytes at 5 failed: Input/output error");
  EXPECT_EQ(calls, 2U);
}

TEST(read_exact_into, fills_any_number_of_places_one_after_the_other) {
  const temp_dir dir;
  std::string bytes;
  for (std::size_t i = 0; i < 1000; ++i) {
    bytes += static_cast<char>(i % 251);
  }
  const input_file file(dir.write("a", bytes));
  for (const std::size_t places : {0U, 1U, 2U, 63U, 64U, 65U, 200U}) {
    std::string out(places * 3, '?');
    std::vector<mutable_bytes> into;
    for (std::size_t i = 0; i < places; ++i) {  // an empty one after each
      into.push_back(std::as_writable_bytes(std::span(out)).subspan(i * 3, 3));
      into.emplace_back();
    }
    file.read_exact_into(7, into);
    EXPECT_EQ(out, bytes.substr(7, places * 3)) << places;
  }
}

TEST(read_exact_into, an_end_within_a_place_is_an_error_that_says_where) {
  const temp_dir dir;
  const std::string path = dir.write("a", "12345");
  const input_file file(path);
  std::array<std::byte, 8> out{};
  const std::array<mutable_bytes, 2> into{std::span(out).first(4), std::span(out).last(4)};
  expect_error(errc::invalid_file, path, "it ends at or before byte 5, 3 more were expected",
               [&] { file.read_exact_into(0, into); });
}

// -- changes

TEST(input_file, one_that_nobody_touches_is_unchanged) {
  const temp_dir dir;
  const input_file file(dir.write("a", "12345"));
  file.check_unchanged();
  static_cast<void>(read(file, 0, 5));
  file.check_unchanged();
}

TEST(input_file, a_second_link_to_it_is_no_change) {
  const temp_dir dir;
  const input_file file(dir.write("a", "12345"));
  fs::create_hard_link(dir / "a", dir / "b");
  file.check_unchanged();
}

TEST(input_file, one_that_shrank_is_changed) {
  const temp_dir dir;
  const input_file file(dir.write("a", "12345"));
  fs::resize_file(file.path(), 4);
  expect_error(errc::invalid_file, file.path(), "the file shrank from 5 to 4 bytes while it was read",
               [&] { file.check_unchanged(); });
}

TEST(input_file, one_that_grew_is_changed) {
  const temp_dir dir;
  const input_file file(dir.write("a", "12345"));
  fs::resize_file(file.path(), 6);
  expect_error(errc::invalid_file, file.path(), "the file grew from 5 to 6 bytes", [&] { file.check_unchanged(); });
}

TEST(input_file, one_with_another_time_is_changed) {
  const temp_dir dir;
  const input_file file(dir.write("a", "12345"));
  fs::last_write_time(file.path(), fs::last_write_time(file.path()) + std::chrono::nanoseconds(1));
  expect_error(errc::invalid_file, file.path(), "the file was modified while it was read",
               [&] { file.check_unchanged(); });
}

TEST(input_file, one_that_was_replaced_is_changed) {
  const temp_dir dir;
  const input_file file(dir.write("a", "12345"));
  const auto time = fs::last_write_time(file.path());
  fs::last_write_time(dir.write("b", "54321"), time);
  fs::rename(dir / "b", file.path());
  expect_error(errc::invalid_file, file.path(), "the file was deleted or replaced while it was read",
               [&] { file.check_unchanged(); });
}

TEST(input_file, one_that_was_deleted_is_changed) {
  const temp_dir dir;
  const input_file file(dir.write("a", "12345"));
  fs::remove(file.path());
  expect_error(errc::invalid_file, file.path(), "the file was deleted or replaced", [&] { file.check_unchanged(); });
}

}  // namespace
}  // namespace fsdpinit::file_test
