#pragma once

#include <fsdpinit/concepts/memory_space.hpp>
#include <fsdpinit/memory/host_memory.hpp>

#include <concepts>

namespace fsdpinit {

/// The `memory` of a call that names none: a `host_memory` of the rank's own. A tag, because a memory space has an account on the heap,
/// and a default argument is made in the caller, where a rank whose heap is exhausted could not tell the others.
struct default_memory {};

namespace detail {

/// The space that stands behind what was given.
template <class Given>
struct space_behind {
  using type = Given;
};
template <>
struct space_behind<default_memory> {
  using type = host_memory;
};
template <class Given>
using space_of = typename space_behind<Given>::type;

/// What was given to a call; nullptr where it makes a space itself.
template <class Given>
[[nodiscard]] space_of<Given>* given_space(Given& memory) noexcept {
  if constexpr (std::same_as<Given, default_memory>) {
    return nullptr;
  } else {
    return &memory;
  }
}

/// A handle of the given space, or a space of this rank's own. \throws std::bad_alloc, what copying throws
template <MemorySpace Space>
[[nodiscard]] Space handle_or_own(const Space* given) {
  if constexpr (std::default_initializable<Space>) {
    if (given == nullptr) {
      return Space();
    }
  }
  return *given;
}

}  // namespace detail

}  // namespace fsdpinit
