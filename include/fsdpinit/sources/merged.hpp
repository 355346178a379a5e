#pragma once

#include <fsdpinit/concepts/state_dict_source.hpp>
#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/core/dtype.hpp>
#include <fsdpinit/core/error.hpp>
#include <fsdpinit/core/tensor_descriptor.hpp>
#include <fsdpinit/sources/as_stored.hpp>
#include <fsdpinit/sources/pipe.hpp>

#include <gsl/assert>

#include <array>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <map>
#include <optional>
#include <span>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

namespace fsdpinit {

/// Several sources as one state dict, the tensors of each in its order, one source after the other: what `merged`
/// makes.
///
/// Names are forwarded where a source renames, casts where a source casts, positions in files where all sources have
/// them: the files of each are numbered behind those of the sources before it.
///
/// \tparam S the sources: owned, or with `S&` referred to.
template <class... S>
class merged_source {
  static_assert(sizeof...(S) > 0, "fsdpinit: merged() must be given at least one state dict");

 public:
  static constexpr bool reads_concurrently = (ConcurrentSource<std::remove_reference_t<S>> && ...);

  /// Cost n log n in the number of tensors. \throws error{invalid_argument} for a name that two sources have.
  explicit merged_source(S&&... sources) : sources_(detail::held_source<S>(std::forward<S>(sources))...) {
    std::map<std::string_view, std::size_t> source_of;
    const auto add = [&](std::size_t which, std::span<const tensor_descriptor> tensors) {
      for (std::size_t i = 0; i < tensors.size(); ++i) {
        const auto [first, is_new] = source_of.emplace(tensors[i].name, which);
        if (!is_new) {
          throw error(errc::invalid_argument, tensors[i].name,
                      concat("is in two of the state dicts to merge, numbers ", first->second + 1, " and ", which + 1,
                             " of ", sizeof...(S), "; leave it out of one with filtered(), or rename it"));
        }
        descriptors_.push_back(tensors[i]);
        places_.push_back({.source = which, .tensor = i});
      }
    };
    std::size_t which = 0;
    std::apply([&](const auto&... held) { (add(which++, std::as_const(held.get()).tensors()), ...); }, sources_);
    for (std::size_t i = 0; i + 1 < sizeof...(S); ++i) {
      fingerprints_before_[i + 1] = fingerprints_before_[i] + fingerprints_of(i).size();
    }
    const auto add_unlisted = [&](std::span<const unlisted_tensor> beside) {
      unlisted_.insert(unlisted_.end(), beside.begin(), beside.end());
    };
    std::apply([&](const auto&... held) { (add_unlisted(detail::unlisted(std::as_const(held.get()))), ...); },
               sources_);
  }

  [[nodiscard]] std::span<const tensor_descriptor> tensors() const noexcept { return descriptors_; }
  [[nodiscard]] std::span<const unlisted_tensor> unlisted() const noexcept { return unlisted_; }

  /// As StateDictSource says. \pre `tensor` is an index into `tensors()`, and what its source expects.
  void read(std::size_t tensor, std::uint64_t offset, mutable_bytes destination) {
    const place at = place_of(tensor);
    with_source(*this, at.source, [&](auto& source) { source.read(at.tensor, offset, destination); });
  }

  [[nodiscard]] std::string_view stored_name(std::size_t tensor) const
    requires(RenamingSource<std::remove_reference_t<S>> || ...)
  {
    const place at = place_of(tensor);
    return with_source(*this, at.source, [&](const auto& source) { return detail::stored_name(source, at.tensor); });
  }

  [[nodiscard]] fsdpinit::dtype stored_dtype(std::size_t tensor) const
    requires(CastingSource<std::remove_reference_t<S>> || ...)
  {
    const place at = place_of(tensor);
    return with_source(*this, at.source, [&](const auto& source) { return detail::stored_dtype(source, at.tensor); });
  }
  void read_stored(std::size_t tensor, std::uint64_t offset, mutable_bytes destination)
    requires(CastingSource<std::remove_reference_t<S>> || ...)
  {
    const place at = place_of(tensor);
    with_source(*this, at.source, [&](auto& source) { detail::read_stored(source, at.tensor, offset, destination); });
  }

