#pragma once

#include <fsdpinit/core/bytes.hpp>

#include <cstdint>

namespace fsdpinit {

/// Part of one dimension: indices [offset, offset + length).
struct chunk {
  std::uint64_t offset = 0;
  std::uint64_t length = 0;
  friend bool operator==(const chunk&, const chunk&) = default;
};

/// The part of a dimension of `extent` that chunk `index` of `shards` holds.
///
/// The rule is torch.chunk's, which FSDP2 uses for dim 0: c = ceil(extent / shards), and chunk r is
/// [min(r*c, extent), min((r+1)*c, extent)). It is not balanced: 6 over 4 is 2, 2, 2, 0. An empty chunk has offset ==
/// extent. \pre shards != 0, index < shards.
[[nodiscard]] constexpr chunk chunk_of(std::uint64_t extent, std::uint64_t shards, std::uint64_t index) noexcept {
  const std::uint64_t size = ceil_div(extent, shards);
  if (size == 0 || index > extent / size) {  // index * size could overflow
    return {.offset = extent, .length = 0};
  }
  const std::uint64_t begin = index * size;
  const std::uint64_t rest = extent - begin;
  return {.offset = begin, .length = rest < size ? rest : size};
}

}  // namespace fsdpinit
