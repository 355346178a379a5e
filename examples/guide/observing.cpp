// What is seen of a load: progress, the account beside the prediction, and memory over time.
#include <fsdpinit/fsdpinit.hpp>
#include <fsdpinit/observe/timeline.hpp>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

namespace {

constexpr std::size_t ranks = 2;
constexpr std::size_t elements = 262144;  // of a layer

fsdpinit::dynamic_module make_model() {
  fsdpinit::dynamic_module net;
  for (std::size_t layer = 0; layer < 4; ++layer) {
    net.add_parameter(fsdpinit::concat("layers.", layer, ".weight"), fsdpinit::dtype::f32, {1024, 256});
  }
  return net;
}

// [observer]
/// An Observer: whatever has the first two. They run on the rank's thread, and what they throw fails the load, on every rank.
struct progress_line {
  std::string& line;
  void phase(const char* name) { line += fsdpinit::concat(" ", name); }
  void progress(std::uint64_t done, std::uint64_t total) {  // on the source rank
    if (done == total) {
      line += fsdpinit::concat(" (", total, " bytes)");
    }
  }
  void waiting(const char* what, double seconds) noexcept {  // on any rank, and on another thread
    std::fprintf(stderr, "has waited %.0f s for %s\n", seconds, what);
  }
};
// [observer]

}  // namespace

int main() {
  std::vector<float> numbers(4 * elements, 0.5F);
  std::vector<fsdpinit::in_memory_tensor> tensors;
  fsdpinit::dynamic_module shown = make_model();
  shown.visit_slots([&](std::string_view fqn, const auto& slot) {
    tensors.push_back({.descriptor = {.name = std::string(fqn), .dtype = slot.dtype(), .shape = slot.shape()},
                       .bytes = std::as_bytes(std::span(numbers).subspan(tensors.size() * elements, elements))});
  });
  const fsdpinit::in_memory_source checkpoint(std::move(tensors));
  const fsdpinit::threads_world world(ranks);
  bool exact = true;

  std::vector<std::string> lines(ranks);
  std::vector<std::jthread> threads;
  for (std::size_t rank = 0; rank < ranks; ++rank) {
    threads.emplace_back([&, rank] {
      fsdpinit::dynamic_module net = make_model();
      // [account]
      fsdpinit::host_memory memory;
      const fsdpinit::rank_report report = fsdpinit::initialize(
          net, checkpoint, world.rank(rank), {}, {.memory = memory, .observer = progress_line{lines[rank]}});
      const bool as_predicted = report.accounted_peak_bytes == report.predicted.peak_bytes() &&
                                report.bytes_read == report.predicted.bytes_read &&
                                report.bytes_sent == report.predicted.bytes_sent &&
                                report.bytes_received == report.predicted.bytes_received;
      // [account]
      // [stages]
      const fsdpinit::stage_seconds& busy = report.stages;  // of the seconds in which bytes moved
      const char* const mostly = busy.wait > busy.read + busy.place ? "waits"
                                 : busy.read > busy.place           ? "reads"
                                                                    : "places";
      lines[rank] += fsdpinit::concat(" ", mostly, "; rank ", report.slowest_rank, " was the slowest");
      for (const std::string& advice : report.advice) {  // settings that make this load slow, and what to set instead
        lines[rank] += "; " + advice;
      }
      // [stages]
      if (!as_predicted) {
        lines[rank] += " NOT AS PREDICTED";
      }
    });
  }
  threads.clear();
  for (const std::string& line : lines) {
    std::printf("phases:%s\n", line.c_str());
    exact = exact && line.find("NOT") == std::string::npos;
  }

  std::string csv;
  {
    // [timeline]
    fsdpinit::memory_timeline timeline({.interval_seconds = 0.001});
    for (std::size_t rank = 0; rank < ranks; ++rank) {
      threads.emplace_back([&, rank] {
        fsdpinit::dynamic_module net = make_model();
        fsdpinit::host_memory memory;
        auto watch = timeline.observer(rank, memory.shared_account());
        fsdpinit::initialize(net, checkpoint, world.rank(rank), {}, {.memory = memory, .observer = watch});
        watch.phase("train");  // phases of one's own
      });
    }
    threads.clear();
    timeline.stop();
    timeline.write_csv([&](std::string_view line) { csv += line; });
    // [timeline]
  }
  const bool drawn = csv.find(",0,stream,") != std::string::npos && csv.find(",1,train,") != std::string::npos;
  std::printf("timeline: %s\n", drawn ? "both ranks, phase by phase" : csv.c_str());
  return exact && drawn ? 0 : 1;
}
