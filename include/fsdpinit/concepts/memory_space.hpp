#pragma once

#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/core/dtype.hpp>

#include <concepts>
#include <cstddef>
#include <cstdint>

namespace fsdpinit {

/// Where shards live. A space is a cheap, copyable handle; copies share one account.
///
/// - `host_accessible`: host code may dereference its addresses. Where not, only the copies below may touch them.
/// - `allocate(bytes)`: aligned to 256 bytes, contents unspecified; \throws std::bad_alloc or fsdpinit::error.
///   `deallocate(address, bytes)` takes the same count.
/// - `copy_in(destination, source, stride, run, count, queue)`: `count` runs of `run` bytes, `stride` apart in host
/// memory,
///   one after the other to `destination`. `copy_out(destination, source, bytes, queue)`: back to the host, contiguous.
/// - A queue orders copies; `wait(queue)` returns when they are done. Host memory's queue is empty.
/// - A space that the host may not touch may name host memory that it copies from and to quickly: `staging()` returns that space.
/// - `accounted()`, `accounted_peak()`: bytes allocated now, and at most since `restart_peak()`.
template <class S>
concept MemorySpace = std::copyable<S> && std::default_initializable<typename S::queue> &&
                      requires(S& space, const S& constant, typename S::queue& queue, std::byte* address,
                               const std::byte* from, std::uint64_t bytes) {
                        { S::host_accessible } -> std::convertible_to<bool>;
                        { space.allocate(bytes) } -> std::same_as<std::byte*>;
                        { space.deallocate(address, bytes) } noexcept;
                        { space.copy_in(address, from, bytes, bytes, bytes, queue) } -> std::same_as<void>;
                        { space.copy_out(address, from, bytes, queue) } -> std::same_as<void>;
                        { space.wait(queue) } -> std::same_as<void>;
                        { constant.accounted() } noexcept -> std::same_as<std::uint64_t>;
                        { constant.accounted_peak() } noexcept -> std::same_as<std::uint64_t>;
                        { space.restart_peak() } noexcept;
                      };

namespace detail {

template <class T>
struct memory_clauses {
  static constexpr bool is_copyable = std::copyable<T>;
  static constexpr bool has_queue = requires { requires std::default_initializable<typename T::queue>; };
  static constexpr bool has_host_accessible = requires {
    { T::host_accessible } -> std::convertible_to<bool>;
  };
  static constexpr bool has_allocate = requires(T& space, std::uint64_t bytes) {
    { space.allocate(bytes) } -> std::same_as<std::byte*>;
  };
  static constexpr bool has_deallocate =
      requires(T& space, std::byte* address, std::uint64_t bytes) { space.deallocate(address, bytes); };
  static constexpr bool deallocate_is_noexcept =
      !has_deallocate || requires(T& space, std::byte* address, std::uint64_t bytes) {
        { space.deallocate(address, bytes) } noexcept;
      };
  static constexpr bool has_copy_in =
      requires(T& space, typename T::queue& queue, std::byte* address, const std::byte* from, std::uint64_t bytes) {
        { space.copy_in(address, from, bytes, bytes, bytes, queue) } -> std::same_as<void>;
      };
  static constexpr bool has_copy_out =
      requires(T& space, typename T::queue& queue, std::byte* address, const std::byte* from, std::uint64_t bytes) {
        { space.copy_out(address, from, bytes, queue) } -> std::same_as<void>;
      };
  static constexpr bool has_wait = requires(T& space, typename T::queue& queue) {
    { space.wait(queue) } -> std::same_as<void>;
  };
  static constexpr bool has_accounted = requires(const T& constant) {
    { constant.accounted() } noexcept -> std::same_as<std::uint64_t>;
  };
  static constexpr bool has_accounted_peak = requires(const T& constant) {
    { constant.accounted_peak() } noexcept -> std::same_as<std::uint64_t>;
  };
  static constexpr bool has_restart_peak = requires(T& space) {
    { space.restart_peak() } noexcept;
  };
  static constexpr bool is_memory_space = has_allocate || has_deallocate || has_host_accessible;
};

/// Where T is no memory space, the compiler says which clause it does not meet; T is named beside it. \return is it one?
template <class T>
[[nodiscard]] consteval bool require_memory_space() {
  if constexpr (!MemorySpace<T>) {
    using clauses = memory_clauses<T>;
    if constexpr (!clauses::is_memory_space) {
      static_assert(clauses::is_memory_space,
                    "fsdpinit: `memory` must be a MemorySpace: T must have queue, host_accessible, allocate, "
                    "deallocate, copy_in, copy_out, wait, accounted, accounted_peak, restart_peak");
    } else {
      static_assert(clauses::is_copyable,
                    "fsdpinit: `memory`: T must be copyable: a handle, whose copies share an account");
      static_assert(clauses::has_host_accessible,
                    "fsdpinit: `memory`: T must have static constexpr bool host_accessible: may host code touch it?");
      static_assert(clauses::has_allocate, "fsdpinit: `memory`: T must have std::byte* allocate(std::uint64_t bytes)");
      static_assert(
          clauses::has_deallocate,
          "fsdpinit: `memory`: T must have void deallocate(std::byte* address, std::uint64_t bytes) noexcept");
      static_assert(clauses::deallocate_is_noexcept,
                    "fsdpinit: `memory`: T::deallocate(address, bytes) must be noexcept");
      static_assert(clauses::has_queue,
                    "fsdpinit: `memory`: T must have a type queue, default-initialisable, which orders copies; where "
                    "copies are done when they return, struct queue {}");
      if constexpr (clauses::has_queue) {
        static_assert(
            clauses::has_copy_in,
            "fsdpinit: `memory`: T must have void copy_in(std::byte* to, const std::byte* from, std::uint64_t "
            "stride, std::uint64_t run, std::uint64_t count, queue&)");
        static_assert(clauses::has_copy_out,
                      "fsdpinit: `memory`: T must have void copy_out(std::byte* to, const std::byte* from, "
                      "std::uint64_t bytes, queue&)");
        static_assert(clauses::has_wait, "fsdpinit: `memory`: T must have void wait(queue&)");
      }
      static_assert(clauses::has_accounted, "fsdpinit: `memory`: T must have std::uint64_t accounted() const noexcept");
      static_assert(clauses::has_accounted_peak,
                    "fsdpinit: `memory`: T must have std::uint64_t accounted_peak() const noexcept");
      static_assert(clauses::has_restart_peak, "fsdpinit: `memory`: T must have void restart_peak() noexcept");
    }
  }
  return MemorySpace<T>;
}

/// A memory space that host code may touch.
template <class T>
[[nodiscard]] consteval bool require_host_memory() {
  if constexpr (require_memory_space<T>()) {
    static_assert(
        T::host_accessible,
        "fsdpinit: `memory`: T must be host_accessible: whole weights are loaded into host memory, and reach a "
        "device as shards");
    return T::host_accessible;
  } else {
    return false;
  }
}

}  // namespace detail

/// A space that the host may not touch, but that widens floats where they lie: `widen(from, source, to, destination, count, queue)`
/// converts `count` elements in their turn. The source does not begin before the destination, nor end before the destination ends:
/// it may be the last bytes of the destination. Elsewhere the bytes go to the host and back, piece by piece.
template <class S>
concept WideningMemory = MemorySpace<S> && requires(S& space, typename S::queue& queue, std::byte* to,
                                                    const std::byte* from, dtype type, std::uint64_t count) {
  { space.widen(type, from, type, to, count, queue) } -> std::same_as<void>;
};

/// A space that the host may not touch, but that copies within itself: what units are gathered in on the device.
///
/// - `copy_within(destination, destination_stride, source, source_stride, run, count, queue)`: `count` runs of `run` bytes, so far
///   apart at either end, in memory of this space that does not overlap.
/// - `zero(destination, bytes, queue)`: an initialisation clears by it what is between shards, so that it may be read. In other spaces
///   zeros are copied there.
template <class S>
concept LocallyCopyingMemory = MemorySpace<S> && requires(S& space, typename S::queue& queue, std::byte* to,
                                                          const std::byte* from, std::uint64_t bytes) {
  { space.copy_within(to, bytes, from, bytes, bytes, bytes, queue) } -> std::same_as<void>;
  { space.zero(to, bytes, queue) } -> std::same_as<void>;
};

/// May communicator C send from and receive into memory of space S? If the host may touch it, and where C works on device memory,
/// which it says by the alias `C::device_memory`. Otherwise one staging copy is inserted, and the plan counts it.
template <class C, class S>
inline constexpr bool can_access =
    S::host_accessible || requires { requires std::same_as<typename C::device_memory, S>; };

template <class C, class S>
concept CanAccess = can_access<C, S>;

}  // namespace fsdpinit
