#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <random>

namespace fsdpinit::testing_support {

/// What a randomised test begins with: FSDPINIT_TEST_SEED, or chosen at random; printed, so that a failure can be had again.
[[nodiscard]] inline std::uint64_t test_seed() {
  const char* const given = std::getenv("FSDPINIT_TEST_SEED");
  const std::uint64_t seed = given != nullptr ? std::strtoull(given, nullptr, 10) : std::random_device{}();
  std::printf("FSDPINIT_TEST_SEED=%llu\n", static_cast<unsigned long long>(seed));
  return seed;
}

}  // namespace fsdpinit::testing_support
