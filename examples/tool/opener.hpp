#pragma once

#include "commands.hpp"
#include <fsdpinit/core/dtype.hpp>
#include <fsdpinit/core/float_conversion.hpp>
#include <fsdpinit/core/tensor_descriptor.hpp>
#include <fsdpinit/core/text.hpp>
#include <fsdpinit/observe/text_table.hpp>
#include <fsdpinit/sources/adaptors.hpp>
#include <fsdpinit/sources/converted.hpp>
#include <fsdpinit/sources/json_rules_file.hpp>
#include <fsdpinit/sources/pipe.hpp>
#include <fsdpinit/sources/rules.hpp>
#include <fsdpinit/sources/safetensors.hpp>

#include <algorithm>
#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <utility>

namespace fsdpinit::tool {

/// Is the tensor of that name, as it is after renaming and the map, one that --dtype is about?
[[nodiscard]] inline bool is_cast(const sharding_request& how, std::string_view name) {
  return how.type.has_value() &&
         std::none_of(how.kept_dtypes.begin(), how.kept_dtypes.end(), [&](const auto& keeps) { return keeps(name); });
}

/// The rules in the file that --map names; without one, none: they keep everything.
[[nodiscard]] inline rules::rule_set rules_in(const std::string& map) {
  return map.empty() ? rules::rule_set{} : read_rules(map);
}

/// The tensors that they make of a source. The file is read where that is opened.
[[nodiscard]] inline auto mapped(std::string map) {
  return source_adaptor{[map = std::move(map)]<class S>(S&& source) {
    return converted_source<S>(std::forward<S>(source), rules_in(map));
  }};
}

/// The checkpoint with the names, tensors and dtypes that were asked for; opened where it is read.
[[nodiscard]] inline auto opener_of(const sharding_request& how) {
  return checkpoint{how.checkpoint, how.pages} | renamed([renames = how.renames](std::string_view name) {
           std::string out(name);
           for (const auto& rename : renames) {
             out = rename(out);
           }
           return out;
         }) |
         mapped(how.map) |
         cast(how.type.value_or(dtype::f32), [how](std::string_view name) { return is_cast(how, name); });
}

/// A line for the floating tensors that --dtype has left as they are stored; empty where there is none. `tensors` are as they are
/// seen after the cast.
[[nodiscard]] inline std::string left_alone(const sharding_request& how, std::span<const tensor_descriptor> tensors) {
  constexpr std::size_t shown = 5;
  std::size_t count = 0;
  std::string names;
  for (const tensor_descriptor& tensor : tensors) {
    const bool is_float = name(tensor.dtype).starts_with('F') || tensor.dtype == dtype::bf16;
    if (!how.type || !is_float || tensor.dtype == *how.type) {
      continue;
    }
    if (count++ < shown) {
      append_to(names, count == 1 ? "" : ", ", printable(tensor.name), " (", name(tensor.dtype),
                is_cast(how, tensor.name) ? "" : ", kept", ")");
    }
  }
  return count == 0 ? std::string()
                    : concat("not cast to ", name(*how.type), ", ", counted(count, "floating tensor"), ": ", names,
                             count > shown ? ", ...\n" : "\n");
}

}  // namespace fsdpinit::tool
