#pragma once

#include <fsdpinit/concepts/communicator.hpp>
#include <fsdpinit/concepts/memory_space.hpp>
#include <fsdpinit/concepts/optimizer.hpp>
#include <fsdpinit/concepts/shardable_module.hpp>
#include <fsdpinit/control/agreement.hpp>
#include <fsdpinit/init/arguments.hpp>
#include <fsdpinit/init/bucket_stream.hpp>
#include <fsdpinit/init/full_load.hpp>
#include <fsdpinit/init/gathered_reports.hpp>
#include <fsdpinit/init/manifest.hpp>
#include <fsdpinit/init/match.hpp>
#include <fsdpinit/init/missing_tensor.hpp>
#include <fsdpinit/init/module_state.hpp>
#include <fsdpinit/init/module_view.hpp>
#include <fsdpinit/init/optimizer_binding.hpp>
#include <fsdpinit/init/options.hpp>
#include <fsdpinit/init/pending_shards.hpp>
#include <fsdpinit/init/policies.hpp>
#include <fsdpinit/init/preflight.hpp>
#include <fsdpinit/init/reread.hpp>
#include <fsdpinit/init/retained_memory.hpp>
#include <fsdpinit/init/source_in_use.hpp>
#include <fsdpinit/init/source_ranks.hpp>
#include <fsdpinit/init/transfer.hpp>
#include <fsdpinit/memory/host_memory.hpp>
#include <fsdpinit/observe/observer.hpp>
#include <fsdpinit/observe/report.hpp>
#include <fsdpinit/plan/plan.hpp>
#include <fsdpinit/plan/prediction.hpp>

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
template <ShardableModule Module, class Source, class Data, class Control, MemorySpace Space, Observer Watch,
          ShardableOptimizer Optimizer, class Initialiser>
class initialization {
 public:
  using opened = typename source_in_use<Source, Space>::opened;
  using slot_space = typename slot_space_of<Data, staging_space<Space>>::type;
  static constexpr bool from_module = is_module_state<Source>;
  static constexpr bool initialises_missing = MissingInitialiser<Initialiser>;
  static_assert(!initialises_missing || Space::host_accessible,
                "fsdpinit: `missing` writes into the shards: `memory` must be host_accessible");

  initialization(const policy_facts& policy, Module& module, Source& source, channels<Data, Control> links,
                 const options& how, Space& memory, Watch& watch, Optimizer& optimizer, Initialiser& initialiser)
      : policy_(policy),
        transport_(transport_of(policy)),
        module_(module),
        data_(links.data),
        control_(links.control),
        options_(how),
        watch_(watch),
        optimizer_(optimizer),
        initialiser_(initialiser),
        rank_(links.control.rank()),
        ranks_(links.control.size()),
        work_{.memory = memory, .host = staging_for(memory)},
        source_(source) {
    already_accounted_ = work_.memory.accounted();
    work_.memory.restart_peak();
  }

  rank_report run() {
    preflight();
    agreed([&] { make(); });
    agreed([&] { allocate(); });
    drop_to_meta();
    try {
      if constexpr (initialises_missing) {
        agreed([&] {
          tensor_placer<Space> placer(plan_, rank_, work_);
          fill_missing(initialiser_, plan_, view_, items_, placer, mesh_.shard_of(rank_));
        });
      }
      if (transport_ == transport_kind::none) {
        load_everything();
      }
      in_turns([&] {
        try {
          return stream_->run_some();
        } catch (...) {
          retain_if_lost(data_, work_.slabs, slots_);
          throw;
        }
      });
      if (options_.verify == verification::reread) {
        std::optional<part_rereader<opened, Space>> again;  // its queue may fail, on one rank alone
        agreed([&] {
          enter("verify");
          again.emplace(plan_, rank_, *reader_, work_, requests_);
        });
        in_turns([&] { return again->compare_some(); });
      }
      agreed([&] {
        tensor_placer<Space>(plan_, rank_, work_).widen();
        enter("commit");
        report_ = describe();
      });
      // The last moment at which a rank can fail: past it the commit happens everywhere.
      agree_on_slowest(control_, report_, clock_.total(), options_.deadline_seconds);
    } catch (const error& cause) {
      if constexpr (from_module) {
        give_up_state(control_, source_.get(), options_.release_source, cause, options_.deadline_seconds);
      }
      throw;
    }
    release_staging();
    commit();
    clock_.leave();
    report_.seconds = clock_.total();
    report_.phases.back().seconds = clock_.phases().back().seconds;
    return std::move(report_);
  }

