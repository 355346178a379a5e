// Preloaded into the processes of an MPI job that is to be timed: each says that MPI_Init is behind it, by a file ready-PID in the
// folder START_TOGETHER, and goes on once a file `go` is there too. MPI's profiling interface: calls of MPI_* come here first.
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>

#include <mpi.h>
#include <unistd.h>

namespace {

void wait_for_go() {
  const char* const folder = std::getenv("START_TOGETHER");  // NOLINT(concurrency-mt-unsafe): nobody sets it
  if (folder == nullptr) {
    return;
  }
  const std::filesystem::path meeting(folder);
  std::ofstream ready(meeting / ("ready-" + std::to_string(getpid())));
  ready.close();
  while (!std::filesystem::exists(meeting / "go")) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
}

}  // namespace

extern "C" int MPI_Init(int* count, char*** arguments) {
  const int code = PMPI_Init(count, arguments);
  wait_for_go();
  return code;
}

extern "C" int MPI_Init_thread(int* count, char*** arguments, int required, int* provided) {
  const int code = PMPI_Init_thread(count, arguments, required, provided);
  wait_for_go();
  return code;
}
