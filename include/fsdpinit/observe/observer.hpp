#pragma once

#include <fsdpinit/core/compiler.hpp>

#include <concepts>
#include <cstdint>
#include <memory>
#include <type_traits>

namespace fsdpinit {

/// Watches an initialisation from within.
///
/// - `phase(name)`: this rank enters a phase; the name is a string literal (open, preflight, allocate, stream, ...).
/// - `progress(done, total)`: bytes of the state dict that are on their way; on the source rank only, at most once per
///   `options::progress_interval_seconds`, and once at the end.
///
/// Both are called on the rank's own thread. What they throw fails the initialisation, on every rank.
template <class O>
concept Observer = requires(O& watch, const char* name, std::uint64_t bytes) {
  { watch.phase(name) } -> std::same_as<void>;
  { watch.progress(bytes, bytes) } -> std::same_as<void>;
};

/// An Observer that also hears of long waits:
///
/// - `waiting(what, seconds)`: this rank has waited `seconds` seconds for `what`, a string literal, and still does. It is "other ranks"
///   where ranks agree or send each other metadata, and "a bucket" where payload moves. Called on every rank that waits: 3 seconds
///   after the wait began, and again each time that it has become twice as long. Every wait is counted by itself, as it is for
///   `options::deadline_seconds`.
///
/// The rank's own thread is busy waiting, so `waiting` is called on another one. That thread exists only for observers with this
/// member, from the first agreement to the end of the call. Calls of one observer never overlap, and each sees what the earlier ones
/// have written. A rank whose wait is over goes on when `waiting` has returned: it should be quick. It is noexcept because a
/// rank that waits cannot tell the others of a failure.
///
/// If the system gives no thread, every rank gets the same error{io}, with errno, from the first agreement.
template <class O>
concept WaitingObserver = Observer<O> && requires(O& watch, const char* what, double seconds) {
  { watch.waiting(what, seconds) } noexcept -> std::same_as<void>;
};

/// An Observer that is asked again and again while its rank works and waits:
///
/// - `poll()`: on the rank's own thread, at every agreement, after every bucket, and in waits every 50 ms. For what a program has to do
///   meanwhile: pump the events of a window, or let an interpreter look at its signals. What it throws fails the call on every rank,
///   as a stop does (`extras::stop`); it is not called again then, nor in the last reduction, past which no rank can fail.
///
/// A wait is as deaf as its communicator: `docs/guide/failures.md` says which waits poll.
template <class O>
concept PollingObserver = Observer<O> && requires(O& watch) {
  { watch.poll() } -> std::same_as<void>;
};

namespace detail {

template <class T>
struct observer_clauses {
  static constexpr bool has_phase = requires(T& watch, const char* name) { watch.phase(name); };
  static constexpr bool phase_returns_void = !has_phase || requires(T& watch, const char* name) {
    { watch.phase(name) } -> std::same_as<void>;
  };
  static constexpr bool has_progress = requires(T& watch, std::uint64_t bytes) { watch.progress(bytes, bytes); };
  static constexpr bool progress_returns_void = !has_progress || requires(T& watch, std::uint64_t bytes) {
    { watch.progress(bytes, bytes) } -> std::same_as<void>;
  };
  /// Meant to be told of waits: then it has to be a WaitingObserver, or it would silently not be.
  static constexpr bool has_waiting =
      requires(T& watch, const char* what, double seconds) { watch.waiting(what, seconds); };
  static constexpr bool waiting_is_noexcept_and_returns_void =
      !has_waiting || requires(T& watch, const char* what, double seconds) {
        { watch.waiting(what, seconds) } noexcept -> std::same_as<void>;
      };
  /// Meant to be polled: then it has to be a PollingObserver.
  static constexpr bool poll_takes_nothing_and_returns_void = !requires { &T::poll; } || requires(T& watch) {
    { watch.poll() } -> std::same_as<void>;
  };
  static constexpr bool is_not_const = !std::is_const_v<T> || !Observer<std::remove_const_t<T>>;
  static constexpr bool is_observer = has_phase || has_progress || !is_not_const;
};

/// Where T is no observer, the compiler says which clause it does not meet; T is named beside it. \return is it one?
template <class T>
[[nodiscard]] consteval bool require_observer() {
  using clauses = observer_clauses<T>;
  if constexpr (!clauses::is_observer) {
    static_assert(clauses::is_observer,
                  "fsdpinit: `observer` must be an Observer: T must have void phase(const char* name), void "
                  "progress(std::uint64_t done, std::uint64_t total)");
  } else if constexpr (!clauses::is_not_const && !Observer<T>) {
    static_assert(clauses::is_not_const,
                  "fsdpinit: `observer`: T is const, but its phase or progress is not; pass one that is not const");
  } else {
    static_assert(clauses::has_phase, "fsdpinit: `observer`: T must have void phase(const char* name)");
    static_assert(clauses::phase_returns_void, "fsdpinit: `observer`: T::phase(name) must return void");
    static_assert(clauses::has_progress,
                  "fsdpinit: `observer`: T must have void progress(std::uint64_t done, std::uint64_t total)");
    static_assert(clauses::progress_returns_void, "fsdpinit: `observer`: T::progress(done, total) must return void");
    static_assert(clauses::waiting_is_noexcept_and_returns_void,
                  "fsdpinit: `observer`: T::waiting(what, seconds) must be noexcept and return void");
    static_assert(clauses::poll_takes_nothing_and_returns_void,
                  "fsdpinit: `observer`: T::poll() must take nothing and return void");
  }
  return Observer<T> && clauses::waiting_is_noexcept_and_returns_void && clauses::poll_takes_nothing_and_returns_void;
}

}  // namespace detail

struct null_observer {
  void phase(const char* /*name*/) noexcept {}
  void progress(std::uint64_t /*done*/, std::uint64_t /*total*/) noexcept {}
};

/// An observer of any type: a pointer to it, and a table of what it is told. For as long as the observer lives.
class observer_ref {
 public:
  /// Of nobody who observes.
  observer_ref() = default;
  /// An observer with which the compiler finds nothing wrong, or it says which clause is not met.
  template <class Watch>
    requires(!std::same_as<std::remove_cvref_t<Watch>, observer_ref>)
  // NOLINTNEXTLINE(google-explicit-constructor,bugprone-forwarding-reference-overload,*-missing-std-forward): stands for it
  observer_ref(Watch&& watch) noexcept : watch_(const_cast<void*>(static_cast<const void*>(std::addressof(watch)))) {
    if constexpr (detail::require_observer<std::remove_reference_t<Watch>>()) {
      table_ = &table_of<std::remove_reference_t<Watch>>;
    }
  }

