#include <fsdpinit/core/dtype.hpp>
#include <fsdpinit/core/tensor_descriptor.hpp>
#include <fsdpinit/index/operations.hpp>
#include <fsdpinit/index/rearrange.hpp>
#include <fsdpinit/index/recipe.hpp>
#include <fsdpinit/sources/cast.hpp>
#include <fsdpinit/sources/published_rules.hpp>
#include <fsdpinit/sources/resolution.hpp>
#include <fsdpinit/sources/rule_recipes.hpp>
#include <fsdpinit/sources/rules.hpp>
#include <support/expect_error.hpp>

#include <gtest/gtest.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace fsdpinit::rule_recipes_test {
namespace {

using namespace rules;
using index_map::recipe;
using index_map::stored_tensor;
using rules::chunk;
using testing_support::expect_error;
using tensors = std::vector<tensor_descriptor>;
using by_name = std::map<std::string, recipe>;

tensor_descriptor bf16(std::string name, shape extents) {
  return {.name = std::move(name), .dtype = dtype::bf16, .shape = std::move(extents)};
}

by_name converted(const rule_set& set, const tensors& stored) {
  const resolution found = resolve(set, stored);
  const std::vector<recipe> recipes = recipes_of(set, found, stored);
  check_uses(set, found, stored, recipes);
  by_name out;
  for (std::size_t i = 0; i < recipes.size(); ++i) {
    out.emplace(found.made[i].name, recipes[i]);
  }
  return out;
}

recipe only(const rule_set& set, const tensors& stored) {
  const by_name all = converted(set, stored);
  EXPECT_EQ(all.size(), 1U);
  return all.begin()->second;
}

void expect_refused(const rule_set& set, const tensors& stored, std::string_view piece) {
  expect_error(errc::invalid_argument, set.file, piece, [&] { static_cast<void>(converted(set, stored)); });
}

recipe whole(const tensors& stored, std::size_t tensor) {
  return stored_tensor(tensor, stored[tensor].dtype, stored[tensor].shape);
}

/// Where each element of something made of one stored tensor comes from.
std::vector<std::uint64_t> origins(const recipe& of) {
  std::vector<std::uint64_t> out(*checked_elements(of.extents));
  for (const index_map::piece& piece : of.pieces) {
    for (std::uint64_t i = 0; i < piece.map.elements(); ++i) {
      std::uint64_t from = piece.map.from;
      std::uint64_t to = piece.map.to;
      std::uint64_t left = i;
      for (const index_map::factor& each : piece.map.all()) {
        from += left % each.extent * each.from;
        to += left % each.extent * each.to;
        left /= each.extent;
      }
      out[to] = from;
    }
  }
  return out;
}

// -- nodes

TEST(recipes_of_rules, a_name_is_the_stored_tensor) {
  const tensors stored{bf16("a", {2, 3})};
  EXPECT_EQ(only({make("x", "a")}, stored), whole(stored, 0));
}

TEST(recipes_of_rules, concat_has_its_parts_in_order) {
  const tensors stored{bf16("v", {1, 3}), bf16("q", {2, 3})};
  EXPECT_EQ(only({make("x", concat(0, {"q", "v"}))}, stored),
            index_map::concat(std::array{whole(stored, 1), whole(stored, 0)}, 0));
}

TEST(recipes_of_rules, stacks_of_stacks_go_over_the_inner_numbers_first) {
  const tensors stored{bf16("1.1", {2}), bf16("0.0", {2}), bf16("1.0", {2}), bf16("0.1", {2})};
  const recipe zero = index_map::stack(std::array{whole(stored, 1), whole(stored, 3)}, 1);
  const recipe one = index_map::stack(std::array{whole(stored, 2), whole(stored, 0)}, 1);
  EXPECT_EQ(only({make("x", stack("a", stack("b", "{a}.{b}", 1)))}, stored),
            index_map::stack(std::array{zero, one}, 0));
}

TEST(recipes_of_rules, slices_chunks_permutes_and_rearranges) {
  const tensors stored{bf16("a", {6, 2})};
  const recipe a = whole(stored, 0);
  const rule_set set{make("s", slice(0, 0, 3, "a")), make("c", permute({1, 0}, chunk(0, 2, 1, "a")))};
  EXPECT_EQ(converted(set, stored),
            (by_name{{"s", index_map::slice(a, 0, 0, 3)},
                     {"c", index_map::permute(index_map::chunk(a, 0, 2, 1), std::array<std::size_t, 2>{1, 0})}}));
  EXPECT_EQ(only({make("x", rearrange("(h two) d -> (two h) d", "a", {{"two", 2}}))}, stored),
            index_map::rearrange(a, "(h two) d -> (two h) d", std::array{index_map::axis_size{"two", 2}}));
}

TEST(recipes_of_rules, casts_beside_the_adaptor_of_that_name) {
  const tensors stored{bf16("a", {2})};
  EXPECT_EQ(only({make("x", cast(dtype::f32, "a"))}, stored), index_map::cast(whole(stored, 0), dtype::f32));
}

TEST(recipes_of_rules, pads_to_a_length_or_a_multiple) {
  const tensors stored{bf16("a", {5, 2})};
  EXPECT_EQ(only({make("x", pad(0, 6, "a", 1.0))}, stored), index_map::pad(whole(stored, 0), 0, 6, 0x3f80));
  EXPECT_EQ(only({make("x", pad(0, multiple_of(4), "a"))}, stored), index_map::pad(whole(stored, 0), 0, 8, 0));
}

TEST(recipes_of_rules, values_of_pads_are_rounded_to_nearest_even) {
  const auto filler = [](dtype type, double value) {
    return only({make("x", pad(0, 3, "a", value))}, {{.name = "a", .dtype = type, .shape = {2}}}).fills.at(0).element;
  };
  EXPECT_EQ(filler(dtype::bf16, 1.00390625), 0x3f80U);  // halfway between two
  EXPECT_EQ(filler(dtype::bf16, 1.01171875), 0x3f82U);
  EXPECT_EQ(filler(dtype::f32, -std::numeric_limits<double>::infinity()), 0xff800000U);
  EXPECT_EQ(filler(dtype::i8, -1), 0xffU);
  EXPECT_EQ(filler(dtype::boolean, 1), 1U);
}

TEST(recipes_of_rules, values_of_pads_that_are_out_of_range_are_an_error) {
  const auto refuse = [](dtype type, double value, std::string_view piece) {
    expect_refused({make("x", pad(0, 3, "a", value))}, {{.name = "a", .dtype = type, .shape = {2}}}, piece);
  };
  refuse(dtype::f16, 70000,
         "rule 1 (make \"x\"): \"x\" cannot be made of \"a\" F16 [2]: pad: 70000.000000 is no element of F16");
  refuse(dtype::bf16, -1e39, "is no element of BF16");
  refuse(dtype::f32, 1e300, "is no element of F32");
  refuse(dtype::boolean, 2, "is no element of BOOL");
  refuse(dtype::i32, 0.5, "is no element of I32");
  refuse(dtype::u8, -1, "is no element of U8");
}

TEST(recipes_of_rules, shapes_that_do_not_fit_are_an_error_that_names_all) {
  const rule_set set({make("b", "b"), make("x", concat(0, {"q", "k"}))}, rest::keep, "m.json");
  expect_refused(set, {bf16("b", {1}), bf16("q", {2, 3}), bf16("k", {2, 4})},
                 "rule 2 (make \"x\"): \"x\" cannot be made of \"q\" BF16 [2, 3], \"k\" BF16 [2, 4]: ");
  expect_refused({make("x", slice(0, 1, 4, "a")), drop("a")}, {bf16("a", {3})}, "\"a\" BF16 [3]: ");
  expect_refused({make("x", concat(2, {"a"}))}, {bf16("a", {3})}, "\"a\" BF16 [3]: ");
}

TEST(recipes_of_rules, types_that_differ_are_an_error_that_names_them) {
  expect_refused({make("x", concat(0, {"a", "b"}))}, {bf16("a", {2}), {.name = "b", .dtype = dtype::f32, .shape = {2}}},
                 "\"a\" BF16 [2], \"b\" F32 [2]: ");
}

// -- accounting

TEST(uses_of_rules, disjoint_parts_of_a_tensor_may_be_in_several_rules) {
  EXPECT_EQ(converted({make("x", slice(0, 0, 1, "a")), make("y", slice(0, 1, 3, "a"))}, {bf16("a", {3})}).size(), 2U);
}

TEST(uses_of_rules, an_element_that_is_used_by_nothing_is_an_error) {
  expect_refused(
      {make("x", slice(1, 0, 2, "a"))}, {bf16("a", {3, 4})},
      "rule 1 (make \"x\"): [0:3, 2:4] of \"a\" BF16 [3, 4] is used by nothing; use it, or drop what is left");
  expect_refused({make("x", slice(0, 1, 1, "a"))}, {bf16("a", {3})}, "[0:3] of \"a\" BF16 [3] is used by nothing");
}

TEST(uses_of_rules, drop_takes_the_elements_that_are_left_over) {
  EXPECT_EQ(converted({drop("a"), make("x", slice(1, 0, 2, "a"))}, {bf16("a", {3, 4})}).size(), 1U);
  EXPECT_EQ(converted({make("x", slice(0, 1, 1, "a")), drop("a")}, {bf16("a", {3})}).size(), 1U);
}

TEST(uses_of_rules, an_element_that_is_used_twice_is_an_error) {
  expect_refused({make("x", "a"), make("y", slice(0, 0, 1, "a"))}, {bf16("a", {3})},
                 "rule 1 (make \"x\"): [0:1] of \"a\" BF16 [3] is used twice, for \"x\" and for \"y\" of rule 2 (make "
                 "\"y\"); use it once, "
                 "or let each of these rules share");
  expect_refused({make("x", concat(0, {"a", "a"}))}, {bf16("a", {3})},
                 "[0:3] of \"a\" BF16 [3] is used twice, for \"x\" and for \"x\"");
}

TEST(uses_of_rules, drop_does_not_let_an_element_be_used_twice) {
  expect_refused({make("x", slice(0, 0, 2, "a")), make("y", slice(0, 1, 2, "a")), drop("a")}, {bf16("a", {3})},
                 "[1:2] of \"a\" BF16 [3] is used twice");
}

TEST(uses_of_rules, rules_that_share_use_elements_as_often_as_they_like) {
  EXPECT_EQ(converted({shared(make("x", concat(0, {"a", "a"}))), shared(make("y", "a"))}, {bf16("a", {3})}).size(), 2U);
}

TEST(uses_of_rules, all_rules_concerned_must_share) {
  expect_refused({shared(make("x", "a")), shared(make("y", "a")), make("z", slice(0, 2, 3, "a"))}, {bf16("a", {3})},
                 "[2:3] of \"a\" BF16 [3] is used twice");
}

TEST(uses_of_rules, what_is_shared_must_be_used_nevertheless) {
  expect_refused({shared(make("x", slice(0, 0, 2, "a"))), shared(make("y", slice(0, 0, 2, "a")))}, {bf16("a", {3})},
                 "[2:3] of \"a\" BF16 [3] is used by nothing");
}

TEST(uses_of_rules, a_tensor_without_elements_is_used_by_anything) {
  EXPECT_EQ(converted({make("x", concat(0, {"a", "a"}))}, {bf16("a", {0, 4})}).size(), 1U);
}

// -- published families

TEST(published_rules, fuse_llamas_projections) {
  const tensors stored{
      bf16("model.layers.0.self_attn.q_proj.weight", {8, 4}), bf16("model.layers.0.self_attn.k_proj.weight", {2, 4}),
      bf16("model.layers.0.self_attn.v_proj.weight", {2, 4}), bf16("model.layers.0.self_attn.o_proj.weight", {4, 8}),
      bf16("model.layers.0.mlp.gate_proj.weight", {6, 4}),    bf16("model.layers.0.mlp.up_proj.weight", {6, 4})};
  EXPECT_EQ(converted(fused_qkv() + fused_gate_up(), stored),
            (by_name{{"model.layers.0.self_attn.qkv_proj.weight",
                      index_map::concat(std::array{whole(stored, 0), whole(stored, 1), whole(stored, 2)}, 0)},
                     {"model.layers.0.mlp.gate_up_proj.weight",
                      index_map::concat(std::array{whole(stored, 4), whole(stored, 5)}, 0)}}));
  EXPECT_EQ(resolve(fused_qkv() + fused_gate_up(), stored).kept, std::vector<std::size_t>{3});
}

TEST(published_rules, fuse_qwens_biases) {
  tensors stored;
  for (const std::string what : {"weight", "bias"}) {
    for (const std::string which : {"q", "k", "v"}) {
      stored.push_back(bf16("l.self_attn." + which + "_proj." + what, what == "bias" ? shape{4} : shape{4, 4}));
    }
  }
  EXPECT_EQ(converted(fused_qkv(), stored).at("l.self_attn.qkv_proj.bias").extents, (shape{12}));
}

TEST(published_rules, stack_the_experts_of_qwen3_moe_and_deepseek) {
  tensors stored;
  for (const std::string e : {"0", "1", "2"}) {
    stored.push_back(bf16("m.mlp.experts." + e + ".gate_proj.weight", {6, 4}));
    stored.push_back(bf16("m.mlp.experts." + e + ".up_proj.weight", {6, 4}));
    stored.push_back(bf16("m.mlp.experts." + e + ".down_proj.weight", {4, 6}));
  }
  stored.push_back(bf16("m.mlp.shared_experts.gate_proj.weight", {6, 4}));
  const auto stacked_from = [&](std::size_t first) {
    return index_map::stack(std::array{whole(stored, first), whole(stored, first + 3), whole(stored, first + 6)}, 0);
  };
  const by_name wanted{
      {"m.mlp.experts.gate_up_proj", index_map::concat(std::array{stacked_from(0), stacked_from(1)}, 1)},
      {"m.mlp.experts.down_proj", stacked_from(2)}};
  EXPECT_EQ(wanted.at("m.mlp.experts.gate_up_proj").extents, (shape{3, 12, 4}));
  EXPECT_EQ(converted(qwen3_moe_stacked(), stored), wanted);
  EXPECT_EQ(converted(deepseek_stacked(), stored), wanted);
}

TEST(published_rules, widen_deepseeks_routers) {
  const tensors stored{bf16("m.mlp.experts.0.gate_proj.weight", {6, 4}), bf16("m.mlp.experts.0.up_proj.weight", {6, 4}),
                       bf16("m.mlp.experts.0.down_proj.weight", {4, 6}), bf16("m.mlp.gate.weight", {1, 4})};
  EXPECT_EQ(converted(deepseek_stacked(), stored).at("m.mlp.gate.weight"),
            index_map::cast(whole(stored, 3), dtype::f32));
}

TEST(published_rules, stack_the_experts_of_mixtral) {
  tensors stored{bf16("m.block_sparse_moe.gate.weight", {2, 4})};
  for (const std::string e : {"0", "1"}) {
    stored.push_back(bf16("m.block_sparse_moe.experts." + e + ".w1.weight", {6, 4}));
    stored.push_back(bf16("m.block_sparse_moe.experts." + e + ".w2.weight", {4, 6}));
    stored.push_back(bf16("m.block_sparse_moe.experts." + e + ".w3.weight", {6, 4}));
  }
  const auto stacked_from = [&](std::size_t first) {
    return index_map::stack(std::array{whole(stored, first), whole(stored, first + 3)}, 0);
  };
  EXPECT_EQ(converted(mixtral_stacked(), stored),
            (by_name{{"m.mlp.experts.gate_up_proj", index_map::concat(std::array{stacked_from(1), stacked_from(3)}, 1)},
                     {"m.mlp.experts.down_proj", stacked_from(2)},
                     {"m.mlp.gate.weight", whole(stored, 0)}}));
}

TEST(published_rules, transpose_gpt2s_convolutions) {
  const tensors stored{bf16("h.0.attn.c_attn.weight", {4, 12}), bf16("h.0.attn.c_attn.bias", {12}),
                       bf16("h.0.attn.c_proj.weight", {4, 4}),  bf16("h.0.mlp.c_fc.weight", {4, 16}),
                       bf16("h.0.mlp.c_proj.weight", {16, 4}),  bf16("h.0.attn.bias", {1, 1, 8, 8})};
  const by_name got = converted(gpt2_transposed(), stored);
  EXPECT_EQ(got.size(), 4U);
  EXPECT_EQ(got.at("h.0.attn.c_attn.weight"), index_map::permute(whole(stored, 0), std::array<std::size_t, 2>{1, 0}));
  const resolution found = resolve(gpt2_transposed(), stored);
  EXPECT_EQ(found.kept, std::vector<std::size_t>{1});
  EXPECT_EQ(found.dropped, std::vector<std::size_t>{5});
}

TEST(published_rules, permute_rotary_pairs_by_the_formula_and_back) {
  constexpr std::uint64_t heads = 3;
  constexpr std::uint64_t n = 8;
  const tensors bias{bf16("b", {heads * n})};
  const std::vector<std::uint64_t> split = origins(only({make("b", half_split_rotary(heads, "b"))}, bias));
  const std::vector<std::uint64_t> joined = origins(only({make("b", interleaved_rotary(heads, "b"))}, bias));
  for (std::uint64_t h = 0; h < heads; ++h) {
    for (std::uint64_t j = 0; j < 2; ++j) {
      for (std::uint64_t k = 0; k < n / 2; ++k) {
        EXPECT_EQ(split[h * n + j * n / 2 + k], h * n + 2 * k + j);
        EXPECT_EQ(joined[h * n + 2 * k + j], h * n + j * n / 2 + k);
      }
    }
  }
}

TEST(published_rules, permute_llamas_queries_and_keys) {
  const tensors stored{bf16("l.self_attn.q_proj.weight", {16, 4}), bf16("l.self_attn.k_proj.weight", {8, 4}),
                       bf16("l.self_attn.v_proj.weight", {8, 4})};
  const by_name got = converted(llama_half_split(4, 2), stored);
  EXPECT_EQ(got.size(), 2U);
  EXPECT_EQ(origins(got.at("l.self_attn.k_proj.weight"))[1 * 4], 2U * 4);  // the second row is the third one
  EXPECT_EQ(origins(converted(llama_interleaved(4, 2), stored).at("l.self_attn.q_proj.weight"))[1 * 4], 2U * 4);
}

TEST(published_rules, names_lose_what_wrappers_put_into_them) {
  EXPECT_EQ(without_wrappers("module._orig_mod.layers.0._fsdp_wrapped_module._checkpoint_wrapped_module.mlp.w"),
            "layers.0.mlp.w");
  EXPECT_EQ(without_wrappers("layers.0._orig_mod.module.w"), "layers.0.w");
  EXPECT_EQ(without_wrappers("layers.modules.w"), "layers.modules.w");
  EXPECT_EQ(without_wrappers("module"), "module");
}

}  // namespace
}  // namespace fsdpinit::rule_recipes_test
