// Your own framework in 40 lines: a tensor class, a module tree and a communicator that fsdpinit has never heard of.
#include <fsdpinit/fsdpinit.hpp>

#include <barrier>
#include <cstdio>
#include <cstring>
#include <map>
#include <numeric>
#include <thread>

// What you have. Nothing here knows of fsdpinit.
namespace mine {

struct tensor {
  std::vector<std::uint64_t> sizes;  // of the whole tensor, float32
  std::shared_ptr<std::byte> memory;
  std::uint64_t bytes = 0;  // in memory
};

struct module {
  std::map<std::string, tensor> weights;
  std::map<std::string, module> children;
};

[[nodiscard]] module make_model(int layers) {
  const auto matrix = [](std::uint64_t rows, std::uint64_t columns) {
    return tensor{.sizes = {rows, columns}, .memory = {}};
  };
  auto model = module();
  model.weights = {{"embedding", matrix(1000, 64)}};
  for (int i = 0; i < layers; ++i) {
    model.children["layers"].children[std::to_string(i)].weights = {{"up", matrix(256, 64)}, {"down", matrix(64, 256)}};
  }
  return model;
}

struct group {  // some message-passing library's handle
  int id, count;
  std::barrier<>* meet;
  void** shared;
  void bcast(void* buffer, std::size_t bytes, int root) const {
    *(id == root ? shared : &buffer) = buffer;
    meet->arrive_and_wait();
    if (id != root) std::memcpy(buffer, *shared, bytes);
    meet->arrive_and_wait();
  }
};

}  // namespace mine

// What you write: how fsdpinit sees a tensor, a module and the group.

// [plug-in]
template <>
struct fsdpinit::slot_traits<mine::tensor> {
  static slot_role role(const mine::tensor&) { return slot_role::parameter; }
  static fsdpinit::dtype dtype(const mine::tensor&) { return fsdpinit::dtype::f32; }
  static fsdpinit::shape shape(const mine::tensor& t) { return fsdpinit::shape(t.sizes); }
  static fsdpinit::placement placement(const mine::tensor&) { return shard{0}; }
  static const std::byte* data(const mine::tensor& t) { return t.memory.get(); }
  static void drop(mine::tensor& t) noexcept { t.memory.reset(); }
  static void adopt(mine::tensor& t, local_shard&& part) noexcept {
    t.memory = std::move(part.data);
    t.bytes = part.bytes;
  }
};

template <>
struct fsdpinit::module_traits<mine::module> {
  template <class Visitor>
  static void visit_slots(mine::module& node, Visitor&& visitor, const std::string& prefix = "") {
    for (auto& [name, weight] : node.weights) visitor(prefix + name, weight);
    for (auto& [name, child] : node.children) visit_slots(child, visitor, prefix + name + ".");
  }
};

struct my_communicator {
  mine::group group;
  std::size_t rank() const { return static_cast<std::size_t>(group.id); }
  std::size_t size() const { return static_cast<std::size_t>(group.count); }
  void broadcast(std::span<std::byte> bytes, std::size_t root) {
    group.bcast(bytes.data(), bytes.size(), static_cast<int>(root));
  }
};

fsdpinit::rank_report bring_up(mine::module& model, my_communicator ranks, auto checkpoint) {
  return fsdpinit::initialize(model, checkpoint, ranks, {.bucket_bytes = 64 * fsdpinit::kib});
}
// [plug-in]

// A run: 4 ranks, the weights on rank 0 only.
int main() {
  constexpr int ranks = 4;
  std::barrier meet(ranks);
  void* shared = nullptr;
  std::vector<std::string> lines(ranks);
  std::vector<std::jthread> threads;
  for (int id = 0; id < ranks; ++id) {
    threads.emplace_back([&, id] {
      mine::module model = mine::make_model(3);
      std::vector<float> weights;    // a real one would be fsdpinit::checkpoint{"path/to/model"}
      const auto checkpoint = [&] {  // called on rank 0 only
        std::vector<fsdpinit::in_memory_tensor> tensors;
        weights.resize(1000 * 64 + 3 * 2 * 256 * 64);
        std::iota(weights.begin(), weights.end(), 0.0F);
        std::span<const std::byte> rest = std::as_bytes(std::span(weights));
        fsdpinit::module_traits<mine::module>::visit_slots(model, [&](const std::string& fqn, mine::tensor& t) {
          fsdpinit::tensor_descriptor what{
              .name = fqn, .dtype = fsdpinit::dtype::f32, .shape = fsdpinit::shape(t.sizes)};
          const std::uint64_t bytes = byte_size(what);
          tensors.push_back({std::move(what), rest.first(bytes)});
          rest = rest.subspan(bytes);
        });
        return fsdpinit::in_memory_source(std::move(tensors));
      };
      const auto report = bring_up(model, {{id, ranks, &meet, &shared}}, checkpoint);

      const mine::tensor& up = model.children["layers"].children["2"].weights["up"];
      float first = 0;
      std::memcpy(&first, up.memory.get(), sizeof first);
      char line[160];
      std::snprintf(line, sizeof line, "rank %d holds %llu bytes, read %llu; layers.2.up: %llu bytes from %.0f on\n",
                    id, static_cast<unsigned long long>(report.predicted.shard_bytes),
                    static_cast<unsigned long long>(report.bytes_read), static_cast<unsigned long long>(up.bytes),
                    static_cast<double>(first));
      lines[static_cast<std::size_t>(id)] = line;
    });
  }
  threads.clear();
  for (const std::string& line : lines) std::fputs(line.c_str(), stdout);
  return 0;
}
