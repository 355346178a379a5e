#pragma once

#include <fsdpinit/communicators/mpi_handles.hpp>
#include <fsdpinit/communicators/mpi_notices.hpp>
#include <fsdpinit/communicators/rank_group.hpp>
#include <fsdpinit/core/deadline.hpp>
#include <fsdpinit/core/error.hpp>
#include <fsdpinit/core/text.hpp>
#include <fsdpinit/os/blocked_signals.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <mpi.h>
#include <pthread.h>
#include <unistd.h>

namespace fsdpinit {

/// What to do once a rank has not arrived before the deadline. MPI cannot go on without it: others may be inside calls
/// that never return, and MPI_Finalize waits for it.
enum class peer_lost_action : std::uint8_t {
  abort_job,    ///< the lowest surviving rank writes the error to stderr, then MPI_Abort
  throw_error,  ///< throw error{peer_lost}; the caller ends the process, with `mpi_communicator::abort_job` for instance
};

namespace detail {

/// One rank's end of an MPI world: notices, epochs, and the loss of a peer. Everything that waits, waits here.
///
/// Epochs number the attempts. Started operations belong to one; an interruption ends it on every rank, and `rearm`, called
/// on every rank, begins the next. A lost peer ends everything: the link is poisoned.
class mpi_link {
 public:
  enum class channel : std::uint8_t { notice, credit, payload };

  mpi_link(mpi_group&& world, peer_lost_action when_lost)
      : world_(std::move(world)),
        rank_(static_cast<std::size_t>(world_.rank())),
        size_(static_cast<std::size_t>(world_.size())),
        when_lost_(when_lost),
        issued_(size_),
        closings_(size_),
        answers_(size_),
        notices_(world_, static_cast<int>(channel::notice)) {
    MPI_Query_thread(&thread_level_);
  }
  mpi_link(const mpi_link&) = delete;
  mpi_link& operator=(const mpi_link&) = delete;
  ~mpi_link() { stop_listening(); }

  /// Local: nothing is heard any more. Does nothing where a peer was lost.
  void stop_listening() noexcept {
    if (!poisoned() && mpi_is_running()) {
      notices_.stop();
    }
  }

  [[nodiscard]] const mpi_group& world() const noexcept { return world_; }
  [[nodiscard]] std::size_t rank() const noexcept { return rank_; }
  [[nodiscard]] std::size_t size() const noexcept { return size_; }
  [[nodiscard]] bool poisoned() const noexcept { return cause_.has_value(); }
  [[nodiscard]] std::uint64_t epoch() const noexcept { return epoch_; }
  [[nodiscard]] bool interrupted() const noexcept { return interrupted_epoch_ >= epoch_; }

  /// Made of what must match; within the 15 bits that MPI promises.
  [[nodiscard]] int tag(channel kind, std::uint64_t operation) const noexcept {
    return static_cast<int>(static_cast<std::uint64_t>(kind) | epoch_ % epochs_apart << 2U |
                            operation % operations_apart << 5U);
  }

  /// Runs `fn`, which calls MPI. Once MPI itself has failed nothing can be relied on, as with a lost peer.
  template <class Fn>
  auto guarded(Fn&& fn) {
    if (cause_) {
      throw error(*cause_);
    }
    int is_main = 0;
    MPI_Is_thread_main(&is_main);
    if (thread_level_ < MPI_THREAD_SERIALIZED && is_main == 0) {
      throw error(errc::invalid_argument, "mpi_communicator",
                  "used by a thread other than the one that initialised MPI; initialise with MPI_Init_thread and "
                  "MPI_THREAD_MULTIPLE");
    }
    try {
      return std::forward<Fn>(fn)();
    } catch (const error& failure) {
      if (failure.native_code() != 0 && !cause_) {
        lose(failure);
      }
      throw;
    }
  }

  /// Polls until `done()`. \throws error{peer_lost} once the deadline has passed or a peer has reported a loss.
  template <class Done>
  void wait_until(deadline limit, Done&& done) {
    polling_pause pause;
    while (true) {
      hear();
      if (done()) {
        return;
      }
      if (limit.passed()) {
        hear_what_is_old();
        lose(error(errc::peer_lost, "", "no answer within the deadline"));
      }
      pause();
    }
  }

  // -- interruption ----------------------------------------------------------------------------------------------------------

