#pragma once

#include <fsdpinit/core/error.hpp>

#include <fmt/format.h>

#include <cstdio>

#include <mpi.h>

namespace fsdpinit::bench {

/// The `main` of a benchmark that is an MPI job: `run(count, arguments)` between MPI_Init and MPI_Finalize. `usage` is that of its
/// `arguments` and begins with its name; `needed` is how many of them it cannot do without.
template <class Run>
int mpi_main(int count, char** arguments, int needed, const char* usage, Run&& run) {
  if (count <= needed) {
    fmt::print(stderr, "usage: mpiexec -n RANKS {}\n", usage);
    return 2;
  }
  MPI_Init(&count, &arguments);
  int code = 1;
  try {
    code = run(count, arguments);
  } catch (const error& failure) {
    fmt::print(stderr, "{}: {}\n", arguments[0], failure.what());
  }
  MPI_Finalize();
  return code;
}

}  // namespace fsdpinit::bench
