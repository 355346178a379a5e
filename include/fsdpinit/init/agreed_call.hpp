#pragma once

#include <fsdpinit/concepts/communicator.hpp>
#include <fsdpinit/concepts/memory_space.hpp>
#include <fsdpinit/concepts/optimizer.hpp>
#include <fsdpinit/concepts/shardable_module.hpp>
#include <fsdpinit/control/agreement.hpp>
#include <fsdpinit/core/error.hpp>
#include <fsdpinit/init/arguments.hpp>
#include <fsdpinit/init/fingerprint.hpp>
#include <fsdpinit/init/manifest.hpp>
#include <fsdpinit/init/match.hpp>
#include <fsdpinit/init/module_view.hpp>
#include <fsdpinit/init/optimizer_binding.hpp>
#include <fsdpinit/init/options.hpp>
#include <fsdpinit/init/policies.hpp>
#include <fsdpinit/init/preflight.hpp>
#include <fsdpinit/init/source_in_use.hpp>
#include <fsdpinit/init/source_ranks.hpp>
#include <fsdpinit/plan/plan.hpp>

#include <cstddef>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace fsdpinit::detail {

/// A call of initialize() on one rank, up to where all ranks know that they were called alike and what the source holds. Nothing has
/// changed by then.
template <ShardableModule Module, class Source, class Data, class Control, MemorySpace Space,
          ShardableOptimizer Optimizer>
class agreed_call {
 public:
  using opened = typename source_in_use<Source, Space>::opened;
  static constexpr bool from_module = is_module_state<Source>;

  agreed_call(const policy_facts& policy, Module& module, Source& source, channels<Data, Control> links,
              const options& how, Optimizer& optimizer) noexcept
      : policy_(policy),
        transport_(transport_of(policy)),
        module_(module),
        data_(links.data),
        control_(links.control),
        options_(how),
        optimizer_(optimizer),
        source_(source) {}

  /// Collective. `begin()` is called first, within the first agreement, and returns the memory space. \throws the same error on every rank.
  template <class Begin>
  void settle(bool initialises_missing, Begin&& begin) {
    const double limit = options_.deadline_seconds;
    require_equal_calls(control_, limit, [&] {
      memory_ = &begin();
      return describe(initialises_missing);
    });
    const source_readers who = readers();
    source_identity known =
        identity_of_source(control_, options_.source_rank, who, limit, [&]() -> opened& { return open(); });
    if (is_automatic()) {
      settle_transport(who.here, known);
    }
    contents_ = std::move(known.contents);
  }

  /// Local; after `settle`.
  [[nodiscard]] settled_buffers settle_buffers() {
    return fsdpinit::settle_buffers(view_, contents_.tensors, options_.keep_missing_buffers);
  }

  [[nodiscard]] const policy_facts& policy() const noexcept { return policy_; }
  [[nodiscard]] transport_kind transport() const noexcept { return transport_; }
  [[nodiscard]] bool is_automatic() const noexcept { return transport_ == transport_kind::automatic; }
  /// How sharded tensors travel: the transport, or what an automatic one falls back to.
  [[nodiscard]] transport_kind chosen() const noexcept { return chosen_; }
  /// Is it `options::choose` that says? Not where an automatic transport falls back.
  [[nodiscard]] bool chooses() const noexcept {
    return is_automatic() && reason_.empty() && static_cast<bool>(options_.choose);
  }
  /// Why an automatic transport falls back; empty where it does not.
  [[nodiscard]] const std::string& reason() const noexcept { return reason_; }
  [[nodiscard]] const mesh& ranks() const noexcept { return mesh_; }
  [[nodiscard]] const source_layout& sources() const noexcept { return sources_; }
  [[nodiscard]] const module_view& view() const noexcept { return view_; }
  [[nodiscard]] optimizer_binding<Optimizer>& binding() noexcept { return binding_; }
  [[nodiscard]] const state_dict_contents& contents() const noexcept { return contents_; }
  /// nullptr on ranks that do not read.
  [[nodiscard]] opened* source() const noexcept { return source_.get(); }

