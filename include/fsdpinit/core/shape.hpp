#pragma once

#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/core/compiler.hpp>
#include <fsdpinit/core/dtype.hpp>
#include <fsdpinit/core/error.hpp>

#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <span>
#include <string>
#include <utility>

namespace fsdpinit {

/// The dimensions of a tensor, outermost first. `shape{}` is a scalar (rank 0, one element); a zero dimension is legal.
class shape {
 public:
  shape() = default;
  shape(std::initializer_list<std::uint64_t> dims) : shape(std::span(dims.begin(), dims.size())) {}
  explicit shape(std::span<const std::uint64_t> dims)
      : rank_(dims.size()), many_(dims.size() > few_.size() ? new std::uint64_t[dims.size()] : nullptr) {
    std::uint64_t* to = first();
    for (const std::uint64_t dim : dims) {
      *to++ = dim;
    }
  }
  shape(const shape& other) : shape(std::span(other.begin(), other.rank())) {}
  /// The other one is a scalar afterwards.
  shape(shape&& other) noexcept
      : few_(other.few_), rank_(std::exchange(other.rank_, 0)), many_(std::exchange(other.many_, nullptr)) {}
  shape& operator=(shape other) noexcept {
    few_ = other.few_;
    std::swap(rank_, other.rank_);
    std::swap(many_, other.many_);
    return *this;
  }
  ~shape() { delete[] many_; }

  [[nodiscard]] std::size_t rank() const noexcept { return rank_; }
  [[nodiscard]] bool is_scalar() const noexcept { return rank() == 0; }
  [[nodiscard]] std::uint64_t operator[](std::size_t dim) const noexcept { return begin()[dim]; }
  [[nodiscard]] std::uint64_t& operator[](std::size_t dim) noexcept { return first()[dim]; }
  [[nodiscard]] const std::uint64_t* begin() const noexcept { return many_ != nullptr ? many_ : few_.data(); }
  [[nodiscard]] const std::uint64_t* end() const noexcept { return begin() + rank(); }

  friend bool operator==(const shape& a, const shape& b) noexcept {
    bool equal = a.rank_ == b.rank_;
    for (std::size_t dim = 0; equal && dim < a.rank_; ++dim) {
      equal = a[dim] == b[dim];
    }
    return equal;
  }

 private:
  [[nodiscard]] std::uint64_t* first() noexcept { return many_ != nullptr ? many_ : few_.data(); }

  // Up to four without an allocation, and in few bytes: a model has a shape for each tensor, several times over.
  std::array<std::uint64_t, 4> few_{};
  std::size_t rank_ = 0;
  // All of them where they are more. Owned: with <memory> core.hpp would cost a third more to include (tests/budget).
  std::uint64_t* many_ = nullptr;
};

/// `[8, 17]`, `[]` for a scalar.
FSDPINIT_INLINE void append(std::string& out, const shape& extents);
[[nodiscard]] inline std::string to_string(const shape& extents) {
  std::string out;
  append(out, extents);
  return out;
}

/// The number of elements, multiplied left to right as the safetensors reference does: `[0, 2^63, 4]` is 0 elements,
/// `[2^63, 4, 0]` overflows (nothing).
[[nodiscard]] inline std::optional<std::uint64_t> checked_elements(const shape& extents) noexcept {
  std::uint64_t product = 1;
  for (const std::uint64_t dim : extents) {
    if (!checked_multiply(product, dim, product)) {
      return std::nullopt;
    }
  }
  return product;
}

/// The number of bits, or nothing on overflow.
[[nodiscard]] inline std::optional<std::uint64_t> checked_bits(dtype type, const shape& extents) noexcept {
  const auto elements = checked_elements(extents);
  std::uint64_t product = 0;
  if (!elements || !checked_multiply(*elements, bits(type), product)) {
    return std::nullopt;
  }
  return product;
}

/// Bytes of a dense tensor. \throws error{invalid_argument} naming `fqn` if that overflows 64 bits or, for a sub-byte
/// dtype, is not a whole number of bytes.
[[nodiscard]] FSDPINIT_INLINE std::uint64_t byte_size(std::string_view fqn, dtype type, const shape& extents);

/// A sum of sizes that fit into 64 bits one by one. What is made of the sum fits too, if it counts no byte more than `times` times.
class total_bytes {
 public:
  explicit constexpr total_bytes(std::uint64_t times = 1) noexcept : times_(times) {}

  /// Counts the bytes of `fqn` once more for each copy. \throws error{invalid_argument} naming it where the sum does not fit.
  void add(std::string_view fqn, std::uint64_t bytes, std::uint64_t copies = 0) {
    std::uint64_t product = 0;
    std::uint64_t weight = 0;
    if (!checked_add(copies, 1, weight) || !checked_multiply(weight, times_, weight) ||
        !checked_multiply(bytes, weight, product) || !checked_add(sum_, product, sum_)) {
      throw error(
          errc::invalid_argument, fqn,
          concat("its ", bytes, " bytes and those of the tensors before it add up to more than 64 bits can count",
                 times_ == 1 ? "" : " of what all ranks move", "; check its shape"));
    }
  }

  [[nodiscard]] constexpr std::uint64_t get() const noexcept { return sum_ / times_; }

 private:
  std::uint64_t sum_ = 0;
  std::uint64_t times_;
};

}  // namespace fsdpinit

#if FSDPINIT_DEFINES

namespace fsdpinit {

FSDPINIT_INLINE void append(std::string& out, const shape& extents) {
  out += '[';
  for (std::size_t dim = 0; dim < extents.rank(); ++dim) {
    append_to(out, dim == 0 ? "" : ", ", extents[dim]);
  }
  out += ']';
}

FSDPINIT_INLINE std::uint64_t byte_size(std::string_view fqn, dtype type, const shape& extents) {
  const auto total = checked_bits(type, extents);
  if (!total) {
    throw error(errc::invalid_argument, fqn,
                concat("the size of ", to_string(extents), " ", name(type), " overflows 64 bits; check its shape"));
  }
  if (*total % 8 != 0) {
    throw error(errc::invalid_argument, fqn,
                concat(to_string(extents), " ", name(type), " is ", *total,
                       " bits, not a whole number of bytes; pad its last dimension"));
  }
  return *total / 8;
}

}  // namespace fsdpinit

#endif
