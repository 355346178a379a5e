#pragma once

#include <fsdpinit/concepts/state_dict_source.hpp>
#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/core/dtype.hpp>
#include <fsdpinit/core/error.hpp>
#include <fsdpinit/core/float_conversion.hpp>
#include <fsdpinit/core/tensor_descriptor.hpp>
#include <fsdpinit/index/byte_region.hpp>
#include <fsdpinit/sources/as_stored.hpp>
#include <fsdpinit/sources/filtered.hpp>
#include <fsdpinit/sources/pipe.hpp>

#include <gsl/assert>

#include <array>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

namespace fsdpinit {

/// A source of which tensors are seen with another dtype: what `cast` makes. A CastingSource.
///
/// A read converts in place within its destination, a piece that fits a cache at a time, and allocates nothing: the
/// source is read in pieces of up to 256 KiB. Narrowing, the last few KiB of a destination are read in pieces that
/// halve, since the source needs twice the room. Elements that a range cuts through are read whole, aside.
///
/// Names are forwarded, and the positions in files of what is not cast. What the cast makes infinite is counted, by tensor: an
/// OverflowCountingSource.
///
/// \tparam S the source: owned, or with `S&` referred to.
template <class S>
class cast_source {
  using inner = std::remove_reference_t<S>;

 public:
  static constexpr bool reads_concurrently = ConcurrentSource<inner>;

  /// \throws error{invalid_argument} naming the tensor where its size would overflow.
  template <class Predicate>
  cast_source(S&& source, dtype target, const Predicate& chosen) : source_(std::forward<S>(source)) {
    const std::span<const tensor_descriptor> theirs = std::as_const(source_.get()).tensors();
    descriptors_.assign(theirs.begin(), theirs.end());
    casts_.resize(theirs.size());
    overflows_.resize(theirs.size());
    for (std::size_t i = 0; i < theirs.size(); ++i) {
      tensor_descriptor& tensor = descriptors_[i];
      const dtype from = tensor.dtype;
      if (from != target && is_convertible(from, target) && chosen(std::string_view(tensor.name))) {
        tensor.dtype = target;
        casts_[i] = {.from = from, .is_cast = true, .bytes = byte_size(tensor)};
      }
    }
  }

  [[nodiscard]] std::span<const tensor_descriptor> tensors() const noexcept { return descriptors_; }

  /// As StateDictSource says. \pre `tensor` is an index into `tensors()` and the range lies inside it.
  void read(std::size_t tensor, std::uint64_t offset, mutable_bytes destination) {
    read(tensor, offset, destination, {});
  }

  [[nodiscard]] std::uint64_t tile_bytes(std::size_t tensor) const
    requires AssemblingSource<inner>
  {
    return source_.get().tile_bytes(tensor);
  }
  void read_runs(std::size_t tensor, const byte_region& runs, mutable_bytes destination, mutable_bytes tile)
    requires AssemblingSource<inner>
  {
    Expects(tensor < casts_.size());
    if (!casts_[tensor].is_cast) {
      source_.get().read_runs(tensor, runs, destination, tile);
      return;
    }
    for_each_run(runs, 0, runs.bytes(), [&](std::uint64_t global, std::uint64_t local, std::uint64_t length) {
      read(tensor, global, destination.subspan(local, length), tile);
    });
  }

  [[nodiscard]] fsdpinit::dtype stored_dtype(std::size_t tensor) const {
    Expects(tensor < casts_.size());
    // What is cast twice has no one conversion: what is stored is then what the cast below makes of it.
    return casts_[tensor].is_cast ? casts_[tensor].from : detail::stored_dtype<inner>(source_.get(), tensor);
  }
  void read_stored(std::size_t tensor, std::uint64_t offset, mutable_bytes destination) {
    Expects(tensor < casts_.size());
    if (casts_[tensor].is_cast) {
      source_.get().read(tensor, offset, destination);
    } else {
      detail::read_stored(source_.get(), tensor, offset, destination);
    }
  }

  [[nodiscard]] std::uint64_t overflows(std::size_t tensor) const {
    Expects(tensor < casts_.size());
    return overflows_[tensor].value() + detail::overflows<inner>(source_.get(), tensor);
  }

  [[nodiscard]] std::size_t file_count() const
    requires PositionedSource<inner>
  {
    return source_.get().file_count();
  }
  [[nodiscard]] std::optional<file_position> position_of(std::size_t tensor) const
    requires PositionedSource<inner>
  {
    Expects(tensor < casts_.size());
    return casts_[tensor].is_cast ? std::nullopt : std::optional<file_position>(source_.get().position_of(tensor));
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
    return source_.get().file_of(tensor);
  }

  [[nodiscard]] std::string_view stored_name(std::size_t tensor) const
    requires RenamingSource<inner>
  {
    return source_.get().stored_name(tensor);
  }
  [[nodiscard]] std::span<const unlisted_tensor> unlisted() const { return detail::unlisted<inner>(source_.get()); }

 private:
  struct conversion {
    dtype from = dtype::f32;
    bool is_cast = false;
    std::uint64_t bytes = 0;  ///< of the tensor as it is seen
  };
  static constexpr std::uint64_t piece_bytes = 256 * kib;
  static constexpr std::uint64_t aside_bytes = 4 * kib;

