#include "name_patterns.hpp"
#include <fsdpinit/core/error.hpp>
#include <fsdpinit/core/text.hpp>
#include <fsdpinit/sources/renamed.hpp>

#include <fmt/format.h>

#include <cstddef>
#include <optional>
#include <regex>
#include <string>
#include <string_view>
#include <utility>
#include <variant>

namespace fsdpinit::tool {
namespace {

/// The standard library's matcher calls itself for each character.
constexpr std::size_t longest = 1000;

/// A regular expression, or what is wrong with it.
std::variant<std::regex, std::string> compile(const std::string& expression) {
  if (expression.empty() || expression.size() > longest) {
    return fmt::format("a regular expression has 1 to {} characters, not {}", longest, expression.size());
  }
  try {
    return std::regex(expression, std::regex::ECMAScript | std::regex::optimize);
  } catch (const std::regex_error& wrong) {
    return fmt::format("\"{}\" is no regular expression: {}", printable(expression), wrong.what());
  }
}

std::string matchable(std::string_view name) {
  if (name.size() > longest) {
    throw error(errc::invalid_argument, name,
                concat("is too long for a regular expression, which takes names of up to ", longest,
                       " characters; rename by a prefix"));
  }
  return std::string(name);
}

/// The three parts of s/REGEX/REPLACEMENT/FLAGS; `\/` becomes a slash.
struct substitution {
  std::string expression;
  std::string replacement;
  std::string flags;
};
std::optional<substitution> split(std::string_view text) {
  substitution out;
  std::string* part = &out.expression;
  for (std::size_t i = 2; i < text.size(); ++i) {
    if (text[i] == '\\' && i + 1 < text.size() && part != &out.flags) {
      *part += text[i + 1] == '/' ? std::string("/") : std::string(text.substr(i, 2));
      ++i;
    } else if (text[i] != '/') {
      *part += text[i];
    } else if (part == &out.flags) {
      return std::nullopt;
    } else {
      part = part == &out.expression ? &out.replacement : &out.flags;
    }
  }
  return part == &out.flags ? std::optional(std::move(out)) : std::nullopt;
}

}  // namespace

parsed<std::string(std::string_view)> parse_rename(const std::string& text) {
  if (text.starts_with("s/")) {
    std::optional<substitution> parts = split(text);
    if (!parts || (parts->flags != "g" && !parts->flags.empty())) {
      return {.call = {}, .fault = fmt::format("\"{}\" is not s/REGEX/REPLACEMENT/, or that and a g", printable(text))};
    }
    std::variant<std::regex, std::string> compiled = compile(parts->expression);
    if (std::string* const fault = std::get_if<std::string>(&compiled)) {
      return {.call = {}, .fault = std::move(*fault)};
    }
    const auto flags =
        parts->flags.empty() ? std::regex_constants::format_first_only : std::regex_constants::format_default;
    return {.call = [expression = std::get<std::regex>(std::move(compiled)), to = std::move(parts->replacement), flags](
                        std::string_view name) { return std::regex_replace(matchable(name), expression, to, flags); }};
  }
  const std::size_t equals = text.find('=');
  if (equals == std::string::npos || text.find('=', equals + 1) != std::string::npos) {
    return {.call = {}, .fault = fmt::format("\"{}\" is neither FROM=TO nor s/REGEX/REPLACEMENT/", printable(text))};
  }
  return {.call = replaced_prefix{.from = text.substr(0, equals), .to = text.substr(equals + 1)}};
}

parsed<bool(std::string_view)> parse_pattern(const std::string& text) {
  std::variant<std::regex, std::string> compiled = compile(text);
  if (std::string* const fault = std::get_if<std::string>(&compiled)) {
    return {.call = {}, .fault = std::move(*fault)};
  }
  return {.call = [expression = std::get<std::regex>(std::move(compiled))](std::string_view name) {
    return std::regex_search(matchable(name), expression);
  }};
}

}  // namespace fsdpinit::tool
