#pragma once

#include <fsdpinit/concepts/state_dict_source.hpp>
#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/core/tensor_descriptor.hpp>
#include <fsdpinit/index/byte_region.hpp>
#include <fsdpinit/sources/as_stored.hpp>

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <type_traits>
#include <vector>

namespace fsdpinit {

/// A source of any type: a pointer to it, and a table of what it can do. For as long as the source lives; cheap to copy, allocates
/// nothing. One indirect call for each read.
class source_ref {
 public:
  template <StateDictSource S>
    requires(!std::same_as<std::remove_const_t<S>, source_ref>)
  source_ref(S& source) noexcept  // NOLINT(google-explicit-constructor): a source stands for its reference
      : source_(const_cast<void*>(static_cast<const void*>(std::addressof(source)))), table_(&table_of<S>) {}

  [[nodiscard]] std::span<const tensor_descriptor> tensors() const { return table_->tensors(source_); }
  void read(std::size_t tensor, std::uint64_t offset, mutable_bytes destination) const {
    table_->read(source_, tensor, offset, destination);
  }
  /// As the tensor is stored: see CastingSource. Of sources that do not cast, `read`.
  void read_stored(std::size_t tensor, std::uint64_t offset, mutable_bytes destination) const {
    table_->read_stored(source_, tensor, offset, destination);
  }
  /// See AssemblingSource. Of other sources, `tile_bytes` is 0, and `read_runs` a `read` for each run.
  [[nodiscard]] std::uint64_t tile_bytes(std::size_t tensor) const { return table_->tile_bytes(source_, tensor); }
  void read_runs(std::size_t tensor, const byte_region& runs, mutable_bytes destination, mutable_bytes tile) const {
    table_->read_runs(source_, tensor, runs, destination, tile);
  }
  /// May several threads read at a time?
  [[nodiscard]] bool reads_concurrently() const noexcept { return table_->reads_concurrently; }
  /// Can every rank read it by itself? If not, it is on the source rank only.
  [[nodiscard]] bool readable() const { return table_->readable(source_); }

  [[nodiscard]] state_dict_contents contents() const { return table_->contents(source_); }
  /// See FingerprintedSource; none of a source that does not know its files.
  [[nodiscard]] std::vector<file_fingerprint> file_fingerprints() const { return table_->file_fingerprints(source_); }
  [[nodiscard]] std::optional<std::size_t> file_of(std::size_t tensor) const {
    return table_->file_of(source_, tensor);
  }

  /// Where the bytes of `read` lie: see PositionedSource; nothing for a source that does not know.
  [[nodiscard]] std::optional<file_position> position_of(std::size_t tensor) const {
    return table_->position_of == nullptr ? std::nullopt : table_->position_of(source_, tensor);
  }
  /// \pre a PositionedSource
  void read_file(std::size_t file, std::uint64_t offset, mutable_bytes destination) const {
    table_->read_file(source_, file, offset, destination);
  }
  /// Does one read fill several places? Not where tensors are released.
  [[nodiscard]] bool reads_into_several() const noexcept {
    return table_->read_file_into != nullptr && table_->release == nullptr;
  }
  /// \pre a VectoredSource
  void read_file_into(std::size_t file, std::uint64_t offset, std::span<const mutable_bytes> destinations) const {
    table_->read_file_into(source_, file, offset, destinations);
  }

  /// Nothing more will be read of that tensor: a ReleasingSource lets go of it.
  void release(std::size_t tensor) const noexcept {
    if (table_->release != nullptr) {
      table_->release(source_, tensor);
    }
  }

  [[nodiscard]] bool counts_overflows() const noexcept { return table_->counts_overflows; }
  /// How many elements of the tensor casts have made infinite so far; 0 where nothing is counted.
  [[nodiscard]] std::uint64_t overflows(std::size_t tensor) const { return table_->overflows(source_, tensor); }

