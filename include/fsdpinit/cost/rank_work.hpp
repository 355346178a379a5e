#pragma once

#include <fsdpinit/cost/rank_classes.hpp>
#include <fsdpinit/plan/plan.hpp>
#include <fsdpinit/plan/program.hpp>
#include <fsdpinit/plan/program_step.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

/// \file
/// What every rank of a cluster does about one round, added up from the steps of a few programs: those of ranks that differ.

namespace fsdpinit::detail {

/// The ways in which bytes get from rank to rank.
enum class flow : std::uint8_t {
  scatter,    ///< from a source to each rank that it scatters to
  all,        ///< broadcast to all ranks
  served,     ///< broadcast to those that one source reads for
  replicas,   ///< broadcast to those that hold the same shard, by one that has just read it
  passed_on,  ///< likewise, once it has arrived
};
inline constexpr std::size_t flows = 5;

/// What is counted of a rank's steps: bytes, and how many `reads`.
enum class amount : std::uint8_t {
  read,              ///< from the source, without what is read along
  reads,             ///< requests
  copied,            ///< from host memory to host memory
  sent_staged,       ///< out of staging, once for each message or broadcast, not for each of its hops
  passed_on_staged,  ///< likewise, in the second phase
  placed,            ///< out of staging, by who has read it
  fetched,           ///< out of slabs that the host cannot look at
  staged,            ///< of what is broadcast to all, or to those that are served: what is received into staging
  received,          ///< by the first flow; those by the others follow
};
inline constexpr std::size_t amounts = static_cast<std::size_t>(amount::received) + flows;

[[nodiscard]] constexpr amount received_by(flow which) noexcept {
  return static_cast<amount>(static_cast<std::size_t>(amount::received) + static_cast<std::size_t>(which));
}
/// To many ranks, of whom each may keep another part.
[[nodiscard]] constexpr bool is_whole(flow which) noexcept { return which == flow::all || which == flow::served; }

class work_sums {
 public:
  [[nodiscard]] std::uint64_t& operator[](amount which) noexcept { return sums_[static_cast<std::size_t>(which)]; }
  [[nodiscard]] std::uint64_t operator[](amount which) const noexcept { return sums_[static_cast<std::size_t>(which)]; }
  friend bool operator==(const work_sums&, const work_sums&) = default;
  void add(const work_sums& other, std::uint64_t times = 1) noexcept {
    for (std::size_t i = 0; i < amounts; ++i) {
      sums_[i] += other.sums_[i] * times;
    }
  }
  void take_off(const work_sums& other) noexcept {
    for (std::size_t i = 0; i < amounts; ++i) {
      sums_[i] -= other.sums_[i];
    }
  }

 private:
  std::array<std::uint64_t, amounts> sums_{};
};

/// A transfer in which a rank takes part.
struct rank_transfer {
  flow by = flow::scatter;
  rank_group group = rank_group::all;
  bool is_root = false;
  bool staged = false;  ///< out of its staging, or into it
  std::size_t root = 0;
  std::uint64_t bytes = 0;  ///< that it receives; of a broadcast, those that its root sends
};

/// What one rank does about one round. A window that is received into staging counts as one that is received in its place: few lie
/// across several tensors.
struct rank_work {
  work_sums sums{};
  std::optional<rank_transfer> started{};    ///< once it has read
  std::optional<rank_transfer> passed_on{};  ///< in the round's second phase
  std::uint64_t held = 0;                    ///< bytes of its slot
  bool begins = false;                       ///< it reads, or sends or keeps what it has not received
};

/// Adds up the steps of one rank in one round.
class work_adder {
 public:
  explicit work_adder(std::size_t rank) noexcept : rank_(rank) {}

  void add(round_phase phase, const program_step& step) noexcept {
    work_sums& sums = work_.sums;
    switch (step.kind) {
      case step_kind::read:
        sums[amount::read] += step.wanted != 0 ? step.wanted : step.total();
        sums[amount::reads] += step.count;
        hold(step.to, (step.count - 1) * step.apart + step.bytes);
        break;
      case step_kind::read_buffer:
        hold(step.to, step.bytes);
        break;
      case step_kind::copy:
        sums[amount::copied] += step.total();
        hold(step.to, step.total());
        break;
      case step_kind::window:
        sums[amount::sent_staged] += step.total();
        break;
      case step_kind::scatter:
        transfer(phase, step, flow::scatter);
        break;
      case step_kind::broadcast:
        if (step.from.kind != region_kind::checksums && step.to.kind != region_kind::checksums) {
          transfer(phase, step,
                   phase == round_phase::pass_on        ? flow::passed_on
                   : step.group == rank_group::all      ? flow::all
                   : step.group == rank_group::replicas ? flow::replicas
                                                        : flow::served);
        }
        break;
      case step_kind::place:
        sums[amount::placed] += phase == round_phase::begin ? step.total() : 0;
        break;
      case step_kind::fetch:
        sums[amount::fetched] += step.bytes;
        break;
      default:
        break;
    }
  }

