#pragma once

#include <fsdpinit/concepts/communicator.hpp>
#include <fsdpinit/core/error.hpp>
#include <fsdpinit/core/text.hpp>
#include <fsdpinit/init/options.hpp>
#include <fsdpinit/plan/transport.hpp>
#include <fsdpinit/plan/verification.hpp>

#include <cstddef>
#include <string_view>
#include <type_traits>

/// \file
/// What `initialize` may be given, and what follows from its types.

namespace fsdpinit::detail {

template <class T>
inline constexpr bool is_channels = false;
template <class Data, class Control>
inline constexpr bool is_channels<channels<Data, Control>> = true;
template <class T>
inline constexpr bool are_communicators = false;
template <class Data, class Control>
inline constexpr bool are_communicators<channels<Data, Control>> = Communicator<Data> && Communicator<Control>;

template <class Channels>
concept AreLinks = are_communicators<std::remove_cvref_t<Channels>> || Communicator<std::remove_reference_t<Channels>>;

/// A plain communicator is both channels.
template <class Channels>
[[nodiscard]] auto channels_of(Channels& given) {
  if constexpr (is_channels<std::remove_const_t<Channels>>) {
    return given;
  } else {
    return channels<Channels, Channels>{given, given};
  }
}

/// What `options::choose` has said, as far as the communicator can. \throws error{invalid_argument} if it is no way to stream.
[[nodiscard]] inline transport require_available(transport chosen, bool scatters) {
  if (chosen == transport::none) {
    throw error(errc::invalid_argument, "choose",
                "it chose that every rank loads everything, which is a policy (every_rank_loads) and no transport");
  }
  return chosen == transport::scatter && !scatters ? transport::broadcast : chosen;
}

inline void require_interval(double progress_interval_seconds) {
  if (!(progress_interval_seconds >= 0)) {
    throw error(errc::invalid_argument, "progress_interval_seconds",
                "must not be negative; 0 asks for every call of progress()");
  }
}

inline void require_source_rank(std::size_t source_rank, std::size_t ranks) {
  if (source_rank >= ranks) {
    throw error(errc::invalid_argument, "source_rank", concat(source_rank, " is not a rank of a world of ", ranks));
  }
}

inline void require_valid(const options& how, std::size_t ranks) {
  const auto reject = [](std::string_view option, std::string_view text) {
    throw error(errc::invalid_argument, option, text);
  };
  require_source_rank(how.source_rank, ranks);
  if (how.replicas == 0 || ranks % how.replicas != 0) {
    reject("replicas",
           concat(how.replicas, " replicas cannot be made of ", ranks, " ranks; use a divisor of their number"));
  }
  if (how.reader_threads == 0 || how.reader_threads > most_reader_threads) {
    reject("reader_threads", concat("must be from 1 to ", most_reader_threads, "; 1 reads without further threads"));
  }
  if (how.buckets_in_flight == 0 || how.buckets_in_flight > most_buckets_in_flight) {
    reject("buckets_in_flight",
           concat("must be from 1 to ", most_buckets_in_flight, "; 2 lets reading and receiving overlap"));
  }
  require_interval(how.progress_interval_seconds);
  if (how.verify != verification::off && checksum_of(how) == nullptr) {
    reject("verify",
           "needs a checksum; include <fsdpinit/core/xxh3.hpp> and link libxxhash, or set options::checksum to one of "
           "your own");
  }
}

}  // namespace fsdpinit::detail
