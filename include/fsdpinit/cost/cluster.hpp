#pragma once

#include <fsdpinit/core/compiler.hpp>

#include <cstddef>
#include <optional>

/// \file
/// A cluster as a few figures: those of a data sheet, or those that `calibrate` has measured.

namespace fsdpinit {

/// Bytes per second, above 0.
struct host_rate {
  double alone = 0;     ///< of one rank, while the others are idle
  double together = 0;  ///< of all ranks of a node at once, in total
};

/// What the ranks of a node were measured at, each by one thread and in host memory.
struct host_rates {
  host_rate read{};      ///< from the checkpoint as it is, cached or not, into memory that is in use
  host_rate copy{};      ///< between memories that are in use
  host_rate touch{};     ///< of fresh memory: the first write to it
  double hand_over = 0;  ///< seconds in which ranks of a node pass a bucket of no bytes on
};

/// Bandwidths in bytes per second, all above 0; latencies in seconds.
struct cluster {
  std::size_t nodes = 1;
  std::size_t ranks_per_node = 1;             ///< a GPU each, where there are GPUs
  double storage_bandwidth_per_node = 0;      ///< at which one node can read
  std::optional<double> storage_bandwidth{};  ///< of all nodes together; nothing: each has its own disk
  double storage_latency = 0;                 ///< of one read
  double host_copy_bandwidth = 0;             ///< of all copies within one node's memory together
  std::optional<double> pcie_bandwidth{};     ///< between the host and each GPU; nothing: shards stay in host memory
  std::optional<double> nvlink_bandwidth{};  ///< of each GPU, to others of its node; nothing: over PCIe and host memory
  double nic_bandwidth = 0;                  ///< of one node; means nothing to a single one
  double nic_latency = 0;                    ///< of one message
  std::optional<host_rates> measured{};      ///< takes the place of `host_copy_bandwidth`; for shards in host memory

  [[nodiscard]] constexpr std::size_t ranks() const noexcept { return nodes * ranks_per_node; }
  [[nodiscard]] constexpr std::size_t node_of(std::size_t rank) const noexcept { return rank / ranks_per_node; }
};

}  // namespace fsdpinit
