#pragma once

#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/core/text.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

/// \file
/// What a file is that should have been a safetensors file. Downloads go wrong in a few ways, and each has its remedy.

namespace fsdpinit::detail {

/// So many bytes from the beginning of a file tell what it is.
inline constexpr std::size_t telling_bytes = 512;

struct file_signature {
  std::string_view begins_with;
  std::string_view what;
};

inline constexpr std::string_view convert_pickle =
    "convert it: load it in Python with torch.load(weights_only=True), and save it with safetensors.torch.save_file";

inline constexpr std::array file_signatures{
    file_signature{"version https://git-lfs.",
                   "is a Git LFS pointer, not the file itself; fetch it with `git lfs pull`"},
    file_signature{"PK\3\4", "is a zip archive, as torch.save writes them (.pt, .bin); "},
    file_signature{"PK\5\6", "is an empty zip archive; download the checkpoint again"},
    file_signature{"\x80\2", "is a pickle, as torch.save writes them (.pt, .bin); "},
    file_signature{"\x80\3", "is a pickle; "},
    file_signature{"\x80\4", "is a pickle; "},
    file_signature{"\x80\5", "is a pickle; "},
    file_signature{"\x1f\x8b\x08", "is compressed by gzip; decompress it with gunzip"},
    file_signature{"\x28\xb5\x2f\xfd", "is compressed by zstd; decompress it with unzstd"},
    file_signature{std::string_view("\xfd"
                                    "7zXZ\0",
                                    6),
                   "is compressed by xz; decompress it with unxz"},
    file_signature{"BZh", "is compressed by bzip2; decompress it with bunzip2"},
    file_signature{"GGUF", "is a GGUF file; download the checkpoint in safetensors format"},
    file_signature{"\x89HDF\r\n\x1a\n", "is an HDF5 file; download the checkpoint in safetensors format"},
};

/// Could these be the first bytes of a safetensors file: a length that is allowed, and the beginning of a JSON object?
[[nodiscard]] inline bool begins_like_safetensors(std::string_view first) noexcept {
  constexpr std::size_t prefix = 8;
  if (first.size() <= prefix || first.substr(4, 4) != std::string_view("\0\0\0\0", 4)) {
    return false;
  }
  const std::size_t at = first.find_first_not_of(" \t\r\n", prefix);
  return at == std::string_view::npos || first[at] == '{';
}

/// What a file is, by its first bytes (`telling_bytes` of them, or all that it has), and what to do: for a file that turned out to be
/// no safetensors file. Empty where they do not tell. Pure.
[[nodiscard]] inline std::string what_else_it_is(bytes_view first_bytes) {
  const std::string_view all(reinterpret_cast<const char*>(first_bytes.data()), first_bytes.size());
  const std::string_view first = all.substr(0, telling_bytes);
  if (begins_like_safetensors(first)) {
    return {};
  }
  for (const file_signature& each : file_signatures) {
    if (first.starts_with(each.begins_with)) {
      return concat(each.what, each.what.ends_with("; ") ? convert_pickle : "");
    }
  }
  if (first.size() >= 8 && first.find_first_not_of('\0') == std::string_view::npos) {
    return concat("begins with ", first.size(),
                  " zeros: the download or the copy was interrupted, or the disk has lost it; download it again");
  }
  std::string_view text = first;
  text.remove_prefix(text.starts_with("\xef\xbb\xbf") ? 3 : 0);
  text.remove_prefix(std::min(text.find_first_not_of(" \t\r\n"), text.size()));
  const auto is_shown = [](char c) {
    return static_cast<unsigned char>(c) >= 0x20 || c == '\n' || c == '\r' || c == '\t';
  };
  if (text.size() < 2 || !std::all_of(text.begin(), text.end(), is_shown)) {
    return {};
  }
  const auto begins_with = [&](std::string_view word) {
    const auto is_same = [](char wanted, char found) {
      return (found >= 'A' && found <= 'Z' ? found - 'A' + 'a' : found) == wanted;
    };
    return text.size() >= word.size() && std::equal(word.begin(), word.end(), text.begin(), is_same);
  };
  if (begins_with("<!doctype html") || begins_with("<html") || begins_with("<head")) {
    return "is an HTML page, which servers send where a login or an access token is needed, or the address is wrong; "
           "download "
           "the file again";
  }
  if (text.front() == '<') {
    return "is XML or HTML, as servers send their error messages; download the file again";
  }
  if (text.front() == '{' || text.front() == '[') {
    return "is JSON; give the file of weights, or an index under its own name (*.safetensors.index.json)";
  }
  const bool is_ascii =
      std::all_of(text.begin(), text.end(), [](char c) { return static_cast<unsigned char>(c) < 0x80; });
  return is_ascii ? concat("is text that begins with \"", printable(text.substr(0, 40)), "\"; download the file again")
                  : std::string();
}

}  // namespace fsdpinit::detail
