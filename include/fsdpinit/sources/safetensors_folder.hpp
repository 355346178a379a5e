#pragma once

#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/core/error.hpp>
#include <fsdpinit/os/file.hpp>
#include <fsdpinit/os/file_content.hpp>
#include <fsdpinit/sources/hf_index.hpp>
#include <fsdpinit/sources/safetensors_header.hpp>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include <dirent.h>
#include <sys/stat.h>

/// \file
/// Which files of a folder are its checkpoint. Names decide, and indexes; no safetensors file is opened.

namespace fsdpinit::detail {

/// The part of a path up to its last separator, which a name can follow; empty for a file of the working folder.
[[nodiscard]] inline std::string folder_prefix(std::string_view path) {
  return std::string(path.substr(0, path.rfind('/') + 1));
}
/// The same as a folder that can be given: `.` for the working folder.
[[nodiscard]] inline std::string folder_text(std::string_view prefix) {
  return std::string(prefix.empty() ? "." : prefix.size() == 1 ? prefix : prefix.substr(0, prefix.size() - 1));
}

/// The names in a folder, sorted, without hidden ones (`._model.safetensors` is no checkpoint).
[[nodiscard]] inline std::vector<std::string> names_in(const std::string& folder) {
  struct closer {
    void operator()(DIR* stream) const noexcept { ::closedir(stream); }
  };
  const std::unique_ptr<DIR, closer> stream(::opendir(folder.c_str()));
  if (stream == nullptr) {
    throw io_error(folder, "the folder cannot be opened", errno);
  }
  std::vector<std::string> names;
  for (;;) {
    errno = 0;                                              // what the name before took may have set it
    const ::dirent* const entry = ::readdir(stream.get());  // NOLINT(concurrency-mt-unsafe): this stream is our own
    if (entry == nullptr) {
      break;
    }
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

inline constexpr std::string_view no_such_name = "no such name";
inline constexpr std::string_view dangling_link = "a dangling link";

/// Why a name does not stand for a regular file, links followed; empty where it does.
[[nodiscard]] inline std::string_view why_no_regular_file(const std::string& path) {
  file_status status{};
  if (::stat(path.c_str(), &status) == 0) {
    return S_ISREG(status.st_mode) ? std::string_view() : kind_of(status);
  }
  const int code = errno;
  return ::lstat(path.c_str(), &status) != 0 ? no_such_name : code == ENOENT ? dangling_link : "cannot be reached";
}

/// `NAME.safetensors.index.json` and `NAME.safetensors.index.VARIANT.json`. Indexes of other formats have others' names.
[[nodiscard]] inline bool is_index_name(std::string_view name) noexcept {
  constexpr std::string_view middle = ".safetensors.index.";
  constexpr std::string_view end = "json";
  const std::size_t at = name.rfind(middle);
  if (at == std::string_view::npos || at == 0) {
    return false;
  }
  const std::string_view rest = name.substr(at + middle.size());
  return rest == end || (rest.size() > end.size() + 1 && rest.ends_with(".json"));
}

inline constexpr std::string_view safetensors_suffix = ".safetensors";

/// What the name of a file says of the set whose part it is.
struct part_name {
  std::string set;  ///< with `*` for the number: `model-*-of-00003.safetensors`
  std::uint64_t number = 0;
  std::uint64_t count = 0;
};

/// `model-00002-of-00003.safetensors`, also `model-00002-of-00003.VARIANT.safetensors`; nothing for other names, and for the only
/// part of one.
[[nodiscard]] inline std::optional<part_name> part_name_of(std::string_view name) {
  constexpr std::string_view digits = "0123456789";
  constexpr std::string_view of = "-of-";
  const std::size_t middle = name.rfind(of);
  if (!name.ends_with(safetensors_suffix) || middle == std::string_view::npos || middle == 0) {
    return std::nullopt;
  }
  const std::size_t before = name.find_last_not_of(digits, middle - 1);
  const std::size_t begin = before == std::string_view::npos ? 0 : before + 1;
  const std::size_t end = name.find_first_not_of(digits, middle + of.size());
  part_name out;
  const auto parse = [](std::string_view text, std::uint64_t& number) {
    return std::from_chars(text.data(), text.data() + text.size(), number).ec == std::errc();
  };
  if ((begin > 0 && name[begin - 1] != '-') || name[end] != '.' ||  // the suffix follows, if nothing else
      !parse(name.substr(begin, middle - begin), out.number) ||
      !parse(name.substr(middle + of.size(), end - middle - of.size()), out.count) || out.count < 2 ||
      out.number > out.count) {
    return std::nullopt;
  }
  out.set = concat(name.substr(0, begin), "*", name.substr(middle));
  return out;
}

/// Numbered files that belong together.
struct part_set {
  std::uint64_t count = 0;
  std::map<std::uint64_t, std::string> files;

  [[nodiscard]] bool is_whole() const { return files.size() == count; }
};

/// `a, b and 7 more`: the first of the list, and how many there are.
[[nodiscard]] inline std::string listing(std::span<const std::string> names, std::uint64_t count) {
  constexpr std::size_t limit = 20;
  std::string out;
  const std::size_t shown = std::min(names.size(), limit);
  for (std::size_t i = 0; i < shown; ++i) {
    append_to(out, i == 0 ? "" : ", ", printable(names[i]));
  }
  return shown < count ? concat(out, " and ", count - shown, " more") : out;
}
[[nodiscard]] inline std::string listing(std::span<const std::string> names) { return listing(names, names.size()); }

/// `1 of 3 parts absent: model-00002-of-00003.safetensors`. Numbers begin at 1, or at 0 where there is a part 0.
[[nodiscard]] inline std::string absent_text(const std::string& name, const part_set& set) {
  const std::uint64_t absent = set.count - set.files.size();
  const std::size_t star = name.find('*');
  const std::size_t width = set.files.begin()->second.size() - (name.size() - 1);
  std::vector<std::string> names;
  std::uint64_t number = set.files.contains(0) ? 0 : 1;
  for (; names.size() < smaller(absent, 20); ++number) {
    if (!set.files.contains(number)) {
      const std::string digits = std::to_string(number);
      const std::string zeros(digits.size() < width ? width - digits.size() : 0, '0');
      names.push_back(concat(name.substr(0, star), zeros, digits, name.substr(star + 1)));
    }
  }
  return concat(absent, " of ", set.count, " parts absent: ", listing(names, absent));
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

[[nodiscard]] inline std::vector<hf_index_file> read_index(const std::string& path) {
  const std::string text = index_text(path);
  try {
    return parse_hf_index(path, text);
  } catch (const error&) {
    const std::string what = what_else_it_is(std::as_bytes(std::span(text)));
    if (what.empty() || what.starts_with("is JSON")) {
      throw;
    }
    throw error(errc::invalid_file, path, what);
  }
}

/// The files of a checkpoint: those that an index names, or some by themselves. Plain names.
struct checkpoint_files {
  std::string index{};  ///< empty: there is none
  std::vector<hf_index_file> indexed{};
  std::vector<std::string> files{};
};

/// What a folder holds that can be a checkpoint, or part of one.
struct folder_contents {
  std::vector<std::string> indexes;
  std::vector<std::string> files;  ///< every safetensors file
  std::vector<std::string> all;    ///< every name, and what it is where it only looks like one of these

  /// \throws error{io} where the folder cannot be read.
  [[nodiscard]] static folder_contents of(const std::string& prefix) {
    folder_contents out;
    for (std::string& name : names_in(folder_text(prefix))) {
      const bool is_index = is_index_name(name);
      if (!is_index && !name.ends_with(safetensors_suffix)) {
        out.all.push_back(std::move(name));
      } else if (const std::string_view why = why_no_regular_file(concat(prefix, name)); !why.empty()) {
        out.all.push_back(concat(name, " (", why, ")"));
      } else {
        out.all.push_back(name);
        (is_index ? out.indexes : out.files).push_back(std::move(name));
      }
    }
    return out;
  }
};

/// The checkpoint in a folder. A candidate is
/// - an index;
/// - without any index: a file, or a set of numbered parts;
/// - beside indexes: `model.safetensors`, or all parts of `model-*-of-N.safetensors`, if no index names them: readers that
///   look for these names first would load them.
/// One candidate is the checkpoint. \throws error{invalid_file} naming the folder for none, for several, and for a set with holes.
class folder_candidates {
 public:
  folder_candidates(const std::string& prefix, folder_contents contents)
      : prefix_(prefix), contents_(std::move(contents)) {
    for (const std::string& index : contents_.indexes) {
      found_.push_back({.index = index, .indexed = read_index(concat(prefix_, index))});
      shown_.push_back(index);
      for (const hf_index_file& file : found_.back().indexed) {
        named_.insert(file.name);
      }
    }
    for (const std::string& file : contents_.files) {
      if (!named_.contains(file)) {
        add_file(file);
      }
    }
    for (const auto& [name, set] : sets_) {
      add_set(name, set);
    }
  }

  [[nodiscard]] checkpoint_files take() {
    const std::string folder = folder_text(prefix_);
    if (found_.empty()) {
      throw error(errc::invalid_file, folder,
                  concat("the folder holds no *.safetensors.index.json and no *.safetensors file; give the folder of a "
                         "checkpoint; this one holds ",
                         contents_.all.empty() ? "nothing" : listing(contents_.all)));
    }
    if (found_.size() > 1) {
      throw error(errc::invalid_file, folder,
                  concat("the folder holds ", found_.size(), " checkpoints, give the path of the one to load",
                         !has_set_ ? "" : " (numbered parts without an index: put them into a folder of their own)",
                         ": ", listing(shown_)));
    }
    if (!hole_.empty()) {
      throw error(errc::invalid_file, folder, hole_);
    }
    return std::move(found_.front());
  }

 private:
  void add_file(const std::string& file) {
    if (const std::optional<part_name> part = part_name_of(file)) {
      part_set& set = sets_[part->set];
      set.count = part->count;
      const bool fits = part->number < part->count || !set.files.contains(0);
      if (fits && set.files.try_emplace(part->number, file).second) {
        return;
      }
    }
    if (contents_.indexes.empty() || file == "model.safetensors") {
      found_.push_back({.files = {file}});
      shown_.push_back(file);
    }
  }

  void add_set(const std::string& name, const part_set& set) {
    // The suffix is all that follows the count: no variant.
    const bool is_model = name.starts_with("model-*-of-") && name.find('.') == name.size() - safetensors_suffix.size();
    if (!contents_.indexes.empty() && !(set.is_whole() && is_model)) {
      return;
    }
    has_set_ = true;
    checkpoint_files& files = found_.emplace_back();
    for (const auto& [number, file] : set.files) {
      files.files.push_back(file);
    }
    if (set.is_whole()) {
      shown_.push_back(concat(name, " (", set.count, " parts)"));
      return;
    }
    shown_.push_back(concat(name, " (", absent_text(name, set), ")"));
    hole_ = concat("the folder holds numbered parts without an index, and not all of them: ", absent_text(name, set),
                   "; download the checkpoint again");
  }

  const std::string& prefix_;
  folder_contents contents_;
  std::set<std::string_view> named_;  // by an index
  std::map<std::string, part_set> sets_;
  std::vector<checkpoint_files> found_;
  std::vector<std::string> shown_;  // for errors
  bool has_set_ = false;            // among those that were found
  std::string hole_;                // of the last set that has one
};

}  // namespace fsdpinit::detail
