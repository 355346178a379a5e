#pragma once

#include <fsdpinit/concepts/communicator.hpp>
#include <fsdpinit/concepts/memory_space.hpp>
#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/core/deadline.hpp>
#include <fsdpinit/testing/call_counter.hpp>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <utility>
#include <vector>

/// \file
/// Decorators that change one bit on its way, without a word: what verification is there to catch.

namespace fsdpinit::testing {

/// Which bit: of the call that the counter picks, bit `bit` counted around in what that call moves.
struct bit_flip {
  call_counter counter{};
  std::uint64_t bit = 0;

  /// Counts a call that moves `bytes`, if any. Changes them if it is the one.
  void apply(mutable_bytes bytes) const noexcept {
    if (!bytes.empty() && counter.fails_now()) {
      const std::uint64_t at = bit % (bytes.size() * 8);
      bytes[at / 8] ^= std::byte{1} << (at % 8);
    }
  }
};

/// A communicator of which one started operation delivers a wrong bit to this rank. Blocking operations are left alone.
template <NonBlockingCommunicator C>
class corrupting_communicator : public C {
 public:
  struct token {
    typename C::token started;
    mutable_bytes received;
  };

  corrupting_communicator(C inner, bit_flip flip) : C(std::move(inner)), flip_(std::move(flip)) {}

  [[nodiscard]] token start_broadcast(mutable_bytes buffer, std::size_t root) {
    return {C::start_broadcast(buffer, root), arriving(buffer, root)};
  }
  [[nodiscard]] token start_broadcast(mutable_bytes buffer, std::size_t root, std::span<const std::size_t> group)
    requires GroupCommunicator<C>
  {
    return {C::start_broadcast(buffer, root, group), arriving(buffer, root)};
  }
  [[nodiscard]] token start_scatter(std::span<const bytes_view> windows, mutable_bytes own, std::size_t root,
                                    std::span<const std::size_t> group)
    requires GroupCommunicator<C>
  {
    return {C::start_scatter(windows, own, root, group), arriving(own, root)};
  }
  void wait(token& operation, deadline limit) {
    C::wait(operation.started, limit);
    flip_.apply(operation.received);
  }

 private:
  [[nodiscard]] mutable_bytes arriving(mutable_bytes buffer, std::size_t root) const {
    return root == this->rank() ? mutable_bytes{} : buffer;
  }

  bit_flip flip_;
};

/// A memory space of which one copy from the host places a wrong bit.
template <MemorySpace S>
class corrupting_memory : public S {
 public:
  corrupting_memory() = default;
  corrupting_memory(S inner, bit_flip flip) : S(std::move(inner)), flip_(std::move(flip)) {}

  void copy_in(std::byte* destination, const std::byte* source, std::uint64_t stride, std::uint64_t run,
               std::uint64_t count, typename S::queue& order) {
    std::vector<std::byte> bytes(run * count);
    for (std::uint64_t i = 0; i < count && run != 0; ++i) {
      std::memcpy(bytes.data() + i * run, source + i * stride, run);
    }
    flip_.apply(bytes);
    S::copy_in(destination, bytes.data(), run, run, count, order);
    S::wait(order);  // as `bytes` goes away
  }

 private:
  bit_flip flip_;
};

}  // namespace fsdpinit::testing
