#include "support/rank_listener.hpp"

#include <gtest/gtest.h>

#include <mpi.h>

int main(int count, char** arguments) {
  testing::InitGoogleTest(&count, arguments);
  int level = MPI_THREAD_SINGLE;
  MPI_Init_thread(&count, &arguments, MPI_THREAD_MULTIPLE, &level);
  int rank = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  fsdpinit::testing_support::rank_listener::install(rank);
  int failed = RUN_ALL_TESTS();
  MPI_Allreduce(MPI_IN_PLACE, &failed, 1, MPI_INT, MPI_MAX, MPI_COMM_WORLD);
  MPI_Finalize();
  return failed;
}
