#pragma once

#include <fsdpinit/concepts/state_dict_source.hpp>
#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/core/dtype.hpp>
#include <fsdpinit/core/float_conversion.hpp>
#include <fsdpinit/core/tensor_descriptor.hpp>
#include <fsdpinit/core/text.hpp>
#include <fsdpinit/index/byte_region.hpp>
#include <fsdpinit/testing/law_list.hpp>

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

/// \file
/// What state dicts promise beyond their syntax. \see testing/laws.hpp

namespace fsdpinit::testing {

namespace detail {

/// That `read(offset, destination)` gives the same bytes however it is asked for the range [0, size). Returns them.
template <class Read>
[[nodiscard]] std::vector<std::byte> check_reading(law_list& laws, std::string_view what, std::uint64_t size,
                                                   Read read) {
  std::vector<std::byte> whole(size, std::byte{1});
  std::vector<std::byte> again(size, std::byte{2});
  read(0, mutable_bytes(whole));
  read(0, mutable_bytes(again));
  laws.expect(whole == again, concat(what, ": a second read gives the same bytes"));
  for (const std::uint64_t piece : {std::uint64_t{1}, std::uint64_t{7}, size / 2 + 1}) {
    if (size / piece > 4096) {
      continue;
    }
    std::vector<std::byte> forward(size, std::byte{3});
    std::vector<std::byte> backward(size, std::byte{4});
    for (std::uint64_t at = 0; at < size; at += piece) {
      const std::uint64_t length = size - at < piece ? size - at : piece;
      read(at, mutable_bytes(forward).subspan(at, length));
      read(size - at - length, mutable_bytes(backward).subspan(size - at - length, length));
    }
    laws.expect(forward == whole, concat(what, ": pieces of ", piece, " bytes are the whole"));
    laws.expect(backward == whole, concat(what, ": order of reading does not matter"));
  }
  read(0, mutable_bytes());
  read(size, mutable_bytes());
  return whole;
}

template <CastingSource S>
void check_cast(law_list& laws, S& source, std::size_t index, const std::vector<std::byte>& seen) {
  const tensor_descriptor tensor = std::span<const tensor_descriptor>(std::as_const(source).tensors())[index];
  const std::string called = printable(tensor.name);
  const dtype stored_as = std::as_const(source).stored_dtype(index);
  const bool is_cast = stored_as != tensor.dtype;
  if (is_cast && !is_convertible(stored_as, tensor.dtype)) {
    laws.expect(false, concat(called, ": a cast is one that convert_floats makes, not from ", name(stored_as), " to ",
                              name(tensor.dtype)));
    return;
  }
  const std::uint64_t size = byte_size(tensor.name, stored_as, tensor.shape);
  const std::vector<std::byte> stored = check_reading(
      laws, concat(called, ", stored"), size,
      [&](std::uint64_t offset, mutable_bytes destination) { source.read_stored(index, offset, destination); });
  std::vector<std::byte> converted = stored;
  if (is_cast) {
    converted.assign(seen.size(), std::byte{5});
    convert_floats(stored_as, stored.data(), tensor.dtype, converted.data(), size / (bits(stored_as) / 8));
  }
  laws.expect(converted == seen, concat(called, ": read() gives what is stored, converted"));
}

template <PositionedSource S>
void check_position(law_list& laws, S& source, std::size_t index, std::string_view called,
                    const std::vector<std::byte>& seen) {
  const std::optional<file_position> known = std::as_const(source).position_of(index);
  laws.expect(known == std::optional<file_position>(std::as_const(source).position_of(index)),
              concat(called, ": its position stays"));
  if (!known) {
    return;
  }
  const file_position position = *known;
  const bool exists = position.file < static_cast<std::size_t>(std::as_const(source).file_count());
  laws.expect(exists, concat(called, ": its file is below file_count()"));
  if (exists) {
    const std::vector<std::byte> found = check_reading(
        laws, concat(called, ", in its file"), seen.size(), [&](std::uint64_t offset, mutable_bytes destination) {
          source.read_file(position.file, position.offset + offset, destination);
        });
    laws.expect(found == seen, concat(called, ": the file has its bytes at its position"));
    if constexpr (VectoredSource<S>) {
      const std::vector<std::byte> parts = check_reading(
          laws, concat(called, ", in parts"), seen.size(), [&](std::uint64_t offset, mutable_bytes destination) {
            const std::size_t third = destination.size() / 3;
            const std::array<mutable_bytes, 4> into{destination.first(third), destination.subspan(third, 0),
                                                    destination.subspan(third, third), destination.subspan(2 * third)};
            source.read_file_into(position.file, position.offset + offset, into);
          });
      laws.expect(parts == seen, concat(called, ": parts by one read are the whole"));
    }
  }
}

/// That runs are those of the whole, through tiles of any size.
template <AssemblingSource S>
void check_assembly(law_list& laws, S& source, std::size_t index, std::string_view called,
                    const std::vector<std::byte>& seen) {
  const std::uint64_t stride = seen.size() / 3;
  const std::uint64_t run = stride / 2 + 1;
  for (const std::uint64_t tile_bytes :
       {std::uint64_t{0}, std::uint64_t{40}, std::as_const(source).tile_bytes(index)}) {
    if (stride == 0) {
      continue;
    }
    std::vector<std::byte> tile(tile_bytes);
    const byte_region runs{.offset = stride - run, .run = run, .stride = stride, .count = 3};
    std::vector<std::byte> wanted;
    for_each_run(runs, 0, runs.bytes(), [&](std::uint64_t global, std::uint64_t /*local*/, std::uint64_t length) {
      const auto first = seen.begin() + static_cast<std::ptrdiff_t>(global);
      wanted.insert(wanted.end(), first, first + static_cast<std::ptrdiff_t>(length));
    });
    std::vector<std::byte> found(runs.bytes());
    source.read_runs(index, runs, found, tile);
    laws.expect(found == wanted,
                concat(called, ": runs through a tile of ", tile_bytes, " bytes are those of the whole"));
  }
}

template <FingerprintedSource S>
void check_files(law_list& laws, const S& source) {
  const std::vector<file_fingerprint> files = source.file_fingerprints();
  const std::vector<file_fingerprint> again = source.file_fingerprints();
  bool same = files.size() == again.size();
  for (std::size_t i = 0; same && i < files.size(); ++i) {
    same = files[i].path == again[i].path && files[i].bytes == again[i].bytes && files[i].header == again[i].header;
  }
  laws.expect(same, "the fingerprints of files stay");
  const std::span<const tensor_descriptor> tensors = source.tensors();
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    laws.expect(source.file_of(i).value_or(0) < files.size() || !source.file_of(i),
                concat(printable(tensors[i].name), ": the file it is read from has a fingerprint"));
  }
}

}  // namespace detail

