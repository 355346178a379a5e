#pragma once

#include <fsdpinit/concepts/optimizer.hpp>
#include <fsdpinit/concepts/shardable_module.hpp>
#include <fsdpinit/core/error.hpp>
#include <fsdpinit/core/text.hpp>
#include <fsdpinit/init/module_view.hpp>

#include <concepts>
#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
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

/// An optimizer of any type: a pointer to it, and a table of what it can be asked. For as long as the optimizer lives.
class optimizer_ref {
 public:
  template <ShardableOptimizer Optimizer>
    requires(!std::is_const_v<Optimizer> && !std::same_as<Optimizer, optimizer_ref>)
  optimizer_ref(Optimizer& optimizer) noexcept  // NOLINT(google-explicit-constructor): stands for its reference
      : optimizer_(std::addressof(optimizer)), table_(&table_of<Optimizer>) {}

  [[nodiscard]] std::vector<std::vector<std::string>> parameter_groups() const {
    return table_->parameter_groups(optimizer_);
  }
  [[nodiscard]] bool has_state() const { return table_->has_state(optimizer_); }
  void drop_references() const noexcept { table_->drop_references(optimizer_); }
  /// Where the optimizer is, for whoever knows its type.
  [[nodiscard]] void* address() const noexcept { return optimizer_; }

 private:
  struct table {
    std::vector<std::vector<std::string>> (*parameter_groups)(const void*);
    bool (*has_state)(const void*);
    void (*drop_references)(void*) noexcept;
  };
  template <class O>
  static constexpr table table_of{
      .parameter_groups = [](const void* optimizer) -> std::vector<std::vector<std::string>> {
        return static_cast<const O*>(optimizer)->parameter_groups();
      },
      .has_state = [](const void* optimizer) -> bool { return static_cast<const O*>(optimizer)->has_state(); },
      .drop_references = [](void* optimizer) noexcept { static_cast<O*>(optimizer)->drop_references(); }};

  void* optimizer_;
  const table* table_;
};

namespace detail {

[[nodiscard]] inline std::vector<optimizer_entry> entries_of(const module_view& view,
                                                             const std::vector<std::vector<std::string>>& groups);

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

namespace detail {

inline std::vector<optimizer_entry> entries_of(const module_view& view,
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

/// Binds an optimizer's parameter to a slot, both of types that are known where it is made; nullptr where the optimizer has no `rebind` for
/// the slot's type.
using rebinder = void (*)(void* optimizer, std::size_t group, std::string_view fqn, void* slot) noexcept;

/// An optimizer and the slots it is to be bound to, found while something may still fail.
struct optimizer_binding {
  struct bound {
    std::size_t group = 0;
    std::string fqn{};
    void* slot = nullptr;
    rebinder rebind = nullptr;
  };
  optimizer_ref optimizer;
  std::vector<bound> parameters{};
};

namespace detail {

template <class Optimizer, class Slot>
[[nodiscard]] constexpr rebinder rebinder_of() noexcept {
  if constexpr (require_rebind<Optimizer, Slot>()) {
    return [](void* optimizer, std::size_t group, std::string_view fqn, void* slot) noexcept {
      static_cast<Optimizer*>(optimizer)->rebind(group, fqn, *static_cast<Slot*>(slot));
    };
  } else {
    return nullptr;
  }
}

/// For each slot of the view. \throws error{invalid_argument} where the module visits other slots than before; what the module throws
template <class Module, class Optimizer>
[[nodiscard]] std::vector<rebinder> rebinders_of(Module& module, const module_view& view) {
  std::vector<rebinder> rebinders;
  rebinders.reserve(view.slots.size());
  std::size_t ignored = 0;  // the view has none of those
  module_traits<Module>::visit_slots(module, [&]<class Slot>(std::string_view fqn, Slot& slot) {
    const std::size_t index = rebinders.size();
    if (ignored < view.ignored.size() && view.ignored[ignored] == fqn) {
      ++ignored;
      return;
    }
    if (index >= view.slots.size() || view.slots[index].handle.address() != static_cast<void*>(&slot)) {
      throw error(errc::invalid_argument, fqn,
                  "the module visits other slots than before; it must not change meanwhile");
    }
    rebinders.push_back(rebinder_of<Optimizer, Slot>());
  });
  return rebinders;
}

}  // namespace detail

/// An optimizer beside the module that it was made for, both of any type.
class optimizer_of_module {
 public:
  template <ShardableModule Module, ShardableOptimizer Optimizer>
  optimizer_of_module(Module& module, Optimizer& optimizer) noexcept
      : optimizer_(optimizer),
        module_(std::addressof(module)),
        rebinders_([]([[maybe_unused]] void* of, const module_view& view) {
          if constexpr (std::is_same_v<Optimizer, no_optimizer>) {  // a visit less to compile
            return std::vector<rebinder>(view.slots.size());
          } else {
            return detail::rebinders_of<Module, Optimizer>(*static_cast<Module*>(of), view);
          }
        }) {}

  [[nodiscard]] optimizer_ref optimizer() const noexcept { return optimizer_; }

  /// Visits the module once more, for the types of its slots; not where there is nothing to bind. The optimizer and the slots
  /// stay where they are until the binding is done with.
  /// \param entries  what `check_optimizer` returned for the same view.
  /// \throws error{invalid_argument} for a parameter in a slot of a type that the optimizer has no `rebind` for; what the module
  /// throws.
  [[nodiscard]] optimizer_binding bind(const module_view& view, const std::vector<optimizer_entry>& entries) const {
    optimizer_binding binding{.optimizer = optimizer_};
    if (entries.empty()) {
      return binding;
    }
    const std::vector<rebinder> rebinders = rebinders_(module_, view);
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

 private:
  optimizer_ref optimizer_;
  void* module_;
  std::vector<rebinder> (*rebinders_)(void*, const module_view&);
};

/// \see optimizer_of_module::bind
template <ShardableModule Module, ShardableOptimizer Optimizer>
[[nodiscard]] optimizer_binding bind_optimizer(Module& module, const module_view& view,
                                               const std::vector<optimizer_entry>& entries, Optimizer& optimizer) {
  return optimizer_of_module(module, optimizer).bind(view, entries);
}

/// Before the module is dropped to meta. Where the initialisation fails later, the optimizer stays as it is then: it refers to
/// nothing, and a second attempt binds it.
inline void drop_references(const optimizer_binding& binding) noexcept { binding.optimizer.drop_references(); }

/// At the commit, after the slots have adopted their shards.
inline void rebind(const optimizer_binding& binding) noexcept {
  for (const optimizer_binding::bound& parameter : binding.parameters) {
    parameter.rebind(binding.optimizer.address(), parameter.group, parameter.fqn, parameter.slot);
  }
}

}  // namespace fsdpinit
