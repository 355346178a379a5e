#pragma once

#include <fsdpinit/communicators/message_engine.hpp>
#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/core/error.hpp>
#include <fsdpinit/core/text.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <ctime>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include <mpi.h>

/// \file
/// What the MPI communicator needs of MPI: calls checked, handles owned, counts beyond 2^31 split.

namespace fsdpinit::detail {

/// \throws error{communication} with MPI's own text. \pre the handle's error handler is MPI_ERRORS_RETURN.
inline void check_mpi(std::string_view call, int code) {
  if (code != MPI_SUCCESS) {
    char text[MPI_MAX_ERROR_STRING];
    int length = 0;
    MPI_Error_string(code, text, &length);
    // MPICH appends the stack of its calls: the first line says it.
    const std::string_view all(text, static_cast<std::size_t>(length));
    throw error(errc::communication, "", concat(call, " failed: ", all.substr(0, all.find('\n'))),
                {.native_code = code});
  }
}

[[nodiscard]] inline bool mpi_is_running() noexcept {
  int begun = 0;
  int over = 0;
  MPI_Initialized(&begun);
  MPI_Finalized(&over);
  return begun != 0 && over == 0;
}

/// An MPI communicator of our own, whose errors are returned.
class mpi_group {
 public:
  mpi_group() = default;
  /// Takes over what `make(MPI_Comm*)` made.
  template <class Make>
  mpi_group(std::string_view call, Make&& make) {
    check_mpi(call, std::forward<Make>(make)(&handle_));
    if (handle_ != MPI_COMM_NULL) {
      check_mpi("MPI_Comm_set_errhandler", MPI_Comm_set_errhandler(handle_, MPI_ERRORS_RETURN));
    }
  }
  mpi_group(mpi_group&& other) noexcept : handle_(std::exchange(other.handle_, MPI_COMM_NULL)) {}
  mpi_group& operator=(mpi_group&& other) noexcept {
    std::swap(handle_, other.handle_);
    return *this;
  }
  mpi_group(const mpi_group&) = delete;
  mpi_group& operator=(const mpi_group&) = delete;
  ~mpi_group() {
    if (handle_ != MPI_COMM_NULL && mpi_is_running()) {
      MPI_Comm_free(&handle_);
    }
  }

  /// \pre color >= 0.
  [[nodiscard]] mpi_group split(int color, int key) const {
    return {"MPI_Comm_split", [&](MPI_Comm* made) { return MPI_Comm_split(handle_, color, key, made); }};
  }

  [[nodiscard]] MPI_Comm get() const noexcept { return handle_; }
  [[nodiscard]] int rank() const noexcept {
    int value = 0;
    MPI_Comm_rank(handle_, &value);
    return value;
  }
  [[nodiscard]] int size() const noexcept {
    int value = 0;
    MPI_Comm_size(handle_, &value);
    return value;
  }

 private:
  MPI_Comm handle_ = MPI_COMM_NULL;
};

/// Those that can share memory, in the order of ranks.
[[nodiscard]] inline mpi_group ranks_of_node(const mpi_group& world) {
  return {"MPI_Comm_split_type", [&](MPI_Comm* made) {
            return MPI_Comm_split_type(world.get(), MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, made);
          }};
}

/// MPI counts are ints: a message is at most this long, longer ones are several.
inline constexpr std::uint64_t most_mpi_count = std::uint64_t{1} << 30U;

/// Calls `fn(piece, count)` for pieces of at most `most` bytes, in order; once, with a count of 0, for no bytes at all.
template <class Bytes, class Fn>
void for_each_message(Bytes bytes, Fn&& fn, std::uint64_t most = most_mpi_count) {
  do {
    const Bytes piece = bytes.first(std::min<std::uint64_t>(bytes.size(), most));
    fn(piece.data(), static_cast<int>(piece.size()));
    bytes = bytes.subspan(piece.size());
  } while (!bytes.empty());
}

/// How often it calls `fn`.
[[nodiscard]] inline std::size_t message_count(std::uint64_t bytes) noexcept {
  return bytes == 0 ? 1 : ceil_div(bytes, most_mpi_count);
}

/// Are all of them done? They become null requests then.
[[nodiscard]] inline bool test_all(std::vector<MPI_Request>& requests) {
  int done = 1;
  if (!requests.empty()) {
    check_mpi("MPI_Testall",
              MPI_Testall(static_cast<int>(requests.size()), requests.data(), &done, MPI_STATUSES_IGNORE));
  }
  return done != 0;
}

/// Ends a receive that nothing was sent for. Local: waiting for a cancelled receive needs no peer.
inline void cancel(MPI_Request& request) {
  if (request != MPI_REQUEST_NULL) {
    MPI_Cancel(&request);
    MPI_Wait(&request, MPI_STATUS_IGNORE);
  }
}

/// Between two looks at what others have done: at first none, then short sleeps, so that ranks that share a core with the
/// one they wait for leave it to that one.
class polling_pause {
 public:
  void operator()() noexcept {
    if (++looks_ > looks_without_sleep) {
      const std::timespec length{.tv_sec = 0, .tv_nsec = nanoseconds};
      nanosleep(&length, nullptr);
    }
  }

 private:
  static constexpr unsigned looks_without_sleep = 64;
  static constexpr long nanoseconds = 20'000;
  unsigned looks_ = 0;
};

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