  /// This rank has failed, or heard of a failure: the operations of this epoch end on every rank, and this one sends nothing more.
  /// Every rank says so to all, and unasked: when it was asked it might be waiting on another communicator, where it would not hear.
  /// Once in an epoch.
  void interrupt() noexcept {
    interrupted_epoch_ = std::max(interrupted_epoch_, epoch_);
    if (poisoned() || std::exchange(closed_epoch_, epoch_) == epoch_) {
      return;
    }
    for (std::size_t peer = 0; peer < size_; ++peer) {
      notices_.tell(peer, {.what = mpi_notice::closing, .epoch = epoch_, .issued = issued_[peer]});
    }
  }

  /// Takes in what has arrived. \throws error{peer_lost} if a peer has reported a loss.
  void hear() {
    if (listen_once() && !poisoned()) {
      give_up(error(errc::peer_lost, "", "no answer within the deadline"), answer::hearsay);
    }
  }

  void rearm() noexcept {
    ++epoch_;
    std::fill(issued_.begin(), issued_.end(), 0);
    if (interrupted()) {  // a peer was faster, and has failed again
      interrupt();
    }
    if (!poisoned()) {
      drop_stale_credits();
    }
  }

  /// The payload of an operation has been sent. \pre in the order of operations; not interrupted.
  void issued(std::size_t peer, std::uint64_t operation) noexcept { issued_[peer] = operation + 1; }

  /// For an interrupted rank that waits for a payload from `peer`: will it never come? Not known until the peer has said so; one
  /// that says nothing, as it calls nothing here any more, has sent all there was.
  [[nodiscard]] bool never_comes(std::size_t peer, std::uint64_t operation) const noexcept {
    return closings_[peer].epoch == epoch_ && closings_[peer].issued <= operation;
  }

  // -- loss ------------------------------------------------------------------------------------------------------------------

  /// A peer does not answer, or MPI has failed: tells all, finds out who answers, and gives up.
  [[noreturn]] void lose(const error& cause) { give_up(cause, answer::first_hand); }

  /// Of the ranks that could report the loss, is this the one that should? The lowest that is left; where all are there, the
  /// lowest whose deadline has passed. A rank that was stopped and goes on when all is over is not left: it is the lost one.
  [[nodiscard]] bool speaks_for_survivors() const noexcept {
    if (!poisoned()) {
      return rank_ == 0;
    }
    const answer least = std::find(answers_.begin(), answers_.end(), answer::none) != answers_.end()
                             ? answer::hearsay
                             : answer::first_hand;
    const auto speaker = std::find_if(answers_.begin(), answers_.end(), [&](answer each) { return each >= least; });
    return speaker == answers_.begin() + static_cast<std::ptrdiff_t>(rank_);
  }

  /// Ends every process of the world. One survivor says why.
  [[noreturn]] void abort_job(const error& why) noexcept {
    if (speaks_for_survivors()) {
      std::fputs(concat("fsdpinit: error: ", why.what(), "\n").c_str(), stderr);
      std::fflush(stderr);
    } else {
      const std::timespec half_a_second{.tv_sec = 0, .tv_nsec = 500'000'000};  // let that one speak first
      nanosleep(&half_a_second, nullptr);
    }
    // MPICH's MPI_Abort has been seen to wait for a stopped rank for ever.
    if (end_process_soon()) {
      MPI_Abort(world_.get(), 1);
    }
    std::abort();
  }

 private:
  static constexpr std::uint64_t epochs_apart = 8;
  static constexpr std::uint64_t operations_apart = 1024;
  static constexpr double roll_call_seconds = 1;
  static constexpr double second_look_seconds = 0.05;
  static constexpr std::timespec most_time_of_abort{.tv_sec = 2, .tv_nsec = 0};

  /// What a rank has said about a loss; its own entry is this rank's.
  enum class answer : std::uint8_t { none, hearsay, first_hand };

  struct closing {
    std::uint64_t epoch = 0;
    std::uint64_t issued = 0;
  };

  /// Whatever this thread is in by then. By a thread, as signals and timers are the program's. False if the system gives none.
  [[nodiscard]] static bool end_process_soon() noexcept {
    const blocked_signals while_it_starts;
    pthread_t watchdog{};
    const auto bark = [](void*) -> void* {
      nanosleep(&most_time_of_abort, nullptr);
      _exit(1);
    };
    return pthread_create(&watchdog, nullptr, bark, nullptr) == 0;
  }

