#pragma once

#include <fsdpinit/concepts/control_ref.hpp>
#include <fsdpinit/concepts/local_shard.hpp>
#include <fsdpinit/concepts/memory_ref.hpp>
#include <fsdpinit/control/agreement.hpp>
#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/core/error.hpp>
#include <fsdpinit/init/arguments.hpp>
#include <fsdpinit/init/engine.hpp>
#include <fsdpinit/init/manifest.hpp>
#include <fsdpinit/init/match.hpp>
#include <fsdpinit/init/module_view.hpp>
#include <fsdpinit/init/options.hpp>
#include <fsdpinit/init/overflow_meter.hpp>
#include <fsdpinit/init/preflight.hpp>
#include <fsdpinit/init/progress_meter.hpp>
#include <fsdpinit/init/stored_copies.hpp>
#include <fsdpinit/init/wait_watch.hpp>
#include <fsdpinit/memory/block.hpp>
#include <fsdpinit/memory/peak_growth.hpp>
#include <fsdpinit/observe/report.hpp>
#include <fsdpinit/sources/source_ref.hpp>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace fsdpinit::detail {

/// One `load_pretrained` on one rank, step by step. Each step ends in an agreement.
class pretrained_load {
 public:
  explicit pretrained_load(const pretrained_arguments& given) noexcept
      : given_(given),
        control_(given.control),
        context_(given.context),
        options_(given.how),
        is_source_(given.control.rank() == given.context.source_rank) {}

  pretrained_report run() {
    require_equal_calls(control_, options_.deadline_seconds, [&] { return describe_call(); });
    contents_ = identity_of_source(control_, context_.source_rank,
                                   {.here = reads(), .several = !context_.active && control_.size() != 1},
                                   options_.deadline_seconds, [&] { return open(); })
                    .contents;
    agreed([&] { allocate(); });
    for (const slot_record& slot : view_.slots) {  // from here on the module is on meta until the commit
      if (slot.role != slot_role::non_persistent_buffer) {
        slot.handle.drop();
      }
    }
    // As many agreements on every rank: all know how much is read.
    for (std::uint64_t begin = 0; begin < total_; begin += options_.bytes_between_agreements) {
      agreed([&] {
        if (reads()) {
          read(smaller(options_.bytes_between_agreements, total_ - begin));
        }
      });
    }
    pretrained_report report;
    agreed([&] {
      enter("commit");
      report = describe();
    });
    commit();
    clock_.leave();
    report.seconds = clock_.total();
    report.phases.back().seconds = clock_.phases().back().seconds;
    return report;
  }

 private:
  template <class Fn>
  void agreed(Fn&& fn) {
    fsdpinit::agreed(control_, options_.deadline_seconds, [&] { own_step(fn); });
  }
  void enter(const char* phase) {
    clock_.enter(phase);
    given_.watch.phase(phase);
  }
  [[nodiscard]] bool reads() const noexcept { return is_source_ || !context_.active; }

  std::string describe_call() {
    memory_.emplace(given_.memory.space());
    growth_.emplace(*memory_);
    enter("preflight");
    require_valid();
    view_ = view_of(given_.module);
    const std::string_view policy = context_.active ? "pretrained-load, active" : "pretrained-load, inactive";
    std::string out = manifest_of(view_, {.source_rank = context_.source_rank}, {.policy = policy, .transport = "none"},
                                  control_.size());
    out += concat("bytes_between_agreements ", options_.bytes_between_agreements, "\n");
    return out;
  }

  void require_valid() const {
    const auto reject = [](std::string_view option, std::string_view text) {
      throw error(errc::invalid_argument, option, text);
    };
    const std::size_t ranks = control_.size();
    if (context_.source_rank >= ranks) {
      reject("source_rank", concat(context_.source_rank, " is not a rank of a world of ", ranks));
    }
    if (options_.bytes_between_agreements == 0) {
      reject("bytes_between_agreements", "must be at least 1; 1 GiB costs nothing that can be measured");
    }
    require_interval(options_.progress_interval_seconds);
  }

  source_ref open() {
    enter("open");
    return source_.emplace(given_.source.open());
  }

  /// Everything this rank will ever hold, and what the commit needs, so that nothing can fail later for want of memory.
  void allocate() {
    enter("allocate");
    unread_buffers_ = settle_buffers(view_, contents_.tensors).unread;
    for (const slot_record& slot : view_.slots) {  // those that hold nothing afterwards are dropped all the same
      slot.handle.prepare({});
    }
    items_ = match(view_, contents_);
    overflow_.emplace(source_, items_);
    bool compares = false;
    total_bytes total;
    for (const load_item& item : items_) {
      if (item.captured) {
        continue;
      }
      const slot_record& slot = view_.first_slot(view_.tensors[item.tensor]);
      const std::uint64_t bytes = byte_size(slot.fqn, slot.dtype, slot.shape);
      total.add(slot.fqn, bytes);
      weights_.push_back({.item = &item, .bytes = bytes});
      compares = compares || (reads() && !item.copies.empty());
    }
    total_ = total.get();
    if (reads()) {
      for (weight& each : weights_) {
        hold(each);
      }
    }
    scratch_.emplace(block_for(*memory_, compares ? copy_scratch_bytes : 0, [] { return std::string("scratch"); }));
    progress_.emplace(given_.watch, is_source_, total_, options_.progress_interval_seconds);
    enter("read");
  }

