#pragma once

#include <fsdpinit/concepts/memory_space.hpp>
#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/core/dtype.hpp>
#include <fsdpinit/core/error.hpp>
#include <fsdpinit/core/shape.hpp>
#include <fsdpinit/core/text.hpp>
#include <fsdpinit/index/byte_region.hpp>
#include <fsdpinit/index/mesh.hpp>
#include <fsdpinit/index/partition.hpp>
#include <fsdpinit/memory/block.hpp>
#include <fsdpinit/modules/module_view.hpp>
#include <fsdpinit/plan/slab_layout.hpp>
#include <fsdpinit/units/unit_layout.hpp>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <vector>

/// \file
/// How the float32 gradients of one unit are packed for one reduce-scatter: the contribution is a block for each shard, and
/// every block has the same layout. Replicated parameters are cut evenly, summed with the others, and gathered again.

namespace fsdpinit {

struct gradient_tensor {
  std::size_t tensor = 0;           ///< index into module_view::tensors
  fsdpinit::partition partition{};  ///< of float32; of a replicated parameter: of its elements in a row
  std::uint64_t offset = 0;         ///< within a block
  bool replicated = false;          ///< and so to be gathered
  std::uint64_t whole_offset = 0;   ///< within the gathered ones, if so
};

struct gradient_layout {
  std::vector<gradient_tensor> tensors;  ///< the trained ones, sharded before replicated
  std::uint64_t block_bytes = 0;         ///< divisible by the alignment, and by a float for each replica
  std::uint64_t replicated_begin = 0;    ///< where within a block the replicated ones begin
  std::uint64_t whole_bytes = 0;         ///< of the replicated ones, whole

