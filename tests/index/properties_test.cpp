// Random trees of operations, and what is done with their results, against tensors that name each element.

#include "index/naive_tensor.hpp"
#include "index/random_recipe.hpp"
#include <fsdpinit/core/text.hpp>
#include <fsdpinit/index/accounting.hpp>
#include <fsdpinit/index/gather.hpp>
#include <fsdpinit/index/operations.hpp>
#include <fsdpinit/index/runs.hpp>
#include <support/sanitizers.hpp>
#include <support/test_seed.hpp>

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include <rapidcheck.h>

namespace index_properties_test {
namespace {

using namespace fsdpinit;
using namespace fsdpinit::index_map;
using namespace fsdpinit::index_testing;
using namespace fsdpinit::testing_support;

std::uint64_t chosen(std::uint64_t bound) {
  return *rc::gen::resize(100, rc::gen::inRange<std::uint64_t>(0, bound)).as("a choice");
}

/// FSDPINIT_CASES of them, or 500.
template <class Property>
void expect_for_all(const char* what, Property property) {
  const char* const given = std::getenv("FSDPINIT_CASES");
  const std::string parameters = fsdpinit::concat("seed=", test_seed(), " max_success=",
                                                  given != nullptr ? given
                                                  : is_sanitized   ? "100"
                                                                   : "500");
  ASSERT_EQ(::setenv("RC_PARAMS", parameters.c_str(), 1), 0);  // where RapidCheck looks for them
  EXPECT_TRUE(rc::check(what, property));
}

/// Fails the property where there are any.
void expect_no(const std::string& faults, const std::string& of) {
  if (!faults.empty()) {
    RC_LOG() << of << ": " << faults;
  }
  RC_ASSERT(faults.empty());
}

random_trees random_types() {
  constexpr dtype types[] = {dtype::bf16, dtype::u8, dtype::f32, dtype::c64};
  return {types[chosen(4)], chosen};
}

random_tree tree_from(random_trees& trees) { return trees.tree_of(trees.random_dims(), 4); }

std::string difference(const recipe& made, const naive_tensor& expected) {
  std::string faults;
  const naive_tensor actual = made_by(made, faults);
  faults += actual.extents == expected.extents ? "" : "the shape is another; ";
  faults += actual.elements == expected.elements ? "" : "the elements are others; ";
  return faults;
}

TEST(RandomRecipes, MakeWhatTheOperationsMakeElementByElement) {
  expect_for_all("recipes are what operations make", [] {
    random_trees trees = random_types();
    const random_tree tree = tree_from(trees);
    expect_no(difference(tree.made, tree.expected), tree.text);
  });
}

TEST(RandomRecipes, RestrictedToAnyBoxMakeThatBox) {
  expect_for_all("restrictions are slices", [] {
    random_trees trees = random_types();
    random_tree tree = tree_from(trees);
    box to = whole(tree.made.extents);
    for (std::size_t dim = 0; dim < tree.expected.extents.size(); ++dim) {
      to.begin[dim] = chosen(to.end[dim] + 1);
      to.end[dim] = to.begin[dim] + chosen(to.end[dim] - to.begin[dim] + 1);
      tree.expected = slice(tree.expected, dim, to.begin[dim], to.end[dim]);
    }
    RC_ASSERT(elements(to) == product_of(tree.expected.extents));
    expect_no(difference(restricted(tree.made, to), tree.expected), tree.text + to_string(to));
  });
}

/// What a byte of a made tensor is: a byte of an element.
using byte_id = std::pair<element_id, std::uint64_t>;

/// Bytes [begin, end) of the tensor as its runs make them.
std::string faults_of_runs(const recipe& made, const naive_tensor& expected, std::uint64_t begin, std::uint64_t end) {
  const std::uint64_t size = bits(made.type) / 8;
  std::string faults;
  std::map<std::uint64_t, byte_id> bytes;
  const auto put = [&](std::uint64_t at, byte_id what) {
    faults += bytes.emplace(at, what).second ? "" : "a byte is made twice; ";
  };
  std::uint64_t last = 0;
  const piece* of = nullptr;
  for_each_run(made, begin, end, [&](const piece& each, const run_group& group) {
    faults += of == &each && group.made < last ? "runs are not in order; " : "";
    of = &each;
    last = group.made;
    const std::uint64_t stored_size = bits(each.stored) / 8;
    faults += group.stored_bytes / stored_size == group.made_bytes / size ? "" : "runs do not have as many elements; ";
    for (std::uint64_t run = 0; run < group.count; ++run) {
      for (std::uint64_t i = 0; i < group.made_bytes; ++i) {
        const std::uint64_t from = group.stored + run * group.stored_stride + i / size * stored_size + i % size;
        // Converted elements come whole: as bytes of their own, each is from the one that its number says.
        const std::uint64_t within = each.stored == made.type ? from : from / stored_size * size + i % size;
        const std::uint64_t at = each.stored == made.type ? group.stored + run * group.stored_stride + i : within;
        put(group.made + run * group.made_stride + i, {{each.tensor, at / size}, at % size});
      }
    }
  });
  for_each_fill(made, begin, end, [&](const fill& each, const run_group& group) {
    for (std::uint64_t run = 0; run < group.count; ++run) {
      for (std::uint64_t i = 0; i < group.made_bytes; ++i) {
        const std::uint64_t at = group.made + run * group.made_stride + i;
        put(at, {{element_id::filled, each.element}, at % size});
      }
    }
  });
  std::map<std::uint64_t, byte_id> wanted;
  for (std::uint64_t at = begin; at < end; ++at) {
    wanted[at] = {expected.elements[at / size], at % size};
  }
  return faults + (bytes == wanted ? "" : "the bytes are others; ");
}

bool converts(const recipe& made) {
  return std::any_of(made.pieces.begin(), made.pieces.end(),
                     [&](const piece& each) { return each.stored != made.type; });
}

TEST(RandomRecipes, HaveRunsOfAnyRangeOfBytes) {
  expect_for_all("runs make each byte once", [] {
    random_trees trees = random_types();
    const random_tree tree = tree_from(trees);
    const std::uint64_t size = bits(tree.made.type) / 8;
    const std::uint64_t all = tree.expected.elements.size() * size;
    std::uint64_t begin = chosen(all + 1);
    std::uint64_t end = begin + chosen(all - begin + 1);
    if (converts(tree.made)) {
      begin = begin / size * size;
      end = end / size * size;
    }
    expect_no(faults_of_runs(tree.made, tree.expected, begin, end), fsdpinit::concat(tree.text, " ", begin, " ", end));
  });
}

/// Bytes of the stored tensors, such that no two elements look alike for long.
std::vector<std::vector<std::byte>> stored_bytes(const random_trees& trees) {
  std::vector<std::vector<std::byte>> out;
  for (std::size_t i = 0; i < trees.stored.size(); ++i) {
    out.emplace_back(product_of(trees.stored[i]) * bits(trees.stored_types[i]) / 8);
    for (std::uint64_t at = 0; at < out[i].size(); ++at) {
      out[i][at] = static_cast<std::byte>((at + 1) * (2654435761U + 2 * i) >> 11U & 0x3fU);  // no NaN, no infinity
    }
  }
  return out;
}

/// The whole tensor, element by element.
std::vector<std::byte> bytes_of(const random_tree& tree, const random_trees& trees,
                                const std::vector<std::vector<std::byte>>& stored) {
  const std::uint64_t size = bits(tree.made.type) / 8;
  std::vector<std::byte> out(tree.expected.elements.size() * size);
  for (std::uint64_t i = 0; i < tree.expected.elements.size(); ++i) {
    const element_id& each = tree.expected.elements[i];
    if (each.tensor == element_id::filled) {
      std::memcpy(out.data() + i * size, &each.at, size);
      continue;
    }
    const dtype from = trees.stored_types[each.tensor];
    convert_floats(from, stored[each.tensor].data() + each.at * (bits(from) / 8), tree.made.type, out.data() + i * size,
                   1);
  }
  return out;
}

/// Runs of a tensor of so many bytes, in whole elements of `size` bytes.
byte_region random_runs(std::uint64_t bytes, std::uint64_t size) {
  byte_region out{.offset = chosen(bytes / size + 1) * size, .run = 0, .stride = 0, .count = 1};
  const std::uint64_t left = (bytes - out.offset) / size;
  if (chosen(2) == 0 || left == 0) {
    out.run = chosen(left + 1) * size;
    return out;
  }
  const std::uint64_t stride = 1 + chosen(left);
  const std::uint64_t within = out.offset / size % stride;
  out.stride = stride * size;
  out.run = (1 + chosen(stride - within)) * size;
  out.count = 1 + (out.run / size > left ? 0 : chosen((left - out.run / size) / stride + 1));
  out.run = out.run / size > left ? left * size : out.run;
  return out;
}

TEST(RandomRecipes, AreGatheredThroughATileOfAnySize) {
  expect_for_all("what is gathered is what is made", [] {
    random_trees trees = random_types();
    const random_tree tree = tree_from(trees);
    const auto stored = stored_bytes(trees);
    const std::vector<std::byte> made = bytes_of(tree, trees, stored);
    const byte_region runs = random_runs(made.size(), converts(tree.made) ? bits(tree.made.type) / 8 : 1);
    std::vector<std::byte> expected;
    for_each_run(runs, 0, runs.bytes(), [&](std::uint64_t global, std::uint64_t, std::uint64_t length) {
      expected.insert(expected.end(), made.begin() + static_cast<std::ptrdiff_t>(global),
                      made.begin() + static_cast<std::ptrdiff_t>(global + length));
    });
    std::vector<std::byte> tile(least_tile_bytes + chosen(200));
    std::vector<std::byte> gathered(runs.bytes());
    std::string faults;
    gather(tree.made, runs, gathered, tile, [&](std::size_t tensor, std::uint64_t offset, mutable_bytes to) {
      const std::vector<std::byte>& from = stored.at(tensor);
      if (offset > from.size() || to.size() > from.size() - offset) {
        faults += "what is read is outside; ";
        return;
      }
      std::copy_n(from.begin() + static_cast<std::ptrdiff_t>(offset), to.size(), to.begin());
    });
    faults += gathered == expected ? "" : "the bytes are others; ";
    expect_no(faults, fsdpinit::concat(tree.text, " ", runs.offset, " ", runs.run, " ", runs.stride, " ", runs.count,
                                       " tile ", tile.size()));
  });
}

TEST(RandomRecipes, HaveRunsInTheOrderOfAStoredTensor) {
  expect_for_all("runs use what is used of each stored byte", [] {
    random_trees trees = random_types();
    const random_tree tree = tree_from(trees);
    RC_PRE(!trees.stored.empty());
    const std::size_t tensor = static_cast<std::size_t>(chosen(trees.stored.size()));
    const std::uint64_t stored_size = bits(trees.stored_types[tensor]) / 8;
    const std::uint64_t size = bits(tree.made.type) / 8;
    const std::uint64_t all = product_of(trees.stored[tensor]) * stored_size;
    const std::uint64_t begin = chosen(all + 1) / stored_size * stored_size;
    const std::uint64_t end = begin + chosen(all - begin + 1) / stored_size * stored_size;

    std::multimap<std::uint64_t, std::uint64_t> wanted;  // numbers of elements, stored and made
    for (std::uint64_t to = 0; to < tree.expected.elements.size(); ++to) {
      const element_id& each = tree.expected.elements[to];
      if (each.tensor == tensor && each.at * stored_size >= begin && each.at * stored_size < end) {
        wanted.emplace(each.at, to);
      }
    }
    std::string faults;
    for (const piece& each : tree.made.pieces) {
      if (each.tensor != tensor) {
        continue;
      }
      std::uint64_t last = begin;
      for_each_stored_run(each, tree.made.type, begin, end, [&](const run_group& group) {
        faults += group.stored < last ? "runs are not in order; " : "";
        last = group.stored;
        for (std::uint64_t run = 0; run < group.count; ++run) {
          for (std::uint64_t i = 0; i < group.stored_bytes / stored_size; ++i) {
            const std::uint64_t from = (group.stored + run * group.stored_stride) / stored_size + i;
            const std::uint64_t to = (group.made + run * group.made_stride) / size + i;
            const auto [first, end_of] = wanted.equal_range(from);
            const auto found = std::find_if(first, end_of, [&](const auto& pair) { return pair.second == to; });
            faults += found == end_of ? "an element is not wanted there; " : "";
            if (found != end_of) {
              wanted.erase(found);
            }
          }
        }
      });
    }
    expect_no(faults + (wanted.empty() ? "" : "an element is missing; "), tree.text);
  });
}

TEST(RandomRecipes, ComposeLikeWhatTheyMake) {
  expect_for_all("a recipe of recipes", [] {
    const dtype type = chosen(2) == 0 ? dtype::u8 : dtype::f32;
    random_trees outer_trees(type, chosen);
    const random_tree outer = tree_from(outer_trees);
    random_trees inner_trees(type, chosen);
    std::vector<recipe> inner;
    std::vector<naive_tensor> expected;
    std::string text = outer.text;
    for (const dims& extents : outer_trees.stored) {
      random_tree tree = inner_trees.tree_of(extents, 2);
      inner.push_back(std::move(tree.made));
      expected.push_back(std::move(tree.expected));
      text += "; " + tree.text;
    }
    expect_no(difference(index_map::composed(outer.made, inner), index_testing::composed(outer.expected, expected)),
              text);
  });
}

TEST(RandomRecipes, AreAccountedForLikeABitmapAndInvertedWhereTheyUseAllOnce) {
  expect_for_all("accounting is exact", [] {
    random_trees trees = random_types();
    std::vector<random_tree> tree{tree_from(trees)};
    std::string text = tree[0].text;
    if (chosen(2) == 1 && !tree[0].expected.extents.empty()) {  // two parts, which use together what it uses
      const random_tree all = std::move(tree[0]);
      const std::size_t dim = static_cast<std::size_t>(chosen(all.expected.extents.size()));
      const std::uint64_t extent = all.expected.extents[dim];
      const std::uint64_t at = chosen(extent + 1);
      tree = {{slice(all.made, dim, 0, at), slice(all.expected, dim, 0, at), ""},
              {slice(all.made, dim, at, extent), slice(all.expected, dim, at, extent), ""}};
      append_to(text, " cut at ", dim, " ", at);
    }
    std::vector<recipe> made;
    for (const random_tree& each : tree) {
      made.push_back(each.made);
    }
    const std::vector<use> all = uses_of(made);
    for (std::size_t tensor = 0; tensor < trees.stored.size(); ++tensor) {
      const dims& extents = trees.stored[tensor];
      const std::span<const use> uses = uses_of(all, tensor);
      std::vector<std::vector<std::size_t>> users(product_of(extents));
      for (std::size_t i = 0; i < uses.size(); ++i) {
        for_each_element(uses[i].what->map, [&](std::uint64_t from, std::uint64_t) { users.at(from).push_back(i); });
      }
      std::vector<element_id> places(users.size());
      std::vector<std::size_t> times(users.size());
      for (std::size_t i = 0; i < tree.size(); ++i) {
        for (std::uint64_t to = 0; to < tree[i].expected.elements.size(); ++to) {
          const element_id& each = tree[i].expected.elements[to];
          if (each.tensor == tensor) {
            places[each.at] = {i, to};
            ++times[each.at];
          }
        }
      }
      const bool is_exact = std::count(times.begin(), times.end(), 1) == static_cast<std::ptrdiff_t>(times.size());
      const auto found = misuse_of(shape(extents), uses);
      std::string faults = found.has_value() == is_exact ? "the account is wrong; " : "";
      if (found) {
        faults += is_empty(found->where) ? "nothing is misused; " : "";
        for (std::uint64_t at = 0; at < users.size(); ++at) {
          const dims index = index_of(at, extents);
          bool is_in = true;
          for (std::size_t d = 0; d < index.size(); ++d) {
            is_in = is_in && index[d] >= found->where.begin[d] && index[d] < found->where.end[d];
          }
          const auto uses_it = [&](std::size_t who) {
            return std::find(users[at].begin(), users[at].end(), who) != users[at].end();
          };
          const bool is_so = found->twice ? found->twice->first != found->twice->second &&
                                                uses_it(found->twice->first) && uses_it(found->twice->second)
                                          : times[at] == 0;
          faults += is_in && !is_so ? "the box is wrong; " : "";
        }
      } else {
        const recipe back = inverse(uses, trees.stored_types[tensor], shape(extents));
        faults += difference(back, {extents, places});
      }
      expect_no(faults, fsdpinit::concat(text, " tensor ", tensor));
    }
  });
}

}  // namespace
}  // namespace index_properties_test