  void read_below(std::size_t tensor, std::uint64_t offset, mutable_bytes destination, mutable_bytes tile) {
    const byte_region run{.offset = offset, .run = destination.size(), .stride = 0, .count = 1};
    detail::read_runs<inner>(source_.get(), tensor, run, destination, tile);
  }
  void read(std::size_t tensor, std::uint64_t offset, mutable_bytes destination, mutable_bytes tile) {
    Expects(tensor < casts_.size());
    const conversion& cast = casts_[tensor];
    if (!cast.is_cast) {
      read_below(tensor, offset, destination, tile);
      return;
    }
    Expects(offset <= cast.bytes && destination.size() <= cast.bytes - offset);
    const std::uint64_t width = bits(descriptors_[tensor].dtype) / 8;
    std::uint64_t element = offset / width;
    if (const std::uint64_t skipped = offset % width; skipped != 0) {
      const std::uint64_t count = smaller(width - skipped, destination.size());
      read_cut(tensor, element, skipped, destination.first(count), tile);
      destination = destination.subspan(count);
      ++element;
    }
    const std::uint64_t whole = destination.size() / width;
    read_whole(tensor, element, destination.first(whole * width), tile);
    read_cut(tensor, element + whole, 0, destination.subspan(whole * width), tile);
  }

  /// Some bytes of one element, from its byte `skipped` on.
  void read_cut(std::size_t tensor, std::uint64_t element, std::uint64_t skipped, mutable_bytes destination,
                mutable_bytes tile) {
    if (destination.empty()) {
      return;
    }
    const dtype from = casts_[tensor].from;
    const std::uint64_t from_width = bits(from) / 8;
    std::array<std::byte, 8> stored{};
    std::array<std::byte, 4> seen{};
    read_below(tensor, element * from_width, mutable_bytes(stored).first(from_width), tile);
    const std::uint64_t infinite = convert_floats(from, stored.data(), descriptors_[tensor].dtype, seen.data(), 1);
    overflows_[tensor].add(skipped == 0 ? infinite : 0);
    for (std::size_t i = 0; i < destination.size(); ++i) {
      destination[i] = seen[skipped + i];
    }
  }

  void read_whole(std::size_t tensor, std::uint64_t element, mutable_bytes destination, mutable_bytes tile) {
    const dtype from = casts_[tensor].from;
    const dtype to = descriptors_[tensor].dtype;
    const std::uint64_t from_width = bits(from) / 8;
    const std::uint64_t to_width = bits(to) / 8;
    while (!destination.empty()) {
      const std::uint64_t room = smaller(destination.size(), piece_bytes);
      std::uint64_t count = 0;
      if (from_width > to_width && room < aside_bytes) {
        std::array<std::byte, aside_bytes> aside;  // NOLINT(*-member-init): read into before it is looked at
        count = smaller(destination.size() / to_width, aside_bytes / from_width);
        read_below(tensor, element * from_width, mutable_bytes(aside).first(count * from_width), tile);
        overflows_[tensor].add(convert_floats(from, aside.data(), to, destination.data(), count));
      } else {
        count = room / (from_width > to_width ? from_width : to_width);
        // At the end of the piece where it grows; see convert_floats.
        const std::uint64_t begin = from_width < to_width ? count * (to_width - from_width) : 0;
        const mutable_bytes stored = destination.subspan(begin, count * from_width);
        read_below(tensor, element * from_width, stored, tile);
        overflows_[tensor].add(convert_floats(from, stored.data(), to, destination.data(), count));
      }
      element += count;
      destination = destination.subspan(count * to_width);
    }
  }

  detail::held_source<S> source_;
  std::vector<tensor_descriptor> descriptors_;
  std::vector<conversion> casts_;
  std::vector<detail::shared_count> overflows_;
};

/// `source | cast(dtype::bf16, predicate)`: tensors of f64, f32, f16 and bf16 whose name satisfies the predicate are seen
/// with dtype `target`, converted as `convert_floats` does; all others as they are. What was finite and becomes infinite is counted
/// (`rank_report::overflow`).
///
/// \throws error{invalid_argument} for a target other than f32, f16 and bf16.
template <class Predicate>
  requires(!std::convertible_to<Predicate, std::string_view>)  // which is a name: rules::cast takes that
[[nodiscard]] auto cast(dtype target, Predicate chosen) {
  static_assert(NamePredicate<Predicate>,
                "fsdpinit: `chosen` must be callable on a name, const: bool(std::string_view)");
  if (!is_convertible_float(target)) {
    throw error(errc::invalid_argument, "cast",
                concat("cannot cast to ", name(target), "; give F32, F16 or BF16, or convert the checkpoint"));
  }
  // The predicate first: one without state, behind other members, is uninitialised to g++ 12's warnings.
  return source_adaptor{[chosen = std::move(chosen), target]<class S>(S&& source) {
    return cast_source<S>(std::forward<S>(source), target, chosen);
  }};
}

/// `source | cast(dtype::bf16)`: every tensor of f64, f32, f16 and bf16. \throws as the other does.
[[nodiscard]] inline auto cast(dtype target) {
  return cast(target, [](std::string_view) { return true; });
}

}  // namespace fsdpinit
