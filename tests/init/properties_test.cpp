#include "init/random_case.hpp"
#include "support/sanitizers.hpp"
#include "support/test_seed.hpp"
#include <fsdpinit/core/text.hpp>

#include <gtest/gtest.h>

#include <cstdint>
#include <cstdlib>
#include <ostream>
#include <string>

#include <rapidcheck.h>

/// \file
/// What holds of every model, mesh, policy, transport, bucket, cast and conversion; in one case of three, tensors are made of others.
/// FSDPINIT_CASES of them, or 2000. A case that does not hold is made smaller before it is
/// shown.

namespace properties_test {
namespace {

using namespace fsdpinit;
using namespace fsdpinit::testing_support;

TEST(Properties, ShardsAreThoseOfTheNaiveSlicesAndPlansAreSymmetric) {
  const char* const given = std::getenv("FSDPINIT_CASES");
  const std::string parameters = concat("seed=", test_seed(), " max_success=",
                                        given != nullptr ? given
                                        : is_sanitized   ? "200"
                                                         : "2000");
  ASSERT_EQ(::setenv("RC_PARAMS", parameters.c_str(), 1), 0);  // where RapidCheck looks for them
  const bool holds = rc::check("shards equal slices", [] {
    const random_case made =
        random_case_from([](std::uint64_t bound) { return *rc::gen::inRange<std::uint64_t>(0, bound).as("a choice"); });
    const std::string faults = faults_of(made);
    if (!faults.empty()) {
      RC_LOG() << to_string(made) << faults;
    }
    RC_ASSERT(faults.empty());
  });
  EXPECT_TRUE(holds);
}

}  // namespace
}  // namespace properties_test
