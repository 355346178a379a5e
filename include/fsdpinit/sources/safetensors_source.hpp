#pragma once

#include <fsdpinit/concepts/state_dict_source.hpp>
#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/core/checksum.hpp>
#include <fsdpinit/core/error.hpp>
#include <fsdpinit/core/tensor_descriptor.hpp>
#include <fsdpinit/os/file.hpp>
#include <fsdpinit/os/file_content.hpp>
#include <fsdpinit/os/input_files.hpp>
#include <fsdpinit/os/page_cache.hpp>
#include <fsdpinit/sources/hf_index.hpp>
#include <fsdpinit/sources/repeated_name.hpp>
#include <fsdpinit/sources/safetensors_folder.hpp>
#include <fsdpinit/sources/safetensors_header.hpp>

#include <gsl/assert>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace fsdpinit {

/// What is known of one file of a checkpoint, for listings.
struct safetensors_file_info {
  std::string path;
  std::uint64_t bytes = 0;         ///< of the whole file
  std::uint64_t header_bytes = 0;  ///< of the JSON, its padding included; the data begin 8 bytes later
  std::uint64_t header_hash = 0;   ///< of the same: `hash_of`
  std::size_t tensors = 0;         ///< that the file holds, those that no index maps to it included
  std::map<std::string, std::string> metadata;
};

namespace detail {

/// Do the metadata of the file say so of this key?
[[nodiscard]] inline bool metadata_say(const safetensors_file_info& file, const std::string& key,
                                       std::string_view value) {
  const auto entry = file.metadata.find(key);
  return entry != file.metadata.end() && entry->second == value;
}

/// \throws error{invalid_file} for a file that says of itself that it holds the shards of one rank of several.
inline void require_no_shards(std::span<const safetensors_file_info> files) {
  for (const safetensors_file_info& file : files) {
    if (metadata_say(file, "format", shards_format) && !metadata_say(file, "shards", "1")) {
      throw error(
          errc::invalid_file, file.path,
          "holds the shards of one rank, as its metadata say, and is no checkpoint; give the checkpoint that was "
          "loaded, or safetensors_file{path} for these shards alone");
    }
  }
}

}  // namespace detail

/// Where a tensor lies: bytes [begin, begin + bytes) of `files()[file]`.
struct safetensors_place {
  std::size_t file = 0;
  std::uint64_t begin = 0;
  std::uint64_t bytes = 0;
};

/// The tensors of one safetensors file, of several, or of the files that a Hugging Face index names: a StateDictSource, in
/// the order (file name, offset).
///
/// Every file is opened, and its header checked, by the constructor; a few stay open (\see input_files), no memory is held
/// beyond the tables. Bytes come by pread into the caller's memory, never through a mapping. A file that is cut short,
/// modified or replaced while the source lives is an error of the read that meets it.
///
/// Movable; moving keeps the addresses that `tensors()` gave out.
class safetensors_source {
 public:
  static constexpr bool reads_concurrently = true;

  /// All tensors of one file. Cost: one read of the header, linear in it.
  /// \throws error{io} or error{invalid_file} naming the file, as `input_file` and `parse_safetensors_header` do, and saying what
  /// the file is where it is something else.
  explicit safetensors_source(const std::string& path, page_cache pages = page_cache::keep)
      : safetensors_source(std::span(&path, 1), pages) {}

  /// All tensors of several files, in the order of the files.
  /// \throws as the other constructor does; where they are several, error{invalid_file} for shards of a rank, and for a name that two
  /// of them have.
  explicit safetensors_source(std::span<const std::string> paths, page_cache pages = page_cache::keep)
      : open_(std::make_unique<input_files>(pages)) {
    for (const std::string& path : paths) {
      std::vector<safetensors_entry> entries = add_file(path);
      tensors_.reserve(tensors_.size() + entries.size());
      places_.reserve(places_.size() + entries.size());
      for (safetensors_entry& entry : entries) {
        add_tensor(std::move(entry));
      }
    }
    if (paths.size() > 1) {
      detail::require_no_shards(files_);
      require_distinct_names();
    }
  }

  /// The tensors that an index maps, from the files beside it. Other tensors of these files are not part of it, nor are the files
  /// `others`, plain names of what else lies there; `unlisted()` tells of both.
  /// \throws as the other constructors do, naming the file; error{invalid_file} naming the index for a tensor that is
  /// not in the file it is mapped to, error{io} naming the index for files that are not there.
  safetensors_source(const std::string& index_path, const std::vector<hf_index_file>& index,
                     page_cache pages = page_cache::keep, const std::vector<std::string>& others = {})
      : open_(std::make_unique<input_files>(pages)) {
    const std::string folder = detail::folder_prefix(index_path);
    for (const hf_index_file& file : index) {
      try {
        add_indexed(index_path, folder, file);
      } catch (const error& failure) {
        if (failure.native_code() == ENOENT) {
          fail_absent(index_path, folder, index, others);
        }
        throw;
      }
    }
    std::set<std::string> sets;
    for (const hf_index_file& file : index) {
      if (const auto part = detail::part_name_of(file.name)) {
        sets.insert(part->set);
      }
    }
    for (const std::string& other : others) {
      const auto part = detail::part_name_of(other);
      if (!part || !sets.contains(part->set) || !add_unlisted_part(folder, other)) {
        unlisted_.push_back({.name = {}, .file = other});
      }
    }
  }

