#pragma once

#include <fsdpinit/concepts/memory_space.hpp>
#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/core/error.hpp>
#include <fsdpinit/core/shape.hpp>
#include <fsdpinit/memory/block.hpp>
#include <fsdpinit/modules/module_view.hpp>
#include <fsdpinit/plan/partition.hpp>
#include <fsdpinit/units/gradient_layout.hpp>
#include <fsdpinit/units/unit_layout.hpp>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace fsdpinit {

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
