#pragma once

#include <fsdpinit/communicators/ordered_sum.hpp>
#include <fsdpinit/communicators/rank_group.hpp>
#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/core/deadline.hpp>

#include <array>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

/// \file
/// What communicators of messages have in common: operations among groups of ranks, made of messages between two ranks.

namespace fsdpinit::detail {

/// What an operation of one rank is made of, so that it fails before it begins where there is no memory for it.
struct message_load {
  std::string_view what{};   ///< for errors
  std::size_t sends = 0;     ///< messages that leave, at most
  std::size_t receives = 0;  ///< messages that arrive, at most
  std::uint64_t bytes = 0;   ///< of the longest one
  std::size_t places =
      1;  ///< different messages that a member of the group sends and receives, at most: equal on all of them
  /// 0: the operation is one of its own. Otherwise it is this round, counted from 1, of one that moves in rounds: all of them have the
  /// place of the first in the order of operations.
  std::uint32_t round = 0;
};

/// How messages travel: all in which MPI, NCCL and c10d differ. Operations are numbered alike on all ranks; they stay where they are.
///
/// - `begin(load)` makes an operation, the next in order; `send`, `receive`: its messages, which are in order between two ranks;
///   `go`: those are all. Buffers belong to it until `wait` or `abandon`.
/// - `copy(which, to, from)`, after `go`: what is this rank's own, done when `wait` returns.
/// - `wait`: until it is over, after which the operation is gone, also where this throws. `abandon`: ends it early.
/// - `broadcast(buffer, root, group)`: a started operation of another kind where there is a better way than messages from the root to
///   each; otherwise nullptr. `all_gather(own, all, group)` is the same, and optional.
/// - `guarded(fn)` calls `fn`, in which all of the above are called.
/// - Optional, for reductions: `round_bytes(ranks)`, how much goes from rank to rank in a round, and `staging(numbers)`, memory for what
///   arrives.
template <class W>
concept MessageWire =
    requires(W& wire, const W& constant, typename W::operation& which, const message_load& load, mutable_bytes into,
             bytes_view payload, std::size_t peer, std::span<const std::size_t> group, deadline limit, void (&work)()) {
      { constant.rank() } -> std::convertible_to<std::size_t>;
      { constant.size() } -> std::convertible_to<std::size_t>;
      { wire.begin(load) } -> std::same_as<typename W::operation&>;
      { wire.send(which, peer, payload) } -> std::same_as<void>;
      { wire.receive(which, peer, into) } -> std::same_as<void>;
      { wire.go(which) } -> std::same_as<void>;
      { wire.copy(which, into.data(), payload) } -> std::same_as<void>;
      { wire.wait(which, limit) } -> std::same_as<void>;
      { wire.abandon(which, limit) } -> std::same_as<void>;
      { wire.broadcast(into, peer, group) } -> std::same_as<typename W::operation*>;
      wire.guarded(work);  // no lambda: nvcc takes none for a type here
    };

/// One that is not in use, made of `parts` where all are. As many are kept as were ever in flight: a handful.
template <class Operation, class... Parts>
[[nodiscard]] Operation& free_operation(std::deque<Operation>& all, const Parts&... parts) {
  for (Operation& each : all) {
    if (!each.in_use) {
      return each;
    }
  }
  return all.emplace_back(parts...);
}

/// The operations of one rank over a wire. A group of no ranks is all of them.
template <MessageWire Wire>
class message_engine {
 public:
  using operation = typename Wire::operation;

  /// `wire` outlives it.
  explicit message_engine(Wire& wire) : wire_(wire), everyone_(all_ranks(wire.size())) {}

  [[nodiscard]] Wire& wire() const noexcept { return wire_; }

  [[nodiscard]] std::span<const std::size_t> members(std::span<const std::size_t> group) const noexcept {
    return group.empty() ? everyone_ : group;
  }

