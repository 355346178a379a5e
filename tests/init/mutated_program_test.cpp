#include "support/fake_device_memory.hpp"
#include "support/one_file_source.hpp"
#include "support/reference_model.hpp"
#include "support/test_checksum.hpp"
#include <fsdpinit/fsdpinit.hpp>
#include <fsdpinit/init/pretrained.hpp>
#include <fsdpinit/observe/program_text.hpp>
#include <fsdpinit/plan/program_step.hpp>
#include <fsdpinit/testing/rank_harness.hpp>

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>
#include <numeric>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <malloc.h>

/// The engine against programs in which a step is missing, a byte too short, or behind the one that needs it: somebody notices.
namespace mutated_program_test {
namespace {

using namespace fsdpinit;
using namespace fsdpinit::testing_support;
using fsdpinit::testing::run_ranks;

/// Does it bring bytes to where they belong? The others look at what is there, let go of it, or are what ranks agree by, which is up to
/// who runs rounds.
bool moves_bytes(step_kind kind) {
  switch (kind) {
    case step_kind::read:
    case step_kind::read_buffer:
    case step_kind::generate:
    case step_kind::copy:
    case step_kind::place:
    case step_kind::widen:
    case step_kind::window:
    case step_kind::scatter:
    case step_kind::broadcast:
      return true;
    default:
      return false;
  }
}

constexpr std::size_t no_step = ~std::size_t{0};

enum class mutation : std::uint8_t {
  leave_out,
  shorten,  ///< by a byte
  swap,     ///< with the next step on this rank that takes bytes from where it puts them, if there is one
};

/// Changes one of the steps that move bytes.
class mutating_tap final : public step_tap {
 public:
  mutating_tap(std::size_t step, mutation how) : step_(step), how_(how) {}

  void pass(const program_step& each, step_visitor to) override {
    for_each_single(each, [&](const program_step& single) { pass_single(single, to); });
  }

  /// Those that may be changed, in their order.
  [[nodiscard]] std::vector<std::size_t> steps() const {
    std::vector<std::size_t> all(steps_);
    std::iota(all.begin(), all.end(), std::size_t{0});
    return how_ == mutation::swap ? swappable_ : all;
  }
  [[nodiscard]] const std::optional<program_step>& mutated() const { return mutated_; }

 private:
  void pass_single(const program_step& each, step_visitor to) {
    std::erase_if(written_, [&](const std::pair<std::size_t, region_position>& earlier) {
      const bool is_needed = takes_from(each, earlier.second);
      if (is_needed) {
        swappable_.push_back(earlier.first);
      }
      return is_needed;
    });
    if (moves_bytes(each.kind) && each.total() != 0) {
      written_.emplace_back(steps_, each.to);
    }
    if (!moves_bytes(each.kind) || each.total() == 0 || is_as_before(each) || steps_++ != step_) {
      to(each);
      if (held_ && takes_from(each, held_->to)) {
        mutated_ = std::exchange(held_, std::nullopt);
        to(*mutated_);
      }
      return;
    }
    if (how_ == mutation::swap) {
      held_ = each;
      return;
    }
    mutated_ = each;
    if (how_ == mutation::shorten) {
      program_step shorter = each;
      shorter.bytes -= 1;
      to(shorter);
    }
  }

  /// Is it a step of this rank alone, as soon as it is executed, that looks at what lies there? Transfers look when their peers come.
  static bool takes_from(const program_step& each, const region_position& where) {
    const bool is_local = each.kind == step_kind::place || each.kind == step_kind::copy ||
                          each.kind == step_kind::widen || each.kind == step_kind::hash;
    return is_local && each.from.kind == where.kind && each.from.index == where.index &&
           each.from.offset <= where.offset && where.offset < each.from.offset + each.total();
  }

  /// Who sends keeps what it was told of a slot, so that it need not be told again.
  bool is_as_before(const program_step& each) {
    if (each.kind != step_kind::window) {
      return false;
    }
    std::pair<std::uint64_t, std::uint64_t>& known = windows_[{each.from.index, each.rank}];
    return std::exchange(known, {each.from.offset, each.bytes}) == std::pair(each.from.offset, each.bytes);
  }

