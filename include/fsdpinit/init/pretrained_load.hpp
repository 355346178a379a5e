#pragma once

#include <fsdpinit/concepts/communicator.hpp>
#include <fsdpinit/concepts/local_shard.hpp>
#include <fsdpinit/concepts/memory_space.hpp>
#include <fsdpinit/concepts/shardable_module.hpp>
#include <fsdpinit/concepts/state_dict_source.hpp>
#include <fsdpinit/control/agreement.hpp>
#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/core/error.hpp>
#include <fsdpinit/init/arguments.hpp>
#include <fsdpinit/init/default_memory.hpp>
#include <fsdpinit/init/manifest.hpp>
#include <fsdpinit/init/match.hpp>
#include <fsdpinit/init/module_view.hpp>
#include <fsdpinit/init/options.hpp>
#include <fsdpinit/init/overflow_meter.hpp>
#include <fsdpinit/init/preflight.hpp>
#include <fsdpinit/init/pretrained_context.hpp>
#include <fsdpinit/init/source_in_use.hpp>
#include <fsdpinit/init/stored_copies.hpp>
#include <fsdpinit/init/transfer.hpp>
#include <fsdpinit/memory/block.hpp>
#include <fsdpinit/memory/peak_growth.hpp>
#include <fsdpinit/observe/observer.hpp>
#include <fsdpinit/observe/report.hpp>

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
template <class Module, class Source, class Control, MemorySpace Space, Observer Watch>
class pretrained_load {
 public:
  pretrained_load(Module& module, Source& source, Control& control, const pretrained_load_context& context,
                  const pretrained_load_options& how, Space* memory, Watch& watch) noexcept
      : module_(module),
        control_(control),
        context_(context),
        options_(how),
        given_memory_(memory),
        watch_(watch),
        is_source_(control.rank() == context.source_rank),
        source_(source) {}

  pretrained_report run() {
    require_equal_calls(control_, options_.deadline_seconds, [&] { return describe_call(); });
    contents_ = identity_of_source(control_, context_.source_rank,
                                   {.here = reads(), .several = !context_.active && control_.size() != 1},
                                   options_.deadline_seconds, [&]() -> auto& { return open(); })
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
    watch_.phase(phase);
  }
  [[nodiscard]] bool reads() const noexcept { return is_source_ || !context_.active; }

  std::string describe_call() {
    memory_.emplace(handle_or_own(given_memory_));
    growth_.emplace(*memory_);
    enter("preflight");
    require_valid();
    view_ = view_of(module_);
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

  auto& open() {
    enter("open");
    return source_.open();
  }

  /// Everything this rank will ever hold, and what the commit needs, so that nothing can fail later for want of memory.
  void allocate() {
    enter("allocate");
    unread_buffers_ = settle_buffers(view_, contents_.tensors).unread;
    for (const slot_record& slot : view_.slots) {  // those that hold nothing afterwards are dropped all the same
      slot.handle.prepare({});
    }
    items_ = match(view_, contents_);
    overflow_.emplace(source_.get(), items_);
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
    progress_.emplace(watch_, is_source_, total_, options_.progress_interval_seconds);
    enter("read");
  }

  struct weight {
    const load_item* item;
    std::uint64_t bytes;  // of the whole tensor
    std::shared_ptr<block<Space>> storage{};
  };

  /// Storage of its own, so that each tensor can be released by itself, shared by the tied slots.
  void hold(weight& each) {
    each.storage = std::make_shared<block<Space>>(block_for(*memory_, each.bytes, [&] {
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
      const auto read = [&](std::size_t tensor, std::uint64_t offset, mutable_bytes destination) {
        source_.get()->read(tensor, offset, destination);
      };
      read(each.item->source, offset_, piece);
      for (const std::size_t copy : each.item->copies) {
        require_equal_copy(read, contents_.tensors, each.item->source, copy, offset_, piece, scratch_->bytes());
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
    slot_handle handle;
    local_shard whole;
  };

  Module& module_;
  Control& control_;
  const pretrained_load_context& context_;
  const pretrained_load_options& options_;
  Space* given_memory_;  // nullptr: one of its own
  std::optional<Space> memory_;
  Watch& watch_;
  bool is_source_;
  std::optional<peak_growth<Space>> growth_;
  phase_clock clock_;

  source_in_use<Source, Space> source_;
  module_view view_;
  state_dict_contents contents_;
  std::vector<std::string> unread_buffers_;
  std::vector<load_item> items_;
  std::optional<overflow_meter<typename source_in_use<Source, Space>::opened>> overflow_;
  std::vector<weight> weights_;  // in the order in which they are read
  std::vector<pending_weight> pending_;
  std::optional<block<Space>> scratch_;
  std::optional<progress_meter<Watch>> progress_;
  std::uint64_t total_ = 0;
  std::size_t next_ = 0;      // index into weights_
  std::uint64_t offset_ = 0;  // within that
  std::uint64_t bytes_read_ = 0;
};

}  // namespace fsdpinit::detail
