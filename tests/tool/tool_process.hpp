#pragma once

#include <gtest/gtest.h>

#include <array>
#include <cstddef>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

namespace fsdpinit::testing_support {

/// How a process ended.
struct finished_process {
  int code = -1;  ///< its exit code; 128 + the signal that ended it
  std::string out;
  std::string err;
};

/// The tool under test, from the build folder that the tests belong to.
[[nodiscard]] inline std::string tool_path() {
  const char* const folder = std::getenv("FSDPINIT_BINARY_DIR");  // NOLINT(concurrency-mt-unsafe): nobody sets it
  return std::string(folder == nullptr ? "build/release" : folder) + "/fsdpinit";
}

/// A process that was started and is still to be waited for. stdout and stderr go to files: a pipe could fill up.
class started_process {
 public:
  explicit started_process(std::vector<std::string> arguments) {
    std::vector<char*> pointers;
    for (std::string& argument : arguments) {
      pointers.push_back(argument.data());
    }
    pointers.push_back(nullptr);
    posix_spawn_file_actions_t actions;
    ::posix_spawn_file_actions_init(&actions);
    ::posix_spawn_file_actions_adddup2(&actions, out_.number, STDOUT_FILENO);
    ::posix_spawn_file_actions_adddup2(&actions, err_.number, STDERR_FILENO);
    const int failed = ::posix_spawnp(&pid_, pointers.front(), &actions, nullptr, pointers.data(), environ);
    ::posix_spawn_file_actions_destroy(&actions);
    if (failed != 0) {
      throw std::runtime_error("cannot run " + arguments.front());
    }
  }

  [[nodiscard]] pid_t pid() const noexcept { return pid_; }
  /// What it has written to stderr by now.
  [[nodiscard]] std::string err() const { return err_.text(); }

  [[nodiscard]] finished_process wait() const {
    int status = 0;
    ::waitpid(pid_, &status, 0);
    return {.code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status),
            .out = out_.text(),
            .err = err_.text()};
  }

 private:
  struct captured {
    int number = ::open("/tmp", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    captured() = default;
    captured(const captured&) = delete;
    captured& operator=(const captured&) = delete;
    ~captured() { ::close(number); }
    [[nodiscard]] std::string text() const {
      std::string all;
      std::array<char, 4096> buffer{};
      for (off_t at = 0;;) {
        const auto count = ::pread(number, buffer.data(), buffer.size(), at);
        if (count <= 0) {
          return all;
        }
        all.append(buffer.data(), static_cast<std::size_t>(count));
        at += count;
      }
    }
  };

  captured out_;
  captured err_;
  pid_t pid_ = 0;
};

[[nodiscard]] inline finished_process run_process(std::vector<std::string> arguments) {
  return started_process(std::move(arguments)).wait();
}

/// Runs the tool with these arguments.
[[nodiscard]] inline finished_process run_tool(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), tool_path());
  return run_process(std::move(arguments));
}

/// It ended well; what it said is shown where it did not.
inline void expect_success(const finished_process& process) {
  ASSERT_EQ(process.code, 0) << process.out << process.err;
}

/// It ended with `code`, one line `fsdpinit: error: <begins_with>...` on stderr with `piece` in it, indented lines at
/// most after it, and nothing on stdout.
inline void expect_failure(const finished_process& process, int code, const std::string& begins_with,
                           const std::string& piece) {
  EXPECT_EQ(process.code, code) << process.err;
  EXPECT_EQ(process.out, "");
  EXPECT_EQ(process.err.rfind("fsdpinit: error: " + begins_with, 0), 0U) << process.err;
  const std::string line = process.err.substr(0, process.err.find('\n'));
  EXPECT_NE(line.find(piece), std::string::npos) << "no \"" << piece << "\" in: " << process.err;
  for (std::size_t at = process.err.find('\n'); at + 1 < process.err.size(); at = process.err.find('\n', at + 1)) {
    EXPECT_EQ(process.err.substr(at + 1, 2), "  ") << process.err;
  }
}

}  // namespace fsdpinit::testing_support
