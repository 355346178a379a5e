#pragma once

#include <fsdpinit/core/checksum.hpp>

#include <cstddef>
#include <cstdint>
#include <new>

#include <xxhash.h>

#ifdef FSDPINIT_XXH3_DISPATCHES  // set by FindxxHash.cmake
// NOLINTNEXTLINE(readability-identifier-naming): libxxhash's
extern "C" XXH_errorcode XXH3_64bits_update_dispatch(XXH3_state_t* state, const void* bytes, std::size_t n);
#endif

namespace fsdpinit {

namespace detail {

[[nodiscard]] inline void* make_xxh3() {
  void* const state = XXH3_createState();
  if (state == nullptr) {
    throw std::bad_alloc();
  }
  return state;
}
inline void drop_xxh3(void* state) noexcept {
  static_cast<void>(XXH3_freeState(static_cast<XXH3_state_t*>(state)));  // it has no way to fail
}
inline void restart_xxh3(void* state, std::uint64_t seed) noexcept {
  static_cast<void>(XXH3_64bits_reset_withSeed(static_cast<XXH3_state_t*>(state), seed));
}
inline void update_xxh3(void* state, const std::byte* bytes, std::size_t n) noexcept {
  if (n == 0) {
    return;
  }
#ifdef FSDPINIT_XXH3_DISPATCHES
  static_cast<void>(XXH3_64bits_update_dispatch(static_cast<XXH3_state_t*>(state), bytes, n));
#else
  static_cast<void>(XXH3_64bits_update(static_cast<XXH3_state_t*>(state), bytes, n));
#endif
}
[[nodiscard]] inline std::uint64_t value_of_xxh3(const void* state) noexcept {
  return XXH3_64bits_digest(static_cast<const XXH3_state_t*>(state));
}

}  // namespace detail

/// XXH3, 64 bits, of libxxhash. Much faster where that library can pick the widest vectors of the processor, which CMake
/// finds out (FSDPINIT_XXH3_DISPATCHES), than with those that every x86-64 has. A program that includes this header, in whichever
/// translation unit, verifies by it unless `options::checksum` names another.
inline constexpr checksum xxh3{.name = "xxh3",
                               .make = detail::make_xxh3,
                               .drop = detail::drop_xxh3,
                               .restart = detail::restart_xxh3,
                               .update = detail::update_xxh3,
                               .value = detail::value_of_xxh3};

namespace detail {

// Weak, as it is declared: it is the same in every unit that includes this, and not emitted only where it is called, as inline functions are.
// NOLINTNEXTLINE(misc-definitions-in-headers)
const checksum* linked_checksum() noexcept { return &xxh3; }

}  // namespace detail

}  // namespace fsdpinit
