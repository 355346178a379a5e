#pragma once

#include <fsdpinit/cost/cluster.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string_view>
#include <vector>

/// \file
/// What can be busy on a cluster, and how busy it is with given bytes.

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
        pcie_in_(on.ranks()),
        sent_(on.ranks()) {}

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
      sent_[from] += bytes;
      to_host(from, bytes);
      to_device(to, bytes);
    }
  }

  /// What passes after it.
  cluster_traffic& operator+=(const cluster_traffic& other) {
    const auto add = [](auto& to, const auto& from) {
      std::transform(to.begin(), to.end(), from.begin(), to.begin(), std::plus<>{});
    };
    add(read_, other.read_);
    add(copied_, other.copied_);
    add(work_, other.work_);
    add(nic_out_, other.nic_out_);
    add(nic_in_, other.nic_in_);
    add(nvlink_out_, other.nvlink_out_);
    add(nvlink_in_, other.nvlink_in_);
    add(pcie_out_, other.pcie_out_);
    add(pcie_in_, other.pcie_in_);
    add(sent_, other.sent_);
    in_node_ += other.in_node_;
    return *this;
  }

  /// Bytes, and the seconds of the busiest node or rank.
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
  /// Seconds in which bytes go from rank to rank, over the busiest of the links that they take.
  [[nodiscard]] double seconds_of_sends() const {
    const double nic = static_cast<double>(std::max(most(nic_out_), most(nic_in_)));
    const auto over = [](std::uint64_t bytes, std::optional<double> bandwidth) {
      return bandwidth ? static_cast<double>(bytes) / *bandwidth : 0;
    };
    return std::max({nic == 0 ? 0 : nic / on_.nic_bandwidth, over(most(nvlink_out_), on_.nvlink_bandwidth),
                     over(most(nvlink_in_), on_.nvlink_bandwidth), over(most(sent_), on_.pcie_bandwidth)});
  }
  /// Seconds in which the memory of a node copies what it has not just read.
  [[nodiscard]] double seconds_of_other_copies() const {
    std::uint64_t bytes = 0;
    for (std::size_t node = 0; node < copied_.size(); ++node) {
      bytes = std::max(bytes, copied_[node] - read_[node]);
    }
    return on_.measured ? 0 : static_cast<double>(bytes) / on_.host_copy_bandwidth;
  }

 private:
  using counts = std::vector<std::uint64_t>;
  struct host_work {
    std::uint64_t read = 0;
    std::uint64_t copied = 0;
    std::uint64_t touched = 0;
    friend host_work operator+(const host_work& a, const host_work& b) noexcept {
      return {.read = a.read + b.read, .copied = a.copied + b.copied, .touched = a.touched + b.touched};
    }
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
  counts sent_;                                         // of `pcie_out_`: to other ranks
  std::uint64_t in_node_ = 0;
};

}  // namespace detail

}  // namespace fsdpinit
