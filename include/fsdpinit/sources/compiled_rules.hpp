#pragma once

#include <fsdpinit/core/error.hpp>
#include <fsdpinit/core/text.hpp>
#include <fsdpinit/sources/name_pattern.hpp>
#include <fsdpinit/sources/rules.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

/// \file
/// Rules with their names taken apart, and what can be wrong with a rule whatever the checkpoint.

namespace fsdpinit::detail {

/// A rule, its variables, and the names in it.
class compiled_rule {
 public:
  /// Refers to the rule. \throws error{invalid_argument} for names that are no patterns, variables that have no value or two, and
  /// numbers that no shape fits.
  explicit compiled_rule(const rules::rule& from) : rule(&from), name(from.name, variables) {
    const std::size_t made = variables.size();
    if (!from.from) {
      return;
    }
    add(*from.from);
    for (std::size_t i = 0; i < variables.size(); ++i) {
      if (variables[i].number && i < made) {
        fail(
            concat(variables[i].text(), " is stacked over and in the name that is made; only one of them is possible"));
      }
      if (i < made &&
          std::none_of(leaves.begin(), leaves.end(), [&](const name_pattern& leaf) { return leaf.has(i); })) {
        fail(concat(variables[i].text(), " of the name that is made is in none of the names that it is made from"));
      }
    }
  }

  [[nodiscard]] bool drops() const noexcept { return !rule->from; }
  /// \pre there is one of that name
  [[nodiscard]] std::size_t variable(std::string_view called) const noexcept {
    const auto is_it = [&](const pattern_variable& each) { return each.name == called; };
    return static_cast<std::size_t>(std::find_if(variables.begin(), variables.end(), is_it) - variables.begin());
  }

  const rules::rule* rule;
  std::vector<pattern_variable> variables{};  // declared before the patterns, which add theirs
  name_pattern name;
  std::vector<name_pattern> leaves{};  ///< the stored names, from left to right

 private:
  [[noreturn]] static void fail(std::string_view text) { throw error(errc::invalid_argument, {}, text); }

  void add(const rules::node& node) {
    const bool is_name = std::holds_alternative<rules::named>(node.does);
    const bool has_many = std::holds_alternative<rules::concatenated>(node.does);
    if (has_many && node.parts.empty()) {
      fail("concat has no parts; give at least one");
    }
    if (!has_many && node.parts.size() != (is_name ? 0U : 1U)) {
      fail(concat("a node has ", node.parts.size(), " parts; only concat takes several"));
    }
    std::visit([this](const auto& does) { check(does); }, node.does);
    const auto* const stack = std::get_if<rules::stacked>(&node.does);
    const std::size_t before = leaves.size();
    if (stack != nullptr) {
      if (std::find(stacked_.begin(), stacked_.end(), stack->over) != stacked_.end()) {
        fail(concat("a stack over {", stack->over, "} is part of another one; give them different variables"));
      }
      stacked_.push_back(stack->over);
    }
    if (is_name) {
      add_leaf(std::get<rules::named>(node.does).name);
    }
    for (const rules::node& part : node.parts) {
      add(part);
    }
    if (stack != nullptr) {
      const std::size_t over = variable(stack->over);
      if (std::none_of(leaves.begin() + static_cast<std::ptrdiff_t>(before), leaves.end(),
                       [&](const name_pattern& leaf) { return leaf.has(over); })) {
        fail(concat("{", stack->over, "} is stacked over, but is in none of the names that are stacked"));
      }
      stacked_.pop_back();
    }
  }

