#pragma once

#include <fsdpinit/communicators/nccl_api.hpp>
#include <fsdpinit/communicators/nccl_link.hpp>
#include <fsdpinit/core/attempt.hpp>
#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/core/deadline.hpp>
#include <fsdpinit/core/error.hpp>
#include <fsdpinit/core/text.hpp>
#include <fsdpinit/memory/block.hpp>
#include <fsdpinit/memory/cuda_memory.hpp>
#include <fsdpinit/memory/cuda_stream.hpp>

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>
#include <type_traits>
#include <utility>

/// \file
/// A control channel for jobs that have nothing but NCCL: no MPI, and ranks that are processes.

namespace fsdpinit {

/// How ranks come to know the id of a communicator before they have one: `meet(id, rank, limit)` makes the bytes that rank 0 gives
/// known to all others, which get them there, by the deadline or with an exception. A `file_rendezvous`, or a function of the
/// user's own over what the job's launcher has (a key-value store, sockets, MPI).
template <class Meet>
concept Rendezvous = requires(Meet& meet, mutable_bytes id, std::size_t rank, deadline limit) {
  { meet(id, rank, limit) } -> std::same_as<void>;
};

/// `size` must be equal on every rank.
struct nccl_control_options {
  std::size_t rank = 0;           ///< what launchers call RANK
  std::size_t size = 1;           ///< and WORLD_SIZE
  int device = 0;                 ///< this rank's GPU; no other rank's, as NCCL has it
  double deadline_seconds = 600;  ///< how long ranks wait for each other to connect
  double patience_seconds = 30;   ///< how much longer than told they wait in an operation
};

/// Control over NCCL alone, for a `nccl_communicator` to stand on where there is no host channel: broadcasts and reductions of small
/// host memory, by a communicator and a stream of its own. Used by one thread at a time; at the same places on every rank. An
/// operation costs up to two short copies and one call of NCCL for each 64 KiB; memory is as much on the device and pinned, allocated
/// once, and what NCCL takes for itself.
///
/// What it cannot do is tell a rank of another's failure. As long as every rank comes to the next agreement, which is after at most
/// 64 buckets of a stream, a failure is the same error on all of them, as over any channel, and the same call may be made again.
/// But a rank that is lost, or for which NCCL or CUDA itself fails, reaches the others only by what NCCL notices and by their
/// deadlines: there that is error{peer_lost}; this channel and what stands on it have ended, and the job has to be started again. If
/// it fails in its very last operation, the others may have finished theirs, and learn of it in the next one.
///
/// Nobody waits for the device: a kernel that waits for other ranks is ended by ncclCommAbort. Ranks wait a little longer in an
/// operation than they are told, for one that was told to wait for their payload until then.
template <class Nccl, CudaApi Cuda>
  requires NcclApi<Nccl, Cuda>
class basic_nccl_control {
 public:
  /// Collective: connects the ranks by the id for which they `meet`. There is no agreement yet, so that each rank throws what it found
  /// itself. \throws error{invalid_argument} for a rank that is none; error{peer_lost} where not all ranks came in time;
  /// error{communication}, {device}, {out_of_memory}; what `meet` throws, as an `error`.
  template <class Meet>
    requires Rendezvous<std::remove_reference_t<Meet>>
  basic_nccl_control(const nccl_control_options& options, Meet&& meet, Nccl nccl = Nccl(), Cuda cuda = Cuda()) try
      : rank_(options.rank),
        size_(options.size),
        patience_seconds_(options.patience_seconds),
        cuda_(cuda),
        on_device_(basic_cuda_memory<Cuda>(options.device, cuda), piece_bytes),
        on_host_(basic_pinned_memory<Cuda>(options.device, cuda), piece_bytes),
        stream_(cuda, options.device),
        done_(cuda, options.device),
        link_(options.device, std::move(nccl), cuda) {
    connect(options, meet);
  } catch (...) {
    throw current_error().reported_by(static_cast<std::int32_t>(options.rank));
  }
  basic_nccl_control(const basic_nccl_control&) = delete;
  basic_nccl_control& operator=(const basic_nccl_control&) = delete;

  [[nodiscard]] std::size_t rank() const noexcept { return rank_; }
  [[nodiscard]] std::size_t size() const noexcept { return size_; }

