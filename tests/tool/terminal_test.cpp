#include "checkpoints.hpp"
#include "tool_process.hpp"
#include <support/temp_dir.hpp>

#include <gtest/gtest.h>

#include <cstddef>
#include <optional>
#include <regex>
#include <string>
#include <vector>

namespace fsdpinit::testing_support {
namespace terminal_test {
namespace {

/// All that the tool shows on a terminal of 80 columns; nothing where no `script` can make one.
std::optional<std::string> shown_on_terminal(const std::vector<std::string>& arguments) {
  std::vector<std::string> command{"sh", "-c", "stty cols 80; exec \"$@\"", "sh", tool_path()};
  command.insert(command.end(), arguments.begin(), arguments.end());
  std::string line;
  for (const std::string& each : command) {
    line += "'" + each + "' ";
  }
  const finished_process process =
      run_process({"env", "TERM=xterm", "SHELL=/bin/sh", "script", "-qc", line, "/dev/null"});
  return process.code == 127 ? std::nullopt : std::optional(process.out);
}

void expect_lines_within(std::ptrdiff_t columns, const std::string& shown) {
  const std::regex breaks("[\r\n]+|\x1b\\[K");
  for (std::sregex_token_iterator line(shown.begin(), shown.end(), breaks, -1), end; line != end; ++line) {
    EXPECT_LE(line->length(), columns) << line->str();
  }
}

TEST(tool_on_a_terminal, progress_stays_on_one_line) {
  const temp_dir dir;
  const auto shown = shown_on_terminal({"synthesize", "--model", "gpt2", "--layers", "3", dir / "gpt2"});
  if (!shown) {
    GTEST_SKIP() << "there is no `script` here";
  }
  EXPECT_NE(shown->find("synthesize ["), std::string::npos) << *shown;
  expect_lines_within(79, *shown);
}

TEST(tool_on_a_terminal, tables_are_as_wide_as_it_is) {
  const temp_dir dir;
  write_plain(dir / "model.safetensors", small_model());
  for (const std::string command : {"plan", "load"}) {
    const auto shown = shown_on_terminal({command, dir / "model.safetensors", "--shards", "3", "--verify", "transfer"});
    if (!shown) {
      GTEST_SKIP() << "there is no `script` here";
    }
    expect_lines_within(80, shown->substr(shown->find("\nrank ")));
  }
}

// So NO_COLOR has nothing to turn off.
TEST(tool_on_a_terminal, nothing_is_coloured) {
  const temp_dir dir;
  write_plain(dir / "model.safetensors", small_model());
  for (const std::vector<std::string>& given :
       std::vector<std::vector<std::string>>{{"--help"},
                                             {"inspect", dir / "model.safetensors"},
                                             {"plan", dir / "model.safetensors", "--shards", "2"},
                                             {"load", dir / "model.safetensors", "--shards", "2"},
                                             {"load", dir / "missing", "--shards", "2"}}) {
    const auto shown = shown_on_terminal(given);
    if (!shown) {
      GTEST_SKIP() << "there is no `script` here";
    }
    EXPECT_FALSE(std::regex_search(*shown, std::regex("\x1b\\[[0-9;]*m"))) << *shown;
  }
}

}  // namespace
}  // namespace terminal_test
}  // namespace fsdpinit::testing_support
