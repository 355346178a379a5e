#pragma once

#include "index/naive_tensor.hpp"
#include <fsdpinit/core/text.hpp>
#include <fsdpinit/index/operations.hpp>
#include <fsdpinit/index/rearrange.hpp>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

namespace fsdpinit::index_testing {

/// A tree of operations, once as a recipe and once element by element; and how it is written.
struct random_tree {
  index_map::recipe made;
  naive_tensor expected;
  std::string text;
};

/// Trees that make tensors of given shapes, of choices: 0 is always the simplest, so that shrunk choices make small trees.
class random_trees {
 public:
  /// `choose(n)` is a number below n.
  random_trees(dtype type, std::function<std::uint64_t(std::uint64_t)> choose)
      : type_(type), choose_(std::move(choose)) {}

  /// Of the stored tensors, by number.
  std::vector<dims> stored;
  std::vector<dtype> stored_types;

  dims random_dims() {
    dims out;
    std::uint64_t left = 600;
    for (std::uint64_t rank = choose_(6); rank != 0; --rank) {
      const std::uint64_t bound = std::min<std::uint64_t>(left, 12);
      out.push_back(choose_(40) == 39 ? 0 : 1 + choose_(bound));
      left /= std::max<std::uint64_t>(out.back(), 1);
    }
    return out;
  }

  random_tree tree_of(const dims& extents, int depth) {
    const std::size_t dim = extents.empty() ? 0 : static_cast<std::size_t>(choose_(extents.size()));
    switch (depth == 0 || extents.empty() ? choose_(3) : choose_(16)) {
      case 0:
        return stored_tensor(extents, type_);
      case 1:
        return converted(extents);
      case 2:
        return stored_before(extents);
      case 3:
        return chunked(extents, dim, depth);
      case 4:
        return stacked(extents, dim, depth);
      case 5:
        return padded(extents, dim, depth);
      case 6:
      case 7:
        return concatenated(extents, dim, depth);
      case 8:
      case 9:
        return sliced(extents, dim, depth);
      case 10:
      case 11:
        return permuted(extents, depth);
      default:
        return rearranged(extents, depth);
    }
  }

 private:
  random_tree stored_tensor(const dims& extents, dtype type) {
    stored.push_back(extents);
    stored_types.push_back(type);
    return number(stored.size() - 1);
  }
  random_tree number(std::size_t tensor) {
    const shape extents(stored[tensor]);
    return {index_map::stored_tensor(tensor, stored_types[tensor], extents),
            naive_tensor::stored(tensor, stored[tensor]), fsdpinit::concat("t", tensor, to_string(extents))};
  }
  /// One that is in use already, if there is one that fits: its elements are used twice.
  random_tree stored_before(const dims& extents) {
    for (std::size_t i = 0; i < stored.size(); ++i) {
      if (stored[i] == extents && stored_types[i] == type_) {
        return number(i);
      }
    }
    return stored_tensor(extents, type_);
  }

  random_tree converted(const dims& extents) {
    if (type_ != dtype::bf16) {
      return stored_tensor(extents, type_);
    }
    random_tree of = stored_tensor(extents, dtype::f32);
    return {index_map::cast(of.made, type_), of.expected, fsdpinit::concat("cast(", of.text, ")")};
  }

  std::vector<std::size_t> random_order(std::size_t count) {
    std::vector<std::size_t> order;
    for (std::size_t i = 0; i < count; ++i) {
      order.insert(order.begin() + static_cast<std::ptrdiff_t>(i - choose_(i + 1)), i);
    }
    return order;
  }

  random_tree permuted(const dims& extents, int depth) {
    const std::vector<std::size_t> order = random_order(extents.size());
    dims before(extents.size());
    std::string text;
    for (std::size_t d = 0; d < order.size(); ++d) {
      before[order[d]] = extents[d];
      append_to(text, d == 0 ? "" : " ", order[d]);
    }
    random_tree of = tree_of(before, depth - 1);
    return {index_map::permute(of.made, order), permute(of.expected, order),
            fsdpinit::concat("permute(", of.text, ", ", text, ")")};
  }

  random_tree sliced(dims extents, std::size_t dim, int depth) {
    const std::uint64_t begin = choose_(5);
    const std::uint64_t end = begin + extents[dim];
    extents[dim] = end + choose_(5);
    random_tree of = tree_of(extents, depth - 1);
    return {index_map::slice(of.made, dim, begin, end), slice(of.expected, dim, begin, end),
            fsdpinit::concat("slice(", of.text, ", ", dim, ", ", begin, ", ", end, ")")};
  }

