#pragma once

#include <fsdpinit/concepts/control_ref.hpp>
#include <fsdpinit/concepts/memory_ref.hpp>
#include <fsdpinit/control/attempt.hpp>
#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/core/float_conversion.hpp>
#include <fsdpinit/init/match.hpp>
#include <fsdpinit/init/missing_tensor.hpp>
#include <fsdpinit/init/module_view.hpp>
#include <fsdpinit/init/payload_channel.hpp>
#include <fsdpinit/init/payload_link.hpp>
#include <fsdpinit/init/progress_meter.hpp>
#include <fsdpinit/init/step_checks.hpp>
#include <fsdpinit/init/step_reader.hpp>
#include <fsdpinit/init/wait_watch.hpp>
#include <fsdpinit/init/workspace.hpp>
#include <fsdpinit/observe/report.hpp>
#include <fsdpinit/plan/plan.hpp>
#include <fsdpinit/plan/program.hpp>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <utility>
#include <vector>

namespace fsdpinit::detail {

struct transfer_counters {
  std::uint64_t sent = 0;
  std::uint64_t received = 0;
};

/// What the steps of a program are executed on, and by. All must outlive the runner.
struct program_machinery {
  const plan& made;
  step_reader& reader;
  workspace& work;
  payload_link& data;
  control_ref control;
  progress_meter& progress;
  stage_clock& stages;
  std::span<const tensor_request> names;
  const checksum* hash = nullptr;  ///< of plans with verification
  const initialiser_ref* missing = nullptr;
  double deadline_seconds = 0;
  wait_watch* watch = nullptr;
};

/// Runs the program of one rank: nothing else touches bytes.
///
/// Bucket k + 1 is being filled and sent while bucket k is passed on and received, and copied to its place by a device. If this rank
/// fails, an interruptible communicator is interrupted and the failure thrown at once; on others the rank goes through the remaining
/// transfers without reading or placing, so that no peer is left waiting, until the next agreement, which is the caller's. No
/// allocation per step.
class program_runner {
 public:
  /// \throws std::bad_alloc, what a queue of the space throws
  program_runner(program& of, const program_machinery& with)
      : program_(of),
        with_(with),
        memory_(with.work.memory),
        channel_(with.data, with.deadline_seconds, with.stages, with.watch),
        checks_(with.made, with.names, with.hash),
        can_(with.data.can()),
        round_(of.first()),
        flights_(with.made.options.buckets_in_flight) {
    for (std::size_t i = 0; i < flights_.size(); ++i) {
      flights_[i].payload = operations_of_bucket * i;
      flights_[i].sums = flights_[i].payload + 1;
      flights_[i].windows.resize(with.made.options.ranks.size());
      flights_[i].order = memory_.make_queue();
    }
    const std::size_t operations = operations_of_bucket * flights_.size();
    channel_.reserve(operations,
                     {.in_flight = operations, .peers = of.most_receivers(), .bytes = with.made.options.bucket_bytes});
  }
  program_runner(const program_runner&) = delete;
  program_runner& operator=(const program_runner&) = delete;

  /// Of the round that comes next.
  [[nodiscard]] round_kind next() const noexcept { return round_.kind; }

  /// Runs rounds up to the next one that ends with an agreement, and that too but for the agreement, which is the caller's. As many on
  /// every rank. \return whether there are more.
  /// \throws this rank's own failure, or error{interrupted, peer_lost}. Afterwards no operation is in flight.
  [[nodiscard]] bool run_turn() {
    const bool streams = round_.kind == round_kind::bucket || round_.kind == round_kind::agree;
    const stage_scope turn(with_.stages, streams ? &stage_seconds::wait : nullptr);
    for (bool more = true; more;) {
      const bool is_bucket = round_.kind == round_kind::bucket;
      if (streams) {
        run_streaming();
      } else {
        run_alone();
      }
      more = program_.advance(round_);
      if (!is_bucket) {
        return more;
      }
    }
    return false;
  }

  [[nodiscard]] const transfer_counters& counters() const noexcept { return counters_; }

 private:
  /// Its payload, of which one transfer is over before the next begins, and its checksums.
  static constexpr std::size_t operations_of_bucket = 2;

