#pragma once

#include <fsdpinit/core/error.hpp>
#include <fsdpinit/modules/numbered_names.hpp>

#include <cstddef>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace fsdpinit {

/// Which unit owns which parameter. Unit 0 is the root, named ""; the others follow in the order in which names first
/// fall to them, and last those that own nothing but what units inside them own.
struct unit_assignment {
  std::vector<std::string> names;    ///< FQN prefix of each unit
  std::vector<std::size_t> unit_of;  ///< per FQN given
};

/// Does the name, or the unit of this name, lie within `unit`? At the boundary of a component: `layers.1` does not enclose
/// `layers.10.q`. The root encloses everything.
[[nodiscard]] constexpr bool encloses(std::string_view unit, std::string_view fqn) noexcept {
  return unit.empty() || (fqn.starts_with(unit) && (fqn.size() == unit.size() || fqn[unit.size()] == '.'));
}

/// The innermost unit that encloses both: what a tensor belongs to whose names fall to both. O(units).
[[nodiscard]] inline std::size_t common_unit(const std::vector<std::string>& names, std::size_t a, std::size_t b) {
  if (a == b) {
    return a;
  }
  std::size_t innermost = 0;
  for (std::size_t unit = 0; unit < names.size(); ++unit) {
    const bool both = encloses(names[unit], names[a]) && encloses(names[unit], names[b]);
    if (both && names[unit].size() > names[innermost].size()) {
      innermost = unit;
    }
  }
  return innermost;
}

namespace detail {

/// Calls `fn(path)` for each beginning of the FQN that ends before a dot, the longest first.
template <class Fn>
void for_each_path(std::string_view fqn, Fn&& fn) {
  for (std::size_t dot = fqn.rfind('.'); dot != std::string_view::npos && dot != 0; dot = fqn.rfind('.', dot - 1)) {
    fn(fqn.substr(0, dot));
  }
}

struct path_state {
  bool is_unit = false;
  std::size_t unit = 0;  // 0: has no number yet
};

/// Bottom-up: a name falls to the longest of its paths that is a unit, else to the root. `is_unit` is asked once for each
/// path, and where `of_names` for each name too.
template <class IsUnit>
[[nodiscard]] unit_assignment assign_units(std::span<const std::string_view> fqns, bool of_names, IsUnit&& is_unit) {
  std::map<std::string_view, path_state> known;
  std::vector<std::pair<const std::string_view, path_state>*> units;  // in the order in which they were met
  unit_assignment out;
  out.names.emplace_back();
  out.unit_of.reserve(fqns.size());
  const auto number_of = [&](path_state& path) {
    if (path.unit == 0) {
      path.unit = out.names.size();
      out.names.emplace_back();
    }
    return path.unit;
  };
  for (const std::string_view fqn : fqns) {
    path_state* innermost = nullptr;
    const auto ask = [&](std::string_view path) {
      const auto [at, inserted] = known.try_emplace(path);
      if (inserted) {
        at->second.is_unit = is_unit(path);
        if (at->second.is_unit) {
          units.push_back(&*at);
        }
      }
      innermost = innermost == nullptr && at->second.is_unit ? &at->second : innermost;
    };
    if (of_names && !fqn.empty()) {
      ask(fqn);
    }
    for_each_path(fqn, ask);
    out.unit_of.push_back(innermost == nullptr ? 0 : number_of(*innermost));
  }
  for (auto* unit : units) {
    const std::size_t number = number_of(unit->second);
    out.names[number] = unit->first;
  }
  return out;
}

}  // namespace detail

/// The module paths that satisfy a predicate are units: each beginning of an FQN that ends before a dot (`layers`,
/// `layers.0`, ... of `layers.0.attention.q`), the empty one excepted. A unit owns what lies under it but for what units
/// inside it own. `is_unit(path)` is called once for each path. O(n log n) in the number of name components.
template <class IsUnit>
[[nodiscard]] unit_assignment units_where(std::span<const std::string_view> fqns, IsUnit&& is_unit) {
  return detail::assign_units(fqns, false, is_unit);
}

/// The paths that are listed are units; a name falls to the longest of them. A parameter's own name is a path too, which
/// makes a unit of that parameter. `""` is the root, so that `{""}` asks for one unit in all.
/// \throws error{invalid_argument} for a prefix that no name lies under.
[[nodiscard]] inline unit_assignment units_under(std::span<const std::string_view> fqns,
                                                 std::span<const std::string> prefixes) {
  std::map<std::string_view, bool> used;
  for (const std::string& prefix : prefixes) {
    used.emplace(prefix, prefix.empty());
  }
  unit_assignment out = detail::assign_units(fqns, true, [&](std::string_view path) {
    const auto at = used.find(path);
    if (at == used.end()) {
      return false;
    }
    at->second = true;
    return true;
  });
  for (const std::string& prefix : prefixes) {
    if (!used.at(prefix)) {
      throw error(errc::invalid_argument, prefix,
                  "it is to be a unit, but no parameter or buffer lies under it; name a module as in 'layers.0', "
                  "without a dot at the end");
    }
  }
  return out;
}

/// The default assignment: each numbered child (`layers.0`, `layers.1`, ...) of one container is a unit, the rest is
/// the root.
///
/// The container is the one whose longest run of consecutive like-structured children (the same names below them)
/// covers the most names; the outermost wins a tie, so the decoder's layers win over the experts inside one layer.
/// Children of that container which are built differently (a first dense layer of a mixture-of-experts model) are units
/// too. A container with a single child makes no units. Pure; O(n log n) in the number of name components.
[[nodiscard]] inline unit_assignment default_units(std::span<const std::string_view> fqns) {
  const std::vector<detail::numbered_container> containers = detail::numbered_containers(fqns);
  const detail::numbered_container* best = nullptr;
  detail::numbered_run most;
  for (const detail::numbered_container& container : containers) {
    const detail::numbered_run run = detail::longest_run(container, fqns);
    const bool outer = best != nullptr && run.names == most.names &&
                       (container.path.size() < best->path.size() ||
                        (container.path.size() == best->path.size() && run.met_first < most.met_first));
    if (run.names > most.names || outer) {
      best = &container;
      most = run;
    }
  }

  unit_assignment out;
  out.names.emplace_back();
  out.unit_of.resize(fqns.size(), 0);
  if (best == nullptr) {
    return out;
  }
  constexpr auto none = static_cast<std::size_t>(-1);
  struct place {
    std::size_t child = none;
    std::size_t end = 0;  // of the child's own name
  };
  const std::vector<detail::numbered_child> children = best->children();
  std::vector<place> place_of(fqns.size());
  for (std::size_t child = 0; child < children.size(); ++child) {
    for (std::size_t i = children[child].first; i < children[child].last; ++i) {
      place_of[best->names[i].fqn] = {.child = child, .end = best->names[i].end};
    }
  }
  std::vector<std::size_t> unit_of_child(children.size(), 0);
  for (std::size_t i = 0; i < fqns.size(); ++i) {  // units are numbered as their first names come
    if (place_of[i].child == none) {
      continue;
    }
    std::size_t& unit = unit_of_child[place_of[i].child];
    if (unit == 0) {
      unit = out.names.size();
      out.names.emplace_back(fqns[i].substr(0, place_of[i].end));
    }
    out.unit_of[i] = unit;
  }
  return out;
}

}  // namespace fsdpinit
