#pragma once

#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/core/error.hpp>
#include <fsdpinit/core/tensor_descriptor.hpp>
#include <fsdpinit/sources/json_scan.hpp>
#include <fsdpinit/sources/repeated_name.hpp>
#include <fsdpinit/sources/safetensors_header_handler.hpp>
#include <fsdpinit/sources/safetensors_table.hpp>

#include <gsl/assert>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <tuple>

/// \file
/// The header of a safetensors file: 8 bytes of length (little-endian), that many bytes of JSON, then the data.
///
/// Pure functions: bytes in, a checked table out. The rules are those of the reference implementation (the Rust crate
/// `safetensors`), whatever it accepts beyond the text of the format included, and stricter in three places: a tensor
/// name appears once however it is escaped, an entry is an object, a dtype is a string.

namespace fsdpinit {

/// The reference refuses headers longer than this.
inline constexpr std::uint64_t max_safetensors_header_bytes = 100'000'000;
/// The bytes before the JSON: its length.
inline constexpr std::uint64_t safetensors_prefix_bytes = 8;

/// The length of the JSON, from the first 8 bytes of a file of `file_bytes` bytes (fewer where the file has fewer).
/// \throws error{invalid_file} naming `file` if the file cannot hold a header of that length, or may not.
[[nodiscard]] inline std::uint64_t safetensors_header_length(std::string_view file, bytes_view first_bytes,
                                                             std::uint64_t file_bytes) {
  if (file_bytes < safetensors_prefix_bytes) {
    throw error(errc::invalid_file, file,
                concat("has ", file_bytes, " bytes, a safetensors file has at least ", safetensors_prefix_bytes,
                       "; download or save the file again"));
  }
  Expects(first_bytes.size() >= safetensors_prefix_bytes);
  std::uint64_t length = 0;
  for (std::size_t i = 0; i < safetensors_prefix_bytes; ++i) {
    length |= std::to_integer<std::uint64_t>(first_bytes[i]) << (8 * i);
  }
  if (length > max_safetensors_header_bytes) {
    throw error(errc::invalid_file, file,
                concat("its first 8 bytes announce a header of ", length, " bytes, more than the ",
                       max_safetensors_header_bytes, " allowed; it is damaged, or no safetensors file"));
  }
  if (const std::uint64_t rest = file_bytes - safetensors_prefix_bytes; length > rest) {
    throw error(errc::invalid_file, file,
                concat("its header should have ", length, " bytes, but only ", rest,
                       " follow: the file is truncated; download or save it again"));
  }
  return length;
}

namespace detail {

/// No entry is shorter than the one of an empty name.
inline constexpr std::size_t least_entry_bytes =
    std::string_view(R"("":{"dtype":"U8","shape":[],"data_offsets":[0,1]})").size();

/// Size and place of one tensor, checked in the order of the reference. `before` is the tensor before it, if any.
inline void check_entry(std::string_view file, const safetensors_entry& entry, const safetensors_entry* before) {
  const auto& [name, type, extents] = entry.descriptor;
  const auto fail = [&](std::string_view text) {
    throw error(errc::invalid_file, file, concat(tensor_text(name), ": ", text));
  };
  // Texts are made only where they are needed: this runs once per tensor.
  const auto range = [&] { return concat("data_offsets [", entry.begin, ", ", entry.end, "]"); };
  const auto what = [&] { return concat("shape ", printable(to_string(extents)), " of ", fsdpinit::name(type)); };
  const auto neighbour = [&] {
    return before != nullptr ? concat(tensor_text(before->descriptor.name), " ends at ", before->end)
                             : std::string("the data begin at 0");
  };
  const std::uint64_t expected = before != nullptr ? before->end : 0;
  if (entry.end < entry.begin) {
    fail(concat(range(), " are reversed; begin comes first"));
  }
  if (entry.begin > expected) {
    fail(concat(range(), " leave a hole of ", entry.begin - expected, " bytes, ", neighbour(),
                "; every byte must belong to a tensor"));
  }
  if (entry.begin < expected) {
    fail(concat(range(), " overlap, ", neighbour(), "; every byte must belong to one tensor"));
  }
  const auto total = checked_bits(type, extents);
  if (!total) {
    fail(concat(what(), " overflows 64 bits; the header is damaged"));
  }
  if (*total % 8 != 0) {
    fail(concat(what(), " takes ", *total, " bits; whole bytes are expected"));
  }
  if (*total / 8 != entry.end - entry.begin) {
    fail(concat(what(), " takes ", *total / 8, " bytes, but ", range(), " span ", entry.end - entry.begin));
  }
}

}  // namespace detail

/// The table of a file of `file_bytes` bytes whose header is `json` (without the 8 bytes of length).
///
/// Cost: linear in the header, plus n log n to sort n tensors. Holds the result and a few words per tensor.
/// \throws error{invalid_file} naming `file`, the tensor, and what was expected, for every rule that is broken.
/// \pre 8 + json.size() <= file_bytes
[[nodiscard]] inline safetensors_header parse_safetensors_header(std::string_view file, std::string_view json,
                                                                 std::uint64_t file_bytes) {
  Expects(file_bytes >= safetensors_prefix_bytes && json.size() <= file_bytes - safetensors_prefix_bytes);
  safetensors_header header;
  header.tensors.reserve(json.size() / detail::least_entry_bytes);
  detail::safetensors_header_handler handler(file, header);
  detail::scan_json(file, "the header", json, handler);

  auto& tensors = header.tensors;
  const auto name_of = [](const safetensors_entry& entry) -> const std::string& { return entry.descriptor.name; };
  if (const std::string* twice = detail::repeated_name(tensors, name_of); twice != nullptr) {
    throw error(errc::invalid_file, file,
                concat(detail::tensor_text(*twice),
                       ": the header holds this name twice; once is expected, however it is escaped"));
  }

  const auto lies_before = [](const safetensors_entry& a, const safetensors_entry& b) {
    return std::tie(a.begin, a.end) < std::tie(b.begin, b.end);
  };
  if (!std::is_sorted(tensors.begin(), tensors.end(), lies_before)) {
    std::stable_sort(tensors.begin(), tensors.end(), lies_before);
  }
  const safetensors_entry* before = nullptr;
  for (const safetensors_entry& entry : tensors) {
    detail::check_entry(file, entry, before);
    before = &entry;
  }
  const std::uint64_t used = before != nullptr ? before->end : 0;
  const std::uint64_t data_begin = safetensors_prefix_bytes + json.size();
  const std::uint64_t there = file_bytes - data_begin;
  if (used > there) {
    throw error(errc::invalid_file, file,
                concat("its tensors take ", used, " bytes, but only ", there,
                       " follow the header: the file is truncated by ", used - there, "; download or save it again"));
  }
  if (used < there) {
    throw error(
        errc::invalid_file, file,
        concat(there - used, " bytes follow the last tensor; nothing may follow it, download or save the file again"));
  }
  for (safetensors_entry& entry : tensors) {
    entry.begin += data_begin;
    entry.end += data_begin;
  }
  return header;
}

}  // namespace fsdpinit
