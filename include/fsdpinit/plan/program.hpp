#pragma once

#include <fsdpinit/plan/bucket_steps.hpp>
#include <fsdpinit/plan/bucket_view.hpp>
#include <fsdpinit/plan/plan.hpp>
#include <fsdpinit/plan/program_regions.hpp>
#include <fsdpinit/plan/program_step.hpp>
#include <fsdpinit/plan/rank_groups.hpp>
#include <fsdpinit/plan/rank_plan.hpp>
#include <fsdpinit/plan/reread_pairs.hpp>
#include <fsdpinit/plan/step_writer.hpp>
#include <fsdpinit/plan/turn_steps.hpp>
#include <fsdpinit/plan/verification.hpp>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

/// \file
/// A program: what one rank does, round by round and step by step, from a plan. Who runs it needs no other knowledge of the plan.
///
/// **Rounds** are the same on every rank: as many, of the same kinds, each with the same transfers in the same order. A bucket is a
/// round of three phases. `begin` ends with the bucket on its way; `pass_on` starts its second transfer, where it has one; `end`
/// places and checks. Phases of one bucket follow one another, and those of neighbours overlap: bucket k + 1 begins before bucket k
/// is passed on, and bucket k ends before one begins that has the same slot. All other rounds have only the phase `begin`, stand
/// alone (what was before has ended), and end with all ranks in step.
///
/// **Regions** are all the memory that steps work in, except for two running checksums. They are there before the first round.
///
/// **Steps** of a phase are executed in their order, by
///
/// | who | steps |
/// |---|---|
/// | the source | `read`, and `release` where it holds tensors in memory |
/// | the module | `read_buffer` |
/// | the initialiser of missing tensors | `generate` |
/// | the module's memory space | `place`, `fetch`, `widen` in a slab |
/// | the host | `copy`, `compare`, `widen` in scratch, and all that is done to checksums |
/// | the data channel | `window`, `scatter`, `broadcast` |
/// | the control channel | `compare_sums`, `agree` |
///
/// A step is over before the next one is begun, with three exceptions. Reads with nothing but `release` between them, whose bytes
/// follow each other in a file, may be one request. A transfer is started, and over when the bucket's next phase begins; until then
/// the bytes that it sends may be read. A `place` is begun; it is over before anybody looks at what it has written, or writes to what
/// it reads, and at the latest when its round ends. Where a transfer is `viewable` and the communicator lends its bytes where they
/// arrive, places from its region read them there, and the transfer is over after that.
///
/// A rank that has failed goes through `clear_sums`, `window`, `scatter`, `broadcast`, `compare_sums` and `agree` alone, so that its
/// peers are not left waiting.

namespace fsdpinit {

/// What a program depends on besides the plan.
struct program_options {
  /// Where a rank that fails cannot interrupt its peers, they agree after so many buckets. Default: they hear of it at once.
  std::size_t buckets_per_agreement = ~std::size_t{0};
  /// Where ranks read by themselves, they agree whenever each has read so much.
  std::uint64_t bytes_between_agreements = direct_read_bytes;
  /// If not, this rank has no memory, and no steps but agreements, while others read. \pre nothing travels
  bool takes_part = true;
  step_tap* tap = nullptr;  ///< not of its `coarse()`
};

/// Steps are made when they are asked for, one by one: its memory is that of a few lists of ranks, whatever the plan has of buckets,
/// and nothing is allocated after it was made. Not for several threads at once.
class program {
 public:
  /// `made` must outlive it. O(tensors + segments + ranks). \pre rank < ranks.
  program(const plan& made, std::size_t rank, const program_options& how = {})
      : plan_(made),
        mine_(made, rank),
        how_(how),
        cursors_(mine_.is_source() ? made.options.ranks.shards : 0),
        roles_(made.options.buckets_in_flight) {
    set_turns();
    if (made.options.verify == verification::reread) {
      const reread_pairs pairs(made.options);
      peers_shard_ = made.options.ranks.shard_of(pairs.read_by(rank));
      rereader_ = pairs.reader_of(rank);
    }
    for (const planned_tensor& tensor : made.tensors) {
      generates_ = generates_ || tensor.generated;
      exchanges_sums_ =
          exchanges_sums_ || (made.options.verify == verification::reread && is_read_by_several(made.options, tensor));
    }
    if (how.takes_part) {
      regions_ = detail::regions_of(made, mine_, exchanges_sums_);
    }
    scratch_bytes_ = region_bytes(region_kind::scratch);
  }

