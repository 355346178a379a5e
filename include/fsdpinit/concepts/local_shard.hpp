#pragma once

#include <fsdpinit/concepts/slot.hpp>
#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/core/shape.hpp>

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <memory>

namespace fsdpinit {

/// A rank's part of a tensor in storage it owns. The storage is one slab shared by the tensors of a unit; it lives
/// until the last of them lets go, and never is a view into a full tensor.
struct local_shard {
  fsdpinit::shape shape{};            ///< local; empty shards keep their other dims
  std::uint64_t offset = 0;           ///< first index along the sharded dim; 0 for whole tensors
  std::uint64_t bytes = 0;            ///< of the local part
  std::shared_ptr<std::byte> data{};  ///< first byte, in the module's memory space; shares ownership of the slab
  /// Bytes from `data` on that belong to the tensor: as many as its largest shard has, which is the same number on every rank, so that
  /// shards can be gathered without a copy. An empty shard has room, too; a whole tensor, and one on a single rank, has none to
  /// spare. Those behind `bytes` are zero in the memory of any space when the shard is adopted.
  std::uint64_t reserved = 0;
  /// The allocation in which the reserved bytes lie, in the module's memory space: to be registered once, or counted once, for all
  /// tensors that name the same one. The unit's, of the same size and layout on every rank, with zeros between tensors; after
  /// `load_pretrained` the tensor's own, and that of the whole unit while it is unsharded. Tied tensors have it in common.
  /// Empty where no tensor of the unit has a byte.
  mutable_bytes slab{};
};

/// A slot that shares what it adopted: `local(slot)` is a copy of it, whose `data` keeps the storage alive; `{}` on meta. Asked
/// for where a unit is unsharded, so that its shards outlive the time in which the slots hold whole tensors. A slot that does not keep
/// `reserved` and `slab` may leave them out.
template <class T>
concept LendingSlot = ParameterSlot<T> && requires(const T& constant) {
  { slot_traits<T>::local(constant) } -> std::convertible_to<local_shard>;
};

}  // namespace fsdpinit
