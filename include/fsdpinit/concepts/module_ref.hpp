#pragma once

#include <fsdpinit/concepts/shardable_module.hpp>
#include <fsdpinit/concepts/slot.hpp>
#include <fsdpinit/concepts/slot_ref.hpp>

#include <concepts>
#include <memory>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

namespace fsdpinit {

/// A module tree of any type: a pointer to its root, and a table of what it can be asked. For as long as the module lives; for the cold
/// path.
class module_ref {
 public:
  template <ShardableModule M>
    requires(!std::same_as<std::remove_const_t<M>, module_ref>)
  module_ref(M& module) noexcept  // NOLINT(google-explicit-constructor): a module stands for its reference
      : module_(const_cast<void*>(static_cast<const void*>(std::addressof(module)))), table_(&table_of<M>) {}

  /// Calls `fn(fqn, slot_ref)` for each slot, in the module's order. \throws what the module and `fn` throw
  template <class Fn>
  void for_each_slot(Fn&& fn) const {
    table_->visit(module_, std::addressof(fn), [](void* context, std::string_view fqn, slot_ref slot) {
      (*static_cast<std::remove_reference_t<Fn>*>(context))(fqn, slot);
    });
  }
  /// Where the module is.
  [[nodiscard]] const void* address() const noexcept { return module_; }
  [[nodiscard]] std::vector<std::vector<std::string>> tie_groups() const { return table_->tie_groups(module_); }
  /// Does it say which of its parts are units?
  [[nodiscard]] bool names_units() const noexcept { return table_->is_unit != nullptr; }
  /// \pre names_units()
  [[nodiscard]] bool is_unit(std::string_view path) const { return table_->is_unit(module_, path); }

 private:
  using visitor = void (*)(void* context, std::string_view fqn, slot_ref slot);
  struct table {
    void (*visit)(void*, void* context, visitor);
    std::vector<std::vector<std::string>> (*tie_groups)(const void*);
    bool (*is_unit)(const void*, std::string_view);  // nullptr for a module that does not say
  };

  template <class M>
  static void visit_of(void* module, void* context, visitor visit) {
    module_traits<M>::visit_slots(*static_cast<M*>(module), [=]<class Slot>(std::string_view fqn, Slot& slot) {
      if constexpr (detail::require_slot<Slot>()) {
        visit(context, fqn, slot_ref(slot));
      }
    });
  }
  template <class M>
  static constexpr auto is_unit_of() noexcept -> bool (*)(const void*, std::string_view) {
    if constexpr (NamesUnits<M>) {
      return [](const void* module, std::string_view path) {
        return fsdpinit::is_unit(*static_cast<const M*>(module), path);
      };
    } else {
      return nullptr;
    }
  }
  template <class M>
  static constexpr table table_of{
      .visit = &visit_of<M>,
      .tie_groups = [](const void* module) { return fsdpinit::tie_groups(*static_cast<const M*>(module)); },
      .is_unit = is_unit_of<M>()};

  void* module_;
  const table* table_;
};

}  // namespace fsdpinit
