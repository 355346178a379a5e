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
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <malloc.h>

/// The engine against programs in which a step is missing, or a byte too short: somebody notices.
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
    case step_kind::capture:
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

/// Changes one of the steps that move bytes.
class mutating_tap final : public step_tap {
 public:
  mutating_tap(std::size_t step, bool shortens) : step_(step), shortens_(shortens) {}

  void pass(const program_step& each, step_visitor to) override {
    for_each_single(each, [&](const program_step& single) { pass_single(single, to); });
  }

  [[nodiscard]] std::size_t steps() const { return steps_; }
  [[nodiscard]] const std::optional<program_step>& mutated() const { return mutated_; }

 private:
  void pass_single(const program_step& each, step_visitor to) {
    if (!moves_bytes(each.kind) || each.total() == 0 || is_as_before(each) || steps_++ != step_) {
      to(each);
      return;
    }
    mutated_ = each;
    if (shortens_) {
      program_step shorter = each;
      shorter.bytes -= 1;
      to(shorter);
    }
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
  bool shortens_;
  std::map<std::pair<std::size_t, std::size_t>, std::pair<std::uint64_t, std::uint64_t>>
      windows_{};  // by slot and rank
  std::size_t steps_ = 0;
  std::optional<program_step> mutated_{};
};

/// What is to be loaded, and how.
struct load_case {
  transport_kind transport = transport_kind::scatter;
  verification verify = verification::off;
  std::size_t replicas = 1;
};

/// A load in which a step of a rank is changed.
struct outcome {
  bool noticed = false;              ///< by an error, or as something that is wrong with a module
  std::vector<std::size_t> steps{};  ///< that move bytes, by rank
  std::optional<program_step> mutated{};
};

template <class Space>
outcome load(const reference_model& model, const load_case& what, std::size_t mutated_rank, std::size_t step,
             bool shortens) {
  const mesh grid{.shards = 3, .replicas = what.replicas};
  const options how{.policy = policy_named("native-sharding", name(what.transport)),
                    .bucket_bytes = 300,
                    .replicas = what.replicas,
                    .verify = what.verify,
                    .checksum = &test_checksum,
                    // A rank that lacks a transfer is waited for in vain.
                    .deadline_seconds = step == no_step ? 30 : 0.1};
  outcome out{.steps = std::vector<std::size_t>(grid.size())};
  std::mutex together;
  run_ranks(grid.size(), [&](std::size_t rank, threads_communicator& world) {
    mutating_tap tap(rank == mutated_rank ? step : no_step, shortens);
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
outcome load_whole(const reference_model& model, std::size_t mutated_rank, std::size_t step, bool shortens) {
  outcome out{.steps = std::vector<std::size_t>(2)};
  std::mutex together;
  run_ranks(2, [&](std::size_t rank, threads_communicator& world) {
    mutating_tap tap(rank == mutated_rank ? step : no_step, shortens);
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
                                   .how = how,
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
std::string unnoticed(Load&& load_with) {
  constexpr std::size_t most_of_a_rank = 8;
  const reference_model model = varied_model();
  const outcome whole = load_with(model, std::size_t{0}, no_step);
  EXPECT_FALSE(whole.noticed);
  std::string out;
  std::size_t mutations = 0;
  for (std::size_t rank = 0; rank < whole.steps.size(); ++rank) {
    for (std::size_t step = 0; step < whole.steps[rank]; step += 1 + whole.steps[rank] / most_of_a_rank) {
      const outcome found = load_with(model, rank, step);
      ++mutations;
      if (!found.noticed) {
        out += concat("rank ", rank, ", step ", step, ": ", found.mutated ? name(found.mutated->kind) : "none", "\n");
      }
    }
  }
  EXPECT_GE(mutations, 3U);
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

void expect_each_step_to_be_missed(transport_kind transport, bool shortens) {
  const perturbed_heap heap;
  for (const verification verify : {verification::off, verification::transfer}) {
    for (const std::size_t replicas : {1U, 2U}) {
      const load_case what{.transport = transport, .verify = verify, .replicas = replicas};
      SCOPED_TRACE(concat(name(transport), ", verify ", name(verify), ", ", replicas, " replicas"));
      const auto on = [&]<class Space>(Space) {
        return unnoticed([&](const reference_model& model, std::size_t rank, std::size_t step) {
          return load<Space>(model, what, rank, step, shortens);
        });
      };
      EXPECT_EQ(on(host_memory()), "");
      EXPECT_EQ(on(fake_device_memory()), "");
    }
  }
}

void expect_each_step_of_a_whole_load_to_be_missed(bool shortens) {
  const perturbed_heap heap;
  EXPECT_EQ(unnoticed([&](const reference_model& model, std::size_t rank, std::size_t step) {
              return load_whole(model, rank, step, shortens);
            }),
            "");
}

TEST(MutatedProgram, IsMissingAStepOfAScatter) { expect_each_step_to_be_missed(transport_kind::scatter, false); }
TEST(MutatedProgram, IsMissingAStepOfABroadcast) { expect_each_step_to_be_missed(transport_kind::broadcast, false); }
TEST(MutatedProgram, IsMissingAStepOfAnOwnRead) { expect_each_step_to_be_missed(transport_kind::own_read, false); }
TEST(MutatedProgram, IsAByteShortOfAScatter) { expect_each_step_to_be_missed(transport_kind::scatter, true); }
TEST(MutatedProgram, IsAByteShortOfABroadcast) { expect_each_step_to_be_missed(transport_kind::broadcast, true); }
TEST(MutatedProgram, IsAByteShortOfAnOwnRead) { expect_each_step_to_be_missed(transport_kind::own_read, true); }
TEST(MutatedProgram, IsMissingAStepOfAWholeLoad) { expect_each_step_of_a_whole_load_to_be_missed(false); }
TEST(MutatedProgram, IsAByteShortOfAWholeLoad) { expect_each_step_of_a_whole_load_to_be_missed(true); }

}  // namespace
}  // namespace mutated_program_test
