#pragma once

#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/core/dtype.hpp>
#include <fsdpinit/core/error.hpp>
#include <fsdpinit/core/text.hpp>
#include <fsdpinit/memory/account.hpp>
#include <fsdpinit/memory/cuda_api.hpp>
#include <fsdpinit/memory/cuda_stream.hpp>
#include <fsdpinit/memory/host_memory.hpp>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string_view>
#include <utility>

namespace fsdpinit {

namespace detail {

/// \throws error{out_of_memory}, error{device}
template <CudaApi Cuda>
[[nodiscard]] std::byte* require_cuda_memory(Cuda& cuda, int code, void* address, std::uint64_t bytes,
                                             std::string_view where) {
  if (code == Cuda::out_of_memory) {
    throw error(
        errc::out_of_memory, "CUDA",
        concat(bytes, " bytes ", where, " are not to be had; use more shards, smaller buckets, or give memory back"),
        {.native_code = code});
  }
  require_cuda(cuda, code, concat("allocate ", bytes, " bytes ", where));
  return static_cast<std::byte*>(address);
}

}  // namespace detail

/// Host memory that the device can copy from and to without a stop in between: pinned. A MemorySpace like `host_memory`.
template <CudaApi Cuda>
class basic_pinned_memory : public host_memory {
 public:
  /// \param device  that it is for: the runtime allocates in its name, and would wake up another one otherwise.
  explicit basic_pinned_memory(int device, Cuda cuda = Cuda()) : cuda_(std::move(cuda)), device_(device) {}

  /// \throws error{out_of_memory}, error{device}
  [[nodiscard]] std::byte* allocate(std::uint64_t bytes) {
    const detail::cuda_device_guard<Cuda> here(cuda_, device_);
    void* address = nullptr;
    const int code = cuda_.allocate_pinned(&address, bytes);
    std::byte* const out = detail::require_cuda_memory(cuda_, code, address, bytes, "of pinned host memory");
    add_to_account(bytes);
    return out;
  }
  void deallocate(std::byte* address, std::uint64_t bytes) noexcept {
    cuda_.deallocate_pinned(address);
    remove_from_account(bytes);
  }

 private:
  Cuda cuda_;
  int device_;
};

/// Memory of one GPU: a MemorySpace whose queues are streams. Buckets are staged in pinned memory.
///
/// Allocating and giving back stop the device (cudaMalloc, cudaFree): an initialisation does it once for each unit and once more.
template <CudaApi Cuda>
class basic_cuda_memory {
 public:
  /// A stream, made when it is first used, or somebody else's. What has not been waited for is, before it goes: it may use memory that
  /// goes next.
  class queue {
   public:
    queue() = default;
    /// Copies in turn with what else is started on that stream of this device; a wait is for all of it.
    explicit queue(basic_cuda_stream_view<Cuda> stream) : stream_(std::move(stream)) {}
    ~queue() {
      if (is_pending_) {
        stream_->settle();
      }
    }
    queue(const queue&) = delete;
    queue& operator=(const queue&) = delete;

   private:
    friend basic_cuda_memory;
    std::optional<basic_cuda_stream<Cuda>> own_;
    std::optional<basic_cuda_stream_view<Cuda>> stream_;
    bool is_pending_ = false;
  };
  using staging_memory = basic_pinned_memory<Cuda>;
  static constexpr bool host_accessible = false;

  /// On the calling thread's current device. \throws error{device}
  basic_cuda_memory() : basic_cuda_memory(detail::current_cuda_device(Cuda())) {}
  explicit basic_cuda_memory(int device, Cuda cuda = Cuda())
      : account_(std::make_shared<account>()), cuda_(std::move(cuda)), device_(device) {}

  /// \throws error{out_of_memory}, error{device}
  [[nodiscard]] std::byte* allocate(std::uint64_t bytes) {
    const detail::cuda_device_guard<Cuda> here(cuda_, device_);
    void* address = nullptr;
    const int code = cuda_.allocate(&address, bytes);
    std::byte* const out = detail::require_cuda_memory(cuda_, code, address, bytes, concat("of device ", device_));
    account_->add(bytes);
    return out;
  }
  void deallocate(std::byte* address, std::uint64_t bytes) noexcept {
    cuda_.deallocate(address);
    account_->remove(bytes);
  }

