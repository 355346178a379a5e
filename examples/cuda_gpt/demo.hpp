#pragma once

// Loads an llm.c checkpoint into shards of several ranks and runs a forward pass over them, for any kind of memory; then the same with
// the whole model in one place, and on the host.
#include "../tool/rank_threads.hpp"
#include "forward.hpp"
#include "host_ops.hpp"
#include "llmc_checkpoint.hpp"
#include "model.hpp"
#include <fsdpinit/core/float_conversion.hpp>
#include <fsdpinit/fsdpinit.hpp>
#include <fsdpinit/modules/counter_rng.hpp>
#include <fsdpinit/sources/adaptors.hpp>
#include <fsdpinit/units/sharded_units.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <fstream>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include <unistd.h>

namespace gpt {

/// A file of llm.c's with made-up bf16 weights.
inline void write_llmc(const std::filesystem::path& path, const config& shape) {
  std::ofstream file(path, std::ios::binary);
  std::array<std::int32_t, llmc_checkpoint::header_bytes / 4> header{llmc_checkpoint::magic,
                                                                     llmc_checkpoint::version_bf16};
  std::size_t at = 2;
  for (const std::uint64_t extent :
       {shape.positions, shape.vocabulary, shape.layers, shape.heads, shape.channels, shape.rows}) {
    header[at++] = static_cast<std::int32_t>(extent);
  }
  file.write(reinterpret_cast<const char*>(header.data()), llmc_checkpoint::header_bytes);
  for (const fsdpinit::tensor_descriptor& tensor : llmc_tensors(shape, dtype::bf16)) {
    const std::uint64_t elements = byte_size(tensor) / 2;
    const std::string_view name = tensor.name;
    const double mean = name.find("ln_") != std::string_view::npos && name.ends_with("weight") ? 1 : 0;
    const fsdpinit::counter_rng random(1, name);
    std::vector<float> values(elements);
    for (std::uint64_t i = 0; i < elements; ++i) {
      values[i] = random.normal(i, mean, 0.1);
    }
    std::vector<char> narrow(elements * 2);
    fsdpinit::convert_floats(dtype::f32, reinterpret_cast<const std::byte*>(values.data()), dtype::bf16,
                             reinterpret_cast<std::byte*>(narrow.data()), elements);
    file.write(narrow.data(), static_cast<std::streamsize>(narrow.size()));
  }
  if (!file.flush()) {
    throw std::runtime_error("cannot write " + path.string());
  }
}

/// One rank: its shards of the checkpoint, and with them the logits of its tokens.
template <class Ops, class Comm>
std::vector<float> logits_of_rank(const std::string& path, Comm& ranks, std::span<const int> tokens, Ops& ops,
                                  std::uint64_t* shard_bytes = nullptr) {
  typename Ops::space memory = ops.memory();
  const config shape = llmc_checkpoint(path).shape();
  model weights = make(shape);
  const fsdpinit::options how{.bucket_bytes = 1 << 20};
  const fsdpinit::rank_report report = fsdpinit::initialize(
      weights, [&] { return llmc_checkpoint(path) | fsdpinit::cast(dtype::f32); }, ranks, how, {.memory = memory});
  if (shard_bytes != nullptr) {
    *shard_bytes = report.predicted.shard_bytes;
  }
  fsdpinit::sharded_units units(weights, ranks, how, memory);
  return decoder<Ops>(shape, tokens.size(), memory, ops).logits(weights, tokens, units);
}

/// The largest difference, as a part of the largest value.
inline double difference(std::span<const float> values, std::span<const float> expected) {
  double most = 0;
  double largest = 0;
  for (std::size_t i = 0; i < values.size(); ++i) {
    const double apart = std::abs(static_cast<double>(values[i]) - static_cast<double>(expected[i]));
    most = apart <= most ? most : apart;  // NaN too
    largest = std::max(largest, std::abs(static_cast<double>(expected[i])));
  }
  return most / largest;
}

/// A made-up checkpoint for as long as it lives.
class temporary_checkpoint {
 public:
  explicit temporary_checkpoint(const config& shape)
      : path_(std::filesystem::temp_directory_path() / ("gpt-" + std::to_string(::getpid()) + ".bin")) {
    write_llmc(path_, shape);
  }
  temporary_checkpoint(const temporary_checkpoint&) = delete;
  temporary_checkpoint& operator=(const temporary_checkpoint&) = delete;
  ~temporary_checkpoint() {
    std::error_code ignored;
    std::filesystem::remove(path_, ignored);
  }
  [[nodiscard]] std::string path() const { return path_.string(); }

