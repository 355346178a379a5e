#include "option_advice.hpp"

#include <fmt/format.h>

#include <array>
#include <cstddef>
#include <string>
#include <string_view>

namespace fsdpinit::tool {
namespace {

/// A piece of advice: what stands in front of its arguments, between and behind them, and the option.
struct advice {
  std::string_view begin;
  std::string_view between;  ///< empty: one argument
  std::string_view end;
  fmt::string_view option;
};

constexpr std::array<advice, 4> all_advice{{
    {"renamed(\"", "\", \"", "\")", "--rename '{}={}'"},
    {"renamed({{\"", "\", \"", "\"}})", "--rename '{}={}'"},
    {"renamed(removed_component{\"", "", "\"})", "--rename 's/\\b{}\\.//g'"},
    {"cast(dtype::", "", ")", "--dtype {}"},
}};

std::string option_for(const advice& each, std::string_view text) {
  const std::size_t at = text.find(each.begin);
  if (at == std::string_view::npos) {
    return {};
  }
  text.remove_prefix(at + each.begin.size());
  text = text.substr(0, text.find(each.end));
  if (each.between.empty()) {
    return fmt::format(fmt::runtime(each.option), text);
  }
  const std::size_t comma = text.find(each.between);
  if (comma == std::string_view::npos) {
    return {};
  }
  return fmt::format(fmt::runtime(each.option), text.substr(0, comma), text.substr(comma + each.between.size()));
}

}  // namespace

std::string option_advice(std::string_view text) {
  text = text.substr(0, text.find('\n'));  // what follows are details
  std::string options;
  const auto add = [&](std::string_view option) {
    if (!option.empty()) {
      options += fmt::format("{}{}", options.empty() ? "\n  as options: " : ", ", option);
    }
  };
  for (const advice& each : all_advice) {
    add(option_for(each, text));
  }
  add(text.find("predicate of cast()") != std::string_view::npos ? "--keep-dtype REGEX" : "");
  add(text.find("strict = false") != std::string_view::npos ? "--non-strict" : "");
  return options;
}

}  // namespace fsdpinit::tool
