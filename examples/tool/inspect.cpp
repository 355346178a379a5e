#include "commands.hpp"
#include "opener.hpp"
#include "terminal.hpp"
#include <fsdpinit/core/tensor_descriptor.hpp>
#include <fsdpinit/observe/report_json.hpp>
#include <fsdpinit/observe/text_table.hpp>
#include <fsdpinit/sources/compiled_rules.hpp>
#include <fsdpinit/sources/converted.hpp>
#include <fsdpinit/sources/resolution.hpp>
#include <fsdpinit/sources/rules.hpp>
#include <fsdpinit/sources/safetensors.hpp>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <map>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <tuple>
#include <utility>
#include <vector>

#include <unistd.h>

namespace fsdpinit::tool {
namespace {

struct dtype_total {
  std::size_t tensors = 0;
  std::uint64_t bytes = 0;
};

std::map<std::string_view, dtype_total> totals_of(std::span<const tensor_descriptor> tensors) {
  std::map<std::string_view, dtype_total> totals;
  for (const tensor_descriptor& tensor : tensors) {
    dtype_total& total = totals[name(tensor.dtype)];
    ++total.tensors;
    total.bytes += byte_size(tensor);
  }
  return totals;
}

std::uint64_t bytes_of(std::span<const tensor_descriptor> tensors) {
  std::uint64_t bytes = 0;
  for (const tensor_descriptor& tensor : tensors) {
    bytes += byte_size(tensor);
  }
  return bytes;
}

/// A checkpoint as it is shown: by the rules of a map, where there is one.
class shown_checkpoint {
 public:
  shown_checkpoint(const inspect_request& asked, const rules::rule_set& rules, safetensors_source& source)
      : how(asked), stored(source), made(source, rules) {
    for (rules::made_tensor& each : rules::resolve(rules, source.tensors()).made) {
      parts_.emplace(std::move(each.name), std::move(each.stored));
    }
  }

  [[nodiscard]] std::span<const tensor_descriptor> tensors() const { return made.tensors(); }
  /// The stored tensors that it is made of; none where it is a stored one, under its name.
  [[nodiscard]] std::span<const std::size_t> parts_of(const tensor_descriptor& tensor) const {
    const auto found = parts_.find(tensor.name);
    return found == parts_.end() ? std::span<const std::size_t>() : found->second;
  }

  const inspect_request& how;
  const safetensors_source& stored;
  converted_source<safetensors_source&> made;

