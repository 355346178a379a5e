#pragma once

#include <fsdpinit/core/error.hpp>
#include <fsdpinit/os/file.hpp>
#include <fsdpinit/os/page_cache.hpp>
#include <fsdpinit/sources/hf_index.hpp>
#include <fsdpinit/sources/safetensors_folder.hpp>
#include <fsdpinit/sources/safetensors_header.hpp>
#include <fsdpinit/sources/safetensors_source.hpp>

#include <algorithm>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <sys/stat.h>

/// \file
/// Checkpoints in the safetensors format: the one header to include, and the one that brings JSON with it.

namespace fsdpinit {

namespace detail {

/// `index` is a path, and what is in it.
[[nodiscard]] inline safetensors_source open_index(const std::string& index, const std::vector<hf_index_file>& files,
                                                   folder_contents beside, page_cache pages) {
  std::erase_if(beside.files, [&](const std::string& name) {
    return std::any_of(files.begin(), files.end(), [&](const hf_index_file& each) { return each.name == name; });
  });
  return {index, files, pages, beside.files};
}

[[nodiscard]] inline safetensors_source open_folder(const std::string& folder, page_cache pages) {
  const std::string prefix = folder.ends_with('/') ? folder : concat(folder, "/");
  folder_contents contents = folder_contents::of(prefix);
  const checkpoint_files found = folder_candidates(prefix, contents).take();
  if (!found.index.empty()) {
    return open_index(concat(prefix, found.index), found.indexed, std::move(contents), pages);
  }
  std::vector<std::string> paths;
  for (const std::string& file : found.files) {
    paths.push_back(concat(prefix, file));
  }
  return safetensors_source(paths, pages);
}

/// What lies beside an index; nothing where its folder may be passed through but not listed.
[[nodiscard]] inline folder_contents beside_index(const std::string& index) {
  try {
    return folder_contents::of(folder_prefix(index));
  } catch (const error&) {
    return {};
  }
}

/// A part is not the whole. The only shard of a dump is, though replicas of it are counted in its name.
inline void require_whole(const std::string& path, const safetensors_file_info& file) {
  if (metadata_say(file, "format", shards_format)) {
    return;
  }
  const std::string prefix = folder_prefix(path);
  if (const std::optional<part_name> part = part_name_of(std::string_view(path).substr(prefix.size()))) {
    throw error(errc::invalid_file, path,
                concat("is part ", part->number, " of ", part->count, " of a checkpoint; give their folder, ",
                       folder_text(prefix), ", or safetensors_file{path} for this part alone"));
  }
}

}  // namespace detail

/// Opens one safetensors file under any name, whatever it is a part of: a SourceOpener. \see safetensors_source
struct safetensors_file {
  std::string path;
  fsdpinit::page_cache page_cache = fsdpinit::page_cache::keep;

  [[nodiscard]] safetensors_source operator()() const { return safetensors_source(path, page_cache); }
};

/// Opens a checkpoint:
/// - a folder: its index, `*.safetensors.index.json` or `*.safetensors.index.VARIANT.json`; without one, its only `*.safetensors`
///   file, or all its numbered parts, `NAME-00001-of-00003.safetensors`. A second checkpoint is an error that lists both; beside an
///   index, these are `model.safetensors` and a full set of `model-*-of-N.safetensors` that it does not name. Hidden files do not
///   count, nor does anything that is no regular file, links followed;
/// - an index, `*.json`; the files it names lie beside the path that was given, also where that is a link;
/// - a safetensors file under any name, unless that says that it is one part of several.
///
/// A file of shards (`shards_format`) is no checkpoint, unless it is the only shard.
/// \throws error{io} or error{invalid_file} naming the file or folder and what to do, as the parts of this header do.
[[nodiscard]] inline safetensors_source open_safetensors(const std::string& path, page_cache pages = page_cache::keep) {
  const bool is_folder = S_ISDIR(detail::status_of(path).st_mode);
  const bool is_index = !is_folder && path.ends_with(".json");
  safetensors_source source =
      is_folder  ? detail::open_folder(path, pages)
      : is_index ? detail::open_index(path, detail::read_index(path), detail::beside_index(path), pages)
                 : safetensors_source(path, pages);
  detail::require_no_shards(source.files());
  if (!is_folder && !is_index) {
    detail::require_whole(path, source.files().front());
  }
  return source;
}

/// A checkpoint that is opened where it is read, and only there: a SourceOpener. \see open_safetensors
struct checkpoint {
  std::string path;
  fsdpinit::page_cache page_cache = fsdpinit::page_cache::keep;  ///< need not be equal on all ranks

  [[nodiscard]] safetensors_source operator()() const { return open_safetensors(path, page_cache); }
};

}  // namespace fsdpinit
