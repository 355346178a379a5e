#pragma once

#include "progress.hpp"
#include <fsdpinit/modules/dynamic_module.hpp>

#include <cstddef>
#include <cstdint>
#include <filesystem>

namespace fsdpinit::tool {

/// Which file of a dump.
struct dump_rank {
  std::size_t rank = 0;
  std::size_t shards = 1;
  std::size_t replicas = 1;
};

/// Writes the shards of one rank, straight from where they lie, as `rank-00002-of-00004.safetensors`: tensors in FQN
/// order under their own names with local shapes; what they are part of is in the metadata. `total` is what all ranks
/// write. \throws error naming the file.
void dump_shards(dynamic_module& module, dump_rank which, const std::filesystem::path& folder, progress_display& shown,
                 std::uint64_t total);

}  // namespace fsdpinit::tool
