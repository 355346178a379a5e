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

struct null_observer {
  void phase(const char* /*name*/) noexcept {}
  void progress(std::uint64_t /*done*/, std::uint64_t /*total*/) noexcept {}
};

}  // namespace fsdpinit
