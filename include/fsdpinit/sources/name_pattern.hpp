#pragma once

#include <fsdpinit/core/error.hpp>
#include <fsdpinit/core/name_order.hpp>
#include <fsdpinit/core/tensor_descriptor.hpp>
#include <fsdpinit/core/text.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

/// \file
/// Names with variables, and which of many names they match.

namespace fsdpinit::detail {

/// A variable of a rule, which several patterns share.
struct pattern_variable {
  std::string name;
  bool many = false;    ///< `{p...}`: one or more parts of a name; else one
  bool number = false;  ///< matches decimal numbers without leading zeros only

  [[nodiscard]] std::string text() const { return concat("{", name, many ? "..." : "", "}"); }
};

/// The value of each variable: part of a name. Null where it has none yet.
using pattern_values = std::vector<std::string_view>;

[[nodiscard]] inline bool is_plain_number(std::string_view text) noexcept {
  const auto is_digit = [](char c) { return c >= '0' && c <= '9'; };
  return !text.empty() && std::all_of(text.begin(), text.end(), is_digit) && (text.size() == 1 || text[0] != '0');
}

/// May a variable be called so? Letters, digits, underscores.
[[nodiscard]] inline bool is_variable_name(std::string_view name) noexcept {
  const auto is_word = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
  };
  return !name.empty() && std::all_of(name.begin(), name.end(), is_word);
}

class name_pattern {
 public:
  /// Adds the variables in it to `variables`. \throws error{invalid_argument} for a brace that is no variable's, and for a variable that
  /// is both one part and several.
  name_pattern(std::string_view text, std::vector<pattern_variable>& variables) : text_(text) {
    if (text.empty()) {
      fail("a name is empty; give that of a tensor");
    }
    for (std::size_t at = 0; at <= text.size();) {
      const std::string_view here = text.substr(at, text.find('.', at) - at);
      // The dots of `{p...}` part nothing.
      const std::string_view one = here.starts_with('{') ? text.substr(at, text.find('}', at) - at + 1) : here;
      const std::string_view whole = one.size() > here.size() && one.ends_with("...}")
                                         ? text.substr(at, text.find('.', at + one.size()) - at)
                                         : here;
      at += whole.size() + 1;
      if (whole.find_first_of("{}") == std::string_view::npos) {
        parts_.push_back({std::string(whole), no_variable});
      } else {
        parts_.push_back({std::string(), variable_of(whole, variables)});
      }
    }
    if (parts_.size() > most_parts) {
      fail(concat("\"", printable(text), "\" has ", parts_.size(), " parts between dots; up to ", most_parts,
                  " are allowed"));
    }
  }

  [[nodiscard]] const std::string& text() const noexcept { return text_; }
  [[nodiscard]] bool has(std::size_t variable) const noexcept {
    return std::any_of(parts_.begin(), parts_.end(), [&](const part& each) { return each.variable == variable; });
  }
  [[nodiscard]] bool is_bound(const pattern_values& values) const noexcept {
    return std::all_of(parts_.begin(), parts_.end(), [&](const part& each) { return known(each, values).data(); });
  }

  /// With the values in place of the variables that have one.
  [[nodiscard]] std::string with(const pattern_values& values, std::span<const pattern_variable> variables) const {
    std::string out;
    for (const part& each : parts_) {
      const std::string_view value = known(each, values);
      append_to(out, &each == parts_.data() ? "" : ".",
                value.data() != nullptr ? value : std::string_view(variables[each.variable].text()));
    }
    return out;
  }

  /// What all names that it matches begin with.
  [[nodiscard]] std::string beginning(const pattern_values& values) const {
    std::string out;
    for (const part& each : parts_) {
      const std::string_view value = known(each, values);
      if (value.data() == nullptr) {
        break;
      }
      append_to(out, value, &each == &parts_.back() ? "" : ".");
    }
    return out;
  }
  /// What all names that it matches end with.
  [[nodiscard]] std::string ending(const pattern_values& values) const {
    std::string out;
    for (std::size_t i = parts_.size(); i-- != 0;) {
      const std::string_view value = known(parts_[i], values);
      if (value.data() == nullptr) {
        break;
      }
      out = concat(i == 0 ? "" : ".", value, out);
    }
    return out;
  }

  /// Calls `fn()` for each way in which it matches `name`, with those values in `values`, which keeps what it has.
  /// \param steps how many more may be taken. \throws error{invalid_argument} where they do not suffice.
  template <class Fn>
  void match(std::string_view name, pattern_values& values, std::span<const pattern_variable> variables,
             std::uint64_t& steps, Fn&& fn) const {
    match_from(0, 0, name, values, variables, steps, fn);
  }

 private:
  struct part {
    std::string text;
    std::size_t variable;
  };
  static constexpr std::size_t no_variable = ~std::size_t{0};
  static constexpr std::size_t most_parts = 256;  // and most variables of a rule: each is a level of recursion

  [[noreturn]] static void fail(std::string_view text) { throw error(errc::invalid_argument, {}, text); }

  [[nodiscard]] static std::string_view known(const part& each, const pattern_values& values) noexcept {
    return each.variable == no_variable ? std::string_view(each.text) : values[each.variable];
  }

