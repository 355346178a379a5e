#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/os/file.hpp>
#include <fsdpinit/os/page_cache.hpp>
#include <support/temp_dir.hpp>

#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

namespace fsdpinit::page_cache_test {
namespace {

using testing_support::temp_dir;

constexpr std::uint64_t file_bytes = 384 * mib;
/// What the device reads ahead (twice its setting, commonly up to 16 MiB), at two places, and what is read between two steps.
constexpr std::uint64_t flat_bytes = 48 * mib;
/// Of a file that nobody has dropped: the system itself may have had use for some pages.
constexpr std::uint64_t still_there = file_bytes / 4 * 3;

std::string made_up_bytes(std::uint64_t count) {
  std::string out(count, '\0');
  std::uint64_t state = 1;
  for (std::uint64_t at = 0; at + sizeof(state) <= count; at += sizeof(state)) {
    state = state * 6364136223846793005U + 1442695040888963407U;
    std::memcpy(out.data() + at, &state, sizeof(state));
  }
  return out;
}

/// Pages that are dirty cannot be dropped.
void write_through(const std::string& path) {
  const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  ASSERT_EQ(::fdatasync(file), 0);
  ::posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED);
  ::close(file);
}

/// Bytes of the file that the system's cache has.
std::uint64_t cached_bytes(const std::string& path) {
  const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  const auto size = static_cast<std::size_t>(::lseek(file, 0, SEEK_END));
  void* const mapped = ::mmap(nullptr, size, PROT_READ, MAP_SHARED, file, 0);
  ::close(file);
  const auto page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  std::vector<unsigned char> pages((size + page - 1) / page);
  EXPECT_EQ(::mincore(mapped, size, pages.data()), 0);
  ::munmap(mapped, size);
  return static_cast<std::uint64_t>(
             std::count_if(pages.begin(), pages.end(), [](unsigned char is) { return is & 1U; })) *
         page;
}

class page_cache_of_a_file : public ::testing::Test {
 protected:
  void SetUp() override {
    write_through(path);
    if (cached_bytes(path) > mib) {
      GTEST_SKIP() << "the file system of " << dir.path() << " does not drop pages that nobody needs";
    }
  }

  /// Reads [begin, end) and compares.
  void expect_read(const input_file& file, std::uint64_t begin, std::uint64_t end) const {
    std::vector<std::byte> read(end - begin);
    file.read_exact_at(begin, read);
    EXPECT_EQ(std::memcmp(read.data(), content.data() + begin, read.size()), 0) << "at " << begin;
  }
  /// Reads the file from `places` places in turns, `window` bytes each. \return most bytes that were cached.
  std::uint64_t most_cached(page_cache pages, std::uint64_t places, std::uint64_t window) const {
    const input_file file(path, pages);
    const std::uint64_t chunk = content.size() / places;
    std::uint64_t most = 0;
    std::uint64_t sampled = 0;
    for (std::uint64_t at = 0; at < chunk; at += window) {
      for (std::uint64_t place = 0; place < places; ++place) {
        expect_read(file, place * chunk + at, place * chunk + std::min(at + window, chunk));
      }
      if (at * places >= sampled) {
        sampled += mib;
        most = std::max(most, cached_bytes(path));
      }
    }
    return most;
  }

