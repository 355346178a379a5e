#include "support/archetypes.hpp"
#include "support/expect_error.hpp"
#include "support/reference_model.hpp"
#include "support/test_seed.hpp"
#include <fsdpinit/core/float_conversion.hpp>
#include <fsdpinit/fsdpinit.hpp>
#include <fsdpinit/os/read_threads.hpp>
#include <fsdpinit/sources/adaptors.hpp>
#include <fsdpinit/sources/cast.hpp>
#include <fsdpinit/sources/renamed.hpp>
#include <fsdpinit/testing/laws.hpp>
#include <fsdpinit/testing/rank_harness.hpp>

#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <random>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace fsdpinit::cast_test {
namespace {

using testing_support::content_for;
using testing_support::expect_error;
using testing_support::minimal_source;
using testing_support::minimal_vectored_source;
using testing_support::varied_model;

const testing_support::reference_model model = varied_model();

constexpr dtype floats[] = {dtype::f32, dtype::f16, dtype::bf16};

std::vector<std::byte> whole(auto& source, std::size_t tensor) {
  std::vector<std::byte> out(byte_size(source.tensors()[tensor]));
  source.read(tensor, 0, out);
  return out;
}

/// One tensor `w` of random bits, NaNs and all, and what it should be as another type.
struct one_tensor {
  one_tensor(dtype from, std::uint64_t elements)
      : type(from), bytes(content_for(name(from), elements * (bits(from) / 8))) {}

  [[nodiscard]] in_memory_source source() const {
    return in_memory_source({{{"w", type, {bytes.size() / (bits(type) / 8)}}, bytes}});
  }
  [[nodiscard]] std::vector<std::byte> as(dtype to) const {
    const std::uint64_t elements = bytes.size() / (bits(type) / 8);
    std::vector<std::byte> out(elements * (bits(to) / 8));
    convert_floats(type, bytes.data(), to, out.data(), elements);
    return out;
  }

