#pragma once

#include <fsdpinit/communicators/message_engine.hpp>
#include <fsdpinit/communicators/mpi_handles.hpp>
#include <fsdpinit/core/bytes.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include <mpi.h>

namespace fsdpinit::detail {

/// A started operation of one rank: what it receives from whom, and what it sends to whom.
struct mpi_operation {
  /// A payload for this rank.
  struct arrival {
    enum class state : std::uint8_t { awaits_lane, awaits_message, here, mismatched };
    std::size_t from = 0;
    mutable_bytes into;
    bool viewed = false;  // what lies in the sender's window is not copied, but looked at there
    bytes_view lies{};    // there, if so
    state is = state::here;
    std::uint64_t sent_bytes = 0;
    std::size_t first = 0;  // of its requests, in `receives`
    std::size_t count = 0;
  };
  /// A payload that leaves as messages, once its receiver is ready for it.
  struct departure {
    std::size_t to = 0;
    bytes_view payload;
    MPI_Request credit = MPI_REQUEST_NULL;
    bool issued = false;
  };
  std::uint64_t number = 0;
  std::uint32_t round = 0;  // of those that are one operation together, from 1 on
  bool in_use = false;
  bool relays = false;  // what departs is what arrives first
  std::vector<arrival> arrivals;
  std::vector<MPI_Request> receives;
  std::vector<departure> departures;
  std::vector<MPI_Request> sends;
  std::vector<std::size_t> lanes;  // receivers that copy from the window
  message_load room{};             // that all of these have

  void reserve(const message_load& most) {
    if (most.sends <= room.sends && most.receives <= room.receives && most.bytes <= room.bytes) {
      return;
    }
    const message_load all{.sends = std::max(most.sends, room.sends),
                           .receives = std::max(most.receives, room.receives),
                           .bytes = std::max(most.bytes, room.bytes)};
    const std::size_t messages = message_count(all.bytes);
    arrivals.reserve(all.receives);
    receives.reserve(all.receives * messages);
    departures.reserve(all.sends);
    lanes.reserve(all.sends);
    sends.reserve(all.receives + all.sends * messages);
    room = all;
  }

  /// Grows from payload to payload between any two ranks.
  [[nodiscard]] std::uint64_t position() const noexcept { return number << 32U | round; }
  [[nodiscard]] bool moves_nothing() const noexcept { return arrivals.empty() && departures.empty() && lanes.empty(); }
  [[nodiscard]] bool has_arrived() const noexcept {
    return std::all_of(arrivals.begin(), arrivals.end(),
                       [](const arrival& each) { return each.is == arrival::state::here; });
  }
  [[nodiscard]] const arrival* mismatch() const noexcept {
    const auto found = std::find_if(arrivals.begin(), arrivals.end(),
                                    [](const arrival& each) { return each.is == arrival::state::mismatched; });
    return found == arrivals.end() ? nullptr : &*found;
  }
};

}  // namespace fsdpinit::detail
