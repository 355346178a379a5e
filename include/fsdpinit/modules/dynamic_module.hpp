#pragma once

#include <fsdpinit/core/error.hpp>
#include <fsdpinit/modules/parameter.hpp>

#include <cstddef>
#include <map>
#include <memory>
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
    for (const std::unique_ptr<entry>& each : entries_) {
      if (parameter* const slot = std::get_if<parameter>(&each->slot)) {
        visitor(std::string_view(each->fqn), *slot);
      } else {
        visitor(std::string_view(each->fqn), *std::get_if<buffer>(&each->slot));
      }
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
    entries_.push_back(std::make_unique<entry>(entry{std::move(fqn), std::move(slot)}));
    by_name_.emplace(entries_.back()->fqn, entries_.size() - 1);
    return entries_.back()->slot;
  }

  template <class Slot>
  Slot& get(std::string_view fqn, std::string_view what) {
    const auto at = by_name_.find(fqn);
    Slot* const slot = at == by_name_.end() ? nullptr : std::get_if<Slot>(&entries_[at->second]->slot);
    if (slot == nullptr) {
      throw error(errc::invalid_argument, fqn, concat("the module has no ", what, " of this name"));
    }
    return *slot;
  }

  std::vector<std::unique_ptr<entry>> entries_;  // slots stay where they are as others are added
  std::map<std::string_view, std::size_t> by_name_;
  std::vector<std::vector<std::string>> ties_;
};

}  // namespace fsdpinit