  std::size_t step_;
  mutation how_;
  std::optional<program_step> held_{};
  std::vector<std::pair<std::size_t, region_position>> written_{};  // not taken so far
  std::vector<std::size_t> swappable_{};
  std::map<std::pair<std::size_t, std::size_t>, std::pair<std::uint64_t, std::uint64_t>>
      windows_{};  // by slot and rank
  std::size_t steps_ = 0;
  std::optional<program_step> mutated_{};
};

/// What is to be loaded, and how.
struct load_case {
  fsdpinit::transport transport = fsdpinit::transport::scatter;
  verification verify = verification::off;
  std::size_t replicas = 1;
};

/// A load in which a step of a rank is changed.
struct outcome {
  bool noticed = false;                           ///< by an error, or as something that is wrong with a module
  std::vector<std::vector<std::size_t>> steps{};  ///< that may be changed, by rank
  std::optional<program_step> mutated{};
};

template <class Space>
outcome load(const reference_model& model, const load_case& what, std::size_t mutated_rank, std::size_t step,
             mutation how_changed) {
  const mesh grid{.shards = 3, .replicas = what.replicas};
  const options how{.policy = policy_named("native-sharding", name(what.transport)),
                    .bucket_bytes = 300,
                    .replicas = what.replicas,
                    .verify = what.verify,
                    .checksum = &test_checksum,
                    // A rank that lacks a transfer is waited for in vain.
                    .deadline_seconds = step == no_step ? 30 : 0.1};
  outcome out{.steps = std::vector<std::vector<std::size_t>>(grid.size())};
  std::mutex together;
  run_ranks(grid.size(), [&](std::size_t rank, threads_communicator& world) {
    mutating_tap tap(rank == mutated_rank ? step : no_step, how_changed);
    Space memory;
    dynamic_module module = model.module(memory, rank == how.source_rank);
    auto source = model.source();
    std::string faults;
    try {
      detail::initialize_with(detail::typed_policy_of<default_policy>, module, source, detail::channels_of(world), how,
                              {.memory = memory}, &tap);
      faults = model.faults_of(module, memory, grid.shards, grid.shard_of(rank));
    } catch (const error& failure) {
      faults = failure.what();
    }
    const std::scoped_lock locked(together);
    out.noticed = out.noticed || !faults.empty();
    out.steps[rank] = tap.steps();
    out.mutated = tap.mutated() ? tap.mutated() : out.mutated;
  });
  return out;
}

/// The same for `load_pretrained`, by the first of two ranks.
outcome load_whole(const reference_model& model, std::size_t mutated_rank, std::size_t step, mutation how_changed) {
  outcome out{.steps = std::vector<std::vector<std::size_t>>(2)};
  std::mutex together;
  run_ranks(2, [&](std::size_t rank, threads_communicator& world) {
    mutating_tap tap(rank == mutated_rank ? step : no_step, how_changed);
    host_memory memory;
    dynamic_module module = model.module(memory, true);
    one_file_source source(model.source());
    detail::payload_link_of data(world);
    detail::source_in_use_of<one_file_source>::type opened(source);
    const pretrained_load_context context{};
    const pretrained_load_options how{.bytes_between_agreements = 200};
    std::string faults;
    try {
      detail::run_pretrained_load({.module = module,
                                   .source = opened,
                                   .data = data,
                                   .control = world,
                                   .context = context,
                                   .options = how,
                                   .more = {.memory = memory},
                                   .tap = &tap});
      faults = rank == context.source_rank ? model.faults_of(module, memory, 1, 0) : "";
    } catch (const error& failure) {
      faults = failure.what();
    }
    const std::scoped_lock locked(together);
    out.noticed = out.noticed || !faults.empty();
    out.steps[rank] = tap.steps();
    out.mutated = tap.mutated() ? tap.mutated() : out.mutated;
  });
  return out;
}

/// \param load_with(model, rank, step) loads with a step of a rank changed \return the steps that nobody missed, of a sample of all
template <class Load>
std::string unnoticed(std::size_t& mutations, Load&& load_with) {
  constexpr std::size_t most_of_a_rank = 8;
  const reference_model model = varied_model();
  const outcome whole = load_with(model, std::size_t{0}, no_step);
  EXPECT_FALSE(whole.noticed);
  std::string out;
  for (std::size_t rank = 0; rank < whole.steps.size(); ++rank) {
    const std::vector<std::size_t>& steps = whole.steps[rank];
    for (std::size_t i = 0; i < steps.size(); i += 1 + steps.size() / most_of_a_rank) {
      const std::size_t step = steps[i];
      const outcome found = load_with(model, rank, step);
      ++mutations;
      if (!found.noticed) {
        out += concat("rank ", rank, ", step ", step, ": ", found.mutated ? name(found.mutated->kind) : "none", "\n");
      }
    }
  }
  return out;
}

/// So that memory does not hold by chance what an earlier load has left there.
class perturbed_heap {
 public:
  perturbed_heap() { mallopt(M_PERTURB, 0xa5); }
  perturbed_heap(const perturbed_heap&) = delete;
  perturbed_heap& operator=(const perturbed_heap&) = delete;
  ~perturbed_heap() { mallopt(M_PERTURB, 0); }
};

void expect_each_step_to_be_missed(fsdpinit::transport transport, mutation how_changed) {
  const perturbed_heap heap;
  std::size_t mutations = 0;
  for (const verification verify : {verification::off, verification::transfer}) {
    for (const std::size_t replicas : {1U, 2U}) {
      const load_case what{.transport = transport, .verify = verify, .replicas = replicas};
      SCOPED_TRACE(concat(name(transport), ", verify ", name(verify), ", ", replicas, " replicas"));
      const auto on = [&]<class Space>(Space) {
        return unnoticed(mutations, [&](const reference_model& model, std::size_t rank, std::size_t step) {
          return load<Space>(model, what, rank, step, how_changed);
        });
      };
      EXPECT_EQ(on(host_memory()), "");
      EXPECT_EQ(on(fake_device_memory()), "");
    }
  }
  EXPECT_GE(mutations, how_changed == mutation::swap ? 8U : 24U);
}

void expect_each_step_of_a_whole_load_to_be_missed(mutation how_changed) {
  const perturbed_heap heap;
  std::size_t mutations = 0;
  EXPECT_EQ(unnoticed(mutations, [&](const reference_model& model, std::size_t rank,
                                     std::size_t step) { return load_whole(model, rank, step, how_changed); }),
            "");
  EXPECT_GE(mutations, 3U);
}

TEST(MutatedProgram, IsMissingAStepOfAScatter) {
  expect_each_step_to_be_missed(transport::scatter, mutation::leave_out);
}
TEST(MutatedProgram, IsMissingAStepOfABroadcast) {
  expect_each_step_to_be_missed(transport::broadcast, mutation::leave_out);
}
TEST(MutatedProgram, IsMissingAStepOfAnOwnRead) {
  expect_each_step_to_be_missed(transport::own_read, mutation::leave_out);
}
TEST(MutatedProgram, IsAByteShortOfAScatter) { expect_each_step_to_be_missed(transport::scatter, mutation::shorten); }
TEST(MutatedProgram, IsAByteShortOfABroadcast) {
  expect_each_step_to_be_missed(transport::broadcast, mutation::shorten);
}
TEST(MutatedProgram, IsAByteShortOfAnOwnRead) { expect_each_step_to_be_missed(transport::own_read, mutation::shorten); }
TEST(MutatedProgram, HasTwoStepsSwappedOfAScatter) {
  expect_each_step_to_be_missed(transport::scatter, mutation::swap);
}
TEST(MutatedProgram, HasTwoStepsSwappedOfABroadcast) {
  expect_each_step_to_be_missed(transport::broadcast, mutation::swap);
}
TEST(MutatedProgram, HasTwoStepsSwappedOfAnOwnRead) {
  expect_each_step_to_be_missed(transport::own_read, mutation::swap);
}
TEST(MutatedProgram, IsMissingAStepOfAWholeLoad) { expect_each_step_of_a_whole_load_to_be_missed(mutation::leave_out); }
TEST(MutatedProgram, IsAByteShortOfAWholeLoad) { expect_each_step_of_a_whole_load_to_be_missed(mutation::shorten); }

}  // namespace
}  // namespace mutated_program_test
