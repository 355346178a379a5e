#pragma once

#include <fsdpinit/core/bytes.hpp>

#include <cstdint>
#include <string_view>

namespace fsdpinit {

/// How bytes get from the checkpoint to the shards.
enum class transport : std::uint8_t {
  /// The source rank reads, and each rank receives its own part and nothing else; whole tensors are broadcast. The default.
  scatter,
  /// The source rank reads, and each rank receives everything, bucket by bucket, and keeps its part: what the Python stacks do tensor
  /// by tensor.
  broadcast,
  /// Each rank reads its own part: for checkpoints on storage that all ranks share (or have a copy of). Replicas of a
  /// part read a share of it each and exchange them. Whole tensors are read by the source rank and broadcast. A rank that
  /// finds another checkpoint than the source rank is error{disagreement}.
  own_read,
  /// `own_read` for tensors whose chunks are 1 MiB or larger, `scatter` for smaller ones, and for all if some rank cannot
  /// read the checkpoint (error{io, invalid_file} where it is opened or sampled) or finds another one. Other failures of
  /// a rank that opens it are everybody's. The report says what was picked, and why.
  automatic,
  /// Every rank reads everything by itself: that of `every_rank_loads`, and of no other policy.
  none,
};

[[nodiscard]] constexpr std::string_view name(transport by) noexcept {
  switch (by) {
    case transport::scatter:
      return "scatter";
    case transport::broadcast:
      return "broadcast";
    case transport::own_read:
      return "own-read";
    case transport::automatic:
      return "automatic";
    case transport::none:
      return "none";
  }
  return "unknown";
}

/// How one tensor gets there, and so what kind of bucket carries it.
enum class route : std::uint8_t {
  scatter,    ///< in windows, one for each rank
  own_read,   ///< each rank reads its window
  broadcast,  ///< whole, to all
  full_copy,  ///< it does not travel: every rank holds the whole model
  generated,  ///< nor does this: every rank makes its part of a tensor that the checkpoint does not have
};

/// Chunks from this size on are worth a read of their own: below it the calls, and on network storage the requests, cost more
/// than to read contiguously on one rank and scatter.
inline constexpr std::uint64_t own_read_threshold = 1 * mib;

/// What decides on a tensor's route.
struct routed_tensor {
  std::uint64_t chunk_bytes = 0;  ///< of its largest shard
  bool whole = false;             ///< every rank keeps all of it
  bool from_buffer = false;       ///< its bytes are on the source rank alone
  bool generated = false;         ///< its bytes are made by whoever keeps them
};

/// Whole tensors are read once, by the source, and broadcast; on a mesh without shards, where all are whole, replicas share
/// the reading of those too.
[[nodiscard]] constexpr route route_of(const routed_tensor& tensor, fsdpinit::transport transport,
                                       std::uint64_t shards) noexcept {
  if (tensor.generated) {
    return route::generated;
  }
  if (tensor.from_buffer) {
    return route::broadcast;
  }
  const bool may_be_split = !tensor.whole || shards == 1;
  switch (transport) {
    case transport::none:
      return route::full_copy;
    case transport::own_read:
      return may_be_split ? route::own_read : route::broadcast;
    case transport::automatic:
      if (may_be_split && tensor.chunk_bytes >= own_read_threshold) {
        return route::own_read;
      }
      break;
    case transport::broadcast:
      return route::broadcast;
    case transport::scatter:
      break;
  }
  return tensor.whole ? route::broadcast : route::scatter;
}

}  // namespace fsdpinit
