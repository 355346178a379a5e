#pragma once

#include <fsdpinit/core/compiler.hpp>
#include <fsdpinit/plan/plan.hpp>
#include <fsdpinit/plan/prediction.hpp>
#include <fsdpinit/plan/program.hpp>
#include <fsdpinit/plan/program_step.hpp>

#include <cstddef>
#include <cstdint>

namespace fsdpinit {

namespace detail {

/// Adds up what the steps of one rank move.
class step_adder {
 public:
  step_adder(program& of, prediction& out) noexcept : program_(of), out_(out) {}

  void add(const program_round& round, std::size_t times) {
    program_.for_each_step(
        round, [&](const program_step& step) { add(step, step.total() * times, round.kind != round_kind::reread); });
  }

 private:
  void add(const program_step& step, std::uint64_t bytes, bool is_first_time) noexcept {
    switch (step.kind) {
      case step_kind::read:
        out_.bytes_read += bytes;
        out_.payload_bytes += is_first_time && step.wanted != 0 ? bytes / step.total() * step.wanted : 0;
        break;
      case step_kind::read_buffer:
        out_.payload_bytes += bytes;
        break;
      case step_kind::window:
        out_.bytes_sent += bytes;
        break;
      case step_kind::scatter:
        out_.bytes_received += bytes;
        break;
      case step_kind::broadcast:
        if (step.rank != program_.rank()) {
          out_.bytes_received += step.to.kind == region_kind::checksums ? 0 : bytes;
        } else if (step.from.kind != region_kind::checksums) {
          out_.bytes_sent += bytes * (program_.size_of(step.group) - 1);
        }
        break;
      default:
        break;
    }
  }

  program& program_;
  prediction& out_;
};

inline void add_regions(const program& of, prediction& out) noexcept {
  for (const program_region& each : of.regions()) {
    switch (each.kind) {
      case region_kind::slab:
        out.slab_bytes += each.bytes;
        break;
      case region_kind::slot:
      case region_kind::checksums:
        out.slot_bytes += each.index == 0 ? each.bytes : 0;  // the others are as large
        out.slots = each.index + 1;
        break;
      case region_kind::scratch:
      case region_kind::tiles:
        out.scratch_bytes += each.bytes;
        break;
      case region_kind::full_copy:
        out.full_copy_bytes = each.bytes;
        break;
      case region_kind::peer_sums:
        out.peer_sum_bytes += each.bytes;
        break;
      case region_kind::none:
        break;
    }
  }
}

}  // namespace detail

/// Adds up the regions and the steps of a program. O(tensors + steps), of rounds that are alike those of one.
[[nodiscard]] inline prediction predict(const program& of) {
  program coarse = of.coarse();
  prediction out;
  detail::add_regions(coarse, out);
  out.shard_bytes = coarse.shard_bytes();
  detail::step_adder steps(coarse, out);
  program_round round = coarse.first();
  std::size_t times = 0;
  do {
    times = coarse.alike(round);
    steps.add(round, times);
  } while (coarse.advance(round, times));
  return out;
}

FSDPINIT_INLINE prediction predict(const plan& made, std::size_t rank) { return predict(program_of(made, rank)); }

}  // namespace fsdpinit
