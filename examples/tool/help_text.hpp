#pragma once

#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include <cstddef>
#include <set>
#include <string>
#include <string_view>

namespace fsdpinit::tool {

/// Help in 80 columns: an option on the left, what it means on the right, with what it requires and excludes in words.
class help_text : public CLI::Formatter {
 public:
  std::string make_option(const CLI::Option* option, bool is_positional) const override {
    std::string left;
    for (const std::string& each : option->get_snames()) {
      left += "-" + each + ", ";
    }
    left = is_positional ? option->get_name(true) : left + "--" + option->get_lnames().front();
    if (!is_positional && option->get_items_expected_max() != 0) {
      left += " " + option->get_type_name();
    }
    return entry(left, option->get_description() + (option->get_required() ? "; required" : "") +
                           names("; only with ", option->get_needs()) + names("; not with ", option->get_excludes()));
  }
  std::string make_subcommand(const CLI::App* command) const override {
    return entry(command->get_name(), command->get_description());
  }

 private:
  static std::string names(std::string_view begin, const std::set<CLI::Option*>& options) {
    std::string out;
    for (const CLI::Option* each : options) {
      out += fmt::format("{}{}", out.empty() ? begin : ", ", each->get_name());
    }
    return out;
  }
  static std::string entry(const std::string& left, std::string_view right) {
    constexpr std::size_t indent = 26;
    constexpr std::size_t width = 80 - indent;
    std::string out = fmt::format("  {:<{}}", left, indent - 2);
    if (left.size() + 4 > indent) {
      out = fmt::format("  {}\n{:{}}", left, "", indent);
    }
    while (right.size() > width) {
      const std::size_t end = right.rfind(' ', width);
      out += fmt::format("{}\n{:{}}", right.substr(0, end), "", indent);
      right.remove_prefix(end + 1);
    }
    return fmt::format("{}{}\n", out, right);
  }
};

}  // namespace fsdpinit::tool
