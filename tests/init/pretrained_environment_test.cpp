#include "support/expect_error.hpp"
#include <fsdpinit/init/pretrained_environment.hpp>

#include <gtest/gtest.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>

#include <sys/wait.h>
#include <unistd.h>

namespace pretrained_environment_test {
namespace {

using namespace fsdpinit;
using fsdpinit::testing_support::expect_error;

constexpr const char* use_fsdp = "ACCELERATE_USE_FSDP";
constexpr const char* efficient = "FSDP_CPU_RAM_EFFICIENT_LOADING";

void set(const char* variable, const std::optional<std::string>& value) {
  // NOLINTNEXTLINE(concurrency-mt-unsafe): one thread, here and below
  ASSERT_EQ(value ? setenv(variable, value->c_str(), 1) : unsetenv(variable), 0);
}
std::optional<std::string> get(const char* variable) {
  const char* const value = std::getenv(variable);  // NOLINT(concurrency-mt-unsafe)
  return value == nullptr ? std::nullopt : std::optional<std::string>(value);
}
bool is_active() { return pretrained_context_from_environment().active; }

/// The environment as a whole, to find what was left behind.
std::string everything() {
  std::string all;
  for (char** each = environ; each != nullptr && *each != nullptr; ++each) {
    all += std::string(*each) + "\n";
  }
  return all;
}

/// Each test begins without the variables and leaves none.
class environment : public ::testing::Test {
 protected:
  void SetUp() override { clear(); }
  void TearDown() override { clear(); }
  static void clear() {
    set(use_fsdp, std::nullopt);
    set(efficient, std::nullopt);
  }
};

// -- reading

TEST_F(environment, UnsetMeansFalse) {
  EXPECT_FALSE(is_active());
  set(use_fsdp, "true");
  EXPECT_FALSE(is_active());
  set(use_fsdp, std::nullopt);
  set(efficient, "true");
  EXPECT_FALSE(is_active());
  set(use_fsdp, "true");
  EXPECT_TRUE(is_active());
}

TEST_F(environment, SpellingsAreAcceleratesInAnyCase) {
  for (const char* const value : {"1", "true", "t", "yes", "y", "on", "True", "TRUE", "tRuE", "T", "YES", "Y", "On"}) {
    set(use_fsdp, value);
    set(efficient, value);
    EXPECT_TRUE(is_active()) << value;
  }
  for (const char* const value : {"0", "false", "f", "no", "n", "off", "False", "FALSE", "F", "No", "N", "OFF"}) {
    set(use_fsdp, value);
    set(efficient, "true");
    EXPECT_FALSE(is_active()) << value;
    set(use_fsdp, "true");
    set(efficient, value);
    EXPECT_FALSE(is_active()) << value;
  }
}

TEST_F(environment, AnythingElseIsAnErrorThatNamesVariableAndValue) {
  for (const char* const value : {"", " true", "true ", "2", "01", "enable", "yess", "\xc4\xb1", "nan", "-1"}) {
    for (const char* const variable : {use_fsdp, efficient}) {
      clear();
      set(variable, value);
      expect_error(errc::invalid_argument, variable,
                   concat("the environment has '", value, "', which is neither true nor false; use 1, true, t, yes, y"),
                   [] { static_cast<void>(is_active()); });
      set(variable == use_fsdp ? efficient : use_fsdp, "false");  // the other one does not hide it
      expect_error(errc::invalid_argument, variable, "neither true nor false", [] { static_cast<void>(is_active()); });
    }
  }
}

TEST_F(environment, TheSourceRankIsTheCallers) {
  EXPECT_EQ(pretrained_context_from_environment().source_rank, 0U);
  EXPECT_EQ(pretrained_context_from_environment(3).source_rank, 3U);
}

// -- exporting

TEST_F(environment, IsExportedForTheGuardsLife) {
  const std::string before = everything();
  {
    const environment_export exported = export_environment();
    EXPECT_EQ(get(use_fsdp), "true");
    EXPECT_EQ(get(efficient), "true");
    EXPECT_TRUE(is_active());
  }
  EXPECT_FALSE(is_active());
  EXPECT_EQ(everything(), before);
}

TEST_F(environment, FormerValuesComeBack) {
  set(use_fsdp, "no");
  set(efficient, "");
  {
    const environment_export exported = export_environment();
    EXPECT_TRUE(is_active());
  }
  EXPECT_EQ(get(use_fsdp), "no");
  EXPECT_EQ(get(efficient), "");
}

TEST_F(environment, FormerValuesComeBackWhateverHappenedToTheVariables) {
  set(use_fsdp, "0");
  {
    const environment_export exported = export_environment();
    set(use_fsdp, std::nullopt);
    set(efficient, "off");
  }
  EXPECT_EQ(get(use_fsdp), "0");
  EXPECT_EQ(get(efficient), std::nullopt);
}

TEST_F(environment, AnExceptionRestoresItToo) {
  const std::string before = everything();
  try {
    const environment_export exported = export_environment();
    throw std::runtime_error("on the way");
  } catch (const std::runtime_error&) {
    EXPECT_EQ(everything(), before);
    return;
  }
  FAIL();
}

TEST_F(environment, CannotBeExportedWithinAnExport) {
  const std::string before = everything();
  {
    const environment_export outer = export_environment();
    const std::string within = everything();
    expect_error(errc::invalid_argument, use_fsdp, "this process exports the environment already",
                 [] { const environment_export inner = export_environment(); });
    EXPECT_EQ(everything(), within);
  }
  EXPECT_EQ(everything(), before);
}

TEST_F(environment, MayBeExportedAgainAfterwards) {
  for (int i = 0; i < 3; ++i) {
    const environment_export exported = export_environment();
    EXPECT_TRUE(is_active());
  }
}

// -- other processes

/// Runs `fn` in a forked child; 0 if it returned true.
int in_child(const std::function<bool()>& fn) {
  const pid_t child = fork();
  if (child == 0) {
    bool good = false;
    try {
      good = fn();
    } catch (...) {
    }
    _exit(good ? 0 : 1);
  }
  int status = -1;
  return waitpid(child, &status, 0) == child && WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

std::string output_of(const char* command) {
  std::string text;
  FILE* const pipe = popen(command, "r");
  if (pipe == nullptr) {
    return "no pipe";
  }
  std::array<char, 4096> buffer{};
  while (const std::size_t count = fread(buffer.data(), 1, buffer.size(), pipe)) {
    text.append(buffer.data(), count);
  }
  EXPECT_EQ(pclose(pipe), 0);
  return text;
}

TEST_F(environment, ProgramsThatAreStartedSeeItWhileItIsExported) {
  const char* const command = "env | grep -E 'ACCELERATE_USE_FSDP|FSDP_CPU_RAM' | sort";
  {
    const environment_export exported = export_environment();
    EXPECT_EQ(output_of(command), "ACCELERATE_USE_FSDP=true\nFSDP_CPU_RAM_EFFICIENT_LOADING=true\n");
  }
  EXPECT_EQ(output_of("env | grep -cE 'ACCELERATE_USE_FSDP|FSDP_CPU_RAM|FSDPINIT_EXPORTING' || true"), "0\n");
}

TEST_F(environment, AForkedChildSeesItAndMayExportItItself) {
  const environment_export exported = export_environment();
  EXPECT_EQ(in_child([] {
              if (!is_active()) {
                return false;
              }
              const std::string inherited = everything();
              {
                const environment_export own = export_environment();
                bool refused = false;
                try {
                  const environment_export nested = export_environment();
                } catch (const error&) {
                  refused = true;
                }
                if (!refused || !is_active()) {
                  return false;
                }
              }
              return is_active() && everything() == inherited;
            }),
            0);
  EXPECT_TRUE(is_active());
}

/// The program that a test below replaces a child with, which has inherited an export: then the variables are set already.
TEST_F(environment, AProgramThatReplacesTheExportingOneMayExportItItself) {
  constexpr const char* replacement = "FSDPINIT_TEST_REPLACED";
  if (get(replacement)) {
    const environment_export exported = export_environment();
    EXPECT_TRUE(is_active());
    EXPECT_THROW(static_cast<void>(export_environment()), error);
    return;
  }
  EXPECT_EQ(in_child([&] {
              const environment_export exported = export_environment();
              setenv(replacement, "1", 1);  // NOLINT(concurrency-mt-unsafe)
              // It runs this test, whatever the shard.
              unsetenv("GTEST_TOTAL_SHARDS");  // NOLINT(concurrency-mt-unsafe)
              unsetenv("GTEST_SHARD_INDEX");   // NOLINT(concurrency-mt-unsafe)
              // The process id stays; the program is a new one.
              execl("/proc/self/exe", "replacement", "--gtest_brief=1",
                    "--gtest_filter=environment.AProgramThatReplacesTheExportingOneMayExportItItself", nullptr);
              return false;
            }),
            0);
}

}  // namespace
}  // namespace pretrained_environment_test
