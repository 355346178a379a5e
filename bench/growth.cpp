// How a load grows: with the bytes of the model, and with the number of its tensors.
//
//   growth FOLDER [ROUNDS]
//
// Ranks are threads. Three checkpoints of 256 MiB, 512 MiB and 1 GiB in tensors of 8 MiB; and 100,000 tensors of 1 KiB in 100 layers
// beside 100 tensors, one in each layer, of as many bytes: as many units, and so slabs, of the same size, as the pages of small slabs
// cost more than those of one large slab. Written to FOLDER where they are not there yet (1.9 GB).
#include "ratio.hpp"
#include "thread_loads.hpp"
#include <fsdpinit/fsdpinit.hpp>
#include <fsdpinit/os/output_file.hpp>
#include <fsdpinit/sources/safetensors.hpp>
#include <fsdpinit/sources/safetensors_writer.hpp>

#include <fmt/format.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

namespace {

using namespace fsdpinit;
using namespace fsdpinit::bench;

constexpr std::size_t many = 100'000;
constexpr std::size_t layers = 100;

struct checkpoint_file {
  std::string path;
  std::size_t tensors;
  std::uint64_t bytes;            // of each
  std::size_t tensors_per_layer;  // in `model.layers.N`, which is a unit
};

void write(const checkpoint_file& file) {
  if (std::filesystem::exists(file.path)) {
    return;
  }
  std::vector<tensor_descriptor> tensors;
  for (std::size_t i = 0; i < file.tensors; ++i) {
    tensors.push_back({.name = concat("model.layers.", i / file.tensors_per_layer, ".experts.",
                                      i % file.tensors_per_layer, ".weight"),
                       .dtype = dtype::bf16,
                       .shape = {64, file.bytes / 128}});
  }
  const std::vector<std::byte> values(file.bytes, std::byte{1});
  output_file out(file.path);
  const safetensors_layout layout = lay_out_safetensors(tensors);
  out.write_all(std::as_bytes(std::span(layout.header)));
  for (std::size_t i = 0; i < file.tensors; ++i) {
    out.write_all(values);
  }
  out.close();
}

contender load_of(const checkpoint_file& file, std::size_t ranks, const char* transport, std::size_t compared_to) {
  const std::string name = fmt::format("{} x {} KiB, {} rank{}, {}", file.tensors, file.bytes / kib, ranks,
                                       ranks == 1 ? "" : "s", transport);
  return {.name = name,
          .run = [=] { return load_seconds(file.path, ranks, {.policy = policy_named("native-sharding", transport)}); },
          .compared_to = compared_to};
}

int run(const std::string& folder, std::uint64_t rounds) {
  std::filesystem::create_directories(folder);
  std::vector<checkpoint_file> sizes;
  for (const std::size_t tensors : {32U, 64U, 128U}) {
    sizes.push_back({.path = concat(folder, "/", tensors, "x8MiB.safetensors"),
                     .tensors = tensors,
                     .bytes = 8 * mib,
                     .tensors_per_layer = tensors});
  }
  const checkpoint_file few{.path = concat(folder, "/", layers, "-tensors.safetensors"),
                            .tensors = layers,
                            .bytes = many * kib / layers,
                            .tensors_per_layer = 1};
  const checkpoint_file lots{
      .path = folder + "/many.safetensors", .tensors = many, .bytes = kib, .tensors_per_layer = many / layers};
  for (const checkpoint_file& each : sizes) {
    write(each);
  }
  write(few);
  write(lots);

  std::vector<contender> by_bytes;
  for (const checkpoint_file& each : sizes) {
    by_bytes.push_back(load_of(each, 4, "scatter", 0));
  }
  run_rounds(by_bytes, rounds);
  print_table(by_bytes, 4, rounds, 4 * mib, "x first");

  fmt::print("\n| {:<42} | {:>9} | {:>9} | {:>13} |\n", "", "median s", "of 100", "us per tensor");
  fmt::print("|-{:-<42}-|-{:->9}:|-{:->9}:|-{:->13}:|\n", "", "", "", "");
  for (const char* transport : {"scatter", "own-read"}) {
    for (const std::size_t ranks : {1U, 2U, 4U}) {
      std::array pair{load_of(few, ranks, transport, 0), load_of(lots, ranks, transport, 0)};
      run_rounds(pair, rounds);
      const double of_few = median(pair[0].seconds);
      const double of_many = median(pair[1].seconds);
      fmt::print("| {:<42} | {:>9.3f} | {:>9.3f} | {:>13.2f} |\n", pair[1].name, of_many, of_few,
                 (of_many - of_few) / static_cast<double>(many - layers) * 1e6);
    }
  }
  return 0;
}

}  // namespace

int main(int count, char** arguments) {
  if (count < 2) {
    fmt::print(stderr, "usage: growth FOLDER [ROUNDS]\n");
    return 2;
  }
  try {
    return run(arguments[1], number_argument(count, arguments, 2, 9));
  } catch (const std::exception& failure) {
    fmt::print(stderr, "growth: {}\n", failure.what());
    return 1;
  }
}
