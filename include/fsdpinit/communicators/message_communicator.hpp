#pragma once

#include <fsdpinit/communicators/message_engine.hpp>
#include <fsdpinit/concepts/communicator.hpp>
#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/core/deadline.hpp>

#include <cstddef>
#include <span>
#include <utility>

namespace fsdpinit {

/// What communicators of messages (MPI, NCCL, c10d) do with payload: operations that are started and waited for, also among groups of
/// ranks, and the collectives of training. Each has its own control beside it, and says what becomes of buffers after a failure.
template <class Wire>
class message_communicator {
 public:
  using token = typename Wire::operation*;

  [[nodiscard]] std::size_t rank() const noexcept { return engine_->wire().rank(); }
  [[nodiscard]] std::size_t size() const noexcept { return engine_->wire().size(); }

  token start_broadcast(mutable_bytes buffer, std::size_t root, std::span<const std::size_t> group = {}) {
    return engine_->broadcast(buffer, root, group);
  }
  token start_scatter(std::span<const bytes_view> windows, mutable_bytes own, std::size_t root,
                      std::span<const std::size_t> group = {}) {
    return engine_->scatter(windows, own, root, group);
  }
  void wait(token& operation, deadline limit) {
    if (typename Wire::operation* const which = std::exchange(operation, nullptr)) {
      engine_->wait(*which, limit);
    }
  }

  void all_gather(bytes_view own, mutable_bytes all, std::span<const std::size_t> group, deadline limit) {
    engine_->all_gather(own, all, group, limit);
  }
  void reduce_scatter(std::span<const float> contribution, std::span<float> own, std::span<const std::size_t> group,
                      deadline limit) {
    engine_->reduce_scatter(contribution, own, group, limit);
  }

 protected:
  /// `engine` outlives it; it need not be there yet.
  explicit message_communicator(detail::message_engine<Wire>* engine) noexcept : engine_(engine) {}

 private:
  detail::message_engine<Wire>* engine_;
};

}  // namespace fsdpinit
