// The proof of the guide's adapter: the laws of every concept that it models, and a sweep that fails each call of its own code
// once, on each rank.
#include "my_adapter.hpp"
#include <fsdpinit/fsdpinit.hpp>
#include <fsdpinit/testing/faults.hpp>
#include <fsdpinit/testing/laws.hpp>
#include <fsdpinit/testing/rank_harness.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <unistd.h>

namespace {

using fsdpinit::testing::call_counter;
using fsdpinit::testing::violations;

constexpr std::size_t ranks = 3;

// [laws]
/// The laws that were broken, in words.
violations broken_laws(const std::string& path) {
  using namespace fsdpinit::testing;
  violations all;
  const auto add = [&](const violations& more) { all.insert(all.end(), more.begin(), more.end()); };
  mine::pool pool;
  add(check_memory(pool_memory(pool)));
  mine::module model = mine::make_model(2);
  add(check_slot(model.tensors["embed"]));
  add(check_module(model));
  weights_source source(path);
  add(check_source(source));
  mine::sgd sgd;
  sgd_binding optimizer(sgd, {"embed", "blocks.0.up"});
  add(check_optimizer_laws(model, optimizer, [&](std::string_view fqn) -> const std::byte* {
    return sgd.parameters[fqn == "embed" ? 0 : 1].memory.get();
  }));
  // What ranks do together is checked on all of them at once.
  std::vector<mine::group> groups = mine::make_group(ranks);
  std::vector<violations> of_rank(ranks);
  run_ranks(ranks, [&](std::size_t rank, auto& /*harness*/) {
    group_communicator communicator(groups[rank]);
    of_rank[rank] = check_communicator(communicator);
  });
  for (const violations& each : of_rank) {
    add(each);
  }
  return all;
}
// [laws]

// [faults]
/// What one rank has, with a counter at each seam: a module, a source and memory of which one call fails.
struct faulty_rank {
  std::array<call_counter, 3> seams;
  mine::pool pool;
  fsdpinit::testing::faulty_memory<pool_memory> memory{pool_memory(pool), seams[0]};
  mine::module model = mine::make_model(2);
  fsdpinit::testing::faulty_module<mine::module> module{model, seams[1]};

  void bring_up(const std::string& path, mine::group& group) {
    group_communicator communicator(group, 30);
    const auto source = [&] { return fsdpinit::testing::faulty_source(weights_source(path), seams[2]); };
    fsdpinit::initialize(module, source, communicator, {.bucket_bytes = 16 * fsdpinit::kib, .deadline_seconds = 30},
                         {.memory = memory});
  }
};
// [faults]

using all_ranks = std::vector<std::unique_ptr<faulty_rank>>;

all_ranks make_ranks() {
  all_ranks out;
  for (std::size_t rank = 0; rank < ranks; ++rank) {
    out.push_back(std::make_unique<faulty_rank>());
  }
  return out;
}

/// Every rank's model, byte by byte.
std::vector<std::vector<std::byte>> shards_of(const all_ranks& at) {
  std::vector<std::vector<std::byte>> out;
  for (const auto& rank : at) {
    auto& bytes = out.emplace_back();
    fsdpinit::module_traits<mine::module>::visit_slots(rank->model, [&](const std::string&, const mine::tensor& slot) {
      bytes.insert(bytes.end(), slot.memory.get(), slot.memory.get() + slot.bytes);
    });
  }
  return out;
}

bool on_meta(faulty_rank& rank) {
  bool meta = true;
  fsdpinit::module_traits<mine::module>::visit_slots(rank.model, [&](const std::string&, const mine::tensor& slot) {
    meta = meta && (slot.computed || slot.memory == nullptr);
  });
  return meta && rank.memory.accounted() == 0;
}

/// \return what is wrong after a failure of one call on one rank; empty if nothing is.
// [sweep]
std::string fail_one_call(const std::string& path, std::vector<mine::group>& groups, std::size_t failing,
                          std::size_t seam, std::uint64_t call, const std::vector<std::vector<std::byte>>& wanted) {
  all_ranks at = make_ranks();
  const auto bring_up = [&](std::size_t rank, auto& /*harness*/) { at[rank]->bring_up(path, groups[rank]); };
  at[failing]->seams[seam].fail_at(call);
  const std::vector<std::optional<fsdpinit::error>> errors = fsdpinit::testing::errors_of_ranks(ranks, bring_up);
  for (const std::optional<fsdpinit::error>& each : errors) {
    if (!each || each->rank() != static_cast<std::int32_t>(failing)) {
      return each ? each->what() : "a rank did not notice";
    }
    if (std::string_view(each->what()) != errors[0]->what()) {
      return "ranks have different errors";
    }
  }
  if (!std::all_of(at.begin(), at.end(), [](auto& rank) { return on_meta(*rank); })) {
    return "something was left behind";
  }
  fsdpinit::testing::run_ranks(ranks, bring_up);  // the same call again: nothing fails any more
  return shards_of(at) == wanted ? "" : "a second attempt gives other bytes";
}
// [sweep]

/// Fails every call of every rank in turn, and adds what is wrong to `broken`. \return how many calls there are.
std::uint64_t sweep(const std::string& path, violations& broken) {
  std::vector<mine::group> groups = mine::make_group(ranks);
  all_ranks clean = make_ranks();
  fsdpinit::testing::run_ranks(ranks,
                               [&](std::size_t rank, auto& /*harness*/) { clean[rank]->bring_up(path, groups[rank]); });
  const auto wanted = shards_of(clean);
  std::uint64_t injections = 0;
  for (std::size_t rank = 0; rank < ranks; ++rank) {
    for (std::size_t seam = 0; seam < clean[rank]->seams.size(); ++seam) {
      for (std::uint64_t call = 0; call < clean[rank]->seams[seam].calls(); ++call, ++injections) {
        if (const std::string wrong = fail_one_call(path, groups, rank, seam, call, wanted); !wrong.empty()) {
          broken.push_back(fsdpinit::concat("call ", call, " of seam ", seam, " on rank ", rank, ": ", wrong));
        }
      }
    }
  }
  return injections;
}

}  // namespace

int main() {
  const std::string path = std::filesystem::temp_directory_path() / fsdpinit::concat("fsdpinit-laws-", ::getpid());
  mine::write_weights(path, mine::stored_sizes(mine::make_model(2)));
  violations broken = broken_laws(path);
  // A sweep says nothing of an adapter that breaks them: it may crash.
  const std::uint64_t injections = broken.empty() ? sweep(path, broken) : 0;
  std::filesystem::remove(path);
  for (const std::string& law : broken) {
    std::printf("broken: %s\n", law.c_str());
  }
  std::printf("%zu laws broken; %s\n", broken.size(),
              injections == 0 ? "no call was failed" : "each call of the adapter's failed once, on each rank");
  return broken.empty() && injections != 0 ? 0 : 1;
}
