#pragma once

#include <fsdpinit/memory/cuda_api.hpp>

#include <concepts>
#include <cstdint>
#include <string_view>
#include <type_traits>

namespace fsdpinit {

/// The calls of NCCL that this library makes, as a copyable handle: `nccl_runtime` makes them, and `testing::fake_nccl` acts as
/// if, over a fake device. Communicators do not block: a call may return `in_progress`, and `progress` then tells when it is done
/// and how. What destroys returns nothing.
///
/// - `unique_id`: what all ranks of a communicator give to `connect`; made by one of them.
/// - `place_of(comm, rank, ranks)`: of the caller, in a communicator that is connected.
/// - Payload is device memory, all of it bytes, and moves in the order of its stream. Calls between `group_start` and
///   `group_end` move together.
/// - `all_gather(from, to, bytes, ...)`: `bytes` of each rank, side by side in their order; `from` may be in its place there.
/// - `all_reduce_max(from, to, count, ...)`: of `count` unsigned numbers of 64 bits; `to` is not `from`.
/// - `abort`: what is under way ends, here, done or not.
/// - `peer_gone`: the code of what failed because another rank did.
template <class N, class Cuda>
concept NcclApi = CudaApi<Cuda> && std::copyable<N> && std::default_initializable<N> &&
                  std::is_trivially_copyable_v<typename N::unique_id> &&
                  requires(N& nccl, typename N::comm comm, typename N::comm* made, typename N::unique_id id,
                           typename N::unique_id* new_id, int* code, const void* from, void* to, std::uint64_t bytes,
                           int rank, typename Cuda::stream in) {
                    { N::success } -> std::convertible_to<int>;
                    { N::in_progress } -> std::convertible_to<int>;
                    { N::peer_gone } -> std::convertible_to<int>;
                    { nccl.make_id(new_id) } noexcept -> std::same_as<int>;
                    { nccl.connect(made, rank, id, rank) } noexcept -> std::same_as<int>;
                    { nccl.place_of(comm, code, code) } noexcept -> std::same_as<int>;
                    { nccl.progress(comm, code) } noexcept -> std::same_as<int>;
                    { nccl.group_start() } noexcept -> std::same_as<int>;
                    { nccl.group_end() } noexcept -> std::same_as<int>;
                    { nccl.broadcast(from, to, bytes, rank, comm, in) } noexcept -> std::same_as<int>;
                    { nccl.send(from, bytes, rank, comm, in) } noexcept -> std::same_as<int>;
                    { nccl.receive(to, bytes, rank, comm, in) } noexcept -> std::same_as<int>;
                    { nccl.all_gather(from, to, bytes, comm, in) } noexcept -> std::same_as<int>;
                    { nccl.all_reduce_max(from, to, bytes, comm, in) } noexcept -> std::same_as<int>;
                    { nccl.finalize(comm) } noexcept -> std::same_as<int>;
                    { nccl.destroy(comm) } noexcept;
                    { nccl.abort(comm) } noexcept;
                    { nccl.text_of(0) } noexcept -> std::convertible_to<std::string_view>;
                  };

}  // namespace fsdpinit
