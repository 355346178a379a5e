#pragma once

#include <fsdpinit/communicators/mpi_handles.hpp>
#include <fsdpinit/communicators/mpi_link.hpp>
#include <fsdpinit/communicators/mpi_transfers.hpp>
#include <fsdpinit/communicators/ordered_sum.hpp>
#include <fsdpinit/communicators/rank_group.hpp>
#include <fsdpinit/control/attempt.hpp>
#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/core/deadline.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <utility>
#include <vector>

namespace fsdpinit::detail {

/// What all ranks of a group have a part in, as started operations that are waited for at once: deadlines, interruption and
/// groups are theirs.
class mpi_collectives {
 public:
  mpi_collectives(mpi_link& link, mpi_transfers& transfers) noexcept : link_(link), transfers_(transfers) {}

  /// Every rank sends its part to each of the others, from the window where it lies there.
  void all_gather(bytes_view own, mutable_bytes all, std::span<const std::size_t> group, deadline limit) {
    check_parts(own.size(), all.size(), group.size(), "bytes");
    check_group(group, link_.rank(), link_.rank(), link_.size());
    const std::size_t ranks = group.size();
    const std::size_t self = index_in(group, link_.rank());
    const std::size_t messages = message_count(own.size());
    mpi_operation& made = transfers_.begin({.arrivals = ranks - 1,
                                            .receives = (ranks - 1) * messages,
                                            .departures = ranks - 1,
                                            .sends = (ranks - 1) * (1 + messages)});
    for (std::size_t i = 1; i < ranks; ++i) {
      const std::size_t from = (self + ranks - i) % ranks;
      transfers_.expect(made, group[from], all.subspan(from * own.size(), own.size()));
    }
    for (std::size_t i = 1; i < ranks; ++i) {
      transfers_.offer(made, group[(self + i) % ranks], own);
    }
    transfers_.progress();
    std::byte* const to = all.data() + self * own.size();
    if (!own.empty() && own.data() != to) {
      std::memcpy(to, own.data(), own.size());
    }
    transfers_.wait(made, limit);
  }

  /// In rounds, two of them in flight: every rank sends each of the others a piece of its part, then adds up what it got.
  void reduce_scatter(std::span<const float> contribution, std::span<float> own, std::span<const std::size_t> group,
                      deadline limit) {
    check_parts(own.size(), contribution.size(), group.size(), "numbers");
    check_group(group, link_.rank(), link_.rank(), link_.size());
    reduction work{.contribution = contribution,
                   .own = own,
                   .group = group,
                   .self = index_in(group, link_.rank()),
                   .piece = piece_numbers(own.size(), group.size())};
    staging_.resize(std::max<std::size_t>(staging_.size(), 2 * (group.size() - 1) * work.piece));
    const std::uint64_t rounds = std::max<std::uint64_t>(1, ceil_div(own.size(), work.piece));
    try {
      for (std::uint64_t round = 0; round < rounds; ++round) {
        start(work, round);
        if (round != 0) {
          finish(work, round - 1, limit);
        }
      }
      finish(work, rounds - 1, limit);
    } catch (...) {
      const error failure = current_error();
      for (mpi_operation* const each : work.flights) {
        if (each != nullptr && !link_.poisoned()) {
          transfers_.abandon(*each, limit);
        }
      }
      throw failure;
    }
  }

 private:
  /// For both rounds and all peers.
  static constexpr std::uint64_t most_staging_bytes = 2 * mib;
  static constexpr std::uint64_t least_piece_bytes = 4 * kib;

  struct reduction {
    std::span<const float> contribution;
    std::span<float> own;
    std::span<const std::size_t> group;
    std::size_t self = 0;
    std::uint64_t piece = 0;  // numbers that a rank sends another in one round
    std::array<mpi_operation*, 2> flights{};

    /// Which of this rank's own numbers the round is about.
    [[nodiscard]] std::span<float> target(std::uint64_t round) const noexcept {
      return own.subspan(round * piece, smaller(piece, own.size() - round * piece));
    }
  };

  /// The same on every rank of the group.
  [[nodiscard]] static std::uint64_t piece_numbers(std::uint64_t own, std::size_t ranks) noexcept {
    const std::uint64_t bytes = most_staging_bytes / (2 * ranks);
    const std::uint64_t numbers = (bytes < least_piece_bytes ? least_piece_bytes : bytes) / sizeof(float);
    return own == 0 ? 1 : smaller(numbers, own);
  }

  /// Where the piece of the rank at `index` of the group goes in that round.
  [[nodiscard]] float* staged(const reduction& work, std::uint64_t round, std::size_t index) noexcept {
    const std::size_t slot = index < work.self ? index : index - 1;
    return staging_.data() + ((round % 2) * (work.group.size() - 1) + slot) * work.piece;
  }

  void start(reduction& work, std::uint64_t round) {
    const std::size_t ranks = work.group.size();
    const std::uint64_t numbers = work.target(round).size();
    mpi_operation& made = transfers_.begin(
        {.arrivals = ranks - 1, .receives = ranks - 1, .departures = ranks - 1, .sends = 2 * (ranks - 1)},
        static_cast<std::uint32_t>(round));
    work.flights[round % 2] = &made;
    for (std::size_t i = 1; i < ranks; ++i) {
      const std::size_t from = (work.self + ranks - i) % ranks;
      transfers_.receive(made, work.group[from], std::as_writable_bytes(std::span(staged(work, round, from), numbers)));
    }
    for (std::size_t i = 1; i < ranks; ++i) {
      const std::size_t to = (work.self + i) % ranks;
      transfers_.send(made, work.group[to],
                      std::as_bytes(work.contribution.subspan(to * work.own.size() + round * work.piece, numbers)));
    }
    transfers_.progress();
  }

  void finish(reduction& work, std::uint64_t round, deadline limit) {
    transfers_.wait(*std::exchange(work.flights[round % 2], nullptr), limit);
    const std::span<float> target = work.target(round);
    ordered_sum(target, work.group.size(), [&](std::size_t k) -> const float* {
      return k == work.self ? work.contribution.data() + k * work.own.size() + round * work.piece
                            : staged(work, round, k);
    });
  }

  mpi_link& link_;
  mpi_transfers& transfers_;
  std::vector<float> staging_;  // kept: the next one needs it too
};

}  // namespace fsdpinit::detail
