#pragma once

#include <fsdpinit/communicators/collectives.hpp>
#include <fsdpinit/concepts/communicator.hpp>
#include <fsdpinit/concepts/local_shard.hpp>
#include <fsdpinit/concepts/memory_ref.hpp>
#include <fsdpinit/concepts/memory_space.hpp>
#include <fsdpinit/concepts/shardable_module.hpp>
#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/core/error.hpp>
#include <fsdpinit/core/text.hpp>
#include <fsdpinit/index/mesh.hpp>
#include <fsdpinit/init/argument_checks.hpp>
#include <fsdpinit/init/arguments.hpp>
#include <fsdpinit/init/manifest.hpp>
#include <fsdpinit/init/options.hpp>
#include <fsdpinit/init/preflight.hpp>
#include <fsdpinit/memory/block.hpp>
#include <fsdpinit/memory/host_memory.hpp>
#include <fsdpinit/modules/module_view.hpp>
#include <fsdpinit/units/lockstep.hpp>
#include <fsdpinit/units/unit_gradients.hpp>
#include <fsdpinit/units/unit_layout.hpp>
#include <fsdpinit/units/unsharding.hpp>

#include <gsl/assert>

#include <array>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

namespace fsdpinit {

/// What a rank allocates for an operation on a unit, in bytes, exact.
struct unit_prediction {
  std::uint64_t kept_bytes = 0;     ///< until `reshard`, or for the life of the gradients
  std::uint64_t staging_bytes = 0;  ///< until the operation returns
  [[nodiscard]] std::uint64_t peak_bytes() const noexcept { return kept_bytes + staging_bytes; }
};

enum class gradient_reduction : std::uint8_t {
  sum,
  mean,  ///< the sum divided by the number of ranks: shards x replicas
};

/// The units of an initialised module: makes the parameters of one whole for as long as they are computed with, and reduces
/// their gradients to shards.
///
/// The module's slots stay where they are for the life of this object, and what they hold is replaced by it alone. One such
/// object at a time. Replicated parameters and buffers are whole always, and are left alone.
///
/// \tparam Data, Control  as of `channels`.
/// \tparam Space          where the module's shards live. What is staged and made whole comes from it, and is accounted. Where the
///                        host may not touch it, gradients are staged in host memory (`staging_memory()`), and so is a unit on
///                        its way to being whole (`gathering_memory()`), unless `Data` gathers on the device.
template <Communicator Data, Communicator Control, MemorySpace Space>
class sharded_units {
 public:
  using staging = detail::staging_space<Space>;
  using gathering = detail::gathering_space<Data, Space>;
  using gradients = unit_gradients<staging>;

  /// Collective. Takes the slots of a module that was initialised over these ranks.
  /// \param ranks    A Communicator, or `channels{data, control}`; what it refers to outlives this object.
  /// \param options  The options of the initialisation: its mesh, its units, what it left alone; and a deadline.
  /// \param memory `Space`, where the module's shards live, or nothing: a space of this rank's own.
  /// \throws error, the same on every rank: invalid_argument naming the FQN of a slot that is on meta, holds another part, or
  /// lies elsewhere than its unit's slab has it; disagreement where ranks differ in slots, units or what is trained.
  template <ShardableModule Module, class Channels, class Given = default_memory>
    requires detail::AreLinks<Channels> && (std::same_as<Given, Space> || std::same_as<Given, default_memory>)
  sharded_units(Module& module, Channels&& ranks, const options& options = {}, Given memory = {})
      : ranks_(detail::channels_of(ranks).data, detail::channels_of(ranks).control, options.deadline_seconds) {
    static_assert(std::is_lvalue_reference_v<Channels> || detail::is_channels<std::remove_cvref_t<Channels>>,
                  "fsdpinit: `ranks` must outlive the units; give a communicator that has a name, not a temporary one");
    ranks_.all_or_nothing([&] {
      detail::require_equal_calls(ranks_.control(), options.deadline_seconds, [&] {
        detail::require_equal_ranks(ranks_.link(), ranks_.control());
        if constexpr (std::same_as<Given, Space>) {
          memory_.emplace(memory);
        } else {
          memory_.emplace();
        }
        host_.emplace(detail::staging_for(*memory_));
        wholes_.emplace(*memory_);
        gathered_.emplace(gathering_memory());
        take(module, options);
        std::string manifest = concat("replicas ", options.replicas, "\n");
        append_manifest(manifest, view_);
        return manifest;
      });
    });
  }
  sharded_units(const sharded_units&) = delete;
  sharded_units& operator=(const sharded_units&) = delete;
  /// Shards what is unsharded.
  ~sharded_units() {
    for (std::size_t unit = 0; unit < size(); ++unit) {
      reshard(unit);
    }
  }

