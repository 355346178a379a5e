#pragma once

#include <fsdpinit/core/error.hpp>
#include <fsdpinit/core/tensor_descriptor.hpp>
#include <fsdpinit/core/text.hpp>
#include <fsdpinit/sources/compiled_rules.hpp>
#include <fsdpinit/sources/name_pattern.hpp>
#include <fsdpinit/sources/rules.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

/// \file
/// Rules meet a checkpoint: which tensors are made, of which stored ones. Names alone; shapes are looked at later.

namespace fsdpinit::rules {

/// A tensor that a rule makes. `from` of the rule is a tree: `stored` is what its names stand for, and `counts` over how many
/// numbers its stacks go, both in the order in which the tree is walked, a stack's part once for each number.
struct made_tensor {
  std::string name;
  std::size_t rule = 0;
  std::vector<std::size_t> stored{};  ///< indices of stored tensors
  std::vector<std::size_t> counts{};
};

/// What becomes of a checkpoint. A stored tensor is used by what is made, kept under its name, or dropped.
struct resolution {
  std::vector<made_tensor> made{};     ///< rule by rule, those of one rule in the order of their first stored tensors
  std::vector<std::size_t> kept{};     ///< ascending
  std::vector<std::size_t> dropped{};  ///< ascending
  std::vector<bool> may_leave{};       ///< of each stored tensor: a rule drops what no other one uses of it
};

}  // namespace fsdpinit::rules

namespace fsdpinit::detail {

class resolver {
 public:
  resolver(const rules::rule_set& set, std::span<const tensor_descriptor> stored)
      : set_(set), stored_(stored), names_(stored), uses_(stored.size()) {
    out_.may_leave.resize(stored.size());
  }

  [[nodiscard]] rules::resolution resolve() && {
    const std::vector<compiled_rule> all = compiled(set_);
    for (r_ = 0; r_ < all.size(); ++r_) {
      steps_ = most_steps;
      try {
        const bool matches = all[r_].drops() ? drop(all[r_]) : make(all[r_]);
        if (!matches && !all[r_].rule->may_match_nothing) {
          fail(concat("matches nothing: no stored tensor is called \"",
                      printable((all[r_].drops() ? all[r_].name : all[r_].leaves.front()).text()),
                      "\"; correct the name, or make the rule optional"));
        }
      } catch (const error& wrong) {
        fail_rule(set_, r_, wrong.text());
      }
    }
    decide_on_others();
    return std::move(out_);
  }

 private:
  /// What the rules looked at so far do with a stored tensor.
  struct use {
    std::size_t used = none;  // the last rule of which what is made uses it
    std::size_t lost = none;  // the last rule that names it for what another rule has made
    friend bool operator==(const use&, const use&) = default;
  };
  static constexpr std::size_t none = ~std::size_t{0};
  // A fraction of a second. Names of a model take some ten each.
  static constexpr std::uint64_t most_steps = std::uint64_t{1} << 24U;

  [[noreturn]] static void fail(std::string_view text) { throw error(errc::invalid_argument, {}, text); }

  [[nodiscard]] bool drop(const compiled_rule& rule) {
    bool matches = false;
    pattern_values values(rule.variables.size());
    for_each_match(rule.name, names_, values, rule.variables, steps_, [&](std::size_t tensor) {
      matches = true;
      out_.may_leave[tensor] = true;
    });
    return matches;
  }

  [[nodiscard]] bool make(const compiled_rule& rule) {
    const std::size_t before = out_.made.size();
    pattern_values values(rule.variables.size());
    for (std::size_t i = 0; i < values.size(); ++i) {
      values[i] = rule.variables[i].number ? std::string_view("0") : std::string_view();  // where a stack begins
    }
    join(rule, 0, values);
    std::stable_sort(out_.made.begin() + static_cast<std::ptrdiff_t>(before), out_.made.end(),
                     [](const auto& a, const auto& b) { return a.stored.front() < b.stored.front(); });
    return require_whole(rule);
  }

  /// Calls instantiate() with all values of variables that fit `values` and a stored name for each leaf from `i` on. Calls itself once
  /// for each leaf with a variable that has no value yet.
  void join(const compiled_rule& rule, std::size_t i, pattern_values& values) {
    for (; i != rule.leaves.size() && rule.leaves[i].is_bound(values); ++i) {
      if (!names_.find(rule.leaves[i].with(values, rule.variables))) {
        return;
      }
    }
    if (i == rule.leaves.size()) {
      instantiate(rule, values);
      return;
    }
    for_each_match(rule.leaves[i], names_, values, rule.variables, steps_,
                   [&](std::size_t /*tensor*/) { join(rule, i + 1, values); });
  }

