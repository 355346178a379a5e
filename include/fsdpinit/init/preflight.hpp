#pragma once

#include <fsdpinit/concepts/communicator.hpp>
#include <fsdpinit/control/agreement.hpp>
#include <fsdpinit/control/wire.hpp>
#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/core/deadline.hpp>
#include <fsdpinit/core/error.hpp>
#include <fsdpinit/core/tensor_descriptor.hpp>
#include <fsdpinit/init/manifest.hpp>
#include <fsdpinit/sources/as_stored.hpp>
#include <fsdpinit/sources/repeated_name.hpp>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

/// \file
/// What ranks settle before anything changes: that all were called alike, and what the state dict holds.

namespace fsdpinit::detail {

/// No rank goes on unless all were called alike: `describe()` is this rank's manifest. Collective: two agreements and a
/// broadcast. \throws error{disagreement} naming the lowest rank that differs from rank 0, and what `describe` throws.
template <Communicator Control, class Describe>
void require_equal_calls(Control& control, double deadline_seconds, Describe&& describe) {
  const bool is_reference = control.rank() == 0;
  std::string mine;
  std::string reference;
  agreed(control, deadline_seconds, [&] { (is_reference ? reference : mine) = own_step(describe); });
  reference = broadcast_bytes(control, std::move(reference), 0, deadline::after(deadline_seconds));
  agreed(control, deadline_seconds, [&] {
    if (!is_reference) {
      require_equal_manifests(reference, mine);
    }
  });
}

/// \throws error{disagreement} naming the first tensor in which two ranks' state dicts differ.
inline void require_equal_sources(const state_dict_contents& reference, const state_dict_contents& mine,
                                  std::size_t source_rank) {
  const std::size_t theirs = reference.tensors.size();
  for (std::size_t i = 0; i < theirs || i < mine.tensors.size(); ++i) {
    const bool missing = i >= mine.tensors.size();
    if (missing || i >= theirs || reference.tensors[i] != mine.tensors[i] ||
        reference.stored_name(i) != mine.stored_name(i) || reference.stored_dtype(i) != mine.stored_dtype(i)) {
      throw error(errc::disagreement, missing ? reference.tensors[i].name : mine.tensors[i].name,
                  concat("this rank's checkpoint differs from that of rank ", source_rank,
                         " here; give every rank the same checkpoint"));
    }
  }
}

/// \throws error{invalid_argument} naming what a source lists twice: nobody knows which of the two is meant.
inline void require_names_once(const state_dict_contents& contents) {
  if (const std::string* const twice = repeated_name(contents.tensors, &tensor_descriptor::name); twice != nullptr) {
    throw error(errc::invalid_argument, *twice, "the source lists two tensors of this name; names must be unique");
  }
}

/// What the source rank's state dict holds, on every rank. `open()` returns the source; it is called on the source rank and on
/// others that read (`reads`), which must find the same. Collective: two agreements and a broadcast.
template <Communicator Control, class Open>
[[nodiscard]] state_dict_contents contents_of_source(Control& control, std::size_t source_rank, bool reads,
                                                     double deadline_seconds, Open&& open) {
  state_dict_contents mine;
  std::vector<std::byte> wire;
  agreed(control, deadline_seconds, [&] {
    if (reads) {
      mine = own_step([&] { return contents_of(open()); });
      require_names_once(mine);
    }
    if (control.rank() == source_rank && control.size() != 1) {
      wire = encode(mine);
    }
  });
  wire = broadcast_bytes(control, std::move(wire), source_rank, deadline::after(deadline_seconds));
  state_dict_contents theirs;
  agreed(control, deadline_seconds, [&] {
    if (control.rank() == source_rank) {
      theirs = std::move(mine);
      return;
    }
    theirs = decode_contents(wire);
    if (reads) {
      require_equal_sources(theirs, mine, source_rank);
    }
  });
  return theirs;
}

/// For a choice that depends on every rank being able to read the source: empty where all can; else which rank, the lowest,
/// cannot and why. Collective: a reduction, and where one cannot, two agreements and a broadcast.
template <Communicator Control>
[[nodiscard]] std::string why_not_all_read(Control& control, double deadline_seconds,
                                           const std::optional<error>& unreadable) {
  const std::uint64_t mine = unreadable ? control.size() - control.rank() : 0;
  const std::uint64_t worst = all_reduce_max(control, mine, deadline::after(deadline_seconds));
  if (worst == 0) {
    return {};
  }
  const std::size_t unable = control.size() - static_cast<std::size_t>(worst);
  std::string why;
  agreed(control, deadline_seconds, [&] {
    if (control.rank() == unable) {
      why = unreadable->what();
    }
  });
  why = broadcast_bytes(control, std::move(why), unable, deadline::after(deadline_seconds));
  std::string text;
  agreed(control, deadline_seconds, [&] { text = concat("rank ", unable, " cannot read the checkpoint: ", why); });
  return text;
}

}  // namespace fsdpinit::detail
