#pragma once

#include <fsdpinit/concepts/local_shard.hpp>
#include <fsdpinit/concepts/memory_space.hpp>
#include <fsdpinit/index/mesh.hpp>
#include <fsdpinit/memory/block.hpp>
#include <fsdpinit/memory/host_memory.hpp>
#include <fsdpinit/modules/dynamic_module.hpp>
#include <fsdpinit/plan/transport.hpp>
#include <fsdpinit/sources/in_memory.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

/// \file
/// A model with known bytes, and what each rank should have of it, found by going through its elements one by one:
/// nothing here calls the planner.

namespace fsdpinit::testing_support {

/// Deterministic bytes that differ from tensor to tensor.
[[nodiscard]] std::vector<std::byte> content_for(std::string_view seed, std::uint64_t bytes);

/// torch.chunk as its documentation words it: pieces of ceil(n / shards) while there is something left.
struct naive_chunk {
  std::uint64_t offset = 0;
  std::uint64_t length = 0;
};
[[nodiscard]] std::vector<naive_chunk> naive_chunks(std::uint64_t extent, std::size_t shards);

struct naive_shard {
  fsdpinit::shape shape;
  std::uint64_t offset = 0;
  std::vector<std::byte> bytes{};
};

/// A rank's part, taken element by element, and of sub-byte types bit by bit.
[[nodiscard]] naive_shard naive_slice(bytes_view whole, dtype type, const shape& extents, placement how,
                                      std::size_t shards, std::size_t rank);

struct reference_tensor {
  std::string fqn;
  dtype type = dtype::f32;
  shape extents{};
  placement how = shard{0};
  slot_role role = slot_role::parameter;
  std::vector<std::string> tied{};       ///< further names in the module
  std::vector<std::string> stored_as{};  ///< names in the source; empty: its FQN
  std::vector<std::byte> bytes{};        ///< empty: made up

  [[nodiscard]] bool from_buffer() const { return role == slot_role::non_persistent_buffer; }
  [[nodiscard]] std::vector<std::string> names() const {
    std::vector<std::string> all{fqn};
    all.insert(all.end(), tied.begin(), tied.end());
    return all;
  }
  [[nodiscard]] std::vector<std::string> stored_names() const {
    return from_buffer() ? std::vector<std::string>{} : stored_as.empty() ? std::vector{fqn} : stored_as;
  }
};

/// Bytes that one rank reads, sends and receives.
struct naive_traffic {
  std::uint64_t read = 0;
  std::uint64_t sent = 0;
  std::uint64_t received = 0;
  std::uint64_t own_reads = 0;
};

/// Gives a buffer values in memory of that space, as a framework would that keeps its buffers there.
template <MemorySpace Space>
void set_in(Space& memory, buffer& slot, bytes_view values) {
  const auto owner = std::make_shared<block<Space>>(memory, values.size());
  typename Space::queue order{};
  memory.copy_in(owner->data(), values.data(), values.size(), values.size(), values.empty() ? 0 : 1, order);
  memory.wait(order);
  slot.adopt({.shape = slot.shape(),
              .offset = 0,
              .bytes = values.size(),
              .data = {owner, owner->data()},
              .reserved = values.size(),
              .slab = {owner->data(), owner->size()}});
}

/// The bytes of a shard, wherever it lives.
template <MemorySpace Space>
[[nodiscard]] std::vector<std::byte> bytes_in(Space& memory, const local_shard& part) {
  std::vector<std::byte> out(part.bytes);
  if (!out.empty()) {
    typename Space::queue order{};
    memory.copy_out(out.data(), part.data.get(), part.bytes, order);
    memory.wait(order);
  }
  return out;
}

/// What is reserved behind a shard.
[[nodiscard]] inline local_shard padding_of(const local_shard& part) {
  return {.bytes = part.reserved - part.bytes, .data = {part.data, part.data.get() + part.bytes}};
}
[[nodiscard]] inline bool are_zero(bytes_view bytes) {
  return std::all_of(bytes.begin(), bytes.end(), [](std::byte each) { return each == std::byte{0}; });
}

class reference_model {
 public:
  explicit reference_model(std::vector<reference_tensor> tensors);

  [[nodiscard]] const std::vector<reference_tensor>& tensors() const noexcept { return tensors_; }

  /// The checkpoint; views into this object. Stored in another order than the module's.
  [[nodiscard]] in_memory_source source() const;

