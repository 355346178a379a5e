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
#include <span>

namespace fsdpinit::detail {

/// Moves payload from one rank to others over a connection, piece by piece through the ring where it lies in host memory, straight
/// where it lies on the device. Pieces are of the same size on all ranks, wherever the payload lies on each. Every call returns once
/// all is on the streams; an event recorded on the ring's `out()` comes when it is done.
template <class Nccl, CudaApi Cuda, AlertingControl Host>
class nccl_transfers {
 public:
  /// `connection` and `ring` outlive the calls.
  nccl_transfers(nccl_connection<Nccl, Cuda, Host>& connection, nccl_ring<Cuda>& ring, const Cuda& cuda)
      : cuda_(cuda),
        connection_(connection),
        rank_(connection.host().rank()),
        size_(connection.host().size()),
        ring_(ring) {}

  /// Bytes are equal on all ranks of the group, in place.
  void broadcast(mutable_bytes buffer, std::size_t root, std::span<const std::size_t> group) {
    const std::uint64_t bytes = ring_.piece_for(1);
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
              ring_.copy_in(slot, part);
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
              ring_.copy_out(part, slot);
            }
          });
    }
  }

  /// To every other rank of the group what is its own.
  void send_windows(std::span<const bytes_view> windows, std::span<const std::size_t> group) {
    const std::uint64_t bytes = ring_.piece_for(size_);
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
                ring_.copy_in(slot + other * bytes, part);
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
  void receive_window(mutable_bytes own, std::size_t root) { receive(own, root, ring_.piece_for(size_)); }

 private:
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
                     ring_.copy_out(part, slot);
                   }
                 });
    }
  }

  /// The same to every other rank of the group.
  void send_whole(bytes_view payload, std::span<const std::size_t> group) {
    const std::uint64_t bytes = ring_.piece_for(1);
    const bool there = cuda_.on_device(payload.data());
    for (std::uint64_t at = 0; at < payload.size(); at += bytes) {
      const bytes_view part = piece(payload, at, bytes);
      ring_.turn(
          [&](std::byte* slot) {
            if (!there) {
              ring_.copy_in(slot, part);
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
  nccl_ring<Cuda>& ring_;
};

}  // namespace fsdpinit::detail
