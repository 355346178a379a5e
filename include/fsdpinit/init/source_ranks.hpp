#pragma once

#include <fsdpinit/core/error.hpp>
#include <fsdpinit/init/options.hpp>
#include <fsdpinit/init/payload_link.hpp>
#include <fsdpinit/plan/rank_groups.hpp>
#include <fsdpinit/plan/verification.hpp>

#include <cstddef>
#include <vector>

namespace fsdpinit::detail {

/// Who reads for whom, from the options and what the communicator knows.
/// \throws error{invalid_argument} if it knows no nodes, or cannot work in groups, and one source per node was asked for.
[[nodiscard]] inline source_layout sources_of(const payload_link& data, const options& how, std::size_t ranks) {
  const link_abilities& can = data.can();
  source_layout out{.source_rank = how.source_rank, .grouped = can.groups};
  for (std::size_t rank = 0; can.knows_nodes && how.verify == verification::reread && rank < ranks; ++rank) {
    out.nodes.push_back(data.node_of(rank));
  }
  if (how.sources == source_ranks::one) {
    return out;
  }
  if (!can.groups || !can.knows_nodes) {
    throw error(errc::invalid_argument, "sources",
                "one source per node needs a data communicator that knows nodes (node_of) and works in groups; use "
                "source_ranks::one",
                {.rank = every_rank});
  }
  const std::size_t home = data.node_of(how.source_rank);
  bool several = false;
  for (std::size_t rank = 0; rank < ranks; ++rank) {
    const std::size_t node = data.node_of(rank);  // its lowest rank
    several = several || node != home;
    out.source_of.push_back(node == home ? how.source_rank : node);
  }
  if (!several) {
    out.source_of.clear();
  }
  return out;
}

}  // namespace fsdpinit::detail
