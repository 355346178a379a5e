#pragma once

#include <fsdpinit/communicators/mpi.hpp>
#include <fsdpinit/core/text.hpp>

#include <gtest/gtest.h>

namespace fsdpinit::testing_support {

/// Calls `fn` with the world as one node, with nodes that share no memory, and with two nodes of two ranks or in turns:
/// every way that a payload can take.
template <class Fn>
void for_each_world(Fn&& fn) {
  int rank = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  struct kind {
    const char* name;
    mpi_options how;
  };
  const kind kinds[] = {{"one node", {}},
                        {"no shared memory", {.staging_bytes = 0}},
                        {"two ranks a node", {.window_group = rank / 2}},
                        {"two nodes in turns", {.window_group = rank % 2}}};
  for (const kind& each : kinds) {
    SCOPED_TRACE(each.name);
    mpi_communicator world(MPI_COMM_WORLD, each.how);
    fn(world);
  }
}

}  // namespace fsdpinit::testing_support
