#pragma once

#include <fsdpinit/adapters/torch_first.hpp>
#include <fsdpinit/core/dtype.hpp>

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

#include <c10/core/ScalarType.h>

/// \file
/// Element types of libtorch and of checkpoints. By libtorch's names of its own, so that one table serves each of its versions: older
/// ones lack float8 and wide unsigned integers.

namespace fsdpinit {

namespace detail {

struct torch_dtype_row {
  dtype type;
  std::string_view name;  // c10::toString of the scalar type
};

inline constexpr std::array<torch_dtype_row, 19> torch_dtype_rows{{
    {dtype::boolean, "Bool"},
    {dtype::u8, "Byte"},
    {dtype::i8, "Char"},
    {dtype::f8_e5m2, "Float8_e5m2"},
    {dtype::f8_e4m3, "Float8_e4m3fn"},
    {dtype::f8_e8m0, "Float8_e8m0fnu"},
    {dtype::f8_e4m3fnuz, "Float8_e4m3fnuz"},
    {dtype::f8_e5m2fnuz, "Float8_e5m2fnuz"},
    {dtype::i16, "Short"},
    {dtype::u16, "UInt16"},
    {dtype::f16, "Half"},
    {dtype::bf16, "BFloat16"},
    {dtype::i32, "Int"},
    {dtype::u32, "UInt32"},
    {dtype::f32, "Float"},
    {dtype::c64, "ComplexFloat"},
    {dtype::f64, "Double"},
    {dtype::i64, "Long"},
    {dtype::u64, "UInt64"},
}};

}  // namespace detail

/// The dtype of a scalar type; nothing for those that checkpoints do not know (quantised ones, complex halves and doubles).
[[nodiscard]] inline std::optional<dtype> dtype_of(c10::ScalarType type) noexcept {
  const std::string_view name = c10::toString(type);
  for (const detail::torch_dtype_row& row : detail::torch_dtype_rows) {
    if (row.name == name) {
      return row.type;
    }
  }
  return std::nullopt;
}

/// The scalar type of a dtype; nothing where this libtorch has none (packed ones, float8 in 1.13).
[[nodiscard]] inline std::optional<c10::ScalarType> scalar_type_of(dtype type) noexcept {
  for (std::int8_t i = 0; i < static_cast<std::int8_t>(c10::ScalarType::NumOptions); ++i) {
    const auto candidate = static_cast<c10::ScalarType>(i);
    if (dtype_of(candidate) == type) {
      return candidate;
    }
  }
  return std::nullopt;
}

}  // namespace fsdpinit
