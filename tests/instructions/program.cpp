#include <fsdpinit/core.hpp>
#include <fsdpinit/plan/units.hpp>
#include <fsdpinit/sources/safetensors.hpp>
#include <fsdpinit/sources/safetensors_writer.hpp>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

// usage: program WHAT COUNT
// Does something with a model of COUNT tensors, inside a function of which an emulator counts the instructions.

using namespace fsdpinit;

extern "C" [[gnu::noipa]] void measured(const std::function<std::uint64_t()>& work, std::uint64_t& result) {
  result = work();
}

namespace {

/// Names of a mixture-of-experts model: four weights in each expert, 256 experts to a layer.
std::vector<tensor_descriptor> tensors_of(std::size_t count) {
  std::vector<tensor_descriptor> out;
  for (std::size_t i = 0; i < count; ++i) {
    out.push_back({.name = concat("model.layers.", i / 1024, ".experts.", i / 4 % 256, ".",
                                  i % 4 == 3 ? "norm" : "proj", i % 4, ".weight"),
                   .dtype = dtype::bf16,
                   .shape = i % 4 == 3 ? shape{2048} : shape{2048, 1536}});
  }
  return out;
}

std::uint64_t planned(const std::vector<tensor_request>& requests, transport_kind transport, std::size_t shards) {
  const plan made =
      make_plan(requests, {.ranks = {.shards = shards}, .transport = transport, .bucket_bytes = 64 * mib});
  return predict(made, 1).bytes_received;
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 3) {
    std::fputs("usage: program WHAT COUNT\n", stderr);
    return 2;
  }
  const std::string_view what = arguments[1];
  const std::vector<tensor_descriptor> tensors = tensors_of(std::strtoul(arguments[2], nullptr, 10));
  std::vector<tensor_request> requests;
  std::vector<std::string_view> names;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    names.emplace_back(tensors[i].name);
    requests.push_back({.fqn = tensors[i].name,
                        .dtype = tensors[i].dtype,
                        .shape = tensors[i].shape,
                        .placement = shard{0},
                        .unit = 1 + i / 1024});
  }
  const safetensors_layout file = lay_out_safetensors(tensors);
  const std::string_view json = std::string_view(file.header).substr(safetensors_prefix_bytes);

  std::function<std::uint64_t()> work;
  if (what == "plan-scatter-8-ranks") {
    work = [&] { return planned(requests, transport_kind::scatter, 8); };
  } else if (what == "plan-scatter-16384-ranks") {
    work = [&] { return planned(requests, transport_kind::scatter, 16384); };
  } else if (what == "plan-own-read-8-ranks") {
    work = [&] { return planned(requests, transport_kind::own_read, 8); };
  } else if (what == "default-units") {
    work = [&] { return default_units(names).names.size(); };
  } else if (what == "parse-header") {
    work = [&] { return parse_safetensors_header("header", json, file.file_bytes).tensors.size(); };
  } else {
    std::fprintf(stderr, "program: nothing is called '%s'\n", arguments[1]);
    return 2;
  }
  std::uint64_t result = 0;
  measured(work, result);
  std::printf("%llu\n", static_cast<unsigned long long>(result));  // so that nothing is left out
  return 0;
}
