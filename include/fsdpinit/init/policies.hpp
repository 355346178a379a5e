#pragma once

#include <fsdpinit/plan/transport.hpp>

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
/// Each rank reads its own part: for checkpoints on storage that all ranks share (or have a copy of). Replicas of a
/// part read a share of it each and exchange them. Whole tensors are read by the source rank and broadcast. A rank that
/// finds another checkpoint than the source rank is error{disagreement}.
struct own_read {
  static constexpr transport_kind kind = transport_kind::own_read;
};
/// `own_read` for tensors whose chunks are 1 MiB or larger, `scatter` for smaller ones, and for all if some rank cannot
/// read the checkpoint (error{io, invalid_file} where it is opened or sampled) or finds another one. Other failures of
/// a rank that opens it are everybody's. The report says what was picked, and why.
struct automatic {
  static constexpr transport_kind kind = transport_kind::automatic;
};

}  // namespace transport

/// Meta, then shard, then stream the weights from the source rank: no rank ever holds the model.
template <class Transport = transport::scatter>
struct native_sharding {
  static constexpr std::string_view name = "native-sharding";
  static constexpr transport_kind transport = Transport::kind;
  static constexpr bool every_rank_reads = false;
};

/// What accelerate calls CPU-RAM-efficient loading: the source rank has loaded the model into host memory (`load_pretrained`), the
/// other ranks have it on meta; each gets its shard, and the source's copy shrinks as it goes. Streams as `native_sharding` does.
template <class Transport = transport::scatter>
struct cpu_ram_efficient_loading {
  static constexpr std::string_view name = "cpu-ram-efficient-loading";
  static constexpr transport_kind transport = Transport::kind;
  static constexpr bool every_rank_reads = false;
};

/// The baseline: every rank reads the whole checkpoint into its own memory, then keeps its part.
struct every_rank_loads {
  static constexpr std::string_view name = "every-rank-loads";
  static constexpr transport_kind transport = transport_kind::none;
  static constexpr bool every_rank_reads = true;
};

namespace detail {

/// A policy as a value. The algorithm takes it so, and is compiled once for all policies that a program uses with the same
/// module, source and communicator.
struct policy_facts {
  std::string_view name;
  transport_kind transport = transport_kind::scatter;
  bool every_rank_reads = false;
};
template <class Policy>
inline constexpr policy_facts facts_of{
    .name = Policy::name, .transport = Policy::transport, .every_rank_reads = Policy::every_rank_reads};

}  // namespace detail

}  // namespace fsdpinit
