#include "support/reference_model.hpp"

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace fsdpinit::testing_support {

std::vector<std::byte> content_for(std::string_view seed, std::uint64_t bytes) {
  std::uint64_t state = 0x9e3779b97f4a7c15;
  for (const char c : seed) {
    state = (state ^ static_cast<unsigned char>(c)) * 0x100000001b3;
  }
  std::vector<std::byte> out(bytes);
  for (std::byte& each : out) {
    state += 0x9e3779b97f4a7c15;
    std::uint64_t mixed = (state ^ (state >> 30U)) * 0xbf58476d1ce4e5b9;
    mixed = (mixed ^ (mixed >> 27U)) * 0x94d049bb133111eb;
    each = static_cast<std::byte>(mixed >> 56U);
  }
  return out;
}

std::vector<naive_chunk> naive_chunks(std::uint64_t extent, std::size_t shards) {
  std::vector<naive_chunk> out;
  std::uint64_t size = extent / shards;  // from there on one by one
  while (size * shards < extent) {
    ++size;
  }
  std::uint64_t given = 0;
  for (std::size_t r = 0; r < shards; ++r) {
    const std::uint64_t left = extent - given;
    out.push_back({.offset = given, .length = left < size ? left : size});
    given += out.back().length;
  }
  return out;
}

naive_shard naive_slice(bytes_view whole, dtype type, const shape& extents, placement how, std::size_t shards,
                        std::size_t rank) {
  naive_shard out{.shape = extents};
  if (!how.is_shard()) {
    out.bytes.assign(whole.begin(), whole.end());
    return out;
  }
  const auto dim =
      static_cast<std::size_t>(how.dim() < 0 ? how.dim() + static_cast<std::int64_t>(extents.rank()) : how.dim());
  const naive_chunk mine = naive_chunks(extents[dim], shards)[rank];
  out.shape[dim] = mine.length;
  out.offset = mine.offset;
  std::uint64_t elements = 1;
  std::uint64_t below = 1;  // elements per index of the sharded dim
  for (std::size_t d = 0; d < extents.rank(); ++d) {
    elements *= extents[d];
    below *= d > dim ? extents[d] : 1;
  }
  std::uint64_t filled_bits = 0;
  for (std::uint64_t i = 0; i < elements; ++i) {
    const std::uint64_t index = i / below % extents[dim];
    if (index < mine.offset || index >= mine.offset + mine.length) {
      continue;
    }
    if (bits(type) % 8 == 0) {
      const std::uint64_t size = bits(type) / 8;
      out.bytes.insert(out.bytes.end(), &whole[i * size], &whole[i * size] + size);
      continue;
    }
    for (std::uint64_t bit = i * bits(type); bit < (i + 1) * bits(type); ++bit, ++filled_bits) {
      if (filled_bits % 8 == 0) {
        out.bytes.push_back(std::byte{0});
      }
      const bool set = (static_cast<unsigned>(whole[bit / 8]) >> (bit % 8) & 1U) != 0;
      out.bytes.back() |= static_cast<std::byte>(set ? 1U << (filled_bits % 8) : 0U);
    }
  }
  return out;
}

reference_model::reference_model(std::vector<reference_tensor> tensors) : tensors_(std::move(tensors)) {
  for (reference_tensor& tensor : tensors_) {
    if (tensor.bytes.empty()) {
      tensor.bytes = content_for(tensor.fqn, byte_size(tensor.fqn, tensor.type, tensor.extents));
    }
  }
}

in_memory_source reference_model::source() const {
  std::vector<in_memory_tensor> stored;
  for (auto tensor = tensors_.rbegin(); tensor != tensors_.rend(); ++tensor) {
    for (const std::string& name : tensor->stored_names()) {
      stored.push_back(
          {.descriptor = {.name = name, .dtype = tensor->type, .shape = tensor->extents}, .bytes = tensor->bytes});
    }
  }
  return in_memory_source(std::move(stored));
}

naive_shard reference_model::expected(const reference_tensor& tensor, std::size_t shards, std::size_t rank) const {
  const placement how = tensor.role == slot_role::parameter ? tensor.how : placement(replicate{});
  return naive_slice(tensor.bytes, tensor.type, tensor.extents, how, shards, rank);
}

std::uint64_t reference_model::expected_bytes(const reference_tensor& tensor, std::size_t shards,
                                              std::size_t rank) const {
  if (tensor.role != slot_role::parameter || !tensor.how.is_shard()) {
    return tensor.bytes.size();
  }
  const std::int64_t dim =
      tensor.how.dim() + (tensor.how.dim() < 0 ? static_cast<std::int64_t>(tensor.extents.rank()) : 0);
  const std::uint64_t extent = tensor.extents[static_cast<std::size_t>(dim)];
  return extent == 0 ? 0 : tensor.bytes.size() / extent * naive_chunks(extent, shards)[rank].length;
}

bool reference_model::is_read_by_each(const reference_tensor& tensor, fsdpinit::transport transport,
                                      const mesh& ranks) const {
  const bool is_split = tensor.role == slot_role::parameter && tensor.how.is_shard() && !tensor.bytes.empty();
  const bool is_chosen = transport == transport::own_read ||
                         (transport == transport::automatic && expected_bytes(tensor, ranks.shards, 0) >= 1 * mib);
  return is_chosen && !tensor.from_buffer() && (is_split || ranks.shards == 1);
}

naive_traffic reference_model::traffic(fsdpinit::transport transport, const mesh& ranks, std::size_t source,
                                       std::size_t rank, bool relayed) const {
  naive_traffic out;
  for (const reference_tensor& tensor : tensors_) {
    const std::uint64_t whole = tensor.bytes.size();
    const std::uint64_t stored = whole * tensor.stored_names().size();
    const auto part = [&](std::size_t r) { return expected_bytes(tensor, ranks.shards, ranks.shard_of(r)); };
    const bool is_split =
        tensor.role == slot_role::parameter && tensor.how.is_shard() && ranks.shards > 1 && whole != 0;
    if (transport == transport::none && !tensor.from_buffer()) {
      out.read += stored;
      continue;
    }
    if (is_read_by_each(tensor, transport, ranks)) {
      out.own_reads += part(rank) * tensor.stored_names().size();
      continue;
    }
    out.read += rank == source ? stored : 0;
    const bool is_scattered = is_split && (transport == transport::scatter || transport == transport::automatic);
    for (std::size_t r = 0; r < ranks.size(); ++r) {
      const std::uint64_t moved = is_scattered ? part(r) : whole;
      const bool passed_on = is_scattered && relayed && ranks.replica_of(r) != ranks.replica_of(source);
      const std::size_t from = passed_on ? ranks.rank_of(ranks.replica_of(source), ranks.shard_of(r)) : source;
      if (r != from) {
        out.sent += rank == from ? moved : 0;
        out.received += rank == r ? moved : 0;
      }
    }
  }
  return out;
}

reference_model varied_model(std::vector<std::string> head_stored_as) {
  std::vector<reference_tensor> out{
      {.fqn = "embed.weight",
       .type = dtype::bf16,
       .extents = {17, 6},
       .tied = {"head.weight"},
       .stored_as = std::move(head_stored_as)},
      {.fqn = "rope.inverse_frequencies",
       .type = dtype::f32,
       .extents = {4, 3},
       .role = slot_role::non_persistent_buffer},
      {.fqn = "scale", .type = dtype::f64, .extents = {}, .how = replicate{}},
      {.fqn = "nothing", .type = dtype::f32, .extents = {0, 4}},
      {.fqn = "no_columns", .type = dtype::i32, .extents = {4, 0}},
      {.fqn = "packed_4", .type = dtype::f4, .extents = {6, 4}},
      {.fqn = "packed_6", .type = dtype::f6_e2m3, .extents = {5, 4}},
      {.fqn = "flags", .type = dtype::boolean, .extents = {9}},
      {.fqn = "counter", .type = dtype::i64, .extents = {1}},
      {.fqn = "spectrum", .type = dtype::c64, .extents = {2, 2}},
      {.fqn = "mean", .type = dtype::f32, .extents = {5}, .role = slot_role::persistent_buffer},
      {.fqn = "no_buffer", .type = dtype::f32, .extents = {0}, .role = slot_role::persistent_buffer},
      {.fqn = "mask", .type = dtype::boolean, .extents = {3, 7}, .role = slot_role::non_persistent_buffer},
      {.fqn = "no_mask", .type = dtype::boolean, .extents = {0}, .role = slot_role::non_persistent_buffer},
  };
  for (int layer = 0; layer < 3; ++layer) {
    const std::string prefix = "layers." + std::to_string(layer) + ".";
    out.push_back({.fqn = prefix + "query", .type = dtype::f16, .extents = {3, 84}, .how = shard{-1}});
    out.push_back({.fqn = prefix + "conv", .type = dtype::u8, .extents = {2, 84, 3}, .how = shard{1}});
    out.push_back({.fqn = prefix + "up", .type = dtype::f32, .extents = {5, 8}});
    out.push_back({.fqn = prefix + "norm", .type = dtype::f32, .extents = {6}});
    out.push_back({.fqn = prefix + "gate", .type = dtype::bf16, .extents = {3}, .how = replicate{}});
    out.push_back({.fqn = prefix + "steps", .type = dtype::u16, .extents = {}, .role = slot_role::persistent_buffer});
  }
  return reference_model(std::move(out));
}

}  // namespace fsdpinit::testing_support