  /// Of the replicated part of every shard's block.
  [[nodiscard]] std::uint64_t gathered_bytes(std::size_t shards) const noexcept {
    return whole_bytes == 0 ? 0 : (block_bytes - replicated_begin) * shards;
  }
};

/// Pure; O(tensors of the module). \throws error{invalid_argument} where a size overflows.
[[nodiscard]] inline gradient_layout lay_out_gradients(const module_view& view, std::size_t unit, std::size_t shards,
                                                       std::size_t replicas) {
  gradient_layout layout;
  total_bytes total(8 * shards * replicas);  // blocks of all shards, at each rank
  for (const bool replicated : {false, true}) {
    for (std::size_t t = 0; t < view.tensors.size(); ++t) {
      const stored_tensor& tensor = view.tensors[t];
      const slot_record& slot = view.first_slot(tensor);
      const bool to_gather = !slot.placement.is_shard() && shards > 1;
      if (tensor.unit != unit || to_gather != replicated || !is_trained(view, tensor)) {
        continue;
      }
      const std::uint64_t bytes = byte_size(slot.fqn, dtype::f32, slot.shape);
      total.add(slot.fqn, bytes);
      gradient_tensor made{.tensor = t, .offset = layout.block_bytes, .replicated = replicated};
      made.partition = replicated ? partition::make(slot.fqn, dtype::f32, {bytes / sizeof(float)}, shard{0}, shards)
                                  : partition::make(slot.fqn, dtype::f32, slot.shape, slot.placement, shards);
      if (replicated) {
        made.whole_offset = layout.whole_bytes;
        layout.whole_bytes = align_up(layout.whole_bytes + bytes, slab_alignment);
      }
      layout.block_bytes = align_up(layout.block_bytes + made.partition.reserved_bytes(), slab_alignment);
      layout.tensors.push_back(made);
    }
    layout.replicated_begin = replicated ? layout.replicated_begin : layout.block_bytes;
  }
  layout.block_bytes = align_up(layout.block_bytes, slab_alignment * replicas);
  return layout;
}

namespace detail {

/// Copies a tensor's gradient into every shard's block, and zeros behind it up to the next one's place.
/// \param end where the next one begins within a block.
inline void pack_gradient(const gradient_layout& layout, const gradient_tensor& tensor, std::uint64_t end,
                          const std::byte* gradient, std::size_t shards, std::byte* contribution) {
  for (std::size_t r = 0; r < shards; ++r) {
    std::byte* const place = contribution + r * layout.block_bytes + tensor.offset;
    const byte_region region = tensor.partition.region(r);
    for_each_run(region, 0, region.bytes(), [&](std::uint64_t global, std::uint64_t local, std::uint64_t length) {
      std::memcpy(place + local, gradient + global, length);
    });
    std::memset(place + region.bytes(), 0, end - tensor.offset - region.bytes());
  }
}

/// Packs the gradient of every tensor: `full(fqn)` is that of the whole tensor, called once for each.
/// \throws error{shape_mismatch} naming one of another size; what `full` throws.
template <class Full>
void pack_gradients(const module_view& view, const gradient_layout& layout, std::size_t shards, Full& full,
                    std::byte* contribution) {
  for (std::size_t i = 0; i < layout.tensors.size(); ++i) {
    const gradient_tensor& tensor = layout.tensors[i];
    const slot_record& slot = view.first_slot(view.tensors[tensor.tensor]);
    const std::span<const float> gradient = full(std::string_view(slot.fqn));
    if (gradient.size_bytes() != tensor.partition.bytes()) {
      throw error(errc::shape_mismatch, slot.fqn,
                  concat("its gradient has ", gradient.size(), " elements, but it is ", to_string(slot.shape),
                         "; give the gradient of the whole tensor"));
    }
    const std::uint64_t end = i + 1 < layout.tensors.size() ? layout.tensors[i + 1].offset : layout.block_bytes;
    pack_gradient(layout, tensor, end, std::as_bytes(gradient).data(), shards, contribution);
  }
}

/// Puts the gathered parts of a replicated parameter's gradient together.
/// \param gathered the replicated part of every shard's block, one after the other.
inline void unpack_replicated(const gradient_layout& layout, const gradient_tensor& tensor, std::size_t shards,
                              const std::byte* gathered, std::byte* whole) {
  const std::uint64_t part_bytes = layout.block_bytes - layout.replicated_begin;
  for (std::size_t r = 0; r < shards; ++r) {
    const byte_region region = tensor.partition.region(r);
    const std::byte* const from = gathered + r * part_bytes + (tensor.offset - layout.replicated_begin);
    if (region.bytes() != 0) {
      std::memcpy(whole + tensor.whole_offset + region.offset, from, region.bytes());
    }
  }
}

}  // namespace detail

/// The gradient of this rank's part of one parameter.
struct shard_gradient {
  std::string fqn{};          ///< the first of its names
  fsdpinit::shape shape{};    ///< of the shard; of a replicated parameter: whole
  std::span<float> values{};  ///< row-major; changed in place as one likes (clipping)
};

/// The reduced gradients of a unit, in memory of their own: as long as this object lives.
template <MemorySpace Space>
class unit_gradients {
 public:
  /// Of nothing.
  explicit unit_gradients(const Space& memory) : shards_(memory, 0), wholes_(memory, 0) {}
  /// Their places; the values are unspecified. \throws what the space throws.
  unit_gradients(const Space& memory, const module_view& view, const gradient_layout& layout, shard_position where)
      : shards_(memory, layout.block_bytes), wholes_(memory, layout.whole_bytes) {
    each_.reserve(layout.tensors.size());
    for (const gradient_tensor& tensor : layout.tensors) {
      const slot_record& slot = view.first_slot(view.tensors[tensor.tensor]);
      std::byte* const begin =
          tensor.replicated ? wholes_.data() + tensor.whole_offset : shards_.data() + tensor.offset;
      const std::uint64_t bytes =
          tensor.replicated ? tensor.partition.bytes() : tensor.partition.local_bytes(where.index);
      each_.push_back({.fqn = slot.fqn,
                       .shape = view_of_shard(slot.fqn, slot.shape, slot.placement, where.shards, where.index).shape,
                       .values = {reinterpret_cast<float*>(begin), static_cast<std::size_t>(bytes / sizeof(float))}});
    }
  }

  [[nodiscard]] auto begin() const noexcept { return each_.begin(); }
  [[nodiscard]] auto end() const noexcept { return each_.end(); }
  [[nodiscard]] std::size_t size() const noexcept { return each_.size(); }
  /// \throws error{invalid_argument} where the unit trains no parameter of this name; of a tie, its first name counts.
  [[nodiscard]] std::span<float> of(std::string_view fqn) const {
    for (const shard_gradient& gradient : each_) {
      if (gradient.fqn == fqn) {
        return gradient.values;
      }
    }
    throw error(errc::invalid_argument, fqn, "the unit has no gradient of this name");
  }

  /// The shard's block, which the reduce-scatter fills.
  [[nodiscard]] block<Space>& shards() noexcept { return shards_; }
  /// Puts the gathered gradients of replicated parameters together.
  void unpack(const gradient_layout& layout, std::size_t shards, bytes_view gathered) noexcept {
    for (const gradient_tensor& tensor : layout.tensors) {
      if (tensor.replicated) {
        detail::unpack_replicated(layout, tensor, shards, gathered.data(), wholes_.data());
      }
    }
  }

 private:
  block<Space> shards_;
  block<Space> wholes_;
  std::vector<shard_gradient> each_{};
};

}  // namespace fsdpinit
