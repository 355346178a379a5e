#include <fsdpinit/core.hpp>

#include <cstdio>

#include <mpi.h>

// The casts in MPI's own names would be warnings, were its headers not system headers.
bool is_world(MPI_Comm communicator) { return communicator == MPI_COMM_WORLD; }

int main() {
  int initialized = 1;
  const bool answered = MPI_Initialized(&initialized) == MPI_SUCCESS;
  std::printf("MPI answers: %d\n", static_cast<int>(answered && initialized == 0 && !is_world(MPI_COMM_NULL)));
}
