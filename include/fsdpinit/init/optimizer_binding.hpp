#pragma once

#include <fsdpinit/concepts/optimizer.hpp>
#include <fsdpinit/core/error.hpp>
#include <fsdpinit/core/text.hpp>
#include <fsdpinit/modules/module_view.hpp>

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

/// \file
/// An optimizer's way through an initialisation: checked before anything has changed, without references while the module
/// is on meta, bound to the shards at the commit.

namespace fsdpinit {

/// One tensor that an optimizer updates.
struct optimizer_entry {
  std::size_t group = 0;
  std::size_t slot = 0;  ///< index into module_view::slots, of the name the optimizer has for it
};

namespace detail {

[[nodiscard]] inline std::vector<optimizer_entry> entries_of(const module_view& view,
                                                             const std::vector<std::vector<std::string>>& groups) {
  std::vector<optimizer_entry> entries;
  if (groups.size() == 1 && groups.front().empty()) {
    for (const stored_tensor& tensor : view.tensors) {
      for (const std::size_t slot : view.slots_of(tensor)) {
        if (view.slots[slot].requires_grad) {
          entries.push_back({.group = 0, .slot = slot});
          break;
        }
      }
    }
    return entries;
  }
  constexpr auto none = static_cast<std::size_t>(-1);
  std::vector<std::size_t> entry_of(view.tensors.size(), none);
  for (std::size_t group = 0; group < groups.size(); ++group) {
    if (groups[group].empty()) {
      throw error(
          errc::invalid_argument, "optimizer",
          concat("group ", group, " of ", groups.size(),
                 " names no parameters; of several groups each has to, so that its parameters are found again"));
    }
    for (const std::string& fqn : groups[group]) {
      const slot_record* const slot = view.find(fqn);
      if (slot == nullptr || slot->role != slot_role::parameter) {
        throw error(errc::invalid_argument, fqn,
                    concat("group ", group, " of the optimizer has it, but the module has ",
                           slot == nullptr ? "no parameter of this name" : "a buffer of this name",
                           "; give the optimizer the names of the module's parameters"));
      }
      std::size_t& entry = entry_of[slot->tensor];
      if (entry == none) {
        entry = entries.size();
        entries.push_back({.group = group, .slot = view.index_of(*slot)});
      } else if (entries[entry].group != group) {
        const std::string& other = view.slots[entries[entry].slot].fqn;
        throw error(
            errc::invalid_argument, fqn,
            concat("groups ", entries[entry].group, " and ", group, " of the optimizer both have it",
                   other == fqn ? std::string() : concat(", the first as ", printable(other)), "; leave it in one"));
      }
    }
  }
  return entries;
}

}  // namespace detail

/// Finds the parameters of an optimizer by name, each tensor once: further names of a tied one in the same group count as it.
/// Equal on every rank whose module and groups are. O(n log n).
/// \throws error{invalid_argument}: it has state; a group of several names nothing; a name the module has no parameter of; a
/// tensor in two groups.
template <ShardableOptimizer Optimizer>
[[nodiscard]] std::vector<optimizer_entry> check_optimizer(const module_view& view, const Optimizer& optimizer) {
  const std::vector<std::vector<std::string>> groups = optimizer.parameter_groups();
  if (optimizer.has_state()) {
    throw error(errc::invalid_argument, "optimizer",
                "it already has state, which belongs to parameters that are about to be replaced; create the optimizer "
                "after the initialisation, or clear its state");
  }
  return detail::entries_of(view, groups);
}

/// The entries line by line, for the manifest: ranks whose optimizers differ are found out before anything has changed.
[[nodiscard]] inline std::string manifest_of(const module_view& view, const std::vector<optimizer_entry>& entries) {
  std::string out;
  for (const optimizer_entry& entry : entries) {
    append_to(out, "optimizer group ", entry.group, " ");
    detail::append_escaped(out, view.slots[entry.slot].fqn);
    out += '\n';
  }
  return out;
}

/// An optimizer and the slots it is to be bound to, found while something may still fail.
struct optimizer_binding {
  struct bound {
    std::size_t group = 0;
    std::string fqn{};
    void* slot = nullptr;
    rebinder rebind = nullptr;
  };
  std::optional<optimizer_ref> optimizer{};  ///< nothing: there is none, and nothing is bound
  std::vector<bound> parameters{};
};

namespace detail {

/// For each slot of the view. \throws error{invalid_argument} where the module visits other slots than before; what the module throws
[[nodiscard]] inline std::vector<rebinder> rebinders_of(const optimizer_of_module& optimizer, const module_view& view) {
  std::vector<rebinder> rebinders;
  rebinders.reserve(view.slots.size());
  std::size_t ignored = 0;  // the view has none of those
  optimizer.for_each_slot([&](std::string_view fqn, const void* slot, rebinder rebind) {
    const std::size_t index = rebinders.size();
    if (ignored < view.ignored.size() && view.ignored[ignored] == fqn) {
      ++ignored;
      return;
    }
    if (index >= view.slots.size() || view.slots[index].handle.address() != slot) {
      throw error(errc::invalid_argument, fqn,
                  "the module visits other slots than before; it must not change meanwhile");
    }
    rebinders.push_back(rebind);
  });
  return rebinders;
}

}  // namespace detail

/// Visits the module once more, for the types of its slots; not where there is nothing to bind. The optimizer and the slots stay
/// where they are until the binding is done with.
/// \param entries  what `check_optimizer` returned for the same view.
/// \throws error{invalid_argument} for a parameter in a slot of a type that the optimizer has no `rebind` for; what the module
/// throws.
[[nodiscard]] inline optimizer_binding bind_optimizer(const optimizer_of_module& optimizer, const module_view& view,
                                                      const std::vector<optimizer_entry>& entries) {
  optimizer_binding binding{.optimizer = optimizer.optimizer()};
  if (entries.empty()) {
    return binding;
  }
  const std::vector<rebinder> rebinders = detail::rebinders_of(optimizer, view);
  binding.parameters.reserve(entries.size());
  for (const optimizer_entry& entry : entries) {
    const slot_record& slot = view.slots[entry.slot];
    if (rebinders.at(entry.slot) == nullptr) {
      throw error(
          errc::invalid_argument, slot.fqn,
          "the optimizer cannot be bound to a slot of this type; give it rebind(group, fqn, slot) noexcept for it");
    }
    binding.parameters.push_back(
        {.group = entry.group, .fqn = slot.fqn, .slot = slot.handle.address(), .rebind = rebinders[entry.slot]});
  }
  return binding;
}

/// Before the module is dropped to meta. Where the initialisation fails later, the optimizer stays as it is then: it refers to
/// nothing, and a second attempt binds it.
inline void drop_references(const optimizer_binding& binding) noexcept {
  if (binding.optimizer) {
    binding.optimizer->drop_references();
  }
}

/// At the commit, after the slots have adopted their shards.
inline void rebind(const optimizer_binding& binding) noexcept {
  for (const optimizer_binding::bound& parameter : binding.parameters) {
    parameter.rebind(binding.optimizer->address(), parameter.group, parameter.fqn, parameter.slot);
  }
}

}  // namespace fsdpinit
