// What transformers made of small checkpoints: tests/interop/vectors, which tests/interop/transformers_vectors.sh writes.

#include <fsdpinit/core/dtype.hpp>
#include <fsdpinit/core/float_conversion.hpp>
#include <fsdpinit/core/shape.hpp>
#include <fsdpinit/core/tensor_descriptor.hpp>
#include <fsdpinit/index/place.hpp>
#include <fsdpinit/index/recipe.hpp>
#include <fsdpinit/sources/published_rules.hpp>
#include <fsdpinit/sources/resolution.hpp>
#include <fsdpinit/sources/rule_recipes.hpp>
#include <fsdpinit/sources/rules.hpp>
#include <fsdpinit/sources/safetensors.hpp>
#include <support/owned_tensors.hpp>

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
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

std::string gathered(const index_map::recipe& of, const testing_support::contents& stored) {
  std::string out(*checked_elements(of.extents) * bits(of.type) / 8, '\0');
  for (const index_map::piece& each : of.pieces) {
    const std::string& bytes = stored[each.tensor].second;
    const std::uint64_t elements = bytes.size() * 8 / bits(each.stored);
    std::vector<std::byte> converted(elements * bits(of.type) / 8);
    const auto* from = reinterpret_cast<const std::byte*>(bytes.data());  // NOLINT(*-reinterpret-cast): bytes
    if (each.stored != of.type) {
      convert_floats(each.stored, from, of.type, converted.data(), elements);
      from = converted.data();
    }
    index_map::place(each.map, bits(of.type) / 8, from, std::as_writable_bytes(std::span(out)).data());
  }
  return out;
}

tensors converted(const rule_set& rules, safetensors_source source) {
  const std::span<const tensor_descriptor> stored = source.tensors();
  const resolution found = resolve(rules, stored);
  const std::vector<index_map::recipe> recipes = recipes_of(rules, found, stored);
  check_uses(rules, found, stored, recipes);
  testing_support::contents bytes = contents_of(source);
  tensors out;
  for (std::size_t i = 0; i < recipes.size(); ++i) {
    out.emplace(found.made[i].name, tensor{recipes[i].type, recipes[i].extents, gathered(recipes[i], bytes)});
  }
  for (const std::size_t kept : found.kept) {
    out.emplace(stored[kept].name, tensor{stored[kept].dtype, stored[kept].shape, std::move(bytes[kept].second)});
  }
  return out;
}

/// The rules make of the one file the tensors of the other, and no more.
void expect_made(const std::string& published, const rule_set& rules, const std::string& wanted) {
  const tensors got = converted(rules, vectors(published));
  const tensors all = converted(rule_set{}, vectors(wanted));
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
