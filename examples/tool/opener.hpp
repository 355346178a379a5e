#pragma once

#include "commands.hpp"
#include <fsdpinit/sources/adaptors.hpp>
#include <fsdpinit/sources/safetensors.hpp>

#include <string>
#include <string_view>

namespace fsdpinit::tool {

/// The checkpoint with the names and dtypes that were asked for; opened where it is read.
[[nodiscard]] inline auto opener_of(const sharding_request& how) {
  return checkpoint{how.checkpoint, how.pages} | renamed([renames = how.renames](std::string_view name) {
           std::string out(name);
           for (const auto& [from, to] : renames) {
             out = replaced_prefix{from, to}(out);
           }
           return out;
         }) |
         cast(how.type.value_or(dtype::f32), [casts = how.type.has_value()](std::string_view) { return casts; });
}

}  // namespace fsdpinit::tool
