// What no loader can beat, for the comparison with other loaders:
//
//   floor read PROCESSES FILE...    each process preads its 1/PROCESSES of all the bytes, all of them at once
//   floor copy 1 FILE...            one process copies as many bytes from memory to memory
//   floor hold BYTES                takes memory, prints a line, and gives it back at the end of its input
//
// into fresh anonymous memory that is advised to be huge pages, as the library's is. `read` and `copy` print one line of
// JSON: the seconds from a barrier to the end of the slowest process, and what each had resident before and at most.
//
// `hold` is for what comes before a timed load: a virtual machine's host takes back memory that has been free for some
// seconds, and to touch that first costs ten times what a load costs.
#include <fsdpinit/core/deadline.hpp>
#include <fsdpinit/memory/host_memory.hpp>
#include <fsdpinit/observe/resident_memory.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <new>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

#include <fcntl.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

namespace {

using namespace fsdpinit;

constexpr std::uint64_t piece_bytes = 4 * mib;  // the library's bucket
constexpr std::size_t most_processes = 256;

/// In memory that all processes share.
struct shared_state {
  std::atomic<std::size_t> ready{0};
  double began = 0;
  struct {
    double ended = 0;
    std::uint64_t base_bytes = 0;
    std::uint64_t peak_bytes = 0;
  } process[most_processes];
};

[[noreturn]] void fail(const std::string& what) { throw std::system_error(errno, std::generic_category(), what); }

struct file {
  std::string path;
  std::uint64_t bytes;
};

std::vector<file> files_of(std::span<char*> paths) {
  std::vector<file> files;
  for (const char* path : paths) {
    struct stat facts {};
    if (stat(path, &facts) != 0) fail(path);
    files.push_back({path, static_cast<std::uint64_t>(facts.st_size)});
  }
  return files;
}

std::uint64_t total_of(const std::vector<file>& files) {
  std::uint64_t total = 0;
  for (const file& each : files) {
    total += each.bytes;
  }
  return total;
}

/// The bytes from `begin` on of all files, one after the other.
void read_range(const std::vector<file>& files, std::uint64_t begin, mutable_bytes to) {
  for (const file& each : files) {
    if (begin >= each.bytes) {
      begin -= each.bytes;
      continue;
    }
    if (to.empty()) return;
    const int descriptor = open(each.path.c_str(), O_RDONLY | O_CLOEXEC);
    if (descriptor < 0) fail(each.path);
    while (begin < each.bytes && !to.empty()) {
      const std::uint64_t wanted = std::min<std::uint64_t>({piece_bytes, each.bytes - begin, to.size()});
      const ssize_t got = pread(descriptor, to.data(), wanted, static_cast<off_t>(begin));
      if (got <= 0) fail(each.path);
      begin += static_cast<std::uint64_t>(got);
      to = to.subspan(static_cast<std::size_t>(got));
    }
    close(descriptor);
    begin = 0;
  }
}

void wait_for_all(shared_state& state, std::size_t processes) {
  if (state.ready.fetch_add(1) + 1 == processes) {
    state.began = monotonic_seconds();
    state.ready.fetch_add(1);
  }
  while (state.ready.load() <= processes) {
    sched_yield();
  }
}

void run_process(shared_state& state, std::size_t index, std::size_t processes, bool copies,
                 const std::vector<file>& files) {
  const std::uint64_t total = total_of(files);
  const std::uint64_t begin = total * index / processes;
  const std::uint64_t bytes = total * (index + 1) / processes - begin;
  host_memory memory;
  const std::byte* source = nullptr;
  if (copies) {
    std::byte* filled = memory.allocate(bytes);
    std::memset(filled, 1, bytes);
    source = filled;
  }
  state.process[index].base_bytes = resident_memory().current();
  wait_for_all(state, processes);
  std::byte* destination = memory.allocate(bytes);
  if (copies) {
    for (std::uint64_t at = 0; at < bytes; at += piece_bytes) {
      std::memcpy(destination + at, source + at, std::min(piece_bytes, bytes - at));
    }
  } else {
    read_range(files, begin, {destination, bytes});
  }
  state.process[index].ended = monotonic_seconds();
  state.process[index].peak_bytes = peak_resident_bytes();
}

int run(std::string_view what, std::size_t processes, std::span<char*> paths) {
  void* const shared = mmap(nullptr, sizeof(shared_state), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (shared == MAP_FAILED) fail("shared memory");
  shared_state& state = *new (shared) shared_state;
  const std::vector<file> files = files_of(paths);
  for (std::size_t i = 0; i < processes; ++i) {
    const pid_t child = fork();
    if (child < 0) {
      state.ready.store(processes + 1);
      fail("fork");
    }
    if (child == 0) {
      try {
        run_process(state, i, processes, what == "copy", files);
        _exit(0);
      } catch (const std::exception& failure) {
        fmt::print(stderr, "floor: {}\n", failure.what());
        state.ready.store(processes + 1);  // or the others would wait for this one
        _exit(1);
      }
    }
  }
  for (std::size_t i = 0; i < processes; ++i) {
    int status = 0;
    if (wait(&status) < 0 || status != 0) throw std::runtime_error("a process failed");
  }
  double ended = 0;
  std::string ranks;
  for (const auto& each : std::span(state.process).first(processes)) {
    ended = std::max(ended, each.ended);
    ranks += fmt::format("{}{{\"base_rss_bytes\": {}, \"peak_rss_bytes\": {}}}", ranks.empty() ? "" : ", ",
                         each.base_bytes, each.peak_bytes);
  }
  fmt::print("{{\"seconds\": {}, \"ranks\": [{}]}}\n", ended - state.began, ranks);
  return 0;
}

int hold(std::uint64_t bytes) {
  std::memset(host_memory().allocate(bytes), 1, bytes);
  fmt::print("held\n");
  std::fflush(stdout);
  while (std::getchar() != EOF) {
  }
  return 0;
}

int usage() {
  fmt::print(stderr, "usage: floor read|copy PROCESSES FILE...\n       floor hold BYTES\n");
  return 2;
}

}  // namespace

int main(int count, char** arguments) {
  if (count < 3) return usage();
  const std::string_view what = arguments[1];
  const std::uint64_t number = std::strtoull(arguments[2], nullptr, 10);
  try {
    if (what == "hold") return hold(number);
    if ((what != "read" && what != "copy") || number < 1 || number > most_processes || count < 4) return usage();
    return run(what, number, std::span(arguments, static_cast<std::size_t>(count)).subspan(3));
  } catch (const std::exception& failure) {
    fmt::print(stderr, "floor: {}\n", failure.what());
    return 1;
  }
}
