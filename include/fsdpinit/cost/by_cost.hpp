#pragma once

#include <fsdpinit/core/error.hpp>
#include <fsdpinit/core/text.hpp>
#include <fsdpinit/cost/cluster.hpp>
#include <fsdpinit/cost/cluster_cost.hpp>
#include <fsdpinit/cost/rank_classes.hpp>
#include <fsdpinit/plan/plan.hpp>

#include <array>
#include <vector>

namespace fsdpinit {

/// The transport that takes least time on a cluster by `cost_on`, of those that need no memory for a model. A later one of scatter,
/// broadcast, automatic and own_read has to be 5 % faster than the ones before it, which ask less of the storage: the model is no
/// more exact than that. \throws error{invalid_argument} for another number of ranks.
[[nodiscard]] inline transport cheapest_transport(const cluster& on, const std::vector<tensor_request>& requests,
                                                  plan_options options) {
  if (on.ranks() != options.ranks.size()) {
    throw error(errc::invalid_argument, "choose",
                concat("the cluster has ", on.ranks(), " ranks, the job ", options.ranks.size(),
                       "; calibrate on the job's own ranks"));
  }
  constexpr std::array candidates{transport::scatter, transport::broadcast, transport::automatic, transport::own_read};
  transport best = candidates.front();
  double least = 0;
  constexpr double worth_it = 0.95;
  for (const transport candidate : candidates) {
    options.transport = candidate;
    const plan made = make_plan(requests, options);
    const double seconds = cost_on(on, made, predict_every_rank(made)).seconds;
    if (candidate == candidates.front() || seconds < least * worth_it) {
      best = candidate;
      least = seconds;
    }
  }
  return best;
}

/// As `options::choose`: `{.choose = by_cost(calibrate(source, ranks))}`. Costs the source rank four plans of all ranks.
[[nodiscard]] inline auto by_cost(const cluster& on) {
  return [on](const std::vector<tensor_request>& requests, const plan_options& options) {
    return cheapest_transport(on, requests, options);
  };
}

}  // namespace fsdpinit
