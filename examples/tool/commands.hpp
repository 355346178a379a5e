#pragma once

#include "unfinished.hpp"
#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/core/dtype.hpp>
#include <fsdpinit/init/policies.hpp>
#include <fsdpinit/os/page_cache.hpp>
#include <fsdpinit/plan/transport.hpp>
#include <fsdpinit/plan/verification.hpp>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

/// \file
/// What each command is asked for, and the commands. They write to stdout and throw: usage_error for what was asked in
/// a way that cannot be meant (exit code 2), fsdpinit::error for all else (exit code 1).

namespace fsdpinit::tool {

class usage_error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// What a rank is. Automatic: a process where mpirun or srun has started this one, else a thread.
enum class launcher_kind : std::uint8_t { automatic, threads, mpi };

/// What `plan` and `load` have in common.
struct sharding_request {
  std::string checkpoint;
  std::size_t shards = 0;
  std::size_t replicas = 1;
  std::size_t source_rank = 0;
  std::string policy_name{native_sharding<>::name};  ///< as the library calls them
  fsdpinit::transport transport = fsdpinit::transport::scatter;
  std::uint64_t bucket_bytes = 4 * mib;
  verification verify = verification::off;
  std::vector<std::function<std::string(std::string_view)>> renames;  ///< one after the other
  std::string map;                                                    ///< the file of rules that follow; may be empty
  std::optional<dtype> type;                                          ///< that floating tensors are cast to
  std::vector<std::function<bool(std::string_view)>> kept_dtypes;     ///< but not those whose name satisfies one
  std::string model;                     ///< published name of the module; empty: the checkpoint's own list of tensors
  std::optional<std::size_t> layers;     ///< of that model
  std::optional<std::uint64_t> experts;  ///< of a layer
  bool strict = true;
  page_cache pages = page_cache::keep;  ///< of the checkpoint

  [[nodiscard]] std::size_t ranks() const noexcept { return shards * replicas; }
  [[nodiscard]] bool every_rank_loads() const noexcept { return policy_name == fsdpinit::every_rank_loads::name; }
  [[nodiscard]] bool loads_first() const noexcept { return policy_name == cpu_ram_efficient_loading<>::name; }
  /// The transport means nothing where every rank loads.
  [[nodiscard]] policy chosen_policy() const {
    return policy_named(policy_name, every_rank_loads() ? std::string_view() : name(transport));
  }
};

/// Ranks are threads in `load`; more of them than this are not worth it.
inline constexpr std::size_t most_thread_ranks = 1024;
/// A plan is made for every rank: beyond this it would take minutes.
inline constexpr std::size_t most_planned_ranks = 65536;

struct inspect_request {
  std::string checkpoint;
  std::string map;  ///< the file of rules by which tensors are made; may be empty
  bool json = false;
};

struct plan_request : sharding_request {
  std::string cluster;    ///< the file of its figures, whose ranks are then planned for; may be empty
  bool simulate = false;  ///< there
  std::optional<std::size_t> explained_rank;
  bool json = false;
};

/// Paths are empty where they were not given.
struct load_request : sharding_request {
  launcher_kind launcher = launcher_kind::automatic;
  double deadline_seconds = 600;
  std::size_t reader_threads = 1;
  bool optimizer = false;
  std::string dump;
  std::string report;
  std::string timeline;
};

struct verify_request : sharding_request {
  std::string dump;
};

struct synthesize_request {
  std::string model;
  std::string folder;
  std::optional<std::size_t> layers;
  std::optional<std::uint64_t> experts;
  std::optional<fsdpinit::dtype> type;
  std::uint64_t seed = 0;
  bool published_duplicates = false;
};

/// \throws usage_error for what does not fit together: a bucket without a byte for each shard, a source that is no rank, too many
/// ranks, layers that the model does not have.
void require_fitting(const sharding_request& how, std::size_t most_ranks);
/// The part of it that is about the module.
void require_fitting_module(const sharding_request& how);

void run_inspect(const inspect_request& how);
void run_plan(const plan_request& asked);
/// On ranks that are threads of this process.
void run_load(const load_request& how, unfinished& outputs);
/// On ranks that are processes of an MPI world, of which this is one. Only rank 0 writes to stdout and owns the outputs.
void run_load_mpi(const load_request& how, unfinished& outputs);
/// Compares what `load --dump` has written with the checkpoint. Shards and replicas are those that the dump names.
void run_verify(const verify_request& how);
void run_synthesize(const synthesize_request& how, unfinished& outputs);

}  // namespace fsdpinit::tool
