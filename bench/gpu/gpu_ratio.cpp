// Whole loads into GPU memory beside the ceiling of the link, in one run and alternating.
//
//   gpu_ratio CHECKPOINT [ROUNDS] [BUCKET_BYTES] [BUCKETS_IN_FLIGHT] [NAME=COMMAND...]
//
// Each COMMAND is another loader, which loads once for each line of its input and answers with the seconds.
//
// The ceiling: as many bytes, in pieces of a bucket, from pinned memory that is there already into device memory that is. A
// contender starts from the page cache and nothing else: what it allocates, pinned memory above all, is in its time.
#include "../ratio.hpp"
#include "../thread_loads.hpp"
#include "loader_process.hpp"
#include <fsdpinit/cuda.hpp>
#include <fsdpinit/fsdpinit.hpp>
#include <fsdpinit/sources/safetensors.hpp>

#include <fmt/format.h>

#include <csignal>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <deque>
#include <exception>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace {

using namespace fsdpinit;
using namespace fsdpinit::bench;

/// Link and memory alone.
class ceiling {
 public:
  ceiling(std::uint64_t bytes, std::uint64_t piece)
      : bytes_(bytes), device_(cuda_memory(), bytes), pinned_(cuda_memory().staging(), piece) {}

  double seconds() {
    cuda_memory memory;
    cuda_memory::queue order;
    const double begin = monotonic_seconds();
    for (std::uint64_t at = 0; at < bytes_; at += pinned_.size()) {
      const std::uint64_t length = smaller(pinned_.size(), bytes_ - at);
      memory.copy_in(device_.data() + at, pinned_.data(), length, length, 1, order);
    }
    memory.wait(order);
    return monotonic_seconds() - begin;
  }

 private:
  std::uint64_t bytes_;
  block<cuda_memory> device_;
  block<pinned_memory> pinned_;
};

double gpu_seconds(const std::string& path, std::size_t ranks, const policy& by, options how, std::size_t threads) {
  how.policy = by;
  how.reader_threads = threads;
  return load_seconds(path, ranks, how, [](std::size_t) { return cuda_memory(0); });
}

/// One load by which account and prediction can be compared.
void print_peak(const std::string& path, const options& how) {
  cuda_memory memory;
  dynamic_module module = tool::module_of(open_safetensors(path).tensors());
  const rank_report report = initialize<native_sharding<transport::own_read>>(
      module, checkpoint{path}, self_communicator(), how, {.memory = memory});
  fmt::print("\none rank: {} bytes on the device, {} predicted; {} in all with staging, {} predicted\n",
             memory.accounted_peak(), report.predicted.slab_bytes, report.accounted_peak_bytes,
             report.predicted.peak_bytes());
}

}  // namespace

int main(int count, char** arguments) {
  if (count < 2) {
    fmt::print(stderr, "usage: gpu_ratio CHECKPOINT [ROUNDS] [BUCKET_BYTES] [BUCKETS_IN_FLIGHT] [NAME=COMMAND...]\n");
    return 2;
  }
  static_cast<void>(std::signal(SIGPIPE, SIG_IGN));
  try {
    const std::string path = arguments[1];
    const std::uint64_t rounds = number_argument(count, arguments, 2, 7);
    const options how{.bucket_bytes = number_argument(count, arguments, 3, 16 * mib),
                      .buckets_in_flight = number_argument(count, arguments, 4, 3)};
    std::uint64_t bytes = 0;
    const safetensors_source source = open_safetensors(path);
    for (const tensor_descriptor& tensor : source.tensors()) {
      bytes += byte_size(tensor);
    }
    ceiling link(bytes, how.bucket_bytes);
    constexpr policy own_read = policy_of<native_sharding<transport::own_read>>;
    constexpr policy scatter = policy_of<native_sharding<transport::scatter>>;
    std::vector<contender> all{
        {"ceiling: pinned to device", [&] { return link.seconds(); }},
        {"floor: pread, one thread", [&] { return floor_seconds(path, how.bucket_bytes); }},
    };
    for (const std::size_t threads : {1U, 2U, 4U, 8U, 12U}) {
      all.push_back({fmt::format("1 rank, {} threads", threads),
                     [&, threads] { return gpu_seconds(path, 1, own_read, how, threads); }});
    }
    all.push_back({"4 ranks, own-read, 3 each", [&] { return gpu_seconds(path, 4, own_read, how, 3); }});
    all.push_back({"4 ranks, scatter, 8 threads", [&] { return gpu_seconds(path, 4, scatter, how, 8); }});
    std::deque<loader_process> others;
    for (int i = 5; i < count; ++i) {
      const std::string given = arguments[i];
      const std::size_t name_end = given.find('=');
      if (name_end == std::string::npos) {
        throw std::invalid_argument(fmt::format("'{}' is no NAME=COMMAND", given));
      }
      loader_process& other = others.emplace_back(given.substr(name_end + 1));
      all.push_back({given.substr(0, name_end), [&other] { return other.seconds(); }});
    }
    run_rounds(all, rounds);
    fmt::print("{} bytes, {} buckets in flight\n", bytes, how.buckets_in_flight);
    print_table(all, 4, rounds, how.bucket_bytes, "x ceiling");
    print_peak(path, how);
    return 0;
  } catch (const std::exception& failure) {
    fmt::print(stderr, "gpu_ratio: {}\n", failure.what());
    return 1;
  }
}