  /// A round under way.
  struct flight {
    program_round round{};
    bool active = false;                 // else free
    bool passed_on = false;              // its second transfer, if it has one, has been started
    bool placing = false;                // copies have been started
    bool viewed = false;                 // its payload is placed from where it has arrived, and is over after that
    const std::byte* arrived = nullptr;  // there
    std::size_t payload = 0;             // the operation that moves it
    std::size_t sums = 0;                // and that of its checksums
    std::vector<bytes_view> windows{};
    memory_ref::queue order{};
  };

  // -- rounds

  void run_alone() {
    flight& only = flights_.front();
    occupy(only);
    run_phase(only, round_phase::begin);
    finish_placing(only);
    only.active = false;
  }

  void run_streaming() {
    try {
      if (round_.kind == round_kind::bucket) {
        begin_bucket(flights_[round_.slot]);
      } else {
        for (std::size_t i = 0; i < flights_.size(); ++i) {  // as they were started
          end(flights_[(round_.part + i) % flights_.size()]);
        }
        newest_ = nullptr;
      }
    } catch (...) {
      abandon(current_error());
    }
    if (failure_ && round_.kind != round_kind::bucket) {
      throw error(*failure_);
    }
  }
  [[noreturn]] void abandon(const error& cause) {
    channel_.interrupt();
    for (flight& each : flights_) {
      // First the copies: of a viewed broadcast they read what belongs to the root again once the operation is over.
      static_cast<void>(attempt([&] { memory_.wait(each.order); }));
      static_cast<void>(attempt([&] { channel_.wait(each.payload); }));
      static_cast<void>(attempt([&] { channel_.wait(each.sums); }));
    }
    throw error(cause);
  }

  void begin_bucket(flight& next) {
    if (newest_ == &next) {
      pass_on(next);
    }
    end(next);
    occupy(next);
    run_phase(next, round_phase::begin);
    if (newest_ != nullptr && newest_ != &next) {
      pass_on(*newest_);
    }
    newest_ = &next;
  }
  void occupy(flight& each) noexcept {
    each.round = round_;
    each.active = true;
    each.passed_on = false;
  }
  void pass_on(flight& each) {
    if (each.active && !std::exchange(each.passed_on, true)) {
      run_phase(each, round_phase::pass_on);
    }
  }
  void end(flight& each) {
    if (!each.active) {
      return;
    }
    pass_on(each);
    enter(&stage_seconds::wait);
    if (each.viewed) {
      each.arrived = channel_.view(each.payload).data();
    } else {
      channel_.wait(each.payload);
    }
    channel_.wait(each.sums);
    run_phase(each, round_phase::end);
    finish_placing(each);
    each.active = false;
  }

  void run_phase(flight& in, round_phase phase) {
    const round_kind kind = in.round.kind;
    has_stages_ =
        kind == round_kind::bucket || (kind == round_kind::finish && with_.made.options.verify != verification::reread);
    program_.for_each_step(in.round, phase, [&](const program_step& step) { execute(step, in); });
    flush(in);
  }

  // -- steps

  void execute(const program_step& step, flight& in) {
    if (step.kind != step_kind::read && step.kind != step_kind::release) {
      flush(in);
    }
    switch (step.kind) {
      case step_kind::window:
        set_windows(step, in);
        return;
      case step_kind::scatter:
        scatter(step, in);
        return;
      case step_kind::broadcast:
        broadcast(step, in);
        return;
      case step_kind::clear_sums:
        step_checks::clear(step, at(step.to));
        return;
      case step_kind::compare_sums:
        checks_.compare_with_peer(with_.control, with_.deadline_seconds, step.rank, {at(step.from), step.bytes},
                                  {at(step.to), step.bytes});
        return;
      case step_kind::agree:
        return;
      default:
        if ((in.placing || in.arrived != nullptr) && step.kind != step_kind::place) {
          finish_placing(in);
        }
        locally(in, [&] { execute_alone(step, in); });
    }
  }

