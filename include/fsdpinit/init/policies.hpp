#pragma once

#include <fsdpinit/plan/bucket_schedule.hpp>

#include <string_view>

/// \file
/// The strategies, chosen at compile time: `initialize<native_sharding<transport::broadcast>>(...)`.

namespace fsdpinit {

namespace transport {

/// Each rank receives its own part and nothing else. The default.
struct scatter {
  static constexpr transport_kind kind = transport_kind::scatter;
};
/// Each rank receives everything, bucket by bucket, and keeps its part: what the Python stacks do tensor by tensor.
struct broadcast {
  static constexpr transport_kind kind = transport_kind::broadcast;
};

}  // namespace transport

/// Meta, then shard, then stream the weights from the source rank: no rank ever holds the model.
template <class Transport = transport::scatter>
struct native_sharding {
  static constexpr std::string_view name = "native-sharding";
  static constexpr transport_kind transport = Transport::kind;
  static constexpr bool every_rank_reads = false;
};

/// The baseline: every rank reads the whole checkpoint into its own memory, then keeps its part.
struct every_rank_loads {
  static constexpr std::string_view name = "every-rank-loads";
  static constexpr transport_kind transport = transport_kind::none;
  static constexpr bool every_rank_reads = true;
};

}  // namespace fsdpinit
