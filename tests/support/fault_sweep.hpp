#pragma once

#include "support/sanitizers.hpp"
#include "support/test_seed.hpp"
#include <fsdpinit/core/error.hpp>
#include <fsdpinit/testing/call_counter.hpp>

#include <gtest/gtest.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

/// \file
/// What sweeps over faults have in common: each rank has objects of its own, with a call counter at every seam.

namespace fsdpinit::testing_support {

template <std::size_t Seams>
using seam_counters = std::array<testing::call_counter, Seams>;

/// Of this many calls one fails: of one where nothing slows a sweep down, of twelve with a sanitizer: others in each run.
inline constexpr std::uint64_t calls_per_injection = is_sanitized ? 12 : 1;

/// The first call of a sample that fails: FSDPINIT_TEST_SEED, or chosen at random and printed.
[[nodiscard]] inline std::uint64_t first_injection() {
  if constexpr (calls_per_injection == 1) {
    return 0;
  }
  return test_seed() % calls_per_injection;
}

/// `objects` are the pointers to the ranks' objects after a clean run. Calls `inject(rank, seam, call)` for every call that was
/// counted, with sanitizers for a sample of them, until a test fails. \return how many there were.
template <class Objects, class Inject>
std::uint64_t for_each_counted_call(const Objects& objects, Inject&& inject) {
  std::vector<std::vector<std::uint64_t>> calls;  // taken first: an injection counts anew
  for (const auto& rank : objects) {
    auto& here = calls.emplace_back();
    for (const testing::call_counter& counter : rank->counters) {
      here.push_back(counter.calls());
    }
  }
  std::uint64_t injections = 0;
  std::uint64_t counted = calls_per_injection - first_injection();
  for (std::size_t rank = 0; rank < calls.size(); ++rank) {
    for (std::size_t seam = 0; seam < calls[rank].size(); ++seam) {
      for (std::uint64_t call = 0; call < calls[rank][seam] && !::testing::Test::HasFailure(); ++call) {
        if (counted++ % calls_per_injection == 0) {
          inject(rank, seam, call);
          ++injections;
        }
      }
    }
  }
  return injections;
}

template <class Objects>
void restart_counters(const Objects& objects) {
  for (const auto& rank : objects) {
    for (const testing::call_counter& counter : rank->counters) {
      counter.restart();
    }
  }
}

/// All ranks threw the same error, of rank `failing`: the injected one, or that memory was used up.
inline void expect_injected_error(std::span<const std::optional<error>> errors, std::size_t failing) {
  for (std::size_t rank = 0; rank < errors.size(); ++rank) {
    ASSERT_TRUE(errors[rank].has_value()) << "rank " << rank << " did not notice";
    const error& got = *errors[rank];
    EXPECT_EQ(got.rank(), static_cast<std::int32_t>(failing)) << got.what();
    EXPECT_STREQ(got.what(), errors[failing]->what()) << "rank " << rank;
    EXPECT_EQ(got.code(), errors[failing]->code());
    EXPECT_EQ(got.native_code(), errors[failing]->native_code());
    EXPECT_TRUE(got.code() == errc::out_of_memory || got.text().find("injected") != std::string::npos) << got.what();
  }
}

}  // namespace fsdpinit::testing_support
