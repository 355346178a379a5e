// A map file of any bytes: an error of one line that names the file, or rules that can be tried on a checkpoint.

#include "fuzz_target.hpp"
#include <fsdpinit/core/error.hpp>
#include <fsdpinit/core/tensor_descriptor.hpp>
#include <fsdpinit/sources/json_rules.hpp>
#include <fsdpinit/sources/resolution.hpp>

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

using namespace fsdpinit;
using fuzz::require;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const std::vector<tensor_descriptor> stored{{.name = "a"},     {.name = "a.w"},   {.name = "b.w"},
                                                     {.name = "m.0.w"}, {.name = "m.1.w"}, {.name = "m.1.b"},
                                                     {.name = ""}};
  bool is_read = false;
  try {
    const rules::rule_set rules = parse_rules("map", std::string_view(reinterpret_cast<const char*>(data), size));
    is_read = true;
    const rules::resolution got = resolve(rules, stored);
    require(got.kept.size() + got.dropped.size() <= stored.size(), "more tensors than there are");
    for (const rules::made_tensor& each : got.made) {
      require(!each.stored.empty() && each.rule < rules.rules.size(), "a tensor that is made of nothing");
    }
  } catch (const error& rejected) {
    require(rejected.code() == (is_read ? errc::invalid_argument : errc::invalid_file), "another kind of error");
    require(rejected.subject() == "map", "an error that does not name the file");
    fuzz::require_printable(rejected.what());
  }
  return 0;
}
