#include <fsdpinit/communicators/threads.hpp>
#include <fsdpinit/core.hpp>
#include <fsdpinit/init/initialize.hpp>
#include <fsdpinit/modules/dynamic_module.hpp>
#include <fsdpinit/modules/units.hpp>
#include <fsdpinit/sources/in_memory.hpp>
#include <fsdpinit/sources/safetensors.hpp>
#include <fsdpinit/sources/safetensors_writer.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

// usage: program WHAT COUNT...
// Does something with a model of COUNT tensors, or with COUNT buckets or messages, inside a function of which an emulator counts the
// instructions; once for each COUNT.

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

/// What planning is given, and the header of a file of these tensors.
struct described_model {
  explicit described_model(std::size_t count) : tensors(tensors_of(count)), file(lay_out_safetensors(tensors)) {
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      names.emplace_back(tensors[i].name);
      requests.push_back({.fqn = tensors[i].name,
                          .dtype = tensors[i].dtype,
                          .shape = tensors[i].shape,
                          .placement = shard{0},
                          .unit = 1 + i / 1024});
    }
  }
  std::vector<tensor_descriptor> tensors;
  safetensors_layout file;
  std::vector<tensor_request> requests;
  std::vector<std::string_view> names;
};

std::uint64_t planned(const std::vector<tensor_request>& requests, fsdpinit::transport transport, std::size_t shards) {
  const plan made =
      make_plan(requests, {.ranks = {.shards = shards}, .transport = transport, .bucket_bytes = 64 * mib});
  return predict(made, 1).bytes_received;
}

// -- loads ---------------------------------------------------------------------------------------------------------------

/// One rank of a world, without the others: what rank 0 has broadcast was recorded, all agree with this rank, and payload arrives
/// without having been sent. Nothing is waited for, so the same instructions are run each time, and they are the engine's.
class lone_rank {
 public:
  using recording = std::vector<std::vector<std::byte>>;
  struct token {};

  lone_rank(std::size_t rank, std::size_t size, recording& said) : rank_(rank), size_(size), said_(said) {}
  [[nodiscard]] std::size_t rank() const noexcept { return rank_; }
  [[nodiscard]] std::size_t size() const noexcept { return size_; }
  void broadcast(mutable_bytes bytes, std::size_t /*root*/) {
    if (rank_ == 0) {
      said_.emplace_back(bytes.begin(), bytes.end());
    } else {
      std::copy_n(said_[heard_++].begin(), bytes.size(), bytes.begin());
    }
  }
  [[nodiscard]] std::uint64_t all_reduce_max(std::uint64_t value) noexcept { return value; }
  token start_broadcast(mutable_bytes /*buffer*/, std::size_t /*root*/,
                        std::span<const std::size_t> /*group*/ = {}) noexcept {
    return {};
  }
  token start_scatter(std::span<const bytes_view> /*windows*/, mutable_bytes /*own*/, std::size_t /*root*/,
                      std::span<const std::size_t> /*group*/) noexcept {
    return {};
  }
  void wait(token& /*operation*/, deadline /*limit*/) noexcept {}

 private:
  std::size_t rank_;
  std::size_t size_;
  recording& said_;
  std::size_t heard_ = 0;
};

/// `tensors` of the same size, `bytes` in all, that move in `buckets`.
struct load_size {
  std::size_t tensors = 64;
  std::size_t buckets = 64;
  std::size_t ranks = 8;
  std::uint64_t bytes = 1 * mib;
};

/// A load on one rank, with all that it is given.
class prepared_load {
 public:
  prepared_load(const load_size& size, std::size_t rank, fsdpinit::transport transport)
      : size_(size), transport_(transport), values_(size.bytes / size.tensors) {
    std::vector<in_memory_tensor> tensors;
    for (std::size_t i = 0; i < size.tensors; ++i) {
      const std::string name = concat("model.layers.", i / 8, ".weight", i % 8);
      module_.add_parameter(name, dtype::u8, {values_.size()});
      tensors.push_back(
          {.descriptor = {.name = name, .dtype = dtype::u8, .shape = {values_.size()}}, .bytes = values_});
    }
    source_ = in_memory_source(std::move(tensors));
    if (rank != 0) {  // hears what rank 0 says
      prepared_load first(size, 0, transport);
      first.run();
      said_ = std::move(first.said_);
    }
    rank_ = rank;
  }
  std::uint64_t run() {
    lone_rank world(rank_, size_.ranks, said_);
    host_memory memory;
    const options how{.policy = policy{.transport = transport_}, .bucket_bytes = size_.bytes / size_.buckets};
    const rank_report report = initialize(module_, source_, channels{world, world}, how, {.memory = memory});
    return report.buckets;
  }