  dtype type;
  std::vector<std::byte> bytes;
};

TEST(cast, shows_floating_tensors_with_the_type_asked_for) {
  for (const dtype target : floats) {
    SCOPED_TRACE(name(target));
    in_memory_source plain = model.source();
    auto source = model.source() | cast(target);
    ASSERT_EQ(source.tensors().size(), plain.tensors().size());
    for (std::size_t i = 0; i < plain.tensors().size(); ++i) {
      const tensor_descriptor& before = plain.tensors()[i];
      const bool is_float = is_convertible(before.dtype, target);
      EXPECT_EQ(source.tensors()[i].name, before.name);
      EXPECT_EQ(source.tensors()[i].shape, before.shape);
      EXPECT_EQ(source.tensors()[i].dtype, is_float ? target : before.dtype) << before.name;
      EXPECT_EQ(source.stored_dtype(i), before.dtype) << before.name;
      if (!is_float) {
        EXPECT_EQ(whole(source, i), whole(plain, i)) << before.name;
      }
    }
  }
}

TEST(cast, keeps_the_laws) {
  for (const dtype target : floats) {
    auto source = minimal_source(model.source()) | cast(target);
    EXPECT_EQ(testing::check_source(source), testing::violations{});
    auto both = minimal_source(model.source()) | cast(dtype::f16) | cast(target);
    EXPECT_EQ(testing::check_source(both), testing::violations{});
  }
}

TEST(cast, knows_the_positions_of_what_it_leaves_alone) {
  auto source = minimal_vectored_source<in_memory_source>(model.source()) | cast(dtype::f16);
  EXPECT_EQ(testing::check_source(source), testing::violations{});
  std::size_t cast_away = 0;
  for (std::size_t i = 0; i < source.tensors().size(); ++i) {
    const bool is_cast = source.stored_dtype(i) != source.tensors()[i].dtype;
    EXPECT_EQ(source.position_of(i).has_value(), !is_cast) << source.tensors()[i].name;
    cast_away += is_cast ? 1 : 0;
  }
  EXPECT_GT(cast_away, 0U);
  EXPECT_LT(cast_away, source.tensors().size());
}

TEST(cast, leaves_tensors_whose_name_does_not_satisfy_the_predicate) {
  const auto source = model.source() | cast(dtype::f16, [](std::string_view name) { return name.ends_with(".up"); });
  for (const tensor_descriptor& tensor : source.tensors()) {
    if (tensor.name.ends_with(".up")) {
      EXPECT_EQ(tensor.dtype, dtype::f16);
    } else if (tensor.name.ends_with(".norm")) {
      EXPECT_EQ(tensor.dtype, dtype::f32);
    }
  }
}

TEST(cast, to_another_type_is_rejected) {
  for (const dtype target : {dtype::f64, dtype::i32, dtype::f8_e4m3}) {
    expect_error(errc::invalid_argument, "cast", concat("cannot cast to ", name(target)),
                 [&] { static_cast<void>(cast(target)); });
  }
}

TEST(cast, a_size_that_overflows_is_rejected) {
  struct huge {
    std::vector<tensor_descriptor> all{{"w", dtype::f16, {std::uint64_t{1} << 61U}}};
    [[nodiscard]] std::span<const tensor_descriptor> tensors() const { return all; }
    void read(std::size_t, std::uint64_t, mutable_bytes) {}
  };
  expect_error(errc::invalid_argument, "w", "overflows 64 bits", [] { static_cast<void>(huge() | cast(dtype::f32)); });
}

TEST(cast, after_a_cast_converts_what_that_shows) {
  const one_tensor tensor(dtype::f32, 100);
  auto source = tensor.source() | cast(dtype::bf16) | cast(dtype::f32);
  EXPECT_EQ(source.stored_dtype(0), dtype::bf16);
  std::vector<std::byte> rounded(400);
  convert_floats(dtype::bf16, tensor.as(dtype::bf16).data(), dtype::f32, rounded.data(), 100);
  EXPECT_EQ(whole(source, 0), rounded);
  EXPECT_NE(whole(source, 0), tensor.bytes);

  auto untouched = tensor.source() | cast(dtype::bf16) | cast(dtype::bf16);
  EXPECT_EQ(untouched.stored_dtype(0), dtype::f32);
}

TEST(cast, any_range_is_that_of_the_whole) {
  const std::uint64_t seed = testing_support::test_seed();
  SCOPED_TRACE(concat("FSDPINIT_TEST_SEED=", seed));
  std::mt19937_64 random(seed);
  const auto below = [&](std::uint64_t bound) { return random() % bound; };
  for (const dtype from : floats) {
    for (const dtype to : floats) {
      const one_tensor tensor(from, 400'003);
      const std::vector<std::byte> wanted = tensor.as(to);
      auto source = tensor.source() | cast(to);
      for (int round = 0; round < 60; ++round) {
        // Of all sizes alike: from cut elements to several pieces.
        const std::uint64_t longest = std::uint64_t{1} << below(22);
        const std::uint64_t offset = below(wanted.size() + 1);
        const std::uint64_t length = below(std::min<std::uint64_t>(longest, wanted.size() - offset) + 1);
        constexpr std::byte untouched{0x5a};
        std::vector<std::byte> out(length + 2, untouched);
        source.read(0, offset, mutable_bytes(out).subspan(1, length));
        ASSERT_TRUE(std::equal(out.begin() + 1, out.end() - 1, wanted.begin() + static_cast<std::ptrdiff_t>(offset)))
            << name(from) << " as " << name(to) << ", " << length << " bytes at " << offset;
        ASSERT_TRUE(out.front() == untouched && out.back() == untouched) << "bytes beside the destination";
      }
    }
  }
}

TEST(cast, f64_is_rounded_once) {
  const one_tensor tensor(dtype::f64, 100'003);
  for (const dtype to : floats) {
    auto source = minimal_source(tensor.source()) | cast(to);
    EXPECT_EQ(source.stored_dtype(0), dtype::f64);
    EXPECT_EQ(whole(source, 0), tensor.as(to));
    std::vector<std::byte> cut(3);
    source.read(0, 7, cut);
    EXPECT_TRUE(std::equal(cut.begin(), cut.end(), tensor.as(to).begin() + 7));
    EXPECT_EQ(testing::check_source(source), testing::violations{});
  }
}

TEST(cast, what_becomes_infinite_is_counted_through_other_adaptors) {
  const std::vector<float> values{1, 70000, -70000, std::numeric_limits<float>::infinity(), 65504, 1e10F};
  const auto tensor = [&](const char* called) {
    return in_memory_tensor{{called, dtype::f32, {values.size()}}, std::as_bytes(std::span(values))};
  };
  auto source = merged(in_memory_source({tensor("a"), tensor("plain")}) |
                           cast(dtype::f16, [](std::string_view name) { return name == "a"; }) | renamed("a", "w"),
                       in_memory_source({tensor("b")})) |
                filtered([](std::string_view name) { return name != "none"; });
  static_assert(OverflowCountingSource<decltype(source)>);
  for (std::size_t i = 0; i < 3; ++i) {
    static_cast<void>(whole(source, i));
  }
  EXPECT_EQ(source.overflows(0), 3U);
  EXPECT_EQ(source.overflows(1), 0U);
  EXPECT_EQ(source.overflows(2), 0U);
}

TEST(cast, an_element_that_reads_cut_is_counted_once) {
  const std::vector<float> values{70000, 1, -70000};
  auto source = in_memory_source({{{"w", dtype::f32, {3}}, std::as_bytes(std::span(values))}}) | cast(dtype::f16);
  std::byte one{};
  for (std::uint64_t offset = 0; offset < 6; ++offset) {
    source.read(0, offset, {&one, 1});
  }
  EXPECT_EQ(source.overflows(0), 2U);
}

TEST(cast, threads_that_read_together_count_together) {
  const std::vector<float> values(2'000'000, 1e6F);
  auto source =
      in_memory_source({{{"w", dtype::f32, {values.size()}}, std::as_bytes(std::span(values))}}) | cast(dtype::f16);
  std::vector<std::byte> out(2 * values.size());
  detail::read_threads threads(3);
  threads.fill(out, [&](std::size_t, std::uint64_t offset, mutable_bytes piece) { source.read(0, offset, piece); });
  EXPECT_EQ(source.overflows(0), values.size());
}

TEST(cast, the_source_is_read_in_few_pieces_and_within_the_tensor) {
  struct counting : in_memory_source {
    explicit counting(in_memory_source inner) : in_memory_source(std::move(inner)) {}
    void read(std::size_t tensor, std::uint64_t offset, mutable_bytes destination) {
      ++reads;
      bytes += destination.size();
      in_memory_source::read(tensor, offset, destination);
    }
    std::uint64_t reads = 0;
    std::uint64_t bytes = 0;
  };
  constexpr std::uint64_t elements = mib;
  for (const dtype from : floats) {
    for (const dtype to : floats) {
      SCOPED_TRACE(concat(name(from), " as ", name(to)));
      const one_tensor tensor(from, elements);
      counting inner(tensor.source());
      auto source = inner | cast(to);
      EXPECT_EQ(whole(source, 0), tensor.as(to));
      EXPECT_EQ(inner.bytes, tensor.bytes.size());
      EXPECT_LE(inner.reads, 16U + 8U);  // of 4 MiB, 256 KiB at a time, and those that halve
    }
  }
}

TEST(cast, a_read_out_of_bounds_is_the_callers_bug) {
  const one_tensor tensor(dtype::f32, 2);
  auto source = tensor.source() | cast(dtype::f16);
  std::vector<std::byte> out(4);
  EXPECT_DEATH(source.read(1, 0, {}), "");
  EXPECT_DEATH(source.read(0, 1, out), "");
  EXPECT_DEATH(source.read(0, 5, {}), "");
  EXPECT_DEATH(source.read(0, ~std::uint64_t{0}, out), "");
  EXPECT_DEATH(static_cast<void>(source.stored_dtype(1)), "");
}

/// The whole way: an opener adapted, opened on the source rank alone, with names and dtypes of the module.
TEST(cast, a_renamed_and_cast_checkpoint_fills_a_model) {
  const one_tensor tensor(dtype::bf16, 30);
  const std::vector<std::byte> wanted = tensor.as(dtype::f32);
  testing::run_ranks(3, [&](std::size_t rank, threads_communicator& world) {
    std::size_t opened = 0;
    const auto open = [&] { return ++opened, tensor.source(); } | renamed("w", "layers.0.w") | cast(dtype::f32);
    dynamic_module module;
    module.add_parameter("layers.0.w", dtype::f32, {30});
    initialize(module, open, world, {.bucket_bytes = 7, .source_rank = 1});
    EXPECT_EQ(opened, rank == 1 ? 1U : 0U);
    module.visit_slots([&](std::string_view, auto& slot) {
      const bytes_view mine(slot_traits<std::remove_cvref_t<decltype(slot)>>::data(slot), 40);
      EXPECT_TRUE(std::equal(mine.begin(), mine.end(), wanted.begin() + static_cast<std::ptrdiff_t>(40 * rank)));
    });
  });
}

}  // namespace
}  // namespace fsdpinit::cast_test