  random_tree chunked(dims extents, std::size_t dim, int depth) {
    const std::uint64_t count = 1 + choose_(3);
    const std::uint64_t index = choose_(count);
    const std::uint64_t size = extents[dim];
    extents[dim] *= count;
    random_tree of = tree_of(extents, depth - 1);
    return {index_map::chunk(of.made, dim, count, index), slice(of.expected, dim, index * size, (index + 1) * size),
            fsdpinit::concat("chunk(", of.text, ", ", dim, ", ", count, ", ", index, ")")};
  }

  random_tree joined(std::vector<random_tree> parts, std::size_t dim, bool stacks) {
    std::vector<index_map::recipe> made;
    std::vector<naive_tensor> expected;
    std::string text = stacks ? "stack(" : "concat(";
    for (random_tree& part : parts) {
      made.push_back(std::move(part.made));
      expected.push_back(std::move(part.expected));
      text += part.text + ", ";
    }
    append_to(text, dim, ")");
    return {stacks ? index_map::stack(made, dim) : index_map::concat(made, dim),
            stacks ? stack(expected, dim) : concat(expected, dim), text};
  }

  random_tree concatenated(dims extents, std::size_t dim, int depth) {
    std::uint64_t left = extents[dim];
    std::vector<random_tree> parts;
    for (std::uint64_t more = choose_(3); more != 0; --more) {
      extents[dim] = choose_(left + 1);
      left -= extents[dim];
      parts.push_back(tree_of(extents, depth - 1));
    }
    extents[dim] = left;
    parts.push_back(tree_of(extents, depth - 1));
    return joined(std::move(parts), dim, false);
  }

  random_tree stacked(dims extents, std::size_t dim, int depth) {
    const std::uint64_t count = extents[dim];
    extents.erase(extents.begin() + static_cast<std::ptrdiff_t>(dim));
    if (count == 0 || count > 4) {
      extents.insert(extents.begin() + static_cast<std::ptrdiff_t>(dim), count);
      return stored_tensor(extents, type_);
    }
    std::vector<random_tree> parts;
    for (std::uint64_t i = 0; i < count; ++i) {
      parts.push_back(tree_of(extents, depth - 1));
    }
    return joined(std::move(parts), dim, true);
  }

  random_tree padded(dims extents, std::size_t dim, int depth) {
    const std::uint64_t to = extents[dim];
    extents[dim] -= choose_(to + 1);
    const std::uint64_t element = choose_(2);
    random_tree of = tree_of(extents, depth - 1);
    return {index_map::pad(of.made, dim, to, element), pad(of.expected, dim, to, element),
            fsdpinit::concat("pad(", of.text, ", ", dim, ", ", to, ", ", element, ")")};
  }

  /// Each dim of the result becomes some axes, which are put in order, and grouped to dims of what it is made of.
  random_tree rearranged(const dims& extents, int depth) {
    std::vector<std::string> names;
    dims sizes;
    std::string right;
    for (const std::uint64_t extent : extents) {
      right += right.empty() ? "(" : " (";
      std::uint64_t left = extent;
      for (std::uint64_t more = choose_(4); more != 0 && left > 1; --more) {
        std::uint64_t size = 1 + choose_(left);
        while (left % size != 0) {
          --size;
        }
        add_axis(names, sizes, size, right);
        left /= size;
      }
      add_axis(names, sizes, left, right);
      right += ")";
    }
    const std::vector<std::size_t> order = random_order(names.size());
    dims before;
    dims axes_before;
    std::string left;
    std::vector<index_map::axis_size> given;
    for (std::size_t i = 0; i < order.size(); ++i) {
      const bool joins = i != 0 && choose_(2) == 1;
      left += i == 0 ? "(" : joins ? " " : ") (";
      left += names[order[i]];
      axes_before.push_back(sizes[order[i]]);
      given.push_back({names[order[i]], sizes[order[i]]});
      if (joins) {
        before.back() *= sizes[order[i]];
      } else {
        before.push_back(sizes[order[i]]);
      }
    }
    const std::string pattern = left + ") -> " + right;
    random_tree of = tree_of(before, depth - 1);
    naive_tensor axes{axes_before, of.expected.elements};
    std::vector<std::size_t> back(order.size());
    for (std::size_t i = 0; i < order.size(); ++i) {
      back[order[i]] = i;
    }
    return {index_map::rearrange(of.made, pattern, given), naive_tensor{extents, permute(axes, back).elements},
            fsdpinit::concat("rearrange(", of.text, ", ", pattern, ")")};
  }
  static void add_axis(std::vector<std::string>& names, dims& sizes, std::uint64_t size, std::string& text) {
    names.push_back(fsdpinit::concat("a", names.size()));
    sizes.push_back(size);
    text += (text.back() == '(' ? "" : " ") + names.back();
  }

  dtype type_;
  std::function<std::uint64_t(std::uint64_t)> choose_;
};

}  // namespace fsdpinit::index_testing
