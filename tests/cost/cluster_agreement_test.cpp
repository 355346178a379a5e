#include "../../examples/tool/published_models.hpp"
#include "support/test_seed.hpp"
#include <fsdpinit/core.hpp>
#include <fsdpinit/cost/cluster_cost.hpp>
#include <fsdpinit/cost/cluster_simulation.hpp>
#include <fsdpinit/cost/rank_classes.hpp>

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <random>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

/// The model of averages against the simulation, each by its own way to the same seconds.
namespace cluster_agreement_test {
namespace {

using namespace fsdpinit;

constexpr int random_clusters = 300;

/// As published, sharded on dim 0, a layer to a unit.
std::vector<tensor_request> requests_of(const tool::published_model& model) {
  std::vector<tensor_request> out;
  for (const tool::synthetic_tensor& tensor : tool::tensors_of(model, model.type, true)) {
    const std::string& fqn = tensor.descriptor.name;
    const auto digit = std::find_if(fqn.begin(), fqn.end(), [](unsigned char c) { return std::isdigit(c) != 0; });
    out.push_back({.fqn = fqn,
                   .dtype = tensor.descriptor.dtype,
                   .shape = tensor.descriptor.shape,
                   .placement = shard{0},
                   .unit = digit == fqn.end() ? 0 : 1 + std::stoul(std::string(digit, fqn.end()))});
  }
  return out;
}

constexpr cluster shared_storage{.storage_bandwidth_per_node = 5e9,
                                 .storage_bandwidth = 1.5e10,
                                 .storage_latency = 1e-4,
                                 .host_copy_bandwidth = 1e11,
                                 .pcie_bandwidth = 5e10,
                                 .nvlink_bandwidth = 4e11,
                                 .nic_bandwidth = 4e10,
                                 .nic_latency = 1e-5};
constexpr cluster own_disks{.storage_bandwidth_per_node = 1.2e10,
                            .storage_latency = 1e-5,
                            .host_copy_bandwidth = 1e11,
                            .pcie_bandwidth = 5e10,
                            .nvlink_bandwidth = 4e11,
                            .nic_bandwidth = 4e10,
                            .nic_latency = 1e-5};
constexpr cluster no_nvlink{.storage_bandwidth_per_node = 5e9,
                            .storage_bandwidth = 1.5e10,
                            .storage_latency = 1e-4,
                            .host_copy_bandwidth = 1e11,
                            .pcie_bandwidth = 1.2e10,
                            .nic_bandwidth = 1.2e10,
                            .nic_latency = 1e-5};
constexpr cluster hosts_only{.storage_bandwidth_per_node = 5e9,
                             .storage_bandwidth = 1.5e10,
                             .storage_latency = 1e-4,
                             .host_copy_bandwidth = 2e10,
                             .nic_bandwidth = 3e9,
                             .nic_latency = 3e-5};
constexpr std::array<std::pair<std::string_view, cluster>, 4> clusters{{{"shared storage", shared_storage},
                                                                        {"own disks", own_disks},
                                                                        {"no NVLink", no_nvlink},
                                                                        {"hosts only", hosts_only}}};

struct way {
  fsdpinit::transport transport = fsdpinit::transport::scatter;
  bool source_per_node = false;
};
constexpr std::array<way, 6> ways{{{transport::scatter},
                                   {transport::scatter, true},
                                   {transport::broadcast},
                                   {transport::own_read},
                                   {transport::automatic},
                                   {transport::none}}};

/// One of the cases that are compared.
struct job {
  std::string_view on_name;
  cluster on{};
  std::size_t nodes = 1;
  std::size_t ranks_per_node = 8;
  std::size_t replicas = 1;
  way how{};
  std::uint64_t bucket_bytes = 4 * mib;
  std::size_t in_flight = 2;
};

/// How far apart the two are, over many jobs.
class disagreement {
 public:
  void add(std::string_view model, const std::vector<tensor_request>& requests, const job& of) {
    cluster on = of.on;
    on.nodes = of.nodes;
    on.ranks_per_node = of.ranks_per_node;
    plan_options options{.ranks = {.shards = on.ranks() / of.replicas, .replicas = of.replicas},
                         .transport = of.how.transport,
                         .bucket_bytes = of.bucket_bytes,
                         .buckets_in_flight = of.in_flight,
                         .access = {.host = !on.pcie_bandwidth}};
    for (std::size_t rank = 0; of.how.source_per_node && rank < on.ranks(); ++rank) {
      options.source_ranks.source_of.push_back(on.node_of(rank) * on.ranks_per_node);
    }
    const plan made = make_plan(requests, options);
    const std::vector<prediction> ranks = predict_every_rank(made);
    const double averaged = cost_on(on, made, ranks).seconds;
    const double simulated = simulate_on(on, made, ranks).seconds;
    const double apart = std::max(averaged, simulated) / std::min(averaged, simulated);
    ++jobs_;
    far_ += apart > 1.15 ? 1U : 0U;
    if (apart > worst_) {
      worst_ = apart;
      worst_job_ = concat(model, ", ", of.on_name, ", ", of.nodes, " x ", of.ranks_per_node, " ranks, ", of.replicas,
                          " replicas, ", name(of.how.transport), of.how.source_per_node ? " per node" : "", ", ",
                          made.schedule.size(), " buckets of ", of.bucket_bytes, " bytes, ", of.in_flight,
                          " in flight: ", std::to_string(averaged), " s by the model, ", std::to_string(simulated),
                          " s simulated");
    }
  }