  /// The number of units; 0 is the root, which may own nothing.
  [[nodiscard]] std::size_t size() const noexcept { return units_.size(); }
  /// FQN prefix; "" of the root. \pre unit < size().
  [[nodiscard]] const std::string& name(std::size_t unit) const {
    Expects(unit < size());
    return view_.units[unit];
  }
  /// The unit that owns a parameter or buffer. O(slots).
  /// \throws error{invalid_argument} if the module has none of this name.
  [[nodiscard]] std::size_t unit_of(std::string_view fqn) const {
    for (const slot_record& slot : view_.slots) {
      if (slot.fqn == fqn) {
        return view_.tensors[slot.tensor].unit;
      }
    }
    throw error(errc::invalid_argument, fqn, "the module has no parameter or buffer of this name");
  }
  [[nodiscard]] bool is_unsharded(std::size_t unit) const {
    Expects(unit < size());
    return units_[unit].whole.has_value();
  }
  /// Where gradients are staged and kept: in the module's space, or in host memory with an account of its own.
  [[nodiscard]] const staging& staging_memory() const noexcept { return *host_; }
  /// Where `unshard` stages: in the module's space, or in `staging_memory()`.
  [[nodiscard]] const gathering& gathering_memory() const noexcept {
    if constexpr (gathers_from_slabs) {
      return *memory_;
    } else {
      return *host_;
    }
  }

  /// Of `unshard`: whole tensors are kept, in the module's space; the sharded part of every rank's slab is staged.
  [[nodiscard]] unit_prediction predict_unshard(std::size_t unit) const {
    Expects(unit < size());
    const unit_layout& layout = units_[unit].layout;
    return {.kept_bytes = layout.whole_bytes, .staging_bytes = layout.shard_bytes * where_.shards};
  }
  /// Of `reduce_scatter_gradients`: the shard's gradients are kept; every shard's are staged.
  [[nodiscard]] unit_prediction predict_gradients(std::size_t unit) const {
    Expects(unit < size());
    const gradient_layout& layout = units_[unit].gradients;
    return {.kept_bytes = layout.block_bytes + layout.whole_bytes,
            .staging_bytes =
                layout.block_bytes * where_.shards + replica_bytes(layout) + layout.gathered_bytes(where_.shards)};
  }

  /// Collective. Afterwards every sharded parameter of the unit is whole in its slot: global shape, offset 0, row-major, in
  /// one allocation for all; tied slots share it. What is written there is lost with it. Does nothing where the unit is
  /// unsharded.
  ///
  /// One all-gather of the slab's sharded part, one copy of each tensor, and three reductions over the control channel. On a
  /// device the bytes stay there where `Data` gathers on it: from slab to staging memory to their places.
  /// \throws error, the same on every rank: dtype_mismatch where trained parameters of the unit differ in dtype,
  /// out_of_memory, disagreement where ranks ask for different things. The unit stays sharded. \pre unit < size().
  void unshard(std::size_t unit) {
    Expects(unit < size());
    state& mine = units_[unit];
    if (mine.whole) {
      return;
    }
    detail::unsharding made(*gathered_, gathers_from_slabs);
    ranks_.together(
        call(unit, operation::unshard), describe(),
        [&] {
          require_one_trained_dtype(view_, unit);
          made.prepare(view_, mine.layout, where_, *wholes_, *gathered_);
        },
        [&] {
          if (mine.layout.shard_bytes != 0) {
            all_gather(ranks_.data(), made.own(), made.all(), shard_group_, ranks_.limit());
            made.assemble(mine.layout, where_.shards, *wholes_);
          }
        },
        made);
    made.commit();
    mine.whole.emplace(std::move(made));
  }

  /// The slots of the unit get their shards back, and the whole tensors are released. Not collective. Does nothing where the
  /// unit is sharded. \pre unit < size().
  void reshard(std::size_t unit) noexcept {
    Expects(unit < size());
    if (units_[unit].whole) {
      units_[unit].whole->undo();
      units_[unit].whole.reset();
    }
  }

