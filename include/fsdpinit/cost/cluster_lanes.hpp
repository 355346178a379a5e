#pragma once

#include <fsdpinit/cost/cluster.hpp>
#include <fsdpinit/cost/cluster_traffic.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

/// \file
/// The links, disks and memories of a cluster, each of which does one thing after the other.

namespace fsdpinit::detail {

/// Work is done in the order in which it is asked for, each piece at full bandwidth.
struct lane {
  double free = 0;  ///< when all that was asked for is done
  double busy = 0;  ///< seconds

  /// \return when it begins: not before `ready`.
  double take(double ready, double seconds) noexcept {
    const double begin = ready < free ? free : ready;
    free = begin + seconds;
    busy += seconds;
    return begin;
  }
};

/// When the first and the last byte of something are at a place.
struct passage {
  double first = 0;
  double last = 0;
  const lane* shared = nullptr;  ///< the memory in which the ranks of a node have passed it on

  /// Goes over a lane, from `ready` on: what arrives is passed on at once, so that it leaves as late as the slower of the two.
  void over(lane& which, double ready, double seconds) noexcept {
    const double begin = which.take(ready, seconds);
    first = first < begin ? begin : first;
    last = last < begin + seconds ? begin + seconds : last;
  }
  /// The same over a lane that it crosses from rank to rank, again and again: these hops share it piece by piece, so that the first
  /// byte does not wait for the last one of the hop before.
  void again_over(lane& which, double ready, double seconds) noexcept {
    if (std::exchange(shared, &which) != &which) {
      over(which, ready, seconds);
      return;
    }
    const double end = which.take(ready, seconds) + seconds;
    first = first < ready ? ready : first;
    last = last < end ? end : last;
  }
};

/// Every lane of a cluster, and the bytes that have been over them. Seconds that are asked for never go down where a bandwidth does.
class cluster_lanes {
 public:
  explicit cluster_lanes(const cluster& on)
      : on_(on),
        storage_(on.nodes),
        copies_(on.nodes),
        nic_out_(on.nodes),
        nic_in_(on.nodes),
        nvlink_out_(on.ranks()),
        nvlink_in_(on.ranks()),
        pcie_out_(on.ranks()),
        pcie_in_(on.ranks()),
        node_of_(on.ranks()) {
    for (std::size_t rank = 0; rank < on.ranks(); ++rank) {
      node_of_[rank] = on.node_of(rank);
    }
  }

  [[nodiscard]] std::size_t node_of(std::size_t rank) const noexcept { return node_of_[rank]; }

  lane& storage(std::size_t node) noexcept { return storage_[node]; }
  lane& total_storage() noexcept { return total_storage_; }
  lane& copies(std::size_t node) noexcept { return copies_[node]; }

  [[nodiscard]] double storage_seconds(std::uint64_t bytes) const noexcept {
    return at(on_.storage_bandwidth_per_node, bytes);
  }
  [[nodiscard]] double total_storage_seconds(std::uint64_t bytes) const noexcept {
    return at(on_.storage_bandwidth, bytes);
  }
  [[nodiscard]] double copy_seconds(std::uint64_t bytes) const noexcept { return at(on_.host_copy_bandwidth, bytes); }

  void has_read(std::uint64_t bytes) noexcept { storage_bytes_ += bytes; }

  /// From host memory to the device. \return when it is there.
  double to_device(std::size_t rank, double ready, std::uint64_t bytes) noexcept {
    passage through{.first = ready, .last = ready};
    pcie(through, pcie_in_[rank], ready, bytes);
    return through.last;
  }
  double to_host(std::size_t rank, double ready, std::uint64_t bytes) noexcept {
    passage through{.first = ready, .last = ready};
    pcie(through, pcie_out_[rank], ready, bytes);
    return through.last;
  }
  /// From host memory into the slabs.
  double place(std::size_t rank, double ready, std::uint64_t bytes) noexcept {
    if (on_.pcie_bandwidth) {
      return to_device(rank, ready, bytes);
    }
    return copies_[node_of_[rank]].take(ready, copy_seconds(bytes)) + copy_seconds(bytes);
  }

  /// From one rank to another, which is ready for it from `posted` on. \param at_sender when the bytes are there, or arrive.
  /// \return when they arrive. O(1).
  passage send(std::size_t from, std::size_t to, const passage& at_sender, double posted,
               std::uint64_t bytes) noexcept {
    const std::size_t sender = node_of_[from];
    const std::size_t receiver = node_of_[to];
    passage out = at_sender;
    if (sender == receiver && on_.nvlink_bandwidth) {
      in_node_bytes_ += bytes;
      const double seconds = at(on_.nvlink_bandwidth, bytes);
      out.over(nvlink_out_[from], at_sender.first, seconds);
      out.over(nvlink_in_[to], std::max(out.first, posted), seconds);
      return out;
    }
    if (on_.pcie_bandwidth) {
      pcie(out, pcie_out_[from], out.first, bytes);
    }
    if (sender == receiver) {
      in_node_bytes_ += bytes;
      out.again_over(copies_[sender], std::max(out.first, posted), copy_seconds(bytes));
    } else {
      nic_bytes_ += bytes;
      const double seconds = at(on_.nic_bandwidth, bytes);
      out.over(nic_out_[sender], out.first, seconds);
      out.first += on_.nic_latency;
      out.last += on_.nic_latency;
      out.over(nic_in_[receiver], std::max(out.first, posted), seconds);
    }
    if (on_.pcie_bandwidth) {
      pcie(out, pcie_in_[to], std::max(out.first, posted), bytes);
    }
    return out;
  }

  /// Bytes, and the seconds of the busiest node or rank.
  template <class Cost>
  void add_to(Cost& out) const {
    const auto set = [&](cluster_resource which, const std::vector<lane>& lanes) {
      for (const lane& each : lanes) {
        double& most = out.busy[static_cast<std::size_t>(which)];
        most = std::max(most, each.busy);
      }
    };
    out.storage_bytes = storage_bytes_;
    out.nic_bytes = nic_bytes_;
    out.in_node_bytes = in_node_bytes_;
    out.pcie_bytes = pcie_bytes_;
    set(cluster_resource::node_storage, storage_);
    set(cluster_resource::total_storage, {total_storage_});
    set(cluster_resource::host_copy, copies_);
    set(cluster_resource::pcie, pcie_out_);
    set(cluster_resource::pcie, pcie_in_);
    set(cluster_resource::nvlink, nvlink_out_);
    set(cluster_resource::nvlink, nvlink_in_);
    set(cluster_resource::nic_out, nic_out_);
    set(cluster_resource::nic_in, nic_in_);
  }

 private:
  static double at(const std::optional<double>& bandwidth, std::uint64_t bytes) noexcept {
    return bandwidth && bytes != 0 ? static_cast<double>(bytes) / *bandwidth : 0;
  }
  void pcie(passage& through, lane& which, double ready, std::uint64_t bytes) noexcept {
    if (on_.pcie_bandwidth) {
      pcie_bytes_ += bytes;
      through.over(which, ready, at(on_.pcie_bandwidth, bytes));
    }
  }

  const cluster& on_;
  lane total_storage_;
  std::vector<lane> storage_, copies_, nic_out_, nic_in_;          // by node
  std::vector<lane> nvlink_out_, nvlink_in_, pcie_out_, pcie_in_;  // by rank
  std::vector<std::size_t> node_of_;
  std::uint64_t storage_bytes_ = 0;
  std::uint64_t nic_bytes_ = 0;
  std::uint64_t in_node_bytes_ = 0;
  std::uint64_t pcie_bytes_ = 0;
};

}  // namespace fsdpinit::detail
