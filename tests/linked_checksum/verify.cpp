/// \file
/// A program that verifies without naming a checksum: `verify`, or on rank 1 alone: `verify 1`. This file knows of none.

#include <fsdpinit/fsdpinit.hpp>
#include <fsdpinit/testing/rank_harness.hpp>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

namespace {

using namespace fsdpinit;

constexpr checksum own{.name = "own",
                       .make = []() -> void* { return nullptr; },
                       .drop = [](void*) noexcept {},
                       .restart = [](void*, std::uint64_t) noexcept {},
                       .update = [](void*, const std::byte*, std::size_t) noexcept {},
                       .value = [](const void*) noexcept { return std::uint64_t{0}; }};

}  // namespace

int main(int count, char** /*arguments*/) {
  std::vector<std::string> said(2);
  fsdpinit::testing::run_ranks(2, [&](std::size_t rank, threads_communicator& world) {
    const std::vector<std::byte> bytes(8);
    const in_memory_source source({{{.name = "w", .dtype = dtype::u8, .shape = {8}}, bytes}});
    dynamic_module module;
    module.add_parameter("w", dtype::u8, {8});
    options how{.verify = verification::transfer};
    if (count > 1 && rank != 1) {
      how.checksum = &own;
    }
    try {
      static_cast<void>(initialize(module, source, world, how));
      said[rank] = "verified";
    } catch (const error& failed) {
      said[rank] = failed.what();
    }
  });
  std::puts(said[0].c_str());
  return said[0] == said[1] ? 0 : 1;
}