  /// One call for any number of runs. \throws error{device}
  void copy_in(std::byte* destination, const std::byte* source, std::uint64_t stride, std::uint64_t run,
               std::uint64_t count, queue& order) {
    if (run * count == 0) {
      return;
    }
    const auto in = stream_of(order);
    const bool contiguous = stride == run || count == 1;
    detail::require_cuda(cuda_,
                         contiguous ? cuda_.copy_to_device(destination, source, run * count, in)
                                    : cuda_.copy_rows_to_device(destination, source, stride, run, count, in),
                         "copy to the device");
  }
  /// \throws error{device}
  void copy_out(std::byte* destination, const std::byte* source, std::uint64_t bytes, queue& order) {
    if (bytes != 0) {
      detail::require_cuda(cuda_, cuda_.copy_to_host(destination, source, bytes, stream_of(order)),
                           "copy from the device");
    }
  }
  /// One call for any number of runs. \throws error{device}
  void copy_within(std::byte* destination, std::uint64_t destination_stride, const std::byte* source,
                   std::uint64_t source_stride, std::uint64_t run, std::uint64_t count, queue& order) {
    if (run * count == 0) {
      return;
    }
    const auto in = stream_of(order);
    const bool contiguous = (destination_stride == run && source_stride == run) || count == 1;
    detail::require_cuda(
        cuda_,
        contiguous ? cuda_.copy_on_device(destination, source, run * count, in)
                   : cuda_.copy_rows_on_device(destination, destination_stride, source, source_stride, run, count, in),
        "copy on the device");
  }
  /// \throws error{device}
  void zero(std::byte* destination, std::uint64_t bytes, queue& order) {
    if (bytes != 0) {
      detail::require_cuda(cuda_, cuda_.zero(destination, bytes, stream_of(order)), "write zeros on the device");
    }
  }
  /// Widens floats where they lie, as `WideningMemory` has it: in passes of which none writes what it, or a later one, has still to
  /// read. Each takes at least half of what is left, so there are about log2(count). \throws error{device}
  void widen(dtype from, const std::byte* source, dtype to, std::byte* destination, std::uint64_t count, queue& order)
    requires ConvertingCudaApi<Cuda>
  {
    const std::uint64_t narrow = bits(from) / 8;
    const std::uint64_t wide = bits(to) / 8;
    const detail::cuda_device_guard<Cuda> here(cuda_, device_);
    const auto in = stream_of(order);
    while (count != 0) {
      const std::uint64_t clear = static_cast<std::uint64_t>(source - destination) / wide;  // ends before what is read
      const std::uint64_t now = clear == 0 ? 1 : smaller(clear, count);
      detail::require_cuda(cuda_, cuda_.convert(from, source, to, destination, now, in), "convert on the device");
      source += now * narrow;
      destination += now * wide;
      count -= now;
    }
  }
  /// \throws error{device}
  void wait(queue& order) {
    if (order.is_pending_) {
      order.stream_->wait();
      order.is_pending_ = false;
    }
  }

  [[nodiscard]] std::uint64_t accounted() const noexcept { return account_->current(); }
  [[nodiscard]] std::uint64_t accounted_peak() const noexcept { return account_->peak(); }
  void restart_peak() noexcept { account_->restart_peak(); }

  [[nodiscard]] int device() const noexcept { return device_; }
  [[nodiscard]] const Cuda& cuda() const noexcept { return cuda_; }
  /// Where buckets for this device are staged, with an account of its own.
  [[nodiscard]] staging_memory staging() const { return staging_memory(device_, cuda_); }

 private:
  typename Cuda::stream stream_of(queue& order) {
    if (!order.stream_) {
      order.own_.emplace(cuda_, device_);
      order.stream_ = *order.own_;
    }
    order.is_pending_ = true;
    return order.stream_->get();
  }

  std::shared_ptr<account> account_;
  Cuda cuda_;
  int device_;
};

}  // namespace fsdpinit
