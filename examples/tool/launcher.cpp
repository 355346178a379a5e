#include "launcher.hpp"

#include <charconv>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <optional>

namespace fsdpinit::tool {
namespace {

std::optional<std::size_t> number_in(const char* variable) {
  const char* const text = std::getenv(variable);  // NOLINT(concurrency-mt-unsafe): nobody sets it
  std::size_t value = 0;
  if (text == nullptr || std::from_chars(text, text + std::strlen(text), value).ec != std::errc()) {
    return std::nullopt;
  }
  return value;
}

}  // namespace

std::optional<std::size_t> launched_rank() {
  for (const char* variable : {"OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK"}) {
    if (const auto rank = number_in(variable)) {
      return rank;
    }
  }
  // A job step of several tasks. A batch script, or one task, is an ordinary process that has these variables too.
  if (number_in("SLURM_STEP_NUM_TASKS").value_or(1) > 1) {
    return number_in("SLURM_PROCID");
  }
  return std::nullopt;
}

}  // namespace fsdpinit::tool
