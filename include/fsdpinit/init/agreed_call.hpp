#pragma once

#include <fsdpinit/concepts/memory_ref.hpp>
#include <fsdpinit/control/agreement.hpp>
#include <fsdpinit/core/error.hpp>
#include <fsdpinit/engine/payload_link.hpp>
#include <fsdpinit/init/arguments.hpp>
#include <fsdpinit/init/engine.hpp>
#include <fsdpinit/init/fingerprint.hpp>
#include <fsdpinit/init/manifest.hpp>
#include <fsdpinit/init/match.hpp>
#include <fsdpinit/init/module_state_source.hpp>
#include <fsdpinit/init/optimizer_binding.hpp>
#include <fsdpinit/init/options.hpp>
#include <fsdpinit/init/policies.hpp>
#include <fsdpinit/init/preflight.hpp>
#include <fsdpinit/modules/module_view.hpp>
#include <fsdpinit/plan/plan.hpp>
#include <fsdpinit/plan/rank_groups.hpp>
#include <fsdpinit/plan/verification.hpp>
#include <fsdpinit/sources/source_ref.hpp>

#include <cstddef>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace fsdpinit::detail {

/// Who reads for whom, from the options and what the communicator knows.
/// \throws error{invalid_argument} if it knows no nodes, or cannot work in groups, and one source per node was asked for.
[[nodiscard]] inline source_layout source_ranks_of(const payload_link& data, const options& how, std::size_t ranks) {
  const link_abilities& can = data.can();
  source_layout out{.source_rank = how.source_rank, .grouped = can.groups};
  for (std::size_t rank = 0; can.knows_nodes && how.verify == verification::reread && rank < ranks; ++rank) {
    out.nodes.push_back(data.node_of(rank));
  }
  if (how.source_ranks == source_ranks::one) {
    return out;
  }
  if (!can.groups || !can.knows_nodes) {
    throw error(errc::invalid_argument, "source_ranks",
                "one source per node needs a data communicator that knows nodes (node_of) and works in groups; use "
                "source_ranks::one",
                {.rank = every_rank});
  }
  const std::size_t home = data.node_of(how.source_rank);
  bool several = false;
  for (std::size_t rank = 0; rank < ranks; ++rank) {
    const std::size_t node = data.node_of(rank);  // its lowest rank
    several = several || node != home;
    out.source_of.push_back(node == home ? how.source_rank : node);
  }
  if (!several) {
    out.source_of.clear();
  }
  return out;
}

/// A call of initialize() on one rank, up to where all ranks know that they were called alike and what the source holds. Nothing has
/// changed by then.
class agreed_call {
 public:
  explicit agreed_call(const initialization_arguments& given) noexcept
      : given_(given),
        options_(given.options),
        policy_(policy_in_use(given.policy, given.options.policy)),
        transport_(transport_of(given, policy_)) {}

  /// Collective. `begin()` is called first, within the first agreement, and returns the memory space. \throws the same error on every rank.
  template <class Begin>
  void settle(Begin&& begin) {
    const double limit = options_.deadline_seconds;
    require_equal_calls(given_.control, limit, [&] {
      memory_ = &begin();
      return describe();
    });
    const source_readers who = readers();
    source_identity known =
        identity_of_source(given_.control, options_.source_rank, who, limit, [&] { return open(); });
    if (is_automatic()) {
      settle_transport(who.here, known);
    }
    contents_ = std::move(known.contents);
  }

  /// Local; after `settle`.
  [[nodiscard]] settled_buffers settle_buffers() {
    return fsdpinit::settle_buffers(view_, contents_.tensors, options_.keep_missing_buffers);
  }

  [[nodiscard]] const fsdpinit::policy& policy() const noexcept { return policy_; }
  [[nodiscard]] fsdpinit::transport transport() const noexcept { return transport_; }
  [[nodiscard]] bool is_automatic() const noexcept { return transport_ == transport::automatic; }
  /// How sharded tensors travel: the transport, or what an automatic one falls back to.
  [[nodiscard]] fsdpinit::transport chosen() const noexcept { return chosen_; }
  /// Is it `options::choose` that says? Not where an automatic transport falls back.
  [[nodiscard]] bool chooses() const noexcept {
    return is_automatic() && reason_.empty() && static_cast<bool>(options_.choose);
  }
  /// Why an automatic transport falls back; empty where it does not.
  [[nodiscard]] const std::string& reason() const noexcept { return reason_; }
  [[nodiscard]] const mesh& ranks() const noexcept { return mesh_; }
  [[nodiscard]] const source_layout& source_ranks() const noexcept { return source_ranks_; }
  [[nodiscard]] const module_view& view() const noexcept { return view_; }
  [[nodiscard]] const optimizer_binding& binding() const noexcept { return binding_; }
  [[nodiscard]] const state_dict_contents& contents() const noexcept { return contents_; }
  /// Nothing on ranks that do not read.
  [[nodiscard]] const std::optional<source_ref>& source() const noexcept { return source_; }
  /// Is it the module's own state that is sharded?
  [[nodiscard]] bool from_module() const noexcept { return given_.source == nullptr; }
  /// That state, on ranks that read it; else nullptr.
  [[nodiscard]] module_state_source* state() noexcept { return state_ ? &*state_ : nullptr; }

