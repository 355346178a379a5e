#pragma once

#include "support/fake_cuda_device.hpp"
#include <fsdpinit/core/dtype.hpp>
#include <fsdpinit/testing/call_counter.hpp>

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

namespace fsdpinit::testing {

/// A CudaApi without a GPU, for tests of what works on one. It is as hard to please as a device may be:
///
/// - Addresses of device memory are reserved without access, so that host code which touches them dies.
/// - What is started on a stream is not done before a query says so, and streams run ahead of each other only where events
///   make them: too early a use of a buffer, or an event that is missing, shows in the bytes.
/// - Every call can be made to fail, through `calls`.
/// - `faults()` tells of copies outside of memory or of bytes that nobody wrote, of memory that was given back twice, or while
///   a copy still uses it, and of handles that are not there any more; `left()` of what was not given back.
///
/// Copies share the device. Safe to use from several threads.
class fake_cuda {
 public:
  using stream = fake_cuda_device::stream_record*;
  using event = fake_cuda_device::event_record*;
  static constexpr int success = 0;
  static constexpr int out_of_memory = 2;
  static constexpr int not_ready = 600;
  static constexpr int injected = 999;

  /// \param bytes that the device has.
  explicit fake_cuda(std::uint64_t bytes = ~std::uint64_t{0}, int devices = 1)
      : all_(std::make_shared<shared>(bytes, devices)) {}

  /// Calls that may fail.
  call_counter calls;

  /// What has been done wrong.
  [[nodiscard]] std::vector<std::string> faults() const {
    const std::lock_guard lock(all_->mutex);
    return all_->device.faults();
  }
  /// Allocations, streams and events that are still there.
  [[nodiscard]] std::size_t left() const {
    const std::lock_guard lock(all_->mutex);
    return all_->device.left();
  }

  /// Pieces of work that were started and are not done.
  [[nodiscard]] std::size_t pending() const {
    const std::lock_guard lock(all_->mutex);
    return all_->device.pending();
  }

  /// Copies that were ever started, whatever their ends.
  [[nodiscard]] std::uint64_t copies() const {
    const std::lock_guard lock(all_->mutex);
    return all_->device.copies();
  }

  int device(int* out) noexcept {
    return counted([&] {
      *out = all_->current[std::this_thread::get_id()];
      return success;
    });
  }
  int set_device(int device) noexcept {
    return counted([&] {
      if (device < 0 || device >= all_->devices) {
        return invalid_device;
      }
      all_->current[std::this_thread::get_id()] = device;
      return success;
    });
  }

  int allocate(void** out, std::uint64_t bytes) noexcept { return allocated(place::device, out, bytes); }
  void deallocate(void* address) noexcept { deallocated(place::device, address); }
  int allocate_pinned(void** out, std::uint64_t bytes) noexcept { return allocated(place::pinned, out, bytes); }
  void deallocate_pinned(void* address) noexcept { deallocated(place::pinned, address); }

  int create_stream(stream* out) noexcept {
    return counted([&] {
      *out = all_->device.make_stream();
      return success;
    });
  }
  void destroy_stream(stream in) noexcept {
    const std::lock_guard lock(all_->mutex);
    if (all_->device.is_there(in)) {
      all_->device.finish(*in);
      in->there = false;
    }
  }
  int query_stream(stream in) noexcept {
    return with([&] { return code_of(all_->device.query(*in)); }, in);
  }

  int create_event(event* out) noexcept {
    return counted([&] {
      *out = all_->device.make_event();
      return success;
    });
  }
  void destroy_event(event when) noexcept {
    const std::lock_guard lock(all_->mutex);
    if (all_->device.is_there(when)) {
      when->there = false;
    }
  }
  int record(event when, stream in) noexcept {
    return started([&] { all_->device.record(*when, *in); }, when, in);
  }
  int query_event(event when) noexcept {
    return with([&] { return code_of(all_->device.query(*when)); }, when);
  }
  int wait_event(stream in, event when) noexcept {
    return started([&] { all_->device.hold(*in, *when); }, when, in);
  }

