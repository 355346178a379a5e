#pragma once

#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/core/error.hpp>
#include <fsdpinit/core/shape.hpp>
#include <fsdpinit/core/text.hpp>
#include <fsdpinit/index/partition.hpp>
#include <fsdpinit/modules/module_view.hpp>
#include <fsdpinit/plan/slab_layout.hpp>

#include <cstddef>
#include <cstdint>
#include <map>
#include <string_view>
#include <vector>

/// \file
/// Where the tensors of one unit lie: their shards in the unit's slab, and whole where the unit is unsharded.

namespace fsdpinit {

/// The place of this rank among those that hold the parts of one model.
struct shard_position {
  std::size_t shards = 1;
  std::size_t index = 0;
};

/// A sharded tensor of a unit.
struct unit_tensor {
  std::size_t tensor = 0;  ///< index into module_view::tensors
  fsdpinit::partition partition{};
  std::uint64_t shard_offset = 0;  ///< of its shard, from the first sharded byte of the slab; the same on every rank
  std::uint64_t whole_offset = 0;  ///< of the whole tensor, within the allocation of the unsharded unit
};

/// Equal on every rank, but for the address.
struct unit_layout {
  std::vector<unit_tensor> tensors;  ///< those split over the ranks, in slab order; last those without a byte
  std::uint64_t shard_bytes = 0;     ///< of the slab's sharded part, padding included: what one rank has to give
  std::uint64_t whole_bytes = 0;     ///< of all of them whole, each at a multiple of `slab_alignment`
  const std::byte* slab = nullptr;   ///< the first sharded byte; nullptr where there is none
};

namespace detail {

[[nodiscard]] inline std::string described(const shape& local, std::uint64_t offset, std::uint64_t bytes) {
  return concat(to_string(local), "@", offset, " of ", bytes, " bytes");
}

/// \throws error{invalid_argument} for a slot that is on meta, or holds anything but its part.
inline void require_initialised(const slot_record& slot, const partition& how, shard_position where) {
  const bool sharded = slot.placement.is_shard() && where.shards > 1;
  const std::uint64_t bytes = how.local_bytes(where.index);
  if (bytes != 0 && slot.handle.data() == nullptr) {
    throw error(errc::invalid_argument, slot.fqn, "it is on meta; initialise the module before its units are used");
  }
  if (!sharded) {
    return;
  }
  const shard_view wanted = view_of_shard(slot.fqn, slot.shape, slot.placement, where.shards, where.index);
  const local_shard got = slot.handle.local();
  if (got.shape != wanted.shape || got.offset != wanted.offset || got.bytes != bytes) {
    throw error(errc::invalid_argument, slot.fqn,
                concat("it holds ", described(got.shape, got.offset, got.bytes), " where shard ", where.index, " of ",
                       where.shards, " is ", described(wanted.shape, wanted.offset, bytes),
                       "; initialise the module over the same ranks, and let one object at a time unshard it"));
  }
}

}  // namespace detail

/// Finds where the tensors of a unit lie. The order within a slab is the order in which the source had them, which only the
/// slab still knows: it is read off the addresses, and the planner's layout of that order must give the same addresses.
///
/// O(n log n) in the unit's tensors. \pre every slot models LendingSlot.
/// \throws error{invalid_argument} naming the FQN of a slot that is not initialised, not over these ranks, or not in units
/// as these.
[[nodiscard]] inline unit_layout lay_out_unit(const module_view& view, std::size_t unit, shard_position where) {
  unit_layout layout;
  std::vector<unit_tensor> without_bytes;
  std::map<const std::byte*, std::size_t> by_address;
  std::vector<std::size_t> in_order;
  for (std::size_t t = 0; t < view.tensors.size(); ++t) {
    const stored_tensor& tensor = view.tensors[t];
    if (tensor.unit != unit) {
      continue;
    }
    const slot_record& first = view.first_slot(tensor);
    const partition how = partition::make(first.fqn, first.dtype, first.shape, first.placement, where.shards);
    for (const std::size_t each : view.slots_of(tensor)) {
      const slot_record& slot = view.slots[each];
      detail::require_initialised(slot, how, where);
      if (slot.handle.data() != first.handle.data()) {
        throw error(
            errc::invalid_argument, slot.fqn,
            concat("it is tied to ", printable(first.fqn), ", but holds other storage; initialise the module again"));
      }
    }
    if (!first.placement.is_shard() || where.shards == 1) {
      continue;
    }
    if (how.is_whole()) {
      without_bytes.push_back({.tensor = t, .partition = how});
    } else if (!by_address.emplace(first.handle.data(), t).second) {
      throw error(errc::invalid_argument, first.fqn, "another parameter has the same storage; declare them tied");
    }
  }
  std::vector<tensor_request> requests;
  for (const auto& [address, t] : by_address) {
    const slot_record& slot = view.first_slot(view.tensors[t]);
    in_order.push_back(t);
    requests.push_back({.fqn = slot.fqn, .dtype = slot.dtype, .shape = slot.shape, .placement = slot.placement});
  }
  const slabs_layout slab = lay_out_slabs(requests, {.shards = where.shards});
  layout.slab = by_address.empty() ? nullptr : by_address.begin()->first;
  layout.shard_bytes = slab.slabs.empty() ? 0 : slab.slabs.front().bytes;
  for (const planned_tensor& planned : slab.tensors) {
    const slot_record& slot = view.first_slot(view.tensors[in_order[planned.request]]);
    if (slot.handle.data() != layout.slab + planned.offset) {
      throw error(
          errc::invalid_argument, slot.fqn,
          concat("it does not lie where the slab of unit '", printable(view.units[unit]),
                 "' has it; use the units that the module was initialised with, and leave its storage in place"));
    }
    layout.tensors.push_back(
        {.tensor = in_order[planned.request], .partition = planned.partition, .shard_offset = planned.offset});
  }
  layout.tensors.insert(layout.tensors.end(), without_bytes.begin(), without_bytes.end());
  for (unit_tensor& tensor : layout.tensors) {
    tensor.whole_offset = align_up(layout.whole_bytes, slab_alignment);
    layout.whole_bytes = tensor.whole_offset + tensor.partition.bytes();
  }
  return layout;
}

/// Is the tensor trained under any of its names?
[[nodiscard]] inline bool is_trained(const module_view& view, const stored_tensor& tensor) {
  for (const std::size_t slot : view.slots_of(tensor)) {
    if (view.slots[slot].requires_grad) {
      return true;
    }
  }
  return false;
}

/// What is gathered and reduced together has one dtype; frozen and replicated parameters may differ.
/// \throws error{dtype_mismatch} naming two trained parameters of the unit that are sharded and differ.
inline void require_one_trained_dtype(const module_view& view, std::size_t unit) {
  const slot_record* first = nullptr;
  for (const stored_tensor& tensor : view.tensors) {
    const slot_record& slot = view.first_slot(tensor);
    if (tensor.unit != unit || !slot.placement.is_shard() || !is_trained(view, tensor)) {
      continue;
    }
    first = first == nullptr ? &slot : first;
    if (slot.dtype != first->dtype) {
      throw error(
          errc::dtype_mismatch, slot.fqn,
          concat("it is ", name(slot.dtype), ", but ", printable(first->fqn), " of the same unit '",
                 printable(view.units[unit]), "' is ", name(first->dtype),
                 "; trained parameters of one unit have one dtype: convert one of them, freeze it, replicate it, or "
                 "make it a unit of its own"),
          {.rank = every_rank});
    }
  }
}

}  // namespace fsdpinit
