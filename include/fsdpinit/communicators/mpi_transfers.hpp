#pragma once

#include <fsdpinit/communicators/message_engine.hpp>
#include <fsdpinit/communicators/mpi_handles.hpp>
#include <fsdpinit/communicators/mpi_link.hpp>
#include <fsdpinit/communicators/mpi_window.hpp>
#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/core/deadline.hpp>
#include <fsdpinit/core/error.hpp>
#include <fsdpinit/core/text.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <deque>
#include <vector>

#include <mpi.h>

namespace fsdpinit::detail {

/// Moves the payloads of this rank's started operations.
///
/// A payload reaches a rank that shares a window with its sender through that: the sender says where it lies, the receiver copies
/// it from there. Other payloads are messages. A message is sent only once its receiver has said that the receive is posted (the
/// credit): nothing is ever buffered on the way, and after an interruption each side knows what is still to come.
class mpi_transfers {
 public:
  mpi_transfers(mpi_link& link, mpi_window& window) noexcept : link_(link), window_(window) {}

  // -- making an operation -------------------------------------------------------------------------------------------------

  /// So many operations of so much are then begun without an allocation.
  void reserve(std::size_t operations, const message_load& most) {
    while (operations_.size() < operations) {
      operations_.emplace_back();
    }
    for (mpi_operation& each : operations_) {
      each.reserve(most);
    }
    active_.reserve(operations_.size());
  }

  /// What can fail for want of memory fails here, before anything is posted: a rank that threw later would leave MPI with its
  /// buffers. Nothing is left to allocate where it was reserved, or after the first few operations.
  /// \throws error{invalid_argument} with more than `mpi_window::ring` operations in flight.
  mpi_operation& begin(const message_load& load) {
    // A lane has one cell for operations that are `ring` apart, whichever of those between are over.
    if (!active_.empty() && next_ - active_.front()->number >= mpi_window::ring) {
      throw error(errc::invalid_argument, "buckets_in_flight",
                  concat("at most ", mpi_window::ring, " operations can be in flight over MPI"));
    }
    mpi_operation& made = free_operation(operations_);
    made.reserve(load);
    active_.reserve(active_.size() + 1);
    made.number = load.round <= 1 ? next_++ : next_ - 1;
    made.round = load.round;
    made.relays = false;
    made.in_use = true;
    active_.push_back(&made);
    return made;
  }

  /// \p payload goes to `peer`, which expects it: through the window where it lies there. What moves in rounds are messages.
  void offer(mpi_operation& which, std::size_t peer, bytes_view payload) {
    if (!has_lane(which, peer)) {
      send(which, peer, payload);
      return;
    }
    const mpi_window::place where = window_.place_of(payload);
    if (where.offset == mpi_window::as_message) {
      send(which, peer, payload);
    } else {
      which.lanes.push_back(peer);
    }
    window_.post(peer, ticket(which), where);
  }
  /// `peer` offers what goes to `into`, or is to be looked at where it lies.
  void expect(mpi_operation& which, std::size_t peer, mutable_bytes into, bool viewed = false) {
    if (has_lane(which, peer)) {
      which.arrivals.push_back(
          {.from = peer, .into = into, .viewed = viewed, .is = mpi_operation::arrival::state::awaits_lane});
    } else {
      receive(which, peer, into);
    }
  }

  /// `payload` goes to `peer`, which receives it, as messages; from a rank that relays after it is there.
  void send(mpi_operation& which, std::size_t peer, bytes_view payload) {
    mpi_operation::departure& made = which.departures.emplace_back();
    made.to = peer;
    made.payload = payload;
    check_mpi("MPI_Irecv",
              MPI_Irecv(nullptr, 0, MPI_BYTE, static_cast<int>(peer),
                        link_.tag(mpi_link::channel::credit, which.number), link_.world().get(), &made.credit));
  }
  /// `peer` sends what goes to `into`.
  void receive(mpi_operation& which, std::size_t peer, mutable_bytes into) {
    post_receive(which, which.arrivals.emplace_back(mpi_operation::arrival{.from = peer, .into = into}));
  }

