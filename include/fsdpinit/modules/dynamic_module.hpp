#pragma once

#include <fsdpinit/core/error.hpp>
#include <fsdpinit/modules/parameter.hpp>

#include <cstddef>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace fsdpinit {

/// A module known only at run time: a flat list of FQNs and their slots, in the order they were added.
class dynamic_module {
 public:
  /// \throws error{invalid_argument} if the name is taken. The reference stays valid as slots are added.
  parameter& add_parameter(std::string fqn, dtype type, shape extents, placement how = shard{0}) {
    return add(std::move(fqn)).as_parameter.emplace(type, std::move(extents), how);
  }
  buffer& add_buffer(std::string fqn, dtype type, shape extents, bool persistent = true) {
    return add(std::move(fqn)).as_buffer.emplace(type, std::move(extents), persistent);
  }
  /// Declares that these names mean one tensor.
  void tie(std::vector<std::string> fqns) { ties_.push_back(std::move(fqns)); }

  /// \throws error{invalid_argument} if there is no parameter of that name.
  [[nodiscard]] parameter& get_parameter(std::string_view fqn) { return get(fqn, &entry::as_parameter, "parameter"); }
  [[nodiscard]] buffer& get_buffer(std::string_view fqn) { return get(fqn, &entry::as_buffer, "buffer"); }

  template <class Visitor>
  void visit_slots(Visitor&& visitor) {
    for (const std::unique_ptr<entry>& each : entries_) {
      if (each->as_parameter) {
        visitor(std::string_view(each->fqn), *each->as_parameter);
      } else {
        visitor(std::string_view(each->fqn), *each->as_buffer);
      }
    }
  }
  [[nodiscard]] const std::vector<std::vector<std::string>>& tie_groups() const noexcept { return ties_; }

 private:
  /// One of the two; std::variant would cost every includer more than it saves here.
  struct entry {
    std::string fqn;
    std::optional<parameter> as_parameter{};
    std::optional<buffer> as_buffer{};
  };

  entry& add(std::string fqn) {
    if (by_name_.contains(fqn)) {
      throw error(errc::invalid_argument, fqn, "the module has this name already; names must be unique");
    }
    entries_.push_back(std::make_unique<entry>(entry{.fqn = std::move(fqn)}));
    by_name_.emplace(entries_.back()->fqn, entries_.size() - 1);
    return *entries_.back();
  }

  /// The slot of that kind. \throws error{invalid_argument} if there is none.
  template <class Slot>
  Slot& get(std::string_view fqn, std::optional<Slot> entry::*kind, std::string_view what) {
    const auto at = by_name_.find(fqn);
    if (at == by_name_.end() || !((*entries_[at->second]).*kind)) {
      throw error(errc::invalid_argument, fqn, concat("the module has no ", what, " of this name"));
    }
    return *((*entries_[at->second]).*kind);
  }

  std::vector<std::unique_ptr<entry>> entries_;  // slots stay where they are as others are added
  std::map<std::string_view, std::size_t> by_name_;
  std::vector<std::vector<std::string>> ties_;
};

}  // namespace fsdpinit
