#pragma once

#include <fsdpinit/concepts/communicator.hpp>
#include <fsdpinit/concepts/local_shard.hpp>
#include <fsdpinit/concepts/memory_ref.hpp>
#include <fsdpinit/concepts/memory_space.hpp>
#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/core/error.hpp>
#include <fsdpinit/core/text.hpp>
#include <fsdpinit/index/byte_region.hpp>
#include <fsdpinit/index/partition.hpp>
#include <fsdpinit/memory/block.hpp>
#include <fsdpinit/memory/host_memory.hpp>
#include <fsdpinit/memory/in_order.hpp>
#include <fsdpinit/modules/module_view.hpp>
#include <fsdpinit/units/unit_layout.hpp>

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

namespace fsdpinit::detail {

/// Where the shards of all ranks come together: in the module's own space if the communicator gathers there and whole tensors can be
/// put together from it, else where buckets are staged. A communicator that does not gather itself is made to on the host.
template <Communicator Data, MemorySpace Space>
using gathering_space = std::conditional_t<CollectiveCommunicator<Data> && CanAccess<Data, Space> &&
                                               LocallyCopyingMemory<Space> && !Space::host_accessible,
                                           Space, staging_space<Space>>;

/// The sharded parameters of one unit on their way to being whole, and back.
class unsharding {
 public:
  /// \param between where the shards of all ranks come together. \param from_slabs is that the module's own space, so that shards are
  /// gathered from their slabs? Else it is memory of the host, into which they are copied first.
  unsharding(const memory_ref& between, bool from_slabs) : gathered_(between, 0), from_slabs_(from_slabs) {}

  /// Everything that can fail before the communication, so that no rank is left alone in it.
  void prepare(const module_view& view, const unit_layout& layout, shard_position where, const memory_ref& memory,
               const memory_ref& between) {
    for (const unit_tensor& each : layout.tensors) {
      for (const std::size_t index : view.slots_of(view.tensors[each.tensor])) {
        const slot_record& slot = view.slots[index];
        slots_.push_back(slot.handle);
        shards_.push_back(slot.handle.local());
        if (each.partition.bytes() != 0 && shards_.back().data.get() != layout.slab + each.shard_offset) {
          throw error(errc::invalid_argument, slot.fqn,
                      "its storage is another than when the units were taken; take them again after an initialisation");
        }
      }
    }
    const auto what = [&](std::string_view part) {
      const std::string& unit = view.units[view.tensors[layout.tensors.front().tensor].unit];
      return concat(part, " of ", unit_text(unit), "; unshard smaller units, or fewer at a time");
    };
    const auto whole = std::make_shared<block<memory_ref>>(
        block_for(memory, layout.whole_bytes, [&] { return what("the whole parameters"); }));
    for (const unit_tensor& each : layout.tensors) {
      const stored_tensor& tensor = view.tensors[each.tensor];
      for (const std::size_t index : view.slots_of(tensor)) {
        wholes_.push_back({.shape = view.slots[index].shape,
                           .offset = 0,
                           .bytes = each.partition.bytes(),
                           .data = {whole, whole->data() + each.whole_offset},
                           .reserved = each.partition.bytes(),
                           .slab = {whole->data(), whole->size()}});
      }
    }
    for (std::size_t i = 0; i < slots_.size(); ++i) {
      const std::array next{wholes_[i], shards_[i]};
      slots_[i].prepare(next);
    }
    whole_ = whole->data();
    gathered_ = block_for(between, layout.shard_bytes * where.shards, [&] { return what("the gathered shards"); });
    if (from_slabs_) {
      own_ = {layout.slab, layout.shard_bytes};
    } else if (layout.shard_bytes != 0) {  // a copy, in its place among the others
      const mutable_bytes copy = all().subspan(layout.shard_bytes * where.index, layout.shard_bytes);
      copy_out_shards(layout, where, memory, copy);
      own_ = copy;
    }
  }

  /// Where the shards of all ranks come.
  [[nodiscard]] mutable_bytes all() const noexcept { return {gathered_.data(), gathered_.size()}; }
  /// What this rank gives to the all-gather.
  [[nodiscard]] bytes_view own() const noexcept { return own_; }

  /// Puts the whole tensors together from what was gathered.
  void assemble(const unit_layout& layout, std::size_t shards, const memory_ref& memory) const {
    in_order(memory, [&](memory_ref::queue& order) {
      for (const unit_tensor& each : layout.tensors) {
        if (from_slabs_ && !memory.host_accessible()) {
          assemble_within(each, layout.shard_bytes, shards, memory, order);
        } else if (each.partition.bytes() != 0) {
          assemble(each, layout.shard_bytes, shards, memory, order);
        }
      }
    });
  }

  /// The slots hold whole tensors from here on; what was staged is given back.
  void commit() noexcept {
    for (std::size_t i = 0; i < slots_.size(); ++i) {
      slots_[i].adopt(std::move(wholes_[i]));
    }
    wholes_.clear();
    gathered_.release();
  }
  /// The slots hold their shards again.
  void undo() noexcept {
    for (std::size_t i = 0; i < slots_.size(); ++i) {
      slots_[i].adopt(std::move(shards_[i]));
    }
  }

 private:
  /// Tensor by tensor: nobody has written what lies between them.
  static void copy_out_shards(const unit_layout& layout, shard_position where, const memory_ref& memory,
                              mutable_bytes copy) {
    in_order(memory, [&](memory_ref::queue& order) {
      for (const unit_tensor& each : layout.tensors) {
        memory.copy_out(copy.data() + each.shard_offset, layout.slab + each.shard_offset,
                        each.partition.local_bytes(where.index), order);
      }
    });
  }

  /// One tensor from its shards, which lie `stride` bytes apart: every shard spread over the tensor by one call.
  void assemble_within(const unit_tensor& each, std::uint64_t stride, std::size_t shards, const memory_ref& memory,
                       memory_ref::queue& order) const {
    for (std::size_t r = 0; r < shards; ++r) {
      const byte_region region = each.partition.region(r);
      memory.copy_within(whole_ + each.whole_offset + region.offset, region.stride,
                         gathered_.data() + each.shard_offset + r * stride, region.run, region.run, region.count,
                         order);
    }
  }
  /// The same, through copies from the host. \pre it has a byte.
  void assemble(const unit_tensor& each, std::uint64_t stride, std::size_t shards, const memory_ref& memory,
                memory_ref::queue& order) const {
    const std::byte* const first = gathered_.data() + each.shard_offset;
    std::byte* const whole = whole_ + each.whole_offset;
    if (!each.partition.is_contiguous()) {  // such dims divide evenly: all ranks have equal runs
      const byte_region region = each.partition.region(0);
      for (std::uint64_t row = 0; row < region.count; ++row) {
        memory.copy_in(whole + row * each.partition.period_bytes(), first + row * region.run, stride, region.run,
                       shards, order);
      }
      return;
    }
    for (std::size_t r = 0; r < shards; ++r) {
      const byte_region region = each.partition.region(r);
      if (region.bytes() != 0) {
        memory.copy_in(whole + region.offset, first + r * stride, region.run, region.run, 1, order);
      }
    }
  }

  std::vector<slot_ref> slots_{};
  std::vector<local_shard> shards_{};  // what the slots held: keeps the slab alive
  std::vector<local_shard> wholes_{};
  std::byte* whole_ = nullptr;
  block<memory_ref> gathered_;
  bool from_slabs_;
  bytes_view own_{};
};

}  // namespace fsdpinit::detail
