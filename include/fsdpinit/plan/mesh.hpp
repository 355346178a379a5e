#pragma once

#include <fsdpinit/core/compiler.hpp>

#include <cstddef>

namespace fsdpinit {

/// The ranks a model lies on, 2-D: `replicas` x `shards`, rank = replica * shards + shard. Ranks of one replica hold a chunk of
/// each sharded tensor each; ranks of the same shard index hold the same bytes (FSDP2's HSDP mesh; one replica is plain FSDP).
struct mesh {
  std::size_t shards = 1;
  std::size_t replicas = 1;

  [[nodiscard]] constexpr std::size_t size() const noexcept { return shards * replicas; }
  [[nodiscard]] constexpr std::size_t shard_of(std::size_t rank) const noexcept { return rank % shards; }
  [[nodiscard]] constexpr std::size_t replica_of(std::size_t rank) const noexcept { return rank / shards; }
  [[nodiscard]] constexpr std::size_t rank_of(std::size_t replica, std::size_t shard) const noexcept {
    return replica * shards + shard;
  }

  friend bool operator==(const mesh&, const mesh&) = default;
};

}  // namespace fsdpinit
