#pragma once

#include <fsdpinit/concepts/module_ref.hpp>
#include <fsdpinit/concepts/slot.hpp>
#include <fsdpinit/concepts/slot_ref.hpp>
#include <fsdpinit/core/error.hpp>
#include <fsdpinit/core/name_order.hpp>
#include <fsdpinit/modules/units.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace fsdpinit {

struct slot_record {
  std::string fqn{};
  slot_role role = slot_role::parameter;
  fsdpinit::dtype dtype = fsdpinit::dtype::f32;
  fsdpinit::shape shape{};
  fsdpinit::placement placement{};
  bool requires_grad = false;
  slot_ref handle;
  const void* identity = nullptr;  ///< the same for slots that are one tensor
  std::size_t tensor = 0;          ///< index into module_view::tensors
};

/// One stored tensor. \see module_view::slots_of
struct stored_tensor {
  std::size_t first = 0;  ///< its slots are [first, last) of module_view::by_tensor
  std::size_t last = 0;
  std::size_t unit = 0;
};

/// A module tree as a list, taken once: whatever of the user's code can throw does so here, before anything has
/// changed.
struct module_view {
  std::vector<slot_record> slots;
  std::vector<stored_tensor> tensors;
  std::vector<std::string> units;
  std::vector<std::string> ignored{};           ///< names that are left alone, in the module's order
  std::vector<std::string> ignored_prefixes{};  ///< and what they lie under, whether or not the module has such names
  std::vector<std::size_t> by_name{};           ///< indices of slots, in the order of their names
  std::vector<std::size_t> by_tensor{};         ///< indices of slots, tensor by tensor

  /// Indices of the slots of a tensor: the one that stands for it, then those that are tied to it.
  [[nodiscard]] std::span<const std::size_t> slots_of(const stored_tensor& tensor) const {
    return std::span(by_tensor).subspan(tensor.first, tensor.last - tensor.first);
  }
  [[nodiscard]] const slot_record& first_slot(const stored_tensor& tensor) const {
    return slots[by_tensor[tensor.first]];
  }
  /// In `by_name`, of the first slot whose name is not before that one. O(log n).
  [[nodiscard]] std::size_t place_of(std::string_view fqn) const {
    const auto at = std::lower_bound(by_name.begin(), by_name.end(), fqn,
                                     [&](std::size_t slot, std::string_view name) { return slots[slot].fqn < name; });
    return static_cast<std::size_t>(at - by_name.begin());
  }
  /// The slot of that name; nullptr where there is none. O(log n).
  [[nodiscard]] const slot_record* find(std::string_view fqn) const {
    const std::size_t at = place_of(fqn);
    return at == by_name.size() || slots[by_name[at]].fqn != fqn ? nullptr : &slots[by_name[at]];
  }
  /// \pre it is one of `slots`.
  [[nodiscard]] std::size_t index_of(const slot_record& slot) const {
    return static_cast<std::size_t>(&slot - slots.data());
  }
};

