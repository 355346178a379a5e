#pragma once

#include <fsdpinit/core.hpp>
#include <fsdpinit/plan/program_regions.hpp>
#include <fsdpinit/plan/rank_plan.hpp>
#include <fsdpinit/plan/reread_pairs.hpp>

#include <cstddef>
#include <cstdint>
#include <span>

namespace fsdpinit::testing_support {

/// Its `payload_bytes`.
[[nodiscard]] inline std::uint64_t expected_payload(const plan& made, std::size_t rank) {
  const rank_plan mine(made, rank);
  std::uint64_t total = 0;
  for (const planned_tensor& tensor : made.tensors) {
    total += tensor.route == route::full_copy ? tensor.partition.bytes() : 0;
  }
  for (const bucket& which : made.schedule) {
    if (!mine.reads(which)) {
      continue;
    }
    if (which.route == route::broadcast) {
      total += which.bytes;
    } else if (which.route == route::own_read) {
      total += mine.window_bytes(which, mine.shard());
    } else {
      for (std::size_t shard = 0; shard < made.options.ranks.shards; ++shard) {
        total += mine.serves(shard) ? mine.window_bytes(which, shard) : 0;
      }
    }
  }
  return total;
}

/// What `predict` has to say of a rank, worked out without its program: from tensors and buckets.
[[nodiscard]] inline prediction expected_prediction(const plan& made, std::size_t rank) {
  const plan_options& options = made.options;
  const mesh& ranks = options.ranks;
  const rank_plan mine(made, rank);
  prediction out;
  bool needs_scratch = false;
  bool widens_aside = false;
  const bool verifies = options.verify != verification::off;
  const bool rereads = options.verify == verification::reread;
  const std::size_t peers_shard = rereads ? ranks.shard_of(reread_pairs(options).read_by(rank)) : 0;
  for (const slab_layout& slab : made.slabs) {
    out.slab_bytes += slab.bytes;
  }
  const bool relayed = scatter_is_relayed(ranks, options.source_ranks);
  const bool beside_source = ranks.replica_of(rank) == ranks.replica_of(mine.groups().source);
  for (const planned_tensor& tensor : made.tensors) {
    const partition& part = tensor.partition;
    const std::uint64_t whole = part.bytes();
    const std::uint64_t own = part.local_bytes(mine.shard());
    const std::uint64_t copies = 1 + tensor.extra_copies;
    out.shard_bytes += tensor.kept_bytes(own);
    widens_aside = widens_aside || (tensor.widening && !options.access.widens);
    if (rereads && !tensor.from_buffer && !tensor.generated) {
      const bool by_several = is_read_by_several(options, tensor);
      out.bytes_read += by_several ? part.local_bytes(peers_shard) : own;
      out.peer_sum_bytes = by_several ? 16 * made.tensors.size() : out.peer_sum_bytes;
      needs_scratch = true;
    }
    if (tensor.route == route::full_copy) {
      out.bytes_read += whole * copies;
      out.full_copy_bytes += whole;
      needs_scratch = needs_scratch || copies != 1;
    } else if (tensor.route == route::broadcast) {
      const bool from_buffer = tensor.from_buffer && !options.source_ranks.is_single();
      if (rank == (from_buffer ? options.source_ranks.source_rank : mine.groups().source)) {
        out.bytes_read += tensor.from_buffer ? 0 : whole * copies;
        const bool to_all = from_buffer || mine.groups().served.empty();
        out.bytes_sent += whole * ((to_all ? ranks.size() : mine.groups().served.size()) - 1);
        needs_scratch = needs_scratch || (copies != 1 && !tensor.from_buffer);
      } else {
        out.bytes_received += whole;
      }
    } else if (tensor.route == route::scatter) {
      out.bytes_sent += relayed && beside_source ? own * (ranks.replicas - 1) : 0;
      if (!mine.is_source()) {
        out.bytes_received += own;
        continue;
      }
      if (mine.serves_every_shard()) {
        out.bytes_read += whole * copies;
      }
      for (std::size_t shard = 0; !mine.serves_every_shard() && shard < ranks.shards; ++shard) {
        out.bytes_read += mine.serves(shard) ? part.local_bytes(shard) * copies : 0;
      }
      if (options.source_ranks.is_single()) {
        out.bytes_sent += whole * (relayed ? 1 : ranks.replicas) - own;
      } else {
        for (const std::size_t other : mine.groups().served) {
          out.bytes_sent += other == rank ? 0 : part.local_bytes(ranks.shard_of(other));
        }
      }
      needs_scratch = needs_scratch || copies != 1 || !part.is_contiguous();
    } else if (tensor.route == route::own_read) {
      needs_scratch = true;
    }
  }
  if (needs_scratch || widens_aside || (verifies && !options.access.host)) {
    out.scratch_bytes = options.bucket_bytes < scratch_bound ? options.bucket_bytes : scratch_bound;
    out.scratch_bytes = out.scratch_bytes < least_scratch ? least_scratch : out.scratch_bytes;
  }
  bool has_checksums = false;
  for (const bucket& which : made.schedule) {
    const std::uint64_t needed = mine.staging_of(which);
    out.slot_bytes = needed > out.slot_bytes ? needed : out.slot_bytes;
    has_checksums = has_checksums || mine.has_checksums(which);
    if (which.route != route::own_read) {
      continue;
    }
    if (mine.relays(which)) {
      const std::uint64_t window = mine.window_bytes(which, mine.shard());
      (mine.reads(which) ? out.bytes_sent : out.bytes_received) +=
          mine.reads(which) ? window * (ranks.replicas - 1) : window;
    }
    if (mine.reads(which)) {
      read_coalescer reads(out.scratch_bytes);
      const auto count = [&](std::span<const wanted_run> runs) { out.bytes_read += covering_bytes(runs); };
      for (const segment& part : made.schedule.segments(which)) {
        mine.for_each_own_run(
            part, [](auto&&...) { return nullptr; },
            [&](const wanted_run& run, std::size_t tensor, std::uint64_t) {
              if (const std::uint64_t copies = made.tensors[tensor].extra_copies; copies != 0) {
                out.bytes_read += run.bytes * (1 + copies);
              } else {
                reads.add(run, count);
              }
            });
      }
      reads.flush(count);
    }
  }
  out.payload_bytes = expected_payload(made, rank);
  if (has_checksums) {
    out.slot_bytes += checksums_bytes(options.verify, ranks.shards);
  }
  if (out.slot_bytes != 0) {
    const std::size_t buckets = made.schedule.size();
    out.slots = buckets < options.buckets_in_flight ? buckets : options.buckets_in_flight;
  }
  return out;
}

}  // namespace fsdpinit::testing_support