  /// The same for who adds up what is read and sent: what passes through the scratch region is not cut into pieces, what takes turns
  /// takes one, between buckets ranks do not agree, and their checksums are not made; nothing is released, what a rank keeps of a window is
  /// one step, and what it keeps of a broadcast, which differs between buckets that are otherwise alike, is left out. The same bytes move.
  [[nodiscard]] program coarse() const {
    program out = *this;
    out.coarse_ = true;
    out.how_.tap = nullptr;
    out.set_turns();
    return out;
  }

  /// All memory that its steps work in, except for single numbers. Slabs first, in the order of the plan.
  [[nodiscard]] std::span<const program_region> regions() const noexcept { return regions_; }
  /// Of one kind, all together.
  [[nodiscard]] std::uint64_t region_bytes(region_kind kind) const noexcept {
    std::uint64_t bytes = 0;
    for (const program_region& each : regions_) {
      bytes += each.kind == kind ? each.bytes : 0;
    }
    return bytes;
  }

  /// Of this rank's shards and whole tensors, as they are kept, without padding.
  [[nodiscard]] std::uint64_t shard_bytes() const noexcept {
    std::uint64_t bytes = 0;
    for (const planned_tensor& tensor : plan_.tensors) {
      bytes += how_.takes_part ? tensor.kept_bytes(tensor.partition.local_bytes(mine_.shard())) : 0;
    }
    return bytes;
  }

  [[nodiscard]] std::size_t rank() const noexcept { return mine_.rank(); }
  /// The ranks of a group, ascending; empty where it is all ranks.
  [[nodiscard]] std::span<const std::size_t> ranks_of(rank_group group) const noexcept {
    switch (group) {
      case rank_group::served:
        return mine_.groups().served;
      case rank_group::scatter:
        return mine_.groups().scatter;
      case rank_group::replicas:
        return mine_.groups().replicas;
      case rank_group::all:
        break;
    }
    return {};
  }
  [[nodiscard]] std::size_t size_of(rank_group group) const noexcept {
    const std::span<const std::size_t> ranks = ranks_of(group);
    return ranks.empty() ? plan_.options.ranks.size() : ranks.size();
  }

  /// To how many ranks it sends at a time at most, itself among them.
  [[nodiscard]] std::size_t most_receivers() const noexcept {
    return mine_.is_source() ? plan_.options.ranks.size() : plan_.options.ranks.replicas;
  }

  /// There is always one: at least ranks agree in the end.
  [[nodiscard]] program_round first() const noexcept {
    const bool loads = plan_.options.transport == transport::none;
    return generates_ ? program_round{.kind = round_kind::generate}
           : loads    ? program_round{.kind = round_kind::load}
                      : stream_from(0);
  }
  /// Makes it the round after it. \return false, with the round as it was, where it is the last one.
  [[nodiscard]] bool advance(program_round& round) const noexcept {
    if (round.kind == round_kind::finish) {
      return false;
    }
    const std::size_t number = round.number + 1;
    round = after(round);
    round.number = number;
    return true;
  }
  /// How many rounds, from this one on, move as many bytes of one tensor by the same steps. \pre a coarse program
  [[nodiscard]] std::size_t alike(const program_round& round) const noexcept {
    return round.kind == round_kind::bucket ? buckets_alike(round.part) : 1;
  }
  /// The same as so many calls. \pre a coarse program; `rounds` are alike
  [[nodiscard]] bool advance(program_round& round, std::size_t rounds) const noexcept {
    round.number += rounds - 1;
    round.part += rounds - 1;
    return advance(round);
  }

