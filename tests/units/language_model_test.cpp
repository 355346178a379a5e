#include "support/adamw.hpp"
#include "support/language_model.hpp"
#include "support/reference_model.hpp"
#include <fsdpinit/fsdpinit.hpp>
#include <fsdpinit/index/mesh.hpp>
#include <fsdpinit/init/initialize.hpp>
#include <fsdpinit/testing/rank_harness.hpp>
#include <fsdpinit/units/sharded_units.hpp>

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

/// The library from end to end: a language model is initialised under each policy, and trained with its units gathered and its
/// gradients reduced one by one, by an optimizer that was made before. Whatever the policy the training is the same to the bit,
/// and it is that of a single rank as nearly as sums of floats allow.

namespace language_model_test {
namespace {

using namespace fsdpinit;
using namespace fsdpinit::testing_support;
using fsdpinit::testing::run_ranks;

constexpr std::size_t steps = 20;
/// Over all ranks. As their number it is a power of two, so that dividing by either is exact.
constexpr std::size_t batch_size = 64;

struct training {
  std::vector<float> losses{};  // mean over ranks, before each step
  float_tensors weights{};      // after the last
  float_tensors first{};        // the first step's gradients; on ranks: of the shard
  rank_report report{};
};

/// Gradients that are wrong on one rank, in every step.
struct fault {
  std::vector<std::string> fqns{};
  float factor = 1;
  std::size_t rank = 0;

