#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/os/input_files.hpp>
#include <support/expect_error.hpp>
#include <support/sanitizers.hpp>
#include <support/temp_dir.hpp>

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <filesystem>
#include <iterator>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <thread>
#include <vector>

#include <fcntl.h>
#include <sys/resource.h>

namespace fsdpinit::input_files_test {
namespace {

using testing_support::expect_error;
using testing_support::temp_dir;
namespace fs = std::filesystem;

std::string content_of(std::size_t file) { return concat("content of ", file); }

std::string read(input_files& files, std::size_t number) {
  const auto file = files.use(number);
  std::string out(file->size(), '?');
  file->read_exact_at(0, std::as_writable_bytes(std::span(out)));
  file->check_unchanged();
  return out;
}

std::size_t open_descriptors() {
  return static_cast<std::size_t>(std::distance(fs::directory_iterator("/proc/self/fd"), fs::directory_iterator())) - 1;
}

/// As many as `most_open` allows, several times over.
class input_files_of_many : public ::testing::Test {
 protected:
  static constexpr std::size_t count = 4 * input_files::most_open;

  void SetUp() override {
    for (std::size_t i = 0; i < count; ++i) {
      dir.write(concat(i), content_of(i));
    }
  }
  void add_all(input_files& files, const std::string& folder) const {
    for (std::size_t i = 0; i < count; ++i) {
      files.add(folder + concat(i));
    }
  }

  temp_dir dir;
};

TEST_F(input_files_of_many, are_read_in_any_order_while_few_are_open) {
  const std::size_t before = open_descriptors();
  input_files files;
  add_all(files, dir.path() + "/");
  EXPECT_EQ(files.size(), count);
  for (std::size_t i = 0; i < 3 * count; ++i) {
    const std::size_t file = i * 37 % count;
    EXPECT_EQ(read(files, file), content_of(file));
    EXPECT_EQ(open_descriptors(), before + input_files::most_open);
  }
}

TEST_F(input_files_of_many, the_one_that_is_read_again_and_again_stays_open) {
  input_files files;
  add_all(files, dir.path() + "/");
  const auto first_is_open = [&] {
    const std::string path = fs::canonical(dir / "0");
    return std::any_of(fs::directory_iterator("/proc/self/fd"), fs::directory_iterator(), [&](const auto& entry) {
      std::error_code gone;
      return fs::read_symlink(entry.path(), gone) == path;
    });
  };
  static_cast<void>(read(files, 0));
  for (std::size_t i = 1; i < count; ++i) {
    static_cast<void>(read(files, i));
    ASSERT_TRUE(first_is_open()) << i;
    static_cast<void>(read(files, 0));
  }
}

TEST_F(input_files_of_many, are_found_again_from_another_working_folder) {
  const fs::path before = fs::current_path();
  fs::current_path(dir.path());
  input_files files;
  add_all(files, "");
  fs::current_path(before);
  for (std::size_t i = 0; i < count; ++i) {
    EXPECT_EQ(read(files, i), content_of(i));
  }
}

TEST_F(input_files_of_many, one_that_was_replaced_while_it_was_closed_is_changed) {
  input_files files;
  add_all(files, dir.path() + "/");
  const auto time = fs::last_write_time(dir / "0");
  fs::last_write_time(dir.write("new", content_of(0)), time);
  fs::rename(dir / "new", dir / "0");
  expect_error(errc::invalid_file, dir / "0", "the file was deleted or replaced while it was read",
               [&] { static_cast<void>(read(files, 0)); });
}

TEST_F(input_files_of_many, one_that_was_deleted_while_it_was_closed_is_changed) {
  input_files files;
  add_all(files, dir.path() + "/");
  fs::remove(dir / "0");
  expect_error(errc::invalid_file, dir / "0", "the file was deleted or replaced while it was read",
               [&] { static_cast<void>(read(files, 0)); });
}

TEST_F(input_files_of_many, one_that_was_written_while_it_was_closed_is_changed) {
  input_files files;
  add_all(files, dir.path() + "/");
  fs::last_write_time(dir / "0", fs::last_write_time(dir / "0") + std::chrono::nanoseconds(1));
  fs::resize_file(dir / "1", 3);
  expect_error(errc::invalid_file, dir / "0", "the file was modified while it was read",
               [&] { static_cast<void>(read(files, 0)); });
  expect_error(errc::invalid_file, dir / "1", "the file shrank from 12 to 3 bytes while it was read",
               [&] { static_cast<void>(read(files, 1)); });
  EXPECT_EQ(read(files, 2), content_of(2));  // a failure leaves the others as they were
}

TEST_F(input_files_of_many, threads_read_them_at_the_same_time) {
  input_files files;
  add_all(files, dir.path() + "/");
  std::atomic<std::size_t> wrong{0};
  std::vector<std::thread> threads;
  for (std::size_t t = 0; t < 8; ++t) {
    threads.emplace_back([&, t] {
      for (std::size_t i = 0; i < 500; ++i) {
        const std::size_t file = (i * (2 * t + 1) + t) % count;
        wrong += read(files, file) != content_of(file) ? 1 : 0;
      }
    });
  }
  for (std::thread& each : threads) {
    each.join();
  }
  EXPECT_EQ(wrong, 0U);
}

TEST_F(input_files_of_many, as_many_as_are_read_at_once_are_open) {
  input_files files;
  add_all(files, dir.path() + "/");
  std::vector<std::unique_ptr<input_files::in_use>> all;
  for (std::size_t i = 0; i < count; ++i) {
    all.emplace_back(new input_files::in_use(files.use(i)));
  }
  for (std::size_t i = 0; i < count; ++i) {
    std::string out(content_of(i).size(), '?');
    (*all[i])->read_exact_at(0, std::as_writable_bytes(std::span(out)));
    EXPECT_EQ(out, content_of(i));
  }
}

/// A limit on the descriptors of this process, for as long as it lives.
class descriptor_limit {
 public:
  explicit descriptor_limit(std::size_t most) {
    ::getrlimit(RLIMIT_NOFILE, &before_);
    ::rlimit now = before_;
    now.rlim_cur = most;
    ::setrlimit(RLIMIT_NOFILE, &now);
  }
  descriptor_limit(const descriptor_limit&) = delete;
  descriptor_limit& operator=(const descriptor_limit&) = delete;
  ~descriptor_limit() { ::setrlimit(RLIMIT_NOFILE, &before_); }

