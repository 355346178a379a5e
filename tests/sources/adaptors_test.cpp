#include "support/archetypes.hpp"
#include "support/expect_error.hpp"
#include "support/owned_tensors.hpp"
#include "support/reference_model.hpp"
#include <fsdpinit/sources/adaptors.hpp>
#include <fsdpinit/sources/in_memory.hpp>
#include <fsdpinit/testing/faults.hpp>
#include <fsdpinit/testing/laws.hpp>

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

namespace fsdpinit::adaptors_test {
namespace {

using testing_support::contents;
using testing_support::contents_of;
using testing_support::expect_error;
using testing_support::minimal_casting_source;
using testing_support::minimal_opener;
using testing_support::minimal_positioned_source;
using testing_support::minimal_source;
using testing_support::minimal_vectored_source;
using testing_support::text_source;
using testing_support::texts;
using testing_support::varied_model;

const testing_support::reference_model model = varied_model();

/// Fails with an error that is not about a tensor.
struct broken_file : text_source {
  explicit broken_file(std::string name) : text_source(contents{{std::move(name), "A"}}) {}
  void read(std::size_t, std::uint64_t, mutable_bytes) {
    throw error(errc::invalid_file, "/data/f", "shrank", {.rank = 3, .native_code = 7});
  }
};

/// Fails with an error about the tensor.
struct broken_tensor : text_source {
  explicit broken_tensor(std::string name) : text_source(contents{{std::move(name), "A"}}) {}
  void read(std::size_t tensor, std::uint64_t, mutable_bytes) {
    throw error(errc::io, tensors()[tensor].name, "is gone", {.rank = 3, .native_code = 7});
  }
};

template <class S>
void read_first(S& source) {
  source.read(0, 0, {});
}

// -- renamed

TEST(renamed, replaces_a_prefix_and_leaves_other_names) {
  auto source =
      texts({{"model.a", "A"}, {"lm_head", "B"}, {"amodel.", "C"}, {"model.", "D"}}) | renamed("model.", "net.");
  EXPECT_EQ(contents_of(source), (contents{{"net.a", "A"}, {"lm_head", "B"}, {"amodel.", "C"}, {"net.", "D"}}));
}

TEST(renamed, takes_any_rule) {
  auto source =
      texts({{"a.weight", "A"}, {"b.weight", "B"}}) | renamed([](std::string_view name) { return name.substr(0, 1); });
  EXPECT_EQ(contents_of(source), (contents{{"a", "A"}, {"b", "B"}}));
}

TEST(renamed, takes_exact_names) {
  auto source = texts({{"a", "A"}, {"b", "B"}, {"ab", "C"}}) | renamed({{"a", "b"}, {"b", "a"}, {"c", "d"}});
  EXPECT_EQ(contents_of(source), (contents{{"b", "A"}, {"a", "B"}, {"ab", "C"}}));
}

TEST(renamed, takes_one_exact_name) {
  auto source = texts({{"a", "A"}, {"b", "B"}}) | renamed({{"a", "c"}});
  EXPECT_EQ(contents_of(source), (contents{{"c", "A"}, {"b", "B"}}));
}

TEST(renamed, a_name_with_two_new_ones_is_rejected) {
  expect_error(errc::invalid_argument, "a", R"(renamed both to "x" and to "y")", [] {
    static_cast<void>(renamed({{"a", "x"}, {"b", "x"}, {"a", "y"}}));
  });
}

TEST(renamed, two_tensors_of_one_name_are_rejected_naming_both) {
  expect_error(errc::invalid_argument, "w", R"(both "w" and "model.w" of the checkpoint get this name)", [] {
    static_cast<void>(texts({{"w", "A"}, {"model.w", "B"}}) | renamed("model.", ""));
  });
}

TEST(renamed, shows_dtype_and_shape_of_the_source) {
  const auto source = model.source() | renamed("layers.", "blocks.");
  const in_memory_source plain = model.source();
  for (std::size_t i = 0; i < plain.tensors().size(); ++i) {
    EXPECT_EQ(source.tensors()[i].dtype, plain.tensors()[i].dtype);
    EXPECT_EQ(source.tensors()[i].shape, plain.tensors()[i].shape);
    EXPECT_EQ(source.stored_name(i), plain.tensors()[i].name);
  }
}

TEST(renamed, an_error_about_a_tensor_gives_both_names) {
  auto source = broken_tensor("model.w") | renamed("model.", "");
  expect_error(errc::io, "w", "(in the checkpoint: model.w) is gone", [&] { read_first(source); });
  const auto thrown = testing_support::thrown_by([&] { read_first(source); });
  EXPECT_EQ(thrown->rank(), 3);
  EXPECT_EQ(thrown->native_code(), 7);
}

TEST(renamed, an_error_about_a_file_gives_both_names) {
  auto source = broken_file("model.w") | renamed("model.", "");
  expect_error(errc::invalid_file, "/data/f", "w (in the checkpoint: model.w): shrank", [&] { read_first(source); });
}

TEST(renamed, an_error_about_a_tensor_that_kept_its_name_stays_as_it_was) {
  auto source = broken_tensor("w") | renamed("model.", "");
  const auto thrown = testing_support::thrown_by([&] { read_first(source); });
  EXPECT_EQ(std::string(thrown->what()), "w: is gone (rank 3)");
}

TEST(renamed, twice_gives_the_name_in_the_checkpoint_once) {
  auto tensor = broken_tensor("model.w") | renamed("model.", "") | renamed("w", "weight");
  const auto about_tensor = testing_support::thrown_by([&] { read_first(tensor); });
  EXPECT_EQ(std::string(about_tensor->what()), "weight: (in the checkpoint: model.w) is gone (rank 3)");

  auto file = broken_file("model.w") | renamed("model.", "") | renamed("w", "weight");
  const auto about_file = testing_support::thrown_by([&] { read_first(file); });
  EXPECT_EQ(std::string(about_file->what()), "/data/f: weight (in the checkpoint: model.w): shrank (rank 3)");

  expect_error(errc::invalid_argument, "z", R"(both "model.a" and "model.b")", [] {
    static_cast<void>(texts({{"model.a", "A"}, {"model.b", "B"}}) | renamed("model.", "") |
                      renamed({{"a", "z"}, {"b", "z"}}));
  });
}

TEST(renamed, there_and_back_is_no_renaming) {
  auto source = broken_tensor("w") | renamed("w", "v") | renamed("v", "w");
  const auto thrown = testing_support::thrown_by([&] { read_first(source); });
  EXPECT_EQ(std::string(thrown->what()), "w: is gone (rank 3)");
}

TEST(renamed, control_characters_of_a_checkpoint_do_not_reach_the_log) {
  auto source = broken_tensor("a\nb") | renamed("a", "c");
  expect_error(errc::io, "c\nb", "(in the checkpoint: a\\nb)", [&] { read_first(source); });
}

TEST(renamed, moving_keeps_the_addresses) {
  auto first = texts({{"model.a", "A"}}) | renamed("model.", "");
  const auto* address = first.tensors().data();
  auto source = std::move(first);
  EXPECT_EQ(source.tensors().data(), address);
  EXPECT_EQ(contents_of(source), (contents{{"a", "A"}}));
}

// -- filtered

bool is_layer(std::string_view name) { return name.starts_with("layers."); }

TEST(filtered, keeps_what_satisfies_the_predicate_in_order) {
  auto source = texts({{"layers.1", "one"}, {"head", "x"}, {"layers.0", "zero"}, {"tail", "y"}}) | filtered(is_layer);
  EXPECT_EQ(contents_of(source), (contents{{"layers.1", "one"}, {"layers.0", "zero"}}));
}

TEST(filtered, may_keep_nothing) {
  const auto source = texts({{"a", "A"}}) | filtered([](std::string_view) { return false; });
  EXPECT_TRUE(source.tensors().empty());
}

TEST(filtered, sees_the_names_that_a_renaming_before_it_made) {
  auto source = texts({{"model.layers.0", "A"}, {"layers.1", "B"}, {"model.x", "C"}}) | renamed("model.", "") |
                filtered(is_layer) | renamed("layers.", "");
  EXPECT_EQ(contents_of(source), (contents{{"0", "A"}, {"1", "B"}}));
  EXPECT_EQ(source.stored_name(0), "model.layers.0");
}

TEST(filtered, a_tensor_that_it_left_out_may_clash_no_more) {
  auto source = texts({{"a", "A"}, {"model.a", "B"}}) | filtered([](std::string_view name) { return name != "a"; }) |
                renamed("model.", "");
  EXPECT_EQ(contents_of(source), (contents{{"a", "B"}}));
}

TEST(filtered, a_read_of_a_tensor_that_is_not_there_is_the_callers_bug) {
  auto source = texts({{"a", "A"}, {"b", "B"}}) | filtered([](std::string_view name) { return name == "b"; });
  EXPECT_DEATH(source.read(1, 0, {}), "");
  EXPECT_DEATH(static_cast<void>(source.stored_name(1)), "");
}

// -- merged

TEST(merged, shows_one_source_after_the_other) {
  auto source = merged(texts({{"b", "B"}, {"a", "A"}}), texts({}), texts({{"c", "C"}}));
  EXPECT_EQ(contents_of(source), (contents{{"b", "B"}, {"a", "A"}, {"c", "C"}}));
}

TEST(merged, a_name_in_two_of_them_is_rejected) {
  expect_error(errc::invalid_argument, "a", "numbers 1 and 3 of 3", [] {
    static_cast<void>(merged(texts({{"a", "A"}}), texts({{"b", "B"}}), texts({{"c", ""}, {"a", ""}})));
  });
}

TEST(merged, renamed_sources_keep_their_names_in_the_checkpoint) {
  auto source = merged(texts({{"w", "A"}}), broken_tensor("model.w") | renamed("model.", "student."));
  EXPECT_EQ(source.stored_name(0), "w");
  EXPECT_EQ(source.stored_name(1), "model.w");
  expect_error(errc::io, "student.w", "(in the checkpoint: model.w)", [&] { source.read(1, 0, {}); });
}

TEST(merged, lvalues_are_referred_to) {
  text_source first = texts({{"a", "A"}});
  auto source = merged(first, texts({{"b", "B"}}));
  static_assert(std::is_same_v<decltype(source), merged_source<text_source&, text_source>>);
  EXPECT_EQ(contents_of(source), (contents{{"a", "A"}, {"b", "B"}}));
}

TEST(merged, openers_make_an_opener) {
  int opened = 0;
  auto open = merged(
                  [&] {
                    return ++opened, texts({{"a", "A"}});
                  },
                  [&] {
                    return ++opened, texts({{"b", "B"}});
                  }) |
              renamed("b", "c");
  static_assert(SourceOpener<decltype(open)> && SourceOpener<const decltype(open)>);
  EXPECT_EQ(opened, 0);
  auto source = open();
  EXPECT_EQ(opened, 2);
  EXPECT_EQ(contents_of(source), (contents{{"a", "A"}, {"c", "B"}}));
}

TEST(merged, sources_beside_an_opener_last_for_every_opening) {
  text_source referred = texts({{"referred", "R"}});
  const std::string content = "owned";
  auto open = merged(
      [] {
        return texts({{"opened", "O"}});
      },
      in_memory_source({{{"copied", dtype::u8, {5}}, std::as_bytes(std::span(content))}}), referred);
  for (int i = 0; i < 2; ++i) {
    auto source = open();
    EXPECT_EQ(contents_of(source), (contents{{"opened", "O"}, {"copied", "owned"}, {"referred", "R"}}));
  }
}

TEST(merged, a_read_of_a_tensor_that_is_not_there_is_the_callers_bug) {
  auto source = merged(texts({{"a", "A"}}), texts({{"b", "B"}}));
  EXPECT_DEATH(source.read(2, 0, {}), "");
}

// -- the bar

TEST(pipe, an_lvalue_is_referred_to_and_an_rvalue_owned) {
  text_source mine = texts({{"a", "A"}});
  auto referring = mine | renamed("a", "b");
  static_assert(std::is_same_v<decltype(referring), source_view<text_source&>>);
  auto owning = std::move(mine) | renamed("a", "c");
  static_assert(std::is_same_v<decltype(owning), source_view<text_source>>);
  EXPECT_EQ(contents_of(owning), (contents{{"c", "A"}}));

  const in_memory_source constant = model.source();
  static_assert(StateDictSource<decltype(constant | filtered(is_layer))>);
}

TEST(pipe, an_opener_is_not_called_before_the_result_is) {
  int opened = 0;
  const auto open =
      [&] {
        return ++opened, texts({{"model.a", "A"}, {"b", "B"}});
      } |
      renamed("model.", "") | filtered([](std::string_view name) { return name == "a"; });
  static_assert(SourceOpener<decltype(open)>);
  EXPECT_EQ(opened, 0);
  for (int i = 1; i <= 2; ++i) {
    auto source = open();
    EXPECT_EQ(opened, i);
    EXPECT_EQ(contents_of(source), (contents{{"a", "A"}}));
  }
}

TEST(pipe, an_opener_may_change_as_it_opens) {
  in_memory_source inner = model.source();
  auto open = minimal_opener<in_memory_source>{&inner} | filtered(is_layer);
  static_assert(SourceOpener<decltype(open)> && !SourceOpener<const decltype(open)>);
  EXPECT_EQ(open().tensors().size(), 18U);
}

TEST(pipe, adaptors_join_into_one) {
  const auto of_a_model = renamed("model.", "") | filtered(is_layer) | cast(dtype::f32);
  auto source = texts({{"model.layers.0", "A"}, {"model.head", "B"}}) | of_a_model;
  EXPECT_EQ(contents_of(source), (contents{{"layers.0", "A"}}));
  auto open = [] { return texts({{"model.layers.1", "C"}}); } | of_a_model;
  auto opened = open();
  EXPECT_EQ(contents_of(opened), (contents{{"layers.1", "C"}}));
}

TEST(pipe, takes_adaptors_that_others_write) {
  const source_adaptor shouting{[]<class S>(S&& source) { return std::forward<S>(source) | renamed("a", "A!"); }};
  auto source = texts({{"a", "x"}}) | shouting;
  EXPECT_EQ(contents_of(source), (contents{{"A!", "x"}}));
}

// -- refinements: forwarded where they are modelled, and only there

using plain_source = minimal_source<in_memory_source>;
using casting_source = minimal_casting_source<in_memory_source>;
using positioned_source = minimal_positioned_source<in_memory_source>;

static_assert(CastingSource<source_view<casting_source>> && !PositionedSource<source_view<casting_source>>);
static_assert(PositionedSource<source_view<positioned_source&>> && !CastingSource<source_view<positioned_source>>);
static_assert(!CastingSource<source_view<plain_source>> && !PositionedSource<source_view<plain_source>>);
static_assert(RenamingSource<source_view<plain_source>>);
static_assert(CastingSource<cast_source<positioned_source>> && PositionedSource<cast_source<positioned_source>>);
static_assert(!PositionedSource<cast_source<plain_source>> && !VectoredSource<cast_source<positioned_source>>);
static_assert(VectoredSource<cast_source<minimal_vectored_source<in_memory_source>>>);
static_assert(PositionedSource<merged_source<cast_source<positioned_source>, positioned_source>>);
static_assert(RenamingSource<cast_source<source_view<plain_source>>> && !RenamingSource<cast_source<plain_source>>);
static_assert(CastingSource<merged_source<plain_source, casting_source&>>);
static_assert(!CastingSource<merged_source<plain_source, positioned_source>>);
static_assert(PositionedSource<merged_source<positioned_source, positioned_source&>>);
static_assert(!PositionedSource<merged_source<positioned_source, plain_source>>);
static_assert(!RenamingSource<merged_source<plain_source, plain_source>>);
static_assert(RenamingSource<merged_source<plain_source, source_view<plain_source>>>);
static_assert(std::is_nothrow_move_constructible_v<source_view<in_memory_source>>);

/// Each of its tensors in a file of its own, that is as long as the tensor's name.
struct filed_source : in_memory_source {
  explicit filed_source(in_memory_source inner) : in_memory_source(std::move(inner)) {}
  [[nodiscard]] std::vector<file_fingerprint> file_fingerprints() const {
    std::vector<file_fingerprint> out;
    for (const tensor_descriptor& tensor : tensors()) {
      out.push_back({.path = tensor.name, .bytes = tensor.name.size()});
    }
    return out;
  }
  [[nodiscard]] std::optional<std::size_t> file_of(std::size_t tensor) const { return tensor; }
};

static_assert(FingerprintedSource<source_view<filed_source&>> && FingerprintedSource<cast_source<filed_source>>);
static_assert(FingerprintedSource<merged_source<plain_source, filed_source>>);
static_assert(!FingerprintedSource<source_view<plain_source>> && !FingerprintedSource<cast_source<plain_source>>);
static_assert(!FingerprintedSource<merged_source<plain_source, positioned_source>>);

template <class S>
void expect_laws(S source) {
  EXPECT_EQ(testing::check_source(source), testing::violations{});
}

TEST(adaptors, keep_the_laws_of_their_sources) {
  expect_laws(plain_source(model.source()) | renamed("layers.", "blocks."));
  expect_laws(plain_source(model.source()) | filtered(is_layer));
  expect_laws(casting_source(model.source()) | renamed("layers.", "blocks.") |
              filtered([](std::string_view name) { return name.starts_with("blocks.1") || name == "embed.weight"; }));
  expect_laws(positioned_source(model.source()) | filtered(is_layer) | renamed("layers.", ""));
  expect_laws(merged(plain_source(model.source()) | renamed([](std::string_view name) { return concat("x.", name); }),
                     casting_source(model.source()) | cast(dtype::bf16)));
  expect_laws(
      merged(positioned_source(model.source()) | filtered(is_layer),
             positioned_source(model.source()) | filtered([](std::string_view name) { return !is_layer(name); })));
}

TEST(merged, numbers_the_files_of_each_source_behind_those_before_it) {
  const std::size_t count = model.source().tensors().size();
  const auto named = [](std::string prefix) {
    return renamed([prefix = std::move(prefix)](std::string_view name) { return concat(prefix, name); });
  };
  auto source = merged(positioned_source(model.source()) | named("a."), positioned_source(model.source()) | named("b."),
                       positioned_source(model.source()) | named("c."));
  EXPECT_EQ(source.file_count(), 3 * count);
  EXPECT_EQ(source.position_of(0), (file_position{.file = 0, .offset = 10}));
  EXPECT_EQ(source.position_of(count), (file_position{.file = count, .offset = 10}));
  EXPECT_EQ(source.position_of(3 * count - 1), (file_position{.file = 3 * count - 1, .offset = 10}));
  expect_laws(std::move(source));
}

TEST(adaptors, know_the_file_of_each_tensor) {
  const auto named = [](std::string prefix) {
    return renamed([prefix = std::move(prefix)](std::string_view name) { return concat(prefix, name); });
  };
  auto source =
      merged(filed_source(model.source()) | filtered(is_layer) | named("a."),
             plain_source(model.source()) | named("b."), filed_source(model.source()) | cast(dtype::f32) | named("c."));
  const std::vector<file_fingerprint> files = std::as_const(source).file_fingerprints();
  EXPECT_EQ(files.size(), 2 * model.source().tensors().size()) << "of what is filtered out too";
  for (std::size_t i = 0; i < source.tensors().size(); ++i) {
    const std::string& name = source.tensors()[i].name;
    const std::optional<std::size_t> file = std::as_const(source).file_of(i);
    ASSERT_EQ(file.has_value(), !name.starts_with("b."));
    if (file) {
      EXPECT_EQ(files.at(*file).path, name.substr(2));
    }
  }
  expect_laws(std::move(source));
}

TEST(merged, a_file_that_is_not_there_is_the_callers_bug) {
  auto source = merged(positioned_source(model.source()));
  EXPECT_DEATH(source.read_file(source.file_count(), 10, {}), "");
}

TEST(renamed, an_error_in_what_is_stored_gives_both_names) {
  const in_memory_source inner = model.source();
  testing::call_counter counter;
  counter.fail_at(0);
  auto source = testing::faulty_source(casting_source(inner), counter) | renamed("embed", "wte");
  std::size_t tensor = 0;
  while (source.tensors()[tensor].name != "wte.weight") {
    ++tensor;
  }
  expect_error(errc::io, "wte.weight", "(in the checkpoint: embed.weight) injected into read_stored",
               [&] { source.read_stored(tensor, 0, {}); });
}

}  // namespace
}  // namespace fsdpinit::adaptors_test
