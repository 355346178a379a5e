#pragma once

#include <fsdpinit/cost/cluster.hpp>
#include <fsdpinit/cost/cluster_traffic.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <numeric>
#include <vector>

/// \file
/// How long buckets take that follow one another through the same stages: those of one route.

namespace fsdpinit::detail {

/// Seconds and bytes are of all its buckets together.
struct bucket_pipeline {
  explicit bucket_pipeline(const cluster& on) : all(on), held(on) {}

  cluster_traffic all;
  cluster_traffic held;  ///< of these, what a rank that reads sends from a slot that is free once it has arrived
  std::vector<double> read_by{};  ///< by reader, where several take turns; empty: as long as the storage is busy
  std::uint64_t to_device = 0;    ///< bytes over PCIe, to be sent from there, of the rank that reads most
  std::uint64_t kept_at_once =
      0;                   ///< bytes over PCIe of a rank that keeps some of what it reads, while it sends the rest
  std::uint64_t kept = 0;  ///< bytes over PCIe of a rank that takes its part out of a broadcast
  std::size_t buckets = 0;
  std::size_t fills = 1;      ///< how often the pipeline is filled and drained
  double in_flight = 1;       ///< buckets
  bool travels = false;       ///< from rank to rank
  bool rings = false;         ///< by several hops
  double passed_on = 0;       ///< seconds in which a rank that reads passes its own part on
  bool passes_early = false;  ///< it does so while the next bucket is on its way from the device, not after that
  double read_at_once = 1;    ///< how many readers can read at once
  double ring_turns = 1;      ///< how many times as long rings take as the busiest of their links
};

struct pipeline_seconds {
  double pace = 0;
  double fill = 0;  ///< besides, until the first bucket comes out and while the last ones do
  double hand_over = 0;
  double nic_latency = 0;
};

/// Bytes from one rank to another, while nothing else is under way.
[[nodiscard]] inline double seconds_between(const cluster& on, std::size_t from, std::size_t to, std::uint64_t bytes) {
  constexpr double unlimited = std::numeric_limits<double>::infinity();
  const bool crosses = on.node_of(from) != on.node_of(to);
  const double pcie = crosses || !on.nvlink_bandwidth ? on.pcie_bandwidth.value_or(unlimited) : unlimited;
  const double link = crosses ? on.nic_bandwidth : on.nvlink_bandwidth.value_or(on.host_copy_bandwidth);
  return from == to ? 0 : static_cast<double>(bytes) / std::min(pcie, link);
}

[[nodiscard]] inline double seconds_over_pcie(const cluster& on, std::uint64_t bytes) {
  return on.pcie_bandwidth ? static_cast<double>(bytes) / *on.pcie_bandwidth : 0;
}

/// The slowest stage sets the pace, each stage working on one bucket at a time; or, where that is longer, buckets do as they hold
/// their slots. The other stages show once for each time that the pipeline fills and drains, with one bucket. Pure.
[[nodiscard]] inline pipeline_seconds seconds_of(const bucket_pipeline& of, const cluster& on) {
  cluster_cost cost;
  of.all.add_to(cost);
  const auto busy = [&](cluster_resource which) { return cost.busy_with(which); };
  const std::size_t count = std::max<std::size_t>(of.buckets, 1);
  const auto buckets = static_cast<double>(count);
  const auto readers = static_cast<double>(std::clamp<std::size_t>(of.read_by.size(), 1, count));
  const bool crosses = of.travels && cost.nic_bytes != 0;
  const double latency = crosses ? on.nic_latency * buckets : 0;
  pipeline_seconds out;
  out.nic_latency = latency / of.in_flight;
  out.hand_over = on.measured && of.travels && cost.in_node_bytes != 0 ? on.measured->hand_over * buckets : 0;

  const double storage = std::max(busy(cluster_resource::node_storage), busy(cluster_resource::total_storage));
  // Of ranks that were measured what they read is part of their work, and not another stage.
  const double read = std::max({storage, std::accumulate(of.read_by.begin(), of.read_by.end(), 0.0),
                                busy(cluster_resource::rank_work), busy(cluster_resource::node_work)});
  const double to_device = seconds_over_pcie(on, of.to_device) * readers;
  const double sent = of.all.seconds_of_sends();
  const double handed_over = out.hand_over + latency;
  const double kept = seconds_over_pcie(on, of.kept);
  double paced_read = read / of.read_at_once;
  for (const double each : of.read_by) {
    paced_read = std::max(paced_read, each);
  }
  const double slowest = std::max(
      {*std::max_element(cost.busy.begin(), cost.busy.end()), paced_read, of.ring_turns * sent, out.hand_over});

  const double kept_at_once = seconds_over_pcie(on, of.kept_at_once) * readers;
  const double stages =
      read + to_device + std::max(of.all.seconds_of_other_copies() + sent + handed_over, kept_at_once) + kept;
  const double held_sends = (of.held.seconds_of_other_copies() + of.held.seconds_of_sends() + of.passed_on) * readers;
  const double held = of.passes_early
                          ? read + to_device + kept_at_once + of.passed_on
                          : std::max(read + to_device, kept) + std::max(handed_over + held_sends, kept_at_once);
  out.pace = std::max(slowest, held / of.in_flight);
  out.fill = std::max(0.0, slowest + (stages - slowest) * static_cast<double>(of.fills) / buckets - out.pace);
  out.fill += crosses && of.rings ? on.nic_latency * static_cast<double>(on.nodes - 1) : 0;
  return out;
}

}  // namespace fsdpinit::detail
