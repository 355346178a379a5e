#pragma once

#include <fsdpinit/concepts/control_ref.hpp>
#include <fsdpinit/concepts/memory_ref.hpp>
#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/core/checksum.hpp>
#include <fsdpinit/core/float_conversion.hpp>
#include <fsdpinit/engine/step_checks.hpp>
#include <fsdpinit/engine/step_reader.hpp>
#include <fsdpinit/engine/workspace.hpp>
#include <fsdpinit/modules/missing_tensor.hpp>
#include <fsdpinit/observe/call_progress.hpp>
#include <fsdpinit/observe/report.hpp>
#include <fsdpinit/plan/plan.hpp>
#include <fsdpinit/plan/program_step.hpp>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <utility>

namespace fsdpinit::detail {

/// What steps are executed on, and by. All must outlive who executes them.
struct step_machinery {
  const plan& made;
  step_reader& reader;
  workspace& work;
  call_progress& progress;
  std::span<const tensor_request> names;
  const checksum* hash = nullptr;  ///< of plans with verification
  const initialiser_ref* missing = nullptr;
};

/// Executes the steps in which a rank is by itself. No allocation per step.
class local_steps {
 public:
  /// Of a round: copies that may be under way.
  struct copies {
    memory_ref::queue order{};
    bool placing = false;
    const std::byte* arrived = nullptr;  ///< where its payload lies, if that is not the slot
  };

  /// \throws std::bad_alloc
  local_steps(std::size_t rank, const step_machinery& with)
      : with_(with),
        memory_(with.work.memory),
        checks_(with.made, with.names, with.hash),
        shard_(with.made.options.ranks.shard_of(rank)) {}

  /// \throws std::bad_alloc, what a queue of the space throws
  [[nodiscard]] copies make_copies() const { return {.order = memory_.make_queue()}; }

  /// The steps that follow are of this round.
  void enter(const program_round& round) noexcept {
    round_ = round;
    has_stages_ = round.kind == round_kind::bucket ||
                  (round.kind == round_kind::finish && with_.made.options.verify != verification::reread);
  }
  /// Only what a stream is busy with is told apart.
  void enter(stage_clock::stage which) noexcept {
    if (has_stages_) {
      with_.progress.stages.enter(which);
    }
  }
  [[nodiscard]] std::byte* at(const region_position& where) const noexcept { return with_.work.at(where); }

  /// Is there a request that was put off? It has to be made before any step but `read` and `release`.
  [[nodiscard]] bool has_put_off() const noexcept { return with_.reader.has_put_off(); }
  void flush() {
    enter(&stage_seconds::read);
    with_.reader.flush();
  }
  /// What was to be copied is there afterwards, and what it was copied from may be overwritten.
  void wait(copies& in) {
    in.placing = false;
    enter(&stage_seconds::place);
    memory_.wait(in.order);
  }

  /// \pre nothing was put off, unless it reads or releases; no copy is under way, unless it places
  void execute(const program_step& step, copies& in) {
    switch (step.kind) {
      case step_kind::read:
        enter(&stage_seconds::read);
        with_.reader.read(step, at(step.to));
        with_.progress.add(round_.kind == round_kind::reread ? 0 : step.wanted);
        break;
      case step_kind::read_buffer:
        enter(&stage_seconds::read);
        with_.reader.read_buffer(step, at(step.to));
        with_.progress.add(step.bytes);
        break;
      case step_kind::release:
        with_.reader.release(step);
        break;
      case step_kind::copy:
        copy(step);
        break;
      case step_kind::generate:
        generate(step);
        break;
      case step_kind::place:
        enter(&stage_seconds::place);
        in.placing = true;
        memory_.copy_in(at(step.to), in.arrived != nullptr ? in.arrived + step.from.offset : at(step.from), step.stride,
                        step.bytes, step.count, in.order);
        break;
      case step_kind::fetch:
        enter(round_.kind == round_kind::bucket ? &stage_seconds::checksum : &stage_seconds::place);
        memory_.copy_out(at(step.to), at(step.from), step.bytes, in.order);
        memory_.wait(in.order);
        break;
      case step_kind::widen:
        enter(&stage_seconds::place);
        widen(step, in);
        break;
      case step_kind::compare:
        if (step.copy != 0) {
          with_.reader.compare_copy(step, at(step.from), at(step.to));
        } else {
          checks_.compare(step, at(step.from), at(step.to));
        }
        break;
      case step_kind::start_sum:
        enter(&stage_seconds::checksum);
        checks_.start(step);
        break;
      case step_kind::hash:
        checks_.hash(step, at(step.from));
        break;
      case step_kind::store_sum:
        checks_.store(step, at(step.to));
        break;
      case step_kind::check_sum:
        checks_.check(step, at(step.from), round_.part);
        break;
      default:  // those in which ranks take part together
        break;
    }
  }

  /// Collective. See `step_checks::compare_with_peer`.
  void compare_sums(const program_step& step, control_ref control, double deadline_seconds) {
    checks_.compare_with_peer(control, deadline_seconds, step.rank, {at(step.from), step.bytes},
                              {at(step.to), step.bytes});
  }

 private:
  void copy(const program_step& step) const noexcept {
    std::byte* to = at(step.to);
    const std::byte* from = at(step.from);
    for (std::uint64_t i = 0; i < step.count; ++i, to += step.bytes, from += step.stride) {
      std::memcpy(to, from, step.bytes);
    }
  }
  void generate(const program_step& step) const {
    const planned_tensor& tensor = with_.made.tensors[step.tensor];
    const tensor_request& wanted = with_.names[tensor.request];
    with_.missing->fill({.fqn = wanted.fqn, .dtype = wanted.dtype, .shape = wanted.shape}, tensor.partition, shard_,
                        {at(step.to), step.bytes});
  }
  void widen(const program_step& step, copies& in) {
    if (memory_.host_accessible() || step.from.kind != region_kind::slab) {
      convert_floats(step.narrow, at(step.from), step.wide, at(step.to), step.count);
    } else {
      in.placing = true;
      memory_.widen(step.narrow, at(step.from), step.wide, at(step.to), step.count, in.order);
    }
  }

  step_machinery with_;
  memory_ref memory_;
  step_checks checks_;
  std::size_t shard_;
  program_round round_{};
  bool has_stages_ = false;
};

}  // namespace fsdpinit::detail
