#pragma once

#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/core/error.hpp>
#include <fsdpinit/core/tensor_descriptor.hpp>
#include <fsdpinit/sources/repeated_name.hpp>
#include <fsdpinit/sources/safetensors_header.hpp>

#include <nlohmann/json.hpp>

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

namespace fsdpinit {

/// A safetensors file before its data are written: `header`, then each tensor's bytes in the order given.
struct safetensors_layout {
  std::string header;                ///< the length, the JSON, and spaces up to a multiple of 8 bytes
  std::vector<std::uint64_t> begin;  ///< of each tensor, in bytes from the start of the file
  std::uint64_t file_bytes = 0;      ///< of the finished file
};

namespace detail {

inline void expect_header_fits(std::uint64_t bytes) {
  if (bytes > max_safetensors_header_bytes) {
    throw error(errc::invalid_argument, "",
                concat("the safetensors header would have at least ", bytes, " bytes, ", max_safetensors_header_bytes,
                       " are allowed; split the tensors over several files"));
  }
}

/// Appends `text` as a JSON string. \throws error{invalid_argument} naming it where it is no UTF-8, or where `json`
/// gets longer than a header may be.
inline void append_json_string(std::string& json, const std::string& text) {
  expect_header_fits(json.size() + text.size());
  if (valid_utf8_prefix(text) != text.size()) {
    throw error(errc::invalid_argument, text, "is not UTF-8, which names and metadata must be; rename it");
  }
  json += nlohmann::json(text).dump();
}

}  // namespace detail

/// Lays out a file for `tensors`, one behind the other without gaps, in their order.
///
/// Cost: linear in names and metadata, plus n log n; holds the header and 8 bytes per tensor.
/// \throws error{invalid_argument} naming the tensor for a repeated name, one that is `__metadata__` or no UTF-8, a
/// size that overflows or is no whole number of bytes; without a name for a header above
/// `max_safetensors_header_bytes`.
[[nodiscard]] inline safetensors_layout lay_out_safetensors(std::span<const tensor_descriptor> tensors,
                                                            const std::map<std::string, std::string>& metadata = {}) {
  if (const std::string* twice = detail::repeated_name(tensors, &tensor_descriptor::name); twice != nullptr) {
    throw error(errc::invalid_argument, *twice, "the name was given twice; a safetensors file holds each name once");
  }
  std::string json = "{";
  if (!metadata.empty()) {
    json += "\"__metadata__\":{";
    for (const auto& [key, value] : metadata) {
      json += json.back() == '{' ? "" : ",";
      detail::append_json_string(json, key);
      json += ':';
      detail::append_json_string(json, value);
    }
    json += '}';
  }
  safetensors_layout out;
  out.begin.reserve(tensors.size());
  std::uint64_t at = 0;
  for (const tensor_descriptor& tensor : tensors) {
    if (tensor.name == "__metadata__") {
      throw error(errc::invalid_argument, tensor.name, "is no tensor name in a safetensors file; rename it");
    }
    const std::uint64_t bytes = byte_size(tensor);
    std::uint64_t end = 0;
    if (!checked_add(at, bytes, end)) {
      throw error(errc::invalid_argument, tensor.name, "the file would overflow 64 bits with it; split the checkpoint");
    }
    json += json.back() == '{' ? "" : ",";
    detail::append_json_string(json, tensor.name);
    json += concat(":{\"dtype\":\"", name(tensor.dtype), "\",\"shape\":[");
    for (std::size_t dim = 0; dim < tensor.shape.rank(); ++dim) {
      json += concat(dim == 0 ? "" : ",", tensor.shape[dim]);
    }
    json += concat("],\"data_offsets\":[", at, ",", end, "]}");
    out.begin.push_back(at);
    at = end;
  }
  json += '}';
  json.resize(align_up(json.size(), safetensors_prefix_bytes), ' ');
  detail::expect_header_fits(json.size());
  for (std::size_t i = 0; i < safetensors_prefix_bytes; ++i) {
    out.header += static_cast<char>((json.size() >> (8 * i)) & 0xffU);
  }
  out.header += json;
  if (!checked_add(at, out.header.size(), out.file_bytes)) {
    throw error(errc::invalid_argument, "", "the safetensors file would overflow 64 bits; split the tensors");
  }
  for (std::uint64_t& begin : out.begin) {
    begin += out.header.size();
  }
  return out;
}

}  // namespace fsdpinit
