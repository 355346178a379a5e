#pragma once

#include <fsdpinit/plan/cluster.hpp>
#include <fsdpinit/plan/plan.hpp>
#include <fsdpinit/plan/prediction.hpp>
#include <fsdpinit/plan/rank_classes.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

/// \file
/// How long an initialisation takes on a cluster that is known by a few figures. The bytes are the plan's, exact; the seconds are a
/// model, which assumes
///   - ranks fill one node after the other, and all nodes are alike and idle;
///   - reading, copying and sending go on at the same time, a bucket in each stage: the busiest resource sets the pace, and the
///     other stages show once, with one bucket, while the pipeline fills and drains. Where every rank loads the whole model before
///     it keeps its shard, stages follow one another;
///   - a broadcast goes round its ranks as a ring, in their order: it enters each node once. A scatter goes from the source to each rank;
///   - links carry both directions at once, and what ranks of a node share is shared evenly;
///   - nothing is in a page cache, and what is read is copied out of it once; latencies of reads are overlapped with other reads'
///     bytes (read-ahead), but not with one another on a rank, which reads by one thread.
/// CPU time for casts, checksums and allocation is not in it. Where the hosts were measured (`host_rates`, by `calibrate`), first
/// writes to fresh memory are, a rank's work is limited by what one thread does, and a node's by what all of them do at once.

namespace fsdpinit {

/// Whatever can be the busiest.
enum class cluster_resource : std::uint8_t {
  node_storage,     ///< a node's share of the storage
  total_storage,    ///< the storage that nodes have together
  storage_latency,  ///< of the reads that one rank makes
  host_copy,
  pcie,
  nvlink,
  nic_out,      ///< out of a node
  nic_in,       ///< into one
  nic_latency,  ///< of the buckets, of which only so many are in flight
  rank_work,    ///< reading, copying and first writes of one rank; this and the next two only where hosts were measured
  node_work,    ///< of all ranks of a node, which share cores and memory
  hand_over,    ///< of buckets between ranks of a node
};
inline constexpr std::size_t cluster_resources = 12;

[[nodiscard]] constexpr std::string_view name(cluster_resource which) noexcept {
  switch (which) {
    case cluster_resource::node_storage:
      return "storage, one node";
    case cluster_resource::total_storage:
      return "storage, in all";
    case cluster_resource::storage_latency:
      return "storage latency";
    case cluster_resource::host_copy:
      return "host copies";
    case cluster_resource::pcie:
      return "PCIe";
    case cluster_resource::nvlink:
      return "NVLink";
    case cluster_resource::nic_out:
      return "NIC, out";
    case cluster_resource::nic_in:
      return "NIC, in";
    case cluster_resource::nic_latency:
      return "NIC latency";
    case cluster_resource::rank_work:
      return "one rank's work";
    case cluster_resource::node_work:
      return "one node's work";
    case cluster_resource::hand_over:
      return "hand-overs";
  }
  return "unknown";
}

struct cluster_cost {
  double seconds = 0;
  cluster_resource bottleneck =
      cluster_resource::node_storage;            ///< the busiest; the first of those that are equally busy
  std::array<double, cluster_resources> busy{};  ///< seconds, by resource, of the busiest node or rank
  // Of all ranks together:
  std::uint64_t storage_bytes = 0;
  std::uint64_t nic_bytes = 0;      ///< between nodes
  std::uint64_t in_node_bytes = 0;  ///< between ranks of a node, by whatever links them
  std::uint64_t pcie_bytes = 0;     ///< in both directions
  // Of the rank that needs most:
  std::uint64_t host_peak_bytes = 0;
  std::uint64_t device_peak_bytes = 0;

  [[nodiscard]] double busy_with(cluster_resource which) const noexcept {
    return busy[static_cast<std::size_t>(which)];
  }
};

namespace detail {

/// Adds up what passes through each node and rank.
class cluster_traffic {
 public:
  explicit cluster_traffic(const cluster& on)
      : on_(on),
        read_(on.nodes),
        copied_(on.nodes),
        work_(on.ranks()),
        nic_out_(on.nodes),
        nic_in_(on.nodes),
        nvlink_out_(on.ranks()),
        nvlink_in_(on.ranks()),
        pcie_out_(on.ranks()),
        pcie_in_(on.ranks()) {}

