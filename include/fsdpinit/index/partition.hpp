#pragma once

#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/core/dtype.hpp>
#include <fsdpinit/core/error.hpp>
#include <fsdpinit/core/shape.hpp>
#include <fsdpinit/index/byte_region.hpp>
#include <fsdpinit/index/mesh.hpp>

#include <cstddef>
#include <cstdint>
#include <string_view>

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

/// The dim a placement splits, counted from the front.
/// \throws error{invalid_placement} for a scalar or a dim out of range.
[[nodiscard]] inline std::size_t sharded_dim(std::string_view fqn, const shape& extents, placement how) {
  if (extents.is_scalar()) {
    throw error(errc::invalid_placement, fqn,
                "cannot shard a 0-dim tensor; make it 1-D, replicate it, or leave it out of sharding");
  }
  const auto rank = static_cast<std::int64_t>(extents.rank());
  const std::int64_t dim = how.dim() < 0 ? how.dim() + rank : how.dim();
  if (dim < 0 || dim >= rank) {
    throw error(errc::invalid_placement, fqn,
                concat("dim ", how.dim(), " is out of range for ", to_string(extents), "; use a dim in [", -rank, ", ",
                       rank - 1, "]"));
  }
  return static_cast<std::size_t>(dim);
}

/// What one rank sees of a tensor: the shape of its shard, and where along the sharded dim that shard begins.
/// A replicated tensor is whole, at offset 0. An empty shard keeps its other dims: [0, 8] at offset n.
struct shard_view {
  fsdpinit::shape shape{};
  std::uint64_t offset = 0;
  friend bool operator==(const shard_view&, const shard_view&) = default;
};

/// \throws error{invalid_placement} for a scalar or a dim out of range.
[[nodiscard]] inline shard_view view_of_shard(std::string_view fqn, const shape& extents, placement how,
                                              std::size_t shards, std::size_t rank) {
  if (!how.is_shard()) {
    return {.shape = extents};
  }
  const std::size_t dim = sharded_dim(fqn, extents, how);
  const chunk part = chunk_of(extents[dim], shards, rank);
  shard_view view{.shape = extents, .offset = part.offset};
  view.shape[dim] = part.length;
  return view;
}

/// How the bytes of one tensor fall to the ranks. Seen from the sharded dim a row-major tensor is
/// `outer` x `extent` x `row_bytes`; each rank holds a chunk of `extent`, so its bytes are `outer` equal runs.
class partition {
 public:
  /// \throws error{invalid_placement} for a scalar, a dim out of range, a dim other than 0 that does not divide evenly
  /// (FSDP2 requires that too), or a sub-byte dtype whose rows are not whole bytes; error{invalid_argument} where the
  /// size overflows.
  static partition make(std::string_view fqn, dtype type, const shape& extents, placement how, std::size_t shards) {
    partition made;
    made.bytes_ = byte_size(fqn, type, extents);
    if (!how.is_shard()) {
      return made;
    }
    const std::size_t dim = sharded_dim(fqn, extents, how);
    if (dim != 0 && extents[dim] % shards != 0) {
      throw error(errc::invalid_placement, fqn,
                  concat("cannot shard dim ", dim, " of ", to_string(extents), " evenly over ", shards,
                         " ranks; use shard{0} or pad the dimension"));
    }
    if (shards == 1 || made.bytes_ == 0) {
      return made;
    }
    // No overflow below: every factor divides the size, which was checked.
    std::uint64_t row_bits = bits(type);
    for (std::size_t inner = dim + 1; inner < extents.rank(); ++inner) {
      row_bits *= extents[inner];
    }
    if (row_bits % 8 != 0) {
      throw error(errc::invalid_placement, fqn,
                  concat("cannot shard dim ", dim, " of ", to_string(extents), " ", name(type), ": one row is ",
                         row_bits, " bits, not whole bytes; shard another dimension, or replicate it"));
    }
    made.row_bytes_ = row_bits / 8;
    made.extent_ = extents[dim];
    made.outer_ = made.bytes_ / (made.row_bytes_ * made.extent_);
    made.shards_ = shards;
    return made;
  }

  /// Bytes of the whole tensor.
  [[nodiscard]] std::uint64_t bytes() const noexcept { return bytes_; }
  /// Every rank holds all of it: replicated, on one rank, or empty.
  [[nodiscard]] bool is_whole() const noexcept { return shards_ == 1; }
  /// The part of `rank` as bytes of the tensor.
  [[nodiscard]] byte_region region(std::size_t rank) const noexcept {
    if (is_whole()) {
      return {.offset = 0, .run = bytes_, .stride = bytes_, .count = bytes_ == 0 ? 0U : 1U};
    }
    const chunk part = chunk_of(extent_, shards_, rank);
    return {.offset = part.offset * row_bytes_,
            .run = part.length * row_bytes_,
            .stride = extent_ * row_bytes_,
            .count = part.length == 0 ? 0 : outer_};
  }
  /// Exact bytes of the shard of `rank`.
  [[nodiscard]] std::uint64_t local_bytes(std::size_t rank) const noexcept { return region(rank).bytes(); }
  /// How many ranks, from the first on, hold as much as the first.
  [[nodiscard]] std::uint64_t full_ranks() const noexcept {
    return is_whole() ? 1 : extent_ / ceil_div(extent_, shards_);
  }
  /// Bytes reserved for it on every rank: the first, largest shard's, so that an all-gather is uniform.
  [[nodiscard]] std::uint64_t reserved_bytes() const noexcept { return local_bytes(0); }
  /// Bytes of one index of the dims before the sharded one: the period at which the ranks' runs repeat.
  [[nodiscard]] std::uint64_t period_bytes() const noexcept { return is_whole() ? bytes_ : extent_ * row_bytes_; }
  /// One contiguous run per rank: sharded on dim 0 (or as good as), or whole.
  [[nodiscard]] bool is_contiguous() const noexcept { return outer_ == 1; }

 private:
  std::uint64_t bytes_ = 0;
  std::uint64_t outer_ = 1;
  std::uint64_t extent_ = 1;
  std::uint64_t row_bytes_ = 0;
  std::uint64_t shards_ = 1;
};

}  // namespace fsdpinit
