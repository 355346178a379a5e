#pragma once

#include <fsdpinit/concepts/control_ref.hpp>
#include <fsdpinit/control/wait_watch.hpp>
#include <fsdpinit/core/attempt.hpp>
#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/core/error.hpp>
#include <fsdpinit/engine/local_steps.hpp>
#include <fsdpinit/engine/payload_channel.hpp>
#include <fsdpinit/engine/payload_link.hpp>
#include <fsdpinit/observe/report.hpp>
#include <fsdpinit/plan/plan.hpp>
#include <fsdpinit/plan/program.hpp>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <utility>
#include <vector>

namespace fsdpinit::detail {

struct transfer_counters {
  std::uint64_t sent = 0;
  std::uint64_t received = 0;
};

/// By what ranks take part in steps together.
struct step_channels {
  payload_link& data;
  control_ref control;
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
  program_runner(program& of, const step_machinery& with, const step_channels& between)
      : program_(of),
        stages_(with.progress.stages),
        control_(between.control),
        deadline_seconds_(between.deadline_seconds),
        local_(of.rank(), with),
        channel_(between.data, between.deadline_seconds, with.progress.stages, between.watch, between.control.hook()),
        can_(between.data.can()),
        round_(of.first()),
        flights_(with.made.options.buckets_in_flight) {
    for (std::size_t i = 0; i < flights_.size(); ++i) {
      flights_[i].payload = operations_of_bucket * i;
      flights_[i].sums = flights_[i].payload + 1;
      flights_[i].windows.resize(with.made.options.ranks.size());
      flights_[i].placed = local_.make_copies();
    }
    const std::size_t operations = operations_of_bucket * flights_.size();
    channel_.reserve(operations,
                     {.in_flight = operations, .peers = of.most_receivers(), .bytes = with.made.options.bucket_bytes});
  }
  program_runner(const program_runner&) = delete;
  program_runner& operator=(const program_runner&) = delete;

  /// Of the round that comes next.
  [[nodiscard]] round_kind next() const noexcept { return round_.kind; }

  /// Runs rounds up to the next one that ends with an agreement, and that one as well, without the agreement, which is the caller's. As
  /// many on every rank. \return whether there are more.
  /// \throws this rank's own failure, or error{interrupted, peer_lost}. Afterwards no operation is in flight.
  [[nodiscard]] bool run_turn() {
    const bool streams = round_.kind == round_kind::bucket || round_.kind == round_kind::agree;
    const stage_scope turn(stages_, streams ? &stage_seconds::wait : nullptr);
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
    bool active = false;      // else free
    bool passed_on = false;   // its second transfer, if it has one, has been started
    bool viewed = false;      // its payload is placed from where it has arrived, and is over after that
    std::size_t payload = 0;  // the operation that moves it
    std::size_t sums = 0;     // and that of its checksums
    std::vector<bytes_view> windows{};
    local_steps::copies placed{};
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
        look();
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
      static_cast<void>(attempt([&] { local_.wait(each.placed); }));
      static_cast<void>(attempt([&] { channel_.wait(each.payload); }));
      static_cast<void>(attempt([&] { channel_.wait(each.sums); }));
    }
    throw error(cause);
  }

  /// Why this rank shall not go on, if so, is what it says at the next agreement.
  void look() {
    if (wait_hook* const hook = control_.hook(); hook != nullptr && hook->look()) {
      const error stopped = error::if_possible_with_text(errc::interrupted, "", "this rank was stopped");
      if (can_.interrupts || round_.kind != round_kind::bucket) {
        throw stopped;
      }
      failure_ = failure_ ? failure_ : stopped;
    }
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
    if (each.active && !std::exchange(each.passed_on, true) && program_.has_steps(each.round, round_phase::pass_on)) {
      run_phase(each, round_phase::pass_on);
    }
  }
  void end(flight& each) {
    if (!each.active) {
      return;
    }
    pass_on(each);
    local_.enter(&stage_seconds::wait);
    if (each.viewed) {
      each.placed.arrived = channel_.view(each.payload).data();
    } else {
      channel_.wait(each.payload);
    }
    channel_.wait(each.sums);
    if (program_.has_steps(each.round, round_phase::end)) {
      run_phase(each, round_phase::end);
    }
    finish_placing(each);
    release_view(each);  // where nothing of it was to be placed
    each.active = false;
  }

  void run_phase(flight& in, round_phase phase) {
    local_.enter(in.round);
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
        local_.compare_sums(step, control_, deadline_seconds_);
        return;
      case step_kind::agree:
        return;
      default:
        if ((in.placed.placing || in.placed.arrived != nullptr) && step.kind != step_kind::place) {
          finish_placing(in);
        }
        if (step.kind == step_kind::read) {
          look();
        }
        locally(in, [&] { local_.execute(step, in.placed); });
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
    local_.enter(&stage_seconds::wait);
    const bool sends = step.rank == program_.rank();
    channel_.start_scatter(in.payload, in.windows, sends ? mutable_bytes{} : mutable_bytes{at(step.to), step.bytes},
                           step.rank, program_.ranks_of(step.group));
    counters_.received += step.bytes;
  }
  void broadcast(const program_step& step, flight& in) {
    local_.enter(&stage_seconds::wait);
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
    if (local_.has_put_off()) {
      locally(in, [&] { local_.flush(); });
    }
  }

  /// The staging memory may be written to afterwards, also where it throws.
  void finish_placing(flight& in) {
    if (in.placed.placing) {
      if (can_.interrupts || in.round.kind != round_kind::bucket) {
        local_.wait(in.placed);
      } else {
        const std::optional<error> failed = attempt([&] { local_.wait(in.placed); });
        failure_ = failure_ ? failure_ : failed;
      }
    }
    if (std::exchange(in.placed.arrived, nullptr) != nullptr) {
      release_view(in);
    }
  }
  /// What is only viewed is over once it was placed.
  void release_view(flight& in) {
    if (std::exchange(in.viewed, false)) {
      channel_.wait(in.payload);
    }
  }

  [[nodiscard]] std::byte* at(const region_position& where) const noexcept { return local_.at(where); }

  program& program_;
  stage_clock& stages_;
  control_ref control_;
  double deadline_seconds_;
  local_steps local_;
  payload_channel channel_;
  link_abilities can_;
  program_round round_;  // the next one
  std::vector<flight> flights_;
  flight* newest_ = nullptr;  // the bucket that has begun last
  transfer_counters counters_;
  std::optional<error> failure_;
};

}  // namespace fsdpinit::detail
