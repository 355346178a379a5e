#pragma once

#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/core/checksum.hpp>
#include <fsdpinit/core/deadline.hpp>
#include <fsdpinit/init/policies.hpp>
#include <fsdpinit/plan/plan.hpp>
#include <fsdpinit/plan/transport.hpp>
#include <fsdpinit/plan/verification.hpp>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace fsdpinit {

/// Any function that says how to load: scatter, broadcast, own_read, or automatic, which is by the size of chunks. It is given all
/// tensors, and the plan's options except the transport. What std::function would be, but `<functional>` is a tenth of what
/// fsdpinit.hpp takes to include.
class transport_choice {
 public:
  transport_choice() = default;
  template <class Choose>
    requires std::is_invocable_r_v<transport, const Choose&, const std::vector<tensor_request>&,
                                   const plan_options&>
  transport_choice(Choose choose)  // NOLINT(google-explicit-constructor): a function is a choice
      : function_(std::make_shared<const stored<Choose>>(std::move(choose))) {}

  [[nodiscard]] explicit operator bool() const noexcept { return function_ != nullptr; }
  /// \pre there is one. \throws what it throws.
  [[nodiscard]] transport operator()(const std::vector<tensor_request>& requests, const plan_options& options) const {
    return function_->call(requests, options);
  }

 private:
  struct erased {
    erased() = default;
    erased(const erased&) = delete;
    erased& operator=(const erased&) = delete;
    virtual ~erased() = default;
    [[nodiscard]] virtual transport call(const std::vector<tensor_request>& requests,
                                         const plan_options& options) const = 0;
  };
  template <class Choose>
  struct stored final : erased {
    explicit stored(Choose given) : choose(std::move(given)) {}
    [[nodiscard]] transport call(const std::vector<tensor_request>& requests,
                                 const plan_options& options) const override {
      return choose(requests, options);
    }
    Choose choose;
  };

  std::shared_ptr<const erased> function_;
};

/// Which ranks read the checkpoint for others.
enum class source_ranks : std::uint8_t {
  one,  ///< `options::source_rank`
  per_node,  ///< the lowest rank of each node (of its own node: `source_rank`) for the ranks of that node; the communicator must
             ///< know nodes, and the checkpoint must be on each
};

inline constexpr std::size_t most_reader_threads = 256;
inline constexpr std::size_t most_buckets_in_flight = 1024;

/// How to initialise. Must be equal on every rank, seconds and reader threads apart; a difference is an error that names it.
struct options {
  /// The policy, for programs whose users choose it: `policy_named(policy, transport)`. A call that names a policy as a type, too, and
  /// another one, is error{invalid_argument}.
  std::optional<fsdpinit::policy> policy{};
  /// The run-time switch that training frameworks call by this name, for programs that offer the choice to their users: where it is off, the
  /// baseline, `every_rank_loads`, whatever policy the call or `policy` names. The same shards either way.
  bool memory_efficient_init = true;
  /// Staging per bucket in flight. Small enough to stay in cache, large enough that latency does not show.
  std::uint64_t bucket_bytes = 4 * mib;
  /// Buckets being filled, sent and placed at the same time; 2 lets the source read while the others receive.
  std::size_t buckets_in_flight = 2;
  /// Threads that read one bucket together on a rank that reads, where the source allows it (`ConcurrentSource`: all of this library
  /// do, but for a module's own state): one copies out of the page cache more slowly than a link to a GPU takes it. Need not be equal on
  /// all ranks.
  std::size_t reader_threads = 1;
  /// The rank that reads the checkpoint, and whose non-persistent buffers all ranks get.
  std::size_t source_rank = 0;
  /// With `per_node` every node has a rank that reads for it, and weights never cross nodes.
  fsdpinit::source_ranks source_ranks = fsdpinit::source_ranks::one;
  /// Copies of the model (HSDP): ranks are a mesh of replicas x shards, rank = replica * shards + shard. Divides their number.
  std::size_t replicas = 1;
  /// Of `module_state`: each tensor is released on the source rank when its last byte has left. Without, all of them are kept
  /// until the end, and a retry after a failure is possible, for as much memory again.
  bool release_source = true;
  /// Missing and unexpected names are errors. Without, missing tensors stay on meta, and the report lists both.
  bool strict = true;
  /// A persistent buffer that the checkpoint does not have is not missing: the module keeps the value that it has on the source rank,
  /// on all ranks, and the report lists it. For constants and counters that older code did not store.
  bool keep_missing_buffers = false;
  /// FQN prefixes of what is left alone: neither dropped, sharded nor moved, and not missed; what lies under them in the checkpoint
  /// is not unexpected.
  std::vector<std::string> ignored_prefixes{};
  /// Are the bytes that were placed compared with those that were read? A difference is error{corrupted} on every rank. Costs two
  /// hashes of each byte (one where it is read, one where it is placed), and a second operation in flight for each bucket.
  ///
  /// `reread` reads a second time what every rank holds. What one rank has read for all, each rank reads by itself:
  /// error{corrupted}. What several have read, which may be of different checkpoints, is read again by the rank half of
  /// all ranks away (in the order of nodes), and compared by two hashes of each byte and, in the end, a control
  /// broadcast of 8 bytes from each rank: error{disagreement} names both ranks and a tensor. A rank alone has nobody to
  /// compare with, and reads again what it has read.
  verification verify = verification::off;
  /// What they are compared by, the same on every rank: nullptr is `xxh3`, if a translation unit of the program includes
  /// fsdpinit/core/xxh3.hpp, and else error{invalid_argument} where bytes are to be compared; or one of your own.
  const fsdpinit::checksum* checksum = nullptr;
  /// For `transport::automatic` where every rank can read the checkpoint: says how, by a cost model for instance
  /// (`by_cost(calibrate(source, ranks))`). Called on the source rank alone, set on all. Nothing: by the size of chunks.
  transport_choice choose{};
  /// How long a rank waits for its peers, at each agreement and for each bucket.
  double deadline_seconds = default_deadline_seconds;
  /// Least time between two calls of the observer's `progress`.
  double progress_interval_seconds = 0.1;
  /// The FQN prefixes of the units (`units_under`), in place of what the module says or the default; `{""}` asks for one unit.
  std::vector<std::string> unit_prefixes{};
};

namespace detail {

/// What bytes are compared by; nullptr where they are not, or there is nothing to do it by.
[[nodiscard]] inline const checksum* checksum_of(const options& how) noexcept {
  return how.verify == verification::off ? nullptr : named_or_linked(how.checksum);
}

}  // namespace detail

}  // namespace fsdpinit
