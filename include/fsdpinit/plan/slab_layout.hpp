#pragma once

#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/core/dtype.hpp>
#include <fsdpinit/core/shape.hpp>
#include <fsdpinit/core/tensor_descriptor.hpp>
#include <fsdpinit/index/mesh.hpp>
#include <fsdpinit/index/partition.hpp>
#include <fsdpinit/plan/transport.hpp>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

namespace fsdpinit {

/// Where the bytes of one stored tensor come from.
struct load_item {
  std::size_t tensor = 0;             ///< index into module_view::tensors
  bool from_buffer = false;           ///< a non-persistent buffer: from the source rank's module
  bool missing = false;               ///< not in the source: to be initialised
  std::size_t source = 0;             ///< index into the source's tensors, if not from a buffer
  std::vector<std::size_t> copies{};  ///< further names of it in the source, to be compared
};

/// Where tensors begin within a slab. Enough for vector loads, for NCCL, and for coalesced access on GPUs.
inline constexpr std::uint64_t slab_alignment = 256;

/// What the planner is told of one stored tensor; tied names are one request.
struct tensor_request {
  std::string_view fqn{};                        ///< for errors only
  fsdpinit::dtype dtype = fsdpinit::dtype::f32;  ///< in the slab
  /// On the way there, if narrower: a tensor that is cast from what is stored, and converted where it arrives.
  std::optional<fsdpinit::dtype> travels_as{};
  fsdpinit::shape shape{};
  fsdpinit::placement placement{};
  std::size_t unit = 0;
  /// A non-persistent buffer: its bytes come from the source rank's module, not from the source.
  bool from_buffer = false;
  bool generated = false;  ///< not in the source: each rank makes its part
  /// Further copies of it in the source, under tied names, which are read too and compared.
  std::size_t extra_copies = 0;
  /// Where its bytes are in the files of the source, for ranks that read their own parts; makes neighbours one read.
  std::optional<file_position> position{};
  /// Memory that reading it takes, for all threads together, on ranks that read; 0 where no AssemblingSource puts it together.
  std::uint64_t tile_bytes = 0;
};

/// What becomes of a tensor that travels narrower than it is kept. Its bytes arrive at the end of the largest shard's room, and
/// are converted in place, front to back: nothing is overwritten before it is read, on any rank.
struct widening {
  dtype from = dtype::f32;
  dtype to = dtype::f32;
  std::uint64_t growth = 0;  ///< bytes by which the largest shard grows
};

/// A request with its place. The order of planned tensors is the order in which they lie and travel.
struct planned_tensor {
  fsdpinit::partition partition{};  ///< of the bytes that travel
  std::size_t request = 0;          ///< index of the request it came from
  std::size_t slab = 0;
  std::uint64_t offset = 0;  ///< within the slab, of the first byte that arrives; the same on every rank
  std::optional<fsdpinit::widening> widening{};
  bool from_buffer = false;
  bool generated = false;  ///< not in the source: each rank makes its part
  std::size_t extra_copies = 0;
  fsdpinit::route route = fsdpinit::route::scatter;
  std::optional<file_position> position{};
  std::uint64_t tile_bytes = 0;

