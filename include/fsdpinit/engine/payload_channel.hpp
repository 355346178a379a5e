#pragma once

#include <fsdpinit/concepts/communicator.hpp>
#include <fsdpinit/control/wait_watch.hpp>
#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/core/deadline.hpp>
#include <fsdpinit/engine/payload_link.hpp>
#include <fsdpinit/observe/report.hpp>

#include <cstddef>
#include <span>
#include <utility>
#include <vector>

namespace fsdpinit::detail {

/// The operations of a payload link, each wait with the deadline to itself. Time in the communicator counts as waiting.
class payload_channel {
 public:
  /// \param watch  nullptr where nobody hears of waits \param hook  nullptr where nobody looks meanwhile
  payload_channel(payload_link& link, double deadline_seconds, stage_clock& stages, wait_watch* watch = nullptr,
                  wait_hook* hook = nullptr)
      : link_(link), stages_(stages), watch_(watch), hook_(hook), deadline_seconds_(deadline_seconds) {}

  /// Operations 0 to `operations` - 1 may be started afterwards. \throws std::bad_alloc
  void reserve(std::size_t operations, const expected_operations& most) {
    link_.reserve(operations, most);
    started_.resize(operations);
  }

  /// Among all ranks where `group` is empty; otherwise on a communicator with groups.
  void start_broadcast(std::size_t which, mutable_bytes bytes, std::size_t root, std::span<const std::size_t> group) {
    const stage_scope waiting(stages_, &stage_seconds::wait);
    const wait_scope watched(watch_, awaited);
    link_.start_broadcast(which, bytes, root, group);
    started_[which] = 1;
  }
  /// The same, on a rank that only looks at the bytes: see `view`.
  void start_viewed_broadcast(std::size_t which, mutable_bytes bytes, std::size_t root,
                              std::span<const std::size_t> group) {
    const stage_scope waiting(stages_, &stage_seconds::wait);
    const wait_scope watched(watch_, awaited);
    link_.start_viewed_broadcast(which, bytes, root, group);
    started_[which] = 1;
  }
  [[nodiscard]] bytes_view view(std::size_t which) {
    const stage_scope waiting(stages_, &stage_seconds::wait);
    const wait_scope watched(watch_, awaited);
    return link_.view(which, limit());
  }

  /// The same for windows. \param received  empty on the root
  void start_scatter(std::size_t which, std::span<const bytes_view> windows, mutable_bytes received, std::size_t root,
                     std::span<const std::size_t> group) {
    const stage_scope waiting(stages_, &stage_seconds::wait);
    const wait_scope watched(watch_, awaited);
    link_.start_scatter(which, windows, received, root, group);
    started_[which] = 1;
  }

  /// Nothing to do where none was started. \throws what the communicator throws
  void wait(std::size_t which) {
    if (started_[which] != 0) {
      wait_for(which);
    }
  }

  /// Ends what is under way on every rank, where the communicator can.
  void interrupt() noexcept { link_.interrupt(); }

 private:
  static constexpr const char* awaited = "a bucket";

  /// A rank may leave its peers alone only where it can tell them.
  [[nodiscard]] deadline limit() const noexcept {
    return deadline::after(deadline_seconds_).looking(hook_, link_.can().interrupts);
  }
  void wait_for(std::size_t which) {
    const stage_scope waiting(stages_, &stage_seconds::wait);
    const wait_scope watched(watch_, awaited);
    started_[which] = 0;
    link_.wait(which, limit());
  }

  payload_link& link_;
  stage_clock& stages_;
  wait_watch* watch_;
  wait_hook* hook_;
  std::vector<char> started_;  // per operation: has it yet to be waited for?
  double deadline_seconds_;
};

/// A link whose waits without a deadline have a hook, for as long as this lives.
class looking_link {
 public:
  looking_link(payload_link& link, wait_hook* hook) noexcept : link_(link), hook_(hook) {
    if (hook_ != nullptr) {
      link_.look_with(hook_);
    }
  }
  looking_link(const looking_link&) = delete;
  looking_link& operator=(const looking_link&) = delete;
  ~looking_link() {
    if (hook_ != nullptr) {
      link_.look_with(nullptr);
    }
  }

 private:
  payload_link& link_;
  wait_hook* hook_;
};

/// Runs `fn` over channels that are connected before, and of use again where it has failed. \throws what `fn` throws
template <class Fn>
decltype(auto) over(payload_link& link, wait_hook* hook, Fn&& fn) {
  const looking_link looking(link, hook);
  try {
    link.connect();
    return std::forward<Fn>(fn)();
  } catch (...) {
    link.rearm();
    throw;
  }
}

}  // namespace fsdpinit::detail