 private:
  /// A module's own state is where it is: on the source rank alone, or, where every rank loads, on each; then a rank takes
  /// its part of it without another full copy.
  [[nodiscard]] static constexpr transport_kind transport_of(const policy_facts& policy) noexcept {
    if (from_module && policy.every_rank_reads) {
      return transport_kind::own_read;
    }
    return policy.transport == transport_kind::scatter && !CanScatter<Data> ? transport_kind::broadcast
                                                                            : policy.transport;
  }
  [[nodiscard]] bool is_source() const noexcept { return sources_.serving(control_.rank()) == control_.rank(); }
  [[nodiscard]] bool every_rank_reads() const noexcept {
    return policy_.every_rank_reads || transport_ == transport_kind::own_read;
  }
  [[nodiscard]] bool rereads() const noexcept { return options_.verify == verification::reread; }
  /// Who opens the source at first. Modules may hold values of their own on each rank, of which each keeps its part
  /// (random ones, for instance): these are not held against each other.
  [[nodiscard]] source_readers readers() const noexcept {
    const bool all = every_rank_reads() || rereads();
    return {.here = all || is_source(),
            .several = !from_module && control_.size() != 1 && (all || is_automatic() || !sources_.is_single())};
  }

  /// What all ranks must have in common.
  [[nodiscard]] std::string describe(bool initialises_missing) {
    require_equal_ranks(channels<Data, Control>{data_, control_});
    const std::size_t ranks = control_.size();
    require_valid(options_, ranks);
    if (from_module && rereads()) {
      throw error(errc::invalid_argument, "verify",
                  "a module's own state cannot be read a second time; use verification::transfer");
    }
    mesh_ = {.shards = ranks / options_.replicas, .replicas = options_.replicas};
    sources_ = sources_of(data_, options_, ranks);
    // Where every rank loads from its own module replicas have nothing to share.
    sources_.grouped = sources_.grouped && !(from_module && policy_.every_rank_reads);
    view_ = view_of(module_, options_.unit_prefixes, options_.ignored_prefixes);
    const std::vector<optimizer_entry> entries = check_optimizer(view_, optimizer_);
    binding_ = bind_optimizer(module_, view_, entries, optimizer_);
    if (ranks == 1) {
      return {};  // there is nobody to compare with
    }
    std::string out = manifest_of(view_, options_,
                                  {.policy = policy_.name,
                                   .transport = name(transport_),
                                   .from_module = from_module,
                                   .initialises_missing = initialises_missing},
                                  ranks);
    out += manifest_of(view_, entries);
    return out;
  }

  opened& open() {
    if constexpr (from_module) {
      source_.open(view_, *memory_, options_.release_source);
    } else {
      source_.open();
    }
    if constexpr (requires { source_.get()->readable(); }) {
      if ((is_automatic() || rereads()) && !source_.get()->readable()) {
        throw rereads() ? error(errc::invalid_argument, "source",
                                "it is on the source rank only, so that others cannot read it again; use "
                                "verification::transfer")
                        : error(errc::io, "source", "it is on the source rank only");
      }
    }
    return *source_.get();
  }

  /// Ranks read by themselves if all of them can read the same. \param reads whether this one has opened the source.
  void settle_transport(bool reads, const source_identity& known) {
    std::optional<error> unreadable;
    agreed(control_, options_.deadline_seconds, [&] {
      if (!reads) {
        unreadable = why_unreadable([&] {
          require_equal_sources(known, own_step([&] { return identity_of(open(), true); }), options_.source_rank);
        });
      }
    });
    reason_ = why_not_all_read(control_, options_.deadline_seconds, unreadable);
    if (!reason_.empty()) {
      chosen_ = CanScatter<Data> ? transport_kind::scatter : transport_kind::broadcast;
      if (!reads) {
        source_.leave();  // another checkpoint, perhaps
      }
    }
  }

  policy_facts policy_;
  transport_kind transport_;
  Module& module_;
  Data& data_;
  Control& control_;
  const options& options_;
  const Space* memory_ = nullptr;
  Optimizer& optimizer_;
  mesh mesh_;
  source_layout sources_;
  transport_kind chosen_ = transport_;
  std::string reason_;
  source_in_use<Source, Space> source_;
  module_view view_;
  optimizer_binding<Optimizer> binding_;
  state_dict_contents contents_;
};

}  // namespace fsdpinit::detail
