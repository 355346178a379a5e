#pragma once

#include <fsdpinit/concepts/slot.hpp>
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
};

/// A slot that shares what it adopted: `local(slot)` is a copy of it, whose `data` keeps the storage alive; `{}` on meta. Asked
/// for where a unit is unsharded, so that its shards outlive the time in which the slots hold whole tensors.
template <class T>
concept LendingSlot = ParameterSlot<T> && requires(const T& constant) {
  { slot_traits<T>::local(constant) } -> std::convertible_to<local_shard>;
};

}  // namespace fsdpinit