  [[nodiscard]] std::uint64_t tile_bytes(std::size_t tensor) const
    requires(AssemblingSource<std::remove_reference_t<S>> || ...)
  {
    const place at = place_of(tensor);
    return with_source(*this, at.source, [&](const auto& source) { return detail::tile_bytes(source, at.tensor); });
  }
  void read_runs(std::size_t tensor, const byte_region& runs, mutable_bytes destination, mutable_bytes tile)
    requires(AssemblingSource<std::remove_reference_t<S>> || ...)
  {
    const place at = place_of(tensor);
    with_source(*this, at.source, [&](auto& source) { detail::read_runs(source, at.tensor, runs, destination, tile); });
  }

  [[nodiscard]] std::uint64_t overflows(std::size_t tensor) const
    requires(OverflowCountingSource<std::remove_reference_t<S>> || ...)
  {
    const place at = place_of(tensor);
    return with_source(*this, at.source, [&](const auto& source) { return detail::overflows(source, at.tensor); });
  }

  [[nodiscard]] std::size_t file_count() const
    requires(PositionedSource<std::remove_reference_t<S>> && ...)
  {
    return files_before(sizeof...(S));
  }
  [[nodiscard]] std::optional<file_position> position_of(std::size_t tensor) const
    requires(PositionedSource<std::remove_reference_t<S>> && ...)
  {
    const place at = place_of(tensor);
    std::optional<file_position> position = with_source(*this, at.source, [&](const auto& source) {
      return std::optional<file_position>(source.position_of(at.tensor));
    });
    if (position) {
      position->file += files_before(at.source);
    }
    return position;
  }
  void read_file(std::size_t file, std::uint64_t offset, mutable_bytes destination)
    requires(PositionedSource<std::remove_reference_t<S>> && ...)
  {
    with_file(file, [&](auto& source, std::size_t its) { source.read_file(its, offset, destination); });
  }
  void read_file_into(std::size_t file, std::uint64_t offset, std::span<const mutable_bytes> destinations)
    requires(VectoredSource<std::remove_reference_t<S>> && ...)
  {
    with_file(file, [&](auto& source, std::size_t its) { source.read_file_into(its, offset, destinations); });
  }

  /// Those of each source behind those of the sources before it; of sources that know none, none.
  [[nodiscard]] std::vector<file_fingerprint> file_fingerprints() const
    requires(FingerprintedSource<std::remove_reference_t<S>> || ...)
  {
    std::vector<file_fingerprint> all;
    for (std::size_t which = 0; which < sizeof...(S); ++which) {
      std::vector<file_fingerprint> of_one = fingerprints_of(which);
      all.insert(all.end(), std::make_move_iterator(of_one.begin()), std::make_move_iterator(of_one.end()));
    }
    return all;
  }
  [[nodiscard]] std::optional<std::size_t> file_of(std::size_t tensor) const
    requires(FingerprintedSource<std::remove_reference_t<S>> || ...)
  {
    const place at = place_of(tensor);
    std::optional<std::size_t> file =
        with_source(*this, at.source, [&](const auto& source) { return detail::file_of(source, at.tensor); });
    if (file) {
      *file += fingerprints_before_[at.source];
    }
    return file;
  }

 private:
  struct place {
    std::size_t source = 0;
    std::size_t tensor = 0;
  };

  [[nodiscard]] const place& place_of(std::size_t tensor) const {
    Expects(tensor < places_.size());
    return places_[tensor];
  }

  [[nodiscard]] std::vector<file_fingerprint> fingerprints_of(std::size_t which) const {
    return with_source(*this, which, [](const auto& source) { return detail::file_fingerprints(source); });
  }

  /// Calls `fn(source, file)` for the source that has the file, with its number there.
  template <class Fn>
  void with_file(std::size_t file, Fn&& fn) {
    Expects(file < file_count());
    std::size_t which = 0;
    while (file >= files_before(which + 1)) {
      ++which;
    }
    file -= files_before(which);
    with_source(*this, which, [&](auto& source) { fn(source, file); });
  }

