#pragma once

#include <fsdpinit/memory/host_memory.hpp>

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

}  // namespace detail

}  // namespace fsdpinit
