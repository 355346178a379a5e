// Any small model, mesh, policy, transport, bucket and cast: shards are the naive slices.

#include "fuzz_target.hpp"
#include "init/random_case.hpp"

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <string>

#include <fuzzer/FuzzedDataProvider.h>

using namespace fsdpinit;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  FuzzedDataProvider choices(data, size);
  const testing_support::random_case made = testing_support::random_case_from(
      [&](std::uint64_t bound) { return choices.ConsumeIntegralInRange<std::uint64_t>(0, bound - 1); });
  const std::string faults = testing_support::faults_of(made);
  if (!faults.empty()) {
    std::fputs((to_string(made) + faults).c_str(), stderr);
  }
  fuzz::require(faults.empty(), "a load that went wrong");
  return 0;
}
