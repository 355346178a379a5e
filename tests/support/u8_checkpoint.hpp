#pragma once

#include <fsdpinit/sources/safetensors_source.hpp>
#include <support/safetensors_bytes.hpp>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

/// \file
/// Checkpoints of U8 tensors, whose bytes are texts.

namespace fsdpinit::testing_support {

/// `{name, content}` each.
using u8_tensors = std::vector<std::pair<std::string, std::string>>;

/// A safetensors file of them. `metadata` is JSON; empty for none.
[[nodiscard]] inline std::string u8_file(const u8_tensors& tensors, const std::string& metadata = {}) {
  std::string json = metadata.empty() ? "" : concat("{\"__metadata__\":", metadata);
  std::string data;
  for (const auto& [name, content] : tensors) {
    json += (json.empty() ? "{" : ",") +
            safetensors_entry_json(name, "U8", concat("[", content.size(), "]"),
                                   concat("[", data.size(), ",", data.size() + content.size(), "]"));
    data += content;
  }
  return safetensors_bytes(json + "}", data);
}

/// An index, `{tensor, file}` each.
[[nodiscard]] inline std::string index_json(const std::vector<std::pair<std::string, std::string>>& map) {
  std::string json;
  for (const auto& [tensor, file] : map) {
    json += concat(json.empty() ? "" : ",", "\"", tensor, "\":\"", file, "\"");
  }
  return R"({"metadata":{"total_size":1},"weight_map":{)" + json + "}}";
}

[[nodiscard]] inline std::string read_text(const safetensors_source& source, std::size_t tensor, std::uint64_t offset,
                                           std::size_t count) {
  std::string out(count, '?');
  source.read(tensor, offset, std::as_writable_bytes(std::span(out)));
  return out;
}

/// Every tensor, whole, in the source's order.
[[nodiscard]] inline u8_tensors all_of(const safetensors_source& source) {
  u8_tensors out;
  for (std::size_t i = 0; i < source.tensors().size(); ++i) {
    out.emplace_back(source.tensors()[i].name, read_text(source, i, 0, source.place_of(i).bytes));
  }
  return out;
}

}  // namespace fsdpinit::testing_support