  /// Out of the page cache, once.
  void read(std::size_t rank, std::uint64_t bytes) {
    read_[on_.node_of(rank)] += bytes;
    copied_[on_.node_of(rank)] += bytes;
    work_[rank].read += bytes;
  }
  void copy(std::size_t rank, std::uint64_t bytes) {
    copied_[on_.node_of(rank)] += bytes;
    work_[rank].copied += bytes;
  }
  /// Fresh memory is written to.
  void touch(std::size_t rank, std::uint64_t bytes) { work_[rank].touched += bytes; }
  void to_device(std::size_t rank, std::uint64_t bytes) { pcie_in_[rank] += bytes; }
  void to_host(std::size_t rank, std::uint64_t bytes) { pcie_out_[rank] += bytes; }
  /// From host memory into the slabs.
  void place(std::size_t rank, std::uint64_t bytes) { on_.pcie_bandwidth ? to_device(rank, bytes) : copy(rank, bytes); }

  void send(std::size_t from, std::size_t to, std::uint64_t bytes) {
    if (from == to) {
      return;
    }
    const bool crosses = on_.node_of(from) != on_.node_of(to);
    if (crosses) {
      nic_out_[on_.node_of(from)] += bytes;
      nic_in_[on_.node_of(to)] += bytes;
    } else if (on_.nvlink_bandwidth) {
      nvlink_out_[from] += bytes;
      nvlink_in_[to] += bytes;
      in_node_ += bytes;
      return;
    } else {
      copy(to, bytes);
      in_node_ += bytes;
    }
    if (on_.pcie_bandwidth) {
      to_host(from, bytes);
      to_device(to, bytes);
    }
  }

  void add_to(cluster_cost& out) const {
    const auto seconds = [&](cluster_resource which, std::uint64_t bytes, std::optional<double> bandwidth) {
      if (bytes != 0 && bandwidth) {
        out.busy[static_cast<std::size_t>(which)] = static_cast<double>(bytes) / *bandwidth;
      }
    };
    out.storage_bytes = sum(read_);
    out.nic_bytes = sum(nic_in_);
    out.in_node_bytes = in_node_;
    out.pcie_bytes = sum(pcie_in_) + sum(pcie_out_);
    seconds(cluster_resource::node_storage, most(read_), on_.storage_bandwidth_per_node);
    seconds(cluster_resource::total_storage, out.storage_bytes, on_.storage_bandwidth);
    if (on_.measured) {
      add_work(out, *on_.measured);
    } else {
      seconds(cluster_resource::host_copy, most(copied_), on_.host_copy_bandwidth);
    }
    seconds(cluster_resource::pcie, std::max(most(pcie_in_), most(pcie_out_)), on_.pcie_bandwidth);
    seconds(cluster_resource::nvlink, std::max(most(nvlink_in_), most(nvlink_out_)), on_.nvlink_bandwidth);
    seconds(cluster_resource::nic_out, most(nic_out_), on_.nic_bandwidth);
    seconds(cluster_resource::nic_in, most(nic_in_), on_.nic_bandwidth);
  }

 private:
  using counts = std::vector<std::uint64_t>;
  struct host_work {
    std::uint64_t read = 0;
    std::uint64_t copied = 0;
    std::uint64_t touched = 0;
  };

  void add_work(cluster_cost& out, const host_rates& rates) const {
    double busiest_rank = 0;
    std::vector<double> nodes(on_.nodes);
    for (std::size_t rank = 0; rank < work_.size(); ++rank) {
      const auto seconds_at = [&](double host_rate::*which) {
        return static_cast<double>(work_[rank].read) / (rates.read.*which) +
               static_cast<double>(work_[rank].copied) / (rates.copy.*which) +
               static_cast<double>(work_[rank].touched) / (rates.touch.*which);
      };
      busiest_rank = std::max(busiest_rank, seconds_at(&host_rate::alone));
      nodes[on_.node_of(rank)] += seconds_at(&host_rate::together);
    }
    out.busy[static_cast<std::size_t>(cluster_resource::rank_work)] = busiest_rank;
    out.busy[static_cast<std::size_t>(cluster_resource::node_work)] = *std::max_element(nodes.begin(), nodes.end());
  }

