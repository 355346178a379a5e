#include "support/expect_error.hpp"
#include <fsdpinit/init/match.hpp>
#include <fsdpinit/modules/dynamic_module.hpp>
#include <fsdpinit/modules/module_view.hpp>

#include <gtest/gtest.h>

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

/// What is said where a module and a state dict do not fit.

namespace mismatches_test {
namespace {

using namespace fsdpinit;
using fsdpinit::testing_support::thrown_by;

using names = std::vector<std::string>;

/// Of a decoder of two layers.
names decoder_names() {
  names all{"embed.weight"};
  for (int layer = 0; layer < 2; ++layer) {
    for (const std::string_view part : {"attn.q.weight", "attn.q.bias", "mlp.up.weight"}) {
      all.push_back(concat("layers.", layer, ".", part));
    }
  }
  all.emplace_back("norm.weight");
  return all;
}

dynamic_module module_of(const names& all) {
  dynamic_module module;
  for (const std::string& name : all) {
    module.add_parameter(name, dtype::f32, {4});
  }
  return module;
}

state_dict_contents contents_of(const names& all, dtype type = dtype::f32) {
  state_dict_contents contents;
  for (const std::string& name : all) {
    contents.tensors.push_back({.name = name, .dtype = type, .shape = {4}});
  }
  return contents;
}

std::string text_of(dynamic_module& module, const state_dict_contents& contents) {
  const auto caught = thrown_by([&] { static_cast<void>(match(view_of(module), contents)); });
  return caught ? std::string(caught->text()) : std::string();
}

std::string text_of(const names& wanted, const names& stored) {
  dynamic_module module = module_of(wanted);
  return text_of(module, contents_of(stored));
}

/// With `change(name)` for each of them.
template <class Change>
names changed(names all, Change&& change) {
  for (std::string& name : all) {
    name = change(name);
  }
  return all;
}

bool has(const std::string& text, std::string_view piece) { return text.find(piece) != std::string::npos; }

TEST(Mismatches, ShowAShareOfEachSort) {
  dynamic_module module;
  state_dict_contents contents;
  for (int i = 0; i < 30; ++i) {
    module.add_parameter(concat("wanted.", i, ".a"), dtype::f32, {3});
    contents.tensors.push_back({.name = concat("stored.", i, ".b"), .dtype = dtype::f32, .shape = {5}});
  }
  for (int i = 0; i < 3; ++i) {
    module.add_parameter(concat("shape.", i), dtype::f32, {3});
    contents.tensors.push_back({.name = concat("shape.", i), .dtype = dtype::f32, .shape = {4}});
    module.add_parameter(concat("dtype.", i), dtype::f32, {3});
    contents.tensors.push_back({.name = concat("dtype.", i), .dtype = dtype::f16, .shape = {3}});
  }
  const std::string text = text_of(module, contents);
  EXPECT_TRUE(has(text, "(66 such problems)")) << text;
  EXPECT_TRUE(has(text, "\n  wanted.6.a: missing") && has(text, "\n  and 23 more missing")) << text;
  EXPECT_TRUE(has(text, "\n  stored.6.b: unexpected") && has(text, "\n  and 23 more unexpected")) << text;
  EXPECT_TRUE(has(text, "\n  shape.2: the checkpoint has shape") && has(text, "\n  dtype.2: the checkpoint has F16"))
      << text;
  EXPECT_FALSE(has(text, "wanted.7.a") || has(text, "of another")) << text;
}

TEST(Mismatches, AreExplainedByAPrefixOfTheCheckpoint) {
  for (const std::string prefix : {"module.", "_orig_mod.", "transformer.", "base_model.model."}) {
    const names stored = changed(decoder_names(), [&](const std::string& name) { return prefix + name; });
    const std::string text = text_of(decoder_names(), stored);
    EXPECT_TRUE(has(text, concat("; read the checkpoint through renamed(\"", prefix,
                                 "\", \"\"), which finds 8 of the module's 8 tensors (16 such problems)")))
        << text;
    EXPECT_FALSE(has(text, "did you mean")) << text;
  }
}

TEST(Mismatches, AreExplainedByAPrefixOfTheModule) {
  const names wanted = changed(decoder_names(), [](const std::string& name) { return "transformer." + name; });
  EXPECT_TRUE(has(text_of(wanted, decoder_names()), "through renamed(\"\", \"transformer.\"), which finds 8 of"));
}

TEST(Mismatches, AreExplainedByAnotherPrefix) {
  const auto below = [](std::string_view prefix) {
    return [prefix](const std::string& name) { return concat(prefix, ".", name); };
  };
  const std::string text =
      text_of(changed(decoder_names(), below("model")), changed(decoder_names(), below("net.body")));
  EXPECT_TRUE(has(text, "through renamed(\"net.body.\", \"model.\"), which finds 8 of")) << text;
}

TEST(Mismatches, AreExplainedByAWrapperInMidPath) {
  const names stored = changed(decoder_names(), [](const std::string& name) {
    return name.starts_with("layers.") ? concat(name.substr(0, 9), "_fsdp_wrapped_module.", name.substr(9)) : name;
  });
  const std::string text = text_of(decoder_names(), stored);
  EXPECT_TRUE(has(text, "through renamed(removed_component{\"_fsdp_wrapped_module\"}), which finds 8 of")) << text;
}

TEST(Mismatches, AreExplainedWhereNearlyAllFits) {
  names wanted;
  for (int i = 0; i < 20; ++i) {
    wanted.push_back(concat("layers.", i, ".weight"));
  }
  names stored = changed(wanted, [](const std::string& name) { return "module." + name; });
  wanted.emplace_back("head.weight");         // which the checkpoint does not have
  stored.emplace_back("module.steps.count");  // and this the module does not
  const std::string text = text_of(wanted, stored);
  EXPECT_TRUE(has(text, "through renamed(\"module.\", \"\"), which finds 20 of the module's 21 tensors")) << text;
}

TEST(Mismatches, OfAPartOfALargerModelAreExplained) {
  names stored = changed(decoder_names(), [](const std::string& name) { return "language_model." + name; });
  for (int i = 0; i < 100; ++i) {
    stored.push_back(concat("vision_tower.blocks.", i, ".weight"));
  }
  EXPECT_TRUE(has(text_of(decoder_names(), stored), "through renamed(\"language_model.\", \"\"), which finds 8 of"));
}

TEST(Mismatches, AreNotExplainedByARuleThatFindsHalf) {
  names stored = decoder_names();
  for (std::size_t i = 0; i < stored.size() / 2; ++i) {
    stored[i] = "module." + stored[i];
  }
  for (std::size_t i = stored.size() / 2; i < stored.size(); ++i) {
    stored[i] = "other_" + stored[i];
  }
  EXPECT_FALSE(has(text_of(decoder_names(), stored), "which finds"));
}

TEST(Mismatches, AreNotExplainedByARuleThatGivesTwoTensorsOneName) {
  names stored = changed(decoder_names(), [](const std::string& name) { return "module." + name; });
  stored.push_back(decoder_names().front());
  EXPECT_FALSE(has(text_of(decoder_names(), stored), "which finds"));
}

TEST(Mismatches, AskWhetherTheOnlyOtherTensorOfTheShapeIsMeant) {
  names stored = decoder_names();
  stored.back() = "final_scale";
  const std::string text = text_of(decoder_names(), stored);
  EXPECT_TRUE(has(text,
                  "the checkpoint does not have it (did you mean final_scale?); read the checkpoint through "
                  "renamed({{\"final_scale\", \"norm.weight\"}}) if that is the same tensor (2 such problems)"))
      << text;
}

TEST(Mismatches, AskForTheTensorThatIsMostAlikeAmongThoseOfTheShape) {
  const names stored = changed(decoder_names(), [](const std::string& name) {
    const std::size_t at = name.find("mlp.up");
    return at == std::string::npos ? name : concat(name.substr(0, at), "mlp.up_proj", name.substr(at + 6));
  });
  const std::string text = text_of(decoder_names(), stored);
  EXPECT_TRUE(has(text,
                  "\n  layers.0.mlp.up.weight: missing: the module wants it, the checkpoint does not have it "
                  "(did you mean layers.0.mlp.up_proj.weight?)"))
      << text;
  EXPECT_TRUE(has(text, "(did you mean layers.1.mlp.up_proj.weight?)")) << text;
}

TEST(Mismatches, DoNotAskForATensorOfAnotherShape) {
  dynamic_module module = module_of({"a.weight"});
  state_dict_contents contents = contents_of({"a.weights"});
  contents.tensors[0].shape = {5};
  EXPECT_FALSE(has(text_of(module, contents), "did you mean"));
}

TEST(Mismatches, OfferToLetWhatIsUnexpectedPass) {
  names stored = decoder_names();
  stored.emplace_back("loss.mean");
  const std::string text = text_of(decoder_names(), stored);
  for (const std::string_view way : {"filtered()", "ignored_prefixes", "strict = false"}) {
    EXPECT_TRUE(has(text, way)) << text;
  }
}

TEST(Mismatches, UnderAnIgnoredPrefixAreNone) {
  names stored = decoder_names();
  stored.emplace_back("loss.mean");  // which the module does not have at all
  dynamic_module module = module_of(decoder_names());
  const std::vector<std::string> ignored{"loss"};
  EXPECT_EQ(match(view_of(module, {}, ignored), contents_of(stored)).size(), 8U);
}

TEST(Mismatches, OfADtypeAdviseACastThatThereIs) {
  const auto text = [](dtype stored, dtype seen, dtype wanted) {
    dynamic_module module;
    module.add_parameter("w", wanted, {4});
    state_dict_contents contents = contents_of({"w"}, seen);
    contents.stored.push_back({.dtype = stored});
    return text_of(module, contents);
  };
  EXPECT_TRUE(has(text(dtype::f32, dtype::f32, dtype::bf16),
                  "the checkpoint has F32, the module BF16; nothing is cast unasked: read the checkpoint through "
                  "cast(dtype::bf16)"));
  EXPECT_TRUE(has(text(dtype::f64, dtype::f64, dtype::f32), "through cast(dtype::f32)"));
  EXPECT_TRUE(has(text(dtype::f32, dtype::f16, dtype::bf16),
                  "the checkpoint has F32, cast to F16, the module BF16; use cast(dtype::bf16) for it"));
  EXPECT_TRUE(has(text(dtype::f32, dtype::f16, dtype::f32), "cast to F16, the module F32; exempt it from the cast"));
  for (const dtype stored : {dtype::f8_e4m3, dtype::i64, dtype::boolean}) {
    const std::string advice = text(stored, stored, dtype::bf16);
    EXPECT_TRUE(has(advice, "and nothing else: give the module the dtype of the checkpoint")) << advice;
    EXPECT_FALSE(has(advice, "through cast")) << advice;
  }
  EXPECT_FALSE(has(text(dtype::f32, dtype::f32, dtype::f64), "through cast"));
}

TEST(Mismatches, OfABufferOfferToKeepTheModulesValue) {
  dynamic_module module = module_of(decoder_names());
  module.add_buffer("steps", dtype::i64, {});
  EXPECT_TRUE(has(text_of(module, contents_of(decoder_names())), "keep_missing_buffers = true"));
}

}  // namespace
}  // namespace mismatches_test
