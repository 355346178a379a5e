#pragma once

#include <array>
#include <cerrno>
#include <cstdio>
#include <stdexcept>
#include <string>
#include <system_error>

#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

namespace fsdpinit::bench {

/// Another loader, in a process that stays: it loads once for each line that it is sent, and answers with the seconds.
class loader_process {
 public:
  /// \param command  for the shell. \throws std::system_error
  explicit loader_process(const std::string& command) : command_(command) {
    std::array<int, 2> ends{};
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()) != 0) {
      throw std::system_error(errno, std::generic_category(), "socketpair");
    }
    child_ = fork();
    if (child_ == 0) {
      dup2(ends[1], STDIN_FILENO);
      dup2(ends[1], STDOUT_FILENO);
      execl("/bin/sh", "sh", "-c", command.c_str(), nullptr);
      _exit(127);
    }
    const int failed = errno;
    close(ends[1]);
    if (child_ < 0) {
      close(ends[0]);
      throw std::system_error(failed, std::generic_category(), "fork");
    }
    in_ = fdopen(dup(ends[0]), "r");
    out_ = fdopen(ends[0], "w");
  }
  loader_process(const loader_process&) = delete;
  loader_process& operator=(const loader_process&) = delete;
  ~loader_process() {
    shutdown(fileno(out_), SHUT_WR);  // its input ends
    std::fclose(out_);
    std::fclose(in_);
    waitpid(child_, nullptr, 0);
  }

  /// \pre SIGPIPE is ignored. \throws std::runtime_error where it gives no answer
  double seconds() {
    double out = 0;
    if (std::fputs("load\n", out_) < 0 || std::fflush(out_) != 0 || std::fscanf(in_, "%lf", &out) != 1) {
      throw std::runtime_error("no answer from: " + command_);
    }
    return out;
  }

 private:
  std::string command_;
  pid_t child_ = -1;
  std::FILE* in_ = nullptr;
  std::FILE* out_ = nullptr;
};

}  // namespace fsdpinit::bench