  /// False only where a phase has none; O(1). \pre the phases before it were asked for
  [[nodiscard]] bool has_steps(const program_round& round, round_phase phase) const noexcept {
    if (round.kind != round_kind::bucket || phase == round_phase::begin) {
      return phase == round_phase::begin;
    }
    const detail::bucket_role& role = roles_[round.slot];
    return role.index != round.part || (phase == round_phase::pass_on ? role.passes_on : role.ends);
  }

  /// Calls `visit` for each step of a phase of a round. A bucket takes O(its segments x shards + its runs), another round
  /// O(tensors + its runs).
  void for_each_step(const program_round& round, round_phase phase, step_visitor visit) {
    if (how_.tap != nullptr) [[unlikely]] {
      const auto tapped = [&](const program_step& each) { how_.tap->pass(each, visit); };
      write(round, phase, tapped);
    } else {
      write(round, phase, visit);
    }
  }
  /// Of all its phases.
  void for_each_step(const program_round& round, step_visitor visit) {
    for (const round_phase phase : {round_phase::begin, round_phase::pass_on, round_phase::end}) {
      for_each_step(round, phase, visit);
    }
  }

 private:
  // -- rounds

  [[nodiscard]] std::size_t buckets() const noexcept { return plan_.schedule.size(); }

  /// The bucket of that index after an agreement, or the agreement that there is none left.
  [[nodiscard]] program_round stream_from(std::size_t index) const noexcept {
    return index < buckets() ? bucket_round(index, 0, 0) : program_round{.kind = round_kind::agree, .part = index};
  }
  [[nodiscard]] program_round bucket_round(std::size_t index, std::uint64_t unheard,
                                           std::size_t unagreed) const noexcept {
    const bucket which = near_.at(plan_.schedule, index);
    const bool silent = which.route == route::own_read && !mine_.relays(which);
    return {.kind = round_kind::bucket,
            .part = index,
            .slot = index % plan_.options.buckets_in_flight,
            .unheard = unheard + (silent ? which.bytes : 0),
            .unagreed = unagreed + 1};
  }

  [[nodiscard]] std::size_t buckets_alike(std::size_t index) const noexcept {
    const bucket which = near_.at(plan_.schedule, index);
    const segment part = plan_.schedule.segments(which).front();
    const partition& how = plan_.tensors[part.tensor].partition;
    const bool own_read = which.route == route::own_read;
    if (which.last - which.first != 1 || (own_read && (mine_.relays(which) || !how.is_contiguous()))) {
      return 1;
    }
    std::uint64_t end = how.bytes();
    if (which.has_windows()) {  // up to where the part of the last rank that has any ends
      const std::uint64_t full = how.full_ranks();
      const std::uint64_t rest = full < plan_.options.ranks.shards ? how.local_bytes(full) : 0;
      end = part.end <= rest ? rest : how.reserved_bytes();
      end = part.begin < rest && part.end > rest ? part.end : end;
    }
    return 1 + static_cast<std::size_t>((end - part.end) / which.bytes);
  }

  [[nodiscard]] program_round after(const program_round& round) const noexcept {
    const std::size_t next = round.part + 1;
    switch (round.kind) {
      case round_kind::generate:
        return plan_.options.transport == transport::none ? program_round{.kind = round_kind::load} : stream_from(0);
      case round_kind::load:
        return next < load_turns_ ? program_round{.kind = round_kind::load, .part = next}
                                  : program_round{.kind = round_kind::keep};
      case round_kind::keep:
        return stream_from(0);
      case round_kind::bucket:
        return next == buckets() || (!coarse_ && (round.unheard >= how_.bytes_between_agreements ||
                                                  round.unagreed >= how_.buckets_per_agreement))
                   ? program_round{.kind = round_kind::agree, .part = next}
                   : bucket_round(next, round.unheard, round.unagreed);
      case round_kind::agree:
        return round.part < buckets()                         ? stream_from(round.part)
               : plan_.options.verify == verification::reread ? program_round{.kind = round_kind::reread}
                                                              : program_round{};
      case round_kind::reread:
        return next < reread_turns_ ? program_round{.kind = round_kind::reread, .part = next}
               : exchanges_sums_    ? program_round{.kind = round_kind::compare}
                                    : program_round{};
      case round_kind::compare:
      case round_kind::finish:
        break;
    }
    return {};
  }

