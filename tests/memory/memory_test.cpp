#include "support/expect_error.hpp"
#include "support/sanitizers.hpp"
#include <fsdpinit/memory/account.hpp>
#include <fsdpinit/memory/block.hpp>
#include <fsdpinit/memory/host_memory.hpp>
#include <fsdpinit/testing/laws.hpp>

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <memory>
#include <new>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

namespace memory_test {
namespace {

using namespace fsdpinit;
using namespace fsdpinit::testing_support;
using fsdpinit::testing::check_memory;
using fsdpinit::testing::violations;

TEST(HostMemory, KeepsTheLaws) { EXPECT_EQ(check_memory(host_memory()), violations{}); }

TEST(HostMemory, IsAlignedOnBothSidesOfTheMappingThreshold) {
  host_memory memory;
  for (const std::uint64_t bytes : {std::uint64_t{1}, host_memory::mapping_threshold - 1,
                                    host_memory::mapping_threshold, host_memory::mapping_threshold + 1, 5 * mib + 3}) {
    std::byte* const address = memory.allocate(bytes);
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(address) % 256, 0U);
    std::memset(address, 1, bytes);
    EXPECT_EQ(memory.accounted(), bytes);
    memory.deallocate(address, bytes);
    EXPECT_EQ(memory.accounted(), 0U);
  }
}

TEST(HostMemory, SpacesHaveAccountsOfTheirOwn) {
  host_memory one;
  const host_memory other;
  const block<host_memory> taken(one, 100);
  EXPECT_EQ(one.accounted(), 100U);
  EXPECT_EQ(other.accounted(), 0U);
}

/// The flags that the kernel has for the mapping at `address`: "hg" where huge pages are asked for, "nh" where they are refused.
std::string flags_of_mapping(const std::byte* address) {
  std::ifstream maps("/proc/self/smaps");
  bool inside = false;
  for (std::string line; std::getline(maps, line);) {
    std::uintptr_t begin = 0;
    std::uintptr_t end = 0;
    if (std::sscanf(line.c_str(), "%zx-%zx ", &begin, &end) == 2) {
      const auto at = reinterpret_cast<std::uintptr_t>(address);
      inside = at >= begin && at < end;
    } else if (inside && line.starts_with("VmFlags:")) {
      return line + " ";
    }
  }
  return "";
}

TEST(HostMemory, IsOfHugePagesUnlessToldOtherwise) {
  const auto asks = [](host_memory memory, std::string_view flag) {
    const block<host_memory> made(memory, 4 * mib);
    return flags_of_mapping(made.data()).find(flag) != std::string::npos;
  };
  if (flags_of_mapping(block<host_memory>(host_memory(), 4 * mib).data()).empty()) {
    GTEST_SKIP() << "this kernel does not tell the flags of mappings";
  }
  EXPECT_TRUE(asks(host_memory(), " hg "));
  EXPECT_TRUE(asks(host_memory({.huge_pages = huge_pages::off}), " nh "));
  EXPECT_FALSE(asks(host_memory({.huge_pages = huge_pages::as_the_system}), " hg "));
  EXPECT_FALSE(asks(host_memory({.huge_pages = huge_pages::as_the_system}), " nh "));
}

TEST(HostMemory, MoreThanThereIsIsBadAlloc) {
  host_memory memory;
  EXPECT_THROW(static_cast<void>(memory.allocate(std::uint64_t{1} << 60U)), std::bad_alloc);
  EXPECT_EQ(memory.accounted(), 0U);
}

TEST(HostMemory, TheAccountOutlivesTheSpace) {
  std::shared_ptr<const account> books;
  block<host_memory> taken = [&] {
    host_memory memory;
    books = memory.shared_account();
    return block<host_memory>(memory, 64);
  }();
  EXPECT_EQ(books->current(), 64U);
  taken.release();
  EXPECT_EQ(books->current(), 0U);
  EXPECT_EQ(books->peak(), 64U);
}

std::uint64_t resident_bytes() {
  std::ifstream statm("/proc/self/statm");
  std::uint64_t total = 0;
  std::uint64_t resident = 0;
  statm >> total >> resident;
  return resident * 4096;
}

TEST(HostMemory, LargeBlocksGoBackToTheOperatingSystem) {
  if (is_sanitized) {
    GTEST_SKIP() << "sanitizers have memory of their own";
  }
  host_memory memory;
  const std::uint64_t before = resident_bytes();
  {
    const block<host_memory> large(memory, 64 * mib);
    std::memset(large.data(), 1, large.size());
    EXPECT_GT(resident_bytes(), before + 60 * mib);
  }
  EXPECT_LT(resident_bytes(), before + 4 * mib);
}

TEST(HostMemory, UntouchedMemoryIsNotResident) {
  if (is_sanitized) {
    GTEST_SKIP() << "sanitizers have memory of their own";
  }
  host_memory memory;
  const std::uint64_t before = resident_bytes();
  const block<host_memory> large(memory, 256 * mib);
  EXPECT_LT(resident_bytes(), before + 4 * mib);
}

TEST(Account, KeepsThePeakUntilItIsRestarted) {
  account books;
  books.add(10);
  books.add(20);
  books.remove(25);
  EXPECT_EQ(books.current(), 5U);
  EXPECT_EQ(books.peak(), 30U);
  books.restart_peak();
  EXPECT_EQ(books.peak(), 5U);
}

TEST(PeakGrowth, IsWhatCameOnTopOfWhatWasThere) {
  host_memory memory;
  const block<host_memory> before(memory, 100);
  block<host_memory>(memory, 1000).release();
  const detail::peak_growth growth{memory_ref(memory)};
  EXPECT_EQ(growth.bytes(), 0U);
  block<host_memory>(memory, 30).release();
  EXPECT_EQ(growth.bytes(), 30U);
}

TEST(PeakGrowth, IsNothingWhereOthersHaveGivenBackMore) {
  host_memory memory;
  block<host_memory> before(memory, 100);
  const detail::peak_growth growth{memory_ref(memory)};
  before.release();
  memory.restart_peak();
  const block<host_memory> after(memory, 30);
  EXPECT_EQ(growth.bytes(), 0U);
}

TEST(Account, IsExactWithManyThreads) {
  account books;
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (int k = 0; k < 10'000; ++k) {
        books.add(3);
        books.remove(2);
      }
    });
  }
  for (std::thread& thread : threads) {
    thread.join();
  }
  EXPECT_EQ(books.current(), 40'000U);
  EXPECT_GE(books.peak(), 40'000U);
}

TEST(Block, OfNothingAllocatesNothing) {
  host_memory memory;
  const block<host_memory> nothing(memory, 0);
  EXPECT_EQ(nothing.data(), nullptr);
  EXPECT_EQ(nothing.size(), 0U);
  EXPECT_TRUE(nothing.bytes().empty());
}

/// Gives nothing, in one of the ways that spaces have.
struct empty_memory : host_memory {
  enum class way : std::uint8_t { returns_null, throws_bad_alloc, throws_an_error, throws_another_error };
  way how = way::returns_null;
  [[nodiscard]] std::byte* allocate(std::uint64_t /*bytes*/) const {
    switch (how) {
      case way::returns_null:
        return nullptr;
      case way::throws_bad_alloc:
        throw std::bad_alloc();
      case way::throws_an_error:
        throw error(errc::out_of_memory, "pool", "the pool is empty");
      default:
        throw error(errc::device, "pool", "the pool is gone");
    }
  }
};

TEST(Block, ThatASpaceCannotGiveSaysHowMuchWasAskedForAndWhatFor) {
  using way = empty_memory::way;
  empty_memory memory;
  for (const way how : {way::returns_null, way::throws_bad_alloc, way::throws_an_error}) {
    memory.how = how;
    expect_error(errc::out_of_memory, "",
                 how == way::throws_an_error ? "cannot give 300 bytes (the pool is empty) for a test"
                                             : "the memory space cannot give 300 bytes for a test",
                 [&] { static_cast<void>(block_for(memory, 300, [] { return std::string("a test"); })); });
  }
  memory.how = way::throws_another_error;
  expect_error(errc::device, "pool", "gone",
               [&] { static_cast<void>(block_for(memory, 300, [] { return std::string("a test"); })); });
  EXPECT_EQ(block_for(memory, 0, [] { return std::string("nothing"); }).data(), nullptr);
}

TEST(Block, IsReleasedOnce) {
  host_memory memory;
  {
    block<host_memory> first(memory, 100);
    block<host_memory> second = std::move(first);
    EXPECT_EQ(memory.accounted(), 100U);
    block<host_memory> third(memory, 50);
    third = std::move(second);
    EXPECT_EQ(memory.accounted(), 100U);
    EXPECT_EQ(third.size(), 100U);
    third.release();
    EXPECT_EQ(memory.accounted(), 0U);
    EXPECT_EQ(third.data(), nullptr);
  }
  EXPECT_EQ(memory.accounted(), 0U);
}

}  // namespace
}  // namespace memory_test