namespace detail {

/// \throws error{invalid_argument} for the first slot in the module's order whose name another has.
[[nodiscard]] inline std::vector<std::size_t> slots_by_name(const std::vector<slot_record>& slots) {
  const std::vector<indexed_name> ordered =
      in_name_order(slots, [](const slot_record& slot) -> const std::string& { return slot.fqn; });
  std::vector<std::size_t> by_name;
  by_name.reserve(slots.size());
  std::size_t repeated = slots.size();
  for (std::size_t i = 0; i < ordered.size(); ++i) {
    by_name.push_back(ordered[i].index);
    if (i != 0 && ordered[i].name == ordered[i - 1].name) {
      repeated = std::min(repeated, ordered[i].index);
    }
  }
  if (repeated != slots.size()) {
    throw error(errc::invalid_argument, slots[repeated].fqn,
                "the module visits two slots of this name; names must be unique");
  }
  return by_name;
}

/// In errors.
[[nodiscard]] inline std::string unit_text(std::string_view unit) {
  return unit.empty() ? std::string("the root unit") : concat("unit ", printable(unit));
}

/// Merges the groups: afterwards `leader[i]` is the first slot of the tensor that slot i belongs to.
[[nodiscard]] inline std::vector<std::size_t> leaders_of(const module_view& view,
                                                         const std::vector<std::vector<std::string>>& ties) {
  std::vector<std::size_t> leader(view.slots.size());
  for (std::size_t i = 0; i < leader.size(); ++i) {
    leader[i] = i;
  }
  const auto find = [&](std::size_t i) {
    while (leader[i] != i) {
      i = leader[i];
    }
    return i;
  };
  for (const std::vector<std::string>& group : ties) {
    const slot_record* first = nullptr;
    for (const std::string& fqn : group) {
      const slot_record* const tied = view.find(fqn);
      if (tied == nullptr || tied->role != slot_role::parameter) {
        throw error(errc::invalid_tie, fqn, "it is declared tied, but the module has no parameter of this name");
      }
      const slot_record& slot = *tied;
      first = first == nullptr ? &slot : first;
      if (slot.dtype != first->dtype || slot.shape != first->shape || slot.placement != first->placement) {
        throw error(
            errc::invalid_tie, fqn,
            concat("it is tied to ", printable(first->fqn), ", but is ", name(slot.dtype), " ", to_string(slot.shape),
                   " ", to_string(slot.placement), " where that is ", name(first->dtype), " ", to_string(first->shape),
                   " ", to_string(first->placement), "; tied names must agree in dtype, shape and placement"));
      }
      const std::size_t a = find(view.index_of(*first));
      const std::size_t b = find(view.index_of(slot));
      leader[a < b ? b : a] = a < b ? a : b;
    }
  }
  for (std::size_t i = 0; i < leader.size(); ++i) {
    leader[i] = find(i);
  }
  return leader;
}

/// Frameworks tie by identity, here ties are declared: a parameter that is visited under two names without one would be stored twice, and
/// the two would drift apart in training. Buffers need none, each is whole on every rank; nor do tensors over one storage, which is
/// let go: it may be a placeholder that many share.
/// \throws error{invalid_tie} for the first slot in the module's order that is a tensor visited before, without being tied to that.
inline void require_ties_declared(const std::vector<slot_record>& slots, const std::vector<std::size_t>& leader) {
  std::vector<std::pair<std::uintptr_t, std::size_t>> by_identity;  // with indices of slots
  by_identity.reserve(slots.size());
  for (std::size_t i = 0; i < slots.size(); ++i) {
    if (slots[i].role == slot_role::parameter) {
      by_identity.emplace_back(reinterpret_cast<std::uintptr_t>(slots[i].identity), i);
    }
  }
  std::sort(by_identity.begin(), by_identity.end());
  std::size_t untied = slots.size();
  std::size_t to = 0;
  for (std::size_t k = 1; k < by_identity.size(); ++k) {
    const std::size_t before = by_identity[k - 1].second;
    const std::size_t slot = by_identity[k].second;
    if (by_identity[k - 1].first == by_identity[k].first && leader[before] != leader[slot] && slot < untied) {
      untied = slot;
      to = before;
    }
  }
  if (untied != slots.size()) {
    throw error(errc::invalid_tie, slots[untied].fqn,
                concat("it is the same tensor as ", printable(slots[to].fqn),
                       ", but the two are not declared tied, and would be stored twice; name both in one group of the "
                       "module's tie_groups(), or give each a tensor of its own"));
  }
}

[[nodiscard]] inline bool lies_under_any(std::string_view fqn, std::span<const std::string> prefixes) noexcept {
  for (const std::string_view prefix : prefixes) {
    if (encloses(prefix, fqn)) {
      return true;
    }
  }
  return false;
}

/// Without the groups that are ignored. \throws error{invalid_tie} for one that is in part.
[[nodiscard]] inline std::vector<std::vector<std::string>> ties_kept(std::vector<std::vector<std::string>> ties,
                                                                     std::span<const std::string> ignored_prefixes) {
  std::vector<std::vector<std::string>> kept;
  for (std::vector<std::string>& group : ties) {
    std::size_t ignored = 0;
    for (const std::string& fqn : group) {
      ignored += lies_under_any(fqn, ignored_prefixes) ? 1U : 0U;
    }
    if (ignored != 0 && ignored != group.size()) {
      throw error(errc::invalid_tie, group.front(),
                  "some of the names it is tied under are to be ignored, others not; ignore all of them or none");
    }
    if (ignored == 0) {
      kept.push_back(std::move(group));
    }
  }
  return kept;
}

/// The units asked for by prefix; else those the module names; else the default.
[[nodiscard]] inline unit_assignment units_of(module_ref module, const std::vector<slot_record>& slots,
                                              std::span<const std::string> prefixes) {
  std::vector<std::string_view> fqns;
  fqns.reserve(slots.size());
  for (const slot_record& slot : slots) {
    fqns.push_back(slot.fqn);
  }
  if (!prefixes.empty()) {
    return units_under(fqns, prefixes);
  }
  if (module.names_units()) {
    return units_where(fqns, [&](std::string_view path) { return module.is_unit(path); });
  }
  return default_units(fqns);
}

/// Fills `by_tensor`, each tensor's slots in the module's order. \pre the slots know their tensors.
inline void list_by_tensor(module_view& view) {
  for (const slot_record& slot : view.slots) {
    ++view.tensors[slot.tensor].last;  // a number, until the places are known
  }
  std::size_t place = 0;
  for (stored_tensor& tensor : view.tensors) {
    tensor.first = place;
    place += std::exchange(tensor.last, place);
  }
  view.by_tensor.resize(view.slots.size());
  for (std::size_t i = 0; i < view.slots.size(); ++i) {
    view.by_tensor[view.tensors[view.slots[i].tensor].last++] = i;
  }
}

}  // namespace detail