 private:
  load_size size_;
  fsdpinit::transport transport_;
  std::vector<std::byte> values_;
  in_memory_source source_;
  dynamic_module module_;
  lone_rank::recording said_;
  std::size_t rank_ = 0;
};

/// `count` payloads from rank 0 of a world of threads to 7 others, all played by this thread, one after the other.
std::uint64_t sent_between_threads(std::size_t count) {
  constexpr std::size_t ranks = 8;
  const threads_world world(ranks);
  std::vector<threads_communicator> all;
  std::vector<std::byte> payload(ranks * 64);
  std::vector<bytes_view> windows;
  for (std::size_t rank = 0; rank < ranks; ++rank) {
    all.push_back(world.rank(rank));
    windows.push_back(bytes_view(payload).subspan(rank * 64, 64));
  }
  std::vector<std::byte> received(64);
  std::uint64_t bytes = 0;
  for (std::size_t sent = 0; sent < count; sent += ranks - 1) {
    auto root = all[0].start_scatter(windows, {}, 0);
    for (std::size_t rank = 1; rank < ranks; ++rank) {
      auto own = all[rank].start_scatter({}, received, 0);
      all[rank].wait(own, deadline::never());
      bytes += received.size();
    }
    all[0].wait(root, deadline::never());
  }
  return bytes;
}

load_size size_of(std::string_view what, std::size_t count) {
  load_size size;
  if (what.ends_with("-tensor")) {
    size.tensors = count;
  } else if (what.ends_with("-bucket")) {
    size.buckets = count;
  } else {
    size.ranks = count / size.buckets;  // messages: one to each rank in each bucket
  }
  return size;
}

/// Nothing where nothing is called `what`.
std::function<std::uint64_t()> work_of(std::string_view what, std::size_t count) {
  const auto plans = [&](fsdpinit::transport transport, std::size_t shards) {
    return
        [=, model = std::make_shared<described_model>(count)] { return planned(model->requests, transport, shards); };
  };
  const auto loads = [&](std::size_t rank, fsdpinit::transport transport) {
    return [load = std::make_shared<prepared_load>(size_of(what, count), rank, transport)] { return load->run(); };
  };
  if (what == "plan-scatter-8-ranks") return plans(transport::scatter, 8);
  if (what == "plan-scatter-16384-ranks") return plans(transport::scatter, 16384);
  if (what == "plan-own-read-8-ranks") return plans(transport::own_read, 8);
  if (what == "default-units") {
    return [model = std::make_shared<described_model>(count)] { return default_units(model->names).names.size(); };
  }
  if (what == "parse-header") {
    return [model = std::make_shared<described_model>(count)] {
      const std::string_view json = std::string_view(model->file.header).substr(safetensors_prefix_bytes);
      return parse_safetensors_header("header", json, model->file.file_bytes).tensors.size();
    };
  }
  if (what.starts_with("scatter-source-")) return loads(0, transport::scatter);
  if (what.starts_with("scatter-receiver-")) return loads(1, transport::scatter);
  if (what.starts_with("broadcast-receiver-")) return loads(1, transport::broadcast);
  if (what.starts_with("own-read-")) return loads(1, transport::own_read);
  if (what == "threads-message") return [=] { return sent_between_threads(count); };
  return {};
}

}  // namespace

int main(int count, char** arguments) {
  if (count < 3) {
    std::fputs("usage: program WHAT COUNT...\n", stderr);
    return 2;
  }
  for (int i = 2; i < count; ++i) {
    const std::function<std::uint64_t()> work = work_of(arguments[1], std::strtoul(arguments[i], nullptr, 10));
    if (!work) {
      std::fprintf(stderr, "program: nothing is called '%s'\n", arguments[1]);
      return 2;
    }
    std::uint64_t result = 0;
    measured(work, result);
    std::printf("%llu\n", static_cast<unsigned long long>(result));  // so that nothing is left out
  }
  return 0;
}
