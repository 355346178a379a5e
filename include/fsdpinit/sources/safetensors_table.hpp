#pragma once

#include <fsdpinit/core/tensor_descriptor.hpp>
#include <fsdpinit/core/text.hpp>

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace fsdpinit {

/// One tensor of a file. `begin` and `end` are bytes counted from the start of the file.
struct safetensors_entry {
  tensor_descriptor descriptor;
  std::uint64_t begin = 0;
  std::uint64_t end = 0;
};

/// What a header says, after every check. The tensors follow each other without a gap to the end of the file.
struct safetensors_header {
  std::vector<safetensors_entry> tensors;       ///< in the order of their data; of empty ones at one place, as written
  std::map<std::string, std::string> metadata;  ///< `__metadata__`; empty where the file has none
};

/// What the metadata of a file call `format` where it holds the shards of one rank: `fsdpinit load --dump` writes such files. Of how many
/// shards, they say under `shards`; one is the whole.
inline constexpr std::string_view shards_format = "fsdpinit.shards";

namespace detail {

[[nodiscard]] inline std::string tensor_text(std::string_view name) {
  return concat("tensor \"", printable(name), "\"");
}

}  // namespace detail

}  // namespace fsdpinit