  /// \throws error{peer_lost}, {communication}, {device}; the channel is over then.
  void broadcast(mutable_bytes buffer, std::size_t root, deadline limit = deadline::never()) {
    std::byte* const there = on_device_.data();
    while (!buffer.empty()) {
      const mutable_bytes piece = buffer.first(smaller(buffer.size(), piece_bytes));
      const mutable_bytes none{};
      exchange(
          "broadcast", rank_ == root ? piece : none,
          [&](Nccl& nccl, typename Nccl::comm comm) {
            return nccl.broadcast(there, there, piece.size(), static_cast<int>(root), comm, stream_.get());
          },
          there, rank_ == root ? none : piece, limit);
      buffer = buffer.subspan(piece.size());
    }
  }
  /// \throws as `broadcast`
  [[nodiscard]] std::uint64_t all_reduce_max(std::uint64_t value, deadline limit = deadline::never()) {
    std::byte* const there = on_device_.data();
    std::byte* const result = there + piece_bytes / 2;
    const mutable_bytes bytes = std::as_writable_bytes(std::span(&value, 1));
    exchange(
        "reduce", bytes,
        [&](Nccl& nccl, typename Nccl::comm comm) {
          return nccl.all_reduce_max(there, result, 1, comm, stream_.get());
        },
        result, bytes, limit);
    return value;
  }

  /// Never by a failure elsewhere, of which it does not hear. \throws error{peer_lost}, {communication}: what NCCL has noticed.
  [[nodiscard]] bool interrupted() {
    require_open();
    link_.check();
    return false;
  }

 private:
  static constexpr std::uint64_t piece_bytes = 64 * kib;

  template <class Meet>
  void connect(const nccl_control_options& options, Meet& meet) {
    if (options.rank >= options.size) {
      throw error(errc::invalid_argument, "rank",
                  concat("there is no rank ", options.rank, " of ", options.size, "; count them from 0"));
    }
    if (!is_deadline(options.deadline_seconds)) {
      throw error(errc::invalid_argument, "deadline_seconds",
                  "must be above 0; it is how long ranks wait for each other");
    }
    const deadline limit = deadline::after(options.deadline_seconds);
    typename Nccl::unique_id id{};
    if (rank_ == 0) {
      id = link_.make_id();
    }
    meet(std::as_writable_bytes(std::span(&id, 1)), rank_, limit);
    link_.connect(id, rank_, size_, [&] {
      link_.check();
      if (limit.passed()) {
        throw error(errc::peer_lost, place_of(meet),
                    concat("not all of ", size_,
                           " ranks have connected by the id from here within the deadline; start all of them, and have "
                           "each job meet in a place of its own: an id that an earlier one left leads nowhere"));
      }
    });
  }
  template <class Meet>
  static std::string_view place_of(const Meet& meet) {
    if constexpr (requires { meet.path(); }) {
      return meet.path();
    } else {
      return "NCCL";
    }
  }

  void require_open() const {
    if (!link_.open()) {
      throw error(errc::peer_lost, "NCCL",
                  "the control channel has ended with an earlier failure; start the job again");
    }
  }
  /// A rank that has waited in vain for payload began to do so after others had failed and gone on to an agreement.
  [[nodiscard]] deadline patient(deadline limit) const noexcept {
    return limit.in(limit.remaining() + patience_seconds_);
  }

  /// Copies `given` to the device, has `calls` made there, and copies `result` back to `taken`; each may be empty.
  template <class Calls>
  void exchange(std::string_view what, bytes_view given, Calls&& calls, const std::byte* result, mutable_bytes taken,
                deadline told) {
    require_open();
    const deadline limit = patient(told);
    try {
      if (!given.empty()) {
        std::memcpy(on_host_.data(), given.data(), given.size());
        detail::require_cuda(cuda_,
                             cuda_.copy_to_device(on_device_.data(), on_host_.data(), given.size(), stream_.get()),
                             "copy to the device");
      }
      link_.issue(what, calls, [&] { link_.watch(limit); });
      if (!taken.empty()) {
        detail::require_cuda(cuda_, cuda_.copy_to_host(on_host_.data(), result, taken.size(), stream_.get()),
                             "copy from the device");
      }
      done_.record(stream_.get());
      detail::poll_interval interval;
      while (!done_.has_come()) {
        link_.watch(limit);
        interval.wait();
      }
    } catch (...) {
      link_.close();     // what is under way ends,
      stream_.settle();  // and does not use the memory any more
      throw;
    }
    if (!taken.empty()) {
      std::memcpy(taken.data(), on_host_.data(), taken.size());
    }
  }

  std::size_t rank_;
  std::size_t size_;
  double patience_seconds_;
  Cuda cuda_;
  block<basic_cuda_memory<Cuda>> on_device_;
  block<basic_pinned_memory<Cuda>> on_host_;
  basic_cuda_stream<Cuda> stream_;
  basic_cuda_event<Cuda> done_;
  detail::nccl_link<Nccl, Cuda> link_;
};

}  // namespace fsdpinit
