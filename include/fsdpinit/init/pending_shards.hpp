#pragma once

#include <fsdpinit/concepts/local_shard.hpp>
#include <fsdpinit/init/match.hpp>
#include <fsdpinit/init/missing_tensor.hpp>
#include <fsdpinit/init/module_view.hpp>
#include <fsdpinit/init/workspace.hpp>
#include <fsdpinit/plan/partition.hpp>
#include <fsdpinit/plan/plan.hpp>

#include <cstddef>
#include <span>
#include <utility>
#include <vector>

namespace fsdpinit::detail {

/// What a slot will hold, in slabs that are being filled.
struct pending_shard {
  slot_ref handle;
  local_shard part;
};

/// For every slot that the plan has a tensor for, which is prepared to adopt it; tied ones share theirs. \pre the slabs are allocated.
[[nodiscard]] inline std::vector<pending_shard> pending_shards(const plan& made, const module_view& view,
                                                               std::span<const load_item> items, std::size_t rank,
                                                               const workspace& work) {
  const std::size_t shards = made.options.ranks.shards;
  const std::size_t shard = made.options.ranks.shard_of(rank);
  std::vector<pending_shard> out;
  out.reserve(view.slots.size());
  for (const planned_tensor& planned : made.tensors) {
    const auto& slab = work.slabs[planned.slab];
    for (const std::size_t slot : view.slots_of(view.tensors[items[planned.request].tensor])) {
      const slot_record& record = view.slots[slot];
      shard_view part = view_of_shard(record.fqn, record.shape, record.placement, shards, shard);
      out.push_back({.handle = record.handle,
                     .part = {.shape = std::move(part.shape),
                              .offset = part.offset,
                              .bytes = planned.kept_bytes(planned.partition.local_bytes(shard)),
                              .data = {slab, slab->data() + planned.kept_offset()}}});
      record.handle.prepare({&out.back().part, 1});
    }
  }
  return out;
}

/// From here on the module is on meta, except for buffers that are not persistent: until slots adopt their shards.
inline void drop_to_meta(const module_view& view) noexcept {
  for (const slot_record& slot : view.slots) {
    if (slot.role != slot_role::non_persistent_buffer) {
      slot.handle.drop();
    }
  }
}

/// The slots hold their shards from here on.
inline void adopt(std::vector<pending_shard>& pending) noexcept {
  for (pending_shard& each : pending) {
    each.handle.adopt(std::move(each.part));
  }
}

[[nodiscard]] inline missing_tensor_info info_of(const slot_record& slot) {
  return {.fqn = slot.fqn, .dtype = slot.dtype, .shape = slot.shape};
}

}  // namespace fsdpinit::detail
