#pragma once

#include <fsdpinit/core/error.hpp>

#include <exception>
#include <new>
#include <optional>
#include <string_view>
#include <utility>

namespace fsdpinit {

/// The exception being handled, as an `error`: itself; out_of_memory for std::bad_alloc; user_exception, with its text,
/// for anything else; and as the error's cause, unless it has one. Out_of_memory takes none, and neither does an error that is one
/// already. \pre called within a catch block.
[[nodiscard]] inline error current_error() noexcept {
  const auto by_user = [](std::string_view text) {
    try {
      return error(errc::user_exception, "", text).caused_by(std::current_exception());
    } catch (const std::bad_alloc&) {
      return error::without_text(errc::out_of_memory);
    }
  };
  try {
    throw;
  } catch (const error& known) {
    return known.cause() ? known : known.caused_by(std::current_exception());
  } catch (const std::bad_alloc&) {
    return error::without_text(errc::out_of_memory).caused_by(std::current_exception());
  } catch (const std::exception& other) {
    return by_user(other.what());
  } catch (...) {
    return by_user("an exception that is not a std::exception");
  }
}

/// Runs `fn`; what it throws comes back as a value, so that this rank can go on to the agreement where its peers wait.
template <class Fn>
[[nodiscard]] std::optional<error> attempt(Fn&& fn) {
  try {
    std::forward<Fn>(fn)();
    return std::nullopt;
  } catch (...) {
    return current_error();
  }
}

/// Runs a step in which this rank speaks to no other: code of the user among it, as sources, modules and observers are. What it throws
/// keeps its text, but not what only communicators and agreements can know: a rank, and the codes by which ranks find out whose failure
/// was the first (`interrupted`, `peer_lost`) and whether a retry makes sense (`source_consumed`). Those become `user_exception`.
template <class Fn>
decltype(auto) own_step(Fn&& fn) {
  try {
    return std::forward<Fn>(fn)();
  } catch (const error& thrown) {
    const errc code = thrown.code();
    const bool is_ours = code == errc::interrupted || code == errc::peer_lost || code == errc::source_consumed;
    if (!is_ours && thrown.rank() < 0) {
      throw;
    }
    throw error(is_ours ? errc::user_exception : code, thrown.subject(), thrown.text(),
                {.native_code = thrown.native_code()})
        .caused_by(thrown.cause() ? thrown.cause() : std::current_exception());
  }
}

}  // namespace fsdpinit