  /// Collective. Sums the gradients of the unit's trained parameters over all ranks, each rank getting its own shard's part:
  /// float32, added in the order of shards, then of replicas, so that every communicator gives the same bits. Gradients of
  /// replicated parameters are summed whole.
  ///
  /// \param full  `full(fqn)` is this rank's gradient of the whole tensor, row-major, called once for each trained tensor
  ///              under the first of its names (of a tie: the sum over its uses); it stays until this returns.
  ///
  /// One reduce-scatter; where there are replicas one more and an all-gather of the shards; an all-gather of replicated
  /// parameters' gradients where there are such; and three reductions over the control channel.
  /// \throws error, the same on every rank: shape_mismatch naming a gradient of another size, dtype_mismatch as `unshard`
  /// does, out_of_memory, disagreement; what `full` throws. \pre unit < size().
  template <class Full>
    requires std::is_invocable_r_v<std::span<const float>, Full&, std::string_view>
  [[nodiscard]] gradients reduce_scatter_gradients(std::size_t unit, Full&& full,
                                                   gradient_reduction how = gradient_reduction::sum) {
    Expects(unit < size());
    const gradient_layout& layout = units_[unit].gradients;
    const std::size_t shards = where_.shards;
    gradients out(*host_);
    block<staging> contribution(*host_, 0);
    block<staging> part(*host_, 0);
    block<staging> gathered(*host_, 0);
    ranks_.together(
        call(unit, how == gradient_reduction::sum ? operation::sum : operation::mean), describe(),
        [&] {
          require_one_trained_dtype(view_, unit);
          out = gradients(*host_, view_, layout, where_);
          const auto what = [&] {
            return concat("gradients of ", detail::unit_text(name(unit)), "; use smaller units");
          };
          contribution = block_for(*host_, layout.block_bytes * shards, what);
          part = block_for(*host_, replica_bytes(layout), what);
          gathered = block_for(*host_, layout.gathered_bytes(shards), what);
          detail::pack_gradients(view_, layout, shards, full, contribution.data());
        },
        [&] {
          if (layout.block_bytes == 0) {
            return;
          }
          const std::span<float> own = floats(out.shards());
          reduce_scatter(ranks_.data(), std::span<const float>(floats(contribution)), own, shard_group_,
                         ranks_.limit());
          if (replicas() > 1) {
            reduce_scatter(ranks_.data(), std::span<const float>(own), floats(part), replica_group_, ranks_.limit());
            all_gather(ranks_.data(), part.bytes(), out.shards().bytes(), replica_group_, ranks_.limit());
          }
          if (how == gradient_reduction::mean) {
            const auto ranks = static_cast<float>(shards * replicas());
            for (float& each : own) {
              each /= ranks;
            }
          }
          if (gathered.size() != 0) {
            all_gather(ranks_.data(), out.shards().bytes().subspan(layout.replicated_begin), gathered.bytes(),
                       shard_group_, ranks_.limit());
            out.unpack(layout, shards, gathered.bytes());
          }
        },
        out, contribution, part, gathered);
    return out;
  }

 private:
  enum class operation : std::uint8_t { unshard, sum, mean };
  static constexpr std::array<std::string_view, 3> operations{"unsharding", "the sum of gradients",
                                                              "the mean of gradients"};

  static constexpr bool gathers_from_slabs = std::is_same_v<gathering, Space>;

  struct state {
    unit_layout layout{};
    gradient_layout gradients{};
    std::optional<detail::unsharding> whole{};  // while the unit is unsharded
  };

  [[nodiscard]] static std::uint64_t call(std::size_t unit, operation what) noexcept {
    return unit * operations.size() + static_cast<std::uint64_t>(what);
  }
  [[nodiscard]] auto describe() const noexcept {
    return [this](std::uint64_t asked) {
      return concat(operations[asked % operations.size()], " of unit '",
                    printable(view_.units[asked / operations.size()]), "'");
    };
  }

  [[nodiscard]] std::size_t replicas() const noexcept { return replica_group_.size(); }
  [[nodiscard]] std::uint64_t replica_bytes(const gradient_layout& layout) const noexcept {
    return replicas() == 1 ? 0 : layout.block_bytes / replicas();
  }
  [[nodiscard]] static std::span<float> floats(block<staging>& memory) noexcept {
    return {reinterpret_cast<float*>(memory.data()), memory.size() / sizeof(float)};
  }