  [[nodiscard]] rank_work work() const noexcept {
    rank_work out = work_;
    const bool keeps = out.sums[amount::placed] != 0;
    out.begins = out.sums[amount::reads] != 0 || (out.started ? out.started->is_root : keeps);
    return out;
  }

 private:
  void transfer(round_phase phase, const program_step& step, flow by) noexcept {
    const bool begins = phase == round_phase::begin;
    const bool is_root = step.rank == rank_;
    const bool staged = (is_root ? step.from : step.to).kind == region_kind::slot;
    (begins ? work_.started : work_.passed_on) = {
        .by = by, .group = step.group, .is_root = is_root, .staged = staged, .root = step.rank, .bytes = step.bytes};
    if (is_root) {
      const bool has_read = work_.sums[amount::reads] != 0;
      work_.sums[begins ? amount::sent_staged : amount::passed_on_staged] += staged && has_read ? step.bytes : 0;
      return;
    }
    work_.sums[received_by(by)] += step.bytes;
    work_.sums[amount::staged] += staged && is_whole(by) ? step.bytes : 0;
    hold(step.to, step.bytes);
  }
  void hold(const region_position& to, std::uint64_t bytes) noexcept {
    work_.held = to.kind == region_kind::slot ? std::max(work_.held, to.offset + bytes) : work_.held;
  }

  std::size_t rank_;
  rank_work work_{};
};

/// \pre `of` is a coarse program
[[nodiscard]] inline rank_work work_of(program& of, const program_round& round) {
  work_adder sum(of.rank());
  for (const round_phase phase : {round_phase::begin, round_phase::pass_on, round_phase::end}) {
    of.for_each_step(round, phase, [&](const program_step& step) { sum.add(phase, step); });
  }
  return sum.work();
}

/// The work of all ranks in one round after the other.
class every_rank_work {
 public:
  /// `made` must outlive it. O(tensors x shards + ranks), and a program for each class of ranks.
  explicit every_rank_work(const plan& made) : plan_(made), classes_(rank_classes(made)) {
    const mesh& ranks = made.options.ranks;
    for (const std::size_t first : classes_.first) {
      const std::size_t next = ranks.rank_of((ranks.replica_of(first) + 1) % ranks.replicas, ranks.shard_of(first));
      programs_.push_back({.usual = program_of(made, first).coarse()});
      if (next != first) {
        programs_.back().other.emplace(program_of(made, next).coarse());
      }
    }
    usual_.resize(classes());
    of_root_.resize(classes());
  }

  /// So many rounds from this one on are alike. A bucket, or a whole stage that consists of turns. O(the steps of the programs).
  std::size_t look_at(const program_round& round) {
    turn_.reset();
    for (std::size_t of = 0; of < classes(); ++of) {
      programs& its = programs_[of];
      usual_[of] = work_of(its.usual, round);
      const std::optional<rank_transfer>& started = usual_[of].started;
      if (plan_.options.ranks.replicas == 1 || !started || started->by != flow::replicas) {
        continue;
      }
      // Its replica reads, others do not: both are looked at.
      turn_ = plan_.options.ranks.replica_of(started->root);
      if (started->is_root) {
        of_root_[of] = std::exchange(usual_[of], work_of(*its.other, round));
        continue;
      }
      if (!its.root || its.root->rank() != started->root) {
        its.root.emplace(program_of(plan_, started->root).coarse());
      }
      of_root_[of] = work_of(*its.root, round);
    }
    return programs_.front().usual.alike(round);
  }

  // -- of the round that was looked at last

  [[nodiscard]] const rank_work& of(std::size_t rank) const noexcept {
    const std::size_t its = class_of(rank);
    return takes_turn(rank) ? of_root_[its] : usual_[its];
  }
  /// Of the ranks of a class whose replica does not read for the others now.
  [[nodiscard]] const rank_work& usual(std::size_t its) const noexcept { return usual_[its]; }
  /// Of those whose replica does. \pre turn()
  [[nodiscard]] const rank_work& in_turn(std::size_t its) const noexcept { return of_root_[its]; }
  /// The replica that reads for the others, where they take turns.
  [[nodiscard]] const std::optional<std::size_t>& turn() const noexcept { return turn_; }
  [[nodiscard]] bool takes_turn(std::size_t rank) const noexcept {
    return turn_ && plan_.options.ranks.replica_of(rank) == *turn_;
  }

  [[nodiscard]] std::size_t classes() const noexcept { return classes_.first.size(); }
  [[nodiscard]] std::size_t class_of(std::size_t rank) const noexcept { return classes_.of_rank[rank]; }

 private:
  /// Of the lowest rank of a class, of one that holds the same shard, and of the one that reads for them.
  struct programs {
    program usual;
    std::optional<program> other{};
    std::optional<program> root{};
  };

  const plan& plan_;
  classes_of_ranks classes_;
  std::vector<programs> programs_;
  std::vector<rank_work> usual_;
  std::vector<rank_work> of_root_;
  std::optional<std::size_t> turn_{};
};

}  // namespace fsdpinit::detail
