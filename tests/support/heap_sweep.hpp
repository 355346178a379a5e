#pragma once

#include "support/fault_sweep.hpp"
#include "support/heap_faults.hpp"
#include "support/test_seed.hpp"
#include <fsdpinit/core/deadline.hpp>
#include <fsdpinit/core/error.hpp>

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <optional>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

/// \file
/// Sweeps over the heap: every allocation of every rank fails, once by itself and once with all that follow.

namespace fsdpinit::testing_support {

/// The heaps of rank threads, of which one may fail.
class rank_heaps {
 public:
  /// From now on that allocation within `on(rank)` fails, counted from its beginning.
  void fail(std::size_t rank, std::uint64_t call, heap_fault how) { fault_ = {.rank = rank, .call = call, .how = how}; }
  void mend() { fault_.reset(); }
  /// Was the allocation asked for?
  [[nodiscard]] bool has_failed() const { return fault_ && fault_->reached; }

  /// `fn`, on the thread of that rank.
  template <class Fn>
  auto on(std::size_t rank, Fn&& fn) {
    if (!fault_ || fault_->rank != rank) {
      return fn();
    }
    struct failing_call {  // says whether it was asked for also where `fn` throws
      fault& what;
      failing_heap heap{what.call, what.how};
      ~failing_call() { what.reached = heap.has_failed(); }
    };
    const failing_call failing{*fault_};
    return fn();
  }

 private:
  struct fault {
    std::size_t rank = 0;
    std::uint64_t call = 0;
    heap_fault how = heap_fault::once;
    bool reached = false;
  };
  std::optional<fault> fault_;
};

/// One of this many allocations fails. All of them with FSDPINIT_EVERY_ALLOCATION in the environment; with sanitizers a twelfth of what is asked for.
[[nodiscard]] inline std::uint64_t allocations_per_injection(std::uint64_t by_default) {
  return std::getenv("FSDPINIT_EVERY_ALLOCATION") != nullptr ? 1 : by_default * calls_per_injection;
}

/// Calls `inject(rank, call, how)`, which says whether the allocation was asked for, for all of them or one in `each`, until a test
/// fails. \return how many failed.
template <class Inject>
std::uint64_t for_each_allocation(std::size_t ranks, std::uint64_t each, Inject&& inject) {
  if (!heap_is_a_seam) {
    std::puts("the heap is no seam under this sanitizer");
    return 0;
  }
  const std::uint64_t first = each == 1 ? 0 : test_seed() % each;
  std::uint64_t injections = 0;
  for (const heap_fault how : {heap_fault::once, heap_fault::exhausted}) {
    for (std::size_t rank = 0; rank < ranks; ++rank) {
      for (std::uint64_t call = first; !::testing::Test::HasFailure() && inject(rank, call, how); call += each) {
        ++injections;
      }
    }
  }
  return injections;
}

[[nodiscard]] inline std::string_view name(heap_fault how) {
  return how == heap_fault::once ? " fails" : " and all that follow fail";
}

/// All ranks threw the error of an exhausted heap, of rank `failing`. What a rank says that has no memory left does not name a rank.
inline void expect_exhausted_heap(std::span<const std::optional<error>> errors, std::size_t failing) {
  for (std::size_t rank = 0; rank < errors.size(); ++rank) {
    ASSERT_TRUE(errors[rank].has_value()) << "rank " << rank << " did not notice";
    const error& got = *errors[rank];
    EXPECT_EQ(name(got.code()), name(errc::out_of_memory)) << "rank " << rank << ": " << got.what();
    EXPECT_EQ(got.rank(), static_cast<std::int32_t>(failing)) << "rank " << rank << ": " << got.what();
    EXPECT_EQ(got.text(), errors[failing]->text()) << "rank " << rank;
  }
}

}  // namespace fsdpinit::testing_support
