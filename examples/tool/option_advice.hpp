#pragma once

#include <string>
#include <string_view>

namespace fsdpinit::tool {

/// The library says what to write in C++. \return the options of this tool that do the same, in a line of their own with a line
/// break before it; empty where the text advises nothing that there is an option for.
[[nodiscard]] std::string option_advice(std::string_view text);

}  // namespace fsdpinit::tool