/// The laws of `StateDictSource`, and of its refinements where they are modelled. Reads every tensor several times into
/// memory: for small state dicts.
template <StateDictSource S>
[[nodiscard]] violations check_source(S& source) {
  detail::law_list laws;
  const std::span<const tensor_descriptor> tensors = std::as_const(source).tensors();
  std::set<std::string_view> names;
  for (const tensor_descriptor& tensor : tensors) {
    laws.expect(names.insert(tensor.name).second, concat("names are unique: ", printable(tensor.name)));
  }
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const std::string called = printable(tensors[i].name);
    laws.run(concat("reading ", called), [&] {
      const std::vector<std::byte> seen =
          detail::check_reading(laws, called, byte_size(tensors[i]),
                                [&](std::uint64_t offset, mutable_bytes to) { source.read(i, offset, to); });
      if constexpr (CastingSource<S>) {
        detail::check_cast(laws, source, i, seen);
      }
      if constexpr (PositionedSource<S>) {
        detail::check_position(laws, source, i, called, seen);
      }
      if constexpr (AssemblingSource<S>) {
        detail::check_assembly(laws, source, i, called, seen);
      }
    });
  }
  if constexpr (FingerprintedSource<S>) {
    detail::check_files(laws, std::as_const(source));
  }
  laws.expect(std::as_const(source).tensors().data() == tensors.data(), "tensors() stays where it is");
  return laws.take();
}

}  // namespace fsdpinit::testing
