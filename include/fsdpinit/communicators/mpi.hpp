#pragma once

#include <fsdpinit/communicators/message_communicator.hpp>
#include <fsdpinit/communicators/message_engine.hpp>
#include <fsdpinit/communicators/mpi_handles.hpp>
#include <fsdpinit/communicators/mpi_link.hpp>
#include <fsdpinit/communicators/mpi_wire.hpp>
#include <fsdpinit/communicators/rank_group.hpp>
#include <fsdpinit/concepts/communicator.hpp>
#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/core/deadline.hpp>
#include <fsdpinit/core/error.hpp>
#include <fsdpinit/memory/host_memory.hpp>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <exception>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include <mpi.h>

/// \file
/// Ranks as MPI processes. The program calls MPI_Init and MPI_Finalize; everything here works on duplicates of its
/// communicators.

namespace fsdpinit {

struct mpi_options {
  /// Address space on every rank for payload that the ranks of its node copy straight from there; memory only as far as it is
  /// used. Buckets that do not fit travel as messages. 0: no shared memory at all.
  std::uint64_t staging_bytes = 64 * mib;
  /// Ranks of a machine share memory with those that give the same number (not negative), and each such group is a node of its
  /// own to `node_of`: NUMA domains, for instance, or a test's nodes.
  int window_group = 0;
  peer_lost_action when_peer_lost = peer_lost_action::abort_job;
  /// Other threads make MPI calls at the same time: another initialisation, say.
  bool concurrent = false;
};

namespace detail {

/// What the communicator and the memory it hands out share: whichever is gone last frees it, together with the peers.
struct mpi_state {
  mpi_state(mpi_group&& world, const mpi_options& how)
      : wire(std::move(world), how.when_peer_lost, how.staging_bytes, how.window_group), engine(wire), options(how) {}

  mpi_wire wire;
  mpi_link& link = wire.link();
  message_engine<mpi_wire> engine;
  mpi_options options;
  std::int64_t reduced = 0;  // both belong to MPI while a control operation runs
  std::vector<std::byte> broadcast = std::vector<std::byte>(64 * kib);
  int exceptions = std::uncaught_exceptions();
  bool abandoned = false;

  /// A part of it goes. If a peer was lost or an exception unwinds, its peers may not be doing the same, and MPI may still use what
  /// it was given: then nothing is ever freed.
  void leave() noexcept {
    if (link.poisoned() || std::uncaught_exceptions() > exceptions) {
      link.stop_listening();
      abandoned = true;
    }
  }
  /// For its shared pointer.
  static void release(mpi_state* state) noexcept {
    state->leave();
    if (!state->abandoned) {
      delete state;
    }
  }
};

}  // namespace detail

/// Host memory that takes staging buffers from the window shared by the ranks of a node, as long as there is room; all of it
/// is in the account of the host memory that it was made from. What it hands out outlives the communicator, and is to be given
/// back before MPI_Finalize.
class mpi_staging_memory : public host_memory {
 public:
  mpi_staging_memory(std::shared_ptr<detail::mpi_state> shared, const host_memory& account)
      : host_memory(account), mpi_(std::move(shared)) {}

  [[nodiscard]] std::byte* allocate(std::uint64_t bytes) {
    std::byte* const shared = mpi_->wire.window().allocate_staging(bytes);
    if (shared == nullptr) {
      return host_memory::allocate(bytes);
    }
    add_to_account(bytes);
    return shared;
  }
  void deallocate(std::byte* address, std::uint64_t bytes) noexcept {
    if (!mpi_->wire.window().owns(address)) {
      host_memory::deallocate(address, bytes);
      return;
    }
    mpi_->wire.window().release_staging(address, bytes);
    remove_from_account(bytes);
  }

