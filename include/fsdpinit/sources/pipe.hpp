#pragma once

#include <fsdpinit/concepts/state_dict_source.hpp>

#include <type_traits>
#include <utility>

/// \file
/// `source | adaptor`: a state dict seen through an adaptor is a state dict again. What stands before the bar is
///
/// - a StateDictSource: an rvalue is moved in and owned; an lvalue is referred to and must outlive the result, stay
///   where it is, and not be read by others meanwhile;
/// - a SourceOpener, copied or moved in: the result is a SourceOpener that opens and then adapts, so that nothing is
///   opened where nothing is read;
/// - another adaptor: the result is an adaptor that applies both, the left one first.

namespace fsdpinit {

/// What `|` takes on its right: `adapt(source)` is called with a source, lvalue or rvalue, and returns a source.
/// Adaptors of one's own are made as the library's are: `source_adaptor{[](auto&& source) { return ...; }}`.
template <class Fn>
struct source_adaptor {
  Fn adapt;
};
template <class Fn>
source_adaptor(Fn) -> source_adaptor<Fn>;

namespace detail {

template <class T>
inline constexpr bool is_source_adaptor = false;
template <class Fn>
inline constexpr bool is_source_adaptor<source_adaptor<Fn>> = true;

/// The source an adaptor stands on: its own, or with `S&` one that belongs to somebody else, kept by pointer.
template <class S>
class held_source {
 public:
  explicit held_source(S&& source) noexcept(std::is_nothrow_move_constructible_v<S>) : source_(std::move(source)) {}
  [[nodiscard]] S& get() noexcept { return source_; }
  [[nodiscard]] const S& get() const noexcept { return source_; }

 private:
  S source_;
};
template <class S>
class held_source<S&> {
 public:
  explicit held_source(S& source) noexcept : source_(&source) {}
  [[nodiscard]] S& get() const noexcept { return *source_; }

 private:
  S* source_;
};

template <class Opener, class Fn>
class adapted_opener {
 public:
  adapted_opener(Opener open, Fn adapt) : open_(std::move(open)), adapt_(std::move(adapt)) {}

  [[nodiscard]] auto operator()() { return adapt_(open_()); }
  [[nodiscard]] auto operator()() const
    requires SourceOpener<const Opener>
  {
    return adapt_(open_());
  }

 private:
  Opener open_;
  Fn adapt_;
};

}  // namespace detail

/// \see sources/pipe.hpp
template <class Given, class Fn>
[[nodiscard]] auto operator|(Given&& given, source_adaptor<Fn> adaptor) {
  using plain = std::remove_cvref_t<Given>;
  if constexpr (StateDictSource<std::remove_reference_t<Given>>) {
    return adaptor.adapt(std::forward<Given>(given));
  } else if constexpr (detail::is_source_adaptor<plain>) {
    return source_adaptor{[first = plain(std::forward<Given>(given)).adapt, second = std::move(adaptor.adapt)](
                              auto&& source) { return second(first(std::forward<decltype(source)>(source))); }};
  } else {
    static_assert(SourceOpener<plain>,
                  "fsdpinit: what stands before `|` must model StateDictSource: tensors() const, void read(tensor, "
                  "offset, destination); or SourceOpener: a call that returns one; or be another adaptor");
    if constexpr (SourceOpener<plain>) {
      return detail::adapted_opener<plain, Fn>(std::forward<Given>(given), std::move(adaptor.adapt));
    }
  }
}

}  // namespace fsdpinit
