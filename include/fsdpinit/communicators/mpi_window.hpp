#pragma once

#include <fsdpinit/communicators/mpi_handles.hpp>
#include <fsdpinit/core/bytes.hpp>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <vector>

#include <mpi.h>
#include <sys/mman.h>
#include <sys/statvfs.h>
#include <unistd.h>

namespace fsdpinit::detail {

/// Memory that the ranks of one node share: every rank has a segment in which it stages what it sends, and a lane to each
/// peer in which it says where that lies. Receivers copy straight from the segment, so a byte is copied once.
///
/// Tickets are unique for an operation and grow; a lane's cell is used again once both sides are done with it.
class mpi_window {
 public:
  /// Most operations of one root at a time.
  static constexpr std::size_t ring = 64;
  /// Instead of an offset: the payload does not lie in the segment, it comes as a message.
  static constexpr std::uint64_t as_message = ~std::uint64_t{0};

  /// Where a payload is.
  struct place {
    std::uint64_t offset = as_message;
    std::uint64_t bytes = 0;
  };

  /// Collective over `world`. Without a second rank on the node and in the group, or where the system gives no shared
  /// memory, it is empty.
  mpi_window(const mpi_group& world, std::uint64_t staging_bytes, int group)
      : node_(ranks_of_node(world).split(group, 0)), staging_bytes_(align_up(staging_bytes, page_bytes())) {
    if (staging_bytes_ != 0 && node_.size() > 1) {
      allocate();
    }
    learn_nodes(world);
  }
  mpi_window(const mpi_window&) = delete;
  mpi_window& operator=(const mpi_window&) = delete;
  ~mpi_window() {
    if (window_ != MPI_WIN_NULL && mpi_is_running()) {
      MPI_Win_unlock_all(window_);
      MPI_Win_free(&window_);
    }
  }

  /// Do ranks a and b of the world share memory through windows?
  [[nodiscard]] bool together(std::size_t a, std::size_t b) const noexcept {
    return a == b || (window_of_[a] && node_of_[a] == node_of_[b]);
  }
  /// The lowest rank of the world on the node, and in the group there, of `rank`.
  [[nodiscard]] std::size_t node_of(std::size_t rank) const noexcept { return node_of_[rank]; }

  // -- at the root: `to` is a rank of the world on this node ------------------------------------------------------------

  [[nodiscard]] place place_of(bytes_view payload) const noexcept {
    if (payload.empty()) {
      return {.offset = 0, .bytes = 0};
    }
    if (!owns(payload.data())) {
      return {.bytes = payload.size()};
    }
    return {.offset = static_cast<std::uint64_t>(payload.data() - staging()), .bytes = payload.size()};
  }
  void post(std::size_t to, std::uint64_t ticket, const place& where) noexcept {
    cell& in = lane(own_base(), to, ticket);
    in.where = where;
    in.posted.store(ticket, std::memory_order_release);
  }
  [[nodiscard]] bool taken(std::size_t to, std::uint64_t ticket) const noexcept {
    return lane(own_base(), to, ticket).taken.load(std::memory_order_acquire) == ticket;
  }

  // -- at a receiver: `root` is a rank of the world on this node -----------------------------------------------------------

  /// Has the root posted it? If so, `where` says where the payload is.
  [[nodiscard]] bool posted(std::size_t root, std::uint64_t ticket, place& where) const noexcept {
    const cell& in = lane(bases_[index_of_[root]], own_, ticket);
    if (in.posted.load(std::memory_order_acquire) != ticket) {
      return false;
    }
    where = in.where;
    return true;
  }
  [[nodiscard]] bytes_view payload(std::size_t root, const place& where) const noexcept {
    return {bases_[index_of_[root]] + lanes_bytes_ + where.offset, where.bytes};
  }
  void take(std::size_t root, std::uint64_t ticket) const noexcept {
    lane(bases_[index_of_[root]], own_, ticket).taken.store(ticket, std::memory_order_release);
  }

  // -- the segment ----------------------------------------------------------------------------------------------------------

  [[nodiscard]] bool owns(const std::byte* address) const noexcept {
    return window_ != MPI_WIN_NULL && address >= staging() && address < staging() + staging_bytes_;
  }
  /// Page-aligned; nullptr where there is no room.
  [[nodiscard]] std::byte* allocate_staging(std::uint64_t bytes) noexcept {
    const std::uint64_t length = align_up(bytes, page_bytes());
    if (window_ == MPI_WIN_NULL || length > staging_bytes_ - used_) {
      return nullptr;
    }
    std::byte* const address = staging() + used_;
    used_ += length;
    ++blocks_;
    return address;
  }
  /// Pages go back to the system; room is there again once every block is released. After MPI_Finalize the pages are gone.
  void release_staging(std::byte* address, std::uint64_t bytes) noexcept {
    if (mpi_is_running()) {
      madvise(address, align_up(bytes, page_bytes()), MADV_REMOVE);
    }
    if (--blocks_ == 0) {
      used_ = 0;
    }
  }

 private:
  struct cell {
    std::atomic<std::uint64_t> posted{0};
    std::atomic<std::uint64_t> taken{0};
    place where;
  };
  using lane_cells = std::array<cell, ring>;
  static constexpr std::uint64_t least_staging_bytes = 64 * kib;  // with less, messages are no worse
  static_assert(std::atomic<std::uint64_t>::is_always_lock_free, "processes share these");

