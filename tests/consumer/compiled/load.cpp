#include <fsdpinit/fsdpinit.hpp>

#include <array>
#include <cstddef>
#include <span>

unsigned long LOAD();

/// Bytes of shards of a model of one tensor, on one rank.
unsigned long LOAD() {
  using namespace fsdpinit;
  const std::array<float, 6> values{1, 2, 3, 4, 5, 6};
  in_memory_source source(
      {{.descriptor = {.name = "w", .dtype = dtype::f32, .shape = {2, 3}}, .bytes = std::as_bytes(std::span(values))}});
  dynamic_module module;
  module.add_parameter("w", dtype::f32, {2, 3});
  self_communicator alone;
  return initialize(module, source, alone).predicted.shard_bytes;
}
