#pragma once

#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/memory/block.hpp>
#include <fsdpinit/memory/cuda_api.hpp>
#include <fsdpinit/memory/cuda_memory.hpp>
#include <fsdpinit/memory/cuda_stream.hpp>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <deque>

namespace fsdpinit::detail {

/// What a rank of a group must at least find room for in a buffer of the ring.
inline constexpr std::uint64_t least_nccl_piece_bytes = 256;

/// Device memory through which payload in host memory passes on its way to or from other GPUs: a few buffers, in turns.
///
/// Each turn is a copy in, an exchange and a copy out, on streams of their own, which wait for each other only for the sake of a buffer:
/// the next buffer is filled while this one is exchanged.
template <CudaApi Cuda>
class nccl_ring {
 public:
  nccl_ring(int device, const Cuda& cuda, std::size_t buffers, std::uint64_t buffer_bytes)
      : cuda_(cuda),
        memory_(device, cuda),
        in_(cuda, device),
        exchange_(cuda, device),
        out_(cuda, device),
        buffer_bytes_(buffer_bytes) {
    for (std::size_t i = 0; i < buffers; ++i) {
      buffers_.emplace_back(memory_, device, cuda, buffer_bytes);
    }
  }

  [[nodiscard]] std::uint64_t buffer_bytes() const noexcept { return buffer_bytes_; }
  /// How much of a payload moves at a time where a buffer is shared by so many ranks.
  [[nodiscard]] std::uint64_t piece_for(std::size_t ranks) const noexcept {
    return align_down(buffer_bytes_ / ranks, least_nccl_piece_bytes);
  }
  [[nodiscard]] const basic_cuda_memory<Cuda>& memory() const noexcept { return memory_; }
  [[nodiscard]] typename Cuda::stream in() const noexcept { return in_.get(); }
  [[nodiscard]] typename Cuda::stream exchange() const noexcept { return exchange_.get(); }
  [[nodiscard]] typename Cuda::stream out() const noexcept { return out_.get(); }

  /// One turn: `fill(buffer)` starts copies on `in()`, `move(buffer)` starts calls on `exchange()`, `empty(buffer)` copies on `out()`.
  /// \throws error{device} and what they throw
  template <class Fill, class Move, class Empty>
  void turn(Fill&& fill, Move&& move, Empty&& empty) {
    buffer& mine = buffers_[next_];
    next_ = (next_ + 1) % buffers_.size();
    std::byte* const memory = mine.memory.data();
    mine.emptied.hold(in_.get());
    fill(memory);
    mine.filled.record(in_.get());
    mine.filled.hold(exchange_.get());
    move(memory);
    mine.moved.record(exchange_.get());
    mine.moved.hold(out_.get());
    empty(memory);
    mine.emptied.record(out_.get());
  }

  /// For `fill`: from host memory. \throws error{device}
  void copy_in(void* to, bytes_view from) {
    require_cuda(cuda_, cuda_.copy_to_device(to, from.data(), from.size(), in()), "copy to the device");
  }
  /// For `empty`: from and to memory of the host or the device. \throws error{device}
  void copy_out(mutable_bytes to, const std::byte* from) {
    if (to.empty() || to.data() == from) {
      return;
    }
    const bool to_there = cuda_.on_device(to.data());
    const bool from_there = cuda_.on_device(from);
    if (from_there) {
      require_cuda(cuda_,
                   to_there ? cuda_.copy_on_device(to.data(), from, to.size(), out())
                            : cuda_.copy_to_host(to.data(), from, to.size(), out()),
                   to_there ? "copy on the device" : "copy from the device");
    } else if (to_there) {
      require_cuda(cuda_, cuda_.copy_to_device(to.data(), from, to.size(), out()), "copy to the device");
    } else {
      std::memcpy(to.data(), from, to.size());
    }
  }

  /// Returns when nothing is under way any more, done or failed.
  void settle() noexcept {
    in_.settle();
    exchange_.settle();
    out_.settle();
  }

 private:
  struct buffer {
    buffer(const basic_cuda_memory<Cuda>& space, int device, const Cuda& cuda, std::uint64_t bytes)
        : memory(space, bytes), filled(cuda, device), moved(cuda, device), emptied(cuda, device) {}
    block<basic_cuda_memory<Cuda>> memory;
    basic_cuda_event<Cuda> filled;
    basic_cuda_event<Cuda> moved;
    basic_cuda_event<Cuda> emptied;
  };

  Cuda cuda_;
  basic_cuda_memory<Cuda> memory_;
  basic_cuda_stream<Cuda> in_;
  basic_cuda_stream<Cuda> exchange_;
  basic_cuda_stream<Cuda> out_;
  std::uint64_t buffer_bytes_;
  std::deque<buffer> buffers_;
  std::size_t next_ = 0;
};

}  // namespace fsdpinit::detail
