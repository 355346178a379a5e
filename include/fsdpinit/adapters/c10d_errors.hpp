#pragma once

#include <fsdpinit/adapters/torch_first.hpp>
#include <fsdpinit/core/deadline.hpp>
#include <fsdpinit/core/error.hpp>
#include <fsdpinit/core/text.hpp>

#include <algorithm>
#include <chrono>
#include <exception>
#include <new>
#include <string>
#include <string_view>

#include <c10/util/Exception.h>

/// \file
/// What c10d throws, and how it counts time.

namespace fsdpinit::detail {

/// The first line of what an exception of libtorch says: others are a backtrace.
[[nodiscard]] inline std::string first_line_of(const std::exception& thrown) {
  const auto* const by_torch = dynamic_cast<const c10::Error*>(&thrown);
  const std::string text = by_torch != nullptr ? by_torch->what_without_backtrace() : thrown.what();
  return text.substr(0, text.find('\n'));
}

/// Runs `fn`; what libtorch throws becomes an error of code `by_torch`, what the transport below it throws one of `by_transport`:
/// `<what>: <first line>; <remedy>`.
template <class Fn>
auto translating_c10d(errc by_torch, errc by_transport, std::string_view what, std::string_view remedy, Fn&& fn) {
  const auto translated = [&](errc code, const std::exception& thrown) {
    return error(code, "c10d", concat(what, ": ", first_line_of(thrown), "; ", remedy));
  };
  try {
    return fn();
  } catch (const error&) {
    throw;
  } catch (const std::bad_alloc&) {
    throw;
  } catch (const c10::Error& thrown) {
    throw translated(by_torch, thrown);
  } catch (const std::exception& thrown) {
    throw translated(by_transport, thrown);
  }
}

/// What is left, in whole milliseconds and at least one. `deadline::never()` is zero, which c10d takes for the limit that its group was
/// made with.
[[nodiscard]] inline std::chrono::milliseconds milliseconds_left(deadline limit) noexcept {
  constexpr double longest_seconds = 1e9;  // about 30 years
  const double seconds = limit.remaining();
  return seconds > longest_seconds ? std::chrono::milliseconds(0)
                                   : std::chrono::milliseconds(static_cast<long>(std::max(1.0, seconds * 1e3)));
}

}  // namespace fsdpinit::detail
