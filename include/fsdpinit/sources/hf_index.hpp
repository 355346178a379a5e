#pragma once

#include <fsdpinit/core/error.hpp>
#include <fsdpinit/sources/json_scan.hpp>
#include <fsdpinit/sources/repeated_name.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

/// \file
/// Hugging Face's index of a checkpoint in several files: `{"weight_map": {"<tensor>": "<file>", ...}, ...}`, in a file
/// `*.safetensors.index.json` beside them. Everything but `weight_map` is advisory and not looked at, `metadata.total_size`
/// included.

namespace fsdpinit {

/// One file of an index and the tensors to take from it; what else it holds is not part of the checkpoint.
struct hf_index_file {
  std::string name;                  ///< a plain file name, relative to the folder of the index
  std::vector<std::string> tensors;  ///< sorted
};

namespace detail {

/// Why `name` must not be joined to a folder; empty where it may. Looks at the text alone, so that no index can lead
/// out of its folder whatever the file system holds.
[[nodiscard]] inline std::string_view why_no_plain_file_name(std::string_view name) noexcept {
  if (name.empty() || name == ".") {
    return "names no file";
  }
  if (name.find_first_of(std::string_view("/\\\0", 3)) != std::string_view::npos) {
    return "holds a separator or a NUL";
  }
  return name.find("..") != std::string_view::npos ? "holds \"..\"" : std::string_view();
}

struct mapped_tensor {
  std::string name;
  std::string file;
};

class hf_index_handler {
 public:
  explicit hf_index_handler(std::string_view file) : file_(file) {}

  void key(std::string& name) {
    if (place_ == place::top) {
      in_map_ = name == "weight_map";
      if (in_map_ && std::exchange(has_map_, true)) {
        fail("the index holds weight_map twice; once is expected");
      }
    } else if (place_ == place::map) {
      key_ = std::move(name);
    }
  }

  void scalar(json_scalar value) {
    if (place_ == place::before) {
      fail(concat("the index is ", value.shown(), ", not a JSON object"));
    }
    if (place_ == place::top && in_map_) {
      fail_map(value.shown());
    }
    if (place_ == place::map) {
      if (value.text == nullptr) {
        fail_entry(concat("is ", value.shown(), ", not a string"));
      }
      if (const auto why = why_no_plain_file_name(*value.text); !why.empty()) {
        fail_entry(concat("\"", printable(*value.text), "\" ", why));
      }
      mapped_.push_back({std::move(key_), std::move(*value.text)});
    }
  }

  void begin(bool object) {
    const std::string_view what = object ? "an object" : "an array";
    if (place_ == place::before) {
      if (!object) {
        fail("the index is an array, not a JSON object");
      }
      place_ = place::top;
    } else if (place_ == place::top) {
      if (in_map_ && !object) {
        fail_map(what);
      }
      place_ = in_map_ ? place::map : place::ignored;
    } else if (place_ == place::map) {
      fail_entry(concat("is ", what, ", not a string"));
    }
  }

  void end(std::size_t depth) {
    if (depth == top_depth) {
      place_ = place::top;
    }
  }

  [[nodiscard]] std::vector<mapped_tensor> take() {
    if (!has_map_) {
      fail("the index has no weight_map; an object from tensor names to file names is expected");
    }
    return std::move(mapped_);
  }

 private:
  enum class place : std::uint8_t { before, top, map, ignored };
  static constexpr std::size_t top_depth = 1;

  [[noreturn]] void fail(std::string_view text) const { throw error(errc::invalid_file, file_, text); }
  [[noreturn]] void fail_map(std::string_view found) const {
    fail(concat("weight_map is ", found, "; an object from tensor names to file names is expected"));
  }
  [[noreturn]] void fail_entry(std::string_view why) const {
    fail(concat("weight_map: the file of tensor \"", printable(key_), "\" ", why,
                "; the plain name of a file beside the index is expected"));
  }

  std::string_view file_;
  place place_ = place::before;
  bool in_map_ = false;
  bool has_map_ = false;
  std::string key_;
  std::vector<mapped_tensor> mapped_;
};

}  // namespace detail

/// The files that the index `text` names, sorted by name. `file` is the path of the index, for errors.
///
/// Cost: linear in the text, plus n log n for n tensors.
/// \throws error{invalid_file} naming `file`: no JSON (as for a safetensors header), no `weight_map` or two, one that
/// is empty or does not map strings to plain file names, a tensor mapped twice.
[[nodiscard]] inline std::vector<hf_index_file> parse_hf_index(std::string_view file, std::string_view text) {
  detail::hf_index_handler handler(file);
  detail::scan_json(file, "the index", text, handler);
  std::vector<detail::mapped_tensor> mapped = handler.take();
  if (mapped.empty()) {
    throw error(errc::invalid_file, file, "weight_map maps no tensor; download or save the index again");
  }
  if (const std::string* twice = detail::repeated_name(mapped, &detail::mapped_tensor::name); twice != nullptr) {
    throw error(errc::invalid_file, file,
                concat("weight_map: tensor \"", printable(*twice), "\" is mapped twice; once is expected"));
  }
  std::sort(mapped.begin(), mapped.end(), [](const detail::mapped_tensor& a, const detail::mapped_tensor& b) {
    return std::tie(a.file, a.name) < std::tie(b.file, b.name);
  });
  std::vector<hf_index_file> files;
  for (detail::mapped_tensor& tensor : mapped) {
    if (files.empty() || files.back().name != tensor.file) {
      files.push_back({std::move(tensor.file), {}});
    }
    files.back().tensors.push_back(std::move(tensor.name));
  }
  return files;
}

}  // namespace fsdpinit