 private:
  std::shared_ptr<detail::mpi_state> mpi_;
};

/// One rank of an MPI communicator: data and control channel in one. Started operations carry payload and can be
/// interrupted; blocking ones carry agreement. Used by one thread at a time.
///
/// Within a node payload goes through a shared-memory window (one copy, made by its receiver), between nodes as messages.
/// A rank that is lost (killed, stopped, cut off) ends the others within their deadline: see `peer_lost_action`. At most 64 operations
/// may be in flight.
///
/// After error{interrupted} an operation's buffers are the caller's again; after error{peer_lost}, where that is thrown at all, they may
/// still be read and written to: leave them allocated. What ranks gather goes through the window where it lies there, in memory of
/// `staging()`. Reductions are messages in rounds; what arrives is staged in at most 2 MiB (in groups of more than 256 ranks: 8 KiB for
/// each), not in any account, which is kept for the next time.
///
/// Making one, splitting, and destroying the last handle (the communicator, its staging memory, and what is allocated there) are
/// collective and block like MPI_Comm_dup; no deadline applies. If one of them goes while an exception unwinds, nothing is freed,
/// for its peers may not be doing the same.
class mpi_communicator : public message_communicator<detail::mpi_wire> {
 public:
  using staging_memory = mpi_staging_memory;

  /// \throws error{invalid_argument} if MPI is not initialised, or `options.concurrent` and without MPI_THREAD_MULTIPLE;
  /// error{communication} with the text of MPI.
  explicit mpi_communicator(MPI_Comm parent = MPI_COMM_WORLD, const mpi_options& options = {})
      : mpi_communicator(duplicate(parent, options), options) {}

  mpi_communicator(mpi_communicator&&) noexcept = default;
  mpi_communicator& operator=(mpi_communicator&&) = delete;
  mpi_communicator(const mpi_communicator&) = delete;
  mpi_communicator& operator=(const mpi_communicator&) = delete;
  ~mpi_communicator() {
    if (state_) {
      state_->leave();
    }
  }

  /// Ranks that could share memory, with a window or without, are on one node.
  [[nodiscard]] std::size_t node_of(std::size_t rank) const noexcept { return state_->wire.window().node_of(rank); }

  // -- data ------------------------------------------------------------------------------------------------------------------

  void reserve(const expected_operations& most) { state_->wire.reserve(most); }
  token start_viewed_broadcast(mutable_bytes buffer, std::size_t root, std::span<const std::size_t> group = {}) {
    const std::span<const std::size_t> members = state_->engine.members(group);
    detail::check_group(members, rank(), root, size());
    return state_->link.guarded([&] { return state_->wire.broadcast(buffer, root, members, true); });
  }
  /// What `start_viewed_broadcast` has brought: in the root's window, if that is where the root has it and both share one.
  [[nodiscard]] bytes_view view(token& operation, deadline limit) {
    detail::mpi_operation* const which = std::exchange(operation, nullptr);
    const bytes_view lies = state_->link.guarded([&] { return state_->wire.view(*which, limit); });
    operation = which;
    return lies;
  }

  void interrupt() noexcept { state_->link.interrupt(); }
  void rearm() noexcept { state_->wire.rearm(); }
  [[nodiscard]] bool interrupted() {
    return state_->link.guarded([&] {
      state_->link.hear();
      return state_->link.interrupted();
    });
  }
  /// A peer was lost; MPI may still read and write the buffers of operations that were in flight.
  [[nodiscard]] bool poisoned() const noexcept { return state_->link.poisoned(); }

  /// Memory to stage payload in, in the account of `account`.
  [[nodiscard]] mpi_staging_memory staging(const host_memory& account) const { return {state_, account}; }

  // -- control ---------------------------------------------------------------------------------------------------------------

  [[nodiscard]] std::uint64_t all_reduce_max(std::uint64_t value, deadline limit = deadline::never()) {
    return state_->link.guarded([&] {
      detail::mpi_state& mine = *state_;
      mine.reduced = static_cast<std::int64_t>(value ^ sign_bit);
      MPI_Request request = MPI_REQUEST_NULL;
      detail::check_mpi("MPI_Iallreduce", MPI_Iallreduce(MPI_IN_PLACE, &mine.reduced, 1, MPI_INT64_T, MPI_MAX,
                                                         mine.link.world().get(), &request));
      await(request, limit);
      return static_cast<std::uint64_t>(mine.reduced) ^ sign_bit;
    });
  }

