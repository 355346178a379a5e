#pragma once

#include <fsdpinit/concepts/optimizer.hpp>
#include <fsdpinit/concepts/shardable_module.hpp>

#include <concepts>
#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

namespace fsdpinit {

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

/// Binds an optimizer's parameter to a slot, both of types that are known where it is made; nullptr where the optimizer has no `rebind` for
/// the slot's type.
using rebinder = void (*)(void* optimizer, std::size_t group, std::string_view fqn, void* slot) noexcept;

namespace detail {

using rebinder_visitor = void (*)(void* context, std::string_view fqn, const void* slot, rebinder rebind);

/// Visits slots, of which it tells how an optimizer is bound to them.
template <class Optimizer>
struct rebinder_visit {
  void* context;
  rebinder_visitor visit;

  template <class Slot>
  void operator()(std::string_view fqn, Slot& slot) const {
    if constexpr (require_rebind<Optimizer, Slot>()) {
      visit(context, fqn, std::addressof(slot),
            [](void* optimizer, std::size_t group, std::string_view name, void* bound) noexcept {
              static_cast<Optimizer*>(optimizer)->rebind(group, name, *static_cast<Slot*>(bound));
            });
    } else {
      visit(context, fqn, std::addressof(slot), nullptr);
    }
  }
};

}  // namespace detail

/// An optimizer beside the module that it was made for, both of any type: refers to them. By default none.
class optimizer_of_module {
 public:
  optimizer_of_module() = default;
  /// An optimizer with which the compiler finds nothing wrong, or it says which clause is not met.
  template <ShardableModule Module, class Optimizer>
  optimizer_of_module(Module& module, Optimizer&& optimizer) noexcept : module_(std::addressof(module)) {
    using given = std::remove_reference_t<Optimizer>;
    if constexpr (detail::require_optimizer<given>()) {
      optimizer_.emplace(optimizer);
      visit_ = [](void* of, void* context, detail::rebinder_visitor visit) {
        module_traits<Module>::visit_slots(*static_cast<Module*>(of), detail::rebinder_visit<given>{context, visit});
      };
    }
  }

  /// Nothing where there is none, as of the other members.
  [[nodiscard]] const std::optional<optimizer_ref>& optimizer() const noexcept { return optimizer_; }
  /// Where the module is.
  [[nodiscard]] const void* module() const noexcept { return module_; }

  /// Calls `fn(fqn, address of the slot, its rebinder)` for each slot, in the module's order. \throws what the module and `fn` throw
  template <class Fn>
  void for_each_slot(Fn&& fn) const {
    visit_(module_, std::addressof(fn), [](void* context, std::string_view fqn, const void* slot, rebinder rebind) {
      (*static_cast<std::remove_reference_t<Fn>*>(context))(fqn, slot, rebind);
    });
  }

 private:
  std::optional<optimizer_ref> optimizer_;
  void* module_ = nullptr;
  void (*visit_)(void* module, void* context, detail::rebinder_visitor visit) = nullptr;
};

}  // namespace fsdpinit
