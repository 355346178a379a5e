#pragma once

#include <fsdpinit/concepts/state_dict_source.hpp>
#include <fsdpinit/core/byte_hash.hpp>
#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/core/error.hpp>
#include <fsdpinit/core/tensor_descriptor.hpp>
#include <fsdpinit/sources/file.hpp>
#include <fsdpinit/sources/hf_index.hpp>
#include <fsdpinit/sources/page_cache.hpp>
#include <fsdpinit/sources/safetensors_header.hpp>

#include <gsl/assert>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
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

/// Where a tensor lies: bytes [begin, begin + bytes) of `files()[file]`.
struct safetensors_place {
  std::size_t file = 0;
  std::uint64_t begin = 0;
  std::uint64_t bytes = 0;
};

/// The tensors of one safetensors file, or of the files that a Hugging Face index names: a StateDictSource, in the
/// order (file name, offset).
///
/// Every file is opened, and its header checked, by the constructor, and stays open: one descriptor per file, no memory
/// beyond the tables. Bytes come by pread into the caller's memory, never through a mapping. A file that is cut short,
/// modified or replaced while the source lives is an error of the read that meets it.
///
/// Movable; moving keeps the addresses that `tensors()` gave out.
class safetensors_source {
 public:
  static constexpr bool reads_concurrently = true;

  /// All tensors of one file. Cost: one read of the header, linear in it.
  /// \throws error{io} or error{invalid_file} naming the file, as `input_file` and `parse_safetensors_header` do.
  explicit safetensors_source(std::string path, page_cache pages = page_cache::keep) {
    std::vector<safetensors_entry> entries = add_file(std::move(path), pages);
    tensors_.reserve(entries.size());
    places_.reserve(entries.size());
    for (safetensors_entry& entry : entries) {
      add_tensor(std::move(entry));
    }
  }

  /// The tensors that an index maps, from the files beside it; other tensors of these files are not part of it.
  /// \throws as the other constructor does, naming the file; error{invalid_file} naming the index for a tensor that is
  /// not in the file it is mapped to.
  safetensors_source(const std::string& index_path, const std::vector<hf_index_file>& index,
                     page_cache pages = page_cache::keep) {
    const std::string folder = index_path.substr(0, index_path.rfind('/') + 1);
    for (const hf_index_file& file : index) {
      std::vector<bool> found(file.tensors.size());
      for (safetensors_entry& entry : add_file(folder + file.name, pages)) {
        const auto mapped = std::lower_bound(file.tensors.begin(), file.tensors.end(), entry.descriptor.name);
        if (mapped != file.tensors.end() && *mapped == entry.descriptor.name) {
          found[static_cast<std::size_t>(mapped - file.tensors.begin())] = true;
          add_tensor(std::move(entry));
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
  }

  [[nodiscard]] std::span<const tensor_descriptor> tensors() const noexcept { return tensors_; }

  /// As StateDictSource says. One pread (more where the system cuts it short) and one fstat; nothing for no bytes.
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
    open_[file].read_exact_into(offset, destinations);
    open_[file].check_unchanged();
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
    open_[file].read_exact_at(offset, destination);
    open_[file].check_unchanged();
  }

  std::vector<safetensors_entry> add_file(std::string path, page_cache pages) {
    input_file file(std::move(path), pages);
    std::array<std::byte, safetensors_prefix_bytes> prefix{};
    if (file.size() >= prefix.size()) {
      file.read_exact_at(0, prefix);
    }
    std::string json(safetensors_header_length(file.path(), prefix, file.size()), '\0');
    file.read_exact_at(prefix.size(), std::as_writable_bytes(std::span(json)));
    file.check_unchanged();
    safetensors_header header = parse_safetensors_header(file.path(), json, file.size());
    files_.push_back({.path = file.path(),
                      .bytes = file.size(),
                      .header_bytes = json.size(),
                      .header_hash = hash_of(std::as_bytes(std::span(json))),
                      .tensors = header.tensors.size(),
                      .metadata = std::move(header.metadata)});
    open_.push_back(std::move(file));
    return std::move(header.tensors);
  }

  void add_tensor(safetensors_entry&& entry) {
    tensors_.push_back(std::move(entry.descriptor));
    places_.push_back({.file = open_.size() - 1, .begin = entry.begin, .bytes = entry.end - entry.begin});
  }

  std::vector<input_file> open_;
  std::vector<safetensors_file_info> files_;
  std::vector<tensor_descriptor> tensors_;
  std::vector<safetensors_place> places_;
};

}  // namespace fsdpinit
