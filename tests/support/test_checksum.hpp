#pragma once

#include <fsdpinit/core/checksum.hpp>

#include <cstddef>
#include <cstdint>

namespace fsdpinit::testing_support {

/// A checksum of one's own, FNV-1a: what verification may ask of one, and no more.
inline constexpr checksum test_checksum{
    .name = "fnv1a",
    .make = []() -> void* { return new std::uint64_t{0}; },
    .drop = [](void* state) noexcept { delete static_cast<std::uint64_t*>(state); },
    .restart =
        [](void* state, std::uint64_t seed) noexcept {
          *static_cast<std::uint64_t*>(state) = 14695981039346656037ULL ^ seed;
        },
    .update =
        [](void* state, const std::byte* bytes, std::size_t n) noexcept {
          auto& hash = *static_cast<std::uint64_t*>(state);
          for (std::size_t i = 0; i < n; ++i) {
            hash = (hash ^ std::to_integer<std::uint64_t>(bytes[i])) * 1099511628211ULL;
          }
        },
    .value = [](const void* state) noexcept { return *static_cast<const std::uint64_t*>(state); }};

}  // namespace fsdpinit::testing_support
