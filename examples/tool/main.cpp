#include "arguments.hpp"
#include "commands.hpp"
#include "launcher.hpp"
#include "option_advice.hpp"
#include "unfinished.hpp"
#include <fsdpinit/core/attempt.hpp>
#include <fsdpinit/core/error.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <variant>

#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

namespace fsdpinit::tool {
namespace {

/// stdout may be a full disk, which shows only here.
void flush_stdout() {
  if (std::fflush(stdout) != 0 || std::ferror(stdout) != 0) {
    throw error(errc::io, "stdout", "cannot be written; is the disk full?", {.native_code = errno});
  }
}

/// A file must not get the number of a stream that the caller has closed: messages would end up in it.
void open_standard_streams() {
  int number = 0;
  do {
    number = ::open("/dev/null", O_RDWR | O_NOCTTY);
  } while (number >= 0 && number <= STDERR_FILENO);
  if (number >= 0) {
    ::close(number);
  }
}

/// Ranks that are threads share the descriptors of this process, and the usual soft limit of 1024 is for programs that call select().
/// No more than is needed: there are libraries that close every number up to the limit.
void raise_descriptor_limit() {
  constexpr ::rlim_t wanted = 65536;
  ::rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < wanted && limit.rlim_cur < limit.rlim_max) {
    limit.rlim_cur = std::min(wanted, limit.rlim_max);
    ::setrlimit(RLIMIT_NOFILE, &limit);  // where that is refused, opening says so
  }
}

/// Of ranks that a launcher has started the first one speaks for all: their errors are the same. The others give it time to:
/// launchers end a job when one of its processes has failed.
int fail(std::string_view text, int code) {
  if (launched_rank().value_or(0) != 0) {
    std::this_thread::sleep_for(std::chrono::seconds(1));
    return code;
  }
  std::fputs(fmt::format("fsdpinit: error: {}\n", text).c_str(),
             stderr);  // not fmt::print: it throws if stderr is closed
  return code;
}

void run(const inspect_request& how, unfinished&) { run_inspect(how); }
void run(const plan_request& how, unfinished&) { run_plan(how); }
void run(const load_request& how, unfinished& outputs) {
  const bool by_mpi =
      how.launcher == launcher_kind::automatic ? launched_rank().has_value() : how.launcher == launcher_kind::mpi;
  by_mpi ? run_load_mpi(how, outputs) : run_load(how, outputs);
}
void run(const verify_request& how, unfinished&) { run_verify(how); }
void run(const synthesize_request& how, unfinished& outputs) { run_synthesize(how, outputs); }

int run(int count, const char* const* arguments) {
  std::string command;
  unfinished outputs;
  const signal_guard guard(outputs);
  try {
    const std::optional<request> asked = parse_arguments(count, arguments, command);
    if (!asked) {
      return 0;
    }
    std::visit([&](const auto& how) { run(how, outputs); }, *asked);
    flush_stdout();
    return 0;
  } catch (const usage_error& wrong) {
    return fail(fmt::format("{}\n  see: fsdpinit {}{}--help", wrong.what(), command, command.empty() ? "" : " "), 2);
  } catch (...) {
    const error failure = current_error();
    // Every message begins with what it is about; where nothing better is known, that is what was to be done.
    const std::string what =
        failure.subject().empty() ? fmt::format("{}: {}", command, failure.what()) : std::string(failure.what());
    return fail(what + option_advice(failure.text()), 1);
  }
}

}  // namespace
}  // namespace fsdpinit::tool

int main(int count, char** arguments) {
  // A reader that has seen enough (`| head`) is an error of write(), after which outputs are removed as after any
  // other.
  std::signal(SIGPIPE, SIG_IGN);
  fsdpinit::tool::open_standard_streams();
  fsdpinit::tool::raise_descriptor_limit();
  try {
    return fsdpinit::tool::run(count, arguments);
  } catch (...) {
    return fsdpinit::tool::fail(fsdpinit::current_error().what(), 1);
  }
}