  static std::uint64_t most(const counts& of) { return *std::max_element(of.begin(), of.end()); }
  static std::uint64_t sum(const counts& of) {
    std::uint64_t total = 0;
    for (const std::uint64_t each : of) {
      total += each;
    }
    return total;
  }

  const cluster& on_;
  counts read_, copied_;                                // by node
  std::vector<host_work> work_;                         // by rank
  counts nic_out_, nic_in_;                             // by node
  counts nvlink_out_, nvlink_in_, pcie_out_, pcie_in_;  // by rank
  std::uint64_t in_node_ = 0;
};

/// Bytes of a plan by route: the same for all ranks.
struct routed_bytes {
  std::uint64_t broadcast = 0;
  std::uint64_t captured = 0;           ///< of these, from the source rank's module
  std::uint64_t broadcast_sharded = 0;  ///< of these, of tensors of which a rank keeps a part
  bool full_copies = false;
};

[[nodiscard]] inline routed_bytes bytes_by_route(const plan& made) {
  routed_bytes out;
  for (const planned_tensor& tensor : made.tensors) {
    const std::uint64_t bytes = tensor.partition.bytes();
    if (tensor.way == route::broadcast) {
      out.broadcast += bytes;
      out.captured += tensor.captured ? bytes : 0;
      out.broadcast_sharded += tensor.partition.is_whole() ? 0 : bytes;
    }
    out.full_copies = out.full_copies || tensor.way == route::full_copy;
  }
  return out;
}

/// What a rank keeps of the tensors that go one way, as bytes that travel.
[[nodiscard]] inline std::uint64_t own_bytes(const plan& made, route way, bool sharded_only, std::size_t shard) {
  std::uint64_t bytes = 0;
  for (const planned_tensor& tensor : made.tensors) {
    const bool counts = tensor.way == way && !(sharded_only && tensor.partition.is_whole());
    bytes += counts ? tensor.partition.local_bytes(shard) : 0;
  }
  return bytes;
}

/// The rank before `rank` in a ring of those that `source` serves.
[[nodiscard]] inline std::size_t before_in_ring(const std::vector<std::size_t>& ring, std::size_t rank) {
  const auto at = std::lower_bound(ring.begin(), ring.end(), rank);
  return at == ring.begin() ? ring.back() : *(at - 1);
}

/// The most reads that one rank makes: one for each segment of each window. Parts that are not contiguous count as one.
[[nodiscard]] inline std::uint64_t most_reads(const plan& made, const std::vector<std::vector<std::size_t>>& served) {
  const mesh& ranks = made.options.ranks;
  std::size_t widest = 0;
  for (const std::vector<std::size_t>& each : served) {
    widest = std::max(widest, each.size());
  }
  std::uint64_t by_source = 0;
  std::vector<std::uint64_t> by_reader(ranks.replicas, 0);
  for (const bucket& which : made.schedule.buckets) {
    const std::uint64_t segments = which.last - which.first;
    if (which.way == route::own_read) {
      by_reader[which.reader] += segments;
    } else if (!which.captured) {
      by_source += segments * (which.way == route::scatter ? std::min(widest, ranks.shards) : 1);
    }
  }
  std::uint64_t by_each = 0;
  for (const planned_tensor& tensor : made.tensors) {
    by_each += tensor.way == route::full_copy ? 1 + tensor.extra_copies : 0;
  }
  return by_each + by_source + *std::max_element(by_reader.begin(), by_reader.end());
}

}  // namespace detail

/// What `made` costs on a cluster. Pure; O(tensors x ranks + buckets). `ranks` is `predict_every_rank(made)`.
///
/// With PCIe the plan has to be one for slabs that the host cannot reach but the communicator can (`slab_access{.host = false}`): what a
/// rank reads crosses its PCIe once (all of it, as it is kept or sent on from the device; where every rank loads the whole model,
/// only what it keeps), what comes over a NIC too, and a broadcast of which a rank keeps a part is staged in host memory.
/// Copies out of staging are counted for these, and for whole models; the few buckets that lie across slabs are not.
/// \pre on.ranks() == made.options.ranks.size() == ranks.size().
[[nodiscard]] inline cluster_cost cost_on(const cluster& on, const plan& made, std::span<const prediction> ranks) {
  const plan_options& options = made.options;
  const mesh& grid = options.ranks;
  const detail::routed_bytes routed = detail::bytes_by_route(made);
  const std::vector<std::vector<std::size_t>> served = served_by_rank(options);
  const bool relayed = scatter_is_relayed(grid, options.sources);
  detail::cluster_traffic traffic(on);
  cluster_cost out;
  for (std::size_t rank = 0; rank < ranks.size(); ++rank) {
    const prediction& mine = ranks[rank];
    const std::size_t shard = grid.shard_of(rank);
    const std::size_t source = options.sources.serving(rank);
    const std::size_t before = (rank + grid.size() - 1) % grid.size();
    const std::size_t before_served =
        options.sources.is_single() ? before : detail::before_in_ring(served[source], rank);
    const std::size_t before_replica = grid.rank_of((grid.replica_of(rank) + grid.replicas - 1) % grid.replicas, shard);

    const std::uint64_t whole = rank == source ? 0 : routed.broadcast - routed.captured;
    const std::size_t captures = options.sources.is_single() ? source : options.sources.source_rank;
    const std::uint64_t captured = rank == captures ? 0 : routed.captured;
    const std::uint64_t scattered = rank == source ? 0 : detail::own_bytes(made, route::scatter, false, shard);
    const bool beside_source = grid.replica_of(rank) == grid.replica_of(source);
    traffic.send(before_served, rank, whole);
    traffic.send(before, rank, captured);
    traffic.send(relayed && !beside_source ? before_replica : source, rank, scattered);
    traffic.send(before_replica, rank, mine.bytes_received - whole - captured - scattered);

    traffic.read(rank, mine.bytes_read);
    if (on.pcie_bandwidth) {
      traffic.to_device(rank, routed.full_copies ? 0 : mine.bytes_read);
      traffic.to_host(rank, rank == source ? 0 : routed.broadcast_sharded);
    }
    traffic.place(rank, detail::own_bytes(made, route::broadcast, true, shard) +
                            detail::own_bytes(made, route::full_copy, false, shard));
    const std::uint64_t device = on.pcie_bandwidth ? mine.slab_bytes : 0;
    out.device_peak_bytes = std::max(out.device_peak_bytes, device);
    out.host_peak_bytes = std::max(out.host_peak_bytes, mine.peak_bytes() - device);
    traffic.touch(rank, mine.peak_bytes() - device);
  }
  traffic.add_to(out);

  std::size_t travelling = 0;
  for (const bucket& which : made.schedule.buckets) {
    travelling += which.way != route::own_read || own_read_is_relayed(grid, options.sources) ? 1U : 0U;
  }
  const auto busy = [&](cluster_resource which) -> double& { return out.busy[static_cast<std::size_t>(which)]; };
  busy(cluster_resource::storage_latency) = static_cast<double>(detail::most_reads(made, served)) * on.storage_latency;
  if (out.nic_bytes != 0) {
    busy(cluster_resource::nic_latency) =
        static_cast<double>(travelling) * on.nic_latency / static_cast<double>(options.buckets_in_flight);
  }
  if (on.measured && out.in_node_bytes != 0) {
    busy(cluster_resource::hand_over) = static_cast<double>(travelling) * on.measured->hand_over;
  }

  const auto busiest = std::max_element(out.busy.begin(), out.busy.end());
  out.bottleneck = static_cast<cluster_resource>(busiest - out.busy.begin());
  const double stages =
      std::max({busy(cluster_resource::node_storage), busy(cluster_resource::total_storage),
                busy(cluster_resource::storage_latency)}) +
      busy(cluster_resource::host_copy) +
      std::max(busy(cluster_resource::rank_work), busy(cluster_resource::node_work)) +
      busy(cluster_resource::hand_over) + busy(cluster_resource::pcie) + busy(cluster_resource::nvlink) +
      std::max({busy(cluster_resource::nic_out), busy(cluster_resource::nic_in), busy(cluster_resource::nic_latency)});
  const std::size_t buckets = routed.full_copies ? 1 : std::max<std::size_t>(made.schedule.buckets.size(), 1);
  const double hops = out.nic_bytes == 0 ? 0 : on.nic_latency * static_cast<double>(on.nodes - 1);
  out.seconds = *busiest + (stages - *busiest) / static_cast<double>(buckets) + hops;
  return out;
}

}  // namespace fsdpinit
