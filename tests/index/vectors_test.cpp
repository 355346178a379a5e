// What einops and numpy made of small tensors: einops_vectors.txt, which einops_vectors.sh writes.

#include "index/naive_tensor.hpp"
#include <fsdpinit/core/error.hpp>
#include <fsdpinit/core/text.hpp>
#include <fsdpinit/index/operations.hpp>
#include <fsdpinit/index/rearrange.hpp>

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <fstream>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace index_vectors_test {
namespace {

using namespace fsdpinit;
using namespace fsdpinit::index_map;
namespace naive = fsdpinit::index_testing;

std::vector<std::string> split(const std::string& text, char separator) {
  std::vector<std::string> out(1);
  for (const char each : text) {
    if (each == separator) {
      out.emplace_back();
    } else {
      out.back() += each;
    }
  }
  return out;
}

template <class Number = std::uint64_t>
std::vector<Number> numbers(const std::string& text) {
  std::istringstream in(text);
  std::vector<Number> out;
  for (Number number{}; in >> number;) {
    out.push_back(number);
  }
  return out;
}

struct vector_of_others {
  std::string operation;
  std::string argument;
  std::vector<recipe> inputs;
  std::string sizes;
};

recipe made_from(const vector_of_others& of) {
  const std::vector<std::size_t> given =
      of.operation == "rearrange" ? std::vector<std::size_t>() : numbers<std::size_t>(of.argument);
  const recipe& input = of.inputs.at(0);
  if (of.operation == "rearrange") {
    const std::vector<std::string> words = split(of.sizes, ' ');
    std::vector<axis_size> sizes;
    for (const std::string& each : words) {
      if (const std::size_t equal = each.find('='); equal != std::string::npos) {
        sizes.push_back({std::string_view(each).substr(0, equal), std::stoull(each.substr(equal + 1))});
      }
    }
    return rearrange(input, of.argument, sizes);
  }
  if (of.operation == "transpose") {
    return permute(input, given);
  }
  if (of.operation == "concatenate") {
    return index_map::concat(of.inputs, given.at(0));
  }
  if (of.operation == "stack") {
    return stack(of.inputs, given.at(0));
  }
  if (of.operation == "pad") {
    return pad(input, given.at(0), given.at(1), 0xff);
  }
  if (of.operation == "take") {
    return slice(input, given.at(0), given.at(1), given.at(2));
  }
  if (of.operation == "split") {
    return index_map::chunk(input, given.at(0), given.at(1), given.at(1) - 1);
  }
  throw std::runtime_error("no operation is called " + of.operation);
}

TEST(Vectors, OfEinopsAndNumpyAreMadeAsTheyWere) {
  std::ifstream in("tests/index/einops_vectors.txt");
  std::size_t count = 0;
  for (std::string line; std::getline(in, line); ++count) {
    SCOPED_TRACE(line);
    const std::vector<std::string> fields = split(line, '\t');
    ASSERT_EQ(fields.size(), 6U);
    vector_of_others of{.operation = fields[0], .argument = fields[1], .inputs = {}, .sizes = fields[3]};
    std::vector<std::int64_t> first{0};
    for (const std::string& each : split(fields[2], ';')) {
      const std::vector<std::uint64_t> extents = numbers(each);
      of.inputs.push_back(stored_tensor(of.inputs.size(), dtype::u8, shape(extents)));
      first.push_back(first.back() + static_cast<std::int64_t>(naive::product_of(extents)));
    }
    if (fields[4] == "error") {
      EXPECT_THROW((void)made_from(of), error);
      continue;
    }
    std::string faults;
    const naive::naive_tensor made = naive::made_by(made_from(of), faults);
    EXPECT_EQ(faults, "");
    EXPECT_EQ(made.extents, numbers(fields[4]));
    std::vector<std::int64_t> elements;
    for (const naive::element_id& each : made.elements) {
      const bool is_filled = each.tensor == naive::element_id::filled;
      elements.push_back(is_filled ? -1 : first[each.tensor] + static_cast<std::int64_t>(each.at));
    }
    EXPECT_EQ(elements, numbers<std::int64_t>(fields[5]));
  }
  EXPECT_GT(count, 500U);
}

}  // namespace
}  // namespace index_vectors_test
