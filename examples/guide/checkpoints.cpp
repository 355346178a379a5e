// Checkpoints that are not quite what the module wants: other names, other dtypes, several of them, and some that lack a tensor.
#include <fsdpinit/fsdpinit.hpp>
#include <fsdpinit/os/output_file.hpp>
#include <fsdpinit/sources/adaptors.hpp>
#include <fsdpinit/sources/safetensors.hpp>
#include <fsdpinit/sources/safetensors_writer.hpp>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include <unistd.h>

namespace {

constexpr std::size_t ranks = 2;

/// A file of ones.
void write_checkpoint(const std::string& path, const std::vector<fsdpinit::tensor_descriptor>& tensors) {
  // [write]
  const fsdpinit::safetensors_layout layout = fsdpinit::lay_out_safetensors(tensors, {{"format", "pt"}});
  fsdpinit::output_file out(path);  // never over a file that is there
  out.write_all(std::as_bytes(std::span(layout.header)));
  for (const fsdpinit::tensor_descriptor& tensor : tensors) {
    const std::vector<float> values(byte_size(tensor) / sizeof(float), 1.0F);
    out.write_all(std::as_bytes(std::span(values)));
  }
  out.close();
  // [write]
}

fsdpinit::dynamic_module make_model() {
  fsdpinit::dynamic_module net;
  net.add_parameter("embed", fsdpinit::dtype::bf16, {16, 8});
  net.add_parameter("layers.0.up", fsdpinit::dtype::bf16, {8, 8});
  net.add_parameter("layers.0.lora", fsdpinit::dtype::bf16, {8, 2});
  net.add_parameter("head", fsdpinit::dtype::bf16, {4, 8});
  return net;
}

std::string run(const std::string& base, const std::string& adapter, fsdpinit::threads_communicator world) {
  fsdpinit::dynamic_module net = make_model();
  // [adaptors]
  using fsdpinit::cast, fsdpinit::checkpoint, fsdpinit::filtered, fsdpinit::merged, fsdpinit::renamed;
  const auto no_statistics = [](std::string_view name) { return !name.starts_with("statistics."); };
  auto source = merged(checkpoint{base} | filtered(no_statistics) | renamed("model.", ""), checkpoint{adapter}) |
                cast(fsdpinit::dtype::bf16);  // opened where it is read: on rank 0
  // [adaptors]
  // [missing]
  const fsdpinit::rank_report report = fsdpinit::initialize(
      net, source, world, {.strict = false}, {.missing = fsdpinit::normal_values{.seed = 1, .deviation = 0.02}});
  // report.missing == {"head"}: each rank has made its own part of it, the same whole on any number of ranks
  // [missing]
  return fsdpinit::concat("read ", report.bytes_read, " bytes, moved ", report.bytes_sent,
                          "; missing: ", report.missing.size() == 1 ? report.missing.front() : "?");
}

}  // namespace

int main() {
  const std::filesystem::path folder =
      std::filesystem::temp_directory_path() / fsdpinit::concat("fsdpinit-", ::getpid());
  std::filesystem::create_directory(folder);
  const auto f32 = [](std::string name, fsdpinit::shape extents) {
    return fsdpinit::tensor_descriptor{
        .name = std::move(name), .dtype = fsdpinit::dtype::f32, .shape = std::move(extents)};
  };
  const std::string base = folder / "base.safetensors";
  const std::string adapter = folder / "adapter.safetensors";
  write_checkpoint(base,
                   {f32("model.embed", {16, 8}), f32("model.layers.0.up", {8, 8}), f32("statistics.loss", {100})});
  write_checkpoint(adapter, {f32("layers.0.lora", {8, 2})});
  const fsdpinit::threads_world world(ranks);
  std::vector<std::string> lines(ranks);
  std::vector<std::jthread> threads;
  for (std::size_t rank = 0; rank < ranks; ++rank) {
    threads.emplace_back([&, rank] {
      try {
        lines[rank] = run(base, adapter, world.rank(rank));
      } catch (const fsdpinit::error& failure) {
        lines[rank] = failure.what();
      }
    });
  }
  threads.clear();
  std::filesystem::remove_all(folder);
  for (const std::string& line : lines) {
    std::printf("%s\n", line.c_str());
  }
  return lines[0].ends_with("missing: head") && lines[1].ends_with("missing: head") ? 0 : 1;
}