  /// The files of the first `count` sources.
  [[nodiscard]] std::size_t files_before(std::size_t count) const {
    std::size_t files = 0;
    std::size_t which = 0;
    const auto add = [&](std::size_t of_one) { files += which++ < count ? of_one : 0; };
    std::apply([&](const auto&... held) { (add(held.get().file_count()), ...); }, sources_);
    return files;
  }

  template <std::size_t Which = 0, class Self, class Fn>
  static auto with_source(Self& self, std::size_t which, Fn fn) {
    if constexpr (Which + 1 < sizeof...(S)) {
      if (which != Which) {
        return with_source<Which + 1>(self, which, fn);
      }
    }
    return fn(std::get<Which>(self.sources_).get());
  }

  std::tuple<detail::held_source<S>...> sources_;
  std::vector<tensor_descriptor> descriptors_;
  std::vector<place> places_;
  std::array<std::size_t, sizeof...(S)> fingerprints_before_{};  // per source: of the sources before it
  std::vector<unlisted_tensor> unlisted_;
};

namespace detail {

/// A part of `merged` as it goes into a merged_source: `Part` is `S&` for a source that was an lvalue, else what is
/// kept.
template <class Part, class Kept>
[[nodiscard]] decltype(auto) open_part(Kept& kept) {
  if constexpr (std::is_lvalue_reference_v<Part>) {
    return (kept);
  } else if constexpr (SourceOpener<Part>) {
    return kept();
  } else {
    static_assert(std::copy_constructible<Part>,
                  "fsdpinit: a state dict that is merged with what opens another is copied each time they open: give "
                  "an lvalue, or a call that returns it");
    return Part(kept);
  }
}

template <class... Parts>
class merged_opener {
 public:
  template <class... Given>
  explicit merged_opener(std::in_place_t /*tag*/, Given&&... parts) : parts_(std::forward<Given>(parts)...) {}

  [[nodiscard]] auto operator()() { return open(parts_, std::index_sequence_for<Parts...>()); }
  [[nodiscard]] auto operator()() const
    requires((StateDictSource<std::remove_reference_t<Parts>> || SourceOpener<const Parts>) && ...)
  {
    return open(parts_, std::index_sequence_for<Parts...>());
  }

 private:
  template <class Tuple, std::size_t... I>
  static auto open(Tuple& parts, std::index_sequence<I...> /*all*/) {
    using opened = merged_source<decltype(open_part<Parts>(std::get<I>(parts)))...>;
    return opened{open_part<Parts>(std::get<I>(parts))...};  // braces: one after the other, the first first
  }

  std::tuple<Parts...> parts_;
};

template <class T>
inline constexpr bool is_lvalue_source = std::is_lvalue_reference_v<T> && StateDictSource<std::remove_reference_t<T>>;

}  // namespace detail

/// One state dict of several: `merged(checkpoint{"base"}, checkpoint{"adapter"}) | renamed("model.", "")`. Sources that
/// are rvalues are moved in, lvalues are referred to and must outlive the result.
///
/// Where one of the arguments is a SourceOpener, the result is a SourceOpener that opens them all, in order, each time
/// it is called; openers are copied or moved in, and a source that was an rvalue is copied into every result.
///
/// Cost n log n in the number of tensors; nothing per read. \throws error{invalid_argument}, when all are there, for a
/// name that two of them have.
template <class... Parts>
[[nodiscard]] auto merged(Parts&&... parts) {
  if constexpr ((StateDictSource<std::remove_reference_t<Parts>> && ...)) {
    return merged_source<Parts...>(std::forward<Parts>(parts)...);
  } else {
    constexpr bool all_open =
        ((StateDictSource<std::remove_reference_t<Parts>> || SourceOpener<std::remove_cvref_t<Parts>>)&&...);
    static_assert(all_open,
                  "fsdpinit: what is merged must model StateDictSource: tensors() const, void read(tensor, offset, "
                  "destination); or SourceOpener: a call that returns one");
    if constexpr (all_open) {
      return detail::merged_opener<
          std::conditional_t<detail::is_lvalue_source<Parts>, Parts, std::remove_cvref_t<Parts>>...>(
          std::in_place, std::forward<Parts>(parts)...);
    }
  }
}

}  // namespace fsdpinit