  void broadcast(mutable_bytes buffer, std::size_t root, deadline limit = deadline::never()) {
    state_->link.guarded([&] {
      // Through memory of its own: MPI keeps a buffer for which a deadline has passed.
      std::vector<std::byte>& own = state_->broadcast;
      detail::for_each_message(
          buffer,
          [&](std::byte* begin, int count) {
            const auto bytes = static_cast<std::size_t>(count);
            if (bytes != 0 && rank() == root) {
              std::memcpy(own.data(), begin, bytes);
            }
            MPI_Request request = MPI_REQUEST_NULL;
            detail::check_mpi("MPI_Ibcast", MPI_Ibcast(own.data(), count, MPI_BYTE, static_cast<int>(root),
                                                       state_->link.world().get(), &request));
            await(request, limit);
            if (bytes != 0) {
              std::memcpy(begin, own.data(), bytes);
            }
          },
          own.size());
    });
  }

  // -- the world -------------------------------------------------------------------------------------------------------------

  /// Ranks that give the same `color` (not negative), in the order of `key`, then of rank. With S shards and R replicas,
  /// `split(rank / S)` is a rank's shard group and `split(rank % S)` its replicate group.
  [[nodiscard]] mpi_communicator split(int color, int key = 0) const {
    return {state_->link.world().split(color, key), state_->options};
  }
  /// The ranks of this one's node, those that can share memory.
  [[nodiscard]] mpi_communicator split_node() const {
    return {detail::ranks_of_node(state_->link.world()), state_->options};
  }

  /// Once a peer is lost: is this the rank that should report it, the lowest that is left?
  [[nodiscard]] bool speaks_for_survivors() const noexcept { return state_->link.speaks_for_survivors(); }
  /// Ends every process of the job; the lowest rank that is left writes `why` to stderr.
  [[noreturn]] void abort_job(const error& why) noexcept { state_->link.abort_job(why); }

 private:
  mpi_communicator(detail::mpi_group&& world, const mpi_options& options)
      : mpi_communicator(std::shared_ptr<detail::mpi_state>(new detail::mpi_state(std::move(world), options),
                                                            &detail::mpi_state::release)) {}
  explicit mpi_communicator(std::shared_ptr<detail::mpi_state> state) noexcept
      : message_communicator(&state->engine), state_(std::move(state)) {}

  static detail::mpi_group duplicate(MPI_Comm parent, const mpi_options& options) {
    if (!detail::mpi_is_running()) {
      throw error(errc::invalid_argument, "mpi_communicator",
                  "MPI is not initialised; call MPI_Init before, and MPI_Finalize after it is gone");
    }
    int level = MPI_THREAD_SINGLE;
    MPI_Query_thread(&level);
    if (options.concurrent && level < MPI_THREAD_MULTIPLE) {
      throw error(errc::invalid_argument, "mpi_communicator",
                  "concurrent use needs MPI_THREAD_MULTIPLE; ask MPI_Init_thread for it, and look at what it provides");
    }
    return {"MPI_Comm_dup", [&](MPI_Comm* made) { return MPI_Comm_dup(parent, made); }};
  }

  /// Numbers are reduced as signed ones, in the same order: MPICH 4.0 compares MPI_UINT64_T as if it were signed.
  static constexpr std::uint64_t sign_bit = std::uint64_t{1} << 63U;

  void await(MPI_Request& request, deadline limit) {
    state_->link.wait_until(limit, [&] {
      int done = 0;
      detail::check_mpi("MPI_Test", MPI_Test(&request, &done, MPI_STATUS_IGNORE));
      if (done == 0) {
        static_cast<void>(limit.ended());  // it looks; MPI does not give up a collective operation
      }
      return done != 0;
    });
  }

  std::shared_ptr<detail::mpi_state> state_;
};

}  // namespace fsdpinit