 private:
  std::filesystem::path path_;
};

inline constexpr std::size_t any_number = ~std::size_t{0};

[[nodiscard]] inline std::size_t require_ranks(std::size_t asked, std::size_t most) {
  if (asked == 0) {
    throw std::runtime_error("no rank at all; ask for one at least");
  }
  if (asked > most) {
    throw std::runtime_error(std::to_string(asked) + " ranks on " + std::to_string(most) +
                             " GPUs; each rank needs one of its own: ask for fewer");
  }
  return asked;
}

/// `Ranks` says what the ranks are: `make_ops(rank)` gives one its operations, `run(world, use)` calls `use(comm)` with its
/// communicator, made over a world of threads, and there are at most `most_ranks()` (`any_number`: 4 unless one asks for others).
/// \return how the program ends.
template <class Ranks>
int demo(int count, char** arguments) {
  constexpr double tolerance = 1e-4;
  constexpr double deadline_seconds = 60;
  if (count > 4) {
    std::fprintf(stderr, "usage: %s [CHECKPOINT [RANKS [TOKENS]]]\n", arguments[0]);
    return 2;
  }
  const auto number = [&](int index, std::size_t otherwise) {
    return count > index ? static_cast<std::size_t>(std::strtoull(arguments[index], nullptr, 10)) : otherwise;
  };
  try {
    std::optional<temporary_checkpoint> made_up;
    if (count < 2) {
      made_up.emplace(config{.positions = 64, .vocabulary = 300, .layers = 4, .heads = 4, .channels = 96, .rows = 320});
    }
    const std::string path = made_up ? made_up->path() : arguments[1];
    const config shape = llmc_checkpoint(path).shape();
    const std::size_t most = Ranks::most_ranks();
    const std::size_t ranks = require_ranks(number(2, most == any_number ? 4 : most), most);
    const std::size_t length = std::min<std::size_t>(number(3, 24), shape.positions);
    std::vector<std::vector<int>> tokens(ranks);
    for (std::size_t rank = 0; rank < ranks; ++rank) {
      const fsdpinit::counter_rng random(2, std::to_string(rank));
      for (std::size_t i = 0; i < length; ++i) {
        tokens[rank].push_back(static_cast<int>(random.uniform(i, 0, static_cast<double>(shape.vocabulary) - 1)));
      }
    }
    std::printf("GPT-2, %llu layers of %llu channels: %zu ranks, %zu tokens each\n",
                static_cast<unsigned long long>(shape.layers), static_cast<unsigned long long>(shape.channels), ranks,
                length);

    std::vector<std::vector<float>> sharded(ranks);
    std::vector<std::uint64_t> shard_bytes(ranks);
    fsdpinit::tool::run_rank_threads(ranks, [&](fsdpinit::threads_communicator& world) {
      const std::size_t rank = world.rank();
      decltype(Ranks::make_ops(rank)) ops;
      fsdpinit::agreed(world, deadline_seconds, [&] { ops = Ranks::make_ops(rank); });
      Ranks::run(world, [&](auto& comm) {
        sharded[rank] = logits_of_rank(path, comm, tokens[rank], *ops, &shard_bytes[rank]);
      });
    });
    bool right = true;
    fsdpinit::self_communicator alone;
    for (std::size_t rank = 0; rank < ranks; ++rank) {
      auto ops = Ranks::make_ops(rank);
      const std::vector<float> whole = logits_of_rank(path, alone, tokens[rank], *ops);
      host_ops on_host;
      const double apart = difference(sharded[rank], logits_of_rank(path, alone, tokens[rank], on_host));
      const bool equal = sharded[rank] == whole;
      right = right && equal && apart <= tolerance;
      std::printf("rank %zu: %llu bytes of shards; logits %s the whole model's, %.1e from the reference on the host\n",
                  rank, static_cast<unsigned long long>(shard_bytes[rank]), equal ? "equal" : "DIFFER FROM", apart);
    }
    return right ? 0 : 1;
  } catch (const std::exception& failure) {
    std::fprintf(stderr, "%s: %s\n", arguments[0], failure.what());
    return 1;
  }
}

}  // namespace gpt
