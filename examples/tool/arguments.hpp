#pragma once

#include "commands.hpp"

#include <optional>
#include <string>
#include <variant>

namespace fsdpinit::tool {

using request = std::variant<inspect_request, plan_request, load_request, verify_request, synthesize_request>;

/// What the command line asks for; nothing where that was --help or --version, which is then on stdout. `command` becomes the name
/// of the command as soon as that is known. \throws usage_error for what cannot be meant; what depends on several options
/// together, such as a source rank that is none, the commands find themselves.
[[nodiscard]] std::optional<request> parse_arguments(int count, const char* const* arguments, std::string& command);

}  // namespace fsdpinit::tool
