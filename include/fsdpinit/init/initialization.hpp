#pragma once

#include <fsdpinit/concepts/control_ref.hpp>
#include <fsdpinit/concepts/memory_ref.hpp>
#include <fsdpinit/control/agreement.hpp>
#include <fsdpinit/control/wait_watch.hpp>
#include <fsdpinit/core/deadline.hpp>
#include <fsdpinit/core/text.hpp>
#include <fsdpinit/engine/payload_channel.hpp>
#include <fsdpinit/engine/payload_link.hpp>
#include <fsdpinit/engine/plan_execution.hpp>
#include <fsdpinit/engine/step_reader.hpp>
#include <fsdpinit/engine/workspace.hpp>
#include <fsdpinit/init/agreed_call.hpp>
#include <fsdpinit/init/arguments.hpp>
#include <fsdpinit/init/engine.hpp>
#include <fsdpinit/init/gathered_reports.hpp>
#include <fsdpinit/init/match.hpp>
#include <fsdpinit/init/options.hpp>
#include <fsdpinit/init/source_in_use.hpp>
#include <fsdpinit/modules/module_view.hpp>
#include <fsdpinit/observe/call_progress.hpp>
#include <fsdpinit/observe/report.hpp>
#include <fsdpinit/plan/plan.hpp>
#include <fsdpinit/plan/prediction.hpp>
#include <fsdpinit/plan/program.hpp>
#include <fsdpinit/sources/as_stored.hpp>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace fsdpinit::detail {

/// One initialisation on one rank, step by step. Each step ends in an agreement.
class initialization {
 public:
  /// \param waits  nullptr where the observer does not hear of them
  initialization(const initialization_arguments& given, wait_watch* waits) noexcept
      : given_(given),
        waits_(waits),
        data_(given.data),
        control_(given.control),
        options_(given.options),
        rank_(given.control.rank()),
        progress_(given.more.observer),
        call_(given) {}

  rank_report run() {
    call_.settle([&]() -> const memory_ref& { return begin(); });
    agreed([&] {
      compare_contents();
      if (!call_.chooses()) {
        make(call_.chosen());
      }
    });
    if (call_.chooses()) {
      const fsdpinit::transport best = chosen_by_source();
      agreed([&] { make(best); });
    }
    agreed([&] { allocate(); });
    drop();
    try {
      for (bool more = true; more;) {
        more = run_turn();
      }
      // The last moment at which a rank can fail: past it the commit happens everywhere.
      agree_on_slowest(control_, report_, progress_.seconds(), options_.deadline_seconds);
    } catch (const error& cause) {
      if (call_.from_module()) {
        give_up_state(control_.looking(nullptr), call_.state(), options_.release_source, cause,
                      options_.deadline_seconds);
      }
      throw;
    }
    commit();
    progress_.close(report_);
    return std::move(report_);
  }

 private:
  template <class Fn>
  void agreed(Fn&& fn) {
    fsdpinit::agreed(control_, options_.deadline_seconds, [&] { own_step(fn); });
  }
  /// Between the turns of a stream a rank waits for others.
  void enter(const char* phase) { progress_.enter(phase, phase == stream_phase ? &stage_seconds::wait : nullptr); }

  /// What a rank may fail at before it has done anything, within the first agreement.
  const memory_ref& begin() {
    const memory_ref memory = given_.more.memory.space();
    if (given_.more.missing && !memory.host_accessible()) {
      throw error(errc::invalid_argument, "missing",
                  "it writes into the shards, and the host may not touch their memory; initialise them on the device "
                  "afterwards, or use memory that is host_accessible");
    }
    run_.emplace(memory, given_.more.memory.staging(memory));
    if (waits_ != nullptr) {
      waits_->start();
    }
    enter("open");
    return run_->work().memory;
  }

  /// Where ranks that fail cannot interrupt their peers, a failure is known to all after so many.
  static constexpr std::size_t buckets_per_agreement = 64;

