#pragma once

#include <fsdpinit/communicators/rank_group.hpp>
#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/core/deadline.hpp>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

namespace fsdpinit {

/// The communicator of a world of one: nothing moves.
class self_communicator {
 public:
  struct token {};

  [[nodiscard]] std::size_t rank() const noexcept { return 0; }
  [[nodiscard]] std::size_t size() const noexcept { return 1; }
  [[nodiscard]] std::size_t node_of(std::size_t /*rank*/) const noexcept { return 0; }
  void broadcast(mutable_bytes /*buffer*/, std::size_t /*root*/) noexcept {}
  [[nodiscard]] std::uint64_t all_reduce_max(std::uint64_t value) noexcept { return value; }
  token start_broadcast(mutable_bytes /*buffer*/, std::size_t /*root*/,
                        std::span<const std::size_t> /*group*/ = {}) noexcept {
    return {};
  }
  token start_scatter(std::span<const bytes_view> /*windows*/, mutable_bytes /*own*/, std::size_t /*root*/,
                      std::span<const std::size_t> /*group*/ = {}) noexcept {
    return {};
  }
  void all_gather(bytes_view own, mutable_bytes all, std::span<const std::size_t> /*group*/, deadline /*limit*/) {
    detail::check_parts(own.size(), all.size(), 1, "bytes");
    if (!own.empty() && own.data() != all.data()) {
      std::memcpy(all.data(), own.data(), own.size());
    }
  }
  void reduce_scatter(std::span<const float> contribution, std::span<float> own, std::span<const std::size_t> group,
                      deadline limit) {
    all_gather(std::as_bytes(contribution), std::as_writable_bytes(own), group, limit);
  }
  void wait(token& /*operation*/, deadline /*limit*/) noexcept {}
};

}  // namespace fsdpinit
