#pragma once

#include <fsdpinit/core/compiler.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string_view>
#include <vector>

/// \file
/// What default units are found by: the numbered children of containers, as `layers.3` is the child 3 of `layers`.

namespace fsdpinit::detail {

/// Calls `fn(container, end, number)` for each component of an FQN that is a number: (`layers.`, 8, 3) where `layers.3` ends at 8.
/// The view is part of `fqn`.
template <class Fn>
void for_each_numbered(std::string_view fqn, Fn&& fn) {
  constexpr std::size_t digits_that_fit = 18;
  for (std::size_t begin = 0; begin < fqn.size();) {
    const std::size_t dot = fqn.find('.', begin);
    const std::size_t end = dot == std::string_view::npos ? fqn.size() : dot;
    std::uint64_t number = 0;
    bool is_number = end != begin && end - begin <= digits_that_fit;
    for (std::size_t at = begin; is_number && at < end; ++at) {
      is_number = fqn[at] >= '0' && fqn[at] <= '9';
      number = number * 10 + static_cast<unsigned char>(fqn[at] - '0');
    }
    if (is_number) {
      fn(fqn.substr(0, begin), end, number);
    }
    begin = end + 1;
  }
}

/// A name under a numbered child.
struct numbered_name {
  std::uint64_t number = 0;
  std::size_t end = 0;  ///< of the child's own name, `layers.3`, in it
  std::size_t fqn = 0;  ///< index of it
};

/// Like a child with other leading zeros, a child with another number is another: names [first, last) of its container.
struct numbered_child {
  std::uint64_t number = 0;
  std::size_t first = 0;
  std::size_t last = 0;
};

struct numbered_container {
  std::string_view path{};             ///< `layers.`
  std::vector<numbered_name> names{};  ///< child by child, and within a child as they were given

  /// By number; of those that differ in leading zeros the one with the fewest first.
  [[nodiscard]] std::vector<numbered_child> children() const {
    std::vector<numbered_child> out;
    for (std::size_t i = 0; i < names.size(); ++i) {
      if (i == 0 || names[i].number != names[i - 1].number || names[i].end != names[i - 1].end) {
        out.push_back({.number = names[i].number, .first = i});
      }
      out.back().last = i + 1;
    }
    return out;
  }
};

/// In the order in which names first lie in them. O(n) for names that are given as a tree is walked, child after child; else
/// O(n log n).
[[nodiscard]] inline std::vector<numbered_container> numbered_containers(std::span<const std::string_view> fqns) {
  std::vector<numbered_container> out;
  std::map<std::string_view, std::size_t> by_path;
  std::vector<std::size_t>
      last;  // the container that was met last as the n-th of a name: mostly that of the next name too
  for (std::size_t i = 0; i < fqns.size(); ++i) {
    std::size_t depth = 0;
    for_each_numbered(fqns[i], [&](std::string_view path, std::size_t end, std::uint64_t number) {
      if (depth == last.size()) {
        last.push_back(out.size());
      }
      std::size_t& at = last[depth++];
      if (at == out.size() || out[at].path != path) {
        at = by_path.emplace(path, out.size()).first->second;
      }
      if (at == out.size()) {
        out.push_back({.path = path});
      }
      out[at].names.push_back({.number = number, .end = end, .fqn = i});
    });
  }
  const auto before = [](const numbered_name& a, const numbered_name& b) {
    if (a.number != b.number) {
      return a.number < b.number;
    }
    return a.end != b.end ? a.end < b.end : a.fqn < b.fqn;
  };
  for (numbered_container& container : out) {
    if (!std::is_sorted(container.names.begin(), container.names.end(), before)) {
      std::sort(container.names.begin(), container.names.end(), before);
    }
  }
  return out;
}

/// Consecutive children built alike, from one on.
struct numbered_run {
  std::size_t names = 0;      ///< that lie under them; 0: there are not two such children
  std::size_t met_first = 0;  ///< index of the first name under the first child
};

/// The run in a container that covers the most names. Children are built alike where the same names lie below them, in the same
/// order. Only a child without leading zeros follows another.
[[nodiscard]] inline numbered_run longest_run(const numbered_container& container,
                                              std::span<const std::string_view> fqns) {
  const std::vector<numbered_child> children = container.children();
  const auto below = [&](std::size_t i) {
    const numbered_name& name = container.names[i];
    return fqns[name.fqn].substr(name.end);
  };
  const auto alike = [&](const numbered_child& a, const numbered_child& b) {
    bool equal = a.last - a.first == b.last - b.first;
    for (std::size_t i = 0; equal && i < a.last - a.first; ++i) {
      equal = below(a.first + i) == below(b.first + i);
    }
    return equal;
  };
  const auto follows = [&](const numbered_child& child, const numbered_child& before) {
    const numbered_name& name = container.names[child.first];
    const std::string_view digits = fqns[name.fqn].substr(0, name.end).substr(container.path.size());
    return child.number == before.number + 1 && !digits.starts_with('0') && alike(child, before);
  };
  struct counts {
    std::size_t names = 0;
    std::size_t children = 0;
  };
  std::vector<counts> from(children.size());  // of the run that begins with a child
  numbered_run longest;
  std::size_t next = children.size();  // the first child of the next number
  for (std::size_t i = children.size(); i-- != 0;) {
    if (i + 1 < children.size() && children[i + 1].number != children[i].number) {
      next = i + 1;
    }
    const counts rest = next < children.size() && follows(children[next], children[i]) ? from[next] : counts{};
    from[i] = {.names = rest.names + children[i].last - children[i].first, .children = rest.children + 1};
    const std::size_t met_first = container.names[children[i].first].fqn;
    const bool better =
        from[i].names > longest.names || (from[i].names == longest.names && met_first < longest.met_first);
    if (from[i].children > 1 && better) {
      longest = {.names = from[i].names, .met_first = met_first};
    }
  }
  return longest;
}

}  // namespace fsdpinit::detail