  // -- progress --------------------------------------------------------------------------------------------------------------

  /// Of all operations, so that the next bucket moves while this one is waited for. Payloads leave in the order of operations.
  void progress() {
    bool may_send = true;
    for (mpi_operation* const each : active_) {
      for (mpi_operation::arrival& arrival : each->arrivals) {
        progress_arrival(*each, arrival);
      }
      may_send = may_send && issue(*each);
    }
  }

  /// Until it is over; its buffers are the caller's again unless a peer was lost.
  void wait(mpi_operation& which, deadline limit) {
    advance(which, limit, [&] { return is_finished(which); });
    release(which);
  }
  /// Until all has arrived of an operation with one arrival; where it lies until `wait` is called.
  [[nodiscard]] bytes_view view(mpi_operation& which, deadline limit) {
    advance(which, limit, [&] { return which.has_arrived(); });
    const mpi_operation::arrival& only = which.arrivals.front();
    return only.lies.empty() ? bytes_view(only.into) : only.lies;
  }

  /// Ends it without its having come to an end: MPI lets go of its buffers, what is on its way arrives, what is not never will.
  void abandon(mpi_operation& which, deadline limit) {
    link_.interrupt();
    for (mpi_operation::departure& each : which.departures) {
      cancel(each.credit);
    }
    link_.wait_until(limit, [&] {
      bool settled = true;
      for (mpi_operation::arrival& each : which.arrivals) {
        settled = (each.is != arrival_state::awaits_message || received(which, each) ||
                   link_.never_comes(each.from, which.position())) &&
                  settled;
      }
      return settled;
    });
    for (MPI_Request& request : which.receives) {
      cancel(request);
    }
    link_.wait_until(limit, [&] { return test_all(which.sends); });
    release(which);
  }

  /// A new epoch: operations are counted from 0 again.
  void rearm() noexcept { next_ = 0; }

 private:
  using arrival_state = mpi_operation::arrival::state;

  [[nodiscard]] bool has_lane(const mpi_operation& which, std::size_t peer) const noexcept {
    return which.round == 0 && window_.together(peer, link_.rank());
  }
  [[nodiscard]] std::uint64_t ticket(const mpi_operation& which) const noexcept {
    return link_.epoch() << 32U | (which.number + 1);
  }

  /// Until `over()`. Where that will not be, it is ended otherwise, and the reason is thrown.
  template <class Over>
  void advance(mpi_operation& which, deadline limit, Over&& over) {
    link_.wait_until(limit, [&] {
      if (!link_.interrupted()) {
        progress();
      }
      return link_.interrupted() || which.mismatch() != nullptr || over() || limit.ended();
    });
    // One that moves nothing must not miss that the others have stopped.
    if (over() && !(which.moves_nothing() && link_.interrupted())) {
      return;
    }
    const mpi_operation::arrival* const wrong = which.mismatch();
    const error failure = wrong != nullptr
                              ? error(errc::communication, "",
                                      concat("a peer sent ", wrong->sent_bytes, " bytes where ", wrong->into.size(),
                                             " were expected; are all ranks given the same plan?"))
                              : error(errc::interrupted, "", "interrupted by the failure of a rank");
    abandon(which, limit);
    throw failure;
  }

  void release(mpi_operation& which) noexcept {
    for (const mpi_operation::arrival& each : which.arrivals) {
      if (!each.lies.empty()) {
        window_.take(each.from, ticket(which));
      }
    }
    which.in_use = false;
    which.arrivals.clear();
    which.receives.clear();
    which.departures.clear();
    which.sends.clear();
    which.lanes.clear();
    active_.erase(std::find(active_.begin(), active_.end(), &which));
  }