 private:
  ::rlimit before_{};
};

TEST_F(input_files_of_many, make_do_with_fewer_descriptors_where_there_are_no_more) {
  if (testing_support::is_sanitized) {
    GTEST_SKIP() << "sanitizers look at memory through descriptors of their own";
  }
  const std::size_t next = [] {  // the lowest number that is free
    const detail::file_descriptor probe(::open("/dev/null", O_RDONLY | O_CLOEXEC));
    return static_cast<std::size_t>(probe.number());
  }();
  input_files files;
  {
    const descriptor_limit limit(next + 2);
    add_all(files, dir.path() + "/");
    for (std::size_t i = 0; i < count; ++i) {
      EXPECT_EQ(read(files, i), content_of(i));
    }
  }
  EXPECT_EQ(read(files, 0), content_of(0));
}

TEST_F(input_files_of_many, without_a_single_descriptor_the_limit_is_named) {
  if (testing_support::is_sanitized) {
    GTEST_SKIP() << "sanitizers look at memory through descriptors of their own";
  }
  input_files files;
  const descriptor_limit limit(0);
  expect_error(errc::io, dir / "0", "raise `ulimit -n`", [&] { files.add(dir / "0"); });
}

TEST_F(input_files_of_many, give_up_their_pages_as_they_are_closed) {
  input_files files(page_cache::drop_behind);
  add_all(files, dir.path() + "/");
  for (std::size_t i = 0; i < 2 * count; ++i) {
    EXPECT_EQ(read(files, i % count), content_of(i % count));
  }
}

}  // namespace
}  // namespace fsdpinit::input_files_test