  [[nodiscard]] std::span<const tensor_descriptor> tensors() const noexcept { return tensors_; }

  /// What the index leaves out: tensors of the files that it names, and of other parts of the same numbered set; and other safetensors
  /// files beside it, which are not looked into. Nothing without an index.
  [[nodiscard]] std::span<const unlisted_tensor> unlisted() const noexcept { return unlisted_; }

  /// As StateDictSource says. One pread (more where the system cuts it short) and one fstat, and what opening costs where the
  /// file was closed to make room; nothing for no bytes.
  /// \throws error{invalid_file} where the file changed since it was opened, error{io} where it cannot be read.
  /// \pre `tensor` is an index into `tensors()` and the range lies inside it.
  void read(std::size_t tensor, std::uint64_t offset, mutable_bytes destination) const {
    Expects(tensor < places_.size());
    const safetensors_place& place = places_[tensor];
    Expects(offset <= place.bytes && destination.size() <= place.bytes - offset);
    read_checked(place.file, place.begin + offset, destination);
  }

  /// A PositionedSource: files are numbered as in `files()`, offsets count from the beginning of the file.
  [[nodiscard]] std::size_t file_count() const noexcept { return files_.size(); }
  /// \pre `tensor` is an index into `tensors()`.
  [[nodiscard]] file_position position_of(std::size_t tensor) const {
    const safetensors_place& place = place_of(tensor);
    return {.file = place.file, .offset = place.begin};
  }
  /// Any bytes of a file's data, behind its header; cost and errors are those of `read`. \pre they lie in there.
  void read_file(std::size_t file, std::uint64_t offset, mutable_bytes destination) const {
    require_data(file, offset, destination.size());
    read_checked(file, offset, destination);
  }

  /// A VectoredSource: one preadv for each 64 destinations, and one fstat.
  void read_file_into(std::size_t file, std::uint64_t offset, std::span<const mutable_bytes> destinations) const {
    std::uint64_t bytes = 0;
    for (const mutable_bytes each : destinations) {
      bytes += each.size();
    }
    require_data(file, offset, bytes);
    const input_files::in_use opened = open_->use(file);
    opened->read_exact_into(offset, destinations);
    opened->check_unchanged();
  }

  [[nodiscard]] std::span<const safetensors_file_info> files() const noexcept { return files_; }

  /// A FingerprintedSource.
  [[nodiscard]] std::vector<file_fingerprint> file_fingerprints() const {
    std::vector<file_fingerprint> all;
    all.reserve(files_.size());
    for (const safetensors_file_info& file : files_) {
      all.push_back({.path = file.path, .bytes = file.bytes, .header = file.header_hash});
    }
    return all;
  }
  /// \pre `tensor` is an index into `tensors()`.
  [[nodiscard]] std::optional<std::size_t> file_of(std::size_t tensor) const { return place_of(tensor).file; }

  /// \pre `tensor` is an index into `tensors()`.
  [[nodiscard]] const safetensors_place& place_of(std::size_t tensor) const {
    Expects(tensor < places_.size());
    return places_[tensor];
  }

 private:
  void require_data(std::size_t file, std::uint64_t offset, std::uint64_t bytes) const {
    Expects(file < files_.size());
    const safetensors_file_info& info = files_[file];
    Expects(offset >= safetensors_prefix_bytes + info.header_bytes && offset <= info.bytes);
    Expects(bytes <= info.bytes - offset);
  }

  void read_checked(std::size_t file, std::uint64_t offset, mutable_bytes destination) const {
    if (destination.empty()) {
      return;
    }
    const input_files::in_use opened = open_->use(file);
    opened->read_exact_at(offset, destination);
    opened->check_unchanged();
  }

  struct checked_header {
    std::uint64_t json_bytes = 0;
    std::uint64_t json_hash = 0;
    safetensors_header table;
  };

  [[nodiscard]] static checked_header header_of(const input_file& file) {
    std::array<std::byte, safetensors_prefix_bytes> prefix{};
    if (file.size() >= prefix.size()) {
      file.read_exact_at(0, prefix);
    }
    std::string json(safetensors_header_length(file.path(), prefix, file.size()), '\0');
    file.read_exact_at(prefix.size(), std::as_writable_bytes(std::span(json)));
    file.check_unchanged();
    return {.json_bytes = json.size(),
            .json_hash = hash_of(std::as_bytes(std::span(json))),
            .table = parse_safetensors_header(file.path(), json, file.size())};
  }

