// A framework, a file format and a communicator of one's own, brought up on four ranks: what the guide's steps come to.
#include "my_adapter.hpp"
#include <fsdpinit/fsdpinit.hpp>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <string>
#include <thread>
#include <vector>

#include <unistd.h>

namespace {

struct shown {
  std::string line{};
  std::uint64_t first_row = 0;  // of blocks.2.up, whose values count up from row to row
  float first = 0;
  bool bound = false;  // has the optimizer the embedding, under one of its two names?
};

shown run(const std::string& path, mine::group& group) {
  // [bring-up]
  mine::pool pool;
  pool_memory memory(pool);
  mine::module model = mine::make_model(3);  // names and sizes
  mine::sgd sgd;
  sgd_binding optimizer(sgd, {"embed", "blocks.0.up", "blocks.0.down"});
  group_communicator ranks(group);
  const auto weights = [&] { return weights_source(path); };  // called on rank 0 alone
  const fsdpinit::rank_report report =
      fsdpinit::initialize(model, weights, ranks, {.bucket_bytes = 64 * fsdpinit::kib, .deadline_seconds = 60},
                           {.memory = memory, .optimizer = {model, optimizer}});
  // [bring-up]
  const mine::tensor& up = model.children["blocks"].children["2"].tensors["up"];
  shown out{.first_row = up.first_row, .bound = sgd.parameters[0].memory == model.tensors["head"].memory};
  std::memcpy(&out.first, up.memory.get(), sizeof out.first);
  out.line = fsdpinit::concat("rank ", report.rank, " read ", report.bytes_read, " bytes and holds ",
                              report.predicted.shard_bytes, ", at most ", report.accounted_peak_bytes,
                              " while loading; blocks.2.up from row ", up.first_row, " on\n");
  return out;
}

}  // namespace

int main() {
  constexpr std::size_t ranks = 4;
  const std::string path = std::filesystem::temp_directory_path() / fsdpinit::concat("fsdpinit-guide-", ::getpid());
  mine::write_weights(path, mine::stored_sizes(mine::make_model(3)));
  std::vector<mine::group> groups = mine::make_group(ranks);
  std::vector<shown> all(ranks);
  std::vector<std::jthread> threads;
  for (std::size_t rank = 0; rank < ranks; ++rank) {
    threads.emplace_back([&, rank] {
      try {
        all[rank] = run(path, groups[rank]);
      } catch (const fsdpinit::error& failure) {  // the same on every rank
        all[rank].line = fsdpinit::concat("error: ", failure.what(), "\n");
      }
    });
  }
  threads.clear();
  std::filesystem::remove(path);
  bool right = true;
  for (const shown& each : all) {
    std::fputs(each.line.c_str(), stdout);
    const auto rows = static_cast<float>(each.first_row - all[0].first_row);
    right = right && each.bound && each.first == all[0].first + rows * 64;
  }
  return right && all[3].first_row == 192 ? 0 : 1;
}
