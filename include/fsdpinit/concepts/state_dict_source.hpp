#pragma once

#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/core/dtype.hpp>
#include <fsdpinit/core/tensor_descriptor.hpp>
#include <fsdpinit/index/byte_region.hpp>

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

namespace fsdpinit {

/// A state dict that can be read in pieces: a file, a folder of files, memory.
///
/// - `tensors()`: the descriptors, in the order in which reading is cheapest (file order). Names are unique. The list
/// and
///   its addresses stay the same for the life of the source.
/// - `read(tensor, offset, destination)`: fills `destination` with bytes [offset, offset + destination.size()) of the
///   tensor at index `tensor`, all of them or it throws. `destination` is host memory. The only I/O primitive; called
///   by one thread at a time (but see `ConcurrentSource`), any number of times, in any order.
///
/// \throws fsdpinit::error naming the file; anything else becomes `errc::user_exception`.
template <class S>
concept StateDictSource =
    requires(S& source, const S& constant, std::size_t tensor, std::uint64_t offset, mutable_bytes destination) {
      { constant.tensors() } -> std::convertible_to<std::span<const tensor_descriptor>>;
      { source.read(tensor, offset, destination) } -> std::same_as<void>;
    };

/// A source that holds what it hands out, and lets go of it piece by piece: `release(tensor)` says that nothing more will be read of
/// that tensor.
template <class S>
concept ReleasingSource = StateDictSource<S> && requires(S& source, std::size_t tensor) {
  { source.release(tensor) } noexcept -> std::same_as<void>;
};

/// A source that shows tensors with another dtype than the one they are stored with, and says so, so that whoever moves
/// the bytes may widen after the wire what is narrow, and narrow before it what is wide.
///
/// - `stored_dtype(tensor)`: the dtype before the cast. Where it differs from the descriptor's, both are among the types
///   of `convert_floats`, and `read` gives what that makes of the stored elements; where not, `read_stored` is `read`.
///   The shape is the descriptor's.
/// - `read_stored(tensor, offset, destination)`: as `read`, of the tensor as it is stored; the offset counts its bytes.
template <class S>
concept CastingSource = StateDictSource<S> && requires(S& source, const S& constant, std::size_t tensor,
                                                       std::uint64_t offset, mutable_bytes destination) {
  { constant.stored_dtype(tensor) } -> std::same_as<dtype>;
  { source.read_stored(tensor, offset, destination) } -> std::same_as<void>;
};

/// A CastingSource that counts what its casts make infinite.
///
/// - `overflows(tensor)`: how many elements of the tensor were finite as stored and infinite as `read` gave them, so far; an element
///   counts each time its first byte is read.
template <class S>
concept OverflowCountingSource = CastingSource<S> && requires(const S& constant, std::size_t tensor) {
  { constant.overflows(tensor) } -> std::same_as<std::uint64_t>;
};

/// A source whose tensors are ranges of files, so that neighbours can be read at once.
///
/// - `file_count()`: how many files there are; it stays the same for the life of the source.
/// - `position_of(tensor)`: the bytes of the tensor, as `read` gives them, are those of the file from there on. May be
///   an optional: nothing for a tensor that lies in no file as it is read, one that is cast for instance.
/// - `read_file(file, offset, destination)`: as `read`, of a file: any range between the first byte of a tensor in it
///   and the last byte of another, what lies between them included.
template <class S>
concept PositionedSource =
    StateDictSource<S> && requires(S& source, const S& constant, std::size_t tensor, std::size_t file,
                                   std::uint64_t offset, mutable_bytes destination) {
      { constant.file_count() } -> std::convertible_to<std::size_t>;
      { constant.position_of(tensor) } -> std::convertible_to<std::optional<file_position>>;
      { source.read_file(file, offset, destination) } -> std::same_as<void>;
    };

/// A PositionedSource that fills several places by one read, where each piece by itself would cost a system call.
///
/// - `read_file_into(file, offset, destinations)`: as `read_file` of the bytes from `offset` on, into the destinations one after
///   the other; some may be empty.
template <class S>
concept VectoredSource = PositionedSource<S> && requires(S& source, std::size_t file, std::uint64_t offset,
                                                         std::span<const mutable_bytes> destinations) {
  { source.read_file_into(file, offset, destinations) } -> std::same_as<void>;
};

/// A source that makes tensors out of others as they are read: fused, stacked, transposed ones. What is scattered over a stored tensor
/// it reads through memory that whoever reads gives it, and parts of rows together.
///
/// - `tile_bytes(tensor)`: how much of that memory is of use; 0 for a tensor that is read as it is stored.
/// - `read_runs(tensor, runs, destination, tile)`: as `read`, of several runs of the tensor, one behind the other in `destination`; of
///   several, none goes over a multiple of their stride. `tile` is host memory that no other call uses meanwhile; with less than
///   `tile_bytes`, also with none, it takes longer.
template <class S>
concept AssemblingSource =
    StateDictSource<S> && requires(S& source, const S& constant, std::size_t tensor, const byte_region& runs,
                                   mutable_bytes destination, mutable_bytes tile) {
      { constant.tile_bytes(tensor) } -> std::same_as<std::uint64_t>;
      { source.read_runs(tensor, runs, destination, tile) } -> std::same_as<void>;
    };

/// A source that reads files and knows what they look like, so that ranks which open copies of a checkpoint can tell
/// that these are the same, and name the file that is not.
///
/// - `file_fingerprints()`: of each file, in an order that is the same for copies.
/// - `file_of(tensor)`: an index into that; nothing for a tensor that comes from elsewhere.
template <class S>
concept FingerprintedSource = StateDictSource<S> && requires(const S& constant, std::size_t tensor) {
  { constant.file_fingerprints() } -> std::same_as<std::vector<file_fingerprint>>;
  { constant.file_of(tensor) } -> std::same_as<std::optional<std::size_t>>;
};

/// A source that shows tensors under other names than the checkpoint does, and says so, for errors that give both.
///
/// - `stored_name(tensor)`: the name in the checkpoint. The text stays where it is for the life of the source.
template <class S>
concept RenamingSource = StateDictSource<S> && requires(const S& constant, std::size_t tensor) {
  { constant.stored_name(tensor) } -> std::convertible_to<std::string_view>;
};

/// A source that knows what lies beside its tensors and is no part of it, because an index leaves it out, for reports and for errors
/// about what is missing.
///
/// - `unlisted()`: those tensors, under the names by which the source would show them, and files. The list stays the same for the
///   life of the source.
template <class S>
concept IndexedSource = StateDictSource<S> && requires(const S& constant) {
  { constant.unlisted() } -> std::convertible_to<std::span<const unlisted_tensor>>;
};

/// A source whose `read`, `read_stored`, `read_file`, `read_file_into` and `read_runs` several threads may call at the same time, and which says so:
/// `static constexpr bool reads_concurrently = true`.
template <class S>
concept ConcurrentSource = StateDictSource<S> && requires { requires bool{S::reads_concurrently}; };

/// Opens a state dict where, and only where, it is read: `initialize` calls it on the source rank alone (a checkpoint
/// may exist on that rank's disk only), or on every rank for a policy in which every rank reads.
template <class O>
concept SourceOpener = !StateDictSource<O> && requires(O& open) {
  { open() };
  requires StateDictSource<decltype(open())>;
};

namespace detail {

template <class T>
struct source_clauses {
  static constexpr bool has_tensors = requires(const T& constant) {
    { constant.tensors() } -> std::convertible_to<std::span<const tensor_descriptor>>;
  };
  static constexpr bool has_read =
      requires(T& source, mutable_bytes destination) { source.read(std::size_t{}, std::uint64_t{}, destination); };
  static constexpr bool read_returns_void = !has_read || requires(T& source, mutable_bytes destination) {
    { source.read(std::size_t{}, std::uint64_t{}, destination) } -> std::same_as<void>;
  };
  static constexpr bool is_not_const = !std::is_const_v<T> || !StateDictSource<std::remove_const_t<T>>;
  /// Meant to be one, by what it has.
  static constexpr bool is_source =
      has_read || requires(T& source) { source.tensors(); } || requires { &T::read; } || !is_not_const;
  static constexpr bool is_call = requires(T& open) { open(); };
};

/// Which clauses of StateDictSource T does not meet: compiler errors, one each.
template <class T>
consteval void require_clauses_of_source() {
  using clauses = source_clauses<T>;
  if constexpr (!clauses::is_not_const) {
    static_assert(clauses::is_not_const,
                  "fsdpinit: `source`: T is const, but its read(tensor, offset, destination) is not; pass one that is "
                  "not const");
  } else {
    static_assert(clauses::has_tensors,
                  "fsdpinit: `source`: T must have tensors() const, which returns the tensor_descriptors as what "
                  "converts to std::span<const tensor_descriptor>");
    static_assert(clauses::has_read,
                  "fsdpinit: `source`: T must have void read(std::size_t tensor, std::uint64_t offset, mutable_bytes "
                  "destination)");
    static_assert(clauses::read_returns_void,
                  "fsdpinit: `source`: T::read(tensor, offset, destination) must return void: it reads all of it or "
                  "throws");
  }
}

/// Where T is neither a state dict nor opens one, the compiler says which clause it does not meet; T is named beside it.
/// \return is it one of the two?
template <class T>
[[nodiscard]] consteval bool require_source() {
  if constexpr (!StateDictSource<T> && !SourceOpener<T>) {
    using clauses = source_clauses<T>;
    if constexpr (clauses::is_source) {
      require_clauses_of_source<T>();
    } else if constexpr (clauses::is_call) {
      using opened = decltype(std::declval<T&>()());
      if constexpr (source_clauses<opened>::is_source) {
        require_clauses_of_source<opened>();
      } else {
        static_assert(source_clauses<opened>::is_source,
                      "fsdpinit: `source`: T is a call, and so it must return a StateDictSource: tensors() const, void "
                      "read(std::size_t tensor, std::uint64_t offset, mutable_bytes destination)");
      }
    } else {
      static_assert(clauses::is_source,
                    "fsdpinit: `source` must be a StateDictSource (T must have tensors() const, void read(std::size_t "
                    "tensor, std::uint64_t offset, mutable_bytes destination)), or a call that returns one");
    }
  }
  return StateDictSource<T> || SourceOpener<T>;
}

}  // namespace detail

}  // namespace fsdpinit