  /// The same, and where it fails, what the file is instead.
  [[nodiscard]] static checked_header checked_header_of(const input_file& file) {
    try {
      return header_of(file);
    } catch (const error& failure) {
      if (failure.code() == errc::invalid_file) {
        std::array<std::byte, detail::telling_bytes> first{};
        const mutable_bytes there = mutable_bytes(first).first(smaller(file.size(), first.size()));
        file.read_exact_at(0, there);
        if (const std::string what = detail::what_else_it_is(there); !what.empty()) {
          throw error(errc::invalid_file, file.path(), what);
        }
      }
      throw;
    }
  }

  std::vector<safetensors_entry> add_file(const std::string& path) {
    const std::size_t number = open_->size();
    open_->add(path);
    const input_files::in_use file = open_->use(number);
    checked_header header = checked_header_of(*file);
    files_.push_back({.path = path,
                      .bytes = file->size(),
                      .header_bytes = header.json_bytes,
                      .header_hash = header.json_hash,
                      .tensors = header.table.tensors.size(),
                      .metadata = std::move(header.table.metadata)});
    return std::move(header.table.tensors);
  }

  void add_tensor(safetensors_entry&& entry) {
    tensors_.push_back(std::move(entry.descriptor));
    places_.push_back({.file = files_.size() - 1, .begin = entry.begin, .bytes = entry.end - entry.begin});
  }

  void add_indexed(const std::string& index_path, const std::string& folder, const hf_index_file& file) {
    std::vector<bool> found(file.tensors.size());
    for (safetensors_entry& entry : add_file(folder + file.name)) {
      const auto mapped = std::lower_bound(file.tensors.begin(), file.tensors.end(), entry.descriptor.name);
      if (mapped != file.tensors.end() && *mapped == entry.descriptor.name) {
        found[static_cast<std::size_t>(mapped - file.tensors.begin())] = true;
        add_tensor(std::move(entry));
      } else {
        unlisted_.push_back({.name = std::move(entry.descriptor.name), .file = file.name});
      }
    }
    const auto missing = std::find(found.begin(), found.end(), false);
    if (missing != found.end()) {
      const auto at = static_cast<std::size_t>(missing - found.begin());
      throw error(errc::invalid_file, index_path,
                  concat(detail::tensor_text(file.tensors[at]), " is mapped to \"", printable(file.name),
                         "\", which does not hold it; download or save the checkpoint again"));
    }
  }

  /// The tensors of a part that the index does not name. \return false where it cannot be read; nobody needs it to be.
  [[nodiscard]] bool add_unlisted_part(const std::string& folder, const std::string& name) {
    try {
      for (safetensors_entry& entry : header_of(input_file(folder + name)).table.tensors) {
        unlisted_.push_back({.name = std::move(entry.descriptor.name), .file = name});
      }
      return true;
    } catch (const error&) {
      return false;
    }
  }

  [[noreturn]] static void fail_absent(const std::string& index_path, const std::string& folder,
                                       const std::vector<hf_index_file>& index,
                                       const std::vector<std::string>& others) {
    std::vector<std::string> absent;
    for (const hf_index_file& file : index) {
      const std::string_view why = detail::why_no_regular_file(folder + file.name);
      if (why == detail::no_such_name) {
        absent.push_back(file.name);
      } else if (why == detail::dangling_link) {
        absent.push_back(concat(file.name, " (", why, ")"));
      }
    }
    throw error(
        errc::io, index_path,
        concat(absent.size(), " of ", index.size(), " files absent: ", detail::listing(absent), "; download them",
               others.empty() ? "" : concat("; the folder also holds ", detail::listing(others))),
        {.native_code = ENOENT});
  }

  void require_distinct_names() const {
    const auto name_of = [](const tensor_descriptor& tensor) -> const std::string& { return tensor.name; };
    const std::string* const twice = detail::repeated_name(tensors_, name_of);
    if (twice == nullptr) {
      return;
    }
    std::vector<std::string> holders;
    for (std::size_t i = 0; i < tensors_.size(); ++i) {
      if (tensors_[i].name == *twice) {
        holders.push_back(files_[places_[i].file].path);
      }
    }
    throw error(errc::invalid_file, holders.front(),
                concat(detail::tensor_text(*twice), " is in this file and in ", printable(holders[1]),
                       ", and no index says which counts; download or save the checkpoint again"));
  }

  std::unique_ptr<input_files> open_;
  std::vector<safetensors_file_info> files_;
  std::vector<tensor_descriptor> tensors_;
  std::vector<safetensors_place> places_;
  std::vector<unlisted_tensor> unlisted_;
};

}  // namespace fsdpinit
