#pragma once

#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/core/deadline.hpp>
#include <fsdpinit/memory/block.hpp>
#include <fsdpinit/memory/host_memory.hpp>
#include <fsdpinit/sources/safetensors.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <span>
#include <string>
#include <vector>

/// \file
/// What load_ratio, mpi_ratio and gpu_ratio share: the floor, and the table.

namespace fsdpinit::bench {

/// Of one thread that preads the `index`-th of `parts` equal parts of all bytes, in pieces, into fresh memory mapped and
/// advised as the library does it.
inline double floor_seconds(const std::string& path, std::uint64_t piece, std::uint64_t index = 0,
                            std::uint64_t parts = 1) {
  safetensors_source source = open_safetensors(path);
  std::uint64_t total = 0;
  for (const tensor_descriptor& tensor : source.tensors()) {
    total += byte_size(tensor);
  }
  const std::uint64_t first = total / parts * index;
  const std::uint64_t last = index + 1 == parts ? total : total / parts * (index + 1);
  const double begin = monotonic_seconds();
  const block<host_memory> memory(host_memory{}, last - first);
  mutable_bytes rest = memory.bytes();
  std::uint64_t tensor_begin = 0;
  for (std::size_t i = 0; i < source.tensors().size(); ++i) {
    const std::uint64_t bytes = byte_size(source.tensors()[i]);
    const std::uint64_t from = std::clamp(first, tensor_begin, tensor_begin + bytes) - tensor_begin;
    const std::uint64_t to = std::clamp(last, tensor_begin, tensor_begin + bytes) - tensor_begin;
    for (std::uint64_t offset = from; offset < to; offset += piece) {
      const std::uint64_t length = std::min(piece, to - offset);
      source.read(i, offset, rest.first(length));
      rest = rest.subspan(length);
    }
    tensor_begin += bytes;
  }
  return monotonic_seconds() - begin;
}

/// The `index`-th argument as a number, if it is there.
inline std::uint64_t number_argument(int count, char** arguments, int index, std::uint64_t otherwise) {
  return count > index ? std::strtoull(arguments[index], nullptr, 10) : otherwise;
}

struct contender {
  std::string name;
  std::function<double()> run;
  std::size_t compared_to = 0;  ///< index of the contender that it is a multiple of
  std::vector<double> seconds{};
};

inline double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

/// Warms up, then lets all contenders take turns in each round; every other round backwards, as what one leaves to the next (memory
/// that the system has still to clear, say) costs that one.
inline void run_rounds(std::span<contender> all, std::uint64_t rounds) {
  for (contender& each : all) {
    each.run();  // brings the file into the page cache
  }
  for (std::uint64_t round = 0; round < rounds; ++round) {
    for (std::size_t i = 0; i < all.size(); ++i) {
      contender& each = all[round % 2 == 0 ? i : all.size() - 1 - i];
      each.seconds.push_back(each.run());
    }
  }
}

/// Ratios are taken round by round, then their median: drift within a round is small. `ratio` is the head of their column;
/// `bucket_bytes` 0 where contenders have buckets of their own.
inline void print_table(std::span<const contender> all, std::size_t ranks, std::uint64_t rounds,
                        std::uint64_t bucket_bytes, const char* ratio = "x floor") {
  const std::string buckets = bucket_bytes == 0 ? "" : fmt::format(", buckets of {} bytes", bucket_bytes);
  fmt::print("{} ranks, {} rounds{}\n\n", ranks, rounds, buckets);
  std::size_t width = 27;  // of the names
  for (const contender& each : all) {
    width = std::max(width, each.name.size());
  }
  fmt::print("| {:<{}} | {:>9} | {:>9} | {:>9} | {:>9} |\n", "", width, "median s", "min s", "max s", ratio);
  fmt::print("|-{:-<{}}-|-{:->9}:|-{:->9}:|-{:->9}:|-{:->9}:|\n", "", width, "", "", "", "");
  for (const contender& each : all) {
    std::vector<double> ratios;
    for (std::size_t i = 0; i < each.seconds.size(); ++i) {
      ratios.push_back(each.seconds[i] / all[each.compared_to].seconds[i]);
    }
    fmt::print("| {:<{}} | {:>9.3f} | {:>9.3f} | {:>9.3f} | {:>9.2f} |\n", each.name, width, median(each.seconds),
               *std::min_element(each.seconds.begin(), each.seconds.end()),
               *std::max_element(each.seconds.begin(), each.seconds.end()), median(ratios));
  }
}

}  // namespace fsdpinit::bench
