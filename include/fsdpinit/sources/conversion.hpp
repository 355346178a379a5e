#pragma once

#include <fsdpinit/core/tensor_descriptor.hpp>
#include <fsdpinit/index/gather.hpp>
#include <fsdpinit/index/recipe.hpp>
#include <fsdpinit/sources/compiled_rules.hpp>
#include <fsdpinit/sources/resolution.hpp>
#include <fsdpinit/sources/rule_recipes.hpp>
#include <fsdpinit/sources/rules.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace fsdpinit::detail {

/// What rules make of a checkpoint, in the order in which it is stored. Types know nothing of the source: compiled once.
class conversion {
 public:
  /// A tensor as it is shown. Where it lies in one stored tensor as it is, in a row, that is read; else it is made.
  struct shown_tensor {
    std::size_t first = 0;      ///< stored tensor; of several, the first
    std::uint64_t element = 0;  ///< of it, with which this one begins
    bool is_made = false;       ///< by `recipe`
    bool needs_tiles = false;
    bool converts = false;
    index_map::recipe recipe{};
    std::string stored_names{};  ///< that a rule makes it of, for reports and errors; of what no rule names, empty
    /// Of what a rule makes: stored tensors of which it is the first to show what casts below have made infinite.
    std::vector<std::size_t> counted{};

    /// Under its name, as no rule names it.
    [[nodiscard]] bool is_kept() const noexcept { return !is_made && stored_names.empty(); }
  };

  /// A tensor to be made, and the stored ones that it is made of.
  struct named_recipe {
    std::string name;
    index_map::recipe recipe;
    std::vector<std::size_t> stored;
  };

  /// \throws error{invalid_argument} as resolve(), recipes_of() and check_uses() do.
  conversion(const rules::rule_set& rules, std::span<const tensor_descriptor> stored) {
    rules::resolution found = rules::resolve(rules, stored);
    std::vector<index_map::recipe> recipes = rules::recipes_of(rules, found, stored);
    rules::check_uses(rules, found, stored, recipes);
    std::vector<named_recipe> made;
    made.reserve(recipes.size());
    for (std::size_t i = 0; i < recipes.size(); ++i) {
      made.push_back({std::move(found.made[i].name), std::move(recipes[i]), std::move(found.made[i].stored)});
    }
    show(std::move(made), found.kept, stored);
  }
  /// As it stands: what is stored may be used several times, and left out.
  conversion(std::vector<named_recipe> made, std::span<const std::size_t> kept,
             std::span<const tensor_descriptor> stored) {
    show(std::move(made), kept, stored);
  }

  std::vector<tensor_descriptor> descriptors{};
  std::vector<shown_tensor> shown{};

 private:
  void show(std::vector<named_recipe> made, std::span<const std::size_t> kept,
            std::span<const tensor_descriptor> stored) {
    struct numbered {
      std::size_t first;
      named_recipe* made;  // none: it is kept
    };
    std::vector<numbered> order;
    order.reserve(kept.size() + made.size());
    for (const std::size_t tensor : kept) {
      order.push_back({tensor, nullptr});
    }
    for (named_recipe& each : made) {
      const auto first = std::min_element(each.stored.begin(), each.stored.end());
      order.push_back({first == each.stored.end() ? 0 : *first, &each});
    }
    std::stable_sort(order.begin(), order.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
    std::vector<bool> is_counted(stored.size());
    descriptors.reserve(order.size());
    shown.reserve(order.size());
    for (const numbered& each : order) {
      if (each.made == nullptr) {
        descriptors.push_back(stored[each.first]);
        shown.push_back({.first = each.first});
        continue;
      }
      add(std::move(*each.made), each.first, stored);
      for (const std::size_t tensor : each.made->stored) {
        if (!is_counted[tensor]) {
          is_counted[tensor] = true;
          shown.back().counted.push_back(tensor);
        }
      }
    }
  }

  void add(named_recipe&& made, std::size_t first, std::span<const tensor_descriptor> stored) {
    index_map::recipe& recipe = made.recipe;
    descriptors.push_back({.name = std::move(made.name), .dtype = recipe.type, .shape = recipe.extents});
    listed_names names;
    for (const std::size_t tensor : made.stored) {
      names.add(stored[tensor].name);
    }
    shown_tensor out{.first = first, .stored_names = names.text()};
    const index_map::piece* const piece =
        recipe.pieces.size() == 1 && recipe.fills.empty() ? &recipe.pieces[0] : nullptr;
    const bool is_row = piece != nullptr && piece->stored == recipe.type &&
                        piece->map.to_span() == piece->map.from_span() &&
                        (piece->map.rank == 0 || (piece->map.rank == 1 && piece->map.has_runs()));
    if (is_row) {
      out.first = piece->tensor;
      out.element = piece->map.from;
    } else {
      out.is_made = true;
      out.needs_tiles = index_map::needs_tiles(recipe);
      out.converts = std::any_of(recipe.pieces.begin(), recipe.pieces.end(),
                                 [&](const index_map::piece& each) { return each.stored != recipe.type; });
      out.recipe = std::move(recipe);
    }
    shown.push_back(std::move(out));
  }
};

}  // namespace fsdpinit::detail
