#pragma once

#include "support/reference_model.hpp"
#include <fsdpinit/core.hpp>

#include <gtest/gtest.h>

#include <cstddef>
#include <vector>

/// \file
/// Plans of a few ranks in every way, to sweep over.

namespace fsdpinit::testing_support {

/// Every tensor of a model; the next one is always in the next of `units`.
inline std::vector<tensor_request> requests_of(const reference_model& model, std::size_t units = 1) {
  std::vector<tensor_request> out;
  for (const reference_tensor& tensor : model.tensors()) {
    out.push_back({.fqn = tensor.fqn,
                   .dtype = tensor.type,
                   .shape = tensor.extents,
                   .placement = tensor.role == slot_role::parameter ? tensor.how : placement(replicate{}),
                   .unit = out.size() % units,
                   .from_buffer = tensor.from_buffer(),
                   .extra_copies = tensor.from_buffer() ? 0 : tensor.stored_names().size() - 1});
  }
  return out;
}

/// Calls `fn(plan, nodes)` for plans of 12 ranks, which are 1, 2, 3 or 6 nodes.
template <class Fn>
void for_each_plan(Fn&& fn) {
  const reference_model model = varied_model();
  const std::vector<tensor_request> requests = requests_of(model);
  for (const fsdpinit::transport transport :
       {transport::scatter, transport::broadcast, transport::own_read, transport::automatic, transport::none}) {
    for (const std::size_t replicas : {1U, 2U, 4U}) {
      for (const std::size_t nodes : {1U, 2U, 3U, 6U}) {
        for (const bool per_node : {false, true}) {
          for (const std::size_t source : {0U, 5U}) {
            SCOPED_TRACE(concat(name(transport), ", ", replicas, " replicas, ", nodes, " nodes, source ", source,
                                per_node ? " and one per node" : ""));
            plan_options options{.ranks = {.shards = 12 / replicas, .replicas = replicas},
                                 .source_ranks = {.source_rank = source},
                                 .transport = transport,
                                 .bucket_bytes = 300};
            for (std::size_t rank = 0; per_node && rank < 12; ++rank) {
              const std::size_t size = 12 / nodes;
              const std::size_t first = rank / size * size;
              options.source_ranks.source_of.push_back(source / size == rank / size ? source : first);
            }
            fn(make_plan(requests, options), nodes);
          }
        }
      }
    }
  }
}

}  // namespace fsdpinit::testing_support