  struct weight {
    const load_item* item;
    std::uint64_t bytes;  // of the whole tensor
    std::shared_ptr<block<memory_ref>> storage{};
  };

  /// Storage of its own, so that each tensor can be released by itself, shared by the tied slots.
  void hold(weight& each) {
    each.storage = std::make_shared<block<memory_ref>>(block_for(*memory_, each.bytes, [&] {
      return concat(printable(view_.first_slot(view_.tensors[each.item->tensor]).fqn), ", of ", total_,
                    " for the whole model on this rank; load on fewer ranks of a machine, or initialise shards");
    }));
    for (const std::size_t slot : view_.slots_of(view_.tensors[each.item->tensor])) {
      const slot_record& record = view_.slots[slot];
      pending_.push_back(
          {.handle = record.handle,
           .whole = {
               .shape = record.shape, .offset = 0, .bytes = each.bytes, .data = {each.storage, each.storage->data()}}});
      record.handle.prepare({&pending_.back().whole, 1});
    }
  }

  /// The next `bytes` of the weights, taken one after the other in the source's order.
  void read(std::uint64_t bytes) {
    while (bytes != 0) {
      const weight& each = weights_[next_];
      const std::uint64_t left = each.bytes - offset_;
      if (left == 0) {
        ++next_;
        offset_ = 0;
        continue;
      }
      const mutable_bytes piece = each.storage->bytes().subspan(offset_, smaller(smaller(bytes, left), read_at_once));
      source_->read(each.item->source, offset_, piece);
      for (const std::size_t copy : each.item->copies) {
        require_equal_copy(*source_, each.item->source, copy, offset_, piece, scratch_->bytes());
      }
      bytes_read_ += piece.size() * (1 + each.item->copies.size());
      progress_->add(piece.size());
      offset_ += piece.size();
      bytes -= piece.size();
    }
  }

  void commit() noexcept {
    for (pending_weight& each : pending_) {
      each.handle.adopt(std::move(each.whole));
    }
  }

  /// The report but for what only the end will tell. Made before the last agreement, as it allocates.
  [[nodiscard]] pretrained_report describe() const {
    const std::uint64_t held = reads() ? total_ : 0;
    return {.rank = control_.rank(),
            .holds_weights = reads(),
            .tensors = weights_.size(),
            .weight_bytes = held,
            .bytes_read = bytes_read_,
            .predicted_peak_bytes = held + scratch_->size(),
            .accounted_peak_bytes = growth_->bytes(),
            .unread_buffers = unread_buffers_,
            .overflow =
                overflow_->count([&](std::size_t i) { return view_.first_slot(view_.tensors[items_[i].tensor]).fqn; }),
            .phases = clock_.phases()};
  }

  /// Large enough that the calls do not show, small enough for progress to be seen within a large tensor.
  static constexpr std::uint64_t read_at_once = 4 * mib;

  struct pending_weight {
    slot_ref handle;
    local_shard whole;
  };

  const pretrained_arguments& given_;
  control_ref control_;
  const pretrained_load_context& context_;
  const pretrained_load_options& options_;
  std::optional<memory_ref> memory_;
  bool is_source_;
  std::optional<peak_growth> growth_;
  phase_clock clock_;

  std::optional<source_ref> source_;  // on ranks that read
  module_view view_;
  state_dict_contents contents_;
  std::vector<std::string> unread_buffers_;
  std::vector<load_item> items_;
  std::optional<overflow_meter> overflow_;
  std::vector<weight> weights_;  // in the order in which they are read
  std::vector<pending_weight> pending_;
  std::optional<block<memory_ref>> scratch_;
  std::optional<progress_meter> progress_;
  std::uint64_t total_ = 0;
  std::size_t next_ = 0;      // index into weights_
  std::uint64_t offset_ = 0;  // within that
  std::uint64_t bytes_read_ = 0;
};

/// The whole of it.
FSDPINIT_INLINE pretrained_report run_pretrained_load(const pretrained_arguments& given) {
  try {
    return with_watched_waits(given.watch, given.control, [&](control_ref control, wait_watch* waits) {
      agreed(control, given.how.deadline_seconds, [&] {
        require_equal_ranks(given.data, control);
        if (waits != nullptr) {
          waits->start();
        }
      });
      pretrained_arguments watched = given;
      watched.control = control;
      return pretrained_load(watched).run();
    });
  } catch (...) {
    given.data.rearm();  // a control channel that failed has interrupted what is of one piece with it
    throw;
  }
}

}  // namespace fsdpinit::detail
