#pragma once

#include <fsdpinit/index/operations.hpp>
#include <fsdpinit/index/rearrange.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

/// What index maps are compared with: tensors that name each of their elements, and operations that go element by element.

namespace fsdpinit::index_testing {

using dims = std::vector<std::uint64_t>;

/// Element `at` of stored tensor `tensor`; or, without one, the element of those bits.
struct element_id {
  static constexpr std::size_t filled = ~std::size_t{0};
  std::size_t tensor = filled;
  std::uint64_t at = 0;

  friend auto operator<=>(const element_id&, const element_id&) = default;
};

inline std::uint64_t product_of(const dims& extents) {
  std::uint64_t product = 1;
  for (const std::uint64_t extent : extents) {
    product *= extent;
  }
  return product;
}

/// The index of an element in each dim, and back.
inline dims index_of(std::uint64_t position, const dims& extents) {
  dims index(extents.size());
  for (std::size_t d = extents.size(); d-- != 0; position /= extents[d]) {
    index[d] = position % extents[d];
  }
  return index;
}
inline std::uint64_t position_of(const dims& index, const dims& extents) {
  std::uint64_t position = 0;
  for (std::size_t d = 0; d < extents.size(); ++d) {
    position = position * extents[d] + index[d];
  }
  return position;
}

struct naive_tensor {
  dims extents;
  std::vector<element_id> elements;

  /// Of that shape; `element_at(index)` says what is where.
  template <class ElementAt>
  static naive_tensor of(dims extents, ElementAt element_at) {
    naive_tensor out{std::move(extents), {}};
    for (std::uint64_t i = 0; i < product_of(out.extents); ++i) {
      out.elements.push_back(element_at(index_of(i, out.extents)));
    }
    return out;
  }
  static naive_tensor stored(std::size_t tensor, const dims& extents) {
    return of(extents, [&](const dims& index) { return element_id{tensor, position_of(index, extents)}; });
  }

  [[nodiscard]] const element_id& operator[](const dims& index) const { return elements[position_of(index, extents)]; }

  friend bool operator==(const naive_tensor&, const naive_tensor&) = default;
};

inline naive_tensor concat(const std::vector<naive_tensor>& parts, std::size_t dim) {
  dims extents = parts[0].extents;
  extents[dim] = 0;
  for (const naive_tensor& part : parts) {
    extents[dim] += part.extents[dim];
  }
  return naive_tensor::of(extents, [&](dims index) {
    std::size_t part = 0;
    for (; index[dim] >= parts[part].extents[dim]; ++part) {
      index[dim] -= parts[part].extents[dim];
    }
    return parts[part][index];
  });
}

inline naive_tensor stack(const std::vector<naive_tensor>& parts, std::size_t dim) {
  dims extents = parts[0].extents;
  extents.insert(extents.begin() + static_cast<std::ptrdiff_t>(dim), parts.size());
  return naive_tensor::of(extents, [&](dims index) {
    const naive_tensor& part = parts[index[dim]];
    index.erase(index.begin() + static_cast<std::ptrdiff_t>(dim));
    return part[index];
  });
}

inline naive_tensor slice(const naive_tensor& of, std::size_t dim, std::uint64_t begin, std::uint64_t end) {
  dims extents = of.extents;
  extents[dim] = end - begin;
  return naive_tensor::of(extents, [&](dims index) {
    index[dim] += begin;
    return of[index];
  });
}

inline naive_tensor permute(const naive_tensor& of, const std::vector<std::size_t>& order) {
  dims extents;
  for (const std::size_t dim : order) {
    extents.push_back(of.extents[dim]);
  }
  return naive_tensor::of(extents, [&](const dims& index) {
    dims at(index.size());
    for (std::size_t d = 0; d < order.size(); ++d) {
      at[order[d]] = index[d];
    }
    return of[at];
  });
}

inline naive_tensor pad(const naive_tensor& of, std::size_t dim, std::uint64_t to, std::uint64_t element) {
  dims extents = of.extents;
  extents[dim] = to;
  return naive_tensor::of(extents, [&](const dims& index) {
    return index[dim] < of.extents[dim] ? of[index] : element_id{element_id::filled, element};
  });
}

/// What each element of `outer` is in the tensors that its stored ones are.
inline naive_tensor composed(naive_tensor outer, const std::vector<naive_tensor>& inner) {
  for (element_id& each : outer.elements) {
    if (each.tensor != element_id::filled) {
      each = inner[each.tensor].elements[each.at];
    }
  }
  return outer;
}

/// Calls `fn(from, to)` for each element of a map, counted through without any of its functions.
template <class Fn>
void for_each_element(const index_map::strided_map& map, Fn fn) {
  dims extents;
  for (const index_map::factor& each : map.all()) {
    extents.push_back(each.extent);
  }
  for (std::uint64_t i = 0; i < product_of(extents); ++i) {
    const dims index = index_of(i, extents);
    std::uint64_t from = map.from;
    std::uint64_t to = map.to;
    for (std::size_t k = 0; k < map.rank; ++k) {
      from += index[k] * map.factors[k].from;
      to += index[k] * map.factors[k].to;
    }
    fn(from, to);
  }
}

/// What a recipe makes; where it has no element or several, and what is wrong with its maps, is told in `faults`.
inline naive_tensor made_by(const index_map::recipe& of, std::string& faults) {
  naive_tensor out{dims(of.extents.begin(), of.extents.end()), {}};
  out.elements.resize(product_of(out.extents));
  std::vector<int> times(out.elements.size());
  const auto put = [&](std::uint64_t to, element_id what) {
    if (to < times.size()) {
      ++times[to];
      out.elements[to] = what;
    } else {
      faults += "an element is outside; ";
    }
  };
  std::uint64_t last = 0;
  for (const index_map::piece& each : of.pieces) {
    for_each_element(each.map, [&](std::uint64_t from, std::uint64_t to) { put(to, {each.tensor, from}); });
    faults += each.map.to < last ? "pieces are not in order; " : "";
    last = each.map.to;
    index_map::strided_map again = each.map;
    index_map::detail::canonicalize(again);
    faults += again == each.map ? "" : "a map is not canonical; ";
  }
  for (const index_map::fill& each : of.fills) {
    for_each_element(each.map, [&](std::uint64_t, std::uint64_t to) { put(to, {element_id::filled, each.element}); });
  }
  faults += std::count(times.begin(), times.end(), 1) == static_cast<std::ptrdiff_t>(times.size())
                ? ""
                : "an element is not made once; ";
  return out;
}

}  // namespace fsdpinit::index_testing
