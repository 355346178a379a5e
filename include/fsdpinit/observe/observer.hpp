#pragma once

#include <fsdpinit/core/compiler.hpp>

#include <concepts>
#include <cstdint>

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

namespace detail {

/// Meant to be told of waits: then it has to be a WaitingObserver, or it would silently not be.
template <class O>
concept HasWaiting = requires(O& watch, const char* what, double seconds) { watch.waiting(what, seconds); };

}  // namespace detail

struct null_observer {
  void phase(const char* /*name*/) noexcept {}
  void progress(std::uint64_t /*done*/, std::uint64_t /*total*/) noexcept {}
};

}  // namespace fsdpinit
