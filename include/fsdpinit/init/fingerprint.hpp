#pragma once

#include <fsdpinit/concepts/state_dict_source.hpp>
#include <fsdpinit/control/wire.hpp>
#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/core/error.hpp>
#include <fsdpinit/core/tensor_descriptor.hpp>
#include <fsdpinit/core/text.hpp>
#include <fsdpinit/sources/source_ref.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

/// \file
/// How ranks that read by themselves see that they read the same checkpoint: the sizes and headers of its files,
/// wherever these lie, and samples of its data. That is evidence; `verification::reread` is proof.

namespace fsdpinit {

/// Samples of a checkpoint's data, each of which is one read, and the bytes of one.
inline constexpr std::size_t most_samples = 64;
inline constexpr std::uint64_t sample_bytes = 32;

namespace detail {

/// Bytes [begin, begin + bytes) of a tensor as it is stored.
struct data_sample {
  std::size_t tensor = 0;
  std::uint64_t begin = 0;
  std::uint64_t bytes = 0;
  std::optional<std::size_t> file{};  ///< of the fingerprint; for errors
};

/// Where samples are taken: the data are cut into equal stretches, and each has one at a place that looks random. A
/// small checkpoint is read nearly whole. Pure, and equal for equal contents. O(tensors).
[[nodiscard]] inline std::vector<data_sample> sample_places(const state_dict_contents& contents) {
  std::vector<std::uint64_t> ends;  // of each tensor, in all of them
  ends.reserve(contents.tensors.size());
  std::uint64_t total = 0;
  for (std::size_t i = 0; i < contents.tensors.size(); ++i) {
    const tensor_descriptor& tensor = contents.tensors[i];
    const std::uint64_t bytes = byte_size(tensor.name, contents.stored_dtype(i), tensor.shape);
    if (bytes > ~total) {
      break;  // no file is that large; what comes before will do
    }
    total += bytes;
    ends.push_back(total);
  }
  std::vector<data_sample> places(smaller(most_samples, ceil_div(total, sample_bytes)));
  std::uint64_t jitter = total;
  for (std::size_t i = 0; i < places.size(); ++i) {
    const std::uint64_t longer = total % places.size();  // so many stretches have a byte more
    const std::uint64_t stretch = total / places.size() + (i < longer ? 1 : 0);
    const std::uint64_t room = stretch > sample_bytes ? stretch - sample_bytes + 1 : 1;
    jitter = jitter * 6364136223846793005 + 1442695040888963407;  // Knuth's generator: its upper bits are good
    const std::uint64_t at = i * (total / places.size()) + smaller(i, longer) + (jitter >> 16U) % room;
    const std::size_t tensor = static_cast<std::size_t>(std::upper_bound(ends.begin(), ends.end(), at) - ends.begin());
    const std::uint64_t first = tensor == 0 ? 0 : ends[tensor - 1];
    places[i] = {.tensor = tensor, .begin = at - first, .bytes = smaller(sample_bytes, ends[tensor] - at)};
  }
  return places;
}

struct checkpoint_fingerprint {
  std::vector<file_fingerprint> files{};
  std::vector<data_sample> places{};  ///< not sent: they follow from what the state dict holds
  std::vector<std::byte> samples{};   ///< one after the other
};

/// What the state dict is, and how to tell it from others that list the same.
struct source_identity {
  state_dict_contents contents{};
  checkpoint_fingerprint fingerprint{};  ///< empty where one rank alone reads
};

/// Reads at most `most_samples` times, and nothing where no fingerprint is asked for. \throws what the source throws
[[nodiscard]] inline source_identity identity_of(source_ref source, bool with_fingerprint) {
  source_identity out{.contents = source.contents()};
  if (!with_fingerprint) {
    return out;
  }
  checkpoint_fingerprint& print = out.fingerprint;
  print.files = source.file_fingerprints();
  print.places = sample_places(out.contents);
  print.samples.resize(print.places.size() * sample_bytes);
  mutable_bytes rest(print.samples);
  for (data_sample& place : print.places) {
    place.file = source.file_of(place.tensor);
    source.read_stored(place.tensor, place.begin, rest.first(place.bytes));
    rest = rest.subspan(place.bytes);
  }
  print.samples.resize(print.samples.size() - rest.size());
  return out;
}

[[nodiscard]] inline std::vector<std::byte> encode(const source_identity& identity) {
  wire_writer out;
  encode(out, identity.contents);
  out.number(identity.fingerprint.files.size());
  for (const file_fingerprint& file : identity.fingerprint.files) {
    out.number(file.bytes);
    out.number(file.header);
  }
  const std::vector<std::byte>& samples = identity.fingerprint.samples;
  out.text({reinterpret_cast<const char*>(samples.data()), samples.size()});
  return std::move(out.bytes());
}

[[nodiscard]] inline source_identity decode_identity(bytes_view bytes) {
  wire_reader in(bytes);
  source_identity out{.contents = decode_contents(in)};
  out.fingerprint.files.resize(in.number());
  for (file_fingerprint& file : out.fingerprint.files) {
    file.bytes = in.number();
    file.header = in.number();
  }
  const std::string_view samples = in.text();
  const bytes_view sampled = std::as_bytes(std::span(samples));
  out.fingerprint.samples.assign(sampled.begin(), sampled.end());
  return out;
}

/// The text of an error about something in which a rank's checkpoint is not that of the source rank.
[[nodiscard]] inline std::string differs_text(std::string_view what, std::string_view theirs, std::size_t source_rank) {
  return concat(what, " that of rank ", source_rank, theirs, "; give every rank the same checkpoint");
}

inline void require_equal_contents(const state_dict_contents& reference, const state_dict_contents& mine,
                                   std::size_t source_rank) {
  const std::size_t theirs = reference.tensors.size();
  for (std::size_t i = 0; i < theirs || i < mine.tensors.size(); ++i) {
    const bool missing = i >= mine.tensors.size();
    if (missing || i >= theirs || reference.tensors[i] != mine.tensors[i] ||
        reference.stored_name(i) != mine.stored_name(i) || reference.stored_dtype(i) != mine.stored_dtype(i)) {
      throw error(errc::disagreement, missing ? reference.tensors[i].name : mine.tensors[i].name,
                  differs_text("this rank's checkpoint differs from", " here", source_rank));
    }
  }
}

/// \pre `mine.contents` are those of the reference.
inline void require_equal_fingerprints(const checkpoint_fingerprint& reference, const source_identity& mine,
                                       std::size_t source_rank) {
  const std::vector<file_fingerprint>& files = mine.fingerprint.files;
  const std::size_t theirs = reference.files.size();
  if (files.size() != theirs) {
    throw error(
        errc::disagreement, files.empty() ? std::string() : files.front().path,
        differs_text(concat("this rank's checkpoint has ", files.size(), files.size() == 1 ? " file," : " files,"),
                     concat(" has ", theirs), source_rank));
  }
  for (std::size_t i = 0; i < theirs; ++i) {
    if (files[i].bytes != reference.files[i].bytes) {
      throw error(errc::disagreement, files[i].path,
                  differs_text(concat("this rank's copy has ", files[i].bytes, " bytes,"),
                               concat(" has ", reference.files[i].bytes), source_rank));
    }
    if (files[i].header != reference.files[i].header) {
      throw error(errc::disagreement, files[i].path,
                  differs_text("this rank's copy has another header than", "", source_rank));
    }
  }
  bytes_view rest(mine.fingerprint.samples);
  bytes_view expected(reference.samples);
  for (const data_sample& place : mine.fingerprint.places) {
    const bytes_view sample = rest.first(place.bytes);
    const bytes_view wanted = expected.first(smaller(place.bytes, expected.size()));
    if (!std::equal(sample.begin(), sample.end(), wanted.begin(), wanted.end())) {
      const std::string& tensor = mine.contents.stored_name(place.tensor);
      const std::string where = concat(" between bytes ", place.begin, " and ", place.begin + place.bytes);
      throw place.file ? error(errc::disagreement, files[*place.file].path,
                               differs_text("this rank's copy holds other data than",
                                            concat(", in ", printable(tensor), where), source_rank))
                       : error(errc::disagreement, mine.contents.tensors[place.tensor].name,
                               differs_text("this rank's checkpoint holds other data than", where, source_rank));
    }
    rest = rest.subspan(sample.size());
    expected = expected.subspan(wanted.size());
  }
}

/// \throws error{disagreement} naming the first tensor or file in which two ranks' state dicts differ.
inline void require_equal_sources(const source_identity& reference, const source_identity& mine,
                                  std::size_t source_rank) {
  require_equal_contents(reference.contents, mine.contents, source_rank);
  require_equal_fingerprints(reference.fingerprint, mine, source_rank);
}

}  // namespace detail

}  // namespace fsdpinit
