#pragma once

#include <fsdpinit/core/dtype.hpp>
#include <fsdpinit/core/error.hpp>
#include <fsdpinit/core/text.hpp>

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <string_view>

namespace fsdpinit {

/// The calls of the CUDA runtime that this library makes, as a copyable handle: `cuda_runtime` makes them, and
/// `testing::fake_cuda` acts as if, without a device. Each returns a code: `success`, `not_ready` (of `query` alone),
/// `out_of_memory`, or another one. What destroys or gives back returns nothing, as nobody can do anything about it.
///
/// - `stream`, `event`: the runtime's handles. Streams do not wait for the default stream.
/// - `allocate`, `create_stream`, `create_event` do it on the current device, `device` and `set_device` ask for and choose it.
/// - `copy_rows_to_device(to, from, stride, row, rows, in)`: rows of `row` bytes, `stride` apart in host memory, one after the
///   other to `to`. `copy_rows_on_device(to, to_stride, from, from_stride, row, rows, in)`: within the device's memory, and apart at
///   either end.
/// - `zero(to, bytes, in)`: zeros in the device's memory.
/// - `on_device(address)`: is it the device's memory, which calls of the host must not touch?
/// - Copies are done in the order of their stream, and may read and write as late as `query` says that they are done.
template <class R>
concept CudaApi =
    std::copyable<R> && std::default_initializable<R> &&
    requires(R& cuda, void** out, void* to, const void* from, std::uint64_t bytes, int* number, typename R::stream in,
             typename R::stream* new_stream, typename R::event when, typename R::event* new_event) {
      { R::success } -> std::convertible_to<int>;
      { R::not_ready } -> std::convertible_to<int>;
      { R::out_of_memory } -> std::convertible_to<int>;
      { cuda.device(number) } noexcept -> std::same_as<int>;
      { cuda.set_device(0) } noexcept -> std::same_as<int>;
      { cuda.allocate(out, bytes) } noexcept -> std::same_as<int>;
      { cuda.deallocate(to) } noexcept;
      { cuda.allocate_pinned(out, bytes) } noexcept -> std::same_as<int>;
      { cuda.deallocate_pinned(to) } noexcept;
      { cuda.create_stream(new_stream) } noexcept -> std::same_as<int>;
      { cuda.destroy_stream(in) } noexcept;
      { cuda.query_stream(in) } noexcept -> std::same_as<int>;
      { cuda.create_event(new_event) } noexcept -> std::same_as<int>;
      { cuda.destroy_event(when) } noexcept;
      { cuda.record(when, in) } noexcept -> std::same_as<int>;
      { cuda.query_event(when) } noexcept -> std::same_as<int>;
      { cuda.wait_event(in, when) } noexcept -> std::same_as<int>;
      { cuda.copy_to_device(to, from, bytes, in) } noexcept -> std::same_as<int>;
      { cuda.copy_rows_to_device(to, from, bytes, bytes, bytes, in) } noexcept -> std::same_as<int>;
      { cuda.copy_to_host(to, from, bytes, in) } noexcept -> std::same_as<int>;
      { cuda.copy_on_device(to, from, bytes, in) } noexcept -> std::same_as<int>;
      { cuda.copy_rows_on_device(to, bytes, from, bytes, bytes, bytes, in) } noexcept -> std::same_as<int>;
      { cuda.zero(to, bytes, in) } noexcept -> std::same_as<int>;
      { cuda.on_device(from) } noexcept -> std::same_as<bool>;
      { cuda.text_of(0) } noexcept -> std::convertible_to<std::string_view>;
    };

/// Runtimes with a kernel of their own: `convert(from, source, to, destination, count, in)` is `convert_floats` on the device, in
/// its turn on the stream. The ranges do not overlap, but for a single element, which is read before it is written.
template <class R>
concept ConvertingCudaApi = CudaApi<R> && requires(R& cuda, void* to, const void* from, dtype type, std::uint64_t count,
                                                   typename R::stream in) {
  { cuda.convert(type, from, type, to, count, in) } noexcept -> std::same_as<int>;
};

namespace detail {

/// \throws error{device} unless `code` is success. `what` is what was to be done, after "cannot".
template <CudaApi Cuda>
void require_cuda(Cuda& cuda, int code, std::string_view what) {
  if (code != Cuda::success) {
    throw error(errc::device, "CUDA", concat("cannot ", what, ": ", cuda.text_of(code)), {.native_code = code});
  }
}

/// The calling thread's. \throws error{device}
template <CudaApi Cuda>
[[nodiscard]] int current_cuda_device(Cuda cuda) {
  int device = 0;
  require_cuda(cuda, cuda.device(&device), "tell the current device");
  return device;
}

/// Makes a device the current one, and the one before it again.
template <CudaApi Cuda>
class cuda_device_guard {
 public:
  /// \throws error{device}
  cuda_device_guard(Cuda& cuda, int device) : cuda_(cuda), before_(current_cuda_device(cuda)) {
    if (before_ != device) {
      require_cuda(cuda_, cuda_.set_device(device), concat("use device ", device));
    }
    changed_ = before_ != device;
  }
  ~cuda_device_guard() {
    if (changed_) {
      static_cast<void>(cuda_.set_device(before_));  // it was the current one
    }
  }
  cuda_device_guard(const cuda_device_guard&) = delete;
  cuda_device_guard& operator=(const cuda_device_guard&) = delete;

 private:
  Cuda& cuda_;
  int before_;
  bool changed_ = false;
};

}  // namespace detail

}  // namespace fsdpinit
