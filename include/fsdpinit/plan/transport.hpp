#pragma once

#include <fsdpinit/core/bytes.hpp>

#include <cstdint>
#include <string_view>

namespace fsdpinit {

/// How bytes get from the checkpoint to the shards.
enum class transport_kind : std::uint8_t {
  scatter,    ///< a source rank reads; every rank receives its own part alone; whole tensors are broadcast
  broadcast,  ///< a source rank reads; every rank receives everything and keeps its part
  own_read,   ///< every rank reads its own part; replicas of a part read a share of it each and exchange them
  automatic,  ///< own_read for large chunks, scatter for small ones
  none,       ///< every rank reads everything by itself
};

[[nodiscard]] constexpr std::string_view name(transport_kind kind) noexcept {
  switch (kind) {
    case transport_kind::scatter:
      return "scatter";
    case transport_kind::broadcast:
      return "broadcast";
    case transport_kind::own_read:
      return "own-read";
    case transport_kind::automatic:
      return "automatic";
    case transport_kind::none:
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
  bool captured = false;          ///< its bytes are on the source rank alone
  bool generated = false;         ///< its bytes are made by whoever keeps them
};

/// Whole tensors are read once, by the source, and broadcast; on a mesh without shards, where all are whole, replicas share
/// the reading of those too.
[[nodiscard]] constexpr route route_of(const routed_tensor& tensor, transport_kind transport,
                                       std::uint64_t shards) noexcept {
  if (tensor.generated) {
    return route::generated;
  }
  if (tensor.captured) {
    return route::broadcast;
  }
  const bool may_be_split = !tensor.whole || shards == 1;
  switch (transport) {
    case transport_kind::none:
      return route::full_copy;
    case transport_kind::own_read:
      return may_be_split ? route::own_read : route::broadcast;
    case transport_kind::automatic:
      if (may_be_split && tensor.chunk_bytes >= own_read_threshold) {
        return route::own_read;
      }
      break;
    case transport_kind::broadcast:
      return route::broadcast;
    case transport_kind::scatter:
      break;
  }
  return tensor.whole ? route::broadcast : route::scatter;
}

}  // namespace fsdpinit
