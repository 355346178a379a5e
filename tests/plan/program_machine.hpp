#pragma once

#include <fsdpinit/core.hpp>
#include <fsdpinit/core/float_conversion.hpp>
#include <fsdpinit/plan/program.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <deque>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

/// \file
/// A machine that executes the programs of all ranks together, phase by phase, over bytes in memory. It knows nothing of the plan but
/// what steps say.

namespace fsdpinit::testing_support {

/// A step that is left out, or is a byte shorter than it should be.
struct mutation {
  std::size_t rank = 0;
  std::size_t step = 0;  ///< of those of that rank which can be mutated
  bool shortens = false;
};

/// Does it show where a step of the kind is left out of a faultless run? Not of those that only look, or let go.
[[nodiscard]] constexpr bool is_felt(step_kind kind) noexcept {
  return kind != step_kind::release && kind != step_kind::clear_sums && kind != step_kind::check_sum &&
         kind != step_kind::compare && kind != step_kind::compare_sums;
}

/// What programs are executed on.
struct machine_input {
  std::vector<std::vector<std::byte>> tensors{};  ///< whole, as they travel, by planned tensor
  std::vector<std::vector<std::byte>> files{};
  bool late = false;                              ///< transfers and places happen at the last moment, else at the first
  std::optional<std::size_t> flipped_transfer{};  ///< its last byte arrives flipped
  std::optional<std::size_t> odd_reader{};        ///< a rank that reads other bytes than the rest
  std::optional<mutation> mutated{};
};

/// What one rank did.
struct machine_tally {
  std::uint64_t read = 0;
  std::uint64_t sent = 0;
  std::uint64_t received = 0;
  std::uint64_t wanted = 0;  ///< payload that it read, or took from its module, for the first time
  std::uint64_t copied = 0;
};

class program_machine {
 public:
  program_machine(const plan& made, const program_options& how, machine_input input)
      : plan_(made), input_(std::move(input)) {
    for (std::size_t rank = 0; rank < made.options.ranks.size(); ++rank) {
      programs_.push_back(program_of(made, rank, how));
      ranks_.emplace_back();
      for (const program_region& each : programs_.back().regions()) {
        ranks_.back().memory[{each.kind, each.index}].resize(each.bytes);
        if (each.kind == region_kind::slab) {
          ranks_.back().arrivals.emplace_back(each.bytes);
        }
      }
    }
  }

  /// \return what went wrong; empty: nothing.
  std::string run() {
    program_round round = programs_.front().first();
    std::vector<program_round> of(programs_.size());
    for (std::size_t rank = 0; rank < programs_.size(); ++rank) {
      of[rank] = programs_[rank].first();
    }
    for (bool more = true; more && faults_.size() < 2000;) {
      for (const program_round& each : of) {
        require(each == of.front(), "rounds differ");
      }
      round = of.front();
      run_round(round);
      ++rounds_;
      more = programs_.front().advance(of.front());
      for (std::size_t rank = 1; rank < programs_.size(); ++rank) {
        require(programs_[rank].advance(of[rank]) == more, "one rank has more rounds than another");
      }
    }
    return faults_;
  }

  [[nodiscard]] const machine_tally& tally(std::size_t rank) const { return ranks_[rank].tally; }
  [[nodiscard]] const std::vector<std::byte>& slab(std::size_t rank, std::size_t index) const {
    return ranks_[rank].memory.at({region_kind::slab, index});
  }
  /// How often each byte of a slab has arrived.
  [[nodiscard]] const std::vector<std::uint8_t>& arrivals(std::size_t rank, std::size_t index) const {
    return ranks_[rank].arrivals[index];
  }
  /// How many steps of a rank there were that can be mutated.
  [[nodiscard]] std::size_t felt_steps(std::size_t rank) const { return ranks_[rank].felt_steps; }
  [[nodiscard]] const program_step& mutated() const { return mutated_; }
  [[nodiscard]] program& program_on(std::size_t rank) { return programs_[rank]; }
  [[nodiscard]] std::size_t rounds() const noexcept { return rounds_; }

 private:
  struct transfer {
    program_step step{};
    std::vector<program_step> windows{};
  };
  struct rank_state {
    std::map<std::pair<region_kind, std::size_t>, std::vector<std::byte>> memory{};
    std::vector<std::vector<std::uint8_t>> arrivals{};  // by slab
    std::array<std::uint64_t, 2> sums{};
    machine_tally tally{};
    std::size_t felt_steps = 0;
  };
  /// A bucket that has begun.
  struct flight {
    program_round round{};
    bool passed_on = false;
    std::vector<std::vector<transfer>> started{};     // by rank
    std::vector<std::vector<program_step>> places{};  // by rank
  };

