// lost_peer RANK kill|stop|exit PHASE abort|throw DEADLINE FILE
//
// Initialises a model over MPI; in the phase `collectives`, has those instead. RANK is lost in that phase, having written the time
// (seconds since 1970) to FILE. Survivors end as the library's `abort_job` has it or, with `throw`, say what they caught and end the
// job themselves.
#include "support/reference_model.hpp"
#include <fsdpinit/communicators/mpi.hpp>
#include <fsdpinit/fsdpinit.hpp>

#include <csignal>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <mpi.h>
#include <unistd.h>

namespace {

using namespace fsdpinit;

struct loss {
  std::size_t rank = 0;
  std::string_view how;
  std::string_view where;
  const char* file = nullptr;

  void happen() const {
    std::timespec now{};
    clock_gettime(CLOCK_REALTIME, &now);
    if (std::FILE* const out = std::fopen(file, "w")) {
      std::fprintf(out, "%ld.%09ld\n", static_cast<long>(now.tv_sec), now.tv_nsec);
      std::fclose(out);
    }
    if (how == "exit") {
      std::_Exit(0);
    }
    std::raise(how == "stop" ? SIGSTOP : SIGKILL);
  }
};

/// In mid-stream the source is lost while it reads, any other rank when it begins to receive.
class dying_observer {
 public:
  dying_observer(const loss& what, std::size_t rank) : what_(what), dies_(rank == what.rank) {}
  void phase(std::string_view name) {
    if (dies_ && name == what_.where && (name != "stream" || what_.rank != 0)) {
      what_.happen();
    }
  }
  void progress(std::uint64_t done, std::uint64_t total) {
    if (dies_ && what_.where == "stream" && done * 2 > total) {
      what_.happen();
    }
  }

 private:
  const loss& what_;
  bool dies_;
};

/// As in training: parts are gathered, gradients reduced, again and again.
void have_collectives(mpi_communicator& world, const loss& what, double deadline_seconds) {
  std::vector<float> part(50'000);
  std::vector<float> whole(part.size() * world.size());
  for (int round = 0; round < 20; ++round) {
    world.all_gather(std::as_bytes(std::span(part)), std::as_writable_bytes(std::span(whole)),
                     deadline::after(deadline_seconds));
    if (round == 10 && world.rank() == what.rank) {
      what.happen();
    }
    world.reduce_scatter(whole, part, deadline::after(deadline_seconds));
  }
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 7) {
    std::fprintf(stderr, "usage: lost_peer RANK kill|stop|exit PHASE abort|throw DEADLINE FILE\n");
    return 2;
  }
  MPI_Init(&count, &arguments);
  const loss what{.rank = std::strtoul(arguments[1], nullptr, 10),
                  .how = arguments[2],
                  .where = arguments[3],
                  .file = arguments[6]};
  const bool throws = std::string_view(arguments[4]) == "throw";
  {
    mpi_communicator world(MPI_COMM_WORLD,
                           {.when_peer_lost = throws ? peer_lost_action::throw_error : peer_lost_action::abort_job});
    const testing_support::reference_model model = testing_support::varied_model();
    host_memory memory;
    dynamic_module module = model.module(memory, world.rank() == 0);
    try {
      const double seconds = std::strtod(arguments[5], nullptr);
      if (what.where == "collectives") {
        have_collectives(world, what, seconds);
      } else {
        initialize(module, model.source(), world,
                   {.bucket_bytes = 97, .deadline_seconds = seconds, .progress_interval_seconds = 0}, memory,
                   dying_observer(what, world.rank()));
      }
    } catch (const error& caught) {
      if (world.speaks_for_survivors()) {
        std::printf("caught %s\n", std::string(name(caught.code())).c_str());
        std::fflush(stdout);
      }
      world.abort_job(caught);
    }
  }
  MPI_Finalize();
  std::printf("no rank was lost\n");
  return 0;
}
