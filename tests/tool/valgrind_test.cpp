#include "checkpoints.hpp"
#include "tool_process.hpp"
#include <support/temp_dir.hpp>

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace fsdpinit::testing_support {
namespace valgrind_test {
namespace {

/// What no sanitizer sees: bytes that are read before they are written, in a whole run of the tool.
TEST(valgrind, has_nothing_to_say_of_a_load) {
  const temp_dir dir;
  write_plain(dir / "model.safetensors", small_model());
  for (const std::string policy : {"native-sharding", "cpu-ram-efficient-loading", "every-rank-loads"}) {
    const finished_process process = run_process({FSDPINIT_VALGRIND,
                                                  "--quiet",
                                                  "--error-exitcode=99",
                                                  "--leak-check=full",
                                                  "--errors-for-leak-kinds=definite",
                                                  tool_path(),
                                                  "load",
                                                  dir / "model.safetensors",
                                                  "--shards",
                                                  "3",
                                                  "--policy",
                                                  policy,
                                                  "--verify",
                                                  "transfer",
                                                  "--bucket-bytes",
                                                  "1000",
                                                  "--dump",
                                                  dir / policy,
                                                  "--report",
                                                  dir / "r.json",
                                                  "--optimizer"});
    EXPECT_EQ(process.code, 0) << policy << "\n" << process.err;
    EXPECT_EQ(process.err.find("=="), std::string::npos) << process.err;
  }
}

}  // namespace
}  // namespace valgrind_test
}  // namespace fsdpinit::testing_support
