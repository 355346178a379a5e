// Every way to bring the same module up, on four ranks that are threads of this process; all end with the same shards.
#include <fsdpinit/core/xxh3.hpp>
#include <fsdpinit/cost/by_cost.hpp>
#include <fsdpinit/cost/calibrate.hpp>
#include <fsdpinit/fsdpinit.hpp>
#include <fsdpinit/init/initialize.hpp>
#include <fsdpinit/init/pretrained.hpp>
#include <fsdpinit/init/pretrained_environment.hpp>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

namespace {

constexpr std::size_t layers = 6;

fsdpinit::dynamic_module make_model() {
  fsdpinit::dynamic_module net;
  net.add_parameter("embed.weight", fsdpinit::dtype::f32, {1000, 32});
  for (std::size_t layer = 0; layer < layers; ++layer) {
    net.add_parameter(fsdpinit::concat("layers.", layer, ".weight"), fsdpinit::dtype::f32, {128, 32});
  }
  return net;
}

/// A checkpoint in memory: `n` counts up through all of it.
struct example_checkpoint {
  std::vector<std::vector<std::uint32_t>> values;
  fsdpinit::in_memory_source source;

  example_checkpoint() {
    std::vector<fsdpinit::in_memory_tensor> tensors;
    std::uint32_t n = 0;
    fsdpinit::dynamic_module net = make_model();
    net.visit_slots([&](std::string_view fqn, const auto& slot) {
      std::vector<std::uint32_t> tensor(slot.shape()[0] * slot.shape()[1]);
      for (std::uint32_t& each : tensor) {
        each = n++;
      }
      values.push_back(std::move(tensor));
      tensors.push_back({.descriptor = {.name = std::string(fqn), .dtype = slot.dtype(), .shape = slot.shape()},
                         .bytes = std::as_bytes(std::span(values.back()))});
    });
    source = fsdpinit::in_memory_source(std::move(tensors));
  }
};

std::vector<std::byte> shards_of(fsdpinit::dynamic_module& net) {
  std::vector<std::byte> all;
  net.visit_slots([&](std::string_view, const auto& slot) {
    all.insert(all.end(), slot.data(), slot.data() + slot.local().bytes);
  });
  return all;
}

/// Adds 1 to the first embedding, as somebody might who edits a pretrained model; where the values are.
void edit(fsdpinit::dynamic_module& net) {
  std::byte* const first = net.get_parameter("embed.weight").data();
  std::uint32_t value = 0;
  std::memcpy(&value, first, sizeof value);
  ++value;
  std::memcpy(first, &value, sizeof value);
}

void unedit(fsdpinit::dynamic_module& net, std::size_t rank) {
  if (rank == 0) {
    std::byte* const first = net.get_parameter("embed.weight").data();
    std::uint32_t value = 0;
    std::memcpy(&value, first, sizeof value);
    --value;
    std::memcpy(first, &value, sizeof value);
  }
}

using shards = std::vector<std::byte>;

/// Each way is a function of one rank; the world is as the ranks see it.
using way = shards (*)(const fsdpinit::in_memory_source& checkpoint, fsdpinit::threads_communicator world);

shards native(const fsdpinit::in_memory_source& checkpoint, fsdpinit::threads_communicator world) {
  auto net = make_model();
  // [native]
  fsdpinit::initialize(net, checkpoint, world);  // native_sharding<transport::scatter>
  // [native]
  return shards_of(net);
}

shards own_read(const fsdpinit::in_memory_source& checkpoint, fsdpinit::threads_communicator world) {
  auto net = make_model();
  // [own-read]
  using fsdpinit::native_sharding, fsdpinit::transport::own_read, fsdpinit::transport::automatic;
  fsdpinit::initialize<native_sharding<own_read>>(net, checkpoint, world);   // each rank reads its part
  fsdpinit::initialize<native_sharding<automatic>>(net, checkpoint, world);  // or where that pays; the report says why
  // [own-read]
  return shards_of(net);
}

shards by_cost(const fsdpinit::in_memory_source& checkpoint, fsdpinit::threads_communicator world) {
  using fsdpinit::native_sharding, fsdpinit::transport::automatic;
  auto net = make_model();
  // [calibrate]
  const fsdpinit::cluster here = fsdpinit::calibrate(checkpoint, world);
  fsdpinit::initialize<native_sharding<automatic>>(net, checkpoint, world, {.choose = fsdpinit::by_cost(here)});
  // [calibrate]
  return shards_of(net);
}

shards chosen(const fsdpinit::in_memory_source& checkpoint, fsdpinit::threads_communicator world) {
  auto net = make_model();
  const std::string policy = "native-sharding";
  const std::string transport = "own-read";
  // [chosen]
  // `policy` and `transport` come from a configuration: "native-sharding" and "own-read", for instance.
  fsdpinit::initialize(net, checkpoint, world, {.policy = fsdpinit::policy_named(policy, transport)});
  // [chosen]
  return shards_of(net);
}

shards own_state(const fsdpinit::in_memory_source& checkpoint, fsdpinit::threads_communicator world) {
  auto net = make_model();
  fsdpinit::load_pretrained(net, checkpoint, world);
  // [state]
  // The source rank's module has its weights already, from wherever; the others' are on meta.
  fsdpinit::initialize(net, fsdpinit::module_state{}, world);  // each tensor is released there once it has left
  // [state]
  return shards_of(net);
}

shards cpu_ram(const fsdpinit::in_memory_source& checkpoint, fsdpinit::threads_communicator world) {
  auto net = make_model();
  // [cpu-ram]
  const fsdpinit::pretrained_load_context context{.active = true};  // false: every rank loads everything
  fsdpinit::load_pretrained(net, checkpoint, world, context);       // whole weights, on the source rank only
  if (world.rank() == context.source_rank) {
    edit(net);  // resize an embedding, merge an adapter, ...
  }
  fsdpinit::prepare(net, world);  // from that rank's memory to everybody's shards
  // [cpu-ram]
  unedit(net, world.rank());
  return shards_of(net);
}

shards switched_off(const fsdpinit::in_memory_source& checkpoint, fsdpinit::threads_communicator world) {
  auto net = make_model();
  const bool from_the_command_line = false;
  // [switch]
  fsdpinit::initialize(net, checkpoint, world, {.memory_efficient_init = from_the_command_line});
  // [switch]
  return shards_of(net);
}

shards replicated(const fsdpinit::in_memory_source& checkpoint, fsdpinit::threads_communicator world) {
  auto net = make_model();
  // [mesh]
  // 2 replicas of 2 shards: rank = replica * 2 + shard
  fsdpinit::initialize(net, checkpoint, world, {.source_rank = 1, .replicas = 2});
  // [mesh]
  return shards_of(net);
}

shards verified(const fsdpinit::in_memory_source& checkpoint, fsdpinit::threads_communicator world) {
  auto net = make_model();
  // [verify]
  fsdpinit::initialize(net, checkpoint, world, {.verify = fsdpinit::verification::transfer});
  // [verify]
  return shards_of(net);
}

std::vector<shards> run(const fsdpinit::in_memory_source& checkpoint, way how) {
  const fsdpinit::threads_world world(4);
  std::vector<shards> all(4);
  std::vector<std::jthread> threads;
  for (std::size_t rank = 0; rank < 4; ++rank) {
    threads.emplace_back([&, rank] { all[rank] = how(checkpoint, world.rank(rank)); });
  }
  threads.clear();
  return all;
}

}  // namespace

int main() {
  // [environment]
  // Once per process, before ranks are started: for launchers and child processes that read accelerate's variables.
  const auto exported = fsdpinit::export_environment();
  const fsdpinit::pretrained_load_context context = fsdpinit::pretrained_context_from_environment();
  // [environment]
  const example_checkpoint checkpoint;
  const std::vector<shards> wanted = run(checkpoint.source, native);
  bool alike = context.active;
  const auto compare = [&](const char* name, way how) {
    const bool same = run(checkpoint.source, how) == wanted;
    std::printf("%-12s %s\n", name, same ? "the same shards" : "OTHER SHARDS");
    alike = alike && same;
  };
  compare("own-read", own_read);
  compare("by cost", by_cost);
  compare("chosen", chosen);
  compare("own state", own_state);
  compare("cpu-ram", cpu_ram);
  compare("switched off", switched_off);
  compare("verified", verified);
  const std::vector<shards> replicas = run(checkpoint.source, replicated);
  const bool replicas_alike = replicas[0] == replicas[2] && replicas[1] == replicas[3] && replicas[0] != replicas[1];
  std::printf("%-12s %s\n", "replicas", replicas_alike ? "alike" : "DIFFER");
  return alike && replicas_alike ? 0 : 1;
}
