#pragma once

#include <fsdpinit/concepts/communicator.hpp>
#include <fsdpinit/concepts/control_ref.hpp>
#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/core/compiler.hpp>
#include <fsdpinit/core/deadline.hpp>
#include <fsdpinit/cost/cluster.hpp>
#include <fsdpinit/engine/payload_link.hpp>
#include <fsdpinit/init/argument_checks.hpp>
#include <fsdpinit/init/arguments.hpp>
#include <fsdpinit/init/source_in_use.hpp>

#include <cstddef>
#include <cstdint>
#include <type_traits>

/// \file
/// The figures by which `cost_on` predicts, measured where the job runs.

namespace fsdpinit {

/// Equal on every rank but for the deadline; a difference is an error that names it.
struct calibration {
  std::size_t source_rank = 0;
  /// That each rank reads, copies and writes at a time; each is done six times. 32 MiB take a machine of 5 GB/s 0.1 s in all.
  std::uint64_t probe_bytes = 32 * mib;
  double deadline_seconds = default_deadline_seconds;  ///< how long a rank waits for its peers
};

namespace detail {

/// Collective. \throws the same error on every rank
FSDPINIT_INLINE cluster run_calibration(source_in_use& source, payload_link& data, control_ref control,
                                        const calibration& how);

}  // namespace detail

/// Measures, in a tenth of a second or so, what `cost_on` has to know of the place a job runs in: how fast a rank alone and all ranks of
/// a node together read this checkpoint as it is now (cached or not), copy, and write to fresh memory, and how long ranks take to
/// pass a bucket on; with several nodes what a broadcast between them comes to. Of each the median of three, at the pace of the
/// slowest rank; equal on every rank. Collective, over host memory; 4 MiB and, for a moment, `probe_bytes` on each rank.
///
/// \param source  What `initialize` would be given, but not `module_state`. Where only the source rank can read it, it is taken to
///                read for all.
/// \throws fsdpinit::error, the same on every rank.
template <class Source, class Channels>
[[nodiscard]] cluster calibrate(Source&& source, Channels&& ranks, const calibration& how = {}) {
  using given = std::remove_reference_t<Source>;
  constexpr bool is_sound = detail::require_source<given>() && detail::require_links<Channels>();
  if constexpr (is_sound) {
    const auto both = detail::channels_of(ranks);
    detail::payload_link_of data(both.data);
    typename detail::source_in_use_of<given>::type opened(source);
    return detail::run_calibration(opened, data, both.control, how);
  } else {
    return {};
  }
}

}  // namespace fsdpinit

#if FSDPINIT_DEFINES
#include <fsdpinit/cost/calibrator.hpp>
#endif
