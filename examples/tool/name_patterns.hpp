#pragma once

#include <functional>
#include <string>
#include <string_view>

namespace fsdpinit::tool {

/// What `--rename` and `--keep-dtype` are given, ready to be asked. Safe to call from several threads at once.
template <class Call>
struct parsed {
  std::function<Call> call;  ///< empty where there is a fault
  std::string fault{};       ///< one line
};

/// FROM=TO: names that begin with FROM begin with TO instead. s/REGEX/REPLACEMENT/, as sed has it: what matches first becomes the
/// replacement, with a `g` behind it all that matches; ECMAScript's syntax, `$1` and `$&` included; a slash is written `\/`.
///
/// Asking \throws error{invalid_argument} for names so long that matching them could exhaust the stack.
[[nodiscard]] parsed<std::string(std::string_view)> parse_rename(const std::string& text);

/// A regular expression that names are searched for; \throws as the other does.
[[nodiscard]] parsed<bool(std::string_view)> parse_pattern(const std::string& text);

}  // namespace fsdpinit::tool
