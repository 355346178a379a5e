#pragma once

#include <fsdpinit/concepts/local_shard.hpp>
#include <fsdpinit/concepts/memory_ref.hpp>
#include <fsdpinit/core/checksum.hpp>
#include <fsdpinit/engine/payload_link.hpp>
#include <fsdpinit/engine/program_runner.hpp>
#include <fsdpinit/engine/step_reader.hpp>
#include <fsdpinit/engine/workspace.hpp>
#include <fsdpinit/index/partition.hpp>
#include <fsdpinit/memory/account.hpp>
#include <fsdpinit/memory/block.hpp>
#include <fsdpinit/memory/in_order.hpp>
#include <fsdpinit/modules/missing_tensor.hpp>
#include <fsdpinit/modules/module_view.hpp>
#include <fsdpinit/observe/call_progress.hpp>
#include <fsdpinit/observe/report.hpp>
#include <fsdpinit/plan/plan.hpp>
#include <fsdpinit/plan/predict.hpp>
#include <fsdpinit/plan/prediction.hpp>
#include <fsdpinit/plan/program.hpp>
#include <fsdpinit/plan/slab_layout.hpp>
#include <fsdpinit/sources/source_ref.hpp>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <utility>
#include <vector>

namespace fsdpinit::detail {

/// What a plan is carried out with, besides its memory. All but `source` must outlive the execution.
struct execution_means {
  const std::optional<source_ref>& source;  ///< nothing on ranks that do not read
  std::span<const std::byte* const> buffer_values{};
  std::size_t reader_threads = 1;
  call_progress& progress;
  const checksum* hash = nullptr;
  const initialiser_ref* missing = nullptr;
};

/// From here on the module is on meta, except for buffers that are not persistent: until slots adopt what they will hold.
inline void drop_to_meta(const module_view& view) noexcept {
  for (const slot_record& slot : view.slots) {
    if (slot.role != slot_role::non_persistent_buffer) {
      slot.handle.drop();
    }
  }
}

/// A plan on one rank, from its program to the shards that slots hold in the end. Until `commit` nothing has changed but memory of its own.
class plan_execution {
 public:
  /// The accounts of the two spaces are seen to grow from here on.
  plan_execution(const memory_ref& space, const memory_ref& of_host)
      : work_(space, of_host), memory_growth_(work_.memory), host_growth_(work_.host) {}
  plan_execution(const plan_execution&) = delete;
  plan_execution& operator=(const plan_execution&) = delete;

  /// Local, and pure; what was planned before is forgotten. The requests are those of the items, and both stay where they are.
  void make(const module_view& view, std::span<const load_item> items, const std::vector<tensor_request>& requests,
            const plan_options& options, std::size_t rank, const program_options& how) {
    view_ = &view;
    items_ = items;
    requests_ = requests;
    plan_ = make_plan(requests, options);
    program_.emplace(plan_, rank, how);
    predicted_ = predict(*program_);
  }

  /// Everything that this rank will ever hold, and what the commit needs, so that nothing can fail later for want of memory.
  /// \param travelling where buckets lie that are sent \param purpose what a region is for, in errors
  template <class Purpose>
  void allocate(const memory_ref& travelling, Purpose&& purpose) {
    work_.reserve(program_->regions().size());
    for (const program_region& each : program_->regions()) {
      const memory_ref& space = each.kind == region_kind::slab                                          ? work_.memory
                                : each.kind == region_kind::slot || each.kind == region_kind::checksums ? travelling
                                                                                                        : work_.host;
      work_.add(each, block_for(space, each.bytes, [&] { return purpose(each); }));
    }
    for (const slot_record& slot : view_->slots) {  // some are only dropped
      slot.handle.prepare({});
    }
    pending_.reserve(view_->slots.size());
    for (const planned_tensor& tensor : plan_.tensors) {
      if (!work_.slabs.empty()) {
        add_pending(tensor);
      }
    }
  }

  /// What can fail before the first round fails here: a rank that left its peers alone within it could not reach them.
  void start(const execution_means& with, const step_channels& between) {
    data_ = &between.data;
    reader_.emplace(plan_, items_, with.buffer_values, with.source, with.reader_threads,
                    mutable_bytes(work_.at({.kind = region_kind::tiles}), program_->region_bytes(region_kind::tiles)),
                    work_.memory, between.control.hook());
    runner_.emplace(*program_,
                    step_machinery{.made = plan_,
                                   .reader = *reader_,
                                   .work = work_,
                                   .progress = with.progress,
                                   .names = requests_,
                                   .hash = with.hash,
                                   .missing = with.missing},
                    between);
  }

