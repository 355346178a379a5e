// lost_peer RANK kill|stop|exit PHASE abort|throw|stuck DEADLINE FILE
//
// Initialises a model over MPI; in the phase `collectives`, has those instead. RANK is lost in that phase, having written the time
// (seconds since 1970) to FILE. Survivors end as the library's `abort_job` has it or, with `throw`, say what they caught and end the
// job themselves; with `stuck` their MPI_Abort never comes back. The program has a handler and a timer for SIGALRM, and says so if they
// are not what they were when the library calls MPI_Abort.
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
#include <sys/time.h>
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

extern "C" void on_alarm(int /*signal*/) {}

constexpr itimerval alarms{.it_interval = {.tv_sec = 1000, .tv_usec = 0}, .it_value = {.tv_sec = 1000, .tv_usec = 0}};

void set_alarms() {
  struct sigaction action {};
  action.sa_handler = on_alarm;
  sigaction(SIGALRM, &action, nullptr);
  setitimer(ITIMER_REAL, &alarms, nullptr);
}

[[nodiscard]] bool alarms_are_set() {
  struct sigaction action {};
  itimerval timer{};
  return sigaction(SIGALRM, nullptr, &action) == 0 && action.sa_handler == on_alarm &&
         getitimer(ITIMER_REAL, &timer) == 0 && timer.it_interval.tv_sec == alarms.it_interval.tv_sec;
}

bool abort_is_stuck = false;  // MPI_Abort below has no other way to know

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
    world.all_gather(std::as_bytes(std::span(part)), std::as_writable_bytes(std::span(whole)), {},
                     deadline::after(deadline_seconds));
    if (round == 10 && world.rank() == what.rank) {
      what.happen();
    }
    world.reduce_scatter(whole, part, {}, deadline::after(deadline_seconds));
  }
}

}  // namespace

/// MPI's profiling interface: the library's call comes here.
extern "C" int MPI_Abort(MPI_Comm world, int code) {
  if (!alarms_are_set()) {
    std::fputs("the program's alarms are gone\n", stderr);
  }
  while (abort_is_stuck) {
    pause();
  }
  return PMPI_Abort(world, code);
}

int main(int count, char** arguments) {
  if (count != 7) {
    std::fprintf(stderr, "usage: lost_peer RANK kill|stop|exit PHASE abort|throw|stuck DEADLINE FILE\n");
    return 2;
  }
  MPI_Init(&count, &arguments);
  const loss what{.rank = std::strtoul(arguments[1], nullptr, 10),
                  .how = arguments[2],
                  .where = arguments[3],
                  .file = arguments[6]};
  const bool throws = std::string_view(arguments[4]) == "throw";
  abort_is_stuck = std::string_view(arguments[4]) == "stuck";
  set_alarms();
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
                   {.bucket_bytes = 97, .deadline_seconds = seconds, .progress_interval_seconds = 0},
                   {.memory = memory, .observer = dying_observer(what, world.rank())});
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
