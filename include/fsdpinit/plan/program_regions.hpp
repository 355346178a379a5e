#pragma once

#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/plan/bucket_schedule.hpp>
#include <fsdpinit/plan/plan.hpp>
#include <fsdpinit/plan/program_step.hpp>
#include <fsdpinit/plan/rank_plan.hpp>
#include <fsdpinit/plan/transport.hpp>
#include <fsdpinit/plan/turn_steps.hpp>
#include <fsdpinit/plan/verification.hpp>

#include <cstddef>
#include <cstdint>
#include <vector>

namespace fsdpinit {

/// The host memory in which strided shards are taken apart, tied copies compared, and neighbouring runs read at once.
inline constexpr std::uint64_t scratch_bound = 256 * kib;
/// And at least so much, however small buckets are: room for two elements.
inline constexpr std::uint64_t least_scratch = 16;

namespace detail {

/// The scratch memory that a rank needs.
[[nodiscard]] inline std::uint64_t scratch_bytes_of(const plan& made, const rank_plan& mine) noexcept {
  const plan_options& options = made.options;
  bool uses = options.verify != verification::off && !options.access.host;
  for (const planned_tensor& tensor : made.tensors) {
    const bool from_source = !tensor.from_buffer && !tensor.generated;
    const bool reads_copies =
        from_source && tensor.extra_copies != 0 && (tensor.route == route::full_copy || mine.is_source());
    const bool takes_apart = tensor.route == route::scatter && mine.is_source() && !tensor.partition.is_contiguous();
    const bool joins = tensor.route == route::own_read;
    const bool rereads = options.verify == verification::reread && from_source;
    const bool widens_aside = tensor.widening && !options.access.widens;
    uses = uses || reads_copies || takes_apart || joins || rereads || widens_aside;
  }
  const std::uint64_t bytes = smaller(options.bucket_bytes, scratch_bound);
  return !uses ? 0 : bytes < least_scratch ? least_scratch : bytes;
}

/// The memory in which its source puts the tensors together that this rank reads.
[[nodiscard]] inline std::uint64_t tile_bytes_of(const plan& made, const rank_plan& mine) noexcept {
  std::uint64_t bytes = 0;
  for (const planned_tensor& tensor : made.tensors) {
    const bool reads = mine.is_source() || tensor.route == route::full_copy || tensor.route == route::own_read ||
                       made.options.verify == verification::reread;
    bytes = reads && tensor.tile_bytes > bytes ? tensor.tile_bytes : bytes;
  }
  return bytes;
}

/// Slots, one for each bucket that is in flight at a time, as large as the largest needs, with its checksums.
inline void add_slots(const plan& made, const rank_plan& mine, std::vector<program_region>& out) {
  std::uint64_t staging = 0;
  bool has_checksums = false;
  for (const bucket_schedule::run& alike : made.schedule.runs()) {
    // The first of each reader needs most.
    for (std::size_t i = 0; i < alike.count && i < made.schedule.readers(); ++i) {
      const std::uint64_t needed = mine.staging_of(made.schedule.bucket_of(alike, i));
      staging = needed > staging ? needed : staging;
    }
    has_checksums = has_checksums || mine.has_checksums(alike.first);
  }
  const std::uint64_t sums = has_checksums ? checksums_bytes(made.options.verify, made.options.ranks.shards) : 0;
  for (std::size_t i = 0; i < made.schedule.size() && i < made.options.buckets_in_flight; ++i) {
    out.push_back({.kind = region_kind::slot, .index = i, .bytes = staging});
    out.push_back({.kind = region_kind::checksums, .index = i, .bytes = sums});
  }
}

/// All memory that the program of a rank works in; slabs first, the rest without what is empty. \param exchanges_sums  peers compare
/// what they have read again
[[nodiscard]] inline std::vector<program_region> regions_of(const plan& made, const rank_plan& mine,
                                                            bool exchanges_sums) {
  std::vector<program_region> out;
  add_slots(made, mine, out);
  out.push_back({.kind = region_kind::scratch, .bytes = scratch_bytes_of(made, mine)});
  out.push_back({.kind = region_kind::tiles, .bytes = tile_bytes_of(made, mine)});
  out.push_back({.kind = region_kind::full_copy, .bytes = bytes_of_turns(made, fully_loaded_bytes)});
  for (std::size_t i = 0; exchanges_sums && i < 2; ++i) {
    out.push_back({.kind = region_kind::peer_sums, .index = i, .bytes = made.tensors.size() * sizeof(std::uint64_t)});
  }
  std::erase_if(out, [](const program_region& each) { return each.bytes == 0; });
  std::vector<program_region> slabs;
  for (std::size_t i = 0; i < made.slabs.size(); ++i) {
    slabs.push_back({.kind = region_kind::slab, .index = i, .bytes = made.slabs[i].bytes});
  }
  out.insert(out.begin(), slabs.begin(), slabs.end());
  return out;
}

}  // namespace detail

}  // namespace fsdpinit
