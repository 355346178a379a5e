// What transformers made of small checkpoints: tests/interop/vectors, which tests/interop/transformers_vectors.sh writes.

#include <fsdpinit/core/dtype.hpp>
#include <fsdpinit/core/shape.hpp>
#include <fsdpinit/core/tensor_descriptor.hpp>
#include <fsdpinit/sources/converted.hpp>
#include <fsdpinit/sources/published_rules.hpp>
#include <fsdpinit/sources/rules.hpp>
#include <fsdpinit/sources/safetensors.hpp>
#include <support/owned_tensors.hpp>

#include <gtest/gtest.h>

#include <cstddef>
#include <map>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace fsdpinit::transformers_maps_test {
namespace {

using namespace rules;
using testing_support::contents_of;

struct tensor {
  fsdpinit::dtype dtype;
  fsdpinit::shape shape;
  std::string bytes;
};
using tensors = std::map<std::string, tensor>;

safetensors_source vectors(const std::string& name) {
  return open_safetensors("tests/interop/vectors/" + name + ".safetensors");
}

tensors all_of(auto source) {
  const std::span<const tensor_descriptor> shown = source.tensors();
  testing_support::contents bytes = contents_of(source);
  tensors out;
  for (std::size_t i = 0; i < shown.size(); ++i) {
    out.emplace(shown[i].name, tensor{shown[i].dtype, shown[i].shape, std::move(bytes[i].second)});
  }
  return out;
}

/// The rules make of the one file the tensors of the other, and no more.
void expect_made(const std::string& published, const rule_set& rules, const std::string& wanted) {
  const tensors got = all_of(vectors(published) | converted(rules));
  const tensors all = all_of(vectors(wanted));
  ASSERT_FALSE(all.empty());
  for (const auto& [name, each] : all) {
    SCOPED_TRACE(name);
    const auto found = got.find(name);
    if (found == got.end()) {
      ADD_FAILURE() << "neither made nor kept";
      continue;
    }
    EXPECT_EQ(fsdpinit::name(found->second.dtype), fsdpinit::name(each.dtype));
    EXPECT_EQ(found->second.shape, each.shape);
    EXPECT_TRUE(found->second.bytes == each.bytes);
  }
  for (const auto& each : got) {
    EXPECT_TRUE(all.contains(each.first)) << each.first;
  }
}

TEST(published_maps, make_of_qwen3_moe_what_transformers_loads) {
  expect_made("qwen3_moe.published", qwen3_moe_stacked(), "qwen3_moe.loaded");
}

TEST(published_maps, make_of_mixtral_what_transformers_loads) {
  expect_made("mixtral.published", mixtral_stacked(), "mixtral.loaded");
}

TEST(published_maps, make_of_deepseek_what_transformers_loads) {
  expect_made("deepseek_v2.published", deepseek_stacked(), "deepseek_v2.loaded");
  expect_made("deepseek_v3.published", deepseek_stacked(), "deepseek_v3.loaded");
}

TEST(published_maps, make_of_llama_a_phi_3_that_computes_the_same) {
  expect_made("llama.published", fused_qkv() + fused_gate_up(), "llama.fused");
}

TEST(published_maps, permute_llamas_rotary_pairs_as_transformers_does) {
  expect_made("llama.published", llama_half_split(2, 1), "llama.half_split");
  expect_made("llama.half_split", llama_interleaved(2, 1), "llama.published");
}

TEST(published_maps, make_of_gpt2_linear_layers_that_compute_the_same) {
  expect_made("gpt2.published", gpt2_transposed(), "gpt2.linear");
}

}  // namespace
}  // namespace fsdpinit::transformers_maps_test
