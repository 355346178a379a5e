#pragma once

#include <fsdpinit/concepts/communicator.hpp>
#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/core/deadline.hpp>
#include <fsdpinit/core/error.hpp>
#include <fsdpinit/core/text.hpp>
#include <fsdpinit/engine/payload_link.hpp>
#include <fsdpinit/testing/call_counter.hpp>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <utility>

namespace fsdpinit::testing {

/// A communicator of which one call throws error{communication}. It models what `C` models, but for `StagingCommunicator` and
/// `poisoned`, and nothing else.
///
/// `wait` fails after the operation is over, because a failed `wait` has given the buffers back; every other call fails
/// before it has begun. `interrupt`, `rearm` and `fail`, which must not fail, are not counted.
template <Communicator C>
class faulty_communicator {
 public:
  using token = typename fsdpinit::detail::token_of<C>::type;

  faulty_communicator(C& inner, call_counter counter) : inner_(inner), counter_(std::move(counter)) {}

  [[nodiscard]] std::size_t rank() const { return inner_.rank(); }
  [[nodiscard]] std::size_t size() const { return inner_.size(); }

  [[nodiscard]] std::size_t node_of(std::size_t rank) const
    requires requires(const C& comm) { comm.node_of(0); }
  {
    return inner_.node_of(rank);
  }

  void broadcast(mutable_bytes buffer, std::size_t root) {
    count("broadcast");
    inner_.broadcast(buffer, root);
  }
  void broadcast(mutable_bytes buffer, std::size_t root, deadline limit)
    requires requires(C& comm) { comm.broadcast(buffer, root, limit); }
  {
    count("broadcast");
    inner_.broadcast(buffer, root, limit);
  }
  void scatter(std::span<const bytes_view> windows, mutable_bytes own, std::size_t root)
    requires ScatterCommunicator<C>
  {
    count("scatter");
    inner_.scatter(windows, own, root);
  }
  void all_gather(bytes_view own, mutable_bytes all, std::span<const std::size_t> group, deadline limit)
    requires CollectiveCommunicator<C>
  {
    count("all_gather");
    inner_.all_gather(own, all, group, limit);
  }
  void reduce_scatter(std::span<const float> contribution, std::span<float> own, std::span<const std::size_t> group,
                      deadline limit)
    requires CollectiveCommunicator<C>
  {
    count("reduce_scatter");
    inner_.reduce_scatter(contribution, own, group, limit);
  }
  [[nodiscard]] std::uint64_t all_reduce_max(std::uint64_t value)
    requires requires(C& comm) { comm.all_reduce_max(value); }
  {
    count("all_reduce_max");
    return inner_.all_reduce_max(value);
  }
  [[nodiscard]] std::uint64_t all_reduce_max(std::uint64_t value, deadline limit)
    requires requires(C& comm) { comm.all_reduce_max(value, limit); }
  {
    count("all_reduce_max");
    return inner_.all_reduce_max(value, limit);
  }
  [[nodiscard]] error fail(const error& cause)
    requires FailableControl<C>
  {
    return inner_.fail(cause);
  }
  void interrupt() noexcept
    requires InterruptibleCommunicator<C>
  {
    inner_.interrupt();
  }
  void rearm() noexcept
    requires InterruptibleCommunicator<C>
  {
    inner_.rearm();
  }
  [[nodiscard]] bool interrupted()
    requires AlertingControl<C>
  {
    return inner_.interrupted();
  }
  void connect()
    requires requires(C& comm) { comm.connect(); }
  {
    inner_.connect();
  }

  void reserve(const expected_operations& most)
    requires requires(C& comm) { comm.reserve(most); }
  {
    count("reserve");
    inner_.reserve(most);
  }
  [[nodiscard]] token start_broadcast(mutable_bytes buffer, std::size_t root)
    requires NonBlockingCommunicator<C>
  {
    count("start_broadcast");
    return inner_.start_broadcast(buffer, root);
  }
  [[nodiscard]] token start_broadcast(mutable_bytes buffer, std::size_t root, std::span<const std::size_t> group)
    requires GroupCommunicator<C>
  {
    count("start_broadcast");
    return inner_.start_broadcast(buffer, root, group);
  }
  [[nodiscard]] token start_scatter(std::span<const bytes_view> windows, mutable_bytes own, std::size_t root,
                                    std::span<const std::size_t> group)
    requires GroupCommunicator<C>
  {
    count("start_scatter");
    return inner_.start_scatter(windows, own, root, group);
  }
  [[nodiscard]] token start_viewed_broadcast(mutable_bytes buffer, std::size_t root, std::span<const std::size_t> group)
    requires requires(C& comm) { comm.start_viewed_broadcast(buffer, root, group); }
  {
    count("start_viewed_broadcast");
    return inner_.start_viewed_broadcast(buffer, root, group);
  }
  /// Fails before it has begun: the operation is as it was.
  [[nodiscard]] bytes_view view(token& operation, deadline limit)
    requires requires(C& comm) { comm.view(operation, limit); }
  {
    count("view");
    return inner_.view(operation, limit);
  }
  void wait(token& operation, deadline limit)
    requires NonBlockingCommunicator<C>
  {
    inner_.wait(operation, limit);
    count("wait");
  }

 private:
  void count(std::string_view what) const {
    if (counter_.fails_now()) {
      throw error(errc::communication, "", concat("injected into ", what));
    }
  }

  C& inner_;
  call_counter counter_;
};

}  // namespace fsdpinit::testing