  void compare_contents() {
    enter("preflight");
    buffers_ = call_.settle_buffers();
    const module_view& view = call_.view();
    items_ = match(view, call_.contents(), options_.strict ? nullptr : &unmatched_, given_.more.missing.has_value());
    if (given_.more.missing) {
      add_missing(view, items_);
    }
    for (const load_item& item : items_) {
      const slot_record& slot = view.first_slot(view.tensors[item.tensor]);
      if (item.missing) {
        given_.more.missing->require_initialisable({.fqn = slot.fqn, .dtype = slot.dtype, .shape = slot.shape});
      }
      buffer_values_.push_back(item.from_buffer && rank_ == options_.source_rank ? buffer_values(slot) : nullptr);
    }
    requests_ = requests_of(view, items_, call_.contents());
    add_means_of_reading(requests_, items_, call_.source(), options_.reader_threads);
  }

  [[nodiscard]] plan_options planned_by(fsdpinit::transport transport) const {
    const memory_ref& memory = run_->work().memory;
    return {.ranks = call_.ranks(),
            .source_ranks = call_.source_ranks(),
            .transport = transport,
            .bucket_bytes = options_.bucket_bytes,
            .buckets_in_flight = options_.buckets_in_flight,
            .access = {.host = memory.host_accessible(),
                       .communicator = data_.accesses(memory),
                       .widens = memory.host_accessible() || memory.widens()},
            .verify = options_.verify};
  }

  void make(fsdpinit::transport transport) {
    run_->make(
        call_.view(), items_, requests_, planned_by(transport), rank_,
        {.buckets_per_agreement = data_.can().interrupts ? ~std::size_t{0} : buckets_per_agreement, .tap = given_.tap});
    if (call_.is_automatic()) {
      reason_ = !call_.reason().empty() ? call_.reason()
                : call_.chooses()       ? concat("chosen: ", name(transport), "; ", routes_of(run_->made()))
                                        : routes_of(run_->made());
    }
  }

  /// What the source rank's `options::choose` says, on every rank.
  [[nodiscard]] fsdpinit::transport chosen_by_source() {
    fsdpinit::transport mine = transport::scatter;
    agreed([&] {
      if (rank_ == options_.source_rank) {
        mine = require_available(options_.choose(requests_, planned_by(call_.chosen())), data_.can().scatters);
      }
    });
    return static_cast<fsdpinit::transport>(
        all_reduce_max(control_, rank_ == options_.source_rank ? static_cast<std::uint64_t>(mine) : 0,
                       deadline::after(options_.deadline_seconds)));
  }

  void allocate() {
    enter("allocate");
    run_->allocate(data_.slots(run_->work().host),
                   [&](const program_region& region) { return purpose_of(region) + beside_prediction(); });
    progress_.expect(rank_ == options_.source_rank ? run_->predicted().payload_bytes : 0,
                     options_.progress_interval_seconds);
    run_->start({.source = call_.source(),
                 .buffer_values = buffer_values_,
                 .reader_threads = options_.reader_threads,
                 .progress = progress_,
                 .hash = checksum_of(options_),
                 .missing = given_.more.missing ? &*given_.more.missing : nullptr},
                {.data = data_, .control = control_, .deadline_seconds = options_.deadline_seconds, .watch = waits_});
    enter(call_.transport() == transport::none ? load_phase : stream_phase);
  }

  /// For errors.
  [[nodiscard]] std::string purpose_of(const program_region& region) const {
    switch (region.kind) {
      case region_kind::slab:
        return concat("the shards of ", unit_text(call_.view().units[run_->made().slabs[region.index].unit]));
      case region_kind::slot:
        return concat("staging bucket ", region.index + 1, " of ", run_->predicted().slots);
      case region_kind::full_copy:
        return "a copy of the whole model";
      default:
        return std::string(name(region.kind));
    }
  }

  /// For errors: what the allocation that failed is a part of, and what makes it smaller.
  [[nodiscard]] std::string beside_prediction() const {
    const prediction& all = run_->predicted();
    return concat("; predicted for this rank are ", all.peak_bytes(), " bytes: ", all.slab_bytes, " of shards, ",
                  all.staging_bytes(),
                  " of staging; use more ranks, smaller buckets or fewer in flight, or a machine with more memory");
  }

