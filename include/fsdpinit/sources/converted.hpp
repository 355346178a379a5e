#pragma once

#include <fsdpinit/concepts/state_dict_source.hpp>
#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/core/dtype.hpp>
#include <fsdpinit/core/error.hpp>
#include <fsdpinit/core/tensor_descriptor.hpp>
#include <fsdpinit/index/byte_region.hpp>
#include <fsdpinit/index/gather.hpp>
#include <fsdpinit/sources/as_stored.hpp>
#include <fsdpinit/sources/conversion.hpp>
#include <fsdpinit/sources/pipe.hpp>
#include <fsdpinit/sources/rules.hpp>

#include <gsl/assert>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

namespace fsdpinit {

/// A source whose tensors are made of those of another as rules say: what `converted` makes. An AssemblingSource.
///
/// What lies in one stored tensor as it is, renamed, reshaped, or a range of its first dimension, is read from there, and is where that
/// is in files. All else is put together as it is read: in place where runs are 16 KiB or longer; else through the memory that
/// `read_runs` is given, or, in `read`, 32 KiB of stack. Casts and overflows are those of the source, where tensors are read as they are
/// stored; what a rule casts is counted, too. Nothing is allocated per read.
///
/// \tparam S the source: owned, or with `S&` referred to.
template <class S>
class converted_source {
  using inner = std::remove_reference_t<S>;

 public:
  static constexpr bool reads_concurrently = ConcurrentSource<inner>;
  /// What `tile_bytes` says of tensors that need it.
  static constexpr std::uint64_t best_tile_bytes = 256 * kib;

  /// \throws error{invalid_argument}, of one line that names rule and stored tensors, where rules and checkpoint do not fit: \see converted
  converted_source(S&& source, const rules::rule_set& rules)
      : source_(std::forward<S>(source)),
        made_(rules, std::as_const(source_.get()).tensors()),
        overflows_(made_.shown.size()) {}

  /// By recipes that are there already.
  converted_source(S&& source, detail::conversion made)
      : source_(std::forward<S>(source)), made_(std::move(made)), overflows_(made_.shown.size()) {}

  [[nodiscard]] std::span<const tensor_descriptor> tensors() const noexcept { return made_.descriptors; }

  /// As StateDictSource says. \pre `tensor` is an index into `tensors()` and the range lies inside it.
  void read(std::size_t tensor, std::uint64_t offset, mutable_bytes destination) {
    read_runs(tensor, {.offset = offset, .run = destination.size(), .stride = 0, .count = 1}, destination, {});
  }

  [[nodiscard]] std::uint64_t tile_bytes(std::size_t tensor) const {
    const shown_tensor& of = at(tensor);
    return of.needs_tiles ? best_tile_bytes : of.is_made ? 0 : detail::tile_bytes<inner>(source_.get(), of.first);
  }
  void read_runs(std::size_t tensor, const byte_region& runs, mutable_bytes destination, mutable_bytes tile) {
    const shown_tensor& of = at(tensor);
    if (!of.is_made) {
      read_row(tensor, runs, destination, tile);
    } else if (tile.size() < index_map::least_tile_bytes) {
      std::array<std::byte, 32 * kib> aside;  // NOLINT(*-member-init): read into before it is looked at
      make(tensor, runs, destination, aside);
    } else {
      make(tensor, runs, destination, tile);
    }
  }

  /// Before a cast of the source; what a rule casts has been cast.
  [[nodiscard]] fsdpinit::dtype stored_dtype(std::size_t tensor) const {
    const shown_tensor& of = at(tensor);
    return of.is_made ? made_.descriptors[tensor].dtype : detail::stored_dtype<inner>(source_.get(), of.first);
  }
  void read_stored(std::size_t tensor, std::uint64_t offset, mutable_bytes destination) {
    const shown_tensor& of = at(tensor);
    if (of.is_made) {
      read(tensor, offset, destination);
      return;
    }
    const std::uint64_t begin = of.element * bits(detail::stored_dtype<inner>(source_.get(), of.first)) / 8;
    naming_both(tensor, of.first,
                [&] { detail::read_stored<inner>(source_.get(), of.first, begin + offset, destination); });
  }

  /// Of the source's casts: with the first tensor that a stored one is part of.
  [[nodiscard]] std::uint64_t overflows(std::size_t tensor) const {
    const shown_tensor& of = at(tensor);
    if (of.is_kept()) {
      return detail::overflows<inner>(source_.get(), of.first);
    }
    std::uint64_t all = overflows_[tensor].value();
    for (const std::size_t stored : of.counted) {
      all += detail::overflows<inner>(source_.get(), stored);
    }
    return all;
  }

