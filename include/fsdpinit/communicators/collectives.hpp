#pragma once

#include <fsdpinit/communicators/ordered_sum.hpp>
#include <fsdpinit/communicators/rank_group.hpp>
#include <fsdpinit/concepts/communicator.hpp>
#include <fsdpinit/control/agreement.hpp>
#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/core/deadline.hpp>
#include <fsdpinit/core/error.hpp>
#include <fsdpinit/core/text.hpp>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

/// \file
/// All-gather and reduce-scatter over any communicator: what it models itself, else in terms of what it has.

namespace fsdpinit {

namespace detail {

/// How much of a payload moves at a time where ranks that have no part in it must take part in moving it.
inline constexpr std::uint64_t fallback_piece_bytes = 256 * kib;

/// One broadcast, with the deadline and the interruption that the communicator has for it.
template <Communicator C>
void broadcast_now(C& comm, mutable_bytes buffer, std::size_t root, deadline limit) {
  if constexpr (NonBlockingCommunicator<C>) {
    auto operation = comm.start_broadcast(buffer, root);
    comm.wait(operation, limit);
  } else {
    control_ref(comm).broadcast(buffer, root, limit);
  }
}

template <class C>
  requires(GroupCommunicator<C> || ScatterCommunicator<C>)
void scatter_now(C& comm, std::span<const bytes_view> windows, mutable_bytes own, std::size_t root, deadline limit) {
  if constexpr (GroupCommunicator<C>) {
    auto operation = comm.start_scatter(windows, own, root, {});
    comm.wait(operation, limit);
  } else {
    comm.scatter(windows, own, root);
  }
}

/// What the ranks outside of a group must know of what a member sends.
struct fallback_part {
  std::uint64_t size = 0;   // of one part
  std::uint64_t parts = 0;  // members of its group
};

/// Every rank's, on every rank. \throws error{communication} if a member of this rank's group has another size.
template <Communicator C>
[[nodiscard]] std::vector<fallback_part> exchange_parts(C& comm, std::uint64_t size, std::span<const std::size_t> group,
                                                        deadline limit) {
  std::vector<fallback_part> all(comm.size(), {.size = size, .parts = group.size()});
  if (group.size() == comm.size()) {
    return all;  // nobody is outside
  }
  for (std::size_t root = 0; root < all.size(); ++root) {
    broadcast_now(comm, std::as_writable_bytes(std::span(&all[root], 1)), root, limit);
  }
  for (const std::size_t member : group) {
    if (all[member].size != size || all[member].parts != group.size()) {
      throw error(errc::communication, "",
                  concat("rank ", member, " has ", all[member].parts, " parts of ", all[member].size, ", this one ",
                         group.size(), " of ", size, "; are all ranks given the same plan?"));
    }
  }
  return all;
}

template <Communicator C>
void all_gather_by_broadcasts(C& comm, bytes_view own, mutable_bytes all, std::span<const std::size_t> group,
                              deadline limit) {
  const std::vector<fallback_part> parts = exchange_parts(comm, own.size(), group, limit);
  std::byte* const mine = all.data() + index_in(group, comm.rank()) * own.size();
  if (!own.empty() && own.data() != mine) {
    std::memcpy(mine, own.data(), own.size());
  }
  std::vector<std::byte> outside(group.size() == comm.size() ? 0 : fallback_piece_bytes);
  for (std::size_t root = 0; root < parts.size(); ++root) {
    const bool is_member = contains(group, root);
    for (std::uint64_t at = 0; at < parts[root].size; at += fallback_piece_bytes) {
      const std::uint64_t bytes = smaller(fallback_piece_bytes, parts[root].size - at);
      broadcast_now(
          comm,
          is_member ? all.subspan(index_in(group, root) * own.size() + at, bytes) : mutable_bytes(outside).first(bytes),
          root, limit);
    }
  }
}

/// The sum of one piece after the other: every rank in turn sends what it has for it, so that it is added in their order.
template <Communicator C>
class reduce_scatter_by_turns {
 public:
  reduce_scatter_by_turns(C& comm, std::span<const float> contribution, std::span<float> own,
                          std::span<const std::size_t> group, deadline limit)
      : comm_(comm),
        rank_(comm.rank()),
        contribution_(contribution),
        own_(own),
        group_(group),
        limit_(limit),
        parts_(exchange_parts(comm, own.size(), group, limit)),
        windows_(comm.size()) {}

  void run() {
    std::uint64_t most = 0;
    for (const fallback_part& each : parts_) {
      most = each.size > most ? each.size : most;
    }
    std::vector<float> sum(smaller(most, piece));
    received_.resize(sum.size());
    for (std::uint64_t at = 0; at < most; at += piece) {
      const std::uint64_t mine = numbers(rank_, at);
      for (std::size_t root = 0; root < parts_.size(); ++root) {
        const float* const term = turn(root, at, numbers(root, at));
        if (root == group_.front()) {
          std::memcpy(sum.data(), term, mine * sizeof(float));
        } else if (contains(group_, root)) {
          for (std::uint64_t i = 0; i < mine; ++i) {
            sum[i] += term[i];
          }
        }
      }
      if (mine != 0) {
        std::memcpy(own_.data() + at, sum.data(), mine * sizeof(float));
      }
    }
  }

