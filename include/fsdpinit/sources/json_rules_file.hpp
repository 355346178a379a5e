#pragma once

#include <fsdpinit/core/error.hpp>
#include <fsdpinit/core/text.hpp>
#include <fsdpinit/os/file.hpp>
#include <fsdpinit/sources/json_rules.hpp>
#include <fsdpinit/sources/rules.hpp>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <utility>

namespace fsdpinit {

/// The rules in the file `path`. \throws error naming it: {io} where it cannot be read, {invalid_file} for one that is no regular file
/// or has more than 64 MiB, and as `parse_rules` does.
[[nodiscard]] inline rules::rule_set read_rules(std::string path) {
  constexpr std::uint64_t most_bytes = std::uint64_t{64} << 20U;
  const input_file file(std::move(path));
  if (file.size() > most_bytes) {
    throw error(errc::invalid_file, file.path(),
                concat("has ", file.size(), " bytes, a map may have ", most_bytes, "; give a file of rules"));
  }
  std::string text(static_cast<std::size_t>(file.size()), '\0');
  file.read_exact_at(0, std::as_writable_bytes(std::span(text)));
  file.check_unchanged();
  return parse_rules(file.path(), text);
}

}  // namespace fsdpinit
