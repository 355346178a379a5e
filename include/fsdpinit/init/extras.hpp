#pragma once

#include <fsdpinit/concepts/memory_ref.hpp>
#include <fsdpinit/concepts/memory_space.hpp>
#include <fsdpinit/concepts/optimizer.hpp>
#include <fsdpinit/memory/host_memory.hpp>
#include <fsdpinit/modules/missing_tensor.hpp>
#include <fsdpinit/observe/observer.hpp>
#include <fsdpinit/observe/stop_ref.hpp>

#include <concepts>
#include <optional>
#include <type_traits>

namespace fsdpinit {

/// Where the weights of a call live: a memory space of any type, to which it refers; by default a `host_memory` of the rank's own, which
/// is made within the call, as a rank whose heap is exhausted could not tell the others of it before.
class memory_argument {
 public:
  memory_argument() noexcept : table_(&table_of<host_memory>) {}
  /// A space in which the compiler finds nothing wrong, or it says which clause of MemorySpace is not met.
  template <class Space>
    requires(!std::derived_from<Space, memory_argument>)
  memory_argument(const Space& given) noexcept : given_(&given) {  // NOLINT(google-explicit-constructor): stands for it
    if constexpr (detail::require_memory_space<Space>()) {
      table_ = &table_of<Space>;
    }
  }

  /// A handle of the given space, or a space of this rank's own. \throws std::bad_alloc, what copying throws
  [[nodiscard]] memory_ref space() const { return table_->space(given_); }
  /// Where the buckets of such a space are staged. \throws the same
  [[nodiscard]] memory_ref staging(const memory_ref& space) const {
    return space.host_accessible() ? space : table_->staging(space);
  }

 private:
  struct table {
    memory_ref (*space)(const void* given);
    memory_ref (*staging)(const memory_ref& space);
  };
  template <class Space>
  static memory_ref space_of([[maybe_unused]] const void* given) {
    if constexpr (std::same_as<Space, host_memory>) {
      if (given == nullptr) {
        return memory_ref(host_memory());
      }
    }
    return memory_ref(*static_cast<const Space*>(given));
  }
  template <class Space>
  static constexpr table table_of{.space = &space_of<Space>, .staging = [](const memory_ref& space) {
                                    return memory_ref(detail::staging_for(space.as<Space>()));
                                  }};

  const void* given_ = nullptr;
  const table* table_ = nullptr;
};

/// The same, of spaces that host code may touch.
class host_memory_argument : public memory_argument {
 public:
  host_memory_argument() = default;
  template <class Space>
    requires(!std::derived_from<Space, memory_argument>)
  host_memory_argument(const Space& given) noexcept  // NOLINT(google-explicit-constructor)
      : memory_argument(given) {
    static_cast<void>(detail::require_host_memory<Space>());
  }
};

/// What a call may be given besides, by name: `initialize(module, source, ranks, options, {.memory = device, .observer = watch})`. Each refers
/// to what it was made of, of any type, which must live as long as the call: what is made in the argument itself does.
struct extras {
  /// Where shards live: a MemorySpace; without one a `host_memory` of this rank's own. Its account shows the predicted peak, to the
  /// byte; one initialisation at a time. Which of several it is may be decided when the program runs:
  /// `offload ? memory_argument(host) : memory_argument(device)`.
  memory_argument memory{};
  /// An Observer; one that is a WaitingObserver also hears of long waits, and a PollingObserver is called in them.
  observer_ref observer{};
  /// `{module, optimizer}`: a ShardableOptimizer that was made for the module before. It lets go of the parameters before they are
  /// dropped, and is bound to the shards, by name, at the commit.
  optimizer_of_module optimizer{};
  /// With `strict = false`: what to put into tensors that the source does not have, on each rank into its part (`normal_values`,
  /// `constant_values`, a MissingInitialiser of one's own); the memory must be host-accessible. Without, they stay on meta.
  std::optional<initialiser_ref> missing{};
  /// What asks for a stop: a `std::stop_token`, or anything with `bool stop_requested() const`, in the program of one rank or of several.
  /// Looked at wherever a PollingObserver is polled. Every rank then throws error{cancelled}, naming the rank; the call may be made again.
  stop_ref stop{};
};

/// What `load_pretrained` may be given besides, as `extras`: whole weights live in memory that host code may touch.
struct pretrained_extras {
  host_memory_argument memory{};
  observer_ref observer{};
  stop_ref stop{};
};

}  // namespace fsdpinit