  [[nodiscard]] std::size_t file_count() const
    requires PositionedSource<inner>
  {
    return source_.get().file_count();
  }
  [[nodiscard]] std::optional<file_position> position_of(std::size_t tensor) const
    requires PositionedSource<inner>
  {
    const shown_tensor& of = at(tensor);
    std::optional<file_position> position;
    if (!of.is_made) {
      position = source_.get().position_of(of.first);
    }
    if (position) {
      position->offset += of.element * bits(made_.descriptors[tensor].dtype) / 8;
    }
    return position;
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
  /// Of what is made of several, the one of the first.
  [[nodiscard]] std::optional<std::size_t> file_of(std::size_t tensor) const
    requires FingerprintedSource<inner>
  {
    return source_.get().file_of(at(tensor).first);
  }

  /// Of what is made, all that it is made of.
  [[nodiscard]] std::string_view stored_name(std::size_t tensor) const {
    const shown_tensor& of = at(tensor);
    return of.is_made ? std::string_view(of.stored_names) : detail::stored_name<inner>(source_.get(), of.first);
  }
  [[nodiscard]] std::span<const unlisted_tensor> unlisted() const { return detail::unlisted<inner>(source_.get()); }

 private:
  using shown_tensor = detail::conversion::shown_tensor;

  [[nodiscard]] const shown_tensor& at(std::size_t tensor) const {
    Expects(tensor < made_.shown.size());
    return made_.shown[tensor];
  }

  /// Calls `read()`, which reads of a stored tensor for one that is shown.
  template <class Read>
  void naming_both(std::size_t tensor, std::size_t stored, Read read) {
    try {
      read();
    } catch (const error& thrown) {
      const std::string_view shown = made_.descriptors[tensor].name;
      const std::string_view below =
          std::span<const tensor_descriptor>(std::as_const(source_.get()).tensors())[stored].name;
      if (shown == below) {
        throw;
      }
      throw detail::with_both_names(thrown, shown, below, detail::stored_name<inner>(source_.get(), stored));
    }
  }

  /// Of a tensor that lies in one as it is.
  void read_row(std::size_t tensor, byte_region runs, mutable_bytes destination, mutable_bytes tile) {
    const shown_tensor& of = at(tensor);
    const std::uint64_t begin = of.element * bits(made_.descriptors[tensor].dtype) / 8;
    naming_both(tensor, of.first, [&] {
      if (begin == 0) {
        detail::read_runs<inner>(source_.get(), of.first, runs, destination, tile);
        return;
      }
      // One by one: they may go over multiples of their stride there.
      for_each_run(runs, 0, runs.bytes(), [&](std::uint64_t global, std::uint64_t local, std::uint64_t length) {
        const byte_region run{.offset = begin + global, .run = length, .stride = 0, .count = 1};
        detail::read_runs<inner>(source_.get(), of.first, run, destination.subspan(local, length), tile);
      });
    });
  }

  void make(std::size_t tensor, const byte_region& runs, mutable_bytes destination, mutable_bytes tile) {
    const std::uint64_t width = at(tensor).converts ? bits(made_.descriptors[tensor].dtype) / 8 : 1;
    if (runs.offset % width == 0 && runs.run % width == 0 && runs.stride % width == 0) {
      overflows_[tensor].add(gather(tensor, runs, destination, tile));
      return;
    }
    for_each_run(runs, 0, runs.bytes(), [&](std::uint64_t global, std::uint64_t local, std::uint64_t length) {
      make_cut(tensor, global, destination.subspan(local, length), tile);
    });
  }
  /// Of converted elements, of which the first and the last may be cut: these are made whole, aside.
  void make_cut(std::size_t tensor, std::uint64_t offset, mutable_bytes destination, mutable_bytes tile) {
    const std::uint64_t width = bits(made_.descriptors[tensor].dtype) / 8;
    while (!destination.empty()) {
      const std::uint64_t skipped = offset % width;
      std::uint64_t done = align_down(destination.size(), width);
      if (skipped == 0 && done != 0) {
        overflows_[tensor].add(gather(tensor, one_run(offset, done), destination.first(done), tile));
      } else {
        std::array<std::byte, 8> element{};
        const std::uint64_t infinite =
            gather(tensor, one_run(offset - skipped, width), mutable_bytes(element).first(width), tile);
        overflows_[tensor].add(skipped == 0 ? infinite : 0);
        done = smaller(width - skipped, destination.size());
        std::copy_n(element.begin() + static_cast<std::ptrdiff_t>(skipped), done, destination.begin());
      }
      offset += done;
      destination = destination.subspan(done);
    }
  }
  [[nodiscard]] std::uint64_t gather(std::size_t tensor, const byte_region& runs, mutable_bytes destination,
                                     mutable_bytes tile) {
    return index_map::gather(at(tensor).recipe, runs, destination, tile,
                             [&](std::size_t stored, std::uint64_t offset, mutable_bytes to) {
                               naming_both(tensor, stored, [&] { source_.get().read(stored, offset, to); });
                             });
  }
  [[nodiscard]] static byte_region one_run(std::uint64_t offset, std::uint64_t bytes) noexcept {
    return {.offset = offset, .run = bytes, .stride = 0, .count = 1};
  }

  detail::held_source<S> source_;
  detail::conversion made_;
  std::vector<detail::shared_count> overflows_;  // of what rules cast
};

/// `source | converted(rules)`: the tensors that the rules make of the source's, and those that they keep.
///
///     auto source = checkpoint{path} | converted(rules::rule_set{
///         make("{p...}.qkv_proj.weight", concat(0, {"{p...}.q_proj.weight", "{p...}.k_proj.weight", "{p...}.v_proj.weight"}))});
///
/// Cost: when the source is adapted, that of `rules::resolve`, and some hundred bytes for each stored tensor that is used. What is made
/// costs a request for each run of 16 KiB or more, and for each tile of what is scattered.
/// 	hrows error{invalid_argument}, when the source is adapted, naming rule and stored tensors: what `rules::resolve`,
/// `rules::recipes_of` and `rules::check_uses` throw.
[[nodiscard]] inline auto converted(rules::rule_set rules) {
  return source_adaptor{
      [rules = std::move(rules)]<class S>(S&& source) { return converted_source<S>(std::forward<S>(source), rules); }};
}

}  // namespace fsdpinit