  void instantiate(const compiled_rule& rule, pattern_values& values) {
    rules::made_tensor made{.name = rule.name.with(values, rule.variables), .rule = r_};
    listed_names missing;
    std::size_t leaf = 0;
    walk(rule, *rule.rule->from, leaf, values, made, missing);
    const auto [at, is_new] = maker_.emplace(made.name, r_);
    if (at->second != r_) {
      for (const std::size_t tensor : made.stored) {
        uses_[tensor].lost = r_;
      }
      return;
    }
    if (!missing.empty()) {
      fail_partial(made.name, made.stored, missing);
    }
    if (!is_new) {
      const auto first =
          std::find_if(out_.made.begin(), out_.made.end(), [&](const auto& each) { return each.name == made.name; });
      fail(concat("makes \"", printable(made.name), "\" twice, of ", list(first->stored), " and of ", list(made.stored),
                  "; put what differs into the name that is made"));
    }
    for (const std::size_t tensor : made.stored) {
      uses_[tensor].used = r_;
    }
    out_.made.push_back(std::move(made));
  }

  void walk(const compiled_rule& rule, const rules::node& node, std::size_t& leaf, pattern_values& values,
            rules::made_tensor& made, listed_names& missing) const {
    if (std::holds_alternative<rules::named>(node.does)) {
      const std::string name = rule.leaves[leaf++].with(values, rule.variables);
      if (const auto tensor = names_.find(name)) {
        made.stored.push_back(*tensor);
      } else {
        missing.add(name);
      }
      return;
    }
    const auto* const stack = std::get_if<rules::stacked>(&node.does);
    if (stack == nullptr) {
      for (const rules::node& part : node.parts) {
        walk(rule, part, leaf, values, made, missing);
      }
      return;
    }
    const std::size_t over = rule.variable(stack->over);
    const std::size_t place = made.counts.size();
    const std::size_t first_leaf = leaf;
    made.counts.push_back(0);
    std::string number = "0";
    // The first number is looked for even where no name has it, to tell which are missing.
    for (std::size_t i = 0; i == 0 || has_any(rule, over, values); values[over] = number = std::to_string(++i)) {
      leaf = first_leaf;
      walk(rule, node.parts.front(), leaf, values, made, missing);
      made.counts[place] = i + 1;
    }
    values[over] = "0";
  }

  /// Is there a tensor under a name of the rule with this value of `variable`?
  [[nodiscard]] bool has_any(const compiled_rule& rule, std::size_t variable, const pattern_values& values) const {
    return std::any_of(rule.leaves.begin(), rule.leaves.end(), [&](const name_pattern& leaf) {
      return leaf.has(variable) && names_.find(leaf.with(values, rule.variables));
    });
  }

  [[nodiscard]] bool is_made_by_another(const std::string& name) const {
    const auto at = maker_.find(name);
    return at != maker_.end() && at->second != r_;
  }

  /// Whatever a name of the rule matches must be part of something that the rule makes, unless another rule has made that.
  /// \return does any match?
  [[nodiscard]] bool require_whole(const compiled_rule& rule) {
    bool matches = false;
    bool all_whole = true;
    const auto for_each_loose = [&](auto fn) {
      pattern_values values(rule.variables.size());
      for (const name_pattern& leaf : rule.leaves) {
        for_each_match(leaf, names_, values, rule.variables, steps_, [&](std::size_t tensor) {
          matches = true;
          if (uses_[tensor].used != r_ && uses_[tensor].lost != r_) {
            fn(leaf, tensor, values);
          }
        });
      }
    };
    for_each_loose([&](const name_pattern& /*leaf*/, std::size_t tensor, const pattern_values& values) {
      if (rule.name.is_bound(values) && is_made_by_another(rule.name.with(values, rule.variables))) {
        uses_[tensor].lost = r_;
      } else {
        all_whole = false;
      }
    });
    if (!all_whole) {  // unless a name that came later has shown that others have made it
      for_each_loose([&](const name_pattern& leaf, std::size_t tensor, pattern_values values) {
        fail_loose(rule, leaf, tensor, values);
      });
    }
    return matches;
  }

