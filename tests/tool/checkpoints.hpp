#pragma once

#include <support/temp_dir.hpp>

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <map>
#include <string>
#include <utility>
#include <vector>

/// \file
/// Checkpoints for the tests of the tool, and a reader of safetensors files that shares no code with the library.

namespace fsdpinit::testing_support {

struct plain_tensor {
  std::string dtype;
  std::vector<std::uint64_t> shape;
  std::string bytes;
};

using plain_tensors = std::map<std::string, plain_tensor>;

struct plain_file {
  plain_tensors tensors;
  std::vector<std::string> order;  ///< by offset, those of one offset as written
  nlohmann::json metadata;
  std::uint64_t header_bytes = 0;
};

[[nodiscard]] inline plain_file read_plain(const std::string& path) {
  const std::string content = content_of(path);
  plain_file file;
  std::memcpy(&file.header_bytes, content.data(), 8);
  const auto header = nlohmann::ordered_json::parse(content.substr(8, file.header_bytes));
  std::vector<std::pair<std::uint64_t, std::string>> order;
  for (const auto& [name, entry] : header.items()) {
    if (name == "__metadata__") {
      file.metadata = entry;
      continue;
    }
    const std::uint64_t begin = entry["data_offsets"][0];
    const std::uint64_t end = entry["data_offsets"][1];
    file.tensors[name] = {entry["dtype"], entry["shape"], content.substr(8 + file.header_bytes + begin, end - begin)};
    order.emplace_back(begin, name);
  }
  std::stable_sort(order.begin(), order.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  for (const auto& each : order) {
    file.order.push_back(each.second);
  }
  return file;
}

[[nodiscard]] inline plain_tensor made_up(std::string dtype, std::uint64_t element_bytes,
                                          std::vector<std::uint64_t> shape) {
  std::uint64_t bytes = element_bytes;
  for (const std::uint64_t extent : shape) {
    bytes *= extent;
  }
  plain_tensor made{std::move(dtype), std::move(shape), std::string(bytes, '\0')};
  std::uint32_t state = 12345 + static_cast<std::uint32_t>(bytes);
  for (char& byte : made.bytes) {
    state = state * 1664525 + 1013904223;
    byte = static_cast<char>(state >> 24U);
  }
  return made;
}

/// Rows that divide, that do not, fewer rows than ranks, a scalar, empty tensors, several dtypes, odd sizes, layers.
[[nodiscard]] inline plain_tensors small_model() {
  plain_tensors tensors{{"embed.weight", made_up("BF16", 2, {131, 12})},
                        {"norm.weight", made_up("F32", 4, {7})},
                        {"scale", made_up("F32", 4, {})},
                        {"none", made_up("I64", 8, {0, 3})},
                        {"no_columns", made_up("F16", 2, {5, 0})},
                        {"flags", made_up("BOOL", 1, {3, 5})},
                        {"one", made_up("F64", 8, {1})}};
  for (const char layer : {'0', '1', '2'}) {
    const std::string prefix = std::string("layers.") + layer + ".";
    tensors[prefix + "up.weight"] = made_up("BF16", 2, {33, 9});
    tensors[prefix + "down.weight"] = made_up("BF16", 2, {9, 33});
    tensors[prefix + "step"] = made_up("I64", 8, {});
  }
  return tensors;
}

/// A safetensors file. The tensors lie in reverse order of their names, so that no order is kept by accident.
inline void write_plain(const std::string& path, const plain_tensors& tensors) {
  nlohmann::ordered_json header;
  header["__metadata__"] = {{"format", "pt"}};
  std::string data;
  for (auto each = tensors.rbegin(); each != tensors.rend(); ++each) {
    header[each->first] = {{"dtype", each->second.dtype},
                           {"shape", each->second.shape},
                           {"data_offsets", {data.size(), data.size() + each->second.bytes.size()}}};
    data += each->second.bytes;
  }
  const std::string json = header.dump();
  const std::uint64_t length = json.size();
  std::string content(8, '\0');
  std::memcpy(content.data(), &length, 8);
  std::ofstream out(path, std::ios::binary);
  out << content << json << data;
}

/// The part of rank `rank` of `shards`: rows [rank * c, (rank + 1) * c) with c = ceil(rows / shards), or all of a
/// scalar.
struct plain_slice {
  plain_tensor part;
  std::uint64_t offset = 0;
};

[[nodiscard]] inline plain_slice slice(const plain_tensor& whole, std::uint64_t shards, std::uint64_t rank) {
  if (whole.shape.empty()) {
    return {whole, 0};
  }
  const std::uint64_t rows = whole.shape[0];
  const std::uint64_t each = (rows + shards - 1) / shards;
  const std::uint64_t begin = std::min(rank * each, rows);
  const std::uint64_t end = std::min(begin + each, rows);
  const std::uint64_t row_bytes = rows == 0 ? 0 : whole.bytes.size() / rows;
  plain_tensor part = whole;
  part.shape[0] = end - begin;
  part.bytes = whole.bytes.substr(begin * row_bytes, (end - begin) * row_bytes);
  return {part, begin};
}

}  // namespace fsdpinit::testing_support