  void require(bool holds, const std::string& what) {
    if (!holds && faults_.size() < 2000) {
      faults_ += concat("round ", rounds_, ": ", what, "\n");
    }
  }

  // -- order

  void run_round(const program_round& round) {
    if (round.kind != round_kind::bucket) {
      while (!flights_.empty()) {
        end_oldest();
      }
      flight alone = flight_of(round);
      run_phase(alone, round_phase::begin);
      require_in_step(round);
      settle(alone);
      return;
    }
    if (!flights_.empty() && flights_.back().round.slot == round.slot) {
      pass_on(flights_.back());
    }
    while (std::any_of(flights_.begin(), flights_.end(),
                       [&](const flight& each) { return each.round.slot == round.slot; })) {
      end_oldest();
    }
    flights_.push_back(flight_of(round));
    run_phase(flights_.back(), round_phase::begin);
    if (flights_.size() > 1) {
      pass_on(flights_[flights_.size() - 2]);
    }
  }
  [[nodiscard]] flight flight_of(const program_round& round) const {
    return {.round = round,
            .started = std::vector<std::vector<transfer>>(programs_.size()),
            .places = std::vector<std::vector<program_step>>(programs_.size())};
  }
  void pass_on(flight& each) {
    if (!std::exchange(each.passed_on, true)) {
      deliver(each);
      run_phase(each, round_phase::pass_on);
    }
  }
  void end_oldest() {
    flight& each = flights_.front();
    pass_on(each);
    deliver(each);
    run_phase(each, round_phase::end);
    settle(each);
    flights_.pop_front();
  }
  void settle(flight& each) {
    for (std::size_t rank = 0; rank < programs_.size(); ++rank) {
      end_places(each, rank);
    }
  }

  void run_phase(flight& in, round_phase phase) {
    agreed_ = 0;
    compared_.clear();
    for (std::size_t rank = 0; rank < programs_.size(); ++rank) {
      std::vector<program_step> windows;
      const auto run = [&](const program_step& each) {
        if (each.kind == step_kind::window) {
          windows.push_back(each);
        } else if (each.kind == step_kind::scatter || each.kind == step_kind::broadcast) {
          in.started[rank].push_back({.step = each, .windows = std::move(windows)});
          windows.clear();
        } else if (each.kind == step_kind::place && input_.late) {
          in.places[rank].push_back(each);
        } else {
          end_places(in, rank);
          execute(rank, each, in.round.kind == round_kind::reread);
        }
      };
      const auto run_mutated = [&](const program_step& each) {
        const bool is_it = input_.mutated && input_.mutated->rank == rank && is_felt(each.kind) &&
                           ranks_[rank].felt_steps == input_.mutated->step;
        ranks_[rank].felt_steps += is_felt(each.kind) ? 1U : 0U;
        if (!is_it) {
          run(each);
          return;
        }
        mutated_ = each;
        if (input_.mutated->shortens) {
          program_step shorter = each;
          shorter.bytes -= each.bytes == 0 ? 0U : 1U;
          run(shorter);
          if (each.kind == step_kind::fetch) {  // what is in its place does not happen to be the same
            at(rank, each.to + shorter.bytes, 1)[0] = ~at(rank, each.from + shorter.bytes, 1)[0];
          }
        }
      };
      programs_[rank].for_each_step(in.round, phase,
                                    [&](const program_step& each) { for_each_single(each, run_mutated); });
      require(windows.empty(), "windows without a scatter");
    }
    if (!input_.late) {
      deliver(in);
    }
  }
  void end_places(flight& in, std::size_t rank) {
    for (const program_step& each : in.places[rank]) {
      execute(rank, each, false);
    }
    in.places[rank].clear();
  }
  void require_in_step(const program_round& round) {
    if (round.kind == round_kind::compare) {
      require(compared_.size() == programs_.size(), "not all ranks compare");
      for (const auto& [rank, step] : compared_) {
        const auto held = at(rank, {.kind = region_kind::peer_sums, .index = 0}, step.bytes);
        const auto read = at(step.rank, {.kind = region_kind::peer_sums, .index = 1}, step.bytes);
        require(std::equal(held.begin(), held.end(), read.begin()),
                concat("rank ", rank, " holds what no other reads"));
      }
    } else {
      require(agreed_ == programs_.size(), "a round that does not end in an agreement");
    }
  }

