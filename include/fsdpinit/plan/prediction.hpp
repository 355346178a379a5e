#pragma once

#include <fsdpinit/core/compiler.hpp>

#include <cstddef>
#include <cstdint>

namespace fsdpinit {

/// What one rank will allocate, read, send and receive; all in bytes, exact.
struct prediction {
  std::uint64_t shard_bytes = 0;  ///< of this rank's shards and whole tensors, without padding
  std::uint64_t slab_bytes = 0;   ///< reserved for them, in the module's memory space
  std::uint64_t slot_bytes =
      0;                  ///< of one staging slot, in host memory; with verification its checksums are the last of it
  std::size_t slots = 0;  ///< staging slots: min(buckets in flight, buckets), 0 where all is in place
  std::uint64_t scratch_bytes = 0;    ///< in host memory, with that in which a source puts tensors together
  std::uint64_t full_copy_bytes = 0;  ///< the whole model in host memory, where every rank reads everything
  std::uint64_t peer_sum_bytes =
      0;  ///< in host memory: 16 per tensor, where what several ranks have read is read again
  /// From the source, with what is read again and what is read along; as seen where a cast narrows. Neither headers
  /// count nor the samples by which ranks compare their checkpoints (`most_samples`).
  std::uint64_t bytes_read = 0;
  std::uint64_t bytes_sent = 0;  ///< payload x destinations; a rank's copy to itself, and checksums, are not counted
  std::uint64_t bytes_received = 0;
  std::uint64_t payload_bytes =
      0;  ///< that it reads for the first time, or takes from its module: what its progress is out of

  [[nodiscard]] std::uint64_t staging_bytes() const noexcept {
    return slot_bytes * slots + scratch_bytes + full_copy_bytes + peer_sum_bytes;
  }
  /// All is allocated before the first byte moves, so the peak is the sum and does not depend on timing.
  [[nodiscard]] std::uint64_t peak_bytes() const noexcept { return slab_bytes + staging_bytes(); }
};

struct plan;

/// Adds up the regions and the steps of a rank's program. Pure; O(tensors + segments), and with several sources O(tensors x ranks).
/// \pre rank < ranks.
[[nodiscard]] FSDPINIT_INLINE prediction predict(const plan& made, std::size_t rank);

}  // namespace fsdpinit

#if FSDPINIT_DEFINES
#include <fsdpinit/plan/predict.hpp>
#endif