  template <class Module>
  void take(Module& module, const options& options) {
    module_traits<Module>::visit_slots(module, []<class Slot>(std::string_view /*fqn*/, Slot& /*slot*/) {
      if constexpr (detail::require_slot<Slot>()) {
        constexpr bool is_lending = LendingSlot<Slot>;
        static_assert(
            is_lending,
            "fsdpinit: units need slots that model LendingSlot: give slot_traits<T> a function local(const T&) "
            "that returns the local_shard which was adopted");
      }
    });
    detail::require_valid(options, ranks_.data().size());
    const std::size_t rank = ranks_.data().rank();
    const mesh ranks{.shards = ranks_.data().size() / options.replicas, .replicas = options.replicas};
    where_ = {.shards = ranks.shards, .index = ranks.shard_of(rank)};
    for (std::size_t shard = 0; shard < ranks.shards; ++shard) {
      shard_group_.push_back(ranks.rank_of(ranks.replica_of(rank), shard));
    }
    for (std::size_t replica = 0; replica < ranks.replicas; ++replica) {
      replica_group_.push_back(ranks.rank_of(replica, where_.index));
    }
    view_ = view_of(module, options.unit_prefixes, options.ignored_prefixes);
    units_.reserve(view_.units.size());
    for (std::size_t unit = 0; unit < view_.units.size(); ++unit) {
      units_.push_back({.layout = lay_out_unit(view_, unit, where_),
                        .gradients = lay_out_gradients(view_, unit, where_.shards, replicas())});
    }
  }

  detail::lockstep<Data> ranks_;
  std::optional<Space> memory_;
  std::optional<staging> host_;
  std::optional<memory_ref> wholes_;        // the module's space
  std::optional<memory_ref> gathered_;      // gathering_memory()
  std::vector<std::size_t> shard_group_;    // this rank's replica, in the order of shards
  std::vector<std::size_t> replica_group_;  // the ranks with the same shard, in the order of replicas
  shard_position where_;
  module_view view_;
  std::vector<state> units_;
};

namespace detail {

/// Stands for links of units that cannot be made, which the compiler has said already.
struct rejected_links {
  [[nodiscard]] std::size_t rank() const noexcept { return 0; }
  [[nodiscard]] std::size_t size() const noexcept { return 1; }
  void broadcast(mutable_bytes /*buffer*/, std::size_t /*root*/) noexcept {}
};

/// What units are of, by what they are made with.
template <class Module, class Channels, class Given,
          bool IsSound =
              require_module<Module>() && require_links<Channels>() && require_memory_space<space_of<Given>>()>
struct unit_types {
  using data = rejected_links;
  using control = rejected_links;
  using space = host_memory;
};
template <class Module, class Channels, class Given>
struct unit_types<Module, Channels, Given, true> {
  using links = decltype(channels_of(std::declval<Channels&>()));
  using data = std::remove_reference_t<decltype(std::declval<links&>().data)>;
  using control = std::remove_reference_t<decltype(std::declval<links&>().control)>;
  using space = space_of<Given>;
};

}  // namespace detail

/// Takes whatever was given: a second error would say nothing more.
template <>
class sharded_units<detail::rejected_links, detail::rejected_links, host_memory> {
 public:
  template <class Module, class Channels, class Given = default_memory>
  explicit sharded_units(Module& /*module*/, Channels&& /*ranks*/, const options& /*options*/ = {},
                         Given /*memory*/ = {}) {}
};

template <class Module, class Channels, class Given = default_memory>
sharded_units(Module&, Channels&&, const options& = {}, Given = {})
    -> sharded_units<typename detail::unit_types<Module, Channels, Given>::data,
                     typename detail::unit_types<Module, Channels, Given>::control,
                     typename detail::unit_types<Module, Channels, Given>::space>;

/// Holds a unit unsharded for its own life; one that was unsharded before stays so.
template <class Units>
class unsharded_unit {
 public:
  /// Collective. \throws what `unshard` throws.
  unsharded_unit(Units& units, std::size_t unit)
      : units_(units), unit_(unit), was_unsharded_(units.is_unsharded(unit)) {
    units_.unshard(unit_);
  }
  unsharded_unit(const unsharded_unit&) = delete;
  unsharded_unit& operator=(const unsharded_unit&) = delete;
  ~unsharded_unit() {
    if (!was_unsharded_) {
      units_.reshard(unit_);
    }
  }

 private:
  Units& units_;
  std::size_t unit_;
  bool was_unsharded_;
};

}  // namespace fsdpinit
