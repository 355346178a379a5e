#pragma once

#include <fsdpinit/core/text.hpp>

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace fsdpinit {

/// Which unit owns which parameter. Unit 0 is the root, named "".
struct unit_assignment {
  std::vector<std::string> names;    ///< FQN prefix of each unit
  std::vector<std::size_t> unit_of;  ///< per FQN given
};

namespace detail {

/// Calls `fn(container, name, number)` for each component of an FQN that is a number: (`layers.`, `layers.3`, 3). The
/// views are parts of `fqn`.
template <class Fn>
void for_each_numbered(std::string_view fqn, Fn&& fn) {
  constexpr std::size_t digits_that_fit = 18;
  for (std::size_t begin = 0; begin < fqn.size();) {
    const std::size_t dot = fqn.find('.', begin);
    const std::size_t end = dot == std::string_view::npos ? fqn.size() : dot;
    std::uint64_t number = 0;
    bool is_number = end != begin && end - begin <= digits_that_fit;
    for (const char digit : fqn.substr(begin, end - begin)) {
      is_number = is_number && digit >= '0' && digit <= '9';
      number = number * 10 + static_cast<unsigned char>(digit - '0');
    }
    if (is_number) {
      fn(fqn.substr(0, begin), fqn.substr(0, end), number);
    }
    begin = end + 1;
  }
}

}  // namespace detail

/// The default assignment: each numbered child (`layers.0`, `layers.1`, ...) of one container is a unit, the rest is
/// the root.
///
/// The container is the one whose longest run of consecutive like-structured children (the same names below them)
/// covers the most names; the outermost wins a tie, so the decoder's layers win over the experts inside one layer.
/// Children of that container which are built differently (a first dense layer of a mixture-of-experts model) are units
/// too. A container with a single child makes no units. Pure; O(n log n) in the number of name components.
[[nodiscard]] inline unit_assignment default_units(std::span<const std::string_view> fqns) {
  constexpr auto none = static_cast<std::size_t>(-1);
  struct child {
    std::string_view container;
    std::string_view name;  // container and number: `layers.3`
    std::uint64_t number = 0;
    std::string suffixes;  // names below it, one after the other: equal means like-structured
    std::size_t names = 0;
  };
  std::vector<child> children;
  std::map<std::string_view, std::size_t> by_name;
  for (const std::string_view fqn : fqns) {
    detail::for_each_numbered(fqn, [&](std::string_view container, std::string_view name, std::uint64_t number) {
      const auto [at, inserted] = by_name.emplace(name, children.size());
      if (inserted) {
        children.push_back({.container = container, .name = name, .number = number, .suffixes = {}});
      }
      child& here = children[at->second];
      here.suffixes.append(fqn.substr(name.size())).push_back('\n');
      ++here.names;
    });
  }
  const auto sibling = [&](const child& of, std::uint64_t number) -> const child* {
    const auto at = by_name.find(concat(of.container, number));
    return at == by_name.end() ? nullptr : &children[at->second];
  };
  const auto continues = [](const child* before, const child* after) {
    return before != nullptr && after != nullptr && before->suffixes == after->suffixes;
  };

  std::string_view best;
  std::size_t best_covered = 0;
  for (const child& first : children) {
    if (first.number != 0 && continues(sibling(first, first.number - 1), &first)) {
      continue;  // not the beginning of a run
    }
    std::size_t covered = first.names;
    std::size_t length = 1;
    for (const child* last = &first; continues(last, sibling(*last, last->number + 1)); ++length) {
      last = sibling(*last, last->number + 1);
      covered += last->names;
    }
    const bool outer = covered == best_covered && first.container.size() < best.size();
    if (length > 1 && (covered > best_covered || outer)) {
      best = first.container;
      best_covered = covered;
    }
  }

  unit_assignment out;
  out.names.emplace_back();
  out.unit_of.reserve(fqns.size());
  std::vector<std::size_t> unit_of_child(children.size(), none);
  for (const std::string_view fqn : fqns) {
    std::size_t unit = 0;
    if (best_covered != 0) {
      detail::for_each_numbered(fqn, [&](std::string_view container, std::string_view name, std::uint64_t /*number*/) {
        if (container != best) {
          return;
        }
        std::size_t& known = unit_of_child[by_name.find(name)->second];
        if (known == none) {
          known = out.names.size();
          out.names.emplace_back(name);
        }
        unit = known;
      });
    }
    out.unit_of.push_back(unit);
  }
  return out;
}

}  // namespace fsdpinit
