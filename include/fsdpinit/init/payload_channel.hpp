#pragma once

#include <fsdpinit/concepts/communicator.hpp>
#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/core/deadline.hpp>
#include <fsdpinit/init/wait_watch.hpp>
#include <fsdpinit/observe/report.hpp>

#include <cstddef>
#include <optional>
#include <span>
#include <utility>

namespace fsdpinit::detail {

/// A token of nothing: what blocking operations leave behind.
struct finished_token {};

template <class Data>
struct token_of {
  using type = finished_token;
};
template <NonBlockingCommunicator Data>
struct token_of<Data> {
  using type = typename Data::token;
};

/// Starts operations by what the communicator has: without non-blocking operations they are done when they return. Each wait has
/// the deadline to itself. Time in the communicator counts as waiting.
template <class Data>
class payload_channel {
 public:
  /// One that was started and not waited for.
  using operation = std::optional<typename token_of<Data>::type>;

  /// \param watch  nullptr where nobody hears of waits
  payload_channel(Data& data, double deadline_seconds, stage_clock& stages, wait_watch* watch = nullptr)
      : data_(data), stages_(stages), watch_(watch), rank_(data.rank()), deadline_seconds_(deadline_seconds) {}

  /// So that a communicator which can allocates nothing later. \throws std::bad_alloc
  void reserve([[maybe_unused]] const expected_operations& most) {
    if constexpr (ReservingCommunicator<Data>) {
      data_.reserve(most);
    }
  }

  /// Among all ranks where `group` is empty; otherwise on a communicator with groups.
  void start_broadcast([[maybe_unused]] operation& token, mutable_bytes bytes, std::size_t root,
                       [[maybe_unused]] std::span<const std::size_t> group) {
    const stage_scope waiting(stages_, &stage_seconds::wait);
    const wait_scope watched(watch_, awaited);
    if constexpr (GroupCommunicator<Data>) {
      if (!group.empty()) {
        token = data_.start_broadcast(bytes, root, group);
        return;
      }
    }
    if constexpr (NonBlockingCommunicator<Data>) {
      token = data_.start_broadcast(bytes, root);
    } else {
      data_.broadcast(bytes, root);
    }
  }

  /// The same, on a rank that only looks at the bytes: see `view`.
  void start_viewed_broadcast(operation& token, mutable_bytes bytes, std::size_t root,
                              std::span<const std::size_t> group)
    requires ViewingCommunicator<Data>
  {
    const stage_scope waiting(stages_, &stage_seconds::wait);
    const wait_scope watched(watch_, awaited);
    token =
        group.empty() ? data_.start_viewed_broadcast(bytes, root) : data_.start_viewed_broadcast(bytes, root, group);
  }
  /// Where the bytes are that a viewed broadcast has brought, until `wait`.
  [[nodiscard]] bytes_view view(operation& token)
    requires ViewingCommunicator<Data>
  {
    const stage_scope waiting(stages_, &stage_seconds::wait);
    const wait_scope watched(watch_, awaited);
    return data_.view(*token, deadline::after(deadline_seconds_));
  }

  /// The same for windows. A group of this rank alone is that of one outside, to which nothing is sent yet: its part is passed on
  /// to it. \param received  empty on the root
  void start_scatter([[maybe_unused]] operation& token, std::span<const bytes_view> windows, mutable_bytes received,
                     std::size_t root, [[maybe_unused]] std::span<const std::size_t> group) {
    const stage_scope waiting(stages_, &stage_seconds::wait);
    const wait_scope watched(watch_, awaited);
    if constexpr (GroupCommunicator<Data>) {
      if (!group.empty()) {
        const bool outside = group.size() == 1;
        token = data_.start_scatter(windows, outside ? mutable_bytes{} : received, outside ? rank_ : root, group);
        return;
      }
    }
    if constexpr (NonBlockingScatterCommunicator<Data>) {
      token = data_.start_scatter(windows, received, root);
    } else if constexpr (ScatterCommunicator<Data>) {
      data_.scatter(windows, received, root);
    }
  }

  /// Nothing to do where none was started. \throws what the communicator throws
  void wait([[maybe_unused]] operation& token) {
    if constexpr (NonBlockingCommunicator<Data>) {
      if (token) {
        const stage_scope waiting(stages_, &stage_seconds::wait);
        const wait_scope watched(watch_, awaited);
        auto started = std::move(*token);
        token.reset();
        data_.wait(started, deadline::after(deadline_seconds_));
      }
    }
  }

  /// Ends what is under way on every rank, where the communicator can.
  void interrupt() noexcept {
    if constexpr (InterruptibleCommunicator<Data>) {
      data_.interrupt();
    }
  }

 private:
  static constexpr const char* awaited = "a bucket";
  Data& data_;
  stage_clock& stages_;
  wait_watch* watch_;
  std::size_t rank_;
  double deadline_seconds_;
};

/// Runs `fn` over channels that are connected before, and of use again where it has failed. \throws what `fn` throws
template <class Data, class Fn>
decltype(auto) over(Data& data, Fn&& fn) {
  try {
    if constexpr (ConnectingCommunicator<Data>) {
      data.connect();
    }
    return std::forward<Fn>(fn)();
  } catch (...) {
    if constexpr (InterruptibleCommunicator<Data>) {
      data.rearm();
    }
    throw;
  }
}

}  // namespace fsdpinit::detail