  /// Of the round that comes next.
  [[nodiscard]] round_kind next() const noexcept { return runner_->next(); }
  /// As `program_runner::run_turn`. Memory that a lost peer may still write to is never given back.
  [[nodiscard]] bool run_turn() {
    try {
      const bool more = runner_->run_turn();
      if (!more) {
        clear_padding();
      }
      return more;
    } catch (...) {
      retain_if_lost(*data_, work_.slabs, work_.staging);
      throw;
    }
  }
  /// Of what was read to be placed: what it says the first time is kept.
  const overflow_count& count_overflow() {
    if (!overflow_) {
      overflow_ = reader_->overflow(requests_);
    }
    return *overflow_;
  }

  /// Slots hold their shards from here on, and all other memory is given back.
  void commit() noexcept {
    work_.release_staging();
    for (pending_shard& each : pending_) {
      each.handle.adopt(std::move(each.part));
    }
  }

  [[nodiscard]] const plan& made() const noexcept { return plan_; }
  [[nodiscard]] const prediction& predicted() const noexcept { return predicted_; }
  [[nodiscard]] const workspace& work() const noexcept { return work_; }
  [[nodiscard]] std::uint64_t accounted_peak_bytes() const noexcept {
    // Where the host may touch the space it is the same account.
    return memory_growth_.bytes() + (work_.memory.host_accessible() ? 0 : host_growth_.bytes());
  }
  /// So far, from the source.
  [[nodiscard]] std::uint64_t bytes_read() const noexcept { return reader_->bytes_read(); }
  [[nodiscard]] const transfer_counters& counters() const noexcept { return runner_->counters(); }

 private:
  /// What a slot will hold, in slabs that are being filled.
  struct pending_shard {
    slot_ref handle;
    local_shard part;
  };

  /// What lies between shards and behind short ones travels where a slab is gathered: zeros, and not what somebody left in the memory, nor
  /// what is left of a tensor that was widened.
  void clear_padding() const {
    in_order(work_.memory, [&](memory_ref::queue& order) {
      const std::size_t shard = plan_.options.ranks.shard_of(program_->rank());
      for (std::size_t i = 0; i < plan_.tensors.size() && !work_.slabs.empty(); ++i) {
        const planned_tensor& each = plan_.tensors[i];
        const auto& slab = *work_.slabs[each.slab];
        const bool is_last = i + 1 == plan_.tensors.size() || plan_.tensors[i + 1].slab != each.slab;
        const std::uint64_t end = each.kept_offset() + each.kept_bytes(each.partition.local_bytes(shard));
        const std::uint64_t next = is_last ? slab.size() : plan_.tensors[i + 1].kept_offset();
        if (end != next) {
          work_.memory.zero(slab.data() + end, next - end, order);
        }
      }
    });
  }

  /// Slots that are prepared to adopt a tensor; tied ones share it.
  void add_pending(const planned_tensor& planned) {
    const std::size_t shards = plan_.options.ranks.shards;
    const std::size_t shard = plan_.options.ranks.shard_of(program_->rank());
    const auto& slab = work_.slabs[planned.slab];
    for (const std::size_t slot : view_->slots_of(view_->tensors[items_[planned.request].tensor])) {
      const slot_record& record = view_->slots[slot];
      shard_view part = view_of_shard(record.fqn, record.shape, record.placement, shards, shard);
      pending_.push_back({.handle = record.handle,
                          .part = {.shape = std::move(part.shape),
                                   .offset = part.offset,
                                   .bytes = planned.kept_bytes(planned.partition.local_bytes(shard)),
                                   .data = {slab, slab->data() + planned.kept_offset()},
                                   .reserved = planned.kept_bytes(planned.partition.reserved_bytes()),
                                   .slab = {slab->data(), slab->size()}}});
      record.handle.prepare({&pending_.back().part, 1});
    }
  }

  workspace work_;
  peak_growth memory_growth_;
  peak_growth host_growth_;
  payload_link* data_ = nullptr;
  const module_view* view_ = nullptr;
  std::span<const load_item> items_;
  std::span<const tensor_request> requests_;
  plan plan_;
  prediction predicted_;
  std::vector<pending_shard> pending_;
  std::optional<program> program_;
  std::optional<overflow_count> overflow_;
  std::optional<step_reader> reader_;
  std::optional<program_runner> runner_;
};

}  // namespace fsdpinit::detail
