#pragma once

#include <fsdpinit/concepts/control_ref.hpp>
#include <fsdpinit/control/wire.hpp>
#include <fsdpinit/core/attempt.hpp>
#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/core/deadline.hpp>
#include <fsdpinit/core/error.hpp>
#include <fsdpinit/core/text.hpp>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <utility>

/// \file
/// How ranks fail together. Between two agreements a rank may fail alone; at the agreement all learn of it and throw
/// the same error. Every function here is collective over the control channel.

namespace fsdpinit {

namespace detail {

/// Control operations never fail on one rank alone: where the channel can, the failure is handed to all of them. One that was ended
/// by the channel's hook failed for the hook's reason.
template <class Fn>
auto guarded(control_ref control, Fn&& fn) {
  try {
    return fn();
  } catch (...) {
    error failure = current_error();
    if (control.hook() != nullptr && failure.code() == errc::interrupted) {
      const error* const reason = control.hook()->take();
      failure = reason != nullptr ? *reason : failure;
    }
    const auto self = static_cast<std::int32_t>(control.rank());
    if (failure.rank() >= 0 && failure.rank() != self) {  // of another rank, with whom its cause is
      failure = failure.caused_by(nullptr);
    }
    throw control.fail(failure.reported_by(self));
  }
}

inline constexpr std::uint64_t worst_severity = 3;
/// How near an error is to the cause of a failure that ranks agree on: one that was interrupted says nothing of it, and one that waited
/// for a peer in vain has but felt it, as all ranks have come to the agreement.
[[nodiscard]] inline std::uint64_t severity_of(const std::optional<error>& mine) noexcept {
  return !mine ? 0 : mine->code() == errc::interrupted ? 1 : mine->code() == errc::peer_lost ? 2 : worst_severity;
}

}  // namespace detail

/// The maximum of `value` over all ranks, on every rank. O(log N) messages where the channel reduces, else N
/// broadcasts.
[[nodiscard]] inline std::uint64_t all_reduce_max(control_ref control, std::uint64_t value, deadline limit) {
  return detail::guarded(control, [&] { return control.all_reduce_max(value, limit); });
}

/// Returns if no rank failed; else throws one error, the same on every rank: the worst, as `severity_of` has it, of the lowest rank
/// that has it, and naming that rank. On that rank it also has the cause.
///
/// A channel's hook looks first, and may have a failure of its own; where ranks fail together no other rank is waited for then.
///
/// One reduction where all is well, and one broadcast of 4 KiB more where not. Allocates nothing, so that a rank whose heap is exhausted
/// gets through it; all it lacks then is the error's text. \throws error{peer_lost} if a rank did
/// not come before the deadline, for channels that take one.
inline void agree(control_ref control, std::optional<error> mine, deadline limit) {
  constexpr std::uint64_t rank_mask = 0xffff'ffff;
  wait_hook* const hook = detail::severity_of(mine) < detail::worst_severity ? control.hook() : nullptr;
  const error* const stopped = hook == nullptr ? nullptr : hook->failure();
  if (stopped != nullptr) {
    mine = *stopped;
  }
  if (mine && mine->code() == errc::peer_lost) {
    control.suspect(*mine);
  }
  const std::uint64_t severity = detail::severity_of(mine);
  const std::uint64_t status = severity == 0 ? 0 : (severity << 32U) | (rank_mask - control.rank());
  const std::uint64_t worst = all_reduce_max(control, status, limit);  // where ranks fail together a stop ends its wait
  if (stopped != nullptr) {
    static_cast<void>(hook->take());
  }
  if (worst == 0) {
    return;
  }
  const std::size_t origin = rank_mask - (worst & rank_mask);
  // Nobody looks here: a rank that has the error already would not learn of another one.
  const control_ref calm = control.looking(nullptr);
  throw detail::guarded(calm, [&] {
    detail::error_message buffer{};
    if (origin == control.rank()) {
      buffer = detail::encode(*mine, static_cast<std::int32_t>(origin));
    }
    calm.broadcast(buffer, origin, limit);
    const error agreed = detail::decode_error(buffer);
    return origin == control.rank() ? agreed.caused_by(mine->cause()) : agreed;
  });
}

namespace detail {

/// For the last agreement of a call, in which nobody looks: this rank's failure, if it was stopped in the one before.
[[nodiscard]] inline std::optional<error> stopped_before(control_ref control) {
  const error* const stopped = control.hook() == nullptr ? nullptr : control.hook()->failure();
  return stopped == nullptr ? std::nullopt : std::optional<error>(*stopped);
}

}  // namespace detail

/// The root's bytes, a vector of them or a string, on every rank; their number need not be known elsewhere. Host metadata: not
/// accounted.
template <class Bytes>
[[nodiscard]] Bytes broadcast_bytes(control_ref control, Bytes bytes, std::size_t root, deadline limit) {
  return detail::guarded(control, [&] {
    std::uint64_t size = bytes.size();
    control.broadcast(std::as_writable_bytes(std::span(&size, 1)), root, limit);
    if (control.fails_together()) {
      bytes.resize(size);
    } else {  // a rank without the memory for it says so before the others wait for it
      agree(control, attempt([&] { bytes.resize(size); }), limit);
    }
    if (size != 0) {
      control.broadcast(std::as_writable_bytes(std::span(bytes)), root, limit);
    }
    return std::move(bytes);
  });
}

/// Runs `fn` on every rank, then agrees. A rank that was given no time to wait, `is_deadline`, says so to its peers, and waits for them
/// as long as is usual. \throws error{invalid_argument} naming `deadline_seconds`; on that rank alone, for a rank that is none of the
/// channel's: nobody could be told.
template <class Fn>
void agreed(control_ref control, double deadline_seconds, Fn&& fn) {
  if (control.rank() >= control.size()) {
    throw error(errc::invalid_argument, "ranks",
                concat("its rank() is ", control.rank(), " and its size() ", control.size(),
                       "; ranks count from 0, and are below the size"));
  }
  const bool waits = is_deadline(deadline_seconds);
  const std::optional<error> mine = attempt([&] {
    if (!waits) {
      throw error(errc::invalid_argument, "deadline_seconds",
                  "must be above 0; it is how long a rank waits for its peers");
    }
    std::forward<Fn>(fn)();
  });
  agree(control, mine, deadline::after(waits ? deadline_seconds : default_deadline_seconds));
}

}  // namespace fsdpinit
