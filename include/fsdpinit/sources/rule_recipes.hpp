#pragma once

#include <fsdpinit/core/dtype.hpp>
#include <fsdpinit/core/element_values.hpp>
#include <fsdpinit/core/error.hpp>
#include <fsdpinit/core/shape.hpp>
#include <fsdpinit/core/tensor_descriptor.hpp>
#include <fsdpinit/core/text.hpp>
#include <fsdpinit/index/accounting.hpp>
#include <fsdpinit/index/operations.hpp>
#include <fsdpinit/index/rearrange.hpp>
#include <fsdpinit/index/recipe.hpp>
#include <fsdpinit/sources/compiled_rules.hpp>
#include <fsdpinit/sources/resolution.hpp>
#include <fsdpinit/sources/rules.hpp>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <variant>
#include <vector>

/// \file
/// From resolved rules to recipes, and whether these use what is stored as the rules say.

namespace fsdpinit::detail {

/// The recipe of one made tensor: a walk through its rule's node, in the order of `stored` and `counts`.
class recipe_maker {
 public:
  recipe_maker(const rules::made_tensor& made, std::span<const tensor_descriptor> stored)
      : tensor_(made.stored.data()), count_(made.counts.data()), stored_(stored) {}

  [[nodiscard]] index_map::recipe of(const rules::node& node) {
    return std::visit([&](const auto& does) { return of(does, node.parts); }, node.does);
  }

 private:
  using nodes = std::vector<rules::node>;
  using recipe = index_map::recipe;

  [[nodiscard]] recipe of(const rules::named& /*does*/, const nodes& /*parts*/) {
    const std::size_t tensor = *tensor_++;
    return index_map::stored_tensor(tensor, stored_[tensor].dtype, stored_[tensor].shape);
  }
  [[nodiscard]] recipe of(const rules::concatenated& does, const nodes& parts) {
    std::vector<recipe> made;
    for (const rules::node& part : parts) {
      made.push_back(of(part));
    }
    return index_map::concat(made, does.dim);
  }
  [[nodiscard]] recipe of(const rules::stacked& does, const nodes& parts) {
    std::vector<recipe> made;
    for (std::size_t left = *count_++; left != 0; --left) {
      made.push_back(of(parts.front()));
    }
    return index_map::stack(made, does.dim);
  }
  [[nodiscard]] recipe of(const rules::sliced& does, const nodes& parts) {
    return index_map::slice(of(parts.front()), does.dim, does.begin, does.end);
  }
  [[nodiscard]] recipe of(const rules::chunked& does, const nodes& parts) {
    return index_map::chunk(of(parts.front()), does.dim, does.of, does.index);
  }
  [[nodiscard]] recipe of(const rules::permuted& does, const nodes& parts) {
    return index_map::permute(of(parts.front()), std::vector<std::size_t>(does.dims.begin(), does.dims.end()));
  }
  [[nodiscard]] recipe of(const rules::rearranged& does, const nodes& parts) {
    std::vector<index_map::axis_size> sizes;
    for (const auto& [axis, size] : does.sizes) {
      sizes.push_back({axis, size});
    }
    return index_map::rearrange(of(parts.front()), does.pattern, sizes);
  }
  [[nodiscard]] recipe of(const rules::padded& does, const nodes& parts) {
    const recipe part = of(parts.front());
    const std::uint64_t filler = element(does.value, part.type);
    const auto* const multiple = std::get_if<rules::multiple_of>(&does.to);
    return multiple != nullptr ? index_map::pad_to_multiple(part, does.dim, multiple->value, filler)
                               : index_map::pad(part, does.dim, std::get<std::uint64_t>(does.to), filler);
  }
  [[nodiscard]] recipe of(const rules::converted_to& does, const nodes& parts) {
    return index_map::cast(of(parts.front()), does.dtype);
  }

