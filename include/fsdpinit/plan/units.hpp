#pragma once

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

/// The default assignment: each numbered child (`layers.0`, `layers.1`, ...) of one container is a unit, the rest is
/// the root.
///
/// The container is the one whose longest run of consecutive like-structured children (the same names below them)
/// covers the most names; the outermost wins a tie, so the decoder's layers win over the experts inside one layer.
/// Children of that container which are built differently (a first dense layer of a mixture-of-experts model) are units
/// too. A container with a single child makes no units. Pure; O(n log n) in the number of name components.
[[nodiscard]] inline unit_assignment default_units(std::span<const std::string_view> fqns) {
  struct child {
    std::string suffixes;  // names below it, one after the other: equal means like-structured
    std::size_t names = 0;
  };
  std::map<std::string_view, std::map<std::uint64_t, child>> containers;
  const auto for_each_number = [](std::string_view fqn, auto&& fn) {
    for (std::size_t begin = 0; begin < fqn.size();) {
      const std::size_t dot = fqn.find('.', begin);
      const std::size_t end = dot == std::string_view::npos ? fqn.size() : dot;
      const std::string_view component = fqn.substr(begin, end - begin);
      std::uint64_t number = 0;
      bool is_number = !component.empty() && component.size() < 19;  // no index of 10^18 layers overflows
      for (const char digit : component) {
        is_number = is_number && digit >= '0' && digit <= '9';
        number = number * 10 + static_cast<unsigned char>(digit - '0');
      }
      if (is_number) {
        fn(fqn.substr(0, begin), number, fqn.substr(end));
      }
      begin = end + 1;
    }
  };
  for (const std::string_view fqn : fqns) {
    for_each_number(fqn, [&](std::string_view container, std::uint64_t number, std::string_view suffix) {
      child& here = containers[container][number];
      here.suffixes.append(suffix).push_back('\n');
      ++here.names;
    });
  }

  const std::string_view* best = nullptr;
  std::size_t best_covered = 0;
  for (const auto& [container, children] : containers) {  // a container sorts before those inside it
    std::size_t covered = 0;
    std::size_t length = 0;
    const std::string* previous = nullptr;
    std::uint64_t previous_number = 0;
    for (const auto& [number, here] : children) {
      const bool continues = previous != nullptr && number == previous_number + 1 && here.suffixes == *previous;
      covered = continues ? covered + here.names : here.names;
      length = continues ? length + 1 : 1;
      previous = &here.suffixes;
      previous_number = number;
      if (length > 1 && covered > best_covered) {
        best = &container;
        best_covered = covered;
      }
    }
  }

  unit_assignment out;
  out.names.emplace_back();
  out.unit_of.reserve(fqns.size());
  std::map<std::uint64_t, std::size_t> units;
  for (const std::string_view fqn : fqns) {
    std::size_t unit = 0;
    if (best != nullptr && fqn.starts_with(*best)) {
      for_each_number(fqn, [&](std::string_view container, std::uint64_t number, std::string_view /*suffix*/) {
        if (container != *best) {
          return;
        }
        const auto [at, inserted] = units.try_emplace(number, out.names.size());
        if (inserted) {
          out.names.push_back(std::string(*best) + std::to_string(number));
        }
        unit = at->second;
      });
    }
    out.unit_of.push_back(unit);
  }
  return out;
}

}  // namespace fsdpinit
