#pragma once

#include <fsdpinit/core/compiler.hpp>
#include <fsdpinit/core/text.hpp>

#include <cstddef>
#include <cstdint>
#include <string>

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

/// Placement: split along `dim` over the ranks of the mesh. Negative dims count from the last one.
struct shard {
  std::int64_t dim = 0;
  friend bool operator==(const shard&, const shard&) = default;
};

/// Placement: every rank holds the whole tensor.
struct replicate {
  friend bool operator==(const replicate&, const replicate&) = default;
};

/// How one tensor lies on the mesh: `shard{dim}` (the default is dim 0) or `replicate{}`.
class placement {
 public:
  constexpr placement() noexcept = default;
  // NOLINTNEXTLINE(google-explicit-constructor): a placement is written as `shard{1}` or `replicate{}`
  constexpr placement(shard how) noexcept : dim_(how.dim), sharded_(true) {}
  // NOLINTNEXTLINE(google-explicit-constructor)
  constexpr placement(replicate /*how*/) noexcept : sharded_(false) {}

  [[nodiscard]] constexpr bool is_shard() const noexcept { return sharded_; }
  /// The dim as it was given, perhaps negative. 0 for `replicate`.
  [[nodiscard]] constexpr std::int64_t dim() const noexcept { return dim_; }

  friend bool operator==(const placement&, const placement&) = default;

 private:
  std::int64_t dim_ = 0;
  bool sharded_ = true;
};

/// `shard{0}`, `replicate`.
[[nodiscard]] inline std::string to_string(placement how) {
  return how.is_shard() ? concat("shard{", how.dim(), "}") : "replicate";
}

}  // namespace fsdpinit