  [[nodiscard]] operation* broadcast(mutable_bytes buffer, std::size_t root, std::span<const std::size_t> group) {
    const std::span<const std::size_t> all = members(group);
    check_group(all, wire_.rank(), root, wire_.size());
    return wire_.guarded([&] {
      operation* const better = wire_.broadcast(buffer, root, all);
      return better != nullptr
                 ? better
                 : deal([&](std::size_t) { return bytes_view(buffer); }, buffer, root, all, buffer.size(), 1);
    });
  }
  [[nodiscard]] operation* scatter(std::span<const bytes_view> windows, mutable_bytes own, std::size_t root,
                                   std::span<const std::size_t> group) {
    const std::span<const std::size_t> all = members(group);
    check_group(all, wire_.rank(), root, wire_.size());
    std::uint64_t longest = own.size();
    for (const std::size_t peer : wire_.rank() == root ? all : all.first(0)) {
      longest = longest < windows[peer].size() ? windows[peer].size() : longest;
    }
    return wire_.guarded(
        [&] { return deal([&](std::size_t peer) { return windows[peer]; }, own, root, all, longest, all.size()); });
  }
  void wait(operation& which, deadline limit) {
    wire_.guarded([&] { wire_.wait(which, limit); });
  }

  /// Every rank sends its part to each of the others.
  void all_gather(bytes_view own, mutable_bytes all, std::span<const std::size_t> group, deadline limit) {
    const std::span<const std::size_t> ranks = members(group);
    check_parts(own.size(), all.size(), ranks.size(), "bytes");
    check_group(ranks, wire_.rank(), wire_.rank(), wire_.size());
    wire_.guarded([&] {
      if constexpr (requires { wire_.all_gather(own, all, ranks); }) {
        if (operation* const better = wire_.all_gather(own, all, ranks)) {
          wire_.wait(*better, limit);
          return;
        }
      }
      const std::size_t self = index_in(ranks, wire_.rank());
      operation& made = begin_exchange({.what = "gather", .bytes = own.size(), .places = ranks.size()}, ranks.size());
      exchange(
          made, ranks, self, [&](std::size_t from) { return all.subspan(from * own.size(), own.size()); },
          [&](std::size_t) { return own; });
      if (std::byte* const to = all.data() + self * own.size(); !own.empty() && own.data() != to) {
        wire_.copy(made, to, own);
      }
      wire_.wait(made, limit);
    });
  }

  /// In rounds, two of them in flight: every rank sends each of the others a piece of its part, then adds up what it got.
  void reduce_scatter(std::span<const float> contribution, std::span<float> own, std::span<const std::size_t> group,
                      deadline limit) {
    const std::span<const std::size_t> ranks = members(group);
    check_parts(own.size(), contribution.size(), ranks.size(), "numbers");
    check_group(ranks, wire_.rank(), wire_.rank(), wire_.size());
    reduction work{.contribution = contribution,
                   .own = own,
                   .group = ranks,
                   .self = index_in(ranks, wire_.rank()),
                   .piece = own.empty() ? 1 : smaller(round_bytes(ranks.size()) / sizeof(float), own.size())};
    if (!own.empty() && ranks.size() > 1) {
      work.staging = staging(2 * (ranks.size() - 1) * work.piece);
    }
    wire_.guarded([&] {
      try {
        reduce(work, limit);
      } catch (...) {
        for (operation* const each : work.flights) {
          if (each != nullptr) {
            wire_.abandon(*each, limit);
          }
        }
        throw;
      }
    });
  }

 private:
  /// Of numbers that arrive, for both rounds and all peers.
  static constexpr std::uint64_t most_staging_bytes = 2 * mib;
  static constexpr std::uint64_t least_piece_bytes = 4 * kib;

  struct reduction {
    std::span<const float> contribution;
    std::span<float> own;
    std::span<const std::size_t> group;
    std::size_t self = 0;
    std::uint64_t piece = 0;  // numbers that a rank sends another in one round
    float* staging = nullptr;
    std::array<operation*, 2> flights{};

    [[nodiscard]] std::uint64_t rounds() const noexcept { return own.empty() ? 1 : ceil_div(own.size(), piece); }
    /// Which of this rank's own numbers the round is about.
    [[nodiscard]] std::span<float> target(std::uint64_t round) const noexcept {
      return own.subspan(round * piece, smaller(piece, own.size() - round * piece));
    }
    /// What this rank has for those of the rank at `index` of the group.
    [[nodiscard]] std::span<const float> part(std::uint64_t round, std::size_t index) const noexcept {
      return contribution.subspan(index * own.size() + round * piece, target(round).size());
    }
    /// Where the piece of that rank goes.
    [[nodiscard]] std::span<float> staged(std::uint64_t round, std::size_t index) const noexcept {
      if (staging == nullptr) {
        return {};  // nothing arrives
      }
      const std::size_t slot = index < self ? index : index - 1;
      return {staging + ((round % 2) * (group.size() - 1) + slot) * piece, target(round).size()};
    }
  };

