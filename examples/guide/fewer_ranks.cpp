// One checkpoint on 4 ranks, then on 3: it does not know how many ranks there are, and the parts add up to the same model.
// [load]
#include <fsdpinit/fsdpinit.hpp>

#include <cstddef>
#include <cstdio>
#include <span>
#include <thread>
#include <vector>

/// The weights as `count` ranks hold them, the part of rank 0 first.
std::vector<float> load(const fsdpinit::in_memory_source& checkpoint, std::size_t count) {
  const fsdpinit::threads_world world(count);
  std::vector<std::vector<float>> parts(count);
  std::vector<std::jthread> threads;
  for (std::size_t rank = 0; rank < count; ++rank) {
    threads.emplace_back([&, rank] {
      fsdpinit::dynamic_module net;
      net.add_parameter("weight", fsdpinit::dtype::f32, {10, 8});
      fsdpinit::initialize(net, checkpoint, world.rank(rank));
      const fsdpinit::local_shard& mine = net.get_parameter("weight").local();  // rows from mine.offset on
      const auto* const first = reinterpret_cast<const float*>(mine.data.get());
      parts[rank].assign(first, first + mine.bytes / sizeof(float));
    });
  }
  threads.clear();
  std::vector<float> whole;
  for (const std::vector<float>& part : parts) {
    whole.insert(whole.end(), part.begin(), part.end());
  }
  return whole;
}
// [load]

int main() {
  std::vector<float> values;
  for (int i = 0; i < 80; ++i) {
    values.push_back(static_cast<float>(i));
  }
  const fsdpinit::in_memory_source checkpoint(
      {{.descriptor = {.name = "weight", .dtype = fsdpinit::dtype::f32, .shape = {10, 8}},
        .bytes = std::as_bytes(std::span<const float>(values))}});
  const bool same = load(checkpoint, 4) == values && load(checkpoint, 3) == values;
  std::puts(same ? "the same weights on 4 ranks and on 3" : "DIFFERENT WEIGHTS");
  return same ? 0 : 1;
}
