#pragma once

#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/core/text.hpp>
#include <fsdpinit/index/mesh.hpp>
#include <fsdpinit/plan/bucket_schedule.hpp>
#include <fsdpinit/plan/rank_groups.hpp>
#include <fsdpinit/plan/slab_layout.hpp>
#include <fsdpinit/plan/transport.hpp>
#include <fsdpinit/plan/verification.hpp>

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace fsdpinit {

/// Who may touch slab memory directly; where not, a staging copy in host memory is inserted and counted.
struct slab_access {
  bool host = true;          ///< a read() may fill slab memory: it is host memory
  bool communicator = true;  ///< the communicator may send from and receive into slab memory
  bool widens = true;        ///< floats become wider where they lie
};

struct plan_options {
  mesh ranks{};
  source_layout source_ranks{};
  fsdpinit::transport transport = fsdpinit::transport::scatter;
  std::uint64_t bucket_bytes = 4 * mib;
  std::uint64_t own_read_bytes = direct_read_bytes;  ///< of a bucket that a rank reads straight to its place
  std::size_t buckets_in_flight = 2;
  slab_access access{};
  verification verify = verification::off;
};

/// Everything that will happen, the same on every rank: where each tensor lies, and which bucket carries what when.
struct plan {
  plan_options options;
  std::vector<planned_tensor> tensors;
  std::vector<slab_layout> slabs;
  bucket_schedule schedule;
};

/// Pure, without communication or I/O; O(tensors).
/// \throws error{invalid_placement, invalid_argument} naming the FQN.
[[nodiscard]] inline plan make_plan(const std::vector<tensor_request>& requests, const plan_options& options) {
  slabs_layout layout = lay_out_slabs(requests, options.ranks);
  for (planned_tensor& tensor : layout.tensors) {
    tensor.route = route_of({.chunk_bytes = tensor.partition.reserved_bytes(),
                             .whole = tensor.partition.is_whole(),
                             .from_buffer = tensor.from_buffer,
                             .generated = tensor.generated},
                            options.transport, options.ranks.shards);
  }
  const bool relayed = own_read_is_relayed(options.ranks, options.source_ranks);
  bucket_schedule schedule = schedule_buckets(
      layout.tensors, options.ranks,
      {.bucket_bytes = options.bucket_bytes,
       .own_read_bytes = relayed || !options.access.host ? options.bucket_bytes : options.own_read_bytes,
       .readers = relayed ? options.ranks.replicas : 1,
       .several_source_ranks = !options.source_ranks.is_single()});
  return {.options = options,
          .tensors = std::move(layout.tensors),
          .slabs = std::move(layout.slabs),
          .schedule = std::move(schedule)};
}

/// Legal settings that make a plan slow, each with what to set instead; empty for most. From the plan alone, so that every rank says the
/// same, on every run.
///
/// A message costs some microseconds and a wake-up of each rank, whatever it carries: with less than 16 KiB that outweighs its bytes.
[[nodiscard]] inline std::vector<std::string> advice_on(const plan& made) {
  constexpr std::uint64_t small_message = 16 * kib;
  constexpr std::uint64_t many_messages = 1000;
  const plan_options& options = made.options;
  const bool relayed = own_read_is_relayed(options.ranks, options.source_ranks);
  std::uint64_t messages = 0;
  std::uint64_t bytes = 0;
  for (const bucket_schedule::run& alike : made.schedule.runs()) {
    if (alike.first.route != route::own_read || relayed) {
      messages += alike.count;
      bytes += alike.first.bytes * alike.count;
    }
  }
  std::vector<std::string> out;
  if (options.ranks.size() > 1 && messages >= many_messages && bytes / messages < small_message) {
    const std::uint64_t wanted = small_message * options.ranks.shards;
    out.push_back(
        concat(messages, " buckets carry ", bytes / messages,
               " bytes to a rank on average, so that messages cost more than what they carry; set bucket_bytes, ",
               options.bucket_bytes, ", to ", wanted < 4 * mib ? 4 * mib : wanted, " or more"));
  }
  return out;
}

/// How many tensors, and of how many bytes, travel by each route, in words. For reports.
[[nodiscard]] inline std::string routes_of(const plan& made) {
  struct tally {
    std::string_view words;
    std::string_view of_size = "";  // where that decides
    fsdpinit::route route;
  };
  constexpr std::array tallies{
      tally{.words = "read by each rank", .of_size = " (chunks of 1 MiB or more)", .route = route::own_read},
      tally{.words = "scattered", .of_size = " (smaller chunks)", .route = route::scatter},
      tally{.words = "broadcast (whole)", .route = route::broadcast},
      tally{.words = "copied in full", .route = route::full_copy},
      tally{.words = "made by each rank", .route = route::generated},
  };
  std::string out;
  for (const tally& each : tallies) {
    std::size_t tensors = 0;
    std::uint64_t bytes = 0;
    for (const planned_tensor& tensor : made.tensors) {
      tensors += tensor.route == each.route ? 1U : 0U;
      bytes += tensor.route == each.route ? tensor.partition.bytes() : 0;
    }
    if (tensors != 0) {
      out += concat(out.empty() ? "" : "; ", tensors, tensors == 1 ? " tensor, " : " tensors, ", bytes,
                    " bytes: ", each.words, made.options.transport == transport::automatic ? each.of_size : "");
    }
  }
  return out;
}

}  // namespace fsdpinit