/// Visits the module once. A tie that spans units belongs to the innermost unit that encloses all its names.
/// \param unit_prefixes `options::unit_prefixes`.
/// \param ignored_prefixes `options::ignored_prefixes`: what lies under them is no slot of the view.
/// \throws error{invalid_argument} for a name visited twice, or a prefix that no name lies under; error{invalid_tie} for
/// ties that do not fit, and for one tensor under names that are not tied; and what the module throws.
[[nodiscard]] inline module_view view_of(module_ref root, std::span<const std::string> unit_prefixes = {},
                                         std::span<const std::string> ignored_prefixes = {}) {
  module_view view;
  view.ignored_prefixes.assign(ignored_prefixes.begin(), ignored_prefixes.end());
  root.for_each_slot([&](std::string_view fqn, slot_ref slot) {
    if (detail::lies_under_any(fqn, ignored_prefixes)) {
      view.ignored.emplace_back(fqn);
      return;
    }
    view.slots.push_back({.fqn = std::string(fqn),
                          .role = slot.role(),
                          .dtype = slot.dtype(),
                          .shape = slot.shape(),
                          .placement = slot.placement(),
                          .requires_grad = slot.requires_grad(),
                          .handle = slot,
                          .identity = slot.identity()});
  });
  view.by_name = detail::slots_by_name(view.slots);
  const std::vector<std::size_t> leader =
      detail::leaders_of(view, detail::ties_kept(root.tie_groups(), ignored_prefixes));
  detail::require_ties_declared(view.slots, leader);
  unit_assignment units = detail::units_of(root, view.slots, unit_prefixes);
  view.tensors.reserve(view.slots.size());
  for (std::size_t i = 0; i < view.slots.size(); ++i) {
    slot_record& slot = view.slots[i];
    if (leader[i] == i) {
      slot.tensor = view.tensors.size();
      view.tensors.push_back({.unit = units.unit_of[i]});
    } else {
      slot.tensor = view.slots[leader[i]].tensor;
      stored_tensor& tensor = view.tensors[slot.tensor];
      tensor.unit = common_unit(units.names, tensor.unit, units.unit_of[i]);
    }
  }
  detail::list_by_tensor(view);
  view.units = std::move(units.names);
  return view;
}

}  // namespace fsdpinit