  // -- steps of one rank

  std::span<std::byte> at(std::size_t rank, const region_position& where, std::uint64_t bytes) {
    const auto found = ranks_[rank].memory.find({where.kind, where.index});
    if (bytes == 0) {
      return {};
    }
    if (found == ranks_[rank].memory.end() || where.offset + bytes > found->second.size()) {
      require(false, concat("rank ", rank, ": [", where.offset, ", ", where.offset + bytes, ") is not in ",
                            name(where.kind), " ", where.index));
      spare_.assign(bytes, std::byte{});
      return spare_;
    }
    return std::span(found->second).subspan(where.offset, bytes);
  }
  void write(std::size_t rank, const region_position& to, std::span<const std::byte> bytes, bool arrives = true) {
    const std::span<std::byte> into = at(rank, to, bytes.size());
    std::copy(bytes.begin(), bytes.end(), into.begin());
    if (to.kind == region_kind::slab && arrives) {
      for (std::uint64_t i = 0; i < bytes.size(); ++i) {
        ++ranks_[rank].arrivals.at(to.index).at(to.offset + i);
      }
    }
  }

  [[nodiscard]] std::vector<std::byte> stored(std::size_t rank, const program_step& step) const {
    const auto tensor = tensor_of_file(step.at.file);
    const std::vector<std::byte>& whole = tensor ? input_.tensors[*tensor] : input_.files.at(step.at.file);
    const auto begin = whole.begin() + static_cast<std::ptrdiff_t>(step.at.offset);
    std::vector<std::byte> out(begin, begin + static_cast<std::ptrdiff_t>(step.bytes));
    if (rank == input_.odd_reader) {
      out.back() ^= std::byte{1};
    }
    return out;
  }

  void execute(std::size_t rank, const program_step& step, bool again) {
    rank_state& mine = ranks_[rank];
    switch (step.kind) {
      case step_kind::read:
        write(rank, step.to, stored(rank, step));
        mine.tally.read += step.bytes;
        mine.tally.wanted += again || step.copy != 0 ? 0 : step.wanted;
        break;
      case step_kind::read_buffer: {
        require(rank == plan_.options.source_ranks.source_rank, "a rank other than the source reads a buffer");
        const std::span<const std::byte> whole(input_.tensors[step.tensor]);
        write(rank, step.to, whole.subspan(step.at.offset, step.bytes));
        mine.tally.wanted += step.bytes;
        break;
      }
      case step_kind::generate: {
        std::vector<std::byte> part;
        const byte_region region = plan_.tensors[step.tensor].partition.region(plan_.options.ranks.shard_of(rank));
        for_each_run(region, 0, region.bytes(), [&](std::uint64_t global, std::uint64_t, std::uint64_t length) {
          const auto begin = input_.tensors[step.tensor].begin() + static_cast<std::ptrdiff_t>(global);
          part.insert(part.end(), begin, begin + static_cast<std::ptrdiff_t>(length));
        });
        require(part.size() == step.bytes, "a part that is made in pieces");
        write(rank, step.to, part);
        break;
      }
      case step_kind::release:
        break;
      case step_kind::copy:
      case step_kind::place:
      case step_kind::fetch:
        for (std::uint64_t i = 0; i < step.count; ++i) {
          write(rank, step.to + i * step.bytes, at(rank, step.from + i * step.stride, step.bytes),
                plan_.tensors[step.tensor].widening ? !widening_ : true);
        }
        break;
      case step_kind::widen: {
        widening_ = true;
        const std::uint64_t wide = bits(step.wide) / 8;
        convert_floats(step.narrow, at(rank, step.from, step.total()).data(), step.wide,
                       at(rank, step.to, step.count * wide).data(), step.count);
        break;
      }
      case step_kind::clear_sums:
        std::fill_n(at(rank, step.to, step.bytes).begin(), step.bytes, std::byte{0xff});
        break;
      case step_kind::start_sum:
        mine.sums.at(step.sum) = step.seed + 1469598103934665603U;
        break;
      case step_kind::hash:
        for (std::uint64_t i = 0; i < step.count; ++i) {
          for (const std::byte each : at(rank, step.from + i * step.stride, step.bytes)) {
            mine.sums.at(step.sum) = (mine.sums.at(step.sum) ^ std::to_integer<std::uint64_t>(each)) * 1099511628211U;
          }
        }
        break;
      case step_kind::store_sum:
        std::memcpy(at(rank, step.to, step.bytes).data(), &mine.sums.at(step.sum), step.bytes);
        break;
      case step_kind::check_sum: {
        std::uint64_t expected = mine.sums.at(1U - step.sum);
        if (step.from.kind != region_kind::none) {
          std::memcpy(&expected, at(rank, step.from, step.bytes).data(), step.bytes);
        }
        require(mine.sums.at(step.sum) == expected, concat("rank ", rank, ": a checksum differs"));
        break;
      }
      case step_kind::compare: {
        const auto found = at(rank, step.from, step.bytes);
        const auto wanted = std::vector<std::byte>(found.begin(), found.end());
        const auto held = at(rank, step.to, step.bytes);
        require(std::equal(held.begin(), held.end(), wanted.begin(), wanted.end()),
                concat("rank ", rank, ": bytes differ"));
        break;
      }
      case step_kind::compare_sums:
        compared_.emplace_back(rank, step);
        break;
      case step_kind::agree:
        ++agreed_;
        break;
      case step_kind::window:
      case step_kind::scatter:
      case step_kind::broadcast:
        break;
    }
  }

