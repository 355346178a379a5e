#pragma once

#include <fsdpinit/core/bytes.hpp>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string_view>

namespace fsdpinit {

/// A 64-bit hash that tells bytes apart which differ by accident, as copies of a file may; some GB/s. Bytes that an
/// enemy has chosen pass. Equal on machines of one byte order.
[[nodiscard]] inline std::uint64_t hash_of(bytes_view bytes) noexcept {
  constexpr std::uint64_t multiplier = 0x9e3779b97f4a7c15;
  std::uint64_t hash = bytes.size() * multiplier;
  while (!bytes.empty()) {
    const bytes_view next = bytes.first(smaller(bytes.size(), sizeof hash));
    std::uint64_t word = 0;
    std::memcpy(&word, next.data(), next.size());
    hash = (hash ^ word) * multiplier;
    hash ^= hash >> 32U;
    bytes = bytes.subspan(next.size());
  }
  return hash;
}

/// A 64-bit hash of a sequence of bytes that is handed over in pieces, as functions over a state of its own: what verification
/// compares. `xxh3` (fsdpinit/core/xxh3.hpp) is one; bring your own where hardware or a policy of yours asks for it.
///
/// The hash depends on the bytes and the seed, not on where pieces end. It guards against accidents, not against an enemy.
struct checksum {
  std::string_view name;
  void* (*make)();                                                              ///< a state; \throws std::bad_alloc
  void (*drop)(void* state) noexcept;                                           ///< gives it back
  void (*restart)(void* state, std::uint64_t seed) noexcept;                    ///< an empty sequence
  void (*update)(void* state, const std::byte* bytes, std::size_t n) noexcept;  ///< the next n bytes
  std::uint64_t (*value)(const void* state) noexcept;                           ///< of what came so far
};

namespace detail {

/// The checksum of programs that name none: `xxh3`, where a translation unit of the program includes fsdpinit/core/xxh3.hpp. In others there
/// is no such function, and its address is null.
[[gnu::weak]] const checksum* linked_checksum() noexcept;

/// nullptr where there is neither.
[[nodiscard]] inline const checksum* named_or_linked(const checksum* named) noexcept {
  return named != nullptr || linked_checksum == nullptr ? named : linked_checksum();
}

/// One hash in the making. Owns its state.
class running_checksum {
 public:
  /// `with` must outlive it. \throws std::bad_alloc
  explicit running_checksum(const checksum& with) : with_(with), state_(with.make()) {}
  ~running_checksum() { with_.drop(state_); }
  running_checksum(const running_checksum&) = delete;
  running_checksum& operator=(const running_checksum&) = delete;

  void restart(std::uint64_t seed) noexcept { with_.restart(state_, seed); }
  void update(bytes_view next) noexcept { with_.update(state_, next.data(), next.size()); }
  [[nodiscard]] std::uint64_t value() const noexcept { return with_.value(state_); }
  [[nodiscard]] std::string_view name() const noexcept { return with_.name; }

 private:
  const checksum& with_;
  void* state_;
};

}  // namespace detail

}  // namespace fsdpinit
