#pragma once

#include <fsdpinit/communicators/nccl_api.hpp>
#include <fsdpinit/communicators/nccl_connection.hpp>
#include <fsdpinit/communicators/nccl_ring.hpp>
#include <fsdpinit/communicators/rank_group.hpp>
#include <fsdpinit/concepts/communicator.hpp>
#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/memory/cuda_api.hpp>
#include <fsdpinit/memory/cuda_stream.hpp>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

namespace fsdpinit::detail {

/// What a rank of a group must at least find room for in a slot of the ring.
inline constexpr std::uint64_t least_nccl_piece_bytes = 256;

/// Moves payload over a connection, piece by piece through the ring where it lies in host memory, straight where it lies on the
/// device. Pieces are of the same size on all ranks, wherever the payload lies on each. Every call returns once all is on the
/// streams; an event recorded on `last_stream()` comes when it is done.
template <class Nccl, CudaApi Cuda, AlertingControl Host>
class nccl_transfers {
 public:
  /// `connection` outlives the calls. \throws error{out_of_memory}, error{device}
  nccl_transfers(nccl_connection<Nccl, Cuda, Host>& connection, int device, const Cuda& cuda, std::size_t slots,
                 std::uint64_t slot_bytes)
      : cuda_(cuda),
        connection_(connection),
        rank_(connection.host().rank()),
        size_(connection.host().size()),
        ring_(device, cuda, slots, slot_bytes) {}

  [[nodiscard]] typename Cuda::stream last_stream() const noexcept { return ring_.out(); }
  /// Returns when nothing is under way any more, done or failed.
  void settle() noexcept { ring_.settle(); }

  /// Bytes are equal on all ranks of the group, in place.
  void broadcast(mutable_bytes buffer, std::size_t root, std::span<const std::size_t> group) {
    const std::uint64_t bytes = piece_of(1);
    if (group.size() != size_) {  // a group has no communicator of its own
      if (rank_ != root) {
        receive(buffer, root, bytes);
      } else if (group.size() > 1) {
        send_whole(buffer, group);
      }
      return;
    }
    const bool there = cuda_.on_device(buffer.data());
    for (std::uint64_t at = 0; at < buffer.size(); at += bytes) {
      const mutable_bytes part = buffer.subspan(at, smaller(bytes, buffer.size() - at));
      const bool is_root = rank_ == root;
      ring_.turn(
          [&](std::byte* slot) {
            if (!there && is_root) {
              copy_in(slot, part);
            }
          },
          [&](std::byte* slot) {
            std::byte* const memory = there ? part.data() : slot;
            connection_.issue("broadcast", [&](Nccl& nccl, typename Nccl::comm comm) {
              return nccl.broadcast(memory, memory, part.size(), static_cast<int>(root), comm, ring_.exchange());
            });
          },
          [&](std::byte* slot) {
            if (!there && !is_root) {
              copy_out(part, slot);
            }
          });
    }
  }

  /// To every other rank of the group what is its own.
  void send_windows(std::span<const bytes_view> windows, std::span<const std::size_t> group) {
    const std::uint64_t bytes = piece_of(size_);
    std::uint64_t longest = 0;
    for (const std::size_t other : group) {
      longest = other != rank_ && windows[other].size() > longest ? windows[other].size() : longest;
    }
    for (std::uint64_t at = 0; at < longest; at += bytes) {
      ring_.turn(
          [&](std::byte* slot) {
            for (const std::size_t other : group) {
              const bytes_view part = piece(windows[other], at, bytes);
              if (other != rank_ && !part.empty() && !cuda_.on_device(part.data())) {
                copy_in(slot + other * bytes, part);
              }
            }
          },
          [&](std::byte* slot) {
            send_to(group, [&](std::size_t other) {
              const bytes_view part = piece(windows[other], at, bytes);
              const bool there = part.empty() || cuda_.on_device(part.data());
              return bytes_view(there ? part.data() : slot + other * bytes, part.size());
            });
          },
          [](std::byte*) {});
    }
  }

  /// What `send_windows` sent to this rank.
  void receive_window(mutable_bytes own, std::size_t root) { receive(own, root, piece_of(size_)); }