  /// The same on every rank of the group.
  [[nodiscard]] std::uint64_t round_bytes(std::size_t ranks) const noexcept {
    if constexpr (requires { wire_.round_bytes(ranks); }) {
      return wire_.round_bytes(ranks);
    } else {
      const std::uint64_t bytes = most_staging_bytes / (2 * ranks);
      return bytes < least_piece_bytes ? least_piece_bytes : bytes;
    }
  }
  [[nodiscard]] float* staging(std::uint64_t numbers) {
    if constexpr (requires { wire_.staging(numbers); }) {
      return wire_.staging(numbers);
    } else {
      staging_.resize(staging_.size() < numbers ? numbers : staging_.size());
      return staging_.data();
    }
  }

  /// The root sends each of the others its payload.
  template <class PayloadFor>
  [[nodiscard]] operation* deal(PayloadFor&& payload_for, mutable_bytes own, std::size_t root,
                                std::span<const std::size_t> group, std::uint64_t bytes, std::size_t places) {
    if (wire_.rank() != root) {
      operation& made = wire_.begin({.receives = 1, .bytes = bytes, .places = places});
      wire_.receive(made, root, own);
      wire_.go(made);
      return &made;
    }
    operation& made = wire_.begin({.sends = group.size() - 1, .bytes = bytes, .places = places});
    for (const std::size_t peer : group) {
      if (peer != root) {
        wire_.send(made, peer, payload_for(peer));
      }
    }
    wire_.go(made);
    return &made;
  }

  [[nodiscard]] operation& begin_exchange(message_load load, std::size_t ranks) {
    load.sends = ranks - 1;
    load.receives = ranks - 1;
    return wire_.begin(load);
  }
  /// Every rank of the group has a message for each of the others. They do not all begin with the same one.
  template <class Into, class PayloadFor>
  void exchange(operation& which, std::span<const std::size_t> group, std::size_t self, Into&& into,
                PayloadFor&& payload_for) {
    const std::size_t ranks = group.size();
    for (std::size_t i = 1; i < ranks; ++i) {
      const std::size_t from = (self + ranks - i) % ranks;
      wire_.receive(which, group[from], into(from));
    }
    for (std::size_t i = 1; i < ranks; ++i) {
      const std::size_t to = (self + i) % ranks;
      wire_.send(which, group[to], payload_for(to));
    }
    wire_.go(which);
  }

  void reduce(reduction& work, deadline limit) {
    const std::uint64_t rounds = work.rounds();
    for (std::uint64_t round = 0; round < rounds; ++round) {
      start(work, round);
      if (round != 0) {
        finish(work, round - 1, limit);
      }
    }
    finish(work, rounds - 1, limit);
  }
  void start(reduction& work, std::uint64_t round) {
    const std::size_t ranks = work.group.size();
    operation& made = begin_exchange({.what = "reduce",
                                      .bytes = work.piece * sizeof(float),
                                      .places = 2 * ranks,
                                      .round = static_cast<std::uint32_t>(round + 1)},
                                     ranks);
    work.flights[round % 2] = &made;
    exchange(
        made, work.group, work.self, [&](std::size_t from) { return std::as_writable_bytes(work.staged(round, from)); },
        [&](std::size_t to) { return std::as_bytes(work.part(round, to)); });
  }
  void finish(reduction& work, std::uint64_t round, deadline limit) {
    wire_.wait(*std::exchange(work.flights[round % 2], nullptr), limit);
    ordered_sum(work.target(round), work.group.size(), [&](std::size_t k) -> const float* {
      return k == work.self ? work.part(round, k).data() : work.staged(round, k).data();
    });
  }

  Wire& wire_;
  std::vector<std::size_t> everyone_;
  std::vector<float> staging_;  // of reductions: kept, the next one needs it too
};

}  // namespace fsdpinit::detail
