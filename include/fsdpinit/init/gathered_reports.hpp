#pragma once

#include <fsdpinit/concepts/control_ref.hpp>
#include <fsdpinit/control/agreement.hpp>
#include <fsdpinit/control/wire.hpp>
#include <fsdpinit/core/deadline.hpp>
#include <fsdpinit/observe/report.hpp>

#include <bit>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

namespace fsdpinit {

/// The reports of all ranks, in rank order, on every rank: what ranks that are processes need for `report_text` and
/// `report_json`. Collective; two broadcasts of some 220 bytes for each rank.
///
/// What is equal on all ranks of one initialisation (policy, transport, the plan's counts, the names of phases) is taken
/// from this rank's own.
[[nodiscard]] inline std::vector<rank_report> gather_reports(control_ref control, const rank_report& mine,
                                                             double deadline_seconds = default_deadline_seconds) {
  const auto each_number = [](rank_report& report, auto&& visit) {
    prediction& predicted = report.predicted;
    visit(predicted.shard_bytes);
    visit(predicted.slab_bytes);
    visit(predicted.slot_bytes);
    visit(predicted.slots);
    visit(predicted.scratch_bytes);
    visit(predicted.full_copy_bytes);
    visit(predicted.peer_sum_bytes);
    visit(predicted.bytes_read);
    visit(predicted.bytes_sent);
    visit(predicted.bytes_received);
    visit(predicted.payload_bytes);
    visit(report.accounted_peak_bytes);
    visit(report.bytes_read);
    visit(report.bytes_sent);
    visit(report.bytes_received);
    visit(report.overflow.elements);
    visit(report.base_rss_bytes);
    visit(report.peak_rss_bytes);
    visit(report.seconds);
    visit(report.stages.read);
    visit(report.stages.checksum);
    visit(report.stages.place);
    visit(report.stages.wait);
    for (phase_seconds& phase : report.phases) {
      visit(phase.seconds);
    }
  };
  std::vector<rank_report> all;
  detail::wire_writer out;
  agreed(control, deadline_seconds, [&] {
    all.assign(control.size(), mine);
    each_number(all[control.rank()], [&](auto& value) { out.number(std::bit_cast<std::uint64_t>(value)); });
    out.text(mine.overflow.first);
  });
  for (std::size_t rank = 0; rank < control.size(); ++rank) {
    std::vector<std::byte> bytes;
    if (rank == control.rank()) {
      bytes = std::move(out.bytes());
    }
    bytes = broadcast_bytes(control, std::move(bytes), rank, deadline::after(deadline_seconds));
    detail::wire_reader in(bytes);
    each_number(all[rank], [&]<class Value>(Value& value) { value = std::bit_cast<Value>(in.number()); });
    all[rank].overflow.first = in.text();
    all[rank].rank = rank;
  }
  return all;
}

namespace detail {

/// Puts into every rank's report which of them took longest, and how long. One reduction, in which nobody looks: past it no rank can
/// fail. What a rank was stopped for before goes with it, and is thrown on all of them.
inline void agree_on_slowest(control_ref control, rank_report& report, double seconds, double deadline_seconds) {
  constexpr std::uint64_t rank_bits = 24;
  constexpr std::uint64_t stopped_bit = std::uint64_t{1} << 63U;
  const std::optional<error> stopped = stopped_before(control);
  const control_ref calm = control.looking(nullptr);
  const std::uint64_t mine =
      (static_cast<std::uint64_t>(seconds * 1e6) << rank_bits | control.rank()) | (stopped ? stopped_bit : 0);
  const std::uint64_t slowest = all_reduce_max(calm, mine, deadline::after(deadline_seconds));
  if ((slowest & stopped_bit) != 0) {
    agree(calm, stopped, deadline::after(deadline_seconds));
  }
  report.slowest_rank = slowest & ((std::uint64_t{1} << rank_bits) - 1);
  report.slowest_seconds = static_cast<double>(slowest >> rank_bits) * 1e-6;
}

}  // namespace detail

}  // namespace fsdpinit
