#pragma once

#include <fsdpinit/concepts/communicator.hpp>
#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/core/deadline.hpp>
#include <fsdpinit/testing/call_counter.hpp>

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <utility>

/// \file
/// A rank that stops in front of one of its calls, for a while or for good: what it looks like to its peers when a process is
/// stopped, swapped out or gone.

namespace fsdpinit::testing {

/// Where a rank stops, and until when. Copies are of one point.
class stall_point {
 public:
  /// At the call that the counter picks, until `release`, and for `seconds` at most.
  stall_point(call_counter counter, double seconds)
      : counter_(std::move(counter)), seconds_(seconds), gate_(std::make_shared<gate>()) {}

  /// Counts a call, and stops there if it is the one.
  void pass() const {
    if (counter_.fails_now()) {
      std::unique_lock lock(gate_->mutex);
      gate_->opened.wait_for(lock, std::chrono::duration<double>(seconds_), [&] { return gate_->open; });
    }
  }
  void release() const {
    const std::lock_guard lock(gate_->mutex);
    gate_->open = true;
    gate_->opened.notify_all();
  }
  [[nodiscard]] std::uint64_t calls() const noexcept { return counter_.calls(); }

 private:
  struct gate {
    std::mutex mutex;
    std::condition_variable opened;
    bool open = false;
  };
  call_counter counter_;
  double seconds_;
  std::shared_ptr<gate> gate_;
};

/// A communicator of a rank that stops in front of one call, blocking or started, of data or of control.
template <GroupCommunicator C>
class stalling_communicator : public C {
 public:
  using token = typename C::token;

  stalling_communicator(C inner, stall_point point) : C(std::move(inner)), point_(std::move(point)) {}

  template <class... Limit>
  void broadcast(mutable_bytes buffer, std::size_t root, Limit... limit) {
    point_.pass();
    C::broadcast(buffer, root, limit...);
  }
  template <class... Limit>
  [[nodiscard]] std::uint64_t all_reduce_max(std::uint64_t value, Limit... limit) {
    point_.pass();
    return C::all_reduce_max(value, limit...);
  }
  template <class... Group>
  [[nodiscard]] token start_broadcast(mutable_bytes buffer, std::size_t root, const Group&... group) {
    point_.pass();
    return C::start_broadcast(buffer, root, group...);
  }
  template <class... Group>
  [[nodiscard]] token start_scatter(std::span<const bytes_view> windows, mutable_bytes own, std::size_t root,
                                    const Group&... group) {
    point_.pass();
    return C::start_scatter(windows, own, root, group...);
  }
  void wait(token& operation, deadline limit) {
    point_.pass();
    C::wait(operation, limit);
  }

 private:
  stall_point point_;
};

}  // namespace fsdpinit::testing
