#pragma once

#include <fsdpinit/concepts/state_dict_source.hpp>
#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/core/dtype.hpp>
#include <fsdpinit/core/error.hpp>
#include <fsdpinit/core/tensor_descriptor.hpp>
#include <fsdpinit/sources/as_stored.hpp>
#include <fsdpinit/sources/pipe.hpp>

#include <gsl/assert>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

namespace fsdpinit {

/// Some tensors of a source, under names of their own: what `renamed` and `filtered` make. Reading costs what it costs
/// in the source; the tables take memory for the descriptors.
///
/// Casts and positions in files are the source's, where it has them. An error of the source about a tensor with another
/// name gives both names.
///
/// \tparam S the source: owned, or with `S&` referred to.
template <class S>
class source_view {
  using inner = std::remove_reference_t<S>;

 public:
  static constexpr bool reads_concurrently = ConcurrentSource<inner>;

  /// Shows the tensors `indices[i]` of `source`, as `descriptors[i]`, of which dtype and shape are the source's; `unlisted` are to
  /// the source's as these are to its tensors.
  source_view(S&& source, std::vector<tensor_descriptor> descriptors, std::vector<std::size_t> indices,
              std::vector<unlisted_tensor> unlisted)
      : source_(std::forward<S>(source)),
        descriptors_(std::move(descriptors)),
        indices_(std::move(indices)),
        unlisted_(std::move(unlisted)) {
    Expects(descriptors_.size() == indices_.size());
  }

  [[nodiscard]] std::span<const tensor_descriptor> tensors() const noexcept { return descriptors_; }

  /// As StateDictSource says. \pre `tensor` is an index into `tensors()`, and what the source expects.
  void read(std::size_t tensor, std::uint64_t offset, mutable_bytes destination) {
    naming_both(tensor, [&](std::size_t index) { source_.get().read(index, offset, destination); });
  }

  [[nodiscard]] std::string_view stored_name(std::size_t tensor) const {
    return detail::stored_name<inner>(source_.get(), index_of(tensor));
  }
  [[nodiscard]] std::span<const unlisted_tensor> unlisted() const noexcept { return unlisted_; }

  [[nodiscard]] fsdpinit::dtype stored_dtype(std::size_t tensor) const
    requires CastingSource<inner>
  {
    return source_.get().stored_dtype(index_of(tensor));
  }
  void read_stored(std::size_t tensor, std::uint64_t offset, mutable_bytes destination)
    requires CastingSource<inner>
  {
    naming_both(tensor, [&](std::size_t index) { source_.get().read_stored(index, offset, destination); });
  }

  [[nodiscard]] std::uint64_t tile_bytes(std::size_t tensor) const
    requires AssemblingSource<inner>
  {
    return source_.get().tile_bytes(index_of(tensor));
  }
  void read_runs(std::size_t tensor, const byte_region& runs, mutable_bytes destination, mutable_bytes tile)
    requires AssemblingSource<inner>
  {
    naming_both(tensor, [&](std::size_t index) { source_.get().read_runs(index, runs, destination, tile); });
  }

  [[nodiscard]] std::uint64_t overflows(std::size_t tensor) const
    requires OverflowCountingSource<inner>
  {
    return source_.get().overflows(index_of(tensor));
  }

  [[nodiscard]] std::size_t file_count() const
    requires PositionedSource<inner>
  {
    return source_.get().file_count();
  }
  [[nodiscard]] auto position_of(std::size_t tensor) const
    requires PositionedSource<inner>
  {
    return source_.get().position_of(index_of(tensor));
  }
  void read_file(std::size_t file, std::uint64_t offset, mutable_bytes destination)
    requires PositionedSource<inner>
  {
    source_.get().read_file(file, offset, destination);
  }
  void read_file_into(std::size_t file, std::uint64_t offset, std::span<const mutable_bytes> destinations)
    requires VectoredSource<inner>
  {
    source_.get().read_file_into(file, offset, destinations);
  }

  [[nodiscard]] std::vector<file_fingerprint> file_fingerprints() const
    requires FingerprintedSource<inner>
  {
    return source_.get().file_fingerprints();
  }
  [[nodiscard]] std::optional<std::size_t> file_of(std::size_t tensor) const
    requires FingerprintedSource<inner>
  {
    return source_.get().file_of(index_of(tensor));
  }

 private:
  [[nodiscard]] std::size_t index_of(std::size_t tensor) const {
    Expects(tensor < indices_.size());
    return indices_[tensor];
  }

  template <class Read>
  void naming_both(std::size_t tensor, Read read) {
    const std::size_t index = index_of(tensor);
    try {
      read(index);
    } catch (const error& thrown) {
      if (name_below(tensor) == descriptors_[tensor].name) {
        throw;
      }
      throw detail::with_both_names(thrown, descriptors_[tensor].name, name_below(tensor), stored_name(tensor));
    }
  }

  /// What the source calls it, which may itself be a renaming.
  [[nodiscard]] std::string_view name_below(std::size_t tensor) const {
    return std::span<const tensor_descriptor>(std::as_const(source_.get()).tensors())[indices_[tensor]].name;
  }

  detail::held_source<S> source_;
  std::vector<tensor_descriptor> descriptors_;
  std::vector<std::size_t> indices_;
  std::vector<unlisted_tensor> unlisted_;
};

}  // namespace fsdpinit