 private:
  std::map<std::string, std::vector<std::size_t>> parts_;
};

/// Tensors of one kind: the same name but for the first number in it, dtype and shape.
struct tensor_family {
  std::string before;
  std::string after;
  std::vector<std::uint64_t> numbers;  // empty: one tensor, called `before`
  std::vector<const tensor_descriptor*> all{};
  [[nodiscard]] const tensor_descriptor& first() const { return *all.front(); }
};

/// `model.layers.{0..27}.mlp.up_proj.weight`, or `{0,2,4}`.
std::string pattern_of(const tensor_family& family) {
  if (family.numbers.size() < 2) {
    return printable(family.first().name);
  }
  std::vector<std::uint64_t> sorted = family.numbers;
  std::sort(sorted.begin(), sorted.end());
  const bool whole = sorted.back() - sorted.front() + 1 == sorted.size();
  const std::string range =
      whole ? fmt::format("{}..{}", sorted.front(), sorted.back()) : fmt::format("{}", fmt::join(sorted, ","));
  return printable(family.before) + "{" + (range.size() < 40 ? range : fmt::format("{} numbers", sorted.size())) + "}" +
         printable(family.after);
}

std::vector<tensor_family> families_of(std::span<const tensor_descriptor> tensors) {
  std::vector<tensor_family> families;
  std::map<std::tuple<std::string, std::string, std::string>, std::size_t> known;
  for (const tensor_descriptor& tensor : tensors) {
    const std::string& fqn = tensor.name;
    tensor_family made{.before = fqn, .after = {}, .numbers = {}, .all = {&tensor}};
    for (std::size_t begin = 0; begin < fqn.size();) {
      const std::size_t end = std::min(fqn.find('.', begin), fqn.size());
      const std::string_view part = std::string_view(fqn).substr(begin, end - begin);
      if (!part.empty() && part.size() < 10 && part.find_first_not_of("0123456789") == std::string_view::npos) {
        made.before = fqn.substr(0, begin);
        made.after = fqn.substr(end);
        made.numbers = {std::stoull(std::string(part))};
        break;
      }
      begin = end + 1;
    }
    const auto [at, is_new] = known.try_emplace(
        {made.before, made.after, concat(name(tensor.dtype), to_string(tensor.shape))}, families.size());
    if (is_new) {
      families.push_back(std::move(made));
    } else {
      families[at->second].numbers.push_back(made.numbers.front());
      families[at->second].all.push_back(&tensor);
    }
  }
  return families;
}

/// `layers.{0..27}.qkv.weight <- layers.{0..27}.q.weight, layers.{0..27}.k.weight`, for tensors of one kind
void print_parts(const shown_checkpoint& shown, const tensor_family& family) {
  std::vector<tensor_descriptor> parts;
  std::set<std::size_t> seen;  // several may be made of one
  for (const tensor_descriptor* const each : family.all) {
    for (const std::size_t part : shown.parts_of(*each)) {
      if (seen.insert(part).second) {
        parts.push_back(shown.stored.tensors()[part]);
      }
    }
  }
  detail::listed_names names;
  for (const tensor_family& each : families_of(parts)) {
    names.add_shown(pattern_of(each));
  }
  if (!names.empty()) {
    fmt::print("{} <- {}\n", pattern_of(family), names.text());
  }
}

void print_text(const shown_checkpoint& shown) {
  const safetensors_source& source = shown.stored;
  const std::span<const tensor_descriptor> tensors = shown.tensors();
  const std::string& map = shown.how.map;
  fmt::print("{}{}{}: {}, {} in {}\n\n", printable(shown.how.checkpoint), map.empty() ? "" : " by ", printable(map),
             counted(tensors.size(), "tensor"), bytes_text(bytes_of(tensors)), counted(source.files().size(), "file"));
  const std::size_t columns = terminal_columns(STDOUT_FILENO);
  text_table files({"file", "size", "header", "tensors", "metadata"});
  for (const safetensors_file_info& file : source.files()) {
    std::string metadata;
    for (const auto& [key, value] : file.metadata) {
      metadata += fmt::format("{}{}={}", metadata.empty() ? "" : ", ", printable(key, 40), printable(value, 40));
    }
    files.add({printable(file.path.substr(file.path.rfind('/') + 1)), bytes_text(file.bytes),
               bytes_text(file.header_bytes), fmt::format("{}", file.tensors), printable(metadata, 200)});
  }
  text_table dtypes({"dtype", "tensors", "bytes"});
  for (const auto& [type, total] : totals_of(tensors)) {
    dtypes.add({std::string(type), fmt::format("{}", total.tensors), bytes_text(total.bytes)});
  }
  text_table names({"tensor", "dtype", "shape", "count", "each"});
  const std::vector<tensor_family> families = families_of(tensors);
  for (const tensor_family& family : families) {
    names.add({pattern_of(family), std::string(name(family.first().dtype)), to_string(family.first().shape),
               fmt::format("{}", family.all.size()), bytes_text(byte_size(family.first()))});
  }
  fmt::print("{}\n{}\n{}", files.text(columns), dtypes.text(columns), names.text(columns));
  if (!map.empty()) {
    fmt::print("\nmade by {}\n", printable(map));
    for (const tensor_family& family : families) {
      print_parts(shown, family);
    }
  }
  if (!source.unlisted().empty()) {
    text_table left_out({"left out by the index", "in"});
    for (const unlisted_tensor& each : source.unlisted()) {
      left_out.add({each.name.empty() ? "(not looked into)" : printable(each.name), printable(each.file)});
    }
    fmt::print("\n{}", left_out.text(columns));
  }
}

void print_json(const shown_checkpoint& shown) {
  const safetensors_source& source = shown.stored;
  using nlohmann::ordered_json;
  ordered_json files = ordered_json::array();
  for (const safetensors_file_info& file : source.files()) {
    files.push_back({{"path", file.path},
                     {"bytes", file.bytes},
                     {"header_bytes", file.header_bytes},
                     {"tensors", file.tensors},
                     {"metadata", ordered_json(file.metadata)}});
  }
  ordered_json dtypes = ordered_json::object();
  for (const auto& [type, total] : totals_of(shown.tensors())) {
    dtypes[std::string(type)] = {{"tensors", total.tensors}, {"bytes", total.bytes}};
  }
  ordered_json tensors = ordered_json::array();
  for (std::size_t i = 0; i < shown.tensors().size(); ++i) {
    const tensor_descriptor& tensor = shown.tensors()[i];
    const std::optional<file_position> at = shown.made.position_of(i);
    tensors.push_back({{"name", tensor.name},
                       {"dtype", name(tensor.dtype)},
                       {"shape", std::vector<std::uint64_t>(tensor.shape.begin(), tensor.shape.end())},
                       {"bytes", byte_size(tensor)},
                       {"file", at ? ordered_json(at->file) : ordered_json()},
                       {"offset", at ? ordered_json(at->offset) : ordered_json()}});
    for (const std::size_t part : shown.parts_of(tensor)) {
      tensors.back()["made_of"].push_back(source.tensors()[part].name);
    }
  }
  ordered_json unlisted = ordered_json::array();
  for (const unlisted_tensor& each : source.unlisted()) {
    unlisted.push_back({{"name", each.name.empty() ? ordered_json() : ordered_json(each.name)}, {"file", each.file}});
  }
  const std::string& map = shown.how.map;
  fmt::print("{}", json_text({{"format", "fsdpinit.inspect"},
                              {"format_version", 1},
                              {"checkpoint", shown.how.checkpoint},
                              {"map", map.empty() ? ordered_json() : ordered_json(map)},
                              {"bytes", bytes_of(shown.tensors())},
                              {"dtypes", std::move(dtypes)},
                              {"files", std::move(files)},
                              {"tensors", std::move(tensors)},
                              {"unlisted", std::move(unlisted)}}));
}

}  // namespace

void run_inspect(const inspect_request& how) {
  // Here a file may be a part: it is only looked at.
  std::error_code unreadable;  // opening it says why
  const bool is_file =
      std::filesystem::is_regular_file(how.checkpoint, unreadable) && !how.checkpoint.ends_with(".json");
  safetensors_source source = is_file ? safetensors_file{how.checkpoint}() : open_safetensors(how.checkpoint);
  const shown_checkpoint shown(how, rules_in(how.map), source);
  how.json ? print_json(shown) : print_text(shown);
}

}  // namespace fsdpinit::tool
