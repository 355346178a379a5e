#pragma once

#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/core/deadline.hpp>
#include <fsdpinit/core/error.hpp>

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>
#include <utility>

/// \file
/// What moves bytes between ranks. `Communicator` is all that is required; each refinement is used where it is modelled, and each optional
/// operation where there is one. Without any of them everything works: `docs/guide/concepts.md` says what then takes its place.

namespace fsdpinit {

/// Ranks 0 .. size() - 1, and a broadcast: afterwards every rank's `buffer`, the same size everywhere, holds the root's
/// bytes. Blocking operations are collective, and ordered among themselves on every rank.
///
/// Optional, of any communicator:
/// - `broadcast(buffer, root, limit)`: with a `deadline`.
/// - `node_of(r)`, const: the lowest rank on the node of rank r, the same number on every rank, so that r is the first of its node where
///   node_of(r) == r. Local: nothing is sent.
///
/// - `look_with(hook)`, noexcept: what the program wants to look at in waits that take no `deadline`, as `start_...` and `connect()`
///   are: a `wait_hook`, until this is called again with nullptr. Where they take one, it has the hook.
///
/// and of one that carries control:
/// - `all_reduce_max(value)`, or with a deadline after it: the maximum of one std::uint64_t over all ranks, on every rank. Without it
///   agreement takes size() broadcasts.
/// - `suspect(cause)`, of a control channel beside a data channel that may lose a peer: that channel has lost one, which the ranks have
///   not agreed on yet. If they do not come together then, the error that they get has the cause in its text. A cause with
///   native_code() ETIMEDOUT has waited out a deadline already: the channel waits for no second one.
template <class C>
concept Communicator = requires(C& comm, const C& constant, mutable_bytes buffer, std::size_t root) {
  { constant.rank() } -> std::convertible_to<std::size_t>;
  { constant.size() } -> std::convertible_to<std::size_t>;
  { comm.broadcast(buffer, root) } -> std::same_as<void>;
};

/// Scatter: rank r receives `windows[r]` of the root into `own`, whose size equals that window's. `windows` has size()
/// entries at the root and is ignored elsewhere; the root's own window is not copied: it is in its place already.
template <class C>
concept ScatterCommunicator =
    Communicator<C> && requires(C& comm, std::span<const bytes_view> windows, mutable_bytes own, std::size_t root) {
      { comm.scatter(windows, own, root) } -> std::same_as<void>;
    };

/// What there will be of started operations, at most, on one rank.
struct expected_operations {
  std::size_t in_flight = 0;  ///< at a time
  std::size_t peers = 0;      ///< to which one sends, where this rank is its root
  std::uint64_t bytes = 0;    ///< of one payload
};

/// Operations that are started and waited for, several in flight. Started operations are ordered among themselves on
/// every rank, not with blocking ones. Buffers, and the array of windows, belong to the operation until `wait` has
/// returned or thrown.
///
/// Optional:
/// - `reserve(most)` with `expected_operations`, local: operations within `most` are then started, moved and ended without an allocation
///   from the heap; without it the first few allocate. \throws std::bad_alloc
/// - `poisoned()`, const and noexcept: a peer was lost, and buffers of operations that were in flight may still be read and written: they
///   must stay allocated.
///
/// \throws error{peer_lost} from `wait` once the deadline has passed; error{interrupted} after `interrupt()` anywhere.
template <class C>
concept NonBlockingCommunicator =
    Communicator<C> && std::movable<typename C::token> &&
    requires(C& comm, mutable_bytes buffer, std::size_t root, typename C::token& token, deadline limit) {
      { comm.start_broadcast(buffer, root) } -> std::same_as<typename C::token>;
      { comm.wait(token, limit) } -> std::same_as<void>;
    };

/// Started broadcasts and scatters among groups of ranks: several independent ones, of disjoint groups, at one place in the order of
/// started operations. For a scatter within each replica and then a broadcast along all replicate groups at once, for one source per
/// node, and the like, without communicators of their own.
///
/// EVERY rank starts one operation at each place, with the group that it belongs to itself, so that all ranks count the
/// same; one group may broadcast while another scatters. `group` has the ranks that take part, ascending, the calling rank
/// and `root` among them, and is the same on each of its members; or it is empty, which is all ranks. A group of the calling rank alone
/// moves nothing and keeps the count. `windows` has size() entries, indexed by rank of the communicator; those of ranks outside of the
/// group are ignored. The memory of `group` belongs to the operation as its buffers do.
///
/// Deadlines and interruption are those of other started operations: `interrupt()` on any rank ends the operations of all
/// ranks, whatever their group, also those of a rank alone.
///
/// Optional are broadcasts whose receivers may look at what they bring where it lies, rather than have all of it copied to keep a part.
/// `start_viewed_broadcast(buffer, root, group)` does what `start_broadcast` does, except that the buffer of a receiver may never be
/// written to. `view(token, limit)`, once before `wait` and on receivers only, returns as a `bytes_view` when all bytes are there, and
/// where: in the buffer, or in memory that the root shares. They may be read until `wait` is called, which lets the root go on. Where it
/// throws, as `wait` does, the operation is over. Other ranks start the same operation by either function.
///
/// \throws error{invalid_argument} from `start_...` where this rank or the root is not in `group`.
template <class C>
concept GroupCommunicator =
    NonBlockingCommunicator<C> && requires(C& comm, mutable_bytes buffer, std::span<const bytes_view> windows,
                                           std::size_t root, std::span<const std::size_t> group) {
      { comm.start_broadcast(buffer, root, group) } -> std::same_as<typename C::token>;
      { comm.start_scatter(windows, buffer, root, group) } -> std::same_as<typename C::token>;
    };

/// The collectives of training. Blocking; called at the same place in the order of operations, started and blocking ones, on every rank.
/// Groups are those of `GroupCommunicator`: every rank of the communicator calls the same at the same place, each with the group that it
/// belongs to, and parts differ in size from group to group if need be. `interrupt()` ends them as it does started operations.
///
/// All-gather: `all` becomes the parts `own` of the ranks of the group, in their order. Parts are of one size, `all` is as long as they
/// are together, and `own` may be this rank's part of `all`, where it is in its place already.
///
/// Reduce-scatter of single-precision numbers: own[i] = the sum over the ranks of the group of contribution[k * own.size() + i], where
/// this rank is the k-th. Every contribution has as many parts of own.size() numbers as there are ranks, and `own` may be this rank's part
/// of its own. The sum is defined to the bit, for that training gives the same numbers wherever it runs: the contributions of the ranks
/// are added in their order, ((c0 + c1) + c2) + ..., each sum rounded to a float. Which NaN a NaN is, is not.
///
/// \throws error{invalid_argument} for sizes that do not fit together or a group without this rank; error{peer_lost} once the deadline
/// has passed; error{interrupted}.
template <class C>
concept CollectiveCommunicator =
    Communicator<C> && requires(C& comm, bytes_view part, mutable_bytes all, std::span<const float> contribution,
                                std::span<float> own, std::span<const std::size_t> group, deadline limit) {
      { comm.all_gather(part, all, group, limit) } -> std::same_as<void>;
      { comm.reduce_scatter(contribution, own, group, limit) } -> std::same_as<void>;
    };

/// A rank that fails in the middle of a stream reaches ranks that wait for it.
///
/// `interrupt()`: every rank's started operations, present and future, throw error{interrupted} from `wait`. `rearm()`:
/// called once on every rank after all of them have agreed that the attempt is over; operations work again.
///
/// Optional: `connect()`, of one that has to be made anew after it was interrupted. Collective, ends in an agreement of its own, and does
/// nothing where the ranks are connected. `initialize` calls it first of all, so that a second attempt works.
template <class C>
concept InterruptibleCommunicator = NonBlockingCommunicator<C> && requires(C& comm) {
  { comm.interrupt() } noexcept;
  { comm.rearm() } noexcept;
};

/// `interrupted()`: has any rank interrupted this attempt? Asked by who waits for something else than this communicator. Always
/// false of one that cannot be interrupted, and only hears of peers that are lost.
/// \throws error{peer_lost} where that is what it finds.
template <class C>
concept AlertingControl = Communicator<C> && requires(C& comm) {
  { comm.interrupted() } -> std::same_as<bool>;
};

/// A rank whose control operation failed ends the pending and next control operation of every rank. Returns the error
/// that all ranks get: the first one reported.
template <class C>
concept FailableControl = Communicator<C> && requires(C& comm, const error& cause) {
  { comm.fail(cause) } -> std::same_as<error>;
};

/// Peers copy payload straight from staging memory that the communicator provides: `staging(space)` is a host-accessible
/// MemorySpace, in the account of `space`.
template <class C, class Space>
concept StagingCommunicator = NonBlockingCommunicator<C> && requires(C& comm, const Space& space) {
  { comm.staging(space) } -> std::same_as<typename C::staging_memory>;
};

namespace detail {

template <class T>
struct communicator_clauses {
  static constexpr bool has_rank = requires(const T& constant) {
    { constant.rank() } -> std::convertible_to<std::size_t>;
  };
  static constexpr bool has_size = requires(const T& constant) {
    { constant.size() } -> std::convertible_to<std::size_t>;
  };
  static constexpr bool has_broadcast =
      requires(T& comm, mutable_bytes buffer, std::size_t root) { comm.broadcast(buffer, root); };
  static constexpr bool broadcast_returns_void =
      !has_broadcast || requires(T& comm, mutable_bytes buffer, std::size_t root) {
        { comm.broadcast(buffer, root) } -> std::same_as<void>;
      };
  static constexpr bool is_not_const = !std::is_const_v<T> || !Communicator<std::remove_const_t<T>>;
  static constexpr bool is_communicator = has_rank || has_size || has_broadcast;
};

/// Where T is no communicator, the compiler says which clause it does not meet; T is named beside it. \return is it one?
template <class T>
[[nodiscard]] consteval bool require_communicator() {
  if constexpr (!Communicator<T>) {
    using clauses = communicator_clauses<T>;
    if constexpr (!clauses::is_communicator) {
      static_assert(clauses::is_communicator,
                    "fsdpinit: `ranks` must be a Communicator (T must have rank() const, size() const, void "
                    "broadcast(mutable_bytes buffer, std::size_t root)), or channels{data, control} of two");
    } else if constexpr (!clauses::is_not_const) {
      static_assert(
          clauses::is_not_const,
          "fsdpinit: `ranks`: T is const, but its broadcast(buffer, root) is not; pass one that is not const");
    } else {
      static_assert(clauses::has_rank, "fsdpinit: `ranks`: T must have std::size_t rank() const");
      static_assert(clauses::has_size, "fsdpinit: `ranks`: T must have std::size_t size() const, the number of ranks");
      static_assert(clauses::has_broadcast,
                    "fsdpinit: `ranks`: T must have void broadcast(mutable_bytes buffer, std::size_t root)");
      static_assert(clauses::broadcast_returns_void,
                    "fsdpinit: `ranks`: T::broadcast(buffer, root) must return void: it throws where it fails");
    }
  }
  return Communicator<T>;
}

}  // namespace detail

/// The two channels: `data` moves payload (device memory with NCCL, say), `control` agrees on the host. Both number the
/// same ranks alike; whoever takes them checks it, and throws error{invalid_argument} on every rank.
template <class Data, class Control>
struct channels {
  // Each says itself what is missing: a second error would say nothing more.
  static_assert((static_cast<void>(detail::require_communicator<Data>()), true));
  static_assert((static_cast<void>(detail::require_communicator<Control>()), true));
  Data& data;
  Control& control;
};

template <class Data, class Control>
channels(Data&, Control&) -> channels<Data, Control>;

}  // namespace fsdpinit
