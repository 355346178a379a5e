#pragma once

#include "support/fake_cuda.hpp"
#include "support/fake_nccl.hpp"
#include "support/fault_sweep.hpp"
#include "support/reference_model.hpp"
#include <fsdpinit/communicators/cuda_threads.hpp>
#include <fsdpinit/communicators/nccl_communicator.hpp>
#include <fsdpinit/communicators/threads.hpp>
#include <fsdpinit/fsdpinit.hpp>
#include <fsdpinit/memory/cuda_memory.hpp>
#include <fsdpinit/testing/call_counter.hpp>
#include <fsdpinit/testing/rank_harness.hpp>

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

/// \file
/// What tests of communicators over the doubles of CUDA and NCCL have in common. How the ranks come to have one is a `Way`:
/// `Way::run(host, doubles, use)` makes a rank's communicator, with the help of a world of threads, and calls `use(comm)`.

namespace fsdpinit::testing_support {

enum class runtime { nccl, cuda };

/// A node: a GPU that is not there, and NCCL over it. Copies share it, and count calls together.
struct gpu_doubles {
  testing::fake_cuda cuda;
  testing::fake_nccl nccl{cuda};

  /// A rank's own handles: the calls of its own count.
  [[nodiscard]] gpu_doubles of_one_rank() const {
    gpu_doubles out = *this;
    out.nccl.calls = testing::call_counter();
    out.cuda.calls = testing::call_counter();
    return out;
  }
  [[nodiscard]] const testing::call_counter& calls(runtime which) const {
    return which == runtime::nccl ? nccl.calls : cuda.calls;
  }
};

/// Nothing has been done wrong, and nothing is left.
inline void expect_clean(const gpu_doubles& all) {
  EXPECT_EQ(all.cuda.left(), 0U);
  EXPECT_EQ(all.nccl.left(), 0U);
  for (const std::string& fault : all.cuda.faults()) {
    ADD_FAILURE() << fault;
  }
}

/// Ranks that are threads with a GPU each, over a world of threads.
struct over_nccl {
  using communicator = basic_nccl_communicator<testing::fake_nccl, testing::fake_cuda, threads_communicator>;
  template <class Use>
  static void run(threads_communicator& host, const gpu_doubles& mine, Use&& use) {
    communicator comm(host, 0, {.buffer_bytes = 2 * kib, .deadline_seconds = 20}, mine.nccl, mine.cuda);
    use(comm);
  }
};
/// Ranks that are threads, on one GPU.
struct on_one_gpu {
  using communicator = basic_cuda_threads_communicator<testing::fake_cuda>;
  template <class Use>
  static void run(threads_communicator& host, const gpu_doubles& mine, Use&& use) {
    communicator comm(host, 0, mine.cuda);
    use(comm);
  }
};

/// A node that is clean when the test ends.
class gpu_doubles_test : public ::testing::Test {
 protected:
  void TearDown() override { expect_clean(node); }
  gpu_doubles node;
};

[[nodiscard]] inline std::vector<std::byte> numbers(std::size_t count, std::size_t from) {
  std::vector<std::byte> out(count);
  for (std::size_t i = 0; i < count; ++i) {
    out[i] = static_cast<std::byte>(from + i * 7);
  }
  return out;
}

/// Three shards on the device, in each of the replicas.
template <class Way, class Policy>
void expect_shards_on_the_device(const gpu_doubles& node, std::size_t replicas = 1) {
  const reference_model model = varied_model();
  testing::run_ranks(3 * replicas, [&](std::size_t rank, threads_communicator& host) {
    Way::run(host, node, [&](auto& comm) {
      basic_cuda_memory<testing::fake_cuda> memory(0, node.cuda);
      dynamic_module module = model.module(memory, rank == 0);
      const rank_report report =
          initialize<Policy>(module, model.source(), comm,
                             {.bucket_bytes = 300, .replicas = replicas, .deadline_seconds = 20}, {.memory = memory});
      EXPECT_EQ(model.faults_of(module, memory, 3, rank % 3), "");
      EXPECT_EQ(report.accounted_peak_bytes, report.predicted.peak_bytes());
    });
  });
}

/// Call `index` of a runtime on rank `failing` fails: the same error on every rank. Then a second attempt on the same objects.
/// \return whether the call was made at all.
template <class Way>
bool expect_agreed_failure(runtime which, std::size_t failing, std::uint64_t index) {
  const gpu_doubles node;
  const errc expected = which == runtime::nccl ? errc::communication : errc::device;
  constexpr std::size_t ranks = 3;
  const reference_model model = varied_model();
  const threads_world world(ranks);
  bool was_made = false;
  std::vector<char> failed(ranks);
  const auto errors = testing::errors_of_ranks(world, [&](std::size_t rank, threads_communicator& host) {
    const gpu_doubles mine = node.of_one_rank();
    basic_cuda_memory<testing::fake_cuda> memory(0, mine.cuda);
    dynamic_module module = model.module(memory, rank == 0);
    if (rank == failing) {
      mine.calls(which).fail_at(index);
    }
    const auto attempt_it = [&] {
      Way::run(host, mine, [&](auto& comm) {
        const options how{.bucket_bytes = 300, .deadline_seconds = 20};
        try {
          static_cast<void>(initialize(module, model.source(), comm, how, {.memory = memory}));
        } catch (const error& first) {
          EXPECT_EQ(first.code(), expected) << first.what();
          EXPECT_EQ(first.rank(), static_cast<std::int32_t>(failing)) << first.what();
          failed[rank] = 1;
          static_cast<void>(initialize(module, model.source(), comm, how, {.memory = memory}));
        }
      });
    };
    const auto thrown = attempt(attempt_it);
    if (thrown) {  // it never came to be
      EXPECT_EQ(thrown->code(), expected) << thrown->what();
      failed[rank] = 1;
      attempt_it();
    }
    if (rank == failing) {
      was_made = mine.calls(which).has_failed();
      mine.calls(which).restart();  // what follows is the test's own
    }
    EXPECT_EQ(model.faults_of(module, memory, ranks, rank), "");
  });
  for (const auto& each : errors) {
    EXPECT_FALSE(each) << each->what();
  }
  for (const char each : failed) {
    EXPECT_EQ(each, failed[failing]) << "not all ranks failed, or not all went on";
  }
  expect_clean(node);
  return was_made;
}

/// Every call on each of three ranks, with sanitizers a sample of them, until one would not be made any more: more than `least`.
/// `fails(rank, index)` returns whether there was such a call.
template <class Fails>
void sweep_calls(std::uint64_t least, Fails&& fails) {
  std::uint64_t injections = 0;
  const std::uint64_t first = first_injection();
  for (std::size_t failing = 0; failing < 3; ++failing) {
    for (std::uint64_t index = first;; index += calls_per_injection) {
      SCOPED_TRACE(concat("call ", index, " of rank ", failing));
      if (!fails(failing, index) || ::testing::Test::HasFailure()) {
        break;
      }
      ++injections;
    }
  }
  EXPECT_GT(injections, least / calls_per_injection);
}

template <class Way>
void sweep_agreed_failures(runtime which, std::uint64_t least) {
  sweep_calls(least, [&](std::size_t failing, std::uint64_t index) {
    return expect_agreed_failure<Way>(which, failing, index);
  });
}

}  // namespace fsdpinit::testing_support