  /// Within the slab, of the shard: where bytes arrive, but for tensors that are widened.
  [[nodiscard]] std::uint64_t kept_offset() const noexcept { return offset - (widening ? widening->growth : 0); }
  /// What so many arriving bytes, of whole elements, become.
  [[nodiscard]] std::uint64_t kept_bytes(std::uint64_t arriving) const noexcept {
    return widening ? arriving * bits(widening->to) / bits(widening->from) : arriving;
  }
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

namespace detail {

/// Slab by slab, and within each sharded tensors before whole ones; else as they are. O(tensors + slabs); moves nothing where they are
/// in that order, as most models are.
inline void order_by_place(slabs_layout& layout) {
  const auto place = [](const planned_tensor& tensor) {
    return 2 * tensor.slab + (tensor.partition.is_whole() ? 1U : 0U);
  };
  bool in_order = true;
  for (std::size_t i = 1; i < layout.tensors.size(); ++i) {
    in_order = in_order && place(layout.tensors[i - 1]) <= place(layout.tensors[i]);
  }
  if (in_order) {
    return;
  }
  // Per place: how many lie there; then, where the next of them goes.
  std::vector<std::size_t> next(2 * layout.slabs.size(), 0);
  for (const planned_tensor& tensor : layout.tensors) {
    ++next[place(tensor)];
  }
  std::size_t before = 0;
  for (std::size_t& count : next) {
    before += std::exchange(count, before);
  }
  std::vector<planned_tensor> ordered(layout.tensors.size());
  for (const planned_tensor& tensor : layout.tensors) {
    ordered[next[place(tensor)]++] = tensor;
  }
  layout.tensors = std::move(ordered);
}

}  // namespace detail

/// Gives every request its place: one slab per unit, units in the order in which the requests first name them; within a
/// slab sharded tensors first, then whole ones, each in request order, so that what travels together lies together.
/// Every rank reserves the largest shard's bytes, so offsets are the same everywhere and an all-gather is uniform.
///
/// \pre a dtype in which a request travels is no wider than its own; both are convertible floats where they differ.
/// Pure; O(requests + units). \throws error{invalid_placement, invalid_argument} as `partition::make` does; error{invalid_argument}
/// naming the tensor with which sums overflow: those of this layout, and all that are made of it, for all ranks together.
[[nodiscard]] inline slabs_layout lay_out_slabs(const std::vector<tensor_request>& requests, mesh ranks) {
  std::size_t unit_bound = 0;
  for (const tensor_request& request : requests) {
    unit_bound = request.unit < unit_bound ? unit_bound : request.unit + 1;
  }
  constexpr auto none = static_cast<std::size_t>(-1);
  std::vector<std::size_t> slab_of_unit(unit_bound, none);

  // What is predicted and priced counts each byte, and each copy, a few times for each rank: as read, sent, received, staged, kept.
  total_bytes total(8 * ranks.size());
  slabs_layout layout;
  layout.tensors.reserve(requests.size());
  for (std::size_t i = 0; i < requests.size(); ++i) {
    const tensor_request& request = requests[i];
    std::size_t& slab = slab_of_unit[request.unit];
    if (slab == none) {
      slab = layout.slabs.size();
      layout.slabs.push_back({.unit = request.unit});
    }
    const auto partition_of = [&](dtype type) {
      return partition::make(request.fqn, type, request.shape, request.placement, ranks.shards);
    };
    const partition kept = partition_of(request.dtype);
    total.add(request.fqn, kept.bytes(), request.extra_copies);
    const dtype travelling = request.travels_as.value_or(request.dtype);
    std::optional<widening> grows;
    if (travelling != request.dtype && kept.bytes() != 0) {
      grows = {.from = travelling,
               .to = request.dtype,
               .growth = kept.reserved_bytes() - partition_of(travelling).reserved_bytes()};
    }
    layout.tensors.push_back({.partition = grows ? partition_of(travelling) : kept,
                              .request = i,
                              .slab = slab,
                              .widening = grows,
                              .from_buffer = request.from_buffer,
                              .generated = request.generated,
                              .extra_copies = request.extra_copies,
                              .position = request.position,
                              .tile_bytes = request.tile_bytes});
  }
  detail::order_by_place(layout);
  for (planned_tensor& tensor : layout.tensors) {
    slab_layout& slab = layout.slabs[tensor.slab];
    tensor.offset = align_up(slab.bytes, slab_alignment) + (tensor.widening ? tensor.widening->growth : 0);
    slab.bytes = tensor.offset + tensor.partition.reserved_bytes();
  }
  return layout;
}

}  // namespace fsdpinit