  void add_leaf(const std::string& text) {
    const name_pattern& leaf = leaves.emplace_back(text, variables);
    for (std::size_t i = 0; i < variables.size(); ++i) {
      pattern_variable& each = variables[i];
      if (!leaf.has(i)) {
        continue;
      }
      const bool is_stacked = std::find(stacked_.begin(), stacked_.end(), each.name) != stacked_.end();
      const bool is_new =
          std::none_of(leaves.begin(), leaves.end() - 1, [&](const name_pattern& b) { return b.has(i); });
      if (is_stacked && each.many) {
        fail(concat(each.text(), " is stacked over, but may be several parts of a name; write {", each.name, "}"));
      }
      if (!is_new && each.number != is_stacked) {
        fail(concat(each.text(), " is stacked over in one place and not in another; give them different variables"));
      }
      each.number = is_stacked;
    }
  }

  void check(const rules::named& /*does*/) const {}
  void check(const rules::concatenated& /*does*/) const {}
  void check(const rules::converted_to& /*does*/) const {}
  void check(const rules::rearranged& /*does*/) const {}  // einops' notation is read where shapes are known
  void check(const rules::stacked& does) const {
    if (!is_variable_name(does.over)) {
      fail(
          concat("\"", printable(does.over), "\" cannot be stacked over; give the name of a variable, without braces"));
    }
  }
  void check(const rules::sliced& does) const {
    if (does.begin > does.end) {
      fail(concat("a slice of ", does.begin, " to ", does.end, " ends before it begins; exchange them"));
    }
  }
  void check(const rules::chunked& does) const {
    if (does.index >= does.of) {
      fail(concat("chunk ", does.index, " of ", does.of, " does not exist; they are counted from 0"));
    }
  }
  void check(const rules::permuted& does) const {
    std::vector<bool> has(does.dims.size());
    for (const std::uint64_t dim : does.dims) {
      if (dim >= has.size() || has[dim]) {
        fail(concat("the dims of a permute name ", dim, has.size() > dim ? " twice" : ", which is too large",
                    "; each of 0 to ", has.size() - 1, " is expected once"));
      }
      has[dim] = true;
    }
  }
  void check(const rules::padded& does) const {
    const auto* const multiple = std::get_if<rules::multiple_of>(&does.to);
    if (multiple != nullptr && multiple->value == 0) {
      fail("a multiple of 0 cannot be padded to; 1 or more is expected");
    }
  }

  std::vector<std::string_view> stacked_{};  // around the node that is looked at
};

/// `"a", "b" and 3 more`
class listed_names {
 public:
  void add(std::string_view name) { add_shown(concat("\"", printable(name), "\"")); }
  void add_shown(std::string_view shown) {
    constexpr std::size_t most = 8;
    if (++count_ <= most) {
      append_to(text_, text_.empty() ? "" : ", ", shown);
    } else {
      more_ = concat(" and ", count_ - most, " more");
    }
  }
  [[nodiscard]] bool empty() const noexcept { return count_ == 0; }
  [[nodiscard]] std::string text() const { return text_ + more_; }

 private:
  std::size_t count_ = 0;
  std::string text_;
  std::string more_;
};

/// `rule 3 (make "NAME")`
[[nodiscard]] inline std::string rule_text(const rules::rule_set& set, std::size_t rule) {
  return concat("rule ", rule + 1, set.rules[rule].from ? " (make \"" : " (drop \"", printable(set.rules[rule].name),
                "\")");
}

[[noreturn]] inline void fail_rule(const rules::rule_set& set, std::size_t rule, std::string_view text) {
  throw error(errc::invalid_argument, set.file, concat(rule_text(set, rule), ": ", text));
}

/// Refers to `set`. \throws error{invalid_argument} naming file and rule, as compiled_rule does
[[nodiscard]] inline std::vector<compiled_rule> compiled(const rules::rule_set& set) {
  std::vector<compiled_rule> out;
  out.reserve(set.rules.size());
  for (std::size_t r = 0; r < set.rules.size(); ++r) {
    try {
      out.emplace_back(set.rules[r]);
    } catch (const error& wrong) {
      fail_rule(set, r, wrong.text());
    }
  }
  return out;
}

}  // namespace fsdpinit::detail