  [[nodiscard]] std::uint64_t element(double value, dtype type) const {
    if (value == 0 && bits(type) < 8) {
      return 0;  // of all formats of less than a byte
    }
    const std::optional<std::uint64_t> found = element_of(value, type);
    const double infinity = std::copysign(std::numeric_limits<double>::infinity(), value);
    if (!found || (std::isfinite(value) && found == element_of(infinity, type))) {
      throw error(errc::invalid_argument, {},
                  concat("pad: ", std::to_string(value), " is no element of ", name(type), "; give one that it holds"));
    }
    return *found & (~std::uint64_t{0} >> (64 - bits(type)));  // of negative integers the sign is in all 64 bits
  }

  const std::size_t* tensor_;
  const std::size_t* count_;
  std::span<const tensor_descriptor> stored_;
};

/// `"a" BF16 [8, 4]`
[[nodiscard]] inline std::string described(const tensor_descriptor& tensor) {
  return concat("\"", printable(tensor.name), "\" ", name(tensor.dtype), " ", to_string(tensor.shape));
}

}  // namespace fsdpinit::detail

namespace fsdpinit::rules {

/// How each of `found.made` is made: a recipe numbers tensors as `stored` does.
/// \param found what `resolve(rules, stored)` returned
/// \throws error{invalid_argument} naming file, rule, what is made, and the stored tensors with their types and shapes, where these do
/// not fit what the rule does with them.
[[nodiscard]] inline std::vector<index_map::recipe> recipes_of(const rule_set& rules, const resolution& found,
                                                               std::span<const tensor_descriptor> stored) {
  std::vector<index_map::recipe> out;
  out.reserve(found.made.size());
  for (const made_tensor& made : found.made) {
    try {
      out.push_back(detail::recipe_maker(made, stored).of(*rules.rules[made.rule].from));
    } catch (const error& wrong) {
      detail::listed_names names;
      for (const std::size_t tensor : made.stored) {
        names.add_shown(detail::described(stored[tensor]));
      }
      std::string text = "\"";
      append_to(text, printable(made.name), "\" cannot be made of ", names.text(), ": ", wrong.text());
      detail::fail_rule(rules, made.rule, text);
    }
  }
  return out;
}

/// Is every element of the stored tensors that `recipes` use used once? Rules that share may use it more often, and what a rule drops
/// need not be used.
/// \throws error{invalid_argument} naming file, rules and stored tensor, and the box of it that is left over or used twice.
inline void check_uses(const rule_set& rules, const resolution& found, std::span<const tensor_descriptor> stored,
                       std::span<const index_map::recipe> recipes) {
  const std::vector<index_map::use> all = index_map::uses_of(recipes);
  std::vector<bool> is_checked(stored.size());
  for (const made_tensor& made : found.made) {
    for (const std::size_t tensor : made.stored) {
      if (is_checked[tensor]) {
        continue;
      }
      is_checked[tensor] = true;
      const std::span<const index_map::use> uses = index_map::uses_of(all, tensor);
      const auto rule_of = [&](std::size_t use) { return found.made[uses[use].recipe].rule; };
      const auto allows = [&](const std::optional<std::pair<std::size_t, std::size_t>>& twice) {
        return twice ? rules.rules[rule_of(twice->first)].shares && rules.rules[rule_of(twice->second)].shares
                     : bool{found.may_leave[tensor]};
      };
      const auto misuse = index_map::misuse_of(stored[tensor].shape, uses, allows);
      if (!misuse) {
        continue;
      }
      std::string text = index_map::to_string(misuse->where);
      append_to(text, " of ", detail::described(stored[tensor]), " is used ");
      if (!misuse->twice) {
        append_to(text, "by nothing; use it, or drop what is left with a rule that drops that name");
        detail::fail_rule(rules, made.rule, text);
      }
      const auto [first, second] = *misuse->twice;
      append_to(text, "twice, for \"", printable(found.made[uses[first].recipe].name), "\" and for \"",
                printable(found.made[uses[second].recipe].name), "\" of ", detail::rule_text(rules, rule_of(second)),
                "; use it once, or let each of these rules share");
      detail::fail_rule(rules, rule_of(first), text);
    }
  }
}

}  // namespace fsdpinit::rules