  void set_windows(const program_step& step, flight& in) noexcept {
    const std::byte* from = at(step.from);
    for (bytes_view& each : std::span(in.windows).subspan(step.rank, step.count)) {
      each = {from, step.bytes};
      from += step.stride;
    }
    counters_.sent += step.total();
  }
  void scatter(const program_step& step, flight& in) {
    enter(&stage_seconds::wait);
    const bool sends = step.rank == program_.rank();
    channel_.start_scatter(in.payload, in.windows, sends ? mutable_bytes{} : mutable_bytes{at(step.to), step.bytes},
                           step.rank, program_.ranks_of(step.group));
    counters_.received += step.bytes;
  }
  void broadcast(const program_step& step, flight& in) {
    enter(&stage_seconds::wait);
    const bool sends = step.rank == program_.rank();
    const region_position& where = sends ? step.from : step.to;
    const bool is_payload = where.kind != region_kind::checksums;
    const std::size_t operation = is_payload ? in.payload : in.sums;
    const mutable_bytes bytes{at(where), step.bytes};
    channel_.wait(operation);  // it may be the second of its bucket
    if (step.viewable && can_.views) {
      channel_.start_viewed_broadcast(operation, bytes, step.rank, program_.ranks_of(step.group));
      in.viewed = true;
    } else {
      channel_.start_broadcast(operation, bytes, step.rank, program_.ranks_of(step.group));
    }
    if (is_payload) {
      (sends ? counters_.sent : counters_.received) +=
          sends ? step.bytes * (program_.size_of(step.group) - 1) : step.bytes;
    }
  }

  /// Work that only this rank does. Within a bucket, without interruption, its failure is kept until the next agreement.
  template <class Fn>
  void locally(const flight& in, Fn&& fn) {
    if (can_.interrupts || in.round.kind != round_kind::bucket) {
      own_step(fn);
    } else if (!failure_) {
      failure_ = attempt([&] { own_step(fn); });
    }
  }

  void flush(const flight& in) {
    if (with_.reader.has_put_off()) {
      enter(&stage_seconds::read);
      locally(in, [&] { with_.reader.flush(); });
    }
  }

  /// The staging memory may be written to afterwards, also where it throws.
  void finish_placing(flight& in) {
    if (std::exchange(in.placing, false)) {
      enter(&stage_seconds::place);
      if (can_.interrupts || in.round.kind != round_kind::bucket) {
        memory_.wait(in.order);
      } else {
        const std::optional<error> failed = attempt([&] { memory_.wait(in.order); });
        failure_ = failure_ ? failure_ : failed;
      }
    }
    if (std::exchange(in.arrived, nullptr) != nullptr) {
      in.viewed = false;
      channel_.wait(in.payload);
    }
  }

  void execute_alone(const program_step& step, flight& in) {
    switch (step.kind) {
      case step_kind::read:
        enter(&stage_seconds::read);
        with_.reader.read(step, at(step.to));
        with_.progress.add(in.round.kind == round_kind::reread ? 0 : step.wanted);
        break;
      case step_kind::capture:
        enter(&stage_seconds::read);
        with_.reader.capture(step, at(step.to));
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
        enter(in.round.kind == round_kind::bucket ? &stage_seconds::checksum : &stage_seconds::place);
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
        checks_.check(step, at(step.from), in.round.part);
        break;
      default:  // those in which ranks take part together
        break;
    }
  }

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
    with_.missing->fill({.fqn = wanted.fqn, .dtype = wanted.dtype, .shape = wanted.shape}, tensor.partition,
                        with_.made.options.ranks.shard_of(program_.rank()), {at(step.to), step.bytes});
  }
  void widen(const program_step& step, flight& in) {
    if (memory_.host_accessible() || step.from.kind != region_kind::slab) {
      convert_floats(step.narrow, at(step.from), step.wide, at(step.to), step.count);
    } else {
      in.placing = true;
      memory_.widen(step.narrow, at(step.from), step.wide, at(step.to), step.count, in.order);
    }
  }

  [[nodiscard]] std::byte* at(const region_position& where) const noexcept { return with_.work.at(where); }
  /// Only what a stream is busy with is told apart.
  void enter(stage_clock::stage which) noexcept {
    if (has_stages_) {
      with_.stages.enter(which);
    }
  }

  program& program_;
  program_machinery with_;
  memory_ref memory_;
  payload_channel channel_;
  step_checks checks_;
  link_abilities can_;
  program_round round_;  // the next one
  std::vector<flight> flights_;
  flight* newest_ = nullptr;  // the bucket that has begun last
  transfer_counters counters_;
  std::optional<error> failure_;
  bool has_stages_ = false;
};

}  // namespace fsdpinit::detail