  void post_receive(mpi_operation& which, mpi_operation::arrival& arrival) {
    arrival.is = arrival_state::awaits_message;
    arrival.first = which.receives.size();
    for_each_message(arrival.into, [&](std::byte* begin, int count) {
      which.receives.push_back(MPI_REQUEST_NULL);
      check_mpi("MPI_Irecv", MPI_Irecv(begin, count, MPI_BYTE, static_cast<int>(arrival.from),
                                       link_.tag(mpi_link::channel::payload, which.number), link_.world().get(),
                                       &which.receives.back()));
    });
    arrival.count = which.receives.size() - arrival.first;
    which.sends.push_back(MPI_REQUEST_NULL);
    check_mpi("MPI_Isend",
              MPI_Isend(nullptr, 0, MPI_BYTE, static_cast<int>(arrival.from),
                        link_.tag(mpi_link::channel::credit, which.number), link_.world().get(), &which.sends.back()));
  }

  void progress_arrival(mpi_operation& which, mpi_operation::arrival& arrival) {
    if (arrival.is == arrival_state::awaits_lane) {
      mpi_window::place where;
      if (!window_.posted(arrival.from, ticket(which), where)) {
        return;
      }
      if (where.bytes != arrival.into.size()) {
        arrival.sent_bytes = where.bytes;
        arrival.is = arrival_state::mismatched;
        return;
      }
      if (where.offset == mpi_window::as_message) {
        post_receive(which, arrival);
        return;
      }
      arrival.is = arrival_state::here;
      const bytes_view payload = window_.payload(arrival.from, where);
      if (arrival.viewed && !payload.empty()) {
        arrival.lies = payload;
        return;
      }
      if (!payload.empty()) {
        std::memcpy(arrival.into.data(), payload.data(), payload.size());
      }
      window_.take(arrival.from, ticket(which));
    } else if (arrival.is == arrival_state::awaits_message && received(which, arrival)) {
      arrival.is = arrival.sent_bytes == arrival.into.size() ? arrival_state::here : arrival_state::mismatched;
    }
  }

  bool received(mpi_operation& which, mpi_operation::arrival& arrival) {
    bool all = true;
    for (std::size_t i = arrival.first; i < arrival.first + arrival.count; ++i) {
      MPI_Request& request = which.receives[i];
      if (request == MPI_REQUEST_NULL) {
        continue;
      }
      int done = 0;
      MPI_Status status;
      check_mpi("MPI_Test", MPI_Test(&request, &done, &status));
      all = all && done != 0;
      if (done != 0) {
        int bytes = 0;
        MPI_Get_count(&status, MPI_BYTE, &bytes);
        arrival.sent_bytes += static_cast<std::uint64_t>(bytes);
      }
    }
    return all;
  }

  /// Sends to those that are ready. True once all have been sent to.
  bool issue(mpi_operation& which) {
    if (link_.interrupted() || (which.relays && !which.has_arrived())) {
      return false;
    }
    bool all = true;
    for (mpi_operation::departure& each : which.departures) {
      if (each.issued) {
        continue;
      }
      int ready = 0;
      check_mpi("MPI_Test", MPI_Test(&each.credit, &ready, MPI_STATUS_IGNORE));
      if (ready == 0) {
        all = false;
        continue;
      }
      for_each_message(each.payload, [&](const std::byte* begin, int count) {
        which.sends.push_back(MPI_REQUEST_NULL);
        check_mpi("MPI_Isend", MPI_Isend(begin, count, MPI_BYTE, static_cast<int>(each.to),
                                         link_.tag(mpi_link::channel::payload, which.number), link_.world().get(),
                                         &which.sends.back()));
      });
      each.issued = true;
      link_.issued(each.to, which.position());
    }
    return all;
  }

  [[nodiscard]] bool is_finished(mpi_operation& which) {
    return which.has_arrived() &&
           std::all_of(which.departures.begin(), which.departures.end(),
                       [](const mpi_operation::departure& each) { return each.issued; }) &&
           test_all(which.sends) && std::all_of(which.lanes.begin(), which.lanes.end(), [&](std::size_t peer) {
             return window_.taken(peer, ticket(which));
           });
  }

  mpi_link& link_;
  mpi_window& window_;
  std::uint64_t next_ = 0;
  std::deque<mpi_operation> operations_;
  std::vector<mpi_operation*> active_;  // in the order in which they were started
};

}  // namespace fsdpinit::detail
