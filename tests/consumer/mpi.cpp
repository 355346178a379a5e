#include <fsdpinit/core.hpp>

#include <cstdio>

#include <mpi.h>

#if defined(MPIPP_H) || defined(MPICXX_INCLUDED)  // Open MPI, MPICH
#error "mpi.h includes MPI's withdrawn C++ bindings"
#endif

int main() {
  int initialized = 1;
  const bool answered = MPI_Initialized(&initialized) == MPI_SUCCESS;
  std::printf("MPI answers: %d\n", static_cast<int>(answered && initialized == 0));
}
