#pragma once

#include <fsdpinit/core/bytes.hpp>

#include <cstdint>
#include <cstring>

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

}  // namespace fsdpinit
