#pragma once

#include <fsdpinit/concepts/state_dict_source.hpp>
#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/core/dtype.hpp>
#include <fsdpinit/core/error.hpp>
#include <fsdpinit/core/tensor_descriptor.hpp>
#include <fsdpinit/core/text.hpp>
#include <fsdpinit/index/byte_region.hpp>

#include <atomic>
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

/// What memory is of use to read the tensor; 0 where it is read as it is stored.
template <StateDictSource S>
[[nodiscard]] std::uint64_t tile_bytes([[maybe_unused]] const S& source, [[maybe_unused]] std::size_t tensor) {
  if constexpr (AssemblingSource<S>) {
    return source.tile_bytes(tensor);
  } else {
    return 0;
  }
}

/// Run by run, where the source does not assemble.
template <StateDictSource S>
void read_runs(S& source, std::size_t tensor, const byte_region& runs, mutable_bytes destination,
               [[maybe_unused]] mutable_bytes tile) {
  if constexpr (AssemblingSource<S>) {
    source.read_runs(tensor, runs, destination, tile);
  } else {
    for_each_run(runs, 0, runs.bytes(), [&](std::uint64_t global, std::uint64_t local, std::uint64_t length) {
      source.read(tensor, global, destination.subspan(local, length));
    });
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

/// A count that several threads add to. Copied as numbers are.
class shared_count {
 public:
  shared_count() = default;
  shared_count(const shared_count& other) noexcept : count_(other.value()) {}
  shared_count& operator=(const shared_count& other) noexcept {
    count_.store(other.value(), std::memory_order_relaxed);
    return *this;
  }

  [[nodiscard]] std::uint64_t value() const noexcept { return count_.load(std::memory_order_relaxed); }
  void add(std::uint64_t more) noexcept {
    if (more != 0) {
      count_.fetch_add(more, std::memory_order_relaxed);
    }
  }

 private:
  std::atomic<std::uint64_t> count_ = 0;
};

/// An error of reading a tensor that is `shown` under another name than the checkpoint's: it gives both. \param below what the source
/// that threw calls it, which may itself be a renaming
[[nodiscard]] inline error with_both_names(const error& thrown, std::string_view shown, std::string_view below,
                                           std::string_view stored) {
  const bool is_subject = thrown.subject() == below;
  const auto prefix = [&](std::string_view name) {
    const std::string origin = concat("(in the checkpoint: ", printable(stored), ")");
    return name == stored ? std::string()
           : is_subject   ? concat(origin, " ")
                          : concat(printable(name), " ", origin, ": ");
  };
  std::string_view text = thrown.text();
  // What a renaming below has said already, with a name that nobody outside knows.
  if (const std::string said = prefix(below); text.starts_with(said)) {
    text.remove_prefix(said.size());
  }
  return {thrown.code(),
          is_subject ? shown : std::string_view(thrown.subject()),
          concat(prefix(shown), text),
          {.rank = thrown.rank(), .native_code = thrown.native_code()}};
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
