#pragma once

#include <fsdpinit/communicators/mpi_handles.hpp>

#include <cstddef>
#include <cstdint>
#include <vector>

#include <mpi.h>

namespace fsdpinit::detail {

/// What ranks tell each other when something goes wrong.
struct mpi_notice {
  enum kind : std::uint64_t {
    closing,  ///< the sender has failed, or heard of a failure: it sends nothing more in that epoch
    lost,     ///< the sender has lost a peer, or heard of it, and is still there
    kinds
  };
  std::uint64_t what = closing;
  std::uint64_t epoch = 0;
  /// Of closing: what `mpi_link::issued` was told last. Of lost: an `mpi_link::answer`.
  std::uint64_t issued = 0;
};

/// One rank's notices: a receive for the next one is always posted, and sending never waits.
class mpi_notices {
 public:
  /// `tag` is for notices alone.
  mpi_notices(const mpi_group& world, int tag)
      : world_(world.get()),
        tag_(tag),
        rank_(static_cast<std::size_t>(world.rank())),
        outbox_(static_cast<std::size_t>(world.size()) * mpi_notice::kinds) {
    listen();
  }
  mpi_notices(const mpi_notices&) = delete;
  mpi_notices& operator=(const mpi_notices&) = delete;
  ~mpi_notices() = default;

  /// Local. Not where a peer was lost: MPI may not come back then.
  void stop() noexcept { cancel(listening_); }

  /// Never waits. Each kind of notice goes to a peer once in an epoch, so that the last one has long arrived; if it has
  /// not, the peer hears nothing any more.
  void tell(std::size_t peer, const mpi_notice& what) noexcept {
    outgoing& out = outbox_[peer * mpi_notice::kinds + what.what];
    int done = 1;
    if (peer == rank_ || MPI_Test(&out.request, &done, MPI_STATUS_IGNORE) != MPI_SUCCESS || done == 0) {
      return;
    }
    out.notice = what;
    MPI_Isend(&out.notice, sizeof out.notice, MPI_BYTE, static_cast<int>(peer), tag_, world_, &out.request);
  }

  /// Calls `take(from, notice)` for each that has arrived.
  template <class Take>
  void hear(Take&& take) {
    while (true) {
      int arrived = 0;
      MPI_Status status;
      check_mpi("MPI_Test", MPI_Test(&listening_, &arrived, &status));
      if (arrived == 0) {
        return;
      }
      const mpi_notice notice = incoming_;
      listen();
      take(static_cast<std::size_t>(status.MPI_SOURCE), notice);
    }
  }

 private:
  struct outgoing {
    mpi_notice notice;
    MPI_Request request = MPI_REQUEST_NULL;
  };

  void listen() {
    check_mpi("MPI_Irecv",
              MPI_Irecv(&incoming_, sizeof incoming_, MPI_BYTE, MPI_ANY_SOURCE, tag_, world_, &listening_));
  }

  MPI_Comm world_;
  int tag_;
  std::size_t rank_;
  mpi_notice incoming_;
  MPI_Request listening_ = MPI_REQUEST_NULL;
  std::vector<outgoing> outbox_;
};

}  // namespace fsdpinit::detail
