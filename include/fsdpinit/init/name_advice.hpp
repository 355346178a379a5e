#pragma once

#include <fsdpinit/core/tensor_descriptor.hpp>
#include <fsdpinit/core/text.hpp>
#include <fsdpinit/modules/module_view.hpp>
#include <fsdpinit/sources/renamed.hpp>

#include <algorithm>
#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

/// \file
/// One rule for names that makes a state dict fit a module, if there is one. Looked for only where the two do not fit; near linear in
/// the number of tensors.

namespace fsdpinit {

/// A rule for the names of a state dict under which all or nearly all of them are those of a module.
struct name_advice {
  std::string call{};     ///< what to write: `renamed("module.", "")`
  std::size_t found = 0;  ///< that many tensors of the module are in the state dict under the rule
};

namespace detail {

/// Is it to be in the checkpoint?
[[nodiscard]] inline bool is_stored(const slot_record& slot) noexcept {
  return slot.role != slot_role::non_persistent_buffer;
}

/// How many bytes of whole components two names have in common at their ends.
[[nodiscard]] inline std::size_t common_components(std::string_view a, std::string_view b) noexcept {
  std::size_t common = 0;
  for (std::size_t i = 0; i < a.size() && i < b.size(); ++i) {
    if (a[a.size() - 1 - i] != b[b.size() - 1 - i]) {
      return common;
    }
    if (a[a.size() - 1 - i] == '.') {
      common = i;
    }
  }
  const std::string_view longer = a.size() < b.size() ? b : a;
  const std::size_t all = std::min(a.size(), b.size());
  return longer.size() == all || longer[longer.size() - 1 - all] == '.' ? all : common;
}

/// A few of them, from the first to the last.
[[nodiscard]] inline std::vector<std::size_t> sample_of(std::span<const std::size_t> indices) {
  constexpr std::size_t most = 8;
  std::vector<std::size_t> few;
  for (std::size_t i = 0; i < std::min(indices.size(), most); ++i) {
    few.push_back(indices[i * indices.size() / std::min(indices.size(), most)]);
  }
  return few;
}

/// Looks for one rule that explains most of what is missing. A few names of either side suggest rules; each rule is tried on all.
class name_explainer {
 public:
  /// `missing` are indices into module_view::tensors, `unexpected` into state_dict_contents::tensors.
  name_explainer(const module_view& view, const state_dict_contents& contents, std::span<const std::size_t> missing,
                 std::span<const std::size_t> unexpected)
      : view_(view), contents_(contents), missing_(missing), unexpected_(unexpected) {
    for (const stored_tensor& tensor : view.tensors) {
      wanted_ += is_stored(view.first_slot(tensor)) ? 1U : 0U;
    }
  }

  /// \return nothing where no rule finds nine tenths of what the module wants, or of what the state dict holds.
  [[nodiscard]] std::optional<name_advice> explain() {
    if (missing_.empty() || unexpected_.empty()) {
      return std::nullopt;
    }
    for (const std::size_t i : sample_of(unexpected_)) {
      const std::string& stored = contents_.tensors[i].name;
      try_prefix(stored, closest(stored, missing_, [&](std::size_t t) { return wanted_name(t); }));
      try_components(stored);
    }
    for (const std::size_t t : sample_of(missing_)) {
      const auto name_of = [&](std::size_t i) { return std::string_view(contents_.tensors[i].name); };
      try_prefix(closest(wanted_name(t), unexpected_, name_of), wanted_name(t));
    }
    return best_.found == 0 ? std::nullopt : std::optional(best_);
  }

 private:
  [[nodiscard]] std::string_view wanted_name(std::size_t tensor) const {
    return view_.first_slot(view_.tensors[tensor]).fqn;
  }

  /// The name that has most whole components in common with `name`, from the end.
  template <class NameOf>
  [[nodiscard]] std::string_view closest(std::string_view name, std::span<const std::size_t> among,
                                         const NameOf& name_of) const {
    std::string_view best;
    std::size_t most = 0;
    for (const std::size_t index : among) {
      const std::size_t common = common_components(name, name_of(index));
      if (common > most) {
        most = common;
        best = name_of(index);
      }
    }
    return best;
  }

  void try_prefix(std::string_view stored, std::string_view wanted) {
    const std::size_t common = common_components(stored, wanted);
    replaced_prefix rule{.from = std::string(stored.substr(0, stored.size() - common)),
                         .to = std::string(wanted.substr(0, wanted.size() - common))};
    if (common == 0) {
      return;
    }
    std::string call = concat("renamed(\"", printable(rule.from), "\", \"", printable(rule.to), "\")");
    // Two names that have nothing but their ends in common are no pattern.
    try_rule(rule, std::move(call), rule.from.empty() || rule.to.empty() ? 1 : 2);
  }

  void try_components(std::string_view stored) {
    for (std::string_view rest = stored; !rest.empty();) {
      const std::string_view part = rest.substr(0, rest.find('.'));
      rest.remove_prefix(std::min(rest.size(), part.size() + 1));
      removed_component rule{.component = std::string(part)};
      if (wanting(rule(stored)) != nullptr) {
        std::string call = concat("renamed(removed_component{\"", printable(rule.component), "\"})");
        try_rule(rule, std::move(call), 1);
      }
    }
  }

  [[nodiscard]] const slot_record* wanting(std::string_view name) const {
    const slot_record* const slot = view_.find(name);
    return slot != nullptr && is_stored(*slot) ? slot : nullptr;
  }

  /// Keeps the rule if it finds most so far, at least `least` tensors more than there are now.
  template <class Rule>
  void try_rule(const Rule& rule, std::string call, std::size_t least) {
    if (std::find(tried_.begin(), tried_.end(), call) != tried_.end()) {
      return;
    }
    tried_.push_back(call);
    std::vector<bool> taken(view_.slots.size());
    std::vector<bool> present(view_.tensors.size());
    std::size_t found = 0;
    for (const tensor_descriptor& tensor : contents_.tensors) {
      const slot_record* const slot = wanting(rule(tensor.name));
      if (slot == nullptr) {
        continue;
      }
      if (taken[view_.index_of(*slot)]) {
        return;  // two tensors would get one name
      }
      taken[view_.index_of(*slot)] = true;
      found += present[slot->tensor] ? 0U : 1U;
      present[slot->tensor] = true;
    }
    const auto most_of = [&](std::size_t all) { return 10 * found >= 9 * all; };
    const std::size_t now = wanted_ - missing_.size();
    if (found >= now + least && found > best_.found && (most_of(wanted_) || most_of(contents_.tensors.size()))) {
      best_ = {.call = std::move(call), .found = found};
    }
  }

  const module_view& view_;
  const state_dict_contents& contents_;
  std::span<const std::size_t> missing_;
  std::span<const std::size_t> unexpected_;
  std::size_t wanted_ = 0;  // tensors that are to be in the checkpoint
  std::vector<std::string> tried_;
  name_advice best_;
};

}  // namespace detail

}  // namespace fsdpinit