 private:
  template <class Fn>
  void agreed(Fn&& fn) {
    fsdpinit::agreed(control_, options_.deadline_seconds, std::forward<Fn>(fn));
  }
  /// As long as `fn` returns true, on every rank as often. Ranks that agree between turns see that the others make progress.
  template <class Fn>
  void in_turns(Fn&& fn) {
    bool more = true;
    while (more) {
      agreed([&] { more = fn(); });
    }
  }
  void enter(const char* phase) {
    clock_.enter(phase);
    watch_.phase(phase);
  }
  /// A module's own state is where it is: on the source rank alone, or, where every rank loads, on each; then a rank takes
  /// its part of it without another full copy.
  [[nodiscard]] static constexpr transport_kind transport_of(const policy_facts& policy) noexcept {
    if (from_module && policy.every_rank_reads) {
      return transport_kind::own_read;
    }
    return policy.transport == transport_kind::scatter && !CanScatter<Data> ? transport_kind::broadcast
                                                                            : policy.transport;
  }
  [[nodiscard]] bool is_source() const noexcept { return sources_.serving(rank_) == rank_; }
  [[nodiscard]] bool every_rank_reads() const noexcept {
    return policy_.every_rank_reads || transport_ == transport_kind::own_read;
  }

  /// What all ranks must have in common.
  [[nodiscard]] std::string describe_call() {
    enter("open");
    require_valid(options_, ranks_);
    if (from_module && options_.verify == verification::reread) {
      throw error(errc::invalid_argument, "verify",
                  "a module's own state cannot be read a second time; use verification::transfer");
    }
    mesh_ = {.shards = ranks_ / options_.replicas, .replicas = options_.replicas};
    sources_ = sources_of(data_, options_, ranks_);
    // Where every rank loads from its own module replicas have nothing to share.
    sources_.grouped = sources_.grouped && !(from_module && policy_.every_rank_reads);
    view_ = view_of(module_, options_.unit_prefixes, options_.ignored_prefixes);
    const std::vector<optimizer_entry> entries = check_optimizer(view_, optimizer_);
    binding_ = bind_optimizer(module_, view_, entries, optimizer_);
    return concat(manifest_of(view_, options_,
                              {.policy = policy_.name,
                               .transport = name(transport_),
                               .from_module = from_module,
                               .initialises_missing = initialises_missing},
                              ranks_),
                  manifest_of(view_, entries));
  }

  void preflight() {
    const double limit = options_.deadline_seconds;
    require_equal_calls(control_, limit, [&] { return describe_call(); });
    const bool reads = every_rank_reads() || options_.verify == verification::reread || is_source();
    contents_ = contents_of_source(control_, options_.source_rank, reads, limit,
                                   [&]() -> const opened& { return open_source(); });
    if (transport_ == transport_kind::automatic) {
      std::optional<error> unreadable;
      if (!reads) {
        unreadable =
            attempt([&] { require_equal_sources(contents_, contents_of(open_source()), options_.source_rank); });
      }
      reason_ = why_not_all_read(control_, limit, unreadable);
      if (!reason_.empty()) {
        chosen_ = CanScatter<Data> ? transport_kind::scatter : transport_kind::broadcast;
        if (!reads) {
          source_.leave();  // another checkpoint, perhaps
        }
      }
    }
  }

  const opened& open_source() {
    if constexpr (from_module) {
      source_.open(view_, work_.memory, options_.release_source);
    } else {
      source_.open();
    }
    if constexpr (requires { source_.get()->readable(); }) {
      const bool rereads = options_.verify == verification::reread;
      if ((transport_ == transport_kind::automatic || rereads) && !source_.get()->readable()) {
        throw error(errc::invalid_argument, "source",
                    concat("it is on the source rank only",
                           rereads ? ", so that others cannot read it again; use verification::transfer" : ""));
      }
    }
    return *source_.get();
  }

  void make() {
    enter("preflight");
    items_ = match(view_, contents_, options_.strict ? nullptr : &unmatched_);
    if constexpr (initialises_missing) {
      add_missing(view_, items_);
    }
    for (const load_item& item : items_) {
      const slot_record& slot = view_.first_slot(view_.tensors[item.tensor]);
      if (item.missing) {
        require_initialisable(info_of(slot));
      }
      captured_.push_back(item.captured && rank_ == options_.source_rank ? captured_values(slot) : nullptr);
    }
    requests_ = requests_of(view_, items_, contents_.stored);
    add_positions(requests_, items_, source_.get());
    plan_ = make_plan(requests_, {.ranks = mesh_,
                                  .sources = sources_,
                                  .transport = chosen_,
                                  .bucket_bytes = options_.bucket_bytes,
                                  .buckets_in_flight = options_.buckets_in_flight,
                                  .access = {.host = Space::host_accessible, .communicator = CanAccess<Data, Space>},
                                  .verify = options_.verify});
    predicted_ = predict(plan_, rank_);
    if (transport_ == transport_kind::automatic && reason_.empty()) {
      reason_ = routes_of(plan_);
    }
  }

