#pragma once

#include <fsdpinit/core/text.hpp>

#include <string>
#include <string_view>

/// \file
/// The usual differences between the names of a checkpoint and those of a module, as rules for `renamed`.

namespace fsdpinit {

/// Names that begin with `from` begin with `to` instead; others stay.
struct replaced_prefix {
  std::string from;
  std::string to;

  [[nodiscard]] std::string operator()(std::string_view name) const {
    return name.starts_with(from) ? concat(to, name.substr(from.size())) : std::string(name);
  }
};

/// Names without `component`, wherever it stands between dots: what a wrapper has put in mid-path (`_orig_mod`,
/// `_fsdp_wrapped_module`). A name that is nothing else stays.
struct removed_component {
  std::string component;

  [[nodiscard]] std::string operator()(std::string_view name) const {
    std::string out;
    for (std::string_view rest = name;;) {
      const std::size_t dot = rest.find('.');
      const std::string_view part = rest.substr(0, dot);
      if (part != component) {
        append_to(out, out.empty() ? "" : ".", part);
      }
      if (dot == std::string_view::npos) {
        return out.empty() ? std::string(name) : out;
      }
      rest.remove_prefix(dot + 1);
    }
  }
};

}  // namespace fsdpinit