  void phase(const char* name) const {
    if (table_ != nullptr) {
      table_->phase(watch_, name);
    }
  }
  void progress(std::uint64_t done, std::uint64_t total) const {
    if (table_ != nullptr) {
      table_->progress(watch_, done, total);
    }
  }
  /// Is it a WaitingObserver?
  [[nodiscard]] bool hears_of_waits() const noexcept { return table_ != nullptr && table_->waiting != nullptr; }
  /// \pre hears_of_waits()
  void waiting(const char* what, double seconds) const noexcept { table_->waiting(watch_, what, seconds); }
  /// Is it a PollingObserver?
  [[nodiscard]] bool polls() const noexcept { return table_ != nullptr && table_->poll != nullptr; }
  /// Nothing for one that does not poll.
  void poll() const {
    if (polls()) {
      table_->poll(watch_);
    }
  }

 private:
  struct table {
    void (*phase)(void*, const char*);
    void (*progress)(void*, std::uint64_t, std::uint64_t);
    void (*waiting)(void*, const char*, double) noexcept;  // nullptr for one that does not hear of waits
    void (*poll)(void*);                                   // the same of one that does not poll
  };
  template <class Watch>
  static constexpr auto waiting_of() noexcept -> void (*)(void*, const char*, double) noexcept {
    if constexpr (WaitingObserver<Watch>) {
      return [](void* watch, const char* what, double seconds) noexcept {
        static_cast<Watch*>(watch)->waiting(what, seconds);
      };
    } else {
      return nullptr;
    }
  }
  template <class Watch>
  static constexpr auto poll_of() noexcept -> void (*)(void*) {
    if constexpr (PollingObserver<Watch>) {
      return [](void* watch) { static_cast<Watch*>(watch)->poll(); };
    } else {
      return nullptr;
    }
  }
  template <class Watch>
  static constexpr table table_of{
      .phase = [](void* watch, const char* name) { static_cast<Watch*>(watch)->phase(name); },
      .progress = [](void* watch, std::uint64_t done,
                     std::uint64_t total) { static_cast<Watch*>(watch)->progress(done, total); },
      .waiting = waiting_of<Watch>(),
      .poll = poll_of<Watch>()};

  void* watch_ = nullptr;
  const table* table_ = nullptr;
};

}  // namespace fsdpinit
