#pragma once

#include <fsdpinit/core/compiler.hpp>

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace fsdpinit {

/// What is checked beyond what transports and devices check by themselves.
enum class verification : std::uint8_t {
  off,
  transfer,  ///< what was placed on each rank is what was read and cast: a checksum per bucket and destination
  reread,  ///< that, and in the end everything is read once more and compared: what one rank has read for all, by each rank that
           ///< holds a part of it; what several have read, by another rank than the one that holds it
};

[[nodiscard]] constexpr std::string_view name(verification level) noexcept {
  switch (level) {
    case verification::off:
      return "off";
    case verification::transfer:
      return "transfer";
    case verification::reread:
      return "reread";
  }
  return "unknown";
}

/// Bytes of the checksums of one bucket: one of what each shard keeps of its sharded tensors, and one of its whole tensors.
[[nodiscard]] constexpr std::uint64_t checksums_bytes(verification level, std::size_t shards) noexcept {
  return level == verification::off ? 0 : (shards + 1) * sizeof(std::uint64_t);
}

}  // namespace fsdpinit
