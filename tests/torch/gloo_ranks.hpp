#pragma once

#include <fsdpinit/communicators/threads.hpp>
#include <fsdpinit/control/agreement.hpp>
#include <fsdpinit/testing/rank_harness.hpp>

#include <chrono>
#include <cstddef>
#include <optional>
#include <utility>
#include <vector>

#include <ATen/core/ivalue.h>  // before the rest: without it libtorch 1.13 does not compile as C++20

#include <torch/csrc/distributed/c10d/HashStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>

/// \file
/// Process groups of Gloo whose ranks are threads of this process.

namespace fsdpinit::testing_support {

using gloo_group = c10d::ProcessGroupGloo;

/// Collective over `world`: a rank that is done with its group at once, and closes its connections, must not do so while others
/// still make theirs.
[[nodiscard]] inline c10::intrusive_ptr<gloo_group> gloo_rank(const c10::intrusive_ptr<c10d::Store>& store,
                                                              threads_communicator& world) {
  constexpr std::chrono::seconds limit(60);
  c10::intrusive_ptr<gloo_group> group;
  agreed(world, static_cast<double>(limit.count()), [&] {
    const auto how = gloo_group::Options::create(limit);
    how->devices.push_back(gloo_group::createDeviceForHostname("127.0.0.1"));
    group = c10::make_intrusive<gloo_group>(store, static_cast<int>(world.rank()), static_cast<int>(world.size()), how);
  });
  return group;
}

/// Calls `fn(group, store)` on each rank; what each threw.
template <class Fn>
[[nodiscard]] std::vector<std::optional<error>> errors_of_gloo_ranks(std::size_t ranks, Fn&& fn) {
  const auto store = c10::make_intrusive<c10d::HashStore>();
  return testing::errors_of_ranks(ranks, [&](std::size_t /*rank*/, threads_communicator& world) {
    const auto group = gloo_rank(store, world);
    fn(*group, *store);
  });
}

template <class Fn>
void run_gloo_ranks(std::size_t ranks, Fn&& fn) {
  const auto store = c10::make_intrusive<c10d::HashStore>();
  testing::run_ranks(ranks, [&](std::size_t /*rank*/, threads_communicator& world) {
    const auto group = gloo_rank(store, world);
    fn(*group, *store);
  });
}

}  // namespace fsdpinit::testing_support
