#pragma once

#include <fsdpinit/concepts/memory_ref.hpp>
#include <fsdpinit/concepts/memory_space.hpp>
#include <fsdpinit/memory/host_memory.hpp>

#include <concepts>
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

}  // namespace fsdpinit