  // -- transfers: every rank starts as many, each with its own group

  [[nodiscard]] std::vector<std::size_t> members(std::size_t rank, rank_group group) const {
    const std::span<const std::size_t> listed = programs_[rank].ranks_of(group);
    std::vector<std::size_t> out(listed.begin(), listed.end());
    for (std::size_t each = 0; listed.empty() && each < programs_.size(); ++each) {
      out.push_back(each);
    }
    return out;
  }

  void deliver(flight& in) {
    const std::vector<transfer>& first = in.started.front();
    for (std::size_t rank = 0; rank < programs_.size(); ++rank) {
      require(in.started[rank].size() == first.size(), "ranks start different numbers of transfers");
    }
    for (std::size_t i = 0; i < first.size() && faults_.empty(); ++i) {
      for (std::size_t rank = 0; rank < programs_.size(); ++rank) {
        deliver(rank, in, i);
      }
    }
    for (std::vector<transfer>& each : in.started) {
      each.clear();
    }
  }

  /// To one rank, by whatever its root has started at the same place.
  void deliver(std::size_t rank, flight& in, std::size_t i) {
    const program_step& mine = in.started[rank][i].step;
    const std::vector<std::size_t> group = members(rank, mine.group);
    require(std::find(group.begin(), group.end(), rank) != group.end(), "a rank outside of its group");
    require(std::find(group.begin(), group.end(), mine.rank) != group.end(), "a root outside of its group");
    const transfer& roots = in.started[mine.rank][i];
    require(
        roots.step.kind == mine.kind && roots.step.rank == mine.rank && members(mine.rank, roots.step.group) == group,
        concat("rank ", rank, " and its root start different transfers"));
    if (mine.kind == step_kind::broadcast) {
      require(roots.step.bytes == mine.bytes, "a broadcast of different sizes");
    }
    if (rank == mine.rank) {
      return;
    }
    std::vector<std::byte> bytes;
    if (mine.kind == step_kind::broadcast) {
      const auto from = at(mine.rank, roots.step.from, mine.bytes);
      bytes.assign(from.begin(), from.end());
    } else {
      const auto window = std::find_if(roots.windows.begin(), roots.windows.end(),
                                       [&](const program_step& each) { return each.rank == rank; });
      require(window != roots.windows.end(), concat("no window for rank ", rank));
      if (window != roots.windows.end()) {
        require(window->bytes == mine.bytes, concat("a window of another size for rank ", rank));
        const auto from = at(mine.rank, window->from, window->bytes);
        bytes.assign(from.begin(), from.end());
      }
    }
    const bool is_payload = mine.to.kind != region_kind::checksums;
    if (is_payload && !bytes.empty() && delivered_++ == input_.flipped_transfer) {
      bytes.back() ^= std::byte{1};
    }
    write(rank, mine.to, bytes);
    ranks_[rank].tally.received += is_payload ? bytes.size() : 0;
    ranks_[mine.rank].tally.sent += is_payload ? bytes.size() : 0;
  }

  const plan& plan_;
  machine_input input_;
  std::vector<program> programs_;
  std::vector<rank_state> ranks_;
  std::deque<flight> flights_;
  std::vector<std::pair<std::size_t, program_step>> compared_;
  std::vector<std::byte> spare_;
  program_step mutated_;
  std::string faults_;
  std::size_t agreed_ = 0;
  std::size_t rounds_ = 0;
  std::size_t delivered_ = 0;
  bool widening_ = false;  // the last round has begun
};

}  // namespace fsdpinit::testing_support
