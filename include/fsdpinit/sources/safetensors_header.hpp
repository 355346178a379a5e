#pragma once

#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/core/error.hpp>
#include <fsdpinit/core/tensor_descriptor.hpp>
#include <fsdpinit/sources/json_scan.hpp>
#include <fsdpinit/sources/repeated_name.hpp>

#include <gsl/assert>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

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

/// One tensor of a file. `begin` and `end` are bytes counted from the start of the file.
struct safetensors_entry {
  tensor_descriptor descriptor;
  std::uint64_t begin = 0;
  std::uint64_t end = 0;
};

/// What a header says, after every check. The tensors follow each other without a gap to the end of the file.
struct safetensors_header {
  std::vector<safetensors_entry> tensors;       ///< in the order of their data; of empty ones at one place, as written
  std::map<std::string, std::string> metadata;  ///< `__metadata__`; empty where the file has none
};

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
  std::string prefix;
  for (std::size_t i = 0; i < safetensors_prefix_bytes; ++i) {
    length |= std::to_integer<std::uint64_t>(first_bytes[i]) << (8 * i);
    prefix += static_cast<char>(first_bytes[i]);
  }
  if (length > max_safetensors_header_bytes) {
    throw error(errc::invalid_file, file,
                prefix == "version " ? "is a Git LFS pointer, not the file itself; fetch it with `git lfs pull`"
                : prefix.starts_with("PK\3\4")
                    ? "is a zip archive, as torch.save writes them; convert it to safetensors first"
                    : concat("its first 8 bytes announce a header of ", length, " bytes, more than the ",
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

[[nodiscard]] inline std::string tensor_text(std::string_view name) {
  return concat("tensor \"", printable(name), "\"");
}

/// Collects the entries as they are written, offsets still relative to the data.
class safetensors_header_handler {
 public:
  safetensors_header_handler(std::string_view file, safetensors_header& out) : file_(file), out_(out) {}

  void key(std::string& name) {
    if (place_ == place::top) {
      key_ = std::move(name);
      if (key_ == metadata_key && std::exchange(has_metadata_, true)) {
        fail("the header holds __metadata__ twice; once is allowed");
      }
    } else if (place_ == place::metadata) {
      key_ = std::move(name);
    } else if (place_ == place::entry) {
      field_ = name == "dtype"          ? field::dtype
               : name == "shape"        ? field::shape
               : name == "data_offsets" ? field::data_offsets
                                        : field::unknown;
      bool* const seen = field_ == field::unknown ? nullptr : &seen_[static_cast<std::size_t>(field_)];
      if (seen != nullptr && std::exchange(*seen, true)) {
        fail_tensor(concat(name, " is given twice; once is expected"));
      }
    }
  }

  void scalar(json_scalar value) {
    switch (place_) {
      case place::before:
        fail(concat("the header is ", value.shown(), ", not a JSON object"));
      case place::top:
        if (key_ == metadata_key) {
          fail_metadata(value.shown());
        }
        fail_tensor(
            concat("its entry is ", value.shown(), "; an object with dtype, shape and data_offsets is expected"));
      case place::metadata:
        if (value.text == nullptr) {
          fail_metadata_value(value.shown());
        }
        out_.metadata[key_] = std::move(*value.text);
        return;
      case place::entry:
        return field_value(value);
      case place::list:
        if (value.number == nullptr) {
          fail_number(value.shown());
        }
        numbers_.push_back(*value.number);
        if (field_ == field::data_offsets && numbers_.size() > 2) {
          fail_tensor("data_offsets has more than the two entries begin and end");
        }
        return;
      case place::ignored:
        return;
    }
  }

  void begin(bool object) {
    const std::string_view what = object ? "an object" : "an array";
    switch (place_) {
      case place::before:
        if (!object) {
          fail("the header is an array, not a JSON object");
        }
        place_ = place::top;
        return;
      case place::top:
        if (key_ == metadata_key) {
          if (!object) {
            fail_metadata(what);
          }
          place_ = place::metadata;
          return;
        }
        if (!object) {
          fail_tensor("its entry is an array; an object with dtype, shape and data_offsets is expected");
        }
        entry_ = {};
        std::fill(std::begin(seen_), std::end(seen_), false);
        place_ = place::entry;
        return;
      case place::metadata:
        fail_metadata_value(what);
      case place::entry:
        if (field_ == field::unknown) {
          place_ = place::ignored;
          return;
        }
        if (field_ == field::dtype || object) {
          fail_field(what);
        }
        numbers_.clear();
        place_ = place::list;
        return;
      case place::list:
        fail_number(what);
      case place::ignored:
        return;
    }
  }

  void end(std::size_t depth) {
    switch (place_) {
      case place::metadata:
        place_ = place::top;
        return;
      case place::entry:
        finish_entry();
        place_ = place::top;
        return;
      case place::list:
        finish_list();
        place_ = place::entry;
        return;
      case place::ignored:
        if (depth == entry_depth) {
          place_ = place::entry;
        }
        return;
      case place::before:
      case place::top:
        return;
    }
  }

 private:
  enum class place : std::uint8_t { before, top, metadata, entry, list, ignored };
  enum class field : std::uint8_t { dtype, shape, data_offsets, unknown };
  static constexpr std::string_view metadata_key = "__metadata__";
  static constexpr std::size_t entry_depth = 2;

  void field_value(json_scalar value) {
    if (field_ == field::unknown) {
      return;
    }
    if (field_ != field::dtype || value.text == nullptr) {
      fail_field(value.shown());
    }
    const auto type = parse_dtype(*value.text);
    if (!type) {
      fail_tensor(concat("dtype ", value.shown(), " is none of the ", dtype_count,
                         " that safetensors has, spelled exactly (\"F32\", \"BF16\")"));
    }
    entry_.descriptor.dtype = *type;
  }

  void finish_list() {
    if (field_ == field::shape) {
      entry_.descriptor.shape = shape(std::vector<std::uint64_t>(numbers_));
    } else if (numbers_.size() == 2) {
      entry_.begin = numbers_[0];
      entry_.end = numbers_[1];
    } else {
      fail_tensor(concat("data_offsets has ", numbers_.size(), " entries, not the two begin and end"));
    }
  }

  void finish_entry() {
    constexpr std::string_view fields[] = {"dtype", "shape", "data_offsets"};
    for (std::size_t i = 0; i < std::size(fields); ++i) {
      if (!seen_[i]) {
        fail_tensor(concat("its entry lacks ", fields[i]));
      }
    }
    entry_.descriptor.name = std::move(key_);
    out_.tensors.push_back(std::move(entry_));
  }

  [[nodiscard]] std::string_view field_name() const {
    return field_ == field::dtype ? "dtype" : field_ == field::shape ? "shape" : "data_offsets";
  }

  [[noreturn]] void fail(std::string_view text) const { throw error(errc::invalid_file, file_, text); }
  [[noreturn]] void fail_tensor(std::string_view text) const { fail(concat(tensor_text(key_), ": ", text)); }
  [[noreturn]] void fail_field(std::string_view found) const {
    fail_tensor(concat(field_name(), " is ", found, "; ",
                       field_ == field::dtype ? "a string like \"F32\"" : "an array of unsigned integers",
                       " is expected"));
  }
  [[noreturn]] void fail_number(std::string_view found) const {
    fail_tensor(concat(field_name(), " holds ", found, "; unsigned 64-bit integer literals are expected"));
  }
  [[noreturn]] void fail_metadata(std::string_view found) const {
    fail(concat("__metadata__ is ", found, "; an object from strings to strings is expected"));
  }
  [[noreturn]] void fail_metadata_value(std::string_view found) const {
    fail(concat("__metadata__ maps \"", printable(key_), "\" to ", found, "; only strings are allowed"));
  }

  std::string_view file_;
  safetensors_header& out_;
  place place_ = place::before;
  field field_ = field::unknown;
  bool has_metadata_ = false;
  bool seen_[3] = {};
  std::string key_;
  safetensors_entry entry_;
  std::vector<std::uint64_t> numbers_;
};

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
  detail::safetensors_header_handler handler(file, header);
  detail::scan_json(file, "the header", json, handler);

  auto& tensors = header.tensors;
  const auto name_of = [](const safetensors_entry& entry) -> const std::string& { return entry.descriptor.name; };
  if (const std::string* twice = detail::repeated_name(tensors, name_of); twice != nullptr) {
    throw error(errc::invalid_file, file,
                concat(detail::tensor_text(*twice),
                       ": the header holds this name twice; once is expected, however it is escaped"));
  }

  std::stable_sort(tensors.begin(), tensors.end(), [](const safetensors_entry& a, const safetensors_entry& b) {
    return std::tie(a.begin, a.end) < std::tie(b.begin, b.end);
  });
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
