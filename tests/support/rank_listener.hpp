#pragma once

#include <gtest/gtest.h>

#include <cstdio>
#include <memory>

#include <unistd.h>

namespace fsdpinit::testing_support {

/// For ranks that are processes, each of which runs every test: rank 0 reports, and any rank its failures. A test that hangs ends the
/// job.
class rank_listener : public ::testing::EmptyTestEventListener {
 public:
  /// Makes the listeners of this process those of a rank. After InitGoogleTest.
  static void install(int rank) {
    ::testing::TestEventListeners& listeners = ::testing::UnitTest::GetInstance()->listeners();
    if (rank != 0) {
      delete listeners.Release(listeners.default_result_printer());
    }
    listeners.Append(std::make_unique<rank_listener>(rank).release());
  }

  explicit rank_listener(int rank) : rank_(rank) {}
  void OnTestStart(const ::testing::TestInfo& info) override {
    static_cast<void>(info);
    alarm(seconds_per_test);
  }
  void OnTestPartResult(const ::testing::TestPartResult& result) override {
    if (result.failed() && rank_ != 0) {
      std::fprintf(stderr, "rank %d: %s:%d: %s\n", rank_, result.file_name(), result.line_number(), result.message());
    }
  }

 private:
  static constexpr unsigned seconds_per_test = 100;
  int rank_;
};

}  // namespace fsdpinit::testing_support
