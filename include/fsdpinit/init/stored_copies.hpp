#pragma once

#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/core/error.hpp>
#include <fsdpinit/core/tensor_descriptor.hpp>
#include <fsdpinit/core/text.hpp>
#include <fsdpinit/sources/source_ref.hpp>

#include <gsl/assert>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

namespace fsdpinit::detail {

/// Host memory in which further stored copies of a tied tensor are read.
inline constexpr std::uint64_t copy_scratch_bytes = 256 * kib;

/// For a source that stores other values under a further name of a tied tensor.
[[nodiscard]] inline error differing_copy(std::span<const tensor_descriptor> tensors, std::size_t first,
                                          std::size_t copy) {
  return error(errc::invalid_tie, tensors[copy].name,
               concat("tied to ", printable(tensors[first].name),
                      ", but the checkpoint stores different values under the two names; untie them in the module, or "
                      "repair the checkpoint"));
}

/// Reads bytes [offset, offset + expected.size()) of `copy`, a further name under which `source` stores the tensor `first`, piece by
/// piece into `scratch`, and compares them with `expected`.
/// \throws what the source throws; error{invalid_tie} naming the copy where it differs. \pre !scratch.empty().
inline void require_equal_copy(const source_ref& source, std::size_t first, std::size_t copy, std::uint64_t offset,
                               bytes_view expected, mutable_bytes scratch) {
  Expects(!scratch.empty());
  while (!expected.empty()) {
    const mutable_bytes piece = scratch.first(smaller(expected.size(), scratch.size()));
    source.read(copy, offset, piece);
    if (std::memcmp(piece.data(), expected.data(), piece.size()) != 0) {
      throw differing_copy(source.tensors(), first, copy);
    }
    offset += piece.size();
    expected = expected.subspan(piece.size());
  }
}

}  // namespace fsdpinit::detail