  /// Everything a rank will ever hold, and what the commit needs, so that nothing can fail later for want of memory.
  void allocate() {
    enter("allocate");
    work_.slabs.reserve(plan_.slabs.size());
    for (const slab_layout& slab : plan_.slabs) {
      work_.slabs.push_back(std::make_shared<block<Space>>(work_.memory, slab.bytes));
    }
    for (std::size_t i = 0; i < predicted_.slots; ++i) {
      slots_.emplace_back(slot_memory(data_, work_.host), predicted_.slot_bytes);
    }
    work_.scratch = block(work_.host, predicted_.scratch_bytes);
    work_.full_copy = block(work_.host, predicted_.full_copy_bytes);
    pending_ = pending_shards(plan_, view_, items_, rank_, work_);
    prepare_stream();
  }

  /// From here on the module is on meta until the commit, but for what it still has to give.
  void drop_to_meta() noexcept {
    drop_references(binding_);
    if (from_module && source_.get() != nullptr) {
      return;
    }
    for (const slot_record& slot : view_.slots) {
      if (slot.role != slot_role::non_persistent_buffer) {
        slot.handle.drop();
      }
    }
  }

  /// What can fail before the stream fails here: a rank that left its peers alone within the stream could not reach
  /// them.
  void prepare_stream() {
    reader_.emplace(plan_, items_, captured_, source_.get(), work_, counters_);
    progress_.emplace(watch_, rank_ == options_.source_rank, bytes_to_read(plan_, rank_),
                      options_.progress_interval_seconds);
    std::vector<mutable_bytes> slots;
    for (const block<slot_space>& slot : slots_) {
      slots.push_back(slot.bytes());
    }
    stream_.emplace(plan_, data_, *reader_, work_, slots, counters_, *progress_, options_.deadline_seconds, requests_,
                    options_.checksum);
    enter(transport_ == transport_kind::none ? "read" : "stream");
  }

  void load_everything() {
    full_reader<opened, Space, Watch> all(plan_, *reader_, work_, *progress_);
    in_turns([&] { return all.read_some(); });
    agreed([&] {
      enter("shard");
      keep_own_part(plan_, rank_, work_, requests_, options_.checksum);
      enter("stream");
    });
  }

  void release_staging() noexcept {
    slots_.clear();
    work_.scratch.release();
    work_.full_copy.release();
  }

  void commit() noexcept {
    if constexpr (from_module) {
      if (source_.get() != nullptr) {
        source_.get()->drop_all();
      }
    }
    adopt(pending_);
    rebind(binding_);
  }

  /// The report but for what only the end will tell. Made before the last agreement, as it allocates.
  [[nodiscard]] rank_report describe() const {
    std::uint64_t peak = work_.memory.accounted_peak();
    if constexpr (!Space::host_accessible) {
      peak += work_.host.accounted_peak();
    }
    return {.rank = rank_,
            .shards = mesh_.shards,
            .replicas = mesh_.replicas,
            .policy = policy_.name,
            .transport = name(transport_),
            .transport_reason = reason_,
            .verified = options_.verify,
            .predicted = predicted_,
            .accounted_peak_bytes = peak - already_accounted_,
            .bytes_read = counters_.read,
            .bytes_sent = counters_.sent,
            .bytes_received = counters_.received,
            .tensors = plan_.tensors.size(),
            .units = plan_.slabs.size(),
            .buckets = plan_.schedule.buckets.size(),
            .missing = unmatched_.missing,
            .unexpected = unmatched_.unexpected,
            .phases = clock_.phases()};
  }

  policy_facts policy_;
  transport_kind transport_;
  Module& module_;
  Data& data_;
  Control& control_;
  const options& options_;
  Watch& watch_;
  Optimizer& optimizer_;
  Initialiser& initialiser_;
  std::size_t rank_;
  std::size_t ranks_;
  mesh mesh_;
  source_layout sources_;
  transport_kind chosen_ = transport_;  // of tensors; what `automatic` falls back to
  std::string reason_;                  // of an automatic choice
  workspace<Space> work_;
  std::vector<block<slot_space>> slots_;
  std::uint64_t already_accounted_ = 0;
  phase_clock clock_;

  source_in_use<Source, Space> source_;
  module_view view_;
  optimizer_binding<Optimizer> binding_;
  state_dict_contents contents_;
  std::vector<load_item> items_;
  unmatched_names unmatched_;
  std::vector<const std::byte*> captured_;  // per request
  std::vector<tensor_request> requests_;
  plan plan_;
  prediction predicted_;
  std::vector<pending_shard> pending_;
  transfer_counters counters_;
  std::optional<tensor_reader<opened, Space>> reader_;
  std::optional<progress_meter<Watch>> progress_;
  std::optional<bucket_stream<Data, opened, Space, Watch>> stream_;
  rank_report report_;
};

}  // namespace fsdpinit::detail