 private:
  /// A module's own state is where it is: on the source rank alone, or, where every rank loads, on each; then a rank takes
  /// its part of it without another full copy.
  [[nodiscard]] static fsdpinit::transport transport_of(const initialization_arguments& given,
                                                        const fsdpinit::policy& by) noexcept {
    if (given.source == nullptr && by.every_rank_reads) {
      return transport::own_read;
    }
    return by.transport == transport::scatter && !given.data.can().scatters ? transport::broadcast : by.transport;
  }
  [[nodiscard]] bool is_source() const noexcept {
    const std::size_t rank = given_.control.rank();
    return source_ranks_.serving(rank) == rank;
  }
  [[nodiscard]] bool every_rank_reads() const noexcept {
    return policy_.every_rank_reads || transport_ == transport::own_read;
  }
  [[nodiscard]] bool rereads() const noexcept { return options_.verify == verification::reread; }
  /// Who opens the source at first. Modules may hold values of their own on each rank, of which each keeps its part
  /// (random ones, for instance): these are not held against each other.
  [[nodiscard]] source_readers readers() const noexcept {
    const bool all = every_rank_reads() || rereads();
    return {.here = all || is_source(),
            .several =
                !from_module() && given_.control.size() != 1 && (all || is_automatic() || !source_ranks_.is_single())};
  }

  /// What all ranks must have in common.
  [[nodiscard]] std::string describe() {
    require_equal_ranks(given_.data, given_.control);
    const std::size_t ranks = given_.control.size();
    require_valid(options_, ranks);
    require_valid(given_.policy, options_.policy, from_module());
    if (from_module() && rereads()) {
      throw error(errc::invalid_argument, "verify",
                  "a module's own state cannot be read a second time; use verification::transfer");
    }
    mesh_ = {.shards = ranks / options_.replicas, .replicas = options_.replicas};
    source_ranks_ = source_ranks_of(given_.data, options_, ranks);
    // Where every rank loads from its own module replicas have nothing to share.
    source_ranks_.grouped = source_ranks_.grouped && !(from_module() && policy_.every_rank_reads);
    view_ = view_of(given_.module, options_.unit_prefixes, options_.ignored_prefixes);
    std::vector<optimizer_entry> entries;
    if (const std::optional<optimizer_ref>& optimizer = given_.more.optimizer.optimizer()) {
      if (given_.more.optimizer.module() != given_.module.address()) {
        throw error(errc::invalid_argument, "optimizer",
                    "it is given beside another module; give it beside the one that is initialised");
      }
      entries = check_optimizer(view_, *optimizer);
      binding_ = bind_optimizer(given_.more.optimizer, view_, entries);
    }
    if (ranks == 1) {
      return {};  // there is nobody to compare with
    }
    std::string out = manifest_of(view_, options_,
                                  {.policy = policy_.name,
                                   .transport = name(transport_),
                                   .from_module = from_module(),
                                   .initialises_missing = given_.more.missing.has_value()},
                                  ranks);
    out += manifest_of(view_, entries);
    return out;
  }

  source_ref open() {
    source_ =
        from_module() ? source_ref(state_.emplace(view_, *memory_, options_.release_source)) : given_.source->open();
    if ((is_automatic() || rereads()) && !source_->readable()) {
      throw rereads() ? error(errc::invalid_argument, "source",
                              "it is on the source rank only, so that others cannot read it again; use "
                              "verification::transfer")
                      : error(errc::io, "source", "it is on the source rank only");
    }
    return *source_;
  }

  /// Ranks read by themselves if all of them can read the same. \param reads whether this one has opened the source.
  void settle_transport(bool reads, const source_identity& known) {
    std::optional<error> unreadable;
    agreed(given_.control, options_.deadline_seconds, [&] {
      if (!reads) {
        unreadable = why_unreadable([&] {
          require_equal_sources(known, own_step([&] { return identity_of(open(), true); }), options_.source_rank);
        });
      }
    });
    reason_ = why_not_all_read(given_.control, options_.deadline_seconds, unreadable);
    if (!reason_.empty()) {
      chosen_ = given_.data.can().scatters ? transport::scatter : transport::broadcast;
      if (!reads) {
        source_.reset();  // another checkpoint, perhaps
      }
    }
  }

  const initialization_arguments& given_;
  const options& options_;
  fsdpinit::policy policy_;
  fsdpinit::transport transport_;
  const memory_ref* memory_ = nullptr;
  mesh mesh_;
  source_layout source_ranks_;
  fsdpinit::transport chosen_ = transport_;
  std::string reason_;
  module_view view_;
  std::optional<module_state_source> state_;
  std::optional<source_ref> source_;
  optimizer_binding binding_;
  state_dict_contents contents_;
};

}  // namespace fsdpinit::detail
