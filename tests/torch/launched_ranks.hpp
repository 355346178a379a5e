#pragma once

#include "libtorch_llama/process_group.hpp"
#include <fsdpinit/adapters/c10d_communicator.hpp>

#include <gtest/gtest.h>

#include <chrono>

#include <torch/utils.h>

namespace fsdpinit::testing_support {

/// For ranks that are processes over Gloo, which examples/libtorch_llama/launch.sh starts; each runs every test.
class launched_ranks : public ::testing::Test {
 public:
  static inline launch self;
  static inline c10::intrusive_ptr<c10d::ProcessGroupGloo> group;

 protected:
  static void SetUpTestSuite() {
    if (!group) {
      torch::set_num_threads(1);
      self = launch_from_environment();
      group = make_process_group(self, std::chrono::seconds(60));
    }
  }
  /// A rank that is done does not close its connections while others use them.
  static void TearDownTestSuite() { static_cast<void>(c10d_communicator(*group).all_reduce_max(0)); }
};

}  // namespace fsdpinit::testing_support