  [[noreturn]] void give_up(const error& cause, answer how_known) {
    cause_ = cause;
    answers_[rank_] = how_known;
    for (std::size_t peer = 0; peer < size_; ++peer) {
      notices_.tell(peer, {.what = mpi_notice::lost, .epoch = epoch_, .issued = static_cast<std::uint64_t>(how_known)});
    }
    roll_call();
    cause_ = describe(cause);
    if (when_lost_ == peer_lost_action::abort_job) {
      abort_job(*cause_);
    }
    throw error(*cause_);
  }

  /// A rank that was stopped and goes on may not find at its first look what the others have said long ago: that it is lost.
  void hear_what_is_old() {
    polling_pause pause;
    for (const deadline limit = deadline::after(second_look_seconds); !limit.passed(); pause()) {
      hear();
    }
  }

  /// Has any peer reported a loss?
  bool listen_once() {
    bool loss = false;
    notices_.hear([&](std::size_t from, const mpi_notice& notice) { loss = take(from, notice) || loss; });
    return loss;
  }

  bool take(std::size_t from, const mpi_notice& notice) noexcept {
    switch (notice.what) {
      case mpi_notice::closing:
        closings_[from] = {.epoch = notice.epoch, .issued = notice.issued};
        interrupted_epoch_ = std::max(interrupted_epoch_, notice.epoch);
        if (interrupted()) {
          interrupt();
        }
        return false;
      default:
        answers_[from] =
            notice.issued == static_cast<std::uint64_t>(answer::first_hand) ? answer::first_hand : answer::hearsay;
        return true;
    }
  }

  /// Receivers of the last epoch that were ready for what never came. Best effort: a few empty messages.
  void drop_stale_credits() noexcept {
    int found = 1;
    while (found != 0) {
      MPI_Status status;
      if (MPI_Iprobe(MPI_ANY_SOURCE, MPI_ANY_TAG, world_.get(), &found, &status) != MPI_SUCCESS || found == 0) {
        return;
      }
      const auto with = static_cast<std::uint64_t>(status.MPI_TAG);
      if ((with & 3U) != static_cast<std::uint64_t>(channel::credit) ||
          (with >> 2U) % epochs_apart == epoch_ % epochs_apart) {
        return;
      }
      MPI_Recv(nullptr, 0, MPI_BYTE, status.MPI_SOURCE, status.MPI_TAG, world_.get(), MPI_STATUS_IGNORE);
    }
  }

  /// Those who are still there find each other; the others are the lost ones.
  void roll_call() noexcept {
    const deadline limit = deadline::after(roll_call_seconds);
    polling_pause pause;
    try {
      while (!limit.passed() && std::find(answers_.begin(), answers_.end(), answer::none) != answers_.end()) {
        listen_once();
        pause();
      }
    } catch (const error&) {  // MPI is beyond that
    }
  }

  [[nodiscard]] error describe(const error& cause) const {
    std::vector<std::size_t> missing;
    for (std::size_t peer = 0; peer < size_; ++peer) {
      if (answers_[peer] == answer::none) {
        missing.push_back(peer);
      }
    }
    if (cause.native_code() != 0) {
      return {errc::communication, "", cause.text(), {.native_code = cause.native_code()}};
    }
    if (missing.empty() && answers_[rank_] == answer::hearsay) {
      return {errc::peer_lost, "",
              "the other ranks gave this one up: it did not answer within their deadline; raise deadline_seconds"};
    }
    return lost_ranks(missing);
  }

  mpi_group world_;
  std::size_t rank_;
  std::size_t size_;
  peer_lost_action when_lost_;
  int thread_level_ = MPI_THREAD_SINGLE;

  std::uint64_t epoch_ = 1;
  std::uint64_t interrupted_epoch_ = 0;
  std::uint64_t closed_epoch_ = 0;     // in which this rank has told its peers
  std::vector<std::uint64_t> issued_;  // per peer, in this epoch
  std::vector<closing> closings_;      // per peer
  std::vector<answer> answers_;        // per rank
  std::optional<error> cause_;         // poisoned by this

  mpi_notices notices_;
};

}  // namespace detail
}  // namespace fsdpinit
