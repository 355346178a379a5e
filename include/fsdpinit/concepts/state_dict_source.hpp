#pragma once

#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/core/tensor_descriptor.hpp>

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <span>

namespace fsdpinit {

/// A state dict that can be read in pieces: a file, a folder of files, memory.
///
/// - `tensors()`: the descriptors, in the order in which reading is cheapest (file order). Names are unique. The list
/// and
///   its addresses stay the same for the life of the source.
/// - `read(tensor, offset, destination)`: fills `destination` with bytes [offset, offset + destination.size()) of the
///   tensor at index `tensor`, all of them or it throws. `destination` is host memory. The only I/O primitive; called
///   by one thread at a time, any number of times, in any order.
///
/// \throws fsdpinit::error naming the file; anything else becomes `errc::user_exception`.
template <class S>
concept StateDictSource =
    requires(S& source, const S& constant, std::size_t tensor, std::uint64_t offset, mutable_bytes destination) {
      { constant.tensors() } -> std::convertible_to<std::span<const tensor_descriptor>>;
      { source.read(tensor, offset, destination) } -> std::same_as<void>;
    };

/// A source whose tensors are ranges of files, so that neighbours can be read at once: `position_of(tensor)`, and
/// `read_file(file, offset, destination)`.
template <class S>
concept PositionedSource = StateDictSource<S> && requires(S& source, const S& constant, std::size_t tensor,
                                                          std::uint64_t offset, mutable_bytes destination) {
  { constant.position_of(tensor) } -> std::convertible_to<file_position>;
  { source.read_file(tensor, offset, destination) } -> std::same_as<void>;
};

/// A source that holds what it hands out, and lets go of it piece by piece: `release(tensor)` says that nothing more will be read of
/// that tensor.
template <class S>
concept ReleasingSource = StateDictSource<S> && requires(S& source, std::size_t tensor) {
  { source.release(tensor) } noexcept -> std::same_as<void>;
};

/// Opens a state dict where, and only where, it is read: `initialize` calls it on the source rank alone (a checkpoint
/// may exist on that rank's disk only), or on every rank for a policy in which every rank reads.
template <class O>
concept SourceOpener = !StateDictSource<O> && requires(O& open) {
  { open() };
  requires StateDictSource<decltype(open())>;
};

}  // namespace fsdpinit