 private:
  static constexpr std::uint64_t piece = fallback_piece_bytes / sizeof(float);

  [[nodiscard]] std::uint64_t numbers(std::size_t rank, std::uint64_t at) const noexcept {
    return at < parts_[rank].size ? smaller(piece, parts_[rank].size - at) : 0;
  }
  [[nodiscard]] std::span<const float> outgoing(std::size_t index, std::uint64_t at,
                                                std::uint64_t count) const noexcept {
    return contribution_.subspan(index * own_.size() + at, count);
  }

  /// The root sends `count` numbers to each member of its group. Returns those for this rank, if it is one of them.
  const float* turn(std::size_t root, std::uint64_t at, std::uint64_t count) {
    const bool is_member = contains(group_, root);
    if (count == 0) {
      return received_.data();
    }
    if constexpr (GroupCommunicator<C> || ScatterCommunicator<C>) {
      if (rank_ == root) {
        for (std::size_t i = 0; i < group_.size(); ++i) {
          windows_[group_[i]] = std::as_bytes(outgoing(i, at, count));
        }
      }
      const std::span<float> own(received_.data(), is_member && rank_ != root ? count : 0);
      scatter_now(comm_, std::span<const bytes_view>(windows_), std::as_writable_bytes(own), root, limit_);
    } else {
      for (std::size_t index = 0; index < parts_[root].parts; ++index) {
        // Somebody else's, or this rank's: only that is kept.
        const bool keep = is_member && group_[index] == rank_;
        std::vector<float>& into = keep ? received_ : passing_;
        into.resize(received_.size());
        if (rank_ == root) {
          std::memcpy(into.data(), outgoing(index, at, count).data(), count * sizeof(float));
        }
        broadcast_now(comm_, std::as_writable_bytes(std::span(into.data(), count)), root, limit_);
      }
    }
    return rank_ == root ? outgoing(index_in(group_, rank_), at, count).data() : received_.data();
  }

  C& comm_;
  std::size_t rank_;
  std::span<const float> contribution_;
  std::span<float> own_;
  std::span<const std::size_t> group_;
  deadline limit_;
  std::vector<fallback_part> parts_;
  std::vector<bytes_view> windows_;
  std::vector<float> received_;
  std::vector<float> passing_;
};

}  // namespace detail

/// Gathers the parts of all ranks of `group`, as `CollectiveCommunicator` has it.
///
/// Where `C` does not model that: one broadcast after the other from every rank of the communicator, in pieces of 256 KiB, which
/// ranks of other groups receive too and forget (256 KiB of staging, not in any account). Deadline and interruption are those of
/// its broadcasts.
template <Communicator C>
void all_gather(C& comm, bytes_view own, mutable_bytes all, std::span<const std::size_t> group, deadline limit) {
  if constexpr (CollectiveCommunicator<C>) {
    comm.all_gather(own, all, group, limit);
  } else {
    const std::vector<std::size_t> members = detail::members_of(group, comm.size());
    detail::check_parts(own.size(), all.size(), members.size(), "bytes");
    detail::check_group(members, comm.rank(), comm.rank(), comm.size());
    detail::all_gather_by_broadcasts(comm, own, all, members, limit);
  }
}
/// The same, of all ranks.
template <Communicator C>
void all_gather(C& comm, bytes_view own, mutable_bytes all, deadline limit) {
  fsdpinit::all_gather(comm, own, all, {}, limit);
}

/// Adds up the contributions of all ranks of `group`, as `CollectiveCommunicator` has it: the same bits on any communicator.
///
/// Where `C` does not model that: pieces of 256 KiB; of each, every rank of the communicator scatters what it has to its group,
/// or broadcasts it where `C` does not scatter, which moves as much more as the group has ranks. Stages at most 768 KiB, not in
/// any account.
template <Communicator C>
void reduce_scatter(C& comm, std::span<const float> contribution, std::span<float> own,
                    std::span<const std::size_t> group, deadline limit) {
  if constexpr (CollectiveCommunicator<C>) {
    comm.reduce_scatter(contribution, own, group, limit);
  } else {
    const std::vector<std::size_t> members = detail::members_of(group, comm.size());
    detail::check_parts(own.size(), contribution.size(), members.size(), "numbers");
    detail::check_group(members, comm.rank(), comm.rank(), comm.size());
    detail::reduce_scatter_by_turns<C>(comm, contribution, own, members, limit).run();
  }
}
/// The same, of all ranks.
template <Communicator C>
void reduce_scatter(C& comm, std::span<const float> contribution, std::span<float> own, deadline limit) {
  fsdpinit::reduce_scatter(comm, contribution, own, {}, limit);
}

}  // namespace fsdpinit