  int copy_to_device(void* to, const void* from, std::uint64_t bytes, stream in) noexcept {
    return copy_rows_to_device(to, from, bytes, bytes, 1, in);
  }
  int copy_rows_to_device(void* to, const void* from, std::uint64_t stride, std::uint64_t row, std::uint64_t rows,
                          stream in) noexcept {
    return started([&] { all_->device.copy_to_device(*in, to, from, stride, row, rows); }, in);
  }
  int copy_to_host(void* to, const void* from, std::uint64_t bytes, stream in) noexcept {
    return started([&] { all_->device.copy_to_host(*in, to, from, bytes); }, in);
  }
  int copy_on_device(void* to, const void* from, std::uint64_t bytes, stream in) noexcept {
    return copy_rows_on_device(to, bytes, from, bytes, bytes, 1, in);
  }
  int copy_rows_on_device(void* to, std::uint64_t to_stride, const void* from, std::uint64_t from_stride,
                          std::uint64_t row, std::uint64_t rows, stream in) noexcept {
    return started([&] { all_->device.copy_on_device(*in, to, to_stride, from, from_stride, row, rows); }, in);
  }
  int zero(void* to, std::uint64_t bytes, stream in) noexcept {
    return started([&] { all_->device.zero(*in, to, bytes); }, in);
  }

  bool on_device(const void* address) noexcept {
    const std::lock_guard lock(all_->mutex);
    return all_->device.is_on_device(address);
  }

  /// For doubles of libraries that work on streams: `run(device)` as `fake_cuda_device::work` has it. Never fails by `calls`.
  template <class Run>
  void start(stream in, Run run, const std::vector<fake_cuda_device::range>& uses) {
    const std::lock_guard lock(all_->mutex);
    if (all_->device.is_there(in)) {
      fake_cuda_device::start(*in, {.run = [run, device = &all_->device] { return run(*device); }, .uses = uses});
    }
  }

  std::string_view text_of(int code) noexcept {
    switch (code) {
      case success:
        return "no error";
      case out_of_memory:
        return "out of memory";
      case invalid_device:
        return "invalid device ordinal";
      case invalid_handle:
        return "invalid resource handle";
      case injected:
        return "injected failure";
      default:
        return "device failure";
    }
  }

 protected:
  /// Something that the device does in its turn: `fn(device)` starts it.
  template <class Fn>
  int started_on(Fn&& fn, stream in) noexcept {
    return started([&] { fn(all_->device); }, in);
  }

 private:
  using place = fake_cuda_device::place;
  static constexpr int invalid_device = 101;
  static constexpr int invalid_handle = 400;
  static constexpr int failed = 719;

  struct shared {
    shared(std::uint64_t bytes, int count) : device(bytes), devices(count) {}
    std::mutex mutex;
    fake_cuda_device device;
    std::map<std::thread::id, int> current;
    int devices;
  };

  static int code_of(fake_cuda_device::state state) {
    switch (state) {
      case fake_cuda_device::state::done:
        return success;
      case fake_cuda_device::state::under_way:
        return not_ready;
      default:
        return failed;
    }
  }
  template <class Fn>
  int counted(Fn&& fn) noexcept {
    const std::lock_guard lock(all_->mutex);
    return calls.fails_now() ? injected : fn();
  }
  /// A call that needs the handles.
  template <class Fn, class... Handles>
  int with(Fn&& fn, Handles... handles) noexcept {
    return counted([&] { return (all_->device.is_there(handles) && ...) ? fn() : invalid_handle; });
  }
  template <class Fn, class... Handles>
  int started(Fn&& fn, Handles... handles) noexcept {
    return with(
        [&] {
          fn();
          return success;
        },
        handles...);
  }
  int allocated(place where, void** out, std::uint64_t bytes) noexcept {
    return counted([&] {
      void* const address = all_->device.allocate(where, bytes);
      if (address == nullptr) {
        return out_of_memory;
      }
      *out = address;
      return success;
    });
  }
  void deallocated(place where, void* address) noexcept {
    const std::lock_guard lock(all_->mutex);
    all_->device.deallocate(where, address);
  }

  std::shared_ptr<shared> all_;
};

/// The same with a kernel: a ConvertingCudaApi.
class fake_cuda_with_kernels : public fake_cuda {
 public:
  using fake_cuda::fake_cuda;

  int convert(dtype from, const void* source, dtype to, void* destination, std::uint64_t count, stream in) noexcept {
    return started_on([&](fake_cuda_device& device) { device.convert(*in, from, source, to, destination, count); }, in);
  }
};

}  // namespace fsdpinit::testing
