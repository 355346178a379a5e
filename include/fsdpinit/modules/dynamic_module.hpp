#pragma once

#include <fsdpinit/core/error.hpp>
#include <fsdpinit/modules/parameter.hpp>

#include <deque>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace fsdpinit {

/// A module known only at run time: a flat list of FQNs and their slots, in the order they were added.
class dynamic_module {
 public:
  /// \throws error{invalid_argument} if the name is taken. The reference stays valid as slots are added.
  parameter& add_parameter(std::string fqn, dtype type, shape extents, placement how = shard{0}) {
    return std::get<parameter>(add(std::move(fqn), parameter(type, std::move(extents), how)));
  }
  buffer& add_buffer(std::string fqn, dtype type, shape extents, bool persistent = true) {
    return std::get<buffer>(add(std::move(fqn), buffer(type, std::move(extents), persistent)));
  }
  /// Declares that these names mean one tensor.
  void tie(std::vector<std::string> fqns) { ties_.push_back(std::move(fqns)); }

  /// \throws error{invalid_argument} if there is no parameter of that name.
  [[nodiscard]] parameter& get_parameter(std::string_view fqn) { return get<parameter>(fqn, "parameter"); }
  [[nodiscard]] buffer& get_buffer(std::string_view fqn) { return get<buffer>(fqn, "buffer"); }

  template <class Visitor>
  void visit_slots(Visitor&& visitor) {
    for (entry& each : entries_) {
      std::visit([&](auto& slot) { visitor(std::string_view(each.fqn), slot); }, each.slot);
    }
  }
  [[nodiscard]] const std::vector<std::vector<std::string>>& tie_groups() const noexcept { return ties_; }

 private:
  using slot_variant = std::variant<parameter, buffer>;
  struct entry {
    std::string fqn;
    slot_variant slot;
  };

  slot_variant& add(std::string fqn, slot_variant slot) {
    if (by_name_.contains(fqn)) {
      throw error(errc::invalid_argument, fqn, "the module has this name already; names must be unique");
    }
    entry& made = entries_.emplace_back(std::move(fqn), std::move(slot));
    by_name_.emplace(made.fqn, &made.slot);
    return made.slot;
  }

  template <class Slot>
  Slot& get(std::string_view fqn, std::string_view what) {
    const auto at = by_name_.find(fqn);
    if (at == by_name_.end() || !std::holds_alternative<Slot>(*at->second)) {
      throw error(errc::invalid_argument, fqn, concat("the module has no ", what, " of this name"));
    }
    return std::get<Slot>(*at->second);
  }

  std::deque<entry> entries_;  // a deque, so that slots stay where they are
  std::map<std::string_view, slot_variant*> by_name_;
  std::vector<std::vector<std::string>> ties_;
};

}  // namespace fsdpinit
