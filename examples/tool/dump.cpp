#include "dump.hpp"
#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/core/tensor_descriptor.hpp>
#include <fsdpinit/index/partition.hpp>
#include <fsdpinit/modules/parameter.hpp>
#include <fsdpinit/os/output_file.hpp>
#include <fsdpinit/sources/safetensors_table.hpp>
#include <fsdpinit/sources/safetensors_writer.hpp>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace fsdpinit::tool {
namespace {

/// Between two looks at the progress.
constexpr std::size_t piece_bytes = 16 * mib;

/// A parameter or a buffer, and this rank's part of it.
struct named_slot {
  std::string_view fqn;
  dtype type;
  const shape* global;
  placement how;
  const local_shard* part;
};

/// Without those that the checkpoint does not have, where that was let pass.
std::vector<named_slot> by_name(dynamic_module& module) {
  std::vector<named_slot> all;
  module.visit_slots([&]<class Slot>(std::string_view fqn, Slot& slot) {
    if (!slot.is_meta()) {
      all.push_back({fqn, slot.dtype(), &slot.shape(), slot_traits<Slot>::placement(slot), &slot.local()});
    }
  });
  std::sort(all.begin(), all.end(), [](const auto& a, const auto& b) { return a.fqn < b.fqn; });
  return all;
}

/// `{"<fqn>": {"shape": [8, 5], "dim": 0, "offset": 2}, ...}`: the global shape, and where this part begins along which
/// dimension; `dim` is null for a tensor that is whole on every rank.
std::string places_of(std::span<const named_slot> slots) {
  nlohmann::ordered_json places = nlohmann::ordered_json::object();
  for (const named_slot& slot : slots) {
    const shape& global = *slot.global;
    nlohmann::ordered_json dim = nullptr;
    if (slot.how.is_shard()) {
      dim = sharded_dim(slot.fqn, global, slot.how);
    }
    places.push_back({std::string(slot.fqn),
                      {{"shape", std::vector<std::uint64_t>(global.begin(), global.end())},
                       {"dim", dim},
                       {"offset", slot.part->offset}}});
  }
  return places.dump();
}

}  // namespace

void dump_shards(dynamic_module& module, dump_rank which, const std::filesystem::path& folder, progress_display& shown,
                 std::uint64_t total) {
  const std::vector<named_slot> slots = by_name(module);
  std::vector<tensor_descriptor> tensors;
  for (const named_slot& slot : slots) {
    tensors.push_back({.name = std::string(slot.fqn), .dtype = slot.type, .shape = slot.part->shape});
  }
  const std::map<std::string, std::string> metadata{
      {"format", std::string(shards_format)},          {"format_version", "1"},
      {"rank", fmt::format("{}", which.rank)},         {"shards", fmt::format("{}", which.shards)},
      {"replicas", fmt::format("{}", which.replicas)}, {"tensors", places_of(slots)}};
  const safetensors_layout layout = lay_out_safetensors(tensors, metadata);
  output_file file(
      (folder / fmt::format("rank-{:05}-of-{:05}.safetensors", which.rank, which.shards * which.replicas)).string());
  file.write_all(std::as_bytes(std::span(layout.header)));
  for (const named_slot& slot : slots) {
    bytes_view rest{slot.part->data.get(), slot.part->bytes};
    while (!rest.empty()) {
      const bytes_view piece = rest.first(std::min(rest.size(), piece_bytes));
      file.write_all(piece);
      shown.add(piece.size(), total);
      rest = rest.subspan(piece.size());
    }
  }
  // Also for the sake of MPI's end: Open MPI's launcher touches files of its own then, and where that waits behind these
  // bytes for the disk, it takes a rank that is done for a lost one after 2 s.
  file.sync();
  file.close();
}

}  // namespace fsdpinit::tool