  /// From each rank of the group to each: its part to its place in `all`.
  void exchange_parts(bytes_view own, mutable_bytes all, std::span<const std::size_t> group) {
    const std::uint64_t bytes = piece_of(size_);
    const std::size_t mine = index_in(group, rank_);
    const bool own_there = cuda_.on_device(own.data());
    const bool all_there = cuda_.on_device(all.data());
    for (std::uint64_t at = 0; at < own.size(); at += bytes) {
      const bytes_view part = piece(own, at, bytes);
      const auto place = [&](std::size_t index) { return all.data() + index * own.size() + at; };
      ring_.turn(
          [&](std::byte* slot) {
            if (!own_there) {
              copy_in(slot + mine * bytes, part);
            }
          },
          [&](std::byte* slot) {
            const std::byte* const out = own_there ? part.data() : slot + mine * bytes;
            if (all_there && out != place(mine)) {
              require_cuda(cuda_, cuda_.copy_on_device(place(mine), out, part.size(), ring_.exchange()),
                           "copy on the device");
            }
            connection_.issue("gather", [&](Nccl& nccl, typename Nccl::comm comm) {
              int code = Nccl::success;
              for (std::size_t i = 0; i < group.size(); ++i) {
                if (i == mine || !connection_.is_accepted(code)) {
                  continue;
                }
                const int other = static_cast<int>(group[i]);
                code = nccl.send(out, part.size(), other, comm, ring_.exchange());
                if (connection_.is_accepted(code)) {
                  code =
                      nccl.receive(all_there ? place(i) : slot + i * bytes, part.size(), other, comm, ring_.exchange());
                }
              }
              return code;
            });
          },
          [&](std::byte* slot) {
            for (std::size_t i = 0; i < group.size() && !all_there; ++i) {
              if (i != mine) {
                copy_out({place(i), part.size()}, slot + i * bytes);
              } else if (own_there) {
                copy_out({place(i), part.size()}, part.data());
              } else if (part.data() != place(i)) {
                std::memcpy(place(i), part.data(), part.size());
              }
            }
          });
    }
  }

 private:
  /// How much of a payload moves at a time where a slot is shared by so many ranks.
  [[nodiscard]] std::uint64_t piece_of(std::size_t ranks) const noexcept {
    return align_down(ring_.slot_bytes() / ranks, least_nccl_piece_bytes);
  }
  void copy_in(void* to, bytes_view from) {
    require_cuda(cuda_, cuda_.copy_to_device(to, from.data(), from.size(), ring_.in()), "copy to the device");
  }
  void copy_out(mutable_bytes to, const void* from) {
    require_cuda(cuda_, cuda_.copy_to_host(to.data(), from, to.size(), ring_.out()), "copy from the device");
  }
  [[nodiscard]] static bytes_view piece(bytes_view whole, std::uint64_t at, std::uint64_t bytes) noexcept {
    return at >= whole.size() ? bytes_view{} : whole.subspan(at, smaller(bytes, whole.size() - at));
  }

  void receive(mutable_bytes own, std::size_t root, std::uint64_t bytes) {
    const bool there = cuda_.on_device(own.data());
    for (std::uint64_t at = 0; at < own.size(); at += bytes) {
      const mutable_bytes part = own.subspan(at, smaller(bytes, own.size() - at));
      ring_.turn([](std::byte*) {},
                 [&](std::byte* slot) {
                   connection_.issue("receive", [&](Nccl& nccl, typename Nccl::comm comm) {
                     return nccl.receive(there ? part.data() : slot, part.size(), static_cast<int>(root), comm,
                                         ring_.exchange());
                   });
                 },
                 [&](std::byte* slot) {
                   if (!there) {
                     copy_out(part, slot);
                   }
                 });
    }
  }

  /// The same to every other rank of the group.
  void send_whole(bytes_view payload, std::span<const std::size_t> group) {
    const std::uint64_t bytes = piece_of(1);
    const bool there = cuda_.on_device(payload.data());
    for (std::uint64_t at = 0; at < payload.size(); at += bytes) {
      const bytes_view part = piece(payload, at, bytes);
      ring_.turn(
          [&](std::byte* slot) {
            if (!there) {
              copy_in(slot, part);
            }
          },
          [&](std::byte* slot) {
            send_to(group, [&](std::size_t) { return bytes_view(there ? part.data() : slot, part.size()); });
          },
          [](std::byte*) {});
    }
  }

  /// `payload(rank)`, on the device, to every other rank of the group, unless it is empty.
  template <class Payload>
  void send_to(std::span<const std::size_t> group, Payload&& payload) {
    connection_.issue("send", [&](Nccl& nccl, typename Nccl::comm comm) {
      int code = Nccl::success;
      for (const std::size_t other : group) {
        const bytes_view part = other == rank_ ? bytes_view{} : payload(other);
        if (!part.empty() && connection_.is_accepted(code)) {
          code = nccl.send(part.data(), part.size(), static_cast<int>(other), comm, ring_.exchange());
        }
      }
      return code;
    });
  }

  Cuda cuda_;
  nccl_connection<Nccl, Cuda, Host>& connection_;
  std::size_t rank_;
  std::size_t size_;
  nccl_ring<Cuda> ring_;
};

}  // namespace fsdpinit::detail