  void strike(const std::string& fqn, std::size_t on, float_tensors& gradients) const {
    for (float& each : gradients.at(fqn)) {
      each *= on == rank ? factor : 1.0F;
    }
  }
};

[[nodiscard]] std::vector<language_example> slice(std::size_t step, std::size_t ranks, std::size_t rank) {
  const std::vector<language_example> batch = language_batch(step, batch_size);
  const auto begin = batch.begin() + static_cast<std::ptrdiff_t>(batch_size / ranks * rank);
  return {begin, begin + static_cast<std::ptrdiff_t>(batch_size / ranks)};
}

/// One type for all trainings, so that all run the same instructions of the optimizer.
struct gradient_of_slot {
  std::map<const parameter*, std::span<const float>> gradients{};
  std::span<const float> operator()(const parameter& slot) const { return gradients.at(&slot); }
};

[[nodiscard]] std::vector<float> copy_of(std::span<const float> values) { return {values.begin(), values.end()}; }

[[nodiscard]] float_tensors weights_in(dynamic_module& module, const float_tensors& names) {
  float_tensors out;
  for (const auto& [fqn, values] : names) {
    out.emplace(fqn, copy_of(floats_of(module, fqn)));
  }
  return out;
}

// -- in one piece

void add(float_tensors& to, const float_tensors& more) {
  for (auto& [fqn, values] : to) {
    const std::vector<float>& others = more.find(fqn)->second;
    for (std::size_t i = 0; i < values.size(); ++i) {
      values[i] += others[i];
    }
  }
}

/// Without the library's help: one rank works through what the ranks of a mesh would each have done, and adds their gradients up
/// in the order that the library promises, over the shards of each replica and then over replicas.
[[nodiscard]] training trained_in_one_piece(const language_model& model, const float_tensors& initial, mesh grid,
                                            const fault& wrong = {}) {
  training out;
  dynamic_module module = model.module();
  model.load(module, initial);
  adamw optimizer = model.optimizer_over(module);
  const auto ranks = static_cast<float>(grid.size());
  for (std::size_t step = 0; step < steps; ++step) {
    float loss = 0;
    float_tensors mean;
    for (std::size_t replica = 0; replica < grid.replicas; ++replica) {
      float_tensors of_replica;
      for (std::size_t shard = 0; shard < grid.shards; ++shard) {
        const std::size_t rank = grid.rank_of(replica, shard);
        float_tensors mine;
        loss += language_gradients(model, module, slice(step, grid.size(), rank), mine, whole_parts());
        for (const std::string& fqn : wrong.fqns) {
          wrong.strike(fqn, rank, mine);
        }
        shard == 0 ? of_replica.swap(mine) : add(of_replica, mine);
      }
      replica == 0 ? mean.swap(of_replica) : add(mean, of_replica);
    }
    gradient_of_slot of_slot;
    for (auto& [fqn, values] : mean) {
      for (float& each : values) {
        each /= ranks;
      }
      of_slot.gradients.emplace(&module.get_parameter(fqn), values);
    }
    out.losses.push_back(loss / ranks);
    if (step == 0) {
      out.first = mean;
    }
    optimizer.step(of_slot);
  }
  out.weights = weights_in(module, initial);
  return out;
}

// -- ways to initialise

/// What one rank has at hand.
struct rank_stage {
  const language_model& model;
  const float_tensors& initial;
  dynamic_module& module;  // on meta
  threads_communicator& world;
  options how{};
  host_memory memory{};
  rank_report report{};
};
/// Initialises the module and returns the optimizer, bound to the shards.
using initialiser = adamw (*)(rank_stage&);

/// What must not be left over.
void load_other_values(rank_stage& on) {
  float_tensors other = on.initial;
  for (auto& [fqn, values] : other) {
    for (float& each : values) {
      each = 1.0F - each;
    }
  }
  on.model.load(on.module, other);
}

template <class Policy>
adamw from_checkpoint(rank_stage& on) {
  load_other_values(on);
  adamw optimizer = on.model.optimizer_over(on.module);
  on.report = initialize<Policy>(on.module, on.model.checkpoint(on.initial), on.world, on.how,
                                 {.memory = on.memory, .optimizer = {on.module, optimizer}});
  return optimizer;
}

template <class Policy>
adamw with_the_optimizer_made_after(rank_stage& on) {
  on.report = initialize<Policy>(on.module, on.model.checkpoint(on.initial), on.world, on.how, {.memory = on.memory});
  return on.model.optimizer_over(on.module);
}

/// The values of the source rank count; the last rank, for once.
template <class Policy>
adamw from_module_state(rank_stage& on) {
  on.how.source_rank = on.world.size() - 1;
  if (Policy::every_rank_reads || on.world.rank() == on.how.source_rank) {
    on.model.load(on.module, on.initial);
  } else {
    load_other_values(on);
  }
  adamw optimizer = on.model.optimizer_over(on.module);
  on.report = initialize<Policy>(on.module, module_state{}, on.world, on.how,
                                 {.memory = on.memory, .optimizer = {on.module, optimizer}});
  return optimizer;
}

/// As accelerate's users do it: one rank loads, an optimizer is made, all is prepared.
template <transport Transport>
adamw from_pretrained(rank_stage& on) {
  load_pretrained(on.module, on.model.checkpoint(on.initial), on.world, {}, {}, {.memory = on.memory});
  adamw optimizer = on.model.optimizer_over(on.module);
  on.report =
      prepare<Transport>(on.module, on.world, on.how, {.memory = on.memory, .optimizer = {on.module, optimizer}});
  return optimizer;
}

constexpr initialiser baseline = from_checkpoint<every_rank_loads>;

struct named_initialiser {
  const char* name;
  initialiser run;
};
constexpr named_initialiser initialisers[] = {
    {"native sharding, scatter", from_checkpoint<native_sharding<transport::scatter>>},
    {"native sharding, broadcast", from_checkpoint<native_sharding<transport::broadcast>>},
    {"native sharding, own reads", from_checkpoint<native_sharding<transport::own_read>>},
    {"native sharding, automatic", from_checkpoint<native_sharding<transport::automatic>>},
    {"native sharding of a module's state, scatter", from_module_state<native_sharding<transport::scatter>>},
    {"native sharding of a module's state, broadcast", from_module_state<native_sharding<transport::broadcast>>},
    {"every rank loads, from its module's state", from_module_state<every_rank_loads>},
    {"efficient loading, scatter", from_pretrained<transport::scatter>},
    {"efficient loading, broadcast", from_pretrained<transport::broadcast>},
};

// -- on ranks

using threads_units = decltype(sharded_units(std::declval<dynamic_module&>(), std::declval<threads_communicator&>()));

/// The parts of the model are units of the module.
struct sharded_parts {
  threads_units& units;
  float_tensors& full;
  const fault& wrong;
  std::size_t rank;
  std::vector<threads_units::gradients> reduced{};

