#pragma once

#include <fsdpinit/concepts/control_ref.hpp>
#include <fsdpinit/control/agreement.hpp>
#include <fsdpinit/control/wire.hpp>
#include <fsdpinit/core/deadline.hpp>
#include <fsdpinit/core/error.hpp>
#include <fsdpinit/core/text.hpp>
#include <fsdpinit/engine/payload_link.hpp>
#include <fsdpinit/init/fingerprint.hpp>
#include <fsdpinit/init/manifest.hpp>
#include <fsdpinit/sources/repeated_name.hpp>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

/// \file
/// What ranks settle before anything changes: that all were called alike, and what the state dict holds.

namespace fsdpinit::detail {

/// Ranks are numbered alike on both channels, or parts go to the wrong ranks. \throws error{invalid_argument}
inline void require_equal_ranks(const payload_link& data, control_ref control) {
  const std::size_t ranks = data.size();
  const std::size_t rank = data.rank();
  if (rank != control.rank() || ranks != control.size()) {
    throw error(
        errc::invalid_argument, "ranks",
        concat("this rank is rank ", rank, " of ", ranks, " on the data channel, but rank ", control.rank(), " of ",
               control.size(), " on the control channel; make both of the same ranks in the same order"));
  }
}

/// No rank goes on unless all were called alike: `describe()` is this rank's manifest. Collective: two agreements and a
/// broadcast. \throws error{disagreement} naming the lowest rank that differs from rank 0, and what `describe` throws.
template <class Describe>
void require_equal_calls(control_ref control, double deadline_seconds, Describe&& describe) {
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

/// Who opens the source.
struct source_readers {
  bool here = false;     ///< this rank
  bool several = false;  ///< more than one, perhaps after this; the same on every rank
};

/// \throws error{invalid_argument} naming what a source lists twice: nobody knows which of the two is meant.
inline void require_names_once(const state_dict_contents& contents) {
  if (const std::string* const twice = repeated_name(contents.tensors, &tensor_descriptor::name); twice != nullptr) {
    throw error(errc::invalid_argument, *twice, "the source lists two tensors of this name; names must be unique");
  }
}

/// What the source rank's state dict is, on every rank. `open()` returns the source; it is called on the source rank
/// and on others that read, which must find the same. Where several read, each of them takes samples of it. Collective:
/// two agreements and a broadcast. \throws error{disagreement} naming a rank that found another state dict, and the
/// tensor or file.
template <class Open>
[[nodiscard]] source_identity identity_of_source(control_ref control, std::size_t source_rank, source_readers readers,
                                                 double deadline_seconds, Open&& open) {
  source_identity mine;
  std::vector<std::byte> wire;
  agreed(control, deadline_seconds, [&] {
    if (readers.here) {
      mine = own_step([&] { return identity_of(open(), readers.several); });
      require_names_once(mine.contents);
    }
    if (control.rank() == source_rank && control.size() != 1) {
      wire = encode(mine);
    }
  });
  wire = broadcast_bytes(control, std::move(wire), source_rank, deadline::after(deadline_seconds));
  source_identity theirs;
  agreed(control, deadline_seconds, [&] {
    if (control.rank() == source_rank) {
      theirs = std::move(mine);
      return;
    }
    theirs = decode_identity(wire);
    if (readers.here) {
      require_equal_sources(theirs, mine, source_rank);
    }
  });
  return theirs;
}

/// Runs `fn`, which opens the checkpoint. What it says of the checkpoint comes back: it cannot be read here, or is
/// another one. Other failures are thrown, as they are none of these.
template <class Fn>
[[nodiscard]] std::optional<error> why_unreadable(Fn&& fn) {
  try {
    std::forward<Fn>(fn)();
    return std::nullopt;
  } catch (const error& found) {
    if (found.code() != errc::io && found.code() != errc::invalid_file && found.code() != errc::disagreement) {
      throw;
    }
    return found;
  }
}

/// For a choice that depends on every rank being able to read the source: empty where all can; else which rank, the lowest,
/// cannot and why. Collective: a reduction, and where one cannot, an agreement and a broadcast.
[[nodiscard]] inline std::string why_not_all_read(control_ref control, double deadline_seconds,
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
      const bool another = unreadable->code() == errc::disagreement;
      why = concat("rank ", unable,
                   another ? " has another checkpoint: " : " cannot read the checkpoint: ", unreadable->what());
    }
  });
  return broadcast_bytes(control, std::move(why), unable, deadline::after(deadline_seconds));
}

}  // namespace fsdpinit::detail
