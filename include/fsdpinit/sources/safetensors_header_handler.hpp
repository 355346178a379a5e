#pragma once

#include <fsdpinit/core/dtype.hpp>
#include <fsdpinit/core/error.hpp>
#include <fsdpinit/core/shape.hpp>
#include <fsdpinit/core/text.hpp>
#include <fsdpinit/sources/json_scan.hpp>
#include <fsdpinit/sources/safetensors_table.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace fsdpinit::detail {

/// Collects the entries as they are written, offsets still relative to the data.
class safetensors_header_handler {
 public:
  safetensors_header_handler(std::string_view file, safetensors_header& out) : file_(file), out_(out) {}

  void key(const std::string& name) {
    if (place_ == place::top) {
      key_ = name;  // not moved: the reader keeps its buffer, and the entry gets no more memory than the name takes
      if (key_ == metadata_key && std::exchange(has_metadata_, true)) {
        fail("the header holds __metadata__ twice; once is allowed");
      }
    } else if (place_ == place::metadata) {
      key_ = name;
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
          if (value.other == "null") {  // as if there were none
            return;
          }
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
      entry_.descriptor.shape = shape(numbers_);
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

}  // namespace fsdpinit::detail
