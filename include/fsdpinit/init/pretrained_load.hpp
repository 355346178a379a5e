#pragma once

#include <fsdpinit/communicators/self.hpp>
#include <fsdpinit/concepts/control_ref.hpp>
#include <fsdpinit/concepts/memory_ref.hpp>
#include <fsdpinit/control/agreement.hpp>
#include <fsdpinit/control/wait_watch.hpp>
#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/core/error.hpp>
#include <fsdpinit/engine/payload_link.hpp>
#include <fsdpinit/engine/plan_execution.hpp>
#include <fsdpinit/engine/step_reader.hpp>
#include <fsdpinit/init/arguments.hpp>
#include <fsdpinit/init/engine.hpp>
#include <fsdpinit/init/manifest.hpp>
#include <fsdpinit/init/match.hpp>
#include <fsdpinit/init/options.hpp>
#include <fsdpinit/init/preflight.hpp>
#include <fsdpinit/modules/module_view.hpp>
#include <fsdpinit/observe/call_progress.hpp>
#include <fsdpinit/sources/source_ref.hpp>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace fsdpinit::detail {

/// One `load_pretrained` on one rank, step by step. Each step ends in an agreement. What a rank reads is its own affair: a program of a
/// world of one, in which ranks without weights only agree.
class pretrained_load {
 public:
  /// \param waits  nullptr where the observer does not hear of them
  pretrained_load(const pretrained_arguments& given, wait_watch* waits) noexcept
      : given_(given),
        waits_(waits),
        control_(given.control),
        context_(given.context),
        options_(given.options),
        is_source_(given.control.rank() == given.context.source_rank),
        progress_(given.more.observer) {}

  pretrained_report run() {
    require_equal_calls(control_, options_.deadline_seconds, [&] { return describe_call(); });
    contents_ = identity_of_source(control_, context_.source_rank,
                                   {.here = reads(), .several = !context_.active && control_.size() != 1},
                                   options_.deadline_seconds, [&] { return open(); })
                    .contents;
    agreed([&] { allocate(); });
    drop_to_meta(view_);
    pretrained_report report;
    for (bool more = true; more;) {
      agreed([&] {
        more = run_->run_turn();
        if (!more) {
          progress_.enter("commit");
          report = describe();
        }
      });
    }
    // Who was stopped within the last agreement could not say so there.
    agree(control_.looking(nullptr), stopped_before(control_), deadline::after(options_.deadline_seconds));
    run_->commit();
    progress_.close(report);
    return report;
  }

 private:
  template <class Fn>
  void agreed(Fn&& fn) {
    fsdpinit::agreed(control_, options_.deadline_seconds, [&] { own_step(fn); });
  }
  [[nodiscard]] bool reads() const noexcept { return is_source_ || !context_.active; }

  std::string describe_call() {
    const memory_ref memory = given_.more.memory.space();
    run_.emplace(memory, memory);
    if (waits_ != nullptr) {
      waits_->start();
    }
    progress_.enter("preflight");
    require_equal_ranks(given_.data, control_);
    require_source_rank(context_.source_rank, control_.size());
    if (options_.bytes_between_agreements == 0) {
      throw error(errc::invalid_argument, "bytes_between_agreements",
                  "must be at least 1; 1 GiB costs nothing that can be measured");
    }
    require_interval(options_.progress_interval_seconds);
    view_ = view_of(given_.module);
    const std::string_view policy = context_.active ? "pretrained-load, active" : "pretrained-load, inactive";
    std::string out = manifest_of(view_, {.source_rank = context_.source_rank}, {.policy = policy, .transport = "none"},
                                  control_.size());
    out += concat("bytes_between_agreements ", options_.bytes_between_agreements, "\n");
    return out;
  }

  source_ref open() {
    progress_.enter("open");
    return source_.emplace(given_.source.open());
  }

  void allocate() {
    progress_.enter("allocate");
    unread_buffers_ = settle_buffers(view_, contents_.tensors).unread;
    items_ = match(view_, contents_);
    std::erase_if(items_, [](const load_item& item) { return item.from_buffer; });
    for (slot_record& slot : view_.slots) {
      slot.placement = replicate{};  // whatever it will be sharded by
    }
    requests_ = requests_of(view_, items_, contents_);
    for (std::size_t i = 0; i < requests_.size(); ++i) {
      requests_[i].unit = i;         // storage of its own, so that each tensor can be released by itself
      requests_[i].travels_as = {};  // widened as it is read: all in the end would be a part without an agreement
    }
    add_means_of_reading(requests_, items_, source_, 1);
    const std::uint64_t between = options_.bytes_between_agreements;
    const std::uint64_t bucket = ceil_div(between, ceil_div(between, read_at_once));  // as many between any two
    run_->make(
        view_, items_, requests_,
        {.transport = transport::own_read, .bucket_bytes = bucket, .own_read_bytes = bucket, .buckets_in_flight = 1}, 0,
        {.bytes_between_agreements = between, .takes_part = reads(), .tap = given_.tap});
    run_->allocate(run_->work().host, [&](const program_region& region) { return purpose_of(region); });
    progress_.expect(is_source_ ? run_->predicted().payload_bytes : 0, options_.progress_interval_seconds);
    run_->start({.source = source_, .progress = progress_},
                {.data = data_, .control = control_, .deadline_seconds = options_.deadline_seconds});
    progress_.enter("read");
  }

  /// For errors.
  [[nodiscard]] std::string purpose_of(const program_region& region) const {
    return region.kind != region_kind::slab
               ? std::string(name(region.kind))
               : concat(printable(requests_[region.index].fqn), ", of ", run_->predicted().shard_bytes,
                        " for the whole model on this rank; load on fewer ranks of a machine, or initialise shards");
  }

  /// The report, without what only the end will tell. Made before the last agreement, as it allocates.
  [[nodiscard]] pretrained_report describe() {
    return {.rank = control_.rank(),
            .holds_weights = reads(),
            .tensors = items_.size(),
            .weight_bytes = run_->predicted().shard_bytes,
            .bytes_read = run_->bytes_read(),
            .predicted_peak_bytes = run_->predicted().peak_bytes(),
            .accounted_peak_bytes = run_->accounted_peak_bytes(),
            .unread_buffers = unread_buffers_,
            .overflow = run_->count_overflow(),
            .phases = progress_.phases()};
  }

  /// Large enough that the calls do not show, small enough for progress to be seen within a large tensor.
  static constexpr std::uint64_t read_at_once = 4 * mib;

  const pretrained_arguments& given_;
  wait_watch* waits_;  // nullptr where the observer does not hear of them
  control_ref control_;
  const pretrained_load_context& context_;
  const pretrained_load_options& options_;
  bool is_source_;
  call_progress progress_;

  std::optional<source_ref> source_;  // on ranks that read
  module_view view_;
  state_dict_contents contents_;
  std::vector<std::string> unread_buffers_;
  std::vector<load_item> items_;
  std::vector<tensor_request> requests_;
  self_communicator alone_;
  payload_link_of<self_communicator> data_{alone_};
  std::optional<plan_execution> run_;
};

/// The whole of it.
FSDPINIT_INLINE pretrained_report run_pretrained_load(const pretrained_arguments& given) {
  try {
    return with_watched_waits(given.more.observer, given.more.stop, given.control,
                              [&](control_ref control, wait_watch* waits) {
                                pretrained_arguments watched = given;
                                watched.control = control;
                                return pretrained_load(watched, waits).run();
                              });
  } catch (...) {
    given.data.rearm();  // a control channel that failed has interrupted what is of one piece with it
    throw;
  }
}

}  // namespace fsdpinit::detail
