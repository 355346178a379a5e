#pragma once

#include <fsdpinit/communicators/nccl_api.hpp>
#include <fsdpinit/communicators/nccl_connection.hpp>
#include <fsdpinit/communicators/nccl_ring.hpp>
#include <fsdpinit/communicators/ordered_sum.hpp>
#include <fsdpinit/communicators/rank_group.hpp>
#include <fsdpinit/concepts/communicator.hpp>
#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/memory/block.hpp>
#include <fsdpinit/memory/cuda_api.hpp>
#include <fsdpinit/memory/cuda_memory.hpp>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <string_view>

namespace fsdpinit::detail {

/// A reduce-scatter, in rounds that are about one piece of every rank's own numbers each.
struct nccl_reduction {
  std::span<const float> contribution;
  std::span<float> own;
  std::span<const std::size_t> group;
  std::size_t self = 0;     // in the group
  std::uint64_t piece = 0;  // numbers

  [[nodiscard]] std::uint64_t rounds() const noexcept { return own.empty() ? 1 : ceil_div(own.size(), piece); }
  /// Which of this rank's own numbers the round is about.
  [[nodiscard]] std::span<float> target(std::uint64_t round) const noexcept {
    return own.subspan(round * piece, smaller(piece, own.size() - round * piece));
  }
  /// What this rank has for them of the rank at `index`.
  [[nodiscard]] std::span<const float> part(std::uint64_t round, std::size_t index) const noexcept {
    return contribution.subspan(index * own.size() + round * piece, target(round).size());
  }
  [[nodiscard]] bool moves(std::uint64_t round) const noexcept { return group.size() > 1 && !target(round).empty(); }
};

/// What all ranks of a group have a part in, in turns of the ring. Pieces are of the same size on all ranks, wherever the payload lies
/// on each. Every call returns once all is on the streams; an event recorded on the ring's `out()` comes when it is done.
template <class Nccl, CudaApi Cuda, AlertingControl Host>
class nccl_collectives {
 public:
  /// `connection` and `ring` outlive the calls.
  nccl_collectives(nccl_connection<Nccl, Cuda, Host>& connection, nccl_ring<Cuda>& ring, const Cuda& cuda)
      : cuda_(cuda), connection_(connection), rank_(connection.host().rank()), ring_(ring) {}

  /// From each rank of the group to each: its part to its place in `all`.
  void all_gather(bytes_view own, mutable_bytes all, std::span<const std::size_t> group) {
    if (group.size() == connection_.host().size()) {
      gather_from_all(own, all, group.size());
    } else {  // a group has no communicator of its own
      exchange_parts(own, all, group);
    }
  }

  [[nodiscard]] nccl_reduction reduction(std::span<const float> contribution, std::span<float> own,
                                         std::span<const std::size_t> group) const noexcept {
    return {.contribution = contribution,
            .own = own,
            .group = group,
            .self = index_in(group, rank_),
            .piece = align_down(room(group.size()) / (2 * group.size()), least_nccl_piece_bytes / 2) / sizeof(float)};
  }
  /// Every rank sends each of the others its piece of the round, through the ring into pinned memory.
  void exchange_terms(const nccl_reduction& work, std::uint64_t round) {
    if (!work.moves(round)) {
      return;
    }
    if (!terms_) {
      terms_.emplace(basic_pinned_memory<Cuda>(ring_.memory().staging()), room(connection_.host().size()));
    }
    const std::uint64_t bytes = work.target(round).size_bytes();
    const std::uint64_t half = work.group.size() * bytes;  // of what a slot holds: what is sent, and what is received
    ring_.turn(
        [&](std::byte* slot) {
          for (std::size_t i = 0; i < work.group.size(); ++i) {
            if (i != work.self) {
              ring_.copy_in(slot + i * bytes, std::as_bytes(work.part(round, i)));
            }
          }
        },
        [&](std::byte* slot) {
          exchange(
              "reduce", work.group, work.self, bytes, [&](std::size_t i) { return slot + i * bytes; },
              [&](std::size_t i) { return slot + half + i * bytes; });
        },
        [&](std::byte* slot) {  // nobody has written this rank's own place
          const std::uint64_t before = work.self * bytes;
          std::byte* const to = terms(work, round);
          ring_.copy_out({to, before}, slot + half);
          ring_.copy_out({to + before + bytes, half - before - bytes}, slot + half + before + bytes);
        });
  }
  /// \pre the exchange of the round is done.
  void add_terms(const nccl_reduction& work, std::uint64_t round) noexcept {
    const std::uint64_t numbers = work.target(round).size();
    const auto* const received = work.moves(round) ? reinterpret_cast<const float*>(terms(work, round)) : nullptr;
    ordered_sum(work.target(round), work.group.size(),
                [&](std::size_t k) { return k == work.self ? work.part(round, k).data() : received + k * numbers; });
  }

 private:
  /// Two rounds are in flight: of the pinned memory each has a half.
  static constexpr std::uint64_t usual_terms_bytes = 8 * mib;