 private:
  struct table {
    std::span<const tensor_descriptor> (*tensors)(const void*);
    void (*read)(void*, std::size_t, std::uint64_t, mutable_bytes);
    void (*read_stored)(void*, std::size_t, std::uint64_t, mutable_bytes);
    std::uint64_t (*tile_bytes)(const void*, std::size_t);
    void (*read_runs)(void*, std::size_t, const byte_region&, mutable_bytes, mutable_bytes);
    bool (*readable)(const void*);
    state_dict_contents (*contents)(const void*);
    std::vector<file_fingerprint> (*file_fingerprints)(const void*);
    std::optional<std::size_t> (*file_of)(const void*, std::size_t);
    std::uint64_t (*overflows)(const void*, std::size_t);
    // nullptr for sources that do not model the refinement.
    std::optional<file_position> (*position_of)(const void*, std::size_t) = nullptr;
    void (*read_file)(void*, std::size_t, std::uint64_t, mutable_bytes) = nullptr;
    void (*read_file_into)(void*, std::size_t, std::uint64_t, std::span<const mutable_bytes>) = nullptr;
    void (*release)(void*, std::size_t) noexcept = nullptr;
    bool reads_concurrently = false;
    bool counts_overflows = false;
  };

  template <class S>
  static S& as(void* source) noexcept {
    return *static_cast<S*>(source);
  }
  template <class S>
  static const S& as(const void* source) noexcept {
    return *static_cast<const S*>(source);
  }
  template <class S>
  static bool readable_of(const void* source) {
    if constexpr (requires(const S& constant) { constant.readable(); }) {
      return as<S>(source).readable();
    } else {
      return true;
    }
  }
  template <class S>
  static constexpr table make_table() noexcept {
    table out{.tensors = [](const void* s) -> std::span<const tensor_descriptor> { return as<S>(s).tensors(); },
              .read = [](void* s, std::size_t tensor, std::uint64_t offset,
                         mutable_bytes to) { as<S>(s).read(tensor, offset, to); },
              .read_stored = [](void* s, std::size_t tensor, std::uint64_t offset,
                                mutable_bytes to) { detail::read_stored(as<S>(s), tensor, offset, to); },
              .tile_bytes = [](const void* s, std::size_t tensor) { return detail::tile_bytes(as<S>(s), tensor); },
              .read_runs = [](void* s, std::size_t tensor, const byte_region& runs, mutable_bytes to,
                              mutable_bytes tile) { detail::read_runs(as<S>(s), tensor, runs, to, tile); },
              .readable = &readable_of<S>,
              .contents = [](const void* s) { return detail::contents_of(as<S>(s)); },
              .file_fingerprints = [](const void* s) { return detail::file_fingerprints(as<S>(s)); },
              .file_of = [](const void* s, std::size_t tensor) { return detail::file_of(as<S>(s), tensor); },
              .overflows = [](const void* s, std::size_t tensor) { return detail::overflows(as<S>(s), tensor); },
              .reads_concurrently = ConcurrentSource<S>,
              .counts_overflows = OverflowCountingSource<S>};
    if constexpr (PositionedSource<S>) {
      out.position_of = [](const void* s, std::size_t tensor) -> std::optional<file_position> {
        return as<S>(s).position_of(tensor);
      };
      out.read_file = [](void* s, std::size_t file, std::uint64_t offset, mutable_bytes to) {
        as<S>(s).read_file(file, offset, to);
      };
    }
    if constexpr (VectoredSource<S>) {
      out.read_file_into = [](void* s, std::size_t file, std::uint64_t offset, std::span<const mutable_bytes> to) {
        as<S>(s).read_file_into(file, offset, to);
      };
    }
    if constexpr (ReleasingSource<S>) {
      out.release = [](void* s, std::size_t tensor) noexcept { as<S>(s).release(tensor); };
    }
    return out;
  }
  template <class S>
  static constexpr table table_of = make_table<S>();

  void* source_;
  const table* table_;
};

}  // namespace fsdpinit