  temp_dir dir;
  std::string content = made_up_bytes(file_bytes);
  std::string path = dir.write("f", content);
};

TEST_F(page_cache_of_a_file, is_kept_unless_asked_otherwise) {
  {
    const input_file file(path);
    expect_read(file, 0, file_bytes);
  }
  EXPECT_GE(cached_bytes(path), still_there);
}

TEST_F(page_cache_of_a_file, dropped_behind_stays_flat) {
  EXPECT_LE(most_cached(page_cache::drop_behind, 1, 300'001), flat_bytes);
}

TEST_F(page_cache_of_a_file, dropped_behind_is_gone_with_the_reader) {
  most_cached(page_cache::drop_behind, 1, mib);
  EXPECT_EQ(cached_bytes(path), 0U);
}

TEST_F(page_cache_of_a_file, windows_in_turns_are_dropped_too) {
  // Each place has what the device reads ahead there, 120 MiB in all where that was 8 MiB at a time; without steps all of the file.
  EXPECT_LE(most_cached(page_cache::drop_behind, 4, 100'003), file_bytes / 2);
  EXPECT_LE(cached_bytes(path), 2 * mib);
}

TEST_F(page_cache_of_a_file, opening_drops_nothing) {
  const input_file kept(path);
  expect_read(kept, 0, file_bytes);
  { const input_file opened(path, page_cache::drop_behind); }
  EXPECT_GE(cached_bytes(path), still_there);
}

TEST_F(page_cache_of_a_file, several_threads_read_what_is_there) {
  {
    const input_file file(path, page_cache::drop_behind);
    std::vector<std::thread> threads;
    for (std::uint64_t first = 0; first < 4; ++first) {
      threads.emplace_back([&, first] {
        for (std::uint64_t at = first * 256 * kib; at < file_bytes; at += mib) {
          expect_read(file, at, at + 256 * kib);
        }
      });
    }
    for (std::thread& each : threads) {
      each.join();
    }
  }
  EXPECT_EQ(cached_bytes(path), 0U);
}

TEST_F(page_cache_of_a_file, a_file_moved_over_another_drops_what_that_one_read) {
  input_file file(path, page_cache::drop_behind);
  expect_read(file, 0, mib);
  file = input_file(dir.write("other", "12345"), page_cache::drop_behind);
  EXPECT_LE(cached_bytes(path), 16 * mib);  // what was read ahead
  std::string read(5, '?');
  file.read_exact_at(0, std::as_writable_bytes(std::span(read)));
  EXPECT_EQ(read, "12345");
}

TEST(page_cache_of_shared_memory, that_cannot_be_dropped_reads_right) {
  const std::string path = "/dev/shm/fsdpinit." + std::to_string(::getpid());
  const std::string content = made_up_bytes(20 * mib);
  std::ofstream(path, std::ios::binary) << content;
  const input_file file(path, page_cache::drop_behind);
  ::unlink(path.c_str());
  std::string read(content.size(), '?');
  for (std::uint64_t at = 0; at < read.size(); at += mib) {
    file.read_exact_at(at, std::as_writable_bytes(std::span(read)).subspan(at, mib));
  }
  EXPECT_EQ(read, content);
}

// -- which pages, without a file

using ranges = std::vector<std::pair<std::uint64_t, std::uint64_t>>;

struct recorded {
  detail::pages_behind behind;
  ranges advised;

  void read(std::uint64_t begin, std::uint64_t end) { behind.passed(begin, end, recording{advised}); }
  void finish() { behind.finish(recording{advised}); }

  struct recording {
    ranges& advised;
    void operator()(std::uint64_t begin, std::uint64_t end) const { advised.emplace_back(begin, end); }
  };
};

TEST(pages_behind, small_reads_in_a_row_are_one_step) {
  recorded pages;
  for (std::uint64_t at = 0; at < 9 * mib; at += 100) {
    pages.read(at, at + 100);
  }
  EXPECT_EQ(pages.advised, (ranges{{0, 8 * mib}}));
}

TEST(pages_behind, a_page_that_is_not_read_to_its_end_stays) {
  recorded pages;
  pages.read(0, 8 * mib + 4095);
  EXPECT_EQ(pages.advised, (ranges{{0, 8 * mib}}));
}

TEST(pages_behind, a_step_takes_along_the_folio_that_the_last_one_had_a_part_of) {
  recorded pages;
  pages.read(0, 9 * mib);
  pages.advised.clear();
  pages.read(9 * mib, 17 * mib);
  EXPECT_EQ(pages.advised.front(), (std::pair<std::uint64_t, std::uint64_t>{8 * mib, 17 * mib}));
}

TEST(pages_behind, what_lies_between_two_places_stays) {
  recorded pages;
  pages.read(0, 4 * mib);
  pages.read(100 * mib, 104 * mib);
  EXPECT_EQ(pages.advised, (ranges{{0, 4 * mib}, {100 * mib, 104 * mib}}));
}

TEST(pages_behind, what_lies_before_all_places_goes) {
  recorded pages;
  pages.read(100 * mib, 108 * mib);
  EXPECT_EQ(pages.advised, (ranges{{100 * mib, 108 * mib}, {0, 100 * mib}}));
}

TEST(pages_behind, more_places_than_it_knows_make_a_step) {
  recorded pages;
  for (std::uint64_t place = 1; place <= detail::pages_behind::most_places; ++place) {
    EXPECT_TRUE(pages.advised.empty());
    pages.read(place * 10 * mib, place * 10 * mib + 8 * kib);
  }
  EXPECT_EQ(pages.advised.size(), detail::pages_behind::most_places + 1);
}

TEST(pages_behind, tensors_smaller_than_a_page_go_in_the_end) {
  recorded pages;
  pages.read(10, 20);
  pages.read(20, 30);
  EXPECT_TRUE(pages.advised.empty());
  pages.finish();
  EXPECT_EQ(pages.advised, (ranges{{0, 4096}}));
}

}  // namespace
}  // namespace fsdpinit::page_cache_test