  // -- steps

  void write(const program_round& round, round_phase phase, step_visitor visit) {
    if (round.kind == round_kind::bucket) {
      if (how_.takes_part && (phase == round_phase::begin || has_steps(round, phase))) {
        write_bucket(round, visit, [&](const detail::bucket_steps& steps) {
          phase == round_phase::begin ? steps.begin() : phase == round_phase::pass_on ? steps.pass_on() : steps.end();
        });
      }
    } else if (phase == round_phase::begin) {
      write_lone_round(writer(visit), round);
    }
  }
  [[nodiscard]] detail::step_writer writer(step_visitor visit) const noexcept {
    return {plan_, mine_, scratch_bytes_, coarse_, visit};
  }
  template <class Fn>
  void write_bucket(const program_round& round, step_visitor visit, Fn&& fn) {
    const detail::step_writer write = writer(visit);
    const detail::bucket_view bucket(write, round.part, round.slot, roles_[round.slot], cursors_, near_);
    fn(detail::bucket_steps(bucket));
  }

  void write_lone_round(const detail::step_writer& write, const program_round& round) const {
    switch (how_.takes_part ? round.kind : round_kind::agree) {
      case round_kind::generate:
        detail::write_generated(write);
        break;
      case round_kind::load:
        detail::write_load_turn(write, {.index = round.part, .bytes = turn_bytes_});
        break;
      case round_kind::keep:
        detail::write_kept_parts(write);
        break;
      case round_kind::reread:
        for (const program_region& each : regions_) {
          if (round.part == 0 && each.kind == region_kind::peer_sums) {
            write({.kind = step_kind::clear_sums, .to = {.kind = each.kind, .index = each.index}, .bytes = each.bytes});
          }
        }
        detail::reread_steps(write, peers_shard_).turn({.index = round.part, .bytes = turn_bytes_});
        break;
      case round_kind::compare:
        write({.kind = step_kind::compare_sums,
               .rank = rereader_,
               .from = {.kind = region_kind::peer_sums},
               .to = {.kind = region_kind::peer_sums, .index = 1},
               .bytes = region_bytes(region_kind::peer_sums) / 2});
        return;
      case round_kind::finish:
        detail::write_widening(write);
        break;
      case round_kind::bucket:
      case round_kind::agree:
        break;
    }
    write({.kind = step_kind::agree});
  }

  void set_turns() {
    turn_bytes_ = coarse_ ? detail::step_writer::everything : how_.bytes_between_agreements;
    load_turns_ = detail::turns_of(detail::bytes_of_turns(plan_, detail::fully_loaded_bytes), turn_bytes_);
    reread_turns_ = detail::turns_of(detail::bytes_of_turns(plan_, detail::reread_bytes), turn_bytes_);
  }

  const plan& plan_;
  rank_plan mine_;
  program_options how_;
  std::vector<program_region> regions_;
  std::vector<detail::window_cursor> cursors_;  // of a source: per shard, for whoever writes steps
  std::vector<detail::bucket_role> roles_;      // per slot
  mutable bucket_cursor near_;                  // see `bucket_schedule::near`
  std::uint64_t scratch_bytes_ = 0;
  std::uint64_t turn_bytes_ = 0;
  std::size_t load_turns_ = 0;
  std::size_t reread_turns_ = 0;
  std::size_t peers_shard_ = 0;  // whose part this rank reads again
  std::size_t rereader_ = 0;     // who reads that of this rank again
  bool coarse_ = false;
  bool generates_ = false;
  bool exchanges_sums_ = false;
};

/// What `rank` does to carry out a plan. Pure; see `program`.
[[nodiscard]] inline program program_of(const plan& made, std::size_t rank, const program_options& how = {}) {
  return program(made, rank, how);
}

/// Calls `fn(round)` for each round of a program, in their order.
template <class Fn>
void for_each_round(const program& of, Fn&& fn) {
  program_round round = of.first();
  do {
    fn(round);
  } while (of.advance(round));
}

}  // namespace fsdpinit