  [[nodiscard]] std::size_t unit_of(std::string_view part) const {
    std::size_t unit = 0;
    while (units.name(unit) != part) {
      ++unit;
    }
    return unit;
  }
  void gather(std::string_view part) { units.unshard(unit_of(part)); }
  void release(std::string_view part) { units.reshard(unit_of(part)); }
  void reduce(std::string_view part) {
    const std::size_t unit = unit_of(part);
    for (const std::string& fqn : wrong.fqns) {
      if (units.unit_of(fqn) == unit) {
        wrong.strike(fqn, rank, full);
      }
    }
    reduced.push_back(units.reduce_scatter_gradients(
        unit, [&](std::string_view fqn) { return std::span<const float>(full.find(fqn)->second); },
        gradient_reduction::mean));
  }
};

[[nodiscard]] training trained_on_one_of(mesh grid, const language_model& model, const float_tensors& initial,
                                         threads_communicator& world, initialiser begin, const fault& wrong,
                                         std::size_t count) {
  training out;
  const std::size_t rank = world.rank();
  dynamic_module module = model.module();
  rank_stage stage{.model = model,
                   .initial = initial,
                   .module = module,
                   .world = world,
                   .how = {.bucket_bytes = 3000, .replicas = grid.replicas}};
  adamw optimizer = begin(stage);
  out.report = stage.report;
  sharded_units units(module, world, stage.how, stage.memory);
  for (std::size_t step = 0; step < count; ++step) {
    float_tensors full;
    sharded_parts parts{.units = units, .full = full, .wrong = wrong, .rank = rank};
    out.losses.push_back(language_gradients(model, module, slice(step, grid.size(), rank), full, parts));
    gradient_of_slot of_slot;
    for (const auto& unit : parts.reduced) {
      for (const shard_gradient& each : unit) {
        of_slot.gradients.emplace(&module.get_parameter(each.fqn), each.values);
        if (step == 0) {
          out.first.emplace(each.fqn, copy_of(each.values));
        }
      }
    }
    optimizer.step(of_slot);
  }
  for (std::size_t unit = 0; unit < units.size(); ++unit) {
    units.unshard(unit);
  }
  out.weights = weights_in(module, initial);
  return out;
}

/// FSDP; what each rank has seen of it, with the same losses.
[[nodiscard]] std::vector<training> trained_on_ranks(const language_model& model, const float_tensors& initial,
                                                     mesh grid, initialiser begin, const fault& wrong = {},
                                                     std::size_t count = steps) {
  std::vector<training> out(grid.size());
  run_ranks(grid.size(), [&](std::size_t rank, threads_communicator& world) {
    out[rank] = trained_on_one_of(grid, model, initial, world, begin, wrong, count);
  });
  for (std::size_t step = 0; step < count; ++step) {
    float loss = 0;
    for (const training& each : out) {
      loss += each.losses[step];
    }
    for (training& each : out) {
      each.losses[step] = loss / static_cast<float>(grid.size());
    }
  }
  return out;
}

// -- the same training, to the bit

[[nodiscard]] bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

/// What is not the same; empty: nothing.
[[nodiscard]] std::string differences(const std::vector<training>& ranks, const training& wanted) {
  std::string out;
  for (std::size_t rank = 0; rank < ranks.size(); ++rank) {
    for (std::size_t step = 0; step < steps; ++step) {
      if (!same_bits({ranks[rank].losses.at(step)}, {wanted.losses.at(step)})) {
        out += concat("the loss of step ", step, " on rank ", rank, "\n");
      }
    }
    for (const auto& [fqn, values] : wanted.weights) {
      if (!same_bits(ranks[rank].weights.at(fqn), values)) {
        out += concat(fqn, " on rank ", rank, "\n");
      }
    }
  }
  return out;
}

void expect_learned(const training& done) {
  EXPECT_LT(done.losses.back(), 0.5F * done.losses.front());
  EXPECT_LT(done.losses.back(), 0.7F * std::log(static_cast<float>(language_model::vocabulary)))
      << "better than to know how often each token comes";
}

void expect_the_same_under_every_policy(mesh grid) {
  const language_model model;
  const float_tensors initial = model.values(7);
  const training wanted = trained_on_ranks(model, initial, grid, baseline).front();
  expect_learned(wanted);
  for (const named_initialiser& each : initialisers) {
    EXPECT_EQ(differences(trained_on_ranks(model, initial, grid, each.run), wanted), "") << each.name;
  }
}

TEST(LanguageModel, TrainsToTheSameBitsUnderEveryPolicyOnTwoRanks) {
  expect_the_same_under_every_policy({.shards = 2});
}
TEST(LanguageModel, TrainsToTheSameBitsUnderEveryPolicyOnFourRanks) {
  expect_the_same_under_every_policy({.shards = 4});
}
TEST(LanguageModel, TrainsToTheSameBitsUnderEveryPolicyOnTwoReplicas) {
  expect_the_same_under_every_policy({.shards = 2, .replicas = 2});
}

TEST(LanguageModel, OfWhichATableIsReadByEachRankAndTheRestScatteredTrainsToTheSameBits) {
  constexpr mesh grid{.shards = 2};
  const language_model model{.pairs = grid.shards * (own_read_threshold / language_model::width / sizeof(float) + 1)};
  const float_tensors initial = model.values(7);
  const std::vector<training> ranks =
      trained_on_ranks(model, initial, grid, from_checkpoint<native_sharding<transport::automatic>>);
  for (const training& each : ranks) {
    EXPECT_NE(each.report.transport_reason.find("1 tensor"), std::string::npos) << each.report.transport_reason;
    EXPECT_GT(each.report.bytes_read, own_read_threshold);
    expect_learned(each);
  }
  EXPECT_EQ(differences(ranks, trained_on_ranks(model, initial, grid, baseline).front()), "");
}

TEST(LanguageModel, TrainsToTheSameBitsWhetherTheOptimizerWasMadeBeforeOrAfter) {
  const language_model model;
  const float_tensors initial = model.values(7);
  for (const mesh grid : {mesh{.shards = 2}, mesh{.shards = 4}}) {
    const training before =
        trained_on_ranks(model, initial, grid, from_checkpoint<native_sharding<transport::scatter>>).front();
    expect_learned(before);
    const auto after =
        trained_on_ranks(model, initial, grid, with_the_optimizer_made_after<native_sharding<transport::scatter>>);
    EXPECT_EQ(differences(after, before), "") << grid.shards;
  }
}

TEST(LanguageModel, TrainsToTheBitsOfOneRankThatAddsUpTheSameSlices) {
  const language_model model;
  const float_tensors initial = model.values(7);
  for (const mesh grid : {mesh{}, mesh{.shards = 2}, mesh{.shards = 4}, mesh{.shards = 2, .replicas = 2}}) {
    EXPECT_EQ(differences(trained_on_ranks(model, initial, grid, baseline), trained_in_one_piece(model, initial, grid)),
              "")
        << grid.replicas << " x " << grid.shards;
  }
}

// -- the same training but for rounding

/// The gradients of the first step on the ranks of a mesh are sums of the same terms as on a single rank, added in another order:
/// examples do not know of each other, and a slice's mean, being of a power of two of them, has terms that are an exact multiple.
/// A sum of K floats in any order is off by at most (K - 1) u times the sum of their magnitudes (u = 2^-24; N. Higham, "Accuracy
/// and Stability of Numerical Algorithms", 4.2), two such sums from one another by twice that. In an example the tied embedding
/// has a term for the head and one for each token, everything else at most as many.
///
/// \return the names of the weights whose gradients lie farther apart on some rank.
[[nodiscard]] std::vector<std::string> beyond_rounding(const language_model& model, const float_tensors& initial,
                                                       mesh grid, const std::vector<training>& ranks) {
  dynamic_module module = model.module();
  model.load(module, initial);
  float_tensors single;
  float_tensors magnitudes;
  const auto batch = slice(0, 1, 0);
  static_cast<void>(language_gradients(model, module, batch, single, whole_parts()));
  static_cast<void>(language_gradients(model, module, batch, magnitudes, whole_parts(), sum_of_magnitudes()));
  constexpr double share = 2 * double{batch_size * (language_model::context + 1)} * 0x1p-24;

  std::vector<std::string> out;
  for (const language_model::weight& each : model.weights()) {
    bool beyond = false;
    for (std::size_t rank = 0; rank < ranks.size(); ++rank) {
      const auto mine = [&](const float_tensors& whole) {
        const naive_shard part = naive_slice(std::as_bytes(std::span(whole.at(each.fqn))), dtype::f32, each.extents,
                                             each.how, grid.shards, grid.shard_of(rank));
        std::vector<float> values(part.bytes.size() / sizeof(float));
        if (!values.empty()) {
          std::memcpy(values.data(), part.bytes.data(), part.bytes.size());
        }
        return values;
      };
      const std::vector<float> wanted = mine(single);
      const std::vector<float> bound = mine(magnitudes);
      const std::vector<float>& got = ranks[rank].first.at(each.fqn);
      EXPECT_EQ(got.size(), wanted.size());
      for (std::size_t i = 0; i < std::min(got.size(), wanted.size()); ++i) {
        beyond = beyond || !(std::abs(double{got[i]} - double{wanted[i]}) <= share * double{bound[i]});
      }
    }
    if (beyond) {
      out.push_back(each.fqn);
    }
  }
  return out;
}

[[nodiscard]] std::vector<std::string> names_of(const language_model& model) {
  std::vector<std::string> out;
  for (const language_model::weight& each : model.weights()) {
    out.push_back(each.fqn);
  }
  return out;
}

TEST(LanguageModel, HasGradientsThatAreThoseOfASingleRankButForRounding) {
  const language_model model;
  const float_tensors initial = model.values(7);
  for (const mesh grid : {mesh{.shards = 2}, mesh{.shards = 4}, mesh{.shards = 2, .replicas = 2}}) {
    SCOPED_TRACE(concat(grid.replicas, " x ", grid.shards));
    const auto with_factor = [&](float factor) {
      const fault wrong{.fqns = names_of(model), .factor = factor, .rank = grid.size() - 1};
      return beyond_rounding(model, initial, grid, trained_on_ranks(model, initial, grid, baseline, wrong, 1));
    };
    EXPECT_EQ(with_factor(1), std::vector<std::string>{});
    // Every one of them would be noticed: one rank's that is missing, or 1 % too long.
    EXPECT_EQ(with_factor(0), names_of(model));
    EXPECT_EQ(with_factor(1.01F), names_of(model));
  }
}

/// How far two trainings may end from one another, as a part of how far a weight has come: || a - b || / || b - initial ||.
///
/// A gradient is the sum of some K = 64 terms, so that another order changes it by at most 2 K u = 8e-6 of the sum of their
/// magnitudes (see above), which here is about three times its own length: 2.3e-5 of it. AdamW's step is a quotient in which the
/// length of gradients cancels, so that it changes by a like part of itself, and so does the sum of steps. What weights differ by
/// then changes later gradients in turn; twice as much is allowed for that. Roundings cancel one another, and what is found is
/// 3e-6 or less.
///
/// One thing could go beyond: a weight whose first gradient is nothing but rounding, as AdamW's first step is its sign. That
/// happens to about one weight in a million.
constexpr double tolerance = 5e-5;

struct distance {
  double weights = 0;  ///< of the weight that is farthest
  double losses = 0;   ///< relative, of the step where it is largest
};

[[nodiscard]] distance distance_of(const training& from, const training& to, const float_tensors& initial) {
  distance out;
  for (const auto& [fqn, values] : to.weights) {
    double apart = 0;
    double moved = 0;
    for (std::size_t i = 0; i < values.size(); ++i) {
      const double wanted = values[i];
      apart += std::pow(double{from.weights.at(fqn)[i]} - wanted, 2);
      moved += std::pow(double{initial.at(fqn)[i]} - wanted, 2);
    }
    out.weights = std::max(out.weights, std::sqrt(apart / moved));
  }
  for (std::size_t step = 0; step < steps; ++step) {
    const double wanted = to.losses[step];
    out.losses = std::max(out.losses, std::abs(double{from.losses[step]} - wanted) / wanted);
  }
  return out;
}

TEST(LanguageModel, FollowsTheTrainingOfASingleRank) {
  const language_model model;
  const float_tensors initial = model.values(7);
  const training single = trained_on_ranks(model, initial, {}, baseline).front();
  expect_learned(single);
  for (const mesh grid : {mesh{.shards = 2}, mesh{.shards = 4}, mesh{.shards = 2, .replicas = 2}}) {
    SCOPED_TRACE(concat(grid.replicas, " x ", grid.shards));
    const training ranks = trained_on_ranks(model, initial, grid, initialisers[0].run).front();
    const distance apart = distance_of(ranks, single, initial);
    EXPECT_LT(apart.weights, tolerance);
    EXPECT_LT(apart.losses, tolerance);  // a loss falls by about its own size on the way
    EXPECT_GT(apart.weights, 0) << "the order of sums does matter, else nothing was compared";
  }
}

/// On one rank of four: AdamW does not notice what is 1 % too long on all of them, but the comparison of gradients does.
TEST(LanguageModel, DoesNotFollowItWithAGradientThatIsMissingOrWrongByOnePercent) {
  const language_model model;
  const float_tensors initial = model.values(7);
  const training single = trained_in_one_piece(model, initial, {});
  for (const std::string& fqn : names_of(model)) {
    for (const float factor : {0.0F, 1.01F}) {
      const fault wrong{.fqns = {fqn}, .factor = factor, .rank = 3};
      const training ranks = trained_in_one_piece(model, initial, {.shards = 4}, wrong);
      EXPECT_GT(distance_of(ranks, single, initial).weights, 10 * tolerance) << fqn << " times " << factor;
    }
  }
}

// -- the model itself

/// Along its gradient a weight changes the loss by the gradient's length.
TEST(LanguageModel, HasGradientsThatAreTheDerivativesOfItsLoss) {
  const language_model model;
  const float_tensors initial = model.values(7);
  const auto batch = slice(0, 1, 0);
  dynamic_module module = model.module();
  model.load(module, initial);
  float_tensors gradients;
  static_cast<void>(language_gradients(model, module, batch, gradients, whole_parts()));
  for (const auto& [fqn, gradient] : gradients) {
    double squares = 0;
    for (const float each : gradient) {
      squares += double{each} * double{each};
    }
    const double length = std::sqrt(squares);
    constexpr double step = 0.01;
    const auto loss_at = [&](double sign) {
      float_tensors moved = initial;
      for (std::size_t i = 0; i < gradient.size(); ++i) {
        moved.at(fqn)[i] += static_cast<float>(sign * step * double{gradient[i]} / length);
      }
      model.load(module, moved);
      float_tensors unused;
      return double{language_gradients(model, module, batch, unused, whole_parts())};
    };
    EXPECT_NEAR((loss_at(1) - loss_at(-1)) / (2 * step) / length, 1, 0.01) << fqn;
  }
}

}  // namespace
}  // namespace language_model_test