  /// On meta, but for non-persistent buffers where `with_values`.
  template <MemorySpace Space>
  [[nodiscard]] dynamic_module module(Space& memory, bool with_values) const {
    dynamic_module out;
    for (const reference_tensor& tensor : tensors_) {
      if (tensor.role == slot_role::parameter) {
        for (const std::string& name : tensor.names()) {
          out.add_parameter(name, tensor.type, tensor.extents, tensor.how);
        }
        if (!tensor.tied.empty()) {
          out.tie(tensor.names());
        }
        continue;
      }
      buffer& made = out.add_buffer(tensor.fqn, tensor.type, tensor.extents, !tensor.from_buffer());
      if (tensor.from_buffer() && with_values) {
        set_in(memory, made, tensor.bytes);
      }
    }
    return out;
  }

  /// Gives every parameter and persistent buffer its whole values, one allocation for each tensor; tied names share it.
  template <MemorySpace Space>
  void load(dynamic_module& module, Space& memory) const {
    for (const reference_tensor& tensor : tensors_) {
      if (tensor.from_buffer()) {
        continue;
      }
      if (tensor.role == slot_role::persistent_buffer) {
        set_in(memory, module.get_buffer(tensor.fqn), tensor.bytes);
        continue;
      }
      buffer holder(tensor.type, tensor.extents);
      set_in(memory, holder, tensor.bytes);
      for (const std::string& name : tensor.names()) {
        module.get_parameter(name).adopt(local_shard(holder.local()));
      }
    }
  }

  [[nodiscard]] naive_shard expected(const reference_tensor& tensor, std::size_t shards, std::size_t rank) const;

  /// The size of that, from its shape alone.
  [[nodiscard]] std::uint64_t expected_bytes(const reference_tensor& tensor, std::size_t shards,
                                             std::size_t rank) const;

  /// What is wrong with an initialised module; empty: nothing.
  template <MemorySpace Space>
  [[nodiscard]] std::string faults_of(dynamic_module& module, Space& memory, std::size_t shards,
                                      std::size_t rank) const {
    std::string out;
    for (const reference_tensor& tensor : tensors_) {
      const naive_shard wanted = expected(tensor, shards, rank);
      for (const std::string& name : tensor.names()) {
        const bool is_parameter = tensor.role == slot_role::parameter;
        if (is_parameter ? module.get_parameter(name).is_meta() : module.get_buffer(name).is_meta()) {
          out += name + " is on meta\n";
          continue;
        }
        const local_shard& got = is_parameter ? module.get_parameter(name).local() : module.get_buffer(name).local();
        if (got.shape != wanted.shape || got.offset != wanted.offset || got.bytes != wanted.bytes.size()) {
          out += concat(name, " is ", to_string(got.shape), "@", got.offset, " of ", got.bytes, " bytes, not ",
                        to_string(wanted.shape), "@", wanted.offset, " of ", wanted.bytes.size(), "\n");
        } else if (bytes_in(memory, got) != wanted.bytes) {
          out += name + " holds other bytes\n";
        } else if (const std::uint64_t room = expected_bytes(tensor, shards, 0); got.reserved != room) {
          out += concat(name, " has room for ", got.reserved, " bytes, not ", room, "\n");
        } else if (room != 0 &&
                   (got.data.get() < got.slab.data() || got.data.get() + room > got.slab.data() + got.slab.size())) {
          out += name + " does not lie in its slab\n";
        } else if (!are_zero(bytes_in(memory, padding_of(got)))) {
          out += name + " has other bytes than zeros behind it\n";
        }
        if (is_parameter && got.data.get() != module.get_parameter(tensor.fqn).data()) {
          out += name + " does not share the storage of " + tensor.fqn + "\n";
        }
      }
    }
    return out;
  }

  /// Does each rank read its own part of it?
  [[nodiscard]] bool is_read_by_each(const reference_tensor& tensor, fsdpinit::transport transport,
                                     const mesh& ranks) const;

  /// What a rank should read, send and receive, found tensor by tensor and rank by rank. `relayed`: the communicator works in
  /// groups, so that replicas pass parts on. With own reads that are relayed it depends on the buckets who reads what, and
  /// where runs are joined more is read: `own_reads` says what of `read` and `sent` + `received` that concerns.
  [[nodiscard]] naive_traffic traffic(fsdpinit::transport transport, const mesh& ranks, std::size_t source,
                                      std::size_t rank, bool relayed) const;

 private:
  std::vector<reference_tensor> tensors_;
};

/// Everything that can be special about a tensor, in about 6 KB: a decoder of three layers, tied embeddings, dims other
/// than 0, empty shards, zero-size tensors, scalars, sub-byte types, buffers of both kinds. Shardable over 1, 2, 3, 4,
/// 7 ranks.
[[nodiscard]] reference_model varied_model(std::vector<std::string> head_stored_as = {"embed.weight", "head.weight"});

}  // namespace fsdpinit::testing_support
