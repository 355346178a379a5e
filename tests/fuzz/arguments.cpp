// A command line of any words, one a line: a usage error, or a request within the bounds that the commands count on.

#include "arguments.hpp"
#include "commands.hpp"
#include "fuzz_target.hpp"
#include <fsdpinit/init/options.hpp>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <variant>
#include <vector>

using namespace fsdpinit;
using fuzz::require;

namespace {

std::vector<std::string> words_of(std::string_view text) {
  std::vector<std::string> words{"fsdpinit"};
  while (!text.empty()) {
    const std::size_t end = text.find('\n');
    words.emplace_back(text.substr(0, text.substr(0, end).find('\0')));  // as main() would get it
    text = end == std::string_view::npos ? std::string_view{} : text.substr(end + 1);
  }
  return words;
}

void require_within_bounds(const tool::sharding_request& how) {
  require(how.shards >= 1 && how.shards <= tool::most_planned_ranks, "shards out of bounds");
  require(how.replicas >= 1 && how.replicas <= tool::most_planned_ranks, "replicas out of bounds");
  require(how.bucket_bytes >= 1, "buckets of nothing");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::vector<std::string> words = words_of({reinterpret_cast<const char*>(data), size});
  std::vector<const char*> arguments;
  for (const std::string& word : words) {
    arguments.push_back(word.c_str());
  }
  std::string command;
  try {
    const std::optional<tool::request> asked =
        tool::parse_arguments(static_cast<int>(arguments.size()), arguments.data(), command);
    if (asked) {
      std::visit(
          []<class Request>(const Request& how) {
            if constexpr (requires { how.checkpoint; }) {
              require(!how.checkpoint.empty(), "a path that is empty");
            }
            if constexpr (std::is_same_v<Request, tool::load_request>) {
              require_within_bounds(how);
              require(how.shards <= tool::most_thread_ranks, "too many shards");
              require(how.reader_threads > 0 && how.reader_threads <= most_reader_threads, "threads out of bounds");
              require(how.deadline_seconds > 0 && how.deadline_seconds < 1e9, "a deadline out of bounds");
            }
            if constexpr (std::is_same_v<Request, tool::plan_request>) {
              tool::plan_request planned = how;
              planned.shards += how.shards == 0 && !how.cluster.empty() ? 1U : 0U;  // the cluster's file says it
              require_within_bounds(planned);
            }
            if constexpr (std::is_same_v<Request, tool::synthesize_request>) {
              require(!how.model.empty() && !how.folder.empty(), "nothing to synthesize");
            }
          },
          *asked);
    }
  } catch (const tool::usage_error& rejected) {
    require(!std::string_view(rejected.what()).empty(), "a usage error without a text");
  }
  return 0;
}
