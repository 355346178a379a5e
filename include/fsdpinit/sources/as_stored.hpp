#pragma once

#include <fsdpinit/concepts/state_dict_source.hpp>
#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/core/dtype.hpp>
#include <fsdpinit/core/tensor_descriptor.hpp>
#include <fsdpinit/core/text.hpp>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

/// \file
/// What the refinements of StateDictSource say, of any source: one that neither casts nor renames shows what is stored.

namespace fsdpinit::detail {

/// The tensor's name in the checkpoint.
template <StateDictSource S>
[[nodiscard]] std::string_view stored_name(const S& source, std::size_t tensor) {
  if constexpr (RenamingSource<S>) {
    return source.stored_name(tensor);
  } else {
    return std::span<const tensor_descriptor>(source.tensors())[tensor].name;
  }
}

/// The tensor's dtype before any cast.
template <StateDictSource S>
[[nodiscard]] dtype stored_dtype(const S& source, std::size_t tensor) {
  if constexpr (CastingSource<S>) {
    return source.stored_dtype(tensor);
  } else {
    return std::span<const tensor_descriptor>(source.tensors())[tensor].dtype;
  }
}

/// What its index leaves out; nothing for one that has no index.
template <StateDictSource S>
[[nodiscard]] std::span<const unlisted_tensor> unlisted(const S& source) {
  if constexpr (IndexedSource<S>) {
    return source.unlisted();
  } else {
    return {};
  }
}

/// For lists: `tensor in file`, or the file. In their order.
[[nodiscard]] inline std::vector<std::string> unlisted_names(std::span<const unlisted_tensor> unlisted) {
  std::vector<std::string> names;
  names.reserve(unlisted.size());
  for (const unlisted_tensor& each : unlisted) {
    names.push_back(each.name.empty() ? each.file : concat(each.name, " in ", each.file));
  }
  return names;
}

/// All of that, of every tensor. O(tensors).
template <StateDictSource S>
[[nodiscard]] state_dict_contents contents_of(const S& source) {
  const std::span<const tensor_descriptor> tensors = source.tensors();
  const std::span<const unlisted_tensor> beside = unlisted(source);
  state_dict_contents out{.tensors = {tensors.begin(), tensors.end()}, .unlisted = {beside.begin(), beside.end()}};
  if constexpr (RenamingSource<S> || CastingSource<S>) {
    out.stored.reserve(tensors.size());
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      const std::string_view name = stored_name(source, i);
      out.stored.push_back(
          {.dtype = stored_dtype(source, i), .name = std::string(name == tensors[i].name ? "" : name)});
    }
  }
  return out;
}

/// Of the files that the source reads, as far as it knows them.
template <StateDictSource S>
[[nodiscard]] std::vector<file_fingerprint> file_fingerprints(const S& source) {
  if constexpr (FingerprintedSource<S>) {
    return source.file_fingerprints();
  } else {
    return {};
  }
}

/// The one of them that the tensor is read from.
template <StateDictSource S>
[[nodiscard]] std::optional<std::size_t> file_of([[maybe_unused]] const S& source,
                                                 [[maybe_unused]] std::size_t tensor) {
  if constexpr (FingerprintedSource<S>) {
    return source.file_of(tensor);
  } else {
    return std::nullopt;
  }
}

template <StateDictSource S>
void read_stored(S& source, std::size_t tensor, std::uint64_t offset, mutable_bytes destination) {
  if constexpr (CastingSource<S>) {
    source.read_stored(tensor, offset, destination);
  } else {
    source.read(tensor, offset, destination);
  }
}

/// How many elements of the tensor casts have made infinite so far, where the source counts them.
template <StateDictSource S>
[[nodiscard]] std::uint64_t overflows([[maybe_unused]] const S& source, [[maybe_unused]] std::size_t tensor) {
  if constexpr (OverflowCountingSource<S>) {
    return source.overflows(tensor);
  } else {
    return 0;
  }
}

}  // namespace fsdpinit::detail
