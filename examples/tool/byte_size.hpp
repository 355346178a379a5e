#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

namespace fsdpinit::tool {

/// `65536`, `64K`, `4MiB`, `16M` (powers of 1024), `4MB` (powers of 1000), upper or lower case; nothing for anything
/// else, and where it overflows.
[[nodiscard]] std::optional<std::uint64_t> parse_byte_size(std::string_view text);

}  // namespace fsdpinit::tool