  [[nodiscard]] std::size_t variable_of(std::string_view braced, std::vector<pattern_variable>& variables) const {
    std::string_view name = braced;
    const bool is_braced = name.size() > 2 && name.front() == '{' && name.back() == '}';
    name = is_braced ? name.substr(1, name.size() - 2) : std::string_view();
    const bool many = name.ends_with("...");
    name.remove_suffix(many ? 3 : 0);
    if (!is_variable_name(name)) {
      fail(concat("\"", printable(text_), "\": \"", printable(braced),
                  "\" is no variable; a variable is all that stands between two dots, {i} or {p...}"));
    }
    for (std::size_t i = 0; i < variables.size(); ++i) {
      if (variables[i].name == name) {
        if (variables[i].many != many) {
          fail(concat("{", name, "} and {", name, "...} are in one rule; rename one of them"));
        }
        return i;
      }
    }
    if (variables.size() == most_parts) {
      fail(concat("there are more than ", most_parts, " variables in one rule; make several rules of it"));
    }
    variables.push_back({.name = std::string(name), .many = many});
    return variables.size() - 1;
  }

  template <class Fn>
  void match_from(std::size_t i, std::size_t at, std::string_view name, pattern_values& values,
                  std::span<const pattern_variable> variables, std::uint64_t& steps, Fn& fn) const {
    if (i == parts_.size() || at > name.size()) {  // a name is through where the dot behind its last part would be
      if (i == parts_.size() && at > name.size()) {
        fn();
      }
      return;
    }
    const part& here = parts_[i];
    const bool many = here.variable != no_variable && variables[here.variable].many;
    for (std::size_t end = at; end <= name.size(); ++end) {
      if (steps-- == 0) {
        steps = 0;
        fail("its names match the checkpoint's in too many ways; use fewer variables, {i} in place of {p...}");
      }
      end = std::min(name.find('.', end), name.size());
      const std::string_view value = name.substr(at, end - at);
      const std::string_view wanted = known(here, values);
      if (wanted.data() != nullptr) {
        if (value == wanted) {
          match_from(i + 1, end + 1, name, values, variables, steps, fn);
        }
      } else if (!variables[here.variable].number || is_plain_number(value)) {
        values[here.variable] = value;
        match_from(i + 1, end + 1, name, values, variables, steps, fn);
        values[here.variable] = {};
      }
      if (!many) {
        break;
      }
    }
  }

  std::string text_;
  std::vector<part> parts_;
};

/// The names of a checkpoint, found by what they begin or end with.
class stored_names {
 public:
  /// n log n. The names are referred to.
  explicit stored_names(std::span<const tensor_descriptor> tensors)
      : forwards_(
            in_name_order(tensors, [](const tensor_descriptor& tensor) -> const std::string& { return tensor.name; })),
        backwards_(forwards_) {
    std::sort(backwards_.begin(), backwards_.end(),
              [](const indexed_name& a, const indexed_name& b) { return is_before_backwards(a.name, b.name); });
  }

  [[nodiscard]] std::size_t size() const noexcept { return forwards_.size(); }

  [[nodiscard]] std::optional<std::size_t> find(std::string_view name) const noexcept {
    const auto at = std::partition_point(forwards_.begin(), forwards_.end(),
                                         [&](const indexed_name& each) { return each.name < name; });
    return at != forwards_.end() && at->name == name ? std::optional(at->index) : std::nullopt;
  }

  /// Those with that beginning or those with that ending, whichever are fewer. log n.
  [[nodiscard]] std::span<const indexed_name> with(std::string_view beginning, std::string_view ending) const noexcept {
    const auto range = [](const std::vector<indexed_name>& all, auto is_before, auto is_in) {
      const auto first = std::partition_point(all.begin(), all.end(), is_before);
      return std::span<const indexed_name>(first, std::partition_point(first, all.end(), is_in));
    };
    const auto begins = range(
        forwards_, [&](const indexed_name& each) { return each.name < beginning; },
        [&](const indexed_name& each) { return each.name.starts_with(beginning); });
    const auto ends = range(
        backwards_, [&](const indexed_name& each) { return is_before_backwards(each.name, ending); },
        [&](const indexed_name& each) { return each.name.ends_with(ending); });
    return begins.size() < ends.size() ? begins : ends;
  }

 private:
  [[nodiscard]] static bool is_before_backwards(std::string_view a, std::string_view b) noexcept {
    return std::lexicographical_compare(a.rbegin(), a.rend(), b.rbegin(), b.rend());
  }

  std::vector<indexed_name> forwards_;
  std::vector<indexed_name> backwards_;
};

/// Calls `fn(tensor)` for each way in which the pattern matches a stored name, with those values in `values`.
/// \throws as name_pattern::match does
template <class Fn>
void for_each_match(const name_pattern& pattern, const stored_names& names, pattern_values& values,
                    std::span<const pattern_variable> variables, std::uint64_t& steps, Fn&& fn) {
  if (pattern.is_bound(values)) {
    if (const auto tensor = names.find(pattern.with(values, variables))) {
      fn(*tensor);
    }
    return;
  }
  for (const indexed_name& each : names.with(pattern.beginning(values), pattern.ending(values))) {
    pattern.match(each.name, values, variables, steps, [&] { fn(each.index); });
  }
}

}  // namespace fsdpinit::detail
