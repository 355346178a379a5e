#pragma once

#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/core/error.hpp>
#include <fsdpinit/core/text.hpp>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

/// \file
/// Groups of ranks as the operations of a communicator take them: ascending ranks, the caller's among them.

namespace fsdpinit::detail {

/// The group of all ranks of a communicator of `size`.
[[nodiscard]] inline std::vector<std::size_t> all_ranks(std::size_t size) {
  std::vector<std::size_t> ranks(size);
  for (std::size_t rank = 0; rank < size; ++rank) {
    ranks[rank] = rank;
  }
  return ranks;
}

/// The ranks of a group; one of none is that of all.
[[nodiscard]] inline std::vector<std::size_t> members_of(std::span<const std::size_t> group, std::size_t size) {
  return group.empty() ? all_ranks(size) : std::vector<std::size_t>(group.begin(), group.end());
}

[[nodiscard]] inline bool contains(std::span<const std::size_t> group, std::size_t rank) noexcept {
  for (const std::size_t each : group) {
    if (each == rank) {
      return true;
    }
  }
  return false;
}

/// Where `rank` is in a group that it is in.
[[nodiscard]] inline std::size_t index_in(std::span<const std::size_t> group, std::size_t rank) noexcept {
  std::size_t index = 0;
  while (group[index] != rank) {
    ++index;
  }
  return index;
}

/// \throws error{invalid_argument} unless `whole` is a part of size `part` for each of `ranks` ranks.
inline void check_parts(std::uint64_t part, std::uint64_t whole, std::size_t ranks, std::string_view unit) {
  std::uint64_t wanted = 0;
  if (!checked_multiply(part, ranks, wanted) || wanted != whole) {
    throw error(errc::invalid_argument, "own",
                concat(part, " ", unit, " of each of ", ranks, " ranks are not ", whole,
                       "; pad the parts to one size, and the whole to all of them"));
  }
}

/// \throws error{invalid_argument} for a group that is none, or that this rank or the root is not in.
inline void check_group(std::span<const std::size_t> group, std::size_t rank, std::size_t root, std::size_t size) {
  bool ascending = group.empty() || group.back() < size;
  for (std::size_t i = 1; i < group.size(); ++i) {
    ascending = ascending && group[i - 1] < group[i];
  }
  if (!ascending) {
    throw error(errc::invalid_argument, "group",
                concat("the ranks of a group are ascending and below ", size, "; sort them"));
  }
  for (const std::size_t member : {rank, root}) {
    if (!contains(group, member)) {
      throw error(errc::invalid_argument, "group",
                  concat("rank ", member, " is not in the group that rank ", rank,
                         " gave; each rank gives the group it belongs to, and a root of that group"));
    }
  }
}

/// What a deadline says: who did not come, not who waited; the first eight of them.
[[nodiscard]] inline error lost_ranks(std::span<const std::size_t> missing, std::string_view details = "") {
  if (missing.empty()) {
    return {errc::peer_lost,
            "",
            concat("the ranks did not come together within the deadline, though all of them answer; raise "
                   "deadline_seconds, or look for one that waits for something else",
                   details),
            {.rank = every_rank}};
  }
  constexpr std::size_t most_named = 8;
  const bool one = missing.size() == 1;
  std::string names = one ? "rank " : "ranks ";
  for (std::size_t i = 0; i < missing.size() && i < most_named; ++i) {
    append_to(names, i == 0 ? "" : ", ", missing[i]);
  }
  return {errc::peer_lost,
          names + (missing.size() > most_named ? ", ..." : ""),
          concat("did not answer within the deadline; find out what became of ", one ? "it" : "them",
                 ", or raise deadline_seconds", details),
          {.rank = every_rank}};
}

}  // namespace fsdpinit::detail
