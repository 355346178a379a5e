#pragma once

#include <fsdpinit/core/error.hpp>
#include <fsdpinit/sources/file.hpp>
#include <fsdpinit/sources/hf_index.hpp>
#include <fsdpinit/sources/page_cache.hpp>
#include <fsdpinit/sources/safetensors_header.hpp>
#include <fsdpinit/sources/safetensors_source.hpp>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <dirent.h>
#include <sys/stat.h>

/// \file
/// Checkpoints in the safetensors format: the one header to include, and the one that brings JSON with it.

namespace fsdpinit {

namespace detail {

/// The names in a folder, sorted, without hidden ones (`._model.safetensors` is no checkpoint).
[[nodiscard]] inline std::vector<std::string> names_in(const std::string& folder) {
  struct closer {
    void operator()(DIR* stream) const noexcept { ::closedir(stream); }
  };
  const std::unique_ptr<DIR, closer> stream(::opendir(folder.c_str()));
  if (stream == nullptr) {
    throw io_error(folder, "the folder cannot be opened", errno);
  }
  const auto next = [&]() -> const ::dirent* {
    errno = 0;                       // whatever has set it since, only readdir's own is about the folder
    return ::readdir(stream.get());  // NOLINT(concurrency-mt-unsafe): this stream is our own
  };
  std::vector<std::string> names;
  while (const ::dirent* const entry = next()) {
    if (entry->d_name[0] != '.') {
      names.emplace_back(entry->d_name);
    }
  }
  if (errno != 0) {
    throw io_error(folder, "the folder cannot be read", errno);
  }
  std::sort(names.begin(), names.end());
  return names;
}

/// `a, b and 7 more`, at most 20 of them.
[[nodiscard]] inline std::string listing(std::span<const std::string> names) {
  constexpr std::size_t limit = 20;
  std::string out;
  for (std::size_t i = 0; i < std::min(names.size(), limit); ++i) {
    out += concat(i == 0 ? "" : ", ", printable(names[i]));
  }
  return names.size() > limit ? concat(out, " and ", names.size() - limit, " more") : out;
}

/// The checkpoint in a folder: its index, else its only .safetensors file. An index of pickled files
/// (`*.bin.index.json`) is none.
[[nodiscard]] inline std::string checkpoint_in(const std::string& folder) {
  const std::vector<std::string> names = names_in(folder);
  std::vector<std::string> indexes;
  std::vector<std::string> files;
  for (const std::string& name : names) {
    if (name.ends_with(".index.json") && !name.ends_with(".bin.index.json")) {
      indexes.push_back(name);
    } else if (name.ends_with(".safetensors")) {
      files.push_back(name);
    }
  }
  const auto& candidates = indexes.empty() ? files : indexes;
  if (candidates.size() == 1) {
    return concat(folder, folder.ends_with('/') ? "" : "/", candidates.front());
  }
  if (candidates.size() > 1) {
    throw error(errc::invalid_file, folder,
                concat("the folder holds ", candidates.size(),
                       indexes.empty() ? " .safetensors files and no index" : " indexes",
                       ", give the one to load: ", listing(candidates)));
  }
  throw error(errc::invalid_file, folder,
              concat("the folder holds no *.index.json and no *.safetensors file; it holds ",
                     names.empty() ? "nothing" : listing(names)));
}

/// The text of an index. No published one comes near the limit, which is that of a safetensors header.
[[nodiscard]] inline std::string index_text(const std::string& path) {
  const input_file file(path);
  if (file.size() > max_safetensors_header_bytes) {
    throw error(errc::invalid_file, path,
                concat("has ", file.size(), " bytes, an index may have ", max_safetensors_header_bytes,
                       "; give the index of a checkpoint"));
  }
  std::string text(file.size(), '\0');
  file.read_exact_at(0, std::as_writable_bytes(std::span(text)));
  file.check_unchanged();
  return text;
}

}  // namespace detail

/// Opens a checkpoint: a folder (its `*.index.json`, else its only `*.safetensors` file), an index (`*.index.json`; the
/// files it names lie beside the path that was given, also where that is a link), or a safetensors file under any name.
///
/// \throws error{io} or error{invalid_file} naming the file or folder and what to do, as the parts of this header do.
[[nodiscard]] inline safetensors_source open_safetensors(const std::string& path, page_cache pages = page_cache::keep) {
  const std::string file = S_ISDIR(detail::status_of(path).st_mode) ? detail::checkpoint_in(path) : path;
  if (file.ends_with(".index.json")) {
    return {file, parse_hf_index(file, detail::index_text(file)), pages};
  }
  return safetensors_source(file, pages);
}

/// A checkpoint that is opened where it is read, and only there: a SourceOpener. \see open_safetensors
struct checkpoint {
  std::string path;
  fsdpinit::page_cache page_cache = fsdpinit::page_cache::keep;  ///< need not be equal on all ranks

  [[nodiscard]] safetensors_source operator()() const { return open_safetensors(path, page_cache); }
};

}  // namespace fsdpinit