  /// Bytes of pinned memory, and most of a slot that one round takes.
  [[nodiscard]] std::uint64_t room(std::size_t ranks) const noexcept {
    const std::uint64_t least = ranks * least_nccl_piece_bytes;
    return smaller(ring_.slot_bytes(), least < usual_terms_bytes ? usual_terms_bytes : least);
  }
  [[nodiscard]] std::byte* terms(const nccl_reduction& work, std::uint64_t round) const noexcept {
    return terms_->data() + (round % 2) * work.group.size() * work.piece * sizeof(float);
  }

  /// By NCCL's own all-gather: at once and in place where the parts fit into a slot of the ring and `all` lies on the device, which
  /// another rank's may not; larger ones piece by piece through the ring, as the pieces of all ranks come out side by side.
  void gather_from_all(bytes_view own, mutable_bytes all, std::size_t ranks) {
    const std::uint64_t bytes = ring_.piece_for(ranks);
    const bool own_there = cuda_.on_device(own.data());
    const bool all_there = cuda_.on_device(all.data());
    const bool in_place = all_there && own.size() <= bytes;
    for (std::uint64_t at = 0; at < own.size(); at += bytes) {
      const bytes_view part = own.subspan(at, smaller(bytes, own.size() - at));
      const auto place = [&](std::size_t rank) { return all.data() + rank * own.size() + at; };
      ring_.turn(
          [&](std::byte* slot) {
            if (!own_there) {
              ring_.copy_in(slot + rank_ * part.size(), part);
            }
          },
          [&](std::byte* slot) {
            const std::byte* const from = own_there ? part.data() : slot + rank_ * part.size();
            connection_.issue("gather", [&](Nccl& nccl, typename Nccl::comm comm) {
              return nccl.all_gather(from, in_place ? all.data() : slot, part.size(), comm, ring_.exchange());
            });
          },
          [&](std::byte* slot) {
            for (std::size_t rank = 0; rank < ranks && !in_place; ++rank) {
              const std::byte* const from = slot + rank * part.size();
              if (all_there) {
                require_cuda(cuda_, cuda_.copy_on_device(place(rank), from, part.size(), ring_.out()),
                             "copy on the device");
              } else if (rank != rank_ || own_there) {
                ring_.copy_out({place(rank), part.size()}, from);
              } else {
                copy_on_host(place(rank), part);
              }
            }
          });
    }
  }

  /// The same among the ranks of a group, which send and receive: to and from their places on the device, else through the ring.
  void exchange_parts(bytes_view own, mutable_bytes all, std::span<const std::size_t> group) {
    const std::uint64_t bytes = ring_.piece_for(connection_.host().size());
    const std::size_t mine = index_in(group, rank_);
    const bool own_there = cuda_.on_device(own.data());
    const bool all_there = cuda_.on_device(all.data());
    for (std::uint64_t at = 0; at < own.size(); at += bytes) {
      const bytes_view part = own.subspan(at, smaller(bytes, own.size() - at));
      const auto place = [&](std::size_t index) { return all.data() + index * own.size() + at; };
      ring_.turn(
          [&](std::byte* slot) {
            if (!own_there) {
              ring_.copy_in(slot + mine * bytes, part);
            }
          },
          [&](std::byte* slot) {
            const std::byte* const out = own_there ? part.data() : slot + mine * bytes;
            if (all_there && out != place(mine)) {
              require_cuda(cuda_, cuda_.copy_on_device(place(mine), out, part.size(), ring_.exchange()),
                           "copy on the device");
            }
            exchange(
                "gather", group, mine, part.size(), [&](std::size_t) { return out; },
                [&](std::size_t i) { return all_there ? place(i) : slot + i * bytes; });
          },
          [&](std::byte* slot) {
            for (std::size_t i = 0; i < group.size() && !all_there; ++i) {
              if (i != mine) {
                ring_.copy_out({place(i), part.size()}, slot + i * bytes);
              } else if (own_there) {
                ring_.copy_out({place(i), part.size()}, part.data());
              } else {
                copy_on_host(place(i), part);
              }
            }
          });
    }
  }

  /// `from(i)` to every other rank of the group, and what that sends to `to(i)`; `bytes` each.
  template <class From, class To>
  void exchange(std::string_view what, std::span<const std::size_t> group, std::size_t self, std::uint64_t bytes,
                From&& from, To&& to) {
    connection_.issue(what, [&](Nccl& nccl, typename Nccl::comm comm) {
      int code = Nccl::success;
      for (std::size_t i = 0; i < group.size(); ++i) {
        if (i == self || !connection_.is_accepted(code)) {
          continue;
        }
        const int other = static_cast<int>(group[i]);
        code = nccl.send(from(i), bytes, other, comm, ring_.exchange());
        if (connection_.is_accepted(code)) {
          code = nccl.receive(to(i), bytes, other, comm, ring_.exchange());
        }
      }
      return code;
    });
  }
  static void copy_on_host(std::byte* to, bytes_view from) noexcept {
    if (to != from.data()) {
      std::memcpy(to, from.data(), from.size());
    }
  }

  Cuda cuda_;
  nccl_connection<Nccl, Cuda, Host>& connection_;
  std::size_t rank_;
  nccl_ring<Cuda>& ring_;
  std::optional<block<basic_pinned_memory<Cuda>>> terms_;  // from the first reduction on
};

}  // namespace fsdpinit::detail
