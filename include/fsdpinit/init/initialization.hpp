#pragma once

#include <fsdpinit/concepts/control_ref.hpp>
#include <fsdpinit/concepts/memory_ref.hpp>
#include <fsdpinit/control/agreement.hpp>
#include <fsdpinit/core/checksum.hpp>
#include <fsdpinit/core/deadline.hpp>
#include <fsdpinit/core/text.hpp>
#include <fsdpinit/init/agreed_call.hpp>
#include <fsdpinit/init/arguments.hpp>
#include <fsdpinit/init/engine.hpp>
#include <fsdpinit/init/gathered_reports.hpp>
#include <fsdpinit/init/match.hpp>
#include <fsdpinit/init/missing_tensor.hpp>
#include <fsdpinit/init/module_state.hpp>
#include <fsdpinit/init/module_view.hpp>
#include <fsdpinit/init/options.hpp>
#include <fsdpinit/init/overflow_meter.hpp>
#include <fsdpinit/init/payload_channel.hpp>
#include <fsdpinit/init/payload_link.hpp>
#include <fsdpinit/init/pending_shards.hpp>
#include <fsdpinit/init/program_runner.hpp>
#include <fsdpinit/init/progress_meter.hpp>
#include <fsdpinit/init/read_threads.hpp>
#include <fsdpinit/init/retained_memory.hpp>
#include <fsdpinit/init/step_reader.hpp>
#include <fsdpinit/init/wait_watch.hpp>
#include <fsdpinit/init/workspace.hpp>
#include <fsdpinit/memory/in_order.hpp>
#include <fsdpinit/memory/peak_growth.hpp>
#include <fsdpinit/observe/report.hpp>
#include <fsdpinit/plan/plan.hpp>
#include <fsdpinit/plan/predict.hpp>
#include <fsdpinit/plan/prediction.hpp>
#include <fsdpinit/plan/program.hpp>
#include <fsdpinit/sources/as_stored.hpp>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
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
        options_(given.how),
        rank_(given.control.rank()),
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
      const transport_kind best = chosen_by_source();
      agreed([&] { make(best); });
    }
    agreed([&] { allocate(); });
    drop_to_meta();
    try {
      for (bool more = true; more;) {
        more = run_turn();
      }
      // The last moment at which a rank can fail: past it the commit happens everywhere.
      agree_on_slowest(control_, report_, clock_.total(), options_.deadline_seconds);
    } catch (const error& cause) {
      if (call_.from_module()) {
        give_up_state(control_, call_.state(), options_.release_source, cause, options_.deadline_seconds);
      }
      throw;
    }
    work_->release_staging();
    commit();
    clock_.leave();
    report_.seconds = clock_.total();
    report_.phases.back().seconds = clock_.phases().back().seconds;
    return std::move(report_);
  }

 private:
  template <class Fn>
  void agreed(Fn&& fn) {
    fsdpinit::agreed(control_, options_.deadline_seconds, [&] { own_step(fn); });
  }
  void enter(const char* phase) {
    phase_ = phase;
    stages_.enter(nullptr);  // no stage is longer than its phase
    clock_.enter(phase);
    if (phase == stream_phase) {
      stages_.enter(&stage_seconds::wait);  // between its turns a rank waits for others
    }
    given_.watch.phase(phase);
  }

  /// What a rank may fail at before it has done anything, within the first agreement.
  const memory_ref& begin() {
    const memory_ref memory = given_.memory.space();
    work_.emplace(memory, given_.memory.staging(memory));
    memory_growth_.emplace(work_->memory);
    host_growth_.emplace(work_->host);
    if (waits_ != nullptr) {
      waits_->start();
    }
    enter("open");
    return work_->memory;
  }

  /// Where ranks that fail cannot interrupt their peers, a failure is known to all after so many.
  static constexpr std::size_t buckets_per_agreement = 64;

  [[nodiscard]] bool every_rank_loads() const noexcept { return call_.transport() == transport_kind::none; }

  void compare_contents() {
    enter("preflight");
    buffers_ = call_.settle_buffers();
    const module_view& view = call_.view();
    items_ = match(view, call_.contents(), options_.strict ? nullptr : &unmatched_, given_.missing.has_value());
    if (given_.missing) {
      add_missing(view, items_);
    }
    for (const load_item& item : items_) {
      const slot_record& slot = view.first_slot(view.tensors[item.tensor]);
      if (item.missing) {
        given_.missing->require_initialisable(info_of(slot));
      }
      captured_.push_back(item.captured && rank_ == options_.source_rank ? captured_values(slot) : nullptr);
    }
    requests_ = requests_of(view, items_, call_.contents());
    add_positions(requests_, items_, call_.source());
  }

  [[nodiscard]] plan_options planned_by(transport_kind transport) const {
    return {.ranks = call_.ranks(),
            .sources = call_.sources(),
            .transport = transport,
            .bucket_bytes = options_.bucket_bytes,
            .buckets_in_flight = options_.buckets_in_flight,
            .access = {.host = work_->memory.host_accessible(),
                       .communicator = given_.memory.is_accessible(),
                       .widens = work_->memory.host_accessible() || work_->memory.widens()},
            .verify = options_.verify};
  }

  void make(transport_kind transport) {
    plan_ = make_plan(requests_, planned_by(transport));
    program_.emplace(
        plan_, rank_,
        program_options{.buckets_per_agreement = data_.can().interrupts ? ~std::size_t{0} : buckets_per_agreement,
                        .tap = given_.tap});
    predicted_ = predict(*program_);
    if (call_.is_automatic()) {
      reason_ = !call_.reason().empty() ? call_.reason()
                : call_.chooses()       ? concat("chosen: ", name(transport), "; ", routes_of(plan_))
                                        : routes_of(plan_);
    }
  }

  /// What the source rank's `options::choose` says, on every rank.
  [[nodiscard]] transport_kind chosen_by_source() {
    transport_kind mine = transport_kind::scatter;
    agreed([&] {
      if (rank_ == options_.source_rank) {
        mine = require_available(options_.choose(requests_, planned_by(call_.chosen())), data_.can().scatters);
      }
    });
    return static_cast<transport_kind>(
        all_reduce_max(control_, rank_ == options_.source_rank ? static_cast<std::uint64_t>(mine) : 0,
                       deadline::after(options_.deadline_seconds)));
  }

  /// Everything a rank will ever hold, and what the commit needs, so that nothing can fail later for want of memory.
  void allocate() {
    enter("allocate");
    work_->reserve(program_->regions().size());
    const memory_ref travelling = given_.memory.slots(work_->host);
    for (const program_region& each : program_->regions()) {
      const memory_ref& space = each.kind == region_kind::slab                                          ? work_->memory
                                : each.kind == region_kind::slot || each.kind == region_kind::checksums ? travelling
                                                                                                        : work_->host;
      work_->add(each, block_for(space, each.bytes, [&] { return purpose_of(each) + beside_prediction(); }));
    }
    clear_slabs();
    for (const slot_record& slot : call_.view().slots) {  // some are only dropped
      slot.handle.prepare({});
    }
    pending_ = pending_shards(plan_, call_.view(), items_, rank_, *work_);
    prepare_stream();
  }

  /// For errors.
  [[nodiscard]] std::string purpose_of(const program_region& region) const {
    switch (region.kind) {
      case region_kind::slab:
        return concat("the shards of ", unit_text(call_.view().units[plan_.slabs[region.index].unit]));
      case region_kind::slot:
        return concat("staging bucket ", region.index + 1, " of ", predicted_.slots);
      case region_kind::full_copy:
        return "a copy of the whole model";
      default:
        return std::string(name(region.kind));
    }
  }

  /// For errors: what the allocation that failed is a part of, and what makes it smaller.
  [[nodiscard]] std::string beside_prediction() const {
    return concat("; predicted for this rank are ", predicted_.peak_bytes(), " bytes: ", predicted_.slab_bytes,
                  " of shards, ", predicted_.staging_bytes(),
                  " of staging; use more ranks, smaller buckets or fewer in flight, or a machine with more memory");
  }

  /// Where a unit is gathered on the device, what lies between shards and behind short ones travels too: zeros, and not what somebody
  /// left in the memory.
  void clear_slabs() {
    if (work_->memory.copies_within()) {
      in_order(work_->memory, [&](memory_ref::queue& order) {
        for (const auto& slab : work_->slabs) {
          work_->memory.zero(slab->data(), slab->size(), order);
        }
      });
    }
  }

  /// From here on the module is on meta until the commit, but for what it still has to give.
  void drop_to_meta() noexcept {
    drop_references(call_.binding());
    if (call_.state() != nullptr) {
      return;
    }
    for (const slot_record& slot : call_.view().slots) {
      if (slot.role != slot_role::non_persistent_buffer) {
        slot.handle.drop();
      }
    }
  }

  /// What can fail before the stream fails here: a rank that left its peers alone within the stream could not reach
  /// them.
  void prepare_stream() {
    const bool reads_together = call_.source() && call_.source()->reads_concurrently();
    threads_.emplace(reads_together ? options_.reader_threads : 1);
    overflow_meter_.emplace(call_.source(), items_);
    reader_.emplace(plan_, items_, captured_, call_.source(), *threads_, work_->memory);
    progress_.emplace(given_.watch, rank_ == options_.source_rank, predicted_.payload_bytes,
                      options_.progress_interval_seconds);
    runner_.emplace(
        *program_,
        step_machinery{.made = plan_,
                       .reader = *reader_,
                       .work = *work_,
                       .progress = *progress_,
                       .stages = stages_,
                       .names = requests_,
                       .hash = options_.verify == verification::off ? nullptr : options_.checksum,
                       .missing = given_.missing ? &*given_.missing : nullptr},
        step_channels{
            .data = data_, .control = control_, .deadline_seconds = options_.deadline_seconds, .watch = waits_});
    enter(every_rank_loads() ? load_phase : stream_phase);
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
    return phase_;
  }

  /// Some rounds, and an agreement: ranks that agree between turns see that the others make progress.
  /// \return whether there are more
  bool run_turn() {
    if (runner_->next() == round_kind::compare) {  // with agreements of its own
      return runner_->run_turn();
    }
    bool more = true;
    fsdpinit::agreed(control_, options_.deadline_seconds, [&] {
      try {
        more = runner_->run_turn();
      } catch (...) {
        retain_if_lost(data_, work_->slabs, work_->staging);
        throw;
      }
      own_step([&] { more ? enter_next() : wind_up(); });
    });
    return more;
  }
  void enter_next() {
    const char* const next = phase_of(runner_->next());
    if (next != phase_) {
      if (next == verify_phase) {
        count_overflow();  // before they are read again
      }
      enter(next);
    }
  }
  void wind_up() {
    count_overflow();
    enter("commit");
    report_ = describe();
  }

  /// Of what was read to be placed: what it says the first time is kept.
  void count_overflow() {
    if (!overflow_) {
      overflow_ = overflow_meter_->count([&](std::size_t i) { return requests_[i].fqn; });
    }
  }

  void commit() noexcept {
    if (call_.state() != nullptr) {
      call_.state()->drop_all();
    }
    adopt(pending_);
    rebind(call_.binding());
  }

  /// The report but for what only the end will tell. Made before the last agreement, as it allocates.
  [[nodiscard]] rank_report describe() const {
    const std::uint64_t of_host =
        work_->memory.host_accessible() ? 0 : host_growth_->bytes();  // else it is the same account
    return {.rank = rank_,
            .shards = call_.ranks().shards,
            .replicas = call_.ranks().replicas,
            .policy = call_.policy().name,
            .transport = name(call_.transport()),
            .transport_reason = reason_,
            .verified = options_.verify,
            .predicted = predicted_,
            .accounted_peak_bytes = memory_growth_->bytes() + of_host,
            .bytes_read = reader_->bytes_read(),
            .bytes_sent = runner_->counters().sent,
            .bytes_received = runner_->counters().received,
            .tensors = plan_.tensors.size(),
            .units = plan_.slabs.size(),
            .buckets = plan_.schedule.size(),
            .missing = unmatched_.missing,
            .unexpected = unmatched_.unexpected,
            .unlisted = unlisted_names(call_.contents().unlisted),
            .kept_buffers = buffers_.kept,
            .unread_buffers = buffers_.unread,
            .overflow = *overflow_,
            .advice = advice_on(plan_),
            .phases = clock_.phases(),
            .stages = stages_.seconds()};
  }

  const initialization_arguments& given_;
  wait_watch* waits_;  // nullptr where the observer does not hear of them
  payload_link& data_;
  control_ref control_;
  const options& options_;
  std::size_t rank_;
  std::optional<workspace> work_;
  std::optional<peak_growth> memory_growth_;
  std::optional<peak_growth> host_growth_;
  phase_clock clock_;
  const char* phase_ = "";
  stage_clock stages_;

  agreed_call call_;
  std::string reason_;  // of an automatic choice
  std::vector<load_item> items_;
  unmatched_names unmatched_;
  settled_buffers buffers_;
  std::vector<const std::byte*> captured_;  // per request
  std::vector<tensor_request> requests_;
  plan plan_;
  prediction predicted_;
  std::vector<pending_shard> pending_;
  std::optional<program> program_;
  std::optional<read_threads> threads_;
  std::optional<overflow_meter> overflow_meter_;
  std::optional<overflow_count> overflow_;
  std::optional<step_reader> reader_;
  std::optional<progress_meter> progress_;
  std::optional<program_runner> runner_;
  rank_report report_;
};

/// The whole of it.
FSDPINIT_INLINE rank_report run_initialization(const initialization_arguments& given) {
  return over(given.data, [&] {
    return with_watched_waits(given.watch, given.control, [&](control_ref control, wait_watch* waits) {
      initialization_arguments watched = given;
      watched.control = control;
      return initialization(watched, waits).run();
    });
  });
}

}  // namespace fsdpinit::detail
