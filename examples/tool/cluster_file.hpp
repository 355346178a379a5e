#pragma once

#include <fsdpinit/cost/cluster_cost.hpp>

#include <string>

namespace fsdpinit::tool {

/// A cluster's figures from JSON: an object of numbers, in bytes per second and seconds, named as in examples/clusters/.
/// \throws error{io, invalid_file} naming the file, the field and the remedy.
[[nodiscard]] cluster read_cluster(const std::string& path);

}  // namespace fsdpinit::tool
