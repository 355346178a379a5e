#include "torch/launched_ranks.hpp"
#include <fsdpinit/fsdpinit.hpp>
#include <fsdpinit/observe/resident_memory.hpp>
#include <fsdpinit/torch.hpp>

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <span>
#include <string>
#include <vector>

#include <torch/nn.h>

namespace memory_test {
namespace {

using namespace fsdpinit;
using namespace fsdpinit::testing_support;

constexpr std::int64_t width = 8192;
constexpr std::int64_t layers = 8;

torch::nn::Sequential make_model() {
  torch::nn::Sequential out;
  for (std::int64_t i = 0; i < layers; ++i) {
    out->push_back(torch::nn::Linear(torch::nn::LinearOptions(width, width).bias(false)));
  }
  return out;
}

/// A checkpoint that takes no memory: element i of layer l is l * 1000 + i % 1000.
class made_up_source {
 public:
  made_up_source() {
    for (std::uint64_t i = 0; i < layers; ++i) {
      tensors_.push_back({.name = concat(i, ".weight"), .dtype = dtype::f32, .shape = {width, width}});
    }
  }
  [[nodiscard]] std::span<const tensor_descriptor> tensors() const noexcept { return tensors_; }
  void read(std::size_t tensor, std::uint64_t offset, mutable_bytes to) const {
    for (std::uint64_t at = 0; at < to.size(); at += sizeof(float)) {
      const float value = value_of(tensor, (offset + at) / sizeof(float));
      std::memcpy(to.data() + at, &value, sizeof value);
    }
  }
  [[nodiscard]] static float value_of(std::size_t tensor, std::uint64_t element) noexcept {
    return static_cast<float>(tensor * 1000 + element % 1000);
  }

 private:
  std::vector<tensor_descriptor> tensors_;
};

double in_mib(std::uint64_t bytes) { return static_cast<double>(bytes) / static_cast<double>(mib); }

using Memory = launched_ranks;

TEST_F(Memory, OfARankThatBringsUpAModuleIsItsShardAndBucketsOnTheSourceRankToo) {
  c10d_communicator ranks(*group);
  const std::uint64_t base = peak_resident_bytes();

  const double begin = monotonic_seconds();
  torch::nn::Sequential net{nullptr};
  {
    const skip_init skipping;
    net = make_model();
  }
  torch_module module(net);
  const double constructed = monotonic_seconds() - begin;
  const std::uint64_t after_construction = peak_resident_bytes();

  const options how;
  const rank_report report = initialize(module, made_up_source(), ranks, how);
  const std::uint64_t peak = peak_resident_bytes();
  const std::uint64_t allowed = base + report.predicted.shard_bytes + 2 * how.bucket_bytes + 64 * mib;
  std::printf(
      "rank %d: base %.0f MiB; constructed in %.1f ms, %.1f MiB more; shard %.0f MiB; peak %.0f of %.0f MiB allowed\n",
      self.rank, in_mib(base), constructed * 1e3, in_mib(after_construction - base),
      in_mib(report.predicted.shard_bytes), in_mib(peak), in_mib(allowed));

  EXPECT_LE(after_construction, base + 64 * mib);
  EXPECT_LE(peak, allowed);
  for (std::size_t layer = 0; layer < layers; ++layer) {
    const torch::Tensor& shard = module.tensor(concat(layer, ".weight"));
    const auto first = static_cast<std::uint64_t>(shard.numel()) * static_cast<std::uint64_t>(self.rank);
    for (const std::uint64_t at :
         {std::uint64_t{0}, std::uint64_t{12345}, static_cast<std::uint64_t>(shard.numel()) - 1}) {
      EXPECT_EQ(shard.data_ptr<float>()[at], made_up_source::value_of(layer, first + at));
    }
  }
}

}  // namespace
}  // namespace memory_test
