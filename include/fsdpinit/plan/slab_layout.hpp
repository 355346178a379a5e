#pragma once

#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/core/dtype.hpp>
#include <fsdpinit/core/shape.hpp>
#include <fsdpinit/core/tensor_descriptor.hpp>
#include <fsdpinit/plan/mesh.hpp>
#include <fsdpinit/plan/partition.hpp>
#include <fsdpinit/plan/placement.hpp>
#include <fsdpinit/plan/transport.hpp>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

namespace fsdpinit {

/// Where tensors begin within a slab. Enough for vector loads, for NCCL, and for coalesced access on GPUs.
inline constexpr std::uint64_t slab_alignment = 256;

/// What the planner is told of one stored tensor; tied names are one request.
struct tensor_request {
  std::string_view fqn{};  ///< for errors only
  fsdpinit::dtype dtype = fsdpinit::dtype::f32;
  fsdpinit::shape shape{};
  fsdpinit::placement placement{};
  std::size_t unit = 0;
  /// A non-persistent buffer: its bytes come from the source rank's module, not from the source.
  bool captured = false;
  bool generated = false;  ///< not in the source: each rank makes its part
  /// Further copies of it in the source, under tied names, which are read too and compared.
  std::size_t extra_copies = 0;
  /// Where its bytes are in the files of the source, for ranks that read their own parts; makes neighbours one read.
  std::optional<file_position> position{};
};

/// A request with its place. The order of planned tensors is the order in which they lie and travel.
struct planned_tensor {
  fsdpinit::partition partition{};
  std::size_t request = 0;  ///< index of the request it came from
  std::size_t slab = 0;
  std::uint64_t offset = 0;  ///< first byte within the slab, the same on every rank
  bool captured = false;
  bool generated = false;  ///< not in the source: each rank makes its part
  std::size_t extra_copies = 0;
  route way = route::scatter;
  std::optional<file_position> position{};
};

/// One allocation per unit, the same size and layout on every rank.
struct slab_layout {
  std::size_t unit = 0;
  std::uint64_t bytes = 0;
};

struct slabs_layout {
  std::vector<planned_tensor> tensors;
  std::vector<slab_layout> slabs;
};

/// Gives every request its place: one slab per unit, units in the order in which the requests first name them; within a
/// slab sharded tensors first, then whole ones, each in request order, so that what travels together lies together.
/// Every rank reserves the largest shard's bytes, so offsets are the same everywhere and an all-gather is uniform.
///
/// Pure; O(requests + units). \throws error{invalid_placement, invalid_argument} as `partition::make` does.
[[nodiscard]] inline slabs_layout lay_out_slabs(const std::vector<tensor_request>& requests, mesh ranks) {
  std::size_t unit_bound = 0;
  for (const tensor_request& request : requests) {
    unit_bound = request.unit < unit_bound ? unit_bound : request.unit + 1;
  }
  constexpr auto none = static_cast<std::size_t>(-1);
  std::vector<std::size_t> slab_of_unit(unit_bound, none);

  slabs_layout layout;
  std::vector<planned_tensor> in_request_order;
  std::vector<std::size_t> counts;  // of slab k: sharded at 2k, whole at 2k + 1; then their first positions
  in_request_order.reserve(requests.size());
  const auto count_of = [&](const planned_tensor& tensor) -> std::size_t& {
    return counts[2 * tensor.slab + (tensor.partition.is_whole() ? 1U : 0U)];
  };
  for (std::size_t i = 0; i < requests.size(); ++i) {
    const tensor_request& request = requests[i];
    std::size_t& slab = slab_of_unit[request.unit];
    if (slab == none) {
      slab = layout.slabs.size();
      layout.slabs.push_back({.unit = request.unit});
      counts.resize(counts.size() + 2, 0);
    }
    in_request_order.push_back(
        {.partition = partition::make(request.fqn, request.dtype, request.shape, request.placement, ranks.shards),
         .request = i,
         .slab = slab,
         .captured = request.captured,
         .generated = request.generated,
         .extra_copies = request.extra_copies,
         .position = request.position});
    ++count_of(in_request_order.back());
  }
  std::size_t position = 0;
  for (std::size_t& count : counts) {
    const std::size_t here = position;
    position += count;
    count = here;
  }

  layout.tensors.resize(requests.size());
  for (const planned_tensor& tensor : in_request_order) {
    layout.tensors[count_of(tensor)++] = tensor;
  }
  for (planned_tensor& tensor : layout.tensors) {
    slab_layout& slab = layout.slabs[tensor.slab];
    tensor.offset = align_up(slab.bytes, slab_alignment);
    slab.bytes = tensor.offset + tensor.partition.slot_bytes();
  }
  return layout;
}

}  // namespace fsdpinit
