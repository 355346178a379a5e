#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>

#include <mpi.h>
#include <unistd.h>

namespace {

/// Every rank runs every test; rank 0 reports, and any rank its failures. A test that hangs ends the job.
class rank_listener : public testing::EmptyTestEventListener {
 public:
  explicit rank_listener(int rank) : rank_(rank) {}
  void OnTestStart(const testing::TestInfo& info) override {
    static_cast<void>(info);
    alarm(seconds_per_test);
  }
  void OnTestPartResult(const testing::TestPartResult& result) override {
    if (result.failed() && rank_ != 0) {
      std::fprintf(stderr, "rank %d: %s:%d: %s\n", rank_, result.file_name(), result.line_number(), result.message());
    }
  }

 private:
  static constexpr unsigned seconds_per_test = 100;
  int rank_;
};

}  // namespace

int main(int count, char** arguments) {
  testing::InitGoogleTest(&count, arguments);
  int level = MPI_THREAD_SINGLE;
  MPI_Init_thread(&count, &arguments, MPI_THREAD_MULTIPLE, &level);
  int rank = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  testing::TestEventListeners& listeners = testing::UnitTest::GetInstance()->listeners();
  if (rank != 0) {
    delete listeners.Release(listeners.default_result_printer());
  }
  listeners.Append(std::make_unique<rank_listener>(rank).release());
  int failed = RUN_ALL_TESTS();
  MPI_Allreduce(MPI_IN_PLACE, &failed, 1, MPI_INT, MPI_MAX, MPI_COMM_WORLD);
  MPI_Finalize();
  return failed;
}
