// A step of training on shards: a unit is whole only while it is computed with.
#include <fsdpinit/fsdpinit.hpp>
#include <fsdpinit/units/sharded_units.hpp>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

namespace {

constexpr std::size_t layers = 3;
constexpr std::size_t rows = 10;  // which 4 ranks share as 3, 3, 3, 1

fsdpinit::dynamic_module make_model() {
  fsdpinit::dynamic_module net;
  for (std::size_t layer = 0; layer < layers; ++layer) {
    net.add_parameter(fsdpinit::concat("layers.", layer, ".weight"), fsdpinit::dtype::f32, {rows, 4});
  }
  return net;
}

std::span<float> values_of(const fsdpinit::parameter& slot) {
  return {reinterpret_cast<float*>(slot.data()), slot.local().bytes / sizeof(float)};
}

/// What this rank's part of the batch says about a layer: here, that every weight of it is one too large.
std::vector<float> gradient_of(std::span<const float> whole) { return std::vector<float>(whole.size(), 1.0F); }

std::vector<float> train(const fsdpinit::in_memory_source& checkpoint, fsdpinit::threads_communicator world) {
  fsdpinit::dynamic_module net = make_model();
  // [units]
  const fsdpinit::options how{.bucket_bytes = 64};
  fsdpinit::initialize(net, checkpoint, world, how);
  fsdpinit::sharded_units units(net, world, how);  // the same options: the mesh and the units
  // [units]
  for (std::size_t layer = 0; layer < layers; ++layer) {
    const std::string fqn = fsdpinit::concat("layers.", layer, ".weight");
    fsdpinit::parameter& weight = net.get_parameter(fqn);
    // [step]
    const std::size_t unit = units.unit_of(fqn);
    std::vector<float> gradient;
    {
      const fsdpinit::unsharded_unit whole(units, unit);  // one all-gather; collective
      gradient = gradient_of(values_of(weight));          // the whole tensor, in its slot
    }  // the shards are back in their slots, and the whole tensors gone
    const auto reduced = units.reduce_scatter_gradients(
        unit, [&](std::string_view) { return std::span<const float>(gradient); }, fsdpinit::gradient_reduction::mean);
    for (const fsdpinit::shard_gradient& each : reduced) {
      const std::span<float> shard = values_of(net.get_parameter(each.fqn));
      for (std::size_t i = 0; i < shard.size(); ++i) {
        shard[i] -= each.values[i];
      }
    }
    // [step]
  }
  std::vector<float> all;
  for (std::size_t layer = 0; layer < layers; ++layer) {
    const std::span<float> shard = values_of(net.get_parameter(fsdpinit::concat("layers.", layer, ".weight")));
    all.insert(all.end(), shard.begin(), shard.end());
  }
  return all;
}

}  // namespace

int main() {
  std::vector<float> ones(layers * rows * 4, 1.0F);
  std::vector<fsdpinit::in_memory_tensor> tensors;
  fsdpinit::dynamic_module net = make_model();
  net.visit_slots([&](std::string_view fqn, const auto& slot) {
    tensors.push_back({.descriptor = {.name = std::string(fqn), .dtype = slot.dtype(), .shape = slot.shape()},
                       .bytes = std::as_bytes(std::span(ones).subspan(tensors.size() * rows * 4, rows * 4))});
  });
  const fsdpinit::in_memory_source checkpoint(std::move(tensors));

  const fsdpinit::threads_world world(4);
  std::vector<std::vector<float>> trained(4);
  std::vector<std::jthread> threads;
  for (std::size_t rank = 0; rank < 4; ++rank) {
    threads.emplace_back([&, rank] { trained[rank] = train(checkpoint, world.rank(rank)); });
  }
  threads.clear();
  std::size_t zeros = 0;
  for (const std::vector<float>& each : trained) {
    for (const float value : each) {
      zeros += value == 0 ? 1U : 0U;
    }
  }
  std::printf("%zu of %zu weights are 0 after a step from 1\n", zeros, ones.size());
  return zeros == ones.size() ? 0 : 1;
}