  void expect_at_most(double worst, double share_beyond_15_percent) const {
    EXPECT_LE(worst_, worst) << worst_job_;
    EXPECT_LE(static_cast<double>(far_), share_beyond_15_percent * static_cast<double>(jobs_))
        << "of " << jobs_ << " jobs; the worst: " << worst_job_;
  }

 private:
  std::size_t jobs_ = 0;
  std::size_t far_ = 0;  // more than 15 % apart
  double worst_ = 1;
  std::string worst_job_ = "none";
};

TEST(ClusterAgreement, AveragesAreWithin15PercentOfTheSimulationInNearlyAllJobs) {
  disagreement found;
  for (const tool::published_model& model : tool::published_models) {
    if (model.experts != 0) {
      continue;  // their simulation would take minutes, of tensors much like these
    }
    const std::vector<tensor_request> requests = requests_of(model);
    for (const auto& [on_name, on] : clusters) {
      for (const std::size_t ranks : {1U, 8U, 32U, 64U}) {
        const std::size_t per_node = std::min<std::size_t>(ranks, 8);
        for (const std::size_t replicas : {1U, 2U, 8U}) {
          for (const way& how : ways) {
            for (const std::uint64_t bucket_bytes : {4 * mib, 64 * mib}) {
              const bool takes_long = bucket_bytes == 4 * mib && model.layers * ranks > 32 * 32;
              if (replicas <= ranks && !(how.source_per_node && ranks == per_node) && !takes_long) {
                found.add(model.name, requests, {on_name, on, ranks / per_node, per_node, replicas, how, bucket_bytes});
              }
            }
          }
        }
      }
    }
  }
  found.expect_at_most(1.45, 0.03);
}

TEST(ClusterAgreement, AveragesAreCloseToTheSimulationOnRandomClusters) {
  const std::uint64_t seed = testing_support::test_seed();
  SCOPED_TRACE(concat("FSDPINIT_TEST_SEED=", seed));
  std::mt19937_64 random(seed);
  const auto one_of = [&](const auto& all) { return all[random() % std::size(all)]; };
  const auto between = [&](double least, double factor) {
    return least * std::pow(factor, std::uniform_real_distribution<double>(0, 1)(random));
  };
  const std::vector<tensor_request> requests = requests_of(tool::published_models[1]);
  disagreement found;
  for (int round = 0; round < random_clusters; ++round) {
    job one;
    one.on_name = "random";
    one.nodes = one_of(std::array<std::size_t, 6>{1, 2, 3, 4, 8, 16});
    one.ranks_per_node = one_of(std::array<std::size_t, 4>{1, 2, 4, 8});
    one.on = {.storage_bandwidth_per_node = between(1e9, 20),
              .storage_latency = between(1e-6, 300),
              .host_copy_bandwidth = between(2e10, 10),
              .nic_bandwidth = between(2e9, 25),
              .nic_latency = between(1e-6, 50)};
    if (random() % 2 == 0) {
      one.on.storage_bandwidth = one.on.storage_bandwidth_per_node * between(1, 4);
    }
    if (random() % 2 == 0) {
      one.on.pcie_bandwidth = between(2e10, 3);
      if (random() % 3 != 0) {
        one.on.nvlink_bandwidth = between(1e11, 4);
      }
    }
    const std::size_t ranks = one.nodes * one.ranks_per_node;
    do {
      one.replicas = one_of(std::array<std::size_t, 5>{1, 1, 2, 4, 8});
    } while (ranks % one.replicas != 0);
    one.how = one_of(ways);
    one.bucket_bytes = one_of(std::array<std::uint64_t, 3>{4 * mib, 16 * mib, 64 * mib});
    one.in_flight = 2 + random() % 3;
    found.add("qwen3-8b", requests, one);
  }
  found.expect_at_most(2.5, 0.05);
}

TEST(ClusterAgreement, OfManyThousandRanksIsWithin15Percent) {
  const std::vector<tensor_request> requests = requests_of(tool::published_models[1]);
  disagreement found;
  for (const way& how : ways) {
    found.add("qwen3-8b", requests, {"shared storage", shared_storage, 256, 8, 1, how, 64 * mib});
  }
  found.expect_at_most(1.15, 0);
}

}  // namespace
}  // namespace cluster_agreement_test