  [[nodiscard]] static std::uint64_t page_bytes() noexcept { return static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE)); }
  [[nodiscard]] std::byte* own_base() const noexcept { return bases_[index_of_[own_]]; }
  [[nodiscard]] std::byte* staging() const noexcept { return own_base() + lanes_bytes_; }
  [[nodiscard]] cell& lane(std::byte* base, std::size_t to, std::uint64_t ticket) const noexcept {
    return std::launder(reinterpret_cast<lane_cells*>(base))[index_of_[to]][ticket % ring];
  }

  /// Where MPI libraries put what processes share; all there is in the world if that is somewhere else.
  [[nodiscard]] static std::uint64_t free_shared_memory() noexcept {
    struct statvfs facts {};
    return ::statvfs("/dev/shm", &facts) == 0 ? std::uint64_t{facts.f_bavail} * facts.f_frsize
                                              : std::uint64_t{1} << 40U;
  }

  void allocate() {
    const auto ranks = static_cast<std::size_t>(node_.size());
    // Open MPI 4 leaves the other ranks waiting for ever where one cannot create the segment. Half of what there is: others may
    // want some of it at the same time.
    std::uint64_t share = align_down(free_shared_memory() / 2 / ranks, page_bytes());
    check_mpi("MPI_Allreduce", MPI_Allreduce(MPI_IN_PLACE, &share, 1, MPI_UNSIGNED_LONG_LONG, MPI_MIN, node_.get()));
    const std::uint64_t lanes = align_up(ranks * sizeof(lane_cells), page_bytes());
    if (share < lanes + least_staging_bytes) {
      return;
    }
    staging_bytes_ = std::min(staging_bytes_, share - lanes);
    lanes_bytes_ = lanes;
    MPI_Info how = MPI_INFO_NULL;
    MPI_Info_create(&how);
    MPI_Info_set(how, "alloc_shared_noncontig", "true");  // each segment in pages of its own
    void* base = nullptr;
    const int code = MPI_Win_allocate_shared(static_cast<MPI_Aint>(lanes_bytes_ + staging_bytes_), 1, how, node_.get(),
                                             static_cast<void*>(&base), &window_);
    MPI_Info_free(&how);
    // One rank without it, and the node does without.
    int everywhere = code == MPI_SUCCESS ? 1 : 0;
    check_mpi("MPI_Allreduce", MPI_Allreduce(MPI_IN_PLACE, &everywhere, 1, MPI_INT, MPI_MIN, node_.get()));
    if (everywhere == 0) {
      window_ = MPI_WIN_NULL;
      return;
    }
    for (std::size_t peer = 0; peer < ranks; ++peer) {
      std::construct_at(static_cast<lane_cells*>(base) + peer);
    }
    MPI_Win_lock_all(MPI_MODE_NOCHECK, window_);
    for (std::size_t peer = 0; peer < ranks; ++peer) {
      MPI_Aint size = 0;
      int unit = 0;
      void* address = nullptr;
      check_mpi("MPI_Win_shared_query",
                MPI_Win_shared_query(window_, static_cast<int>(peer), &size, &unit, static_cast<void*>(&address)));
      bases_.push_back(static_cast<std::byte*>(address));
    }
    check_mpi("MPI_Barrier", MPI_Barrier(node_.get()));  // every lane is constructed
  }

  void learn_nodes(const mpi_group& world) {
    own_ = static_cast<std::size_t>(world.rank());
    const auto ranks = static_cast<std::size_t>(world.size());
    struct facts {
      std::uint32_t node;
      std::uint32_t has_window;
    };
    facts mine{.node = static_cast<std::uint32_t>(own_), .has_window = window_ != MPI_WIN_NULL};
    check_mpi("MPI_Bcast", MPI_Bcast(&mine.node, 1, MPI_UINT32_T, 0, node_.get()));
    std::vector<facts> all(ranks);
    check_mpi("MPI_Allgather", MPI_Allgather(&mine, 2, MPI_UINT32_T, all.data(), 2, MPI_UINT32_T, world.get()));
    index_of_.resize(ranks);
    std::size_t next = 0;
    for (std::size_t rank = 0; rank < ranks; ++rank) {  // node_ keeps the order of the world
      node_of_.push_back(all[rank].node);
      window_of_.push_back(all[rank].has_window != 0);
      index_of_[rank] = all[rank].node == mine.node ? next++ : 0;
    }
  }

  mpi_group node_;
  MPI_Win window_ = MPI_WIN_NULL;
  std::uint64_t staging_bytes_ = 0;
  std::uint64_t lanes_bytes_ = 0;
  std::uint64_t used_ = 0;
  std::size_t blocks_ = 0;
  std::size_t own_ = 0;                // this rank of the world
  std::vector<std::size_t> node_of_;   // per rank of the world: the lowest rank of its node
  std::vector<bool> window_of_;        // per rank of the world: has its node a window?
  std::vector<std::size_t> index_of_;  // per rank of the world on this node: its rank there
  std::vector<std::byte*> bases_;      // per rank of the node
};

}  // namespace fsdpinit::detail
