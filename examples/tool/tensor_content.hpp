#pragma once

#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/core/dtype.hpp>

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string_view>

/// \file
/// Made-up weights: what an element is depends on the seed, the tensor's name and the element's index alone, so any
/// part of any tensor can be written, or checked, without the rest.

namespace fsdpinit::tool {

/// The elements of one tensor. As float32 an element has a random sign, an exponent of 2^-7 to 2^-4 and a random
/// mantissa: finite, never zero, of the size that weights have. As bfloat16 it is the upper half of that.
class tensor_content {
 public:
  tensor_content(std::uint64_t seed, std::string_view name) noexcept {
    std::uint64_t hash = 0xcbf29ce484222325U;  // FNV-1a
    for (const char letter : name) {
      hash = (hash ^ static_cast<unsigned char>(letter)) * 0x100000001b3U;
    }
    key_ = mix(hash ^ mix(seed + golden));
  }

  /// Fills `to` with the elements from `first` on. \pre `first` is even, `to` holds whole elements, `type` is f32, bf16 or f8_e4m3.
  void fill(dtype type, std::uint64_t first, mutable_bytes to) const noexcept {
    switch (bits(type)) {
      case 32:
        return fill_as<std::uint32_t>(first, to);
      case 16:
        return fill_as<std::uint16_t>(first, to);
      default:
        return fill_as<std::uint8_t>(first, to);
    }
  }

 private:
  static constexpr std::uint64_t golden = 0x9e3779b97f4a7c15U;

  /// The finaliser of splitmix64: every input bit changes every output bit about half of the time.
  [[nodiscard]] static constexpr std::uint64_t mix(std::uint64_t value) noexcept {
    value = (value ^ (value >> 30U)) * 0xbf58476d1ce4e5b9U;
    value = (value ^ (value >> 27U)) * 0x94d049bb133111ebU;
    return value ^ (value >> 31U);
  }

  /// Elements 2i (lower half) and 2i + 1 (upper half) as float32.
  [[nodiscard]] std::uint64_t pair(std::uint64_t index) const noexcept {
    constexpr std::uint64_t random = 0x81ffffff'81ffffffU;
    constexpr std::uint64_t exponent = 0x3c000000'3c000000U;
    return (mix(key_ + index * golden) & random) | exponent;
  }

  template <class Element>
  [[nodiscard]] std::array<Element, 2> elements(std::uint64_t index) const noexcept {
    const std::uint64_t both = pair(index);
    if constexpr (sizeof(Element) == 1) {  // as E4M3: a sign, 2^-3 or 2^-1, a random mantissa
      const auto element = [](std::uint64_t random) { return static_cast<Element>((random & 0x97U) | 0x20U); };
      return {element(both >> 8U), element(both >> 40U)};
    } else {
      constexpr unsigned cut = 32 - 8 * sizeof(Element);  // the lower bits of an element that its type has no room for
      return {static_cast<Element>((both & 0xffffffffU) >> cut), static_cast<Element>(both >> (32 + cut))};
    }
  }

  template <class Element>
  void fill_as(std::uint64_t first, mutable_bytes to) const noexcept {
    constexpr std::size_t step = 2 * sizeof(Element);
    const std::size_t pairs = to.size() / step;
    std::byte* at = to.data();
    for (std::size_t i = 0; i < pairs; ++i, at += step) {
      const auto both = elements<Element>(first / 2 + i);
      std::memcpy(at, both.data(), step);
    }
    if (const std::size_t rest = to.size() % step; rest != 0) {
      const auto both = elements<Element>(first / 2 + pairs);
      std::memcpy(at, both.data(), rest);
    }
  }

  std::uint64_t key_ = 0;
};

}  // namespace fsdpinit::tool
