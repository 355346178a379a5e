#pragma once

#include "support/reference_model.hpp"
#include <fsdpinit/core/dtype.hpp>
#include <fsdpinit/core/shape.hpp>
#include <fsdpinit/core/text.hpp>
#include <fsdpinit/index/mesh.hpp>
#include <fsdpinit/init/options.hpp>
#include <fsdpinit/init/policies.hpp>
#include <fsdpinit/sources/converted.hpp>

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

/// \file
/// Any model, mesh, policy, transport, bucket, cast: for property tests and fuzzers.

namespace fsdpinit::testing_support {

inline constexpr std::array all_policies{policy_of<native_sharding<transport::scatter>>,
                                         policy_of<native_sharding<transport::broadcast>>,
                                         policy_of<native_sharding<transport::own_read>>,
                                         policy_of<native_sharding<transport::automatic>>,
                                         policy_of<every_rank_loads>,
                                         policy_of<cpu_ram_efficient_loading<>>};

/// A tensor of the checkpoint of which others are made.
struct stored_part {
  tensor_descriptor descriptor;
  std::vector<std::byte> bytes;
};

/// One way to bring one model up.
struct random_case {
  std::vector<reference_tensor> stored{};
  std::optional<dtype> cast{};  ///< floats become this
  std::size_t shards = 1;
  bool device = false;   ///< in memory that the host may not touch
  bool in_file = false;  ///< what is not cast lies in one file
  /// Those that are made as they are read, of `parts`.
  std::vector<detail::conversion::named_recipe> made{};
  std::vector<stored_part> parts{};
  std::string made_as{};  ///< in words
  options how{};

  [[nodiscard]] std::size_t ranks() const { return shards * how.replicas; }
};

[[nodiscard]] std::string to_string(const random_case& made);

/// Brings it up on threads and compares every rank's shards with slices taken element by element, what was done with what was
/// predicted, and what was sent with what was received. \return what is wrong; empty: nothing.
[[nodiscard]] std::string faults_of(const random_case& made);

/// `below(n)` is a number less than n; made of nothing but such choices, smaller ones giving simpler cases.
template <class Below>
[[nodiscard]] reference_tensor random_tensor(std::size_t index, std::size_t shards, Below&& below) {
  const auto path = [&] {
    constexpr const char* stems[] = {"", "layers.", "blocks.", "tower.layers."};
    const std::size_t stem = below(4);
    return concat(stems[stem], stem == 0 ? "" : concat(below(3), "."), below(3) == 0 ? "inner." : "");
  };
  reference_tensor tensor{.fqn = concat(path(), "w", index)};
  do {
    tensor.type = static_cast<dtype>((static_cast<std::uint64_t>(dtype::f32) + below(dtype_count)) % dtype_count);
  } while (bits(tensor.type) % 8 != 0);
  std::vector<std::uint64_t> dims(below(4));
  for (std::uint64_t& dim : dims) {
    dim = below(8) == 7 ? 0 : 1 + below(13);
  }
  switch (dims.empty() ? 0 : below(4)) {
    case 0:
      tensor.how = replicate{};
      break;
    case 1: {
      const std::size_t dim = below(dims.size());
      dims[dim] = shards * below(4);
      tensor.how = shard{static_cast<std::int64_t>(dim) - (below(2) == 0 ? 0 : static_cast<std::int64_t>(dims.size()))};
      break;
    }
    default:
      tensor.how = shard{0};
  }
  if (dims.size() > 1 && dims[1] == 0 && below(2) == 1) {
    dims[0] = std::uint64_t{1} << (30 + below(20));  // without a byte all the same
  }
  tensor.extents = shape(dims);
  tensor.role = static_cast<slot_role>(below(8) < 6 ? 0 : 1 + below(2));
  if (tensor.role == slot_role::parameter && below(3) == 2) {
    tensor.tied = {concat(path(), "tied", index)};
    tensor.stored_as = below(2) == 0 ? tensor.names() : tensor.tied;
  }
  return tensor;
}

/// Has a tensor of the case made of others, by any operations; its bytes become what these make.
void make_of_parts(random_case& made, reference_tensor& tensor, std::function<std::uint64_t(std::uint64_t)> below);

template <class Below>
[[nodiscard]] random_case random_case_from(Below&& below) {
  random_case made{.shards = 1 + below(6)};
  made.how.replicas = made.shards < 4 ? 1 + below(3) : 1;
  const std::size_t ranks = made.ranks();
  made.how.policy = all_policies[below(all_policies.size())];
  made.device = below(2) == 1;
  made.how.bucket_bytes = ranks + below(below(2) == 0 ? 60 : 3000);
  made.how.buckets_in_flight = 1 + below(4);
  made.how.source_rank = below(ranks);
  made.how.verify = below(2) == 0 ? verification::off : verification::transfer;
  if (below(3) == 2) {
    constexpr dtype wanted[] = {dtype::f32, dtype::bf16, dtype::f16};
    made.cast = wanted[below(3)];
  }
  if (below(4) == 3) {
    made.how.ignored_prefixes = {"ignored"};
  }
  for (std::size_t i = 0, count = 1 + below(9); i < count; ++i) {
    made.stored.push_back(random_tensor(i, made.shards, below));
  }
  made.in_file = below(2) == 1;
  if (below(3) == 2) {
    for (reference_tensor& tensor : made.stored) {
      if (below(3) != 0) {
        make_of_parts(made, tensor, below);
      }
    }
  }
  return made;
}

}  // namespace fsdpinit::testing_support