  [[noreturn]] void fail_loose(const compiled_rule& rule, const name_pattern& leaf, std::size_t tensor,
                               pattern_values& values) {
    for (std::size_t i = 0; i < values.size(); ++i) {
      if (!rule.variables[i].number || values[i].data() == nullptr) {
        continue;
      }
      const std::string_view found = values[i];
      std::string number = "0";
      for (std::size_t n = 0; number != found; number = std::to_string(++n)) {
        values[i] = number;
        const std::string name = leaf.with(values, rule.variables);
        if (!names_.find(name)) {
          fail(concat("there is \"", printable(stored_[tensor].name), "\", but no \"", printable(name),
                      "\"; what is stacked over {", rule.variables[i].name,
                      "} has the numbers from 0 on, without a gap"));
        }
      }
      values[i] = found;
    }
    const std::string made = rule.name.with(values, rule.variables);
    std::vector<std::size_t> present;
    listed_names missing;
    for (const name_pattern& other : rule.leaves) {
      const std::size_t before = present.size();
      for_each_match(other, names_, values, rule.variables, steps_,
                     [&](std::size_t match) { present.push_back(match); });
      if (present.size() == before) {
        missing.add(other.with(values, rule.variables));
      }
    }
    fail_partial(made, present, missing);
  }

  [[noreturn]] void fail_partial(std::string_view made, const std::vector<std::size_t>& present,
                                 const listed_names& missing) const {
    fail(concat("for \"", printable(made), "\" there is ", list(present), ", but no ",
                missing.empty() ? std::string("tensor that goes with it") : missing.text(),
                "; complete the checkpoint, or let the rule name fewer tensors"));
  }

  [[nodiscard]] std::string list(const std::vector<std::size_t>& tensors) const {
    listed_names names;
    for (const std::size_t tensor : tensors) {
      names.add(stored_[tensor].name);
    }
    return names.text();
  }

  void decide_on_others() {
    listed_names unnamed;
    for (std::size_t i = 0; i < stored_.size(); ++i) {
      const use& by = uses_[i];
      if (by.used != none) {
        continue;
      }
      if (out_.may_leave[i] || (by.lost == none && set_.others == rules::rest::drop)) {
        out_.dropped.push_back(i);
      } else if (by.lost != none) {
        fail_rule(
            set_, by.lost,
            concat("\"", printable(stored_[i].name),
                   "\" is used by no rule: an earlier one makes what this one would make of it; drop it, or remove one "
                   "of the rules"));
      } else if (set_.others == rules::rest::error) {
        unnamed.add(stored_[i].name);
      } else {
        if (const auto at = maker_.find(stored_[i].name); at != maker_.end()) {
          fail_rule(
              set_, at->second,
              concat("makes \"", printable(stored_[i].name),
                     "\", which is stored, too, and which no rule uses; drop the stored one, or make another name"));
        }
        out_.kept.push_back(i);
      }
    }
    if (!unnamed.empty()) {
      throw error(
          errc::invalid_argument, set_.file,
          concat("no rule names ", unnamed.text(), ", and the rest is an error; add rules, or keep or drop the rest"));
    }
  }

  const rules::rule_set& set_;
  std::span<const tensor_descriptor> stored_;
  stored_names names_;
  std::vector<use> uses_;
  std::map<std::string, std::size_t> maker_;  // the rule that makes a name
  rules::resolution out_;
  std::size_t r_ = 0;
  std::uint64_t steps_ = 0;
};

}  // namespace fsdpinit::detail

namespace fsdpinit::rules {

/// What the rules make of a checkpoint, by its names. Pure.
///
/// Cost: n log n for n stored tensors, and for each name of a rule as many steps as there are tensors that begin or end like it.
/// \throws error{invalid_argument} naming the rule and the stored tensors: a rule that is wrong by itself, that matches nothing, or
/// of which only some names match; a name that one rule makes twice, or that is kept, too; a tensor that only rules name of which others
/// come first, or, with rest::error, that none names.
[[nodiscard]] inline resolution resolve(const rule_set& rules, std::span<const tensor_descriptor> stored) {
  return detail::resolver(rules, stored).resolve();
}

}  // namespace fsdpinit::rules
