#include <support/heap_faults.hpp>

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <string>
#include <thread>
#include <vector>

namespace heap_faults_test {
namespace {

using namespace fsdpinit::testing_support;

struct alignas(64) wide {
  std::byte bytes[64];
};

/// A compiler may leave out a pair of new and delete that it sees through.
template <class T>
void keep(const T& value) {
  asm volatile("" : : "r"(&value) : "memory");  // NOLINT(hicpp-no-assembler)
}

class HeapFaults : public ::testing::Test {
  void SetUp() override {
    if (!heap_is_a_seam) {
      GTEST_SKIP() << "ThreadSanitizer keeps its own operators new and delete";
    }
  }
};

TEST_F(HeapFaults, EveryFormOfNewIsCounted) {
  const std::uint64_t before = heap_allocations();
  keep(std::make_unique<int>(1));
  keep(std::make_unique<int[]>(3));
  keep(std::make_unique<wide>());
  keep(std::unique_ptr<int>(new (std::nothrow) int(1)));
  keep(std::string(100, 'x'));  // allocated within the standard library's own object file
  EXPECT_EQ(heap_allocations() - before, 5U);
}

TEST_F(HeapFaults, OneCallFailsOrAllFromThereOn) {
  const auto outcomes = [](std::uint64_t call, heap_fault how) {
    std::string out(4, '?');
    const failing_heap failing(call, how);
    for (char& each : out) {
      try {
        keep(std::make_unique<wide>());
        each = '.';
      } catch (const std::bad_alloc&) {
        each = 'x';
      }
    }
    EXPECT_TRUE(failing.has_failed());
    return out;
  };
  EXPECT_EQ(outcomes(1, heap_fault::once), ".x..");
  EXPECT_EQ(outcomes(1, heap_fault::exhausted), ".xxx");
  EXPECT_NO_THROW(keep(std::make_unique<wide>()));
}

TEST_F(HeapFaults, OtherThreadsAreLeftAlone) {
  std::uint64_t counted = 0;
  std::thread other;
  const std::uint64_t before = heap_allocations();
  other = std::thread([&] {
    const std::uint64_t here = heap_allocations();
    keep(std::vector<int>(10));
    counted = heap_allocations() - here;
  });
  const std::uint64_t of_starting = heap_allocations() - before;
  const failing_heap failing(0, heap_fault::exhausted);
  other.join();
  EXPECT_EQ(counted, 1U);
  EXPECT_EQ(heap_allocations() - before, of_starting);
  EXPECT_FALSE(failing.has_failed());
}

}  // namespace
}  // namespace heap_faults_test
