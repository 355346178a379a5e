#pragma once

#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/plan/bucket_schedule.hpp>
#include <fsdpinit/plan/mesh.hpp>
#include <fsdpinit/plan/slab_layout.hpp>

#include <cstddef>
#include <cstdint>
#include <vector>

namespace fsdpinit {

/// Who may touch slab memory directly; where not, a staging copy in host memory is inserted and counted.
struct slab_access {
  bool host = true;          ///< a read() may fill slab memory: it is host memory
  bool communicator = true;  ///< the communicator may send from and receive into slab memory
};

struct plan_options {
  mesh ranks{};
  std::size_t source_rank = 0;
  transport_kind transport = transport_kind::scatter;
  std::uint64_t bucket_bytes = 4 * mib;
  std::size_t buckets_in_flight = 2;
  slab_access access{};
};

/// Everything that will happen, the same on every rank: where each tensor lies, and which bucket carries what when.
struct plan {
  plan_options options;
  std::vector<planned_tensor> tensors;
  std::vector<slab_layout> slabs;
  bucket_schedule schedule;
};

/// Pure, without communication or I/O; O(tensors + buckets).
/// \throws error{invalid_placement, invalid_argument} naming the FQN.
[[nodiscard]] inline plan make_plan(const std::vector<tensor_request>& requests, const plan_options& options) {
  slabs_layout layout = lay_out_slabs(requests, options.ranks);
  bucket_schedule schedule = schedule_buckets(layout.tensors, options.ranks, options.transport, options.bucket_bytes);
  return {.options = options,
          .tensors = std::move(layout.tensors),
          .slabs = std::move(layout.slabs),
          .schedule = std::move(schedule)};
}

}  // namespace fsdpinit
