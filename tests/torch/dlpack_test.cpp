#include "support/expect_error.hpp"
#include "torch/models.hpp"
#include <fsdpinit/adapters/dlpack.hpp>
#include <fsdpinit/adapters/torch_first.hpp>
#include <fsdpinit/fsdpinit.hpp>
#include <fsdpinit/testing/laws.hpp>
#include <fsdpinit/testing/rank_harness.hpp>

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include <ATen/DLConvertor.h>
#include <torch/torch.h>

namespace dlpack_test {
namespace {

using namespace fsdpinit;
using namespace fsdpinit::testing_support;
using fsdpinit::testing::run_ranks;

using managed = DLManagedTensor;
static_assert(ConcurrentSource<dlpack_source<managed>> && ReleasingSource<dlpack_source<managed>>);

dlpack_source<managed> handed_over(const std::vector<std::pair<std::string, at::Tensor>>& tensors) {
  std::vector<dlpack_tensor<managed>> out;
  for (const auto& [name, tensor] : tensors) {
    out.emplace_back(name, at::toDLPack(tensor));
  }
  return dlpack_source<managed>(std::move(out));
}

TEST(Dlpack, DescribesTensorsOfEveryDtype) {
  for (const auto& [type, expected] : known_dtypes()) {
    if (type == torch::kBool) {
      continue;  // libtorch 1.13 hands it over as bytes
    }
    const auto source = handed_over({{"w", torch::zeros({2, 3}, type)}});
    EXPECT_EQ(source.tensors()[0], (tensor_descriptor{.name = "w", .dtype = expected, .shape = {2, 3}}));
  }
}

TEST(Dlpack, KeepsTheLawsOfASource) {
  auto source = handed_over({{"a", torch::randn({3, 4})},
                             {"b", torch::arange(7)},
                             {"scalar", torch::tensor(1.0F)},
                             {"empty", torch::zeros({0, 3})},
                             {"part", torch::arange(10).slice(0, 2, 6)}});
  EXPECT_EQ(fsdpinit::testing::check_source(source), fsdpinit::testing::violations{});
}

TEST(Dlpack, RejectsWhatIsNotDense) {
  expect_error(errc::invalid_argument, "w", "not row-major", [] { handed_over({{"w", torch::zeros({2, 3}).t()}}); });
}

TEST(Dlpack, RejectsADtypeThatCheckpointsDoNotKnow) {
  expect_error(errc::dtype_mismatch, "w", "no dtype", [] {
    handed_over({{"w", torch::zeros({2}, torch::kComplexDouble)}});
  });
}

TEST(Dlpack, RejectsDeviceMemory) {
  const dlpack_tensor<managed> given("w", at::toDLPack(torch::zeros({2})));
  given.managed->dl_tensor.device.device_type = kDLCUDA;
  expect_error(errc::invalid_argument, "w", "device of DLPack's type 2",
               [&] { static_cast<void>(describe_dlpack("w", given.managed->dl_tensor)); });
}

TEST(Dlpack, IsASourceWhoseTensorsGoBackAndWhoseShardsGoOut) {
  const torch::Tensor weight = torch::randn({4, 3});
  run_ranks(2, [&](std::size_t rank, threads_communicator& world) {
    dynamic_module module;
    const parameter& slot = module.add_parameter("w", dtype::f32, {4, 3});
    torch::Tensor own = weight.clone();
    auto source = handed_over({{"w", own}});
    const auto storage = own.storage();
    own.reset();
    initialize(module, source, world);
    EXPECT_EQ(storage.use_count() == 1, rank == 0);  // which has read it, and let go of it
    const torch::Tensor shard = at::fromDLPack(export_dlpack<managed>(slot.local(), slot.dtype()));
    EXPECT_TRUE(torch::equal(
        shard, weight.slice(0, static_cast<std::int64_t>(rank) * 2, static_cast<std::int64_t>(rank) * 2 + 2)));
    EXPECT_EQ(shard.data_ptr(), slot.data());
    module = dynamic_module();
    EXPECT_TRUE(torch::isfinite(shard).all().item<bool>());  // it keeps the slab
  });
}

}  // namespace
}  // namespace dlpack_test