  /// From here on the module is on meta until the commit, but for what it still has to give.
  void drop() noexcept {
    drop_references(call_.binding());
    if (call_.state() == nullptr) {
      drop_to_meta(call_.view());
    }
  }

  static constexpr const char* load_phase = "read";
  static constexpr const char* stream_phase = "stream";
  static constexpr const char* verify_phase = "verify";

  [[nodiscard]] const char* phase_of(round_kind kind) const noexcept {
    switch (kind) {
      case round_kind::load:
        return load_phase;
      case round_kind::keep:
        return "shard";
      case round_kind::bucket:
      case round_kind::agree:
        return stream_phase;
      case round_kind::reread:
      case round_kind::compare:
        return verify_phase;
      case round_kind::generate:
      case round_kind::finish:
        break;
    }
    return progress_.phase();
  }

  /// Some rounds, and an agreement: ranks that agree between turns see that the others make progress.
  /// \return whether there are more
  bool run_turn() {
    if (run_->next() == round_kind::compare) {  // with agreements of its own
      return run_->run_turn();
    }
    bool more = true;
    fsdpinit::agreed(control_, options_.deadline_seconds, [&] {
      more = run_->run_turn();
      own_step([&] { more ? enter_next() : describe(); });
    });
    return more;
  }
  void enter_next() {
    const char* const next = phase_of(run_->next());
    if (next != progress_.phase()) {
      if (next == verify_phase) {
        run_->count_overflow();  // before they are read again
      }
      enter(next);
    }
  }

  void commit() noexcept {
    if (call_.state() != nullptr) {
      call_.state()->drop_all();
    }
    run_->commit();
    rebind(call_.binding());
  }

  /// Makes the report, without what only the end will tell: before the last agreement, as it allocates.
  void describe() {
    enter("commit");
    const plan& made = run_->made();
    report_ = {.rank = rank_,
               .shards = call_.ranks().shards,
               .replicas = call_.ranks().replicas,
               .policy = call_.policy().name,
               .transport = name(call_.transport()),
               .transport_reason = reason_,
               .verified = options_.verify,
               .predicted = run_->predicted(),
               .accounted_peak_bytes = run_->accounted_peak_bytes(),
               .bytes_read = run_->bytes_read(),
               .bytes_sent = run_->counters().sent,
               .bytes_received = run_->counters().received,
               .tensors = made.tensors.size(),
               .units = made.slabs.size(),
               .buckets = made.schedule.size(),
               .missing = unmatched_.missing,
               .unexpected = unmatched_.unexpected,
               .unlisted = unlisted_names(call_.contents().unlisted),
               .kept_buffers = buffers_.kept,
               .unread_buffers = buffers_.unread,
               .overflow = run_->count_overflow(),
               .advice = advice_on(made),
               .phases = progress_.phases(),
               .stages = progress_.stages.seconds()};
  }

  const initialization_arguments& given_;
  wait_watch* waits_;  // nullptr where the observer does not hear of them
  payload_link& data_;
  control_ref control_;
  const options& options_;
  std::size_t rank_;
  call_progress progress_;

  agreed_call call_;
  std::string reason_;  // of an automatic choice
  std::vector<load_item> items_;
  unmatched_names unmatched_;
  settled_buffers buffers_;
  std::vector<const std::byte*> buffer_values_;  // per request
  std::vector<tensor_request> requests_;
  std::optional<plan_execution> run_;
  rank_report report_;
};

/// The whole of it.
FSDPINIT_INLINE rank_report run_initialization(const initialization_arguments& given) {
  return with_watched_waits(given.more.observer, given.more.stop, given.control,
                            [&](control_ref control, wait_watch* waits) {
                              return over(given.data, control.hook(), [&] {
                                initialization_arguments watched = given;
                                watched.control = control;
                                return initialization(watched, waits).run();
                              });
                            });
}

}  // namespace fsdpinit::detail
